"""RegNetY: residual networks whose widths follow one line, with grouped convolutions and squeeze-and-excitation.

Radosavovic et al. 2020, "Designing Network Design Spaces", https://arxiv.org/abs/2003.13678. Upstream: facebookresearch/pycls,
pycls/models/{anynet,regnet,blocks}.py; more namings of the weights: timm/models/regnet.py, torchvision/models/regnet.py, and
Hugging Face's transformers, models/regnet/modeling_regnet.py.

    model = builders.create("regnety", w0=56, wa=38.84, wm=2.4, depth=14, group_size=16)
    builders.restore(model, "RegNetY-800MF_dds_8gpu.pyth")
"""

import math

import keras
import tensorflow as tf

from builders import networks, weights
from builders.layers import (
    DropPath,
    GlobalAverage,
    Linear,
    activate,
    initializer,
    last_outputs,
    register,
    spatial,
    statistics_dtype,
    tf_padding,
)
from builders.weights import Format, Kind, table

STEM_WIDTH = 32
QUANTUM = 8  # every width of a block is a multiple of it, before it becomes one of the group width
SQUEEZE_RATIO = 0.25  # of a block's input width
EPSILON, MOMENTUM = 1e-5, 0.9  # of every batch normalisation; PyTorch calls this momentum 0.1
# N(0, 2 / (rows * columns * filters)), whatever the number of groups; N(0, 0.01^2) for the classifier.
CONVOLUTION = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"},
}
CLASSIFIER = {"class_name": "RandomNormal", "config": {"stddev": 0.01}}


def network(
    images,
    *,
    group_size,
    num_classes,
    include_top,
    pooling,
    drop_path_rate,
    w0=None,
    wa=None,
    wm=None,
    depth=None,
    rounding="pycls",
    widths=None,
    depths=None,
):
    """Build a RegNetY on normalised `images`; return its output (see builders/__init__.py:create).

    Images are RGB, whatever order the checkpoint's format has. Without the top, the output is the last stage's map `[batch,
    height/32, width/32, width of the stage]`; odd sizes round up at each of the five halvings, as upstream.

    Args:
      group_size: channels of one group of the 3x3 convolutions.
      w0, wa, wm: the line of widths (section 3.3 of the paper): block i wants w0 + wa * i channels, quantised to powers of wm.
      depth: blocks in all.
      rounding: whose rule makes widths multiples of the group size, "pycls" (timm's, too) or "torchvision"; see `stages`.
      widths, depths: channels and blocks of the four stages in place of the line, as transformers' configurations have them.
    """
    line = {"w0": w0, "wa": wa, "wm": wm, "depth": depth}
    found = _stages(line, group_size, rounding, widths, depths)
    total = sum(blocks for _, blocks, _ in found)
    x = NormalisedConvolution(STEM_WIDTH, 3, strides=2, activation="relu", name="stem")(images)
    position = 0
    for stage, (width, blocks, group) in enumerate(found, 1):
        for block in range(1, blocks + 1):
            drop = DropPath(drop_path_rate, position / max(1, total - 1), name=f"s{stage}.b{block}.drop_path")
            x = _block(x, width, group, 2 if block == 1 else 1, drop, f"s{stage}.b{block}")
            position += 1
    if include_top or pooling:
        x = GlobalAverage(name="features", dtype="float32")(x)
    if include_top:
        x = Linear(num_classes, stddev=CLASSIFIER, name="head", dtype="float32")(x)
    return x


def stages(
    w0: int, wa: float, wm: float, depth: int, group_size: int, rounding: str = "pycls"
) -> list[tuple[int, int, int]]:
    """Return the stages of the network as `[(width, blocks, group width)]`.

    Source: section 3.3 of the paper; pycls, regnet.py:generate_regnet.

    Both rules make widths the nearest multiple of the group width. Of a tie, "pycls" takes the even multiple, "torchvision" the
    larger one, which is also never below 90 % of the wanted width. They differ at 800MF, 4GF and 8GF.

    >>> stages(56, 38.84, 2.4, 14, 16)
    [(64, 1, 16), (128, 3, 16), (320, 8, 16), (768, 2, 16)]
    >>> stages(56, 38.84, 2.4, 14, 16, "torchvision")
    [(64, 1, 16), (144, 3, 16), (320, 8, 16), (784, 2, 16)]

    Raises ValueError for an unknown rule, and for a line that does not give four stages.
    """
    if rounding not in ("pycls", "torchvision"):
        raise ValueError(f"unknown rounding {rounding!r}. Fix: use pycls or torchvision.")
    networks.check_whole(w0=w0, depth=depth, group_size=group_size)
    if not (wa > 0 and wm > 1):
        raise ValueError(f"wa={wa} and wm={wm} make no line that rises. Fix: use wa above 0 and wm above 1.")
    powers = [round(math.log((w0 + wa * i) / w0) / math.log(wm)) for i in range(depth)]
    wanted = [round(w0 * wm**power / QUANTUM) * QUANTUM for power in powers]
    found = []
    for width in sorted(set(wanted)):
        group = min(group_size, width)
        if rounding == "pycls":
            adjusted = max(group, round(width / group) * group)
        else:
            adjusted = max(group, int(width + group / 2) // group * group)
            adjusted += group if adjusted < 0.9 * width else 0
        found.append((adjusted, wanted.count(width), group))
    if len(found) != 4:
        raise ValueError(
            f"w0={w0}, wa={wa}, wm={wm}, depth={depth} make {len(found)} stages, RegNetY has 4. Fix: correct the architecture."
        )
    return found


def _stages(line, group_size, rounding, widths, depths):
    """Return the stages as `stages` does: those of the `line`, or those that are given; both must agree. Raises ValueError."""
    unsaid = [name for name, value in line.items() if value is None]
    if (widths is None) != (depths is None) or (unsaid and (widths is None or len(unsaid) < len(line))):
        raise ValueError(
            f"{', '.join(unsaid) or 'widths or depths'} missing. Fix: pass w0, wa, wm and depth, or widths and depths."
        )
    given = None
    if widths is not None:
        networks.check_whole(widths=widths, depths=depths, group_size=group_size)
        if not len(widths) == len(depths) == 4:
            raise ValueError(
                f"widths={widths!r} and depths={depths!r} are not four stages. Fix: give both for each stage."
            )
        given = [(width, blocks, min(group_size, width)) for width, blocks in zip(widths, depths, strict=True)]
        for width, _, group in given:
            if width % group:
                raise ValueError(
                    f"groups of {group} channels do not divide a width of {width}. Fix: correct group_size."
                )
    found = given if unsaid else stages(**line, group_size=group_size, rounding=rounding)
    if given not in (None, found):
        raise ValueError(
            f"widths={widths!r} and depths={depths!r} are not on the line, whose stages are {found}. Fix: pass one of both."
        )
    return found


def _block(x, width, group, strides, drop, name):
    """Build a block: normalised convolutions 1x1, grouped 3x3 with squeeze-and-excitation, 1x1; a projection if shapes change."""
    inputs = x.shape[-1]
    shortcut = x
    if strides > 1 or inputs != width:
        shortcut = NormalisedConvolution(width, 1, strides=strides, name=f"{name}.proj")(shortcut)
    x = NormalisedConvolution(width, 1, activation="relu", name=f"{name}.a")(x)
    x = NormalisedConvolution(width, 3, strides=strides, groups=width // group, activation="relu", name=f"{name}.b")(x)
    squeezed = GlobalAverage(name=f"{name}.se.pool")(x)
    units = round(SQUEEZE_RATIO * inputs)
    squeezed = Linear(units, activation="relu", stddev=CONVOLUTION, name=f"{name}.se.reduce")(squeezed)
    excitation = Linear(width, stddev=CONVOLUTION, name=f"{name}.se.expand")(squeezed)
    x = Excite(name=f"{name}.se.scale")([x, excitation])
    x = NormalisedConvolution(width, 1, name=f"{name}.c")(x)
    x = keras.layers.Add(name=f"{name}.add")([shortcut, drop(x)])
    return Rectify(name=f"{name}.relu")(x)


@register
class NormalisedConvolution(keras.layers.Layer):
    """Convolution without bias, batch normalisation, optional `activation` ("relu"): `[b, h, w, inputs] -> [b, h', w', filters]`.

    `size // 2` zeros on all four sides, also at stride 2, where TensorFlow's "same" would pad below and right only. Training takes
    the batch's mean and variance and moves the running ones by 1 - `momentum` (the variance as the unbiased estimate, as PyTorch
    does); inference, and a frozen layer (`trainable = False`), folds the running ones into kernel and bias.
    Variables: kernel `[size, size, inputs / groups, filters]`, gamma, beta, moving_mean, moving_variance `[filters]`, all float32.
    """

    def __init__(
        self,
        filters,
        size,
        *,
        strides=1,
        groups=1,
        activation=None,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        stddev=CONVOLUTION,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.size, self.strides, self.groups = filters, size, strides, groups
        self.activation, self.momentum, self.epsilon, self.stddev = activation, momentum, epsilon, stddev

    def build(self, input_shape):
        shape = (self.size, self.size, input_shape[-1] // self.groups, self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer(self.stddev))

        def statistic(name, value, trainable):  # float32 also where the layer computes in half precision
            weight = {"name": name, "shape": (self.filters,), "initializer": initializer(value)}
            return self.add_weight(**weight, trainable=trainable, autocast=False, dtype="float32")

        self.gamma = statistic("gamma", "ones", True)
        self.beta = statistic("beta", "zeros", True)
        self.moving_mean = statistic("moving_mean", "zeros", False)
        self.moving_variance = statistic("moving_variance", "ones", False)

    def call(self, inputs, training=False):
        gamma, beta, mean, variance = (
            tf.cast(v, statistics_dtype(inputs))
            for v in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        kernel = tf.convert_to_tensor(self.kernel)
        if not (training and self.trainable):
            # The normalisation goes into kernel and bias: one pass over the kernel, none over the map.
            scale = gamma * tf.math.rsqrt(variance + self.epsilon)
            outputs = self.convolve(inputs, kernel * tf.cast(scale, kernel.dtype))
            bias = tf.cast(beta - mean * scale, outputs.dtype)
            # BiasAdd would be fused into the convolution even where that kernel knows no groups (without oneDNN, as on a Mac), and
            # fail; a plain addition is fused only where it does.
            outputs = outputs + bias if self.groups > 1 else tf.nn.bias_add(outputs, bias)
            return activate(outputs, self.activation)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=self.convolve(inputs, kernel),
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            exponential_avg_factor=1 - self.momentum,
            is_training=True,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return activate(outputs, self.activation)

    def convolve(self, inputs, kernel):
        if self.groups == 1:
            return tf.nn.conv2d(inputs, kernel, self.strides, tf_padding(self.size // 2))
        return grouped_convolution(inputs, kernel, self.strides)

    def compute_output_shape(self, input_shape):
        rows, columns = (spatial(n, self.size, self.strides, self.size // 2) for n in input_shape[1:3])
        return (input_shape[0], rows, columns, self.filters)

    def get_config(self):
        keys = ("filters", "size", "strides", "groups", "activation", "momentum", "epsilon", "stddev")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


def grouped_convolution(inputs, kernel, strides):
    """Convolve each group of channels of `[b, h, w, groups * c]` with its part of the `kernel` `[size, size, c, groups * d]`.

    `size // 2` zeros on all sides. TensorFlow has a fast kernel for this on a CPU, but none for its gradient there.
    """

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            return _grouped_gradients(inputs, kernel, upstream, strides)

        return tf.nn.conv2d(inputs, kernel, strides, tf_padding(kernel.shape[0] // 2)), gradient

    return convolve(inputs, kernel)


@tf.function(autograph=False)  # a function, so that a SavedModel has it once for each shape
def _grouped_gradients(inputs, kernel, upstream, strides):
    """Return the gradients of `grouped_convolution` for `inputs` and `kernel`."""
    size, _, channels, filters = kernel.shape
    groups = inputs.shape[-1] // channels
    # For the inputs: a grouped convolution again, of the upstream gradient (with zeros between its rows and columns where the
    # stride left some out) with the kernel turned by 180 degrees, its inputs and filters exchanged.
    spread = upstream
    if strides > 1:
        batch, height, width, _ = tf.unstack(tf.shape(upstream))
        spread = tf.reshape(upstream, [batch, height, 1, width, 1, filters])
        spread = tf.pad(spread, [[0, 0], [0, 0], [0, strides - 1], [0, 0], [0, strides - 1], [0, 0]])
        spread = tf.reshape(spread, [batch, height * strides, width * strides, filters])
    turned = tf.reshape(kernel[::-1, ::-1], [size, size, channels, groups, filters // groups])
    turned = tf.reshape(tf.transpose(turned, [0, 1, 4, 3, 2]), [size, size, filters // groups, groups * channels])
    for_inputs = tf.nn.conv2d(spread, turned, 1, tf_padding(size // 2))
    if strides > 1:
        for_inputs = for_inputs[:, : tf.shape(inputs)[1], : tf.shape(inputs)[2]]
    # For the kernel: group by group.
    pairs = zip(tf.split(inputs, groups, -1), tf.split(upstream, groups, -1), strict=True)
    shape = [size, size, channels, filters // groups]
    explicit = [n for pair in tf_padding(size // 2) for n in pair]
    for_kernel = [
        tf.raw_ops.Conv2DBackpropFilter(
            input=part,
            filter_sizes=shape,
            out_backprop=back,
            strides=[1, strides, strides, 1],
            padding="EXPLICIT",
            explicit_paddings=explicit,
        )
        for part, back in pairs
    ]
    return for_inputs, tf.concat(for_kernel, -1)


@register
class Excite(keras.layers.Layer):
    """Multiply the channels of a map `[batch, h, w, channels]` by the sigmoid of `[batch, channels]` (Hu et al. 2018)."""

    def call(self, inputs):
        images, excitation = inputs
        return images * tf.sigmoid(excitation)[:, None, None, :]

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@register
class Rectify(keras.layers.Layer):
    """Rectified linear unit: negative values become 0."""

    def call(self, inputs):
        return tf.nn.relu(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


def _normalised(convolution, norm, planes=slice(None)):
    """Return the kind of a `NormalisedConvolution` whose two upstream layers have these names; `planes` reorders input channels."""
    return {
        "kernel": Kind(
            (f"{convolution}.weight",),
            lambda arrays, shape: arrays[0][:, planes].transpose(2, 3, 1, 0),
            lambda array: [array.transpose(3, 2, 0, 1)[:, planes]],
        )
    } | {
        variable: Kind((f"{norm}.{theirs}",), lambda arrays, shape: arrays[0], lambda array: [array])
        for variable, theirs in (
            ("gamma", "weight"),
            ("beta", "bias"),
            ("moving_mean", "running_mean"),
            ("moving_variance", "running_var"),
        )
    }


KINDS = weights.KINDS | {
    "normalised": _normalised(".conv", ".bn"),
    "pycls_stem": _normalised(".conv", ".bn", slice(None, None, -1)),  # its images are blue, green, red
    "pycls_proj": _normalised(".proj", ".bn"),
    "pycls": _normalised("", "_bn"),
    "torchvision": _normalised(".0", ".1"),
    "transformers": _normalised(".convolution", ".normalization"),
}


def maps(model):
    """Return the map of each stage by its stride, `stride_4` to `stride_32`, after the last block's ReLU."""
    return last_outputs(model, r"s(\d)\.b\d+\.relu", lambda stage: f"stride_{2 ** (stage + 1)}")


# Our layer, its kind, and the layer's name in each format; {s} and {b} count stages and blocks from 1.
WEIGHTS = table(
    """
    ours                kind       timm                 pycls                 torchvision    transformers
    stem                normalised stem                 stem                  stem           regnet.embedder.embedder
    s{s}.b{b}.proj      normalised s{s}.b{b}.downsample s{s}.b{b}             TRUNK.proj     HF.shortcut
    s{s}.b{b}.a         normalised s{s}.b{b}.conv1      s{s}.b{b}.f.a         TRUNK.f.a      HF.layer.0
    s{s}.b{b}.b         normalised s{s}.b{b}.conv2      s{s}.b{b}.f.b         TRUNK.f.b      HF.layer.1
    s{s}.b{b}.se.reduce pointwise  s{s}.b{b}.se.fc1     s{s}.b{b}.f.se.f_ex.0 TRUNK.f.se.fc1 HF.layer.2.attention.0
    s{s}.b{b}.se.expand pointwise  s{s}.b{b}.se.fc2     s{s}.b{b}.f.se.f_ex.2 TRUNK.f.se.fc2 HF.layer.2.attention.2
    s{s}.b{b}.c         normalised s{s}.b{b}.conv3      s{s}.b{b}.f.c         TRUNK.f.c      HF.layer.3
    head                linear     head.fc              head.fc               fc             classifier.1
    """.replace("HF", "regnet.encoder.stages.{s-1}.layers.{b-1}").replace(
        "TRUNK", "trunk_output.block{s}.block{s}-{b-1}"
    )
)
COUNTERS = (r".*\.num_batches_tracked",)  # of PyTorch's batch normalisation, which does not use them at this momentum
FORMATS = {
    "pycls": Format(
        "pycls",
        kinds={"normalised": "pycls", "stem": "pycls_stem", "s{s}.b{b}.proj": "pycls_proj"},
        ignored=COUNTERS,
    ),
    "timm": Format("timm", ignored=COUNTERS),
    "torchvision": Format("torchvision", kinds={"normalised": "torchvision"}, ignored=COUNTERS),
    "transformers": Format("transformers", kinds={"normalised": "transformers"}, ignored=COUNTERS),
}
TOP = ("head",)  # what a model without the top leaves in the checkpoint
