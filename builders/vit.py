"""ViT and ResNet-ViT hybrids: Transformers on image patches, or on the maps of a small ResNet.

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929; the checkpoints: Steiner et al. 2022,
"How to train your ViT?", https://arxiv.org/abs/2106.10270 (AugReg). Upstream: google-research/vision_transformer,
vit_jax/models_vit.py and models_resnet.py. timm and Hugging Face's transformers have the same networks with slightly other
definitions (`DEFINITIONS`).

    model = builders.create("vit", patch=16, hidden=384, mlp=1536, heads=6, layers=12)
    builders.restore(model, "S_16-i21k-...-res_224.npz")
"""

import math
import re

import keras
import numpy as np
import tensorflow as tf

from builders import networks, weights
from builders.layers import (
    Convolution,
    DropPath,
    LayerNormalization,
    Linear,
    activate,
    flatten_rows,
    initializer,
    last_outputs,
    register,
    statistics_dtype,
)
from builders.weights import Format, Kind, Misfit, table

GROUPS = 32  # of every group normalisation
INPUT_SHAPE = (224, 224, 3)  # by default: a model is made for one size
POOLING = ("token", "avg")  # two names of one feature vector: its own, and the one that every family has
# What differs: the GELU, the epsilon of every layer normalisation, and of hybrids the epsilon of group normalisation, and by what
# a kernel of variance v is divided to standardise it.
DEFINITIONS = {
    "jax": {
        "gelu": "gelu_tanh",
        "layer_epsilon": 1e-6,
        "epsilon": 1e-6,
        "scale": lambda v: 1 / (tf.sqrt(v) + 1e-5),
    },
    "timm": {"gelu": "gelu", "layer_epsilon": 1e-6, "epsilon": 1e-5, "scale": lambda v: tf.math.rsqrt(v + 1e-8)},
    "transformers": {"gelu": "gelu", "layer_epsilon": 1e-12},
}


def network(
    images,
    *,
    patch,
    hidden,
    mlp,
    heads,
    layers,
    num_classes,
    include_top,
    pooling,
    drop_path_rate,
    resnet=None,
    resnet_width_factor=1,
    stem_width=None,
    definition="jax",
):
    """Build a ViT or a hybrid on normalised `images` of one size, to which its position embedding belongs; return its output.

    Without the top, that is the last block's map `[batch, rows, columns, hidden]`, without the class token; with a `pooling`,
    "token" or "avg", the class token, normalised, that the classifier's last layer is fed, `[batch, hidden]`. The rest is said
    in builders/__init__.py:create.

    Args:
      patch: side of a patch, in pixels, or for a hybrid in positions of the ResNet's map.
      hidden: width of the Transformer.
      mlp: width inside its MLPs.
      heads: attention heads; they divide `hidden`.
      layers: Transformer blocks.
      resnet: None for patches of pixels; for a hybrid the units of each stage, () for the stem alone.
      resnet_width_factor: of the channels of the ResNet, which begins with 64.
      stem_width: channels of its stem, if they are not those.
      definition: "jax" for AugReg `.npz` checkpoints, "timm" for timm's, "transformers" for Hugging Face's, which has no hybrids;
        they are not the same function.
    """
    networks.check_whole(patch=patch, hidden=hidden, mlp=mlp, heads=heads, layers=layers)
    if resnet:
        networks.check_whole(resnet=resnet)
    if definition not in DEFINITIONS:
        raise ValueError(
            f"definition={definition!r} is unknown. "
            "Fix: use 'jax' for .npz checkpoints, 'timm' for timm's or 'transformers' for Hugging Face's."
        )
    if resnet is not None and "scale" not in DEFINITIONS[definition]:
        raise ValueError(f"definition={definition!r} has no hybrids. Fix: use 'jax' or 'timm', or leave resnet out.")
    if hidden % heads:
        raise ValueError(f"{heads} heads do not divide a width of {hidden}. Fix: choose heads that do.")
    if None in images.shape[1:3]:
        raise ValueError(
            f"a ViT is made for one image size, not {images.shape[1:3]}. Fix: pass input_shape=(224, 224, 3)."
        )
    # Each of the ResNet's reductions rounds up: its stem is one of 4, each stage after the first one of 2.
    reduction = 1 if resnet is None else 4 * 2 ** max(0, len(resnet) - 1)
    networks.check_size(images, (patch - 1) * reduction + 1 if resnet is not None else patch)
    x = images
    if resnet is not None:
        width = int(64 * resnet_width_factor)
        x = _resnet(x, resnet, width, stem_width or width, definition)
    x = Convolution(hidden, patch, strides=patch, name="embedding")(x)
    grid = tuple(x.shape[1:3])
    x = keras.layers.Reshape((-1, hidden), name="tokens")(x)
    x = ClassToken(name="cls")(x)
    x = PositionEmbedding(grid, name="position")(x)
    token = include_top or bool(pooling)
    gelu, epsilon = (DEFINITIONS[definition][key] for key in ("gelu", "layer_epsilon"))
    for block in range(layers):
        drop = {"rate": drop_path_rate, "share": block / max(1, layers - 1)}

        def layer(type, name, block=block, **configuration):
            return type(name=f"blocks.{block}.{name}", **configuration)

        # Of the last block, the class token is all that anybody reads: a fourteenth of the work of 12 blocks is not done.
        x = _block(x, layer, hidden, mlp, heads, gelu, epsilon, drop, token and block == layers - 1)
    if token:
        x = TakeToken(name="token")(x)
        x = LayerNormalization(epsilon=epsilon, name="features", dtype="float32")(x)
    else:
        x = TokensToMap(grid, name="map")(x)
    if include_top:
        x = Linear(num_classes, name="head", dtype="float32")(x)
    return x


def arguments(row):
    """Return the arguments of `builders.create` for a row: architecture, size of its images, definition of its format.

    An architecture may say another definition: a configuration of transformers may have timm's epsilon.
    """
    definition = row["format"] if row["format"] in DEFINITIONS else "jax"
    return {"definition": definition} | row["architecture"] | {"input_shape": (row["resolution"],) * 2 + (3,)}


def _block(x, layer, hidden, mlp, heads, gelu, epsilon, drop, token_only):
    """Build a block (figure 1 of the paper): attention and MLP, each normalised before and added after.

    With `token_only`, its output is the class token alone.

    `layer(type, name, **configuration)` makes the layer of the block with that name, or returns the one that exists.
    """
    y = layer(LayerNormalization, "norm1", epsilon=epsilon)(x)
    y = layer(Attention, "attention", heads=heads)(y, token_only=token_only)
    y = layer(DropPath, "drop_path1", **drop)(y)
    if token_only:
        x = layer(TakeToken, "token", keep_axis=True)(x)
    x = layer(keras.layers.Add, "add1")([x, y])
    y = layer(LayerNormalization, "norm2", epsilon=epsilon)(x)
    y = layer(Linear, "mlp.fc1", units=mlp, activation=gelu)(y)
    y = layer(Linear, "mlp.fc2", units=hidden)(y)
    y = layer(DropPath, "drop_path2", **drop)(y)
    return layer(keras.layers.Add, "add2")([x, y])


def _resnet(x, stages, width, stem_width, definition):
    """Build a ResNet V1 with group normalisation, standardised kernels and XLA's "same" padding; its last layer is a ReLU."""

    def conv(x, filters, size, strides, name):
        return StandardizedConvolution(filters, size, strides=strides, definition=definition, name=name)(x)

    def norm(x, name, activation="relu", initial="ones"):
        epsilon = DEFINITIONS[definition]["epsilon"]
        return GroupNormalization(epsilon=epsilon, activation=activation, initial=initial, name=name)(x)

    stem = "backbone.stem" if stages else "backbone"  # timm's two names for it
    x = norm(conv(x, stem_width, 7, 2, f"{stem}.conv"), f"{stem}.norm")
    x = keras.layers.MaxPooling2D(3, 2, "same", data_format="channels_last", name=f"{stem}.pool")(x)
    for stage, depth in enumerate(stages):
        for block in range(depth):
            name = f"backbone.stages.{stage}.blocks.{block}"
            filters, strides = width * 2**stage, 2 if stage and not block else 1
            y = norm(conv(x, filters, 1, 1, f"{name}.conv1"), f"{name}.norm1")
            y = norm(conv(y, filters, 3, strides, f"{name}.conv2"), f"{name}.norm2")
            y = norm(conv(y, 4 * filters, 1, 1, f"{name}.conv3"), f"{name}.norm3", None, "zeros")
            if not block:
                x = norm(conv(x, 4 * filters, 1, strides, f"{name}.downsample.conv"), f"{name}.downsample.norm", None)
            x = keras.layers.Add(name=f"{name}.add")([x, y])
            x = keras.layers.ReLU(name=f"{name}.relu")(x)
    return x


@register
class StandardizedConvolution(Convolution):
    """A convolution whose kernel is brought to mean 0 and variance 1 per output channel (Qiao et al. 2019), no bias, "same".

    The variable is the raw kernel, so that it can be fine-tuned.
    """

    def __init__(self, filters, size, *, definition="jax", padding="same", use_bias=False, **kwargs):
        super().__init__(filters, size, padding=padding, use_bias=use_bias, **kwargs)
        self.definition = definition

    def call(self, inputs):
        kernel = tf.cast(self.kernel, statistics_dtype(inputs))
        rows = tf.reshape(kernel, [-1, self.filters])
        # A product takes the mean twice as fast as a reduction.
        mean = tf.fill([1, rows.shape[0]], tf.constant(1 / rows.shape[0], rows.dtype))
        rows -= tf.matmul(mean, rows)
        rows *= DEFINITIONS[self.definition]["scale"](tf.matmul(mean, tf.square(rows)))
        kernel = tf.cast(tf.reshape(rows, kernel.shape), inputs.dtype)
        return tf.nn.conv2d(inputs, kernel, self.strides, "SAME")

    def get_config(self):
        return {**super().get_config(), "definition": self.definition}


@register
class GroupNormalization(keras.layers.Layer):
    """Normalise each of 32 groups of channels over the whole map `[batch, h, w, channels]`, scale and shift, then "relu" or None.

    Statistics in float32, or in float64 where the layer computes in it.
    """

    def __init__(self, *, epsilon=1e-6, activation=None, initial="ones", **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.activation, self.initial = epsilon, activation, initial

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % GROUPS:
            raise ValueError(
                f"{self.name}: {channels} channels make no {GROUPS} groups. Fix: correct resnet_width_factor."
            )
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer=initializer(self.initial))
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer=initializer("zeros"))

    def call(self, inputs):
        x = tf.cast(inputs, statistics_dtype(inputs))
        rows, columns, channels = x.shape[1:]
        members = [GROUPS, channels // GROUPS]

        def mean_of_groups(values):  # [batch, groups, 1]; pooling is a CPU's fastest mean of a map
            means = tf.nn.avg_pool2d(values, [rows, columns], 1, "VALID")
            return tf.reduce_mean(tf.reshape(means, [-1, *members]), -1, keepdims=True)

        mean, square = mean_of_groups(x), mean_of_groups(tf.square(x))
        variance = tf.maximum(square - tf.square(mean), 0.0)
        scale = tf.math.rsqrt(variance + self.epsilon) * tf.reshape(tf.cast(self.gamma, x.dtype), members)
        shift = tf.reshape(tf.cast(self.beta, x.dtype), members) - mean * scale
        x = x * tf.reshape(scale, [-1, 1, 1, channels]) + tf.reshape(shift, [-1, 1, 1, channels])
        return activate(tf.cast(x, inputs.dtype), self.activation)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        keys = ("epsilon", "activation", "initial")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


@register
class Attention(keras.layers.Layer):
    """Multi-head self-attention `[batch, tokens, hidden] -> [batch, tokens, hidden]`; the softmax in float32 or float64.

    With `token_only=True` only the first token asks, and the answer is `[batch, 1, hidden]`.
    Queries, keys and values come from one product: `qkv_kernel` is `[hidden, 3, heads, hidden / heads]`.
    """

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shape):
        hidden = input_shape[-1]
        shape = (3, self.heads, hidden // self.heads)
        self.qkv_kernel = self.add_weight(name="qkv_kernel", shape=(hidden, *shape), initializer=initializer(0.02))
        self.qkv_bias = self.add_weight(name="qkv_bias", shape=shape, initializer=initializer("zeros"))
        self.out_kernel = self.add_weight(name="out_kernel", shape=(*shape[1:], hidden), initializer=initializer(0.02))
        self.out_bias = self.add_weight(name="out_bias", shape=(hidden,), initializer=initializer("zeros"))

    def call(self, inputs, token_only=False):
        tokens, hidden = inputs.shape[1:]
        width = hidden // self.heads
        rows = self._project(flatten_rows(inputs), self.qkv_kernel, self.qkv_bias, 3 * hidden)
        # One transposition, heads first: then the three parts lie one after the other, and taking them apart copies nothing.
        parts = tf.transpose(tf.reshape(rows, [-1, tokens, 3 * self.heads, width]), [2, 0, 1, 3])
        queries, keys, values = tf.split(parts, 3)
        if token_only:
            queries = queries[:, :, :1]
        scores = tf.matmul(queries * width**-0.5, keys, transpose_b=True)
        shares = tf.cast(tf.nn.softmax(tf.cast(scores, statistics_dtype(scores))), inputs.dtype)
        mixed = tf.transpose(tf.matmul(shares, values), [1, 2, 0, 3])
        rows = self._project(tf.reshape(mixed, [-1, hidden]), self.out_kernel, self.out_bias, hidden)
        return tf.reshape(rows, [-1, 1 if token_only else tokens, hidden])

    def _project(self, rows, kernel, bias, units):
        kernel = tf.reshape(tf.convert_to_tensor(kernel), [-1, units])
        return tf.nn.bias_add(tf.matmul(rows, kernel), tf.reshape(tf.convert_to_tensor(bias), [units]))

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


@register
class ClassToken(keras.layers.Layer):
    """Put a learnt token before the others: `[batch, n, hidden] -> [batch, 1 + n, hidden]`."""

    def build(self, input_shape):
        self.token = self.add_weight(name="token", shape=(1, 1, input_shape[-1]), initializer=initializer("zeros"))

    def call(self, inputs):
        shape = tf.stack([tf.shape(inputs)[0], 1, inputs.shape[-1]])
        return tf.concat([tf.broadcast_to(tf.convert_to_tensor(self.token), shape), inputs], 1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] + 1, input_shape[2])


# The two layers below could be slices of Keras tensors, but Keras cannot load those from an `.h5` file.


@register
class TakeToken(keras.layers.Layer):
    """Take the class token, the first of `[batch, tokens, hidden]`: `[batch, hidden]`, or `[batch, 1, hidden]` with `keep_axis`."""

    def __init__(self, *, keep_axis=False, **kwargs):
        super().__init__(**kwargs)
        self.keep_axis = keep_axis

    def call(self, inputs):
        return inputs[:, :1] if self.keep_axis else inputs[:, 0]

    def get_config(self):
        return {**super().get_config(), "keep_axis": self.keep_axis}


@register
class TokensToMap(keras.layers.Layer):
    """Put the tokens behind the class token into the rows and columns of a `grid`: `[batch, rows, columns, hidden]`."""

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)

    def call(self, inputs):
        return tf.reshape(inputs[:, 1:], [-1, *self.grid, inputs.shape[-1]])

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


@register
class PositionEmbedding(keras.layers.Layer):
    """Add a learnt vector to each position: row 0 for the class token, then the `grid` (rows, columns) row by row."""

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)

    def build(self, input_shape):
        self.embedding = self.add_weight(name="embedding", shape=(1, *input_shape[1:]), initializer=initializer(0.02))

    def call(self, inputs):
        return inputs + tf.convert_to_tensor(self.embedding)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


def _linear(old, new):
    """Return the weights `[new, old]` of scipy.ndimage.zoom(order=1), which vit_jax resizes with: the ends stay."""
    return np.maximum(0, 1 - np.abs(np.linspace(0, old - 1, new)[:, None] - np.arange(old)))


def _bicubic(old, new):
    """Return the weights `[new, old]` of torch's antialiased bicubic resize, timm's: half-pixel centres, Keys' a = -0.5."""
    scale = old / new
    x = np.abs((np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * scale) / max(scale, 1))
    kernel = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    return kernel / kernel.sum(1, keepdims=True)


def _plain_bicubic(old, new):
    """Return the weights `[new, old]` of torch's plain bicubic resize, transformers': half-pixel centres, a = -0.75."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int)
    found = np.zeros((new, old))
    for tap in range(-1, 3):
        x = np.abs(centres - first - tap)
        near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
        np.add.at(found, (np.arange(new), np.clip(first + tap, 0, old - 1)), np.where(x <= 1, near, far))
    return found


def _grid_of(positions, own):
    """Return the grid (rows, columns) of a file's `positions` for a layer with the grid `own`, or None if nothing says it.

    As both upstreams have it, a square number is a square, and as many positions as the model has are the model's grid. Raises
    Misfit where these two differ, and for a square number that makes a smaller or larger grid of the model's proportions as well.
    """
    side = math.isqrt(positions)
    square = (side, side) if side * side == positions else None
    rows = math.isqrt(positions * own[0] // own[1])
    columns = positions // rows if rows else 0
    alike = (rows, columns) if rows * columns == positions and rows * own[1] == columns * own[0] else None
    if square and alike and square != alike:
        grids = " or of ".join("{}x{}".format(*grid) for grid in (square, alike))
        reason = f"has {positions} positions, which may be a grid of {grids} (rows x columns)"
        raise Misfit(reason, f"say which with grid={square} or grid={alike}")
    return square or (own if alike == own else None)


def _resizing(axis_weights):
    """Return the `adapt` of a kind that resizes a position embedding `[1, 1 + rows * columns, hidden]` to the layer's grid.

    Arrays of another shape stay as they are, and are found to be misshaped.
    """

    def adapt(arrays, layer, sizing):
        (embedding,) = arrays
        positions = embedding.shape[1] - 1 if embedding.ndim == 3 else 0
        if positions < 1:
            return arrays
        old, new = sizing.grid or _grid_of(positions, layer.grid), layer.grid
        if old is not None and math.prod(old) != positions:
            raise Misfit(f"has {positions} positions, not those of a grid of {old[0]}x{old[1]}", "correct grid")
        if old is None or old == new or (not sizing.resize and math.prod(new) != positions):
            return arrays
        if not sizing.resize:
            raise Misfit(f"is for a grid of {old[0]}x{old[1]}, the model has {new[0]}x{new[1]}")
        grid = np.asarray(embedding[0, 1:], np.float64).reshape(*old, -1)
        rows, columns = (axis_weights(*sides) for sides in zip(old, new, strict=True))
        resized = np.einsum("ik,jl,klc->ijc", rows, columns, grid, optimize=True)
        return [np.concatenate([embedding[:, :1], resized.reshape(1, -1, embedding.shape[2])], 1).astype(np.float32)]

    return adapt


def _kind(*suffixes, read=lambda arrays, shape: arrays[0].reshape(shape), write=lambda a: [a], adapt=None):
    return Kind(suffixes, read, write, adapt)


def _stacked(name, axis):
    """Return the kind of three arrays of a checkpoint, the queries', keys' and values', that are one of ours along `axis`."""
    keys = [f"/{part}/{name}" for part in ("query", "key", "value")]
    return _kind(*keys, read=lambda a, shape: np.stack(a, axis), write=lambda a: list(np.moveaxis(a, axis, 0)))


def _separate(suffix, kind):
    """Return the kind of three arrays, the queries', keys' and values', that together are timm's one array of `kind`."""
    keys = [f".attention.{part}{suffix}" for part in ("query", "key", "value")]
    return _kind(
        *keys,
        read=lambda arrays, shape: kind.read([np.concatenate(arrays)], shape),
        write=lambda array: np.split(kind.write(array)[0], 3),
    )


def _matrix(suffix, outputs):
    """Return the kind of a kernel of many axes, the last `outputs` of them outputs, that is PyTorch's `[outputs, inputs]`."""

    def write(array):
        return [array.reshape(math.prod(array.shape[:-outputs]), -1).T]

    return _kind(suffix, read=lambda arrays, shape: arrays[0].T.reshape(shape), write=write)


KINDS = weights.KINDS | {
    "group": weights.KINDS["norm"],
    "token": {"token": _kind("")},
    "position": {"embedding": _kind("", adapt=_resizing(_bicubic))},
    "attention": {
        "qkv_kernel": _matrix(".qkv.weight", 3),
        "qkv_bias": _kind(".qkv.bias", write=lambda a: [a.reshape(-1)]),
        "out_kernel": _matrix(".proj.weight", 1),
        "out_bias": _kind(".proj.bias"),
    },
    "transformers_position": {"embedding": _kind("", adapt=_resizing(_plain_bicubic))},
    "transformers_attention": {
        "qkv_kernel": _separate(".weight", _matrix("", 3)),
        "qkv_bias": _separate(".bias", _kind("", write=lambda a: [a.reshape(-1)])),
        "out_kernel": _matrix(".output.dense.weight", 1),
        "out_bias": _kind(".output.dense.bias"),
    },
    "flax": {"kernel": _kind("/kernel"), "bias": _kind("/bias")},
    "flax_norm": {"gamma": _kind("/scale"), "beta": _kind("/bias")},
    "flax_group": {  # the AugReg files have the shape [1, 1, 1, channels] (google/flax#1721)
        "gamma": _kind("/scale", write=lambda a: [a.reshape(1, 1, 1, -1)]),
        "beta": _kind("/bias", write=lambda a: [a.reshape(1, 1, 1, -1)]),
    },
    "flax_position": {"embedding": _kind("", adapt=_resizing(_linear))},
    "flax_attention": {
        "qkv_kernel": _stacked("kernel", 1),
        "qkv_bias": _stacked("bias", 0),
        "out_kernel": _kind("/out/kernel"),
        "out_bias": _kind("/out/bias"),
    },
}


def maps(model):
    """Return the map of each Transformer block, `block_0` and on: `[batch, rows, columns, hidden]`, without the class token, not
    normalised. Of a hybrid, the maps of its ResNet's stages come first, by stride, `stride_4` and on."""
    tokens = last_outputs(model, r"blocks\.(\d+)\.add2", "block_{}".format)
    grid = model.get_layer("position").grid
    last = max(tokens, key=lambda name: int(name.rsplit("_")[1]))
    if tokens[last].shape[1] == 1:  # the model computes its class token alone
        block = last.rsplit("_")[1]
        tokens[last] = _block(
            model.get_layer(f"blocks.{block}.norm1").input,
            lambda _type, name, **_configuration: model.get_layer(f"blocks.{block}.{name}"),
            *(None,) * 5,
            drop={},
            token_only=False,
        )
    blocks = {name: TokensToMap(grid, name=f"map.{name}")(output) for name, output in tokens.items()}
    strides = last_outputs(model, r"backbone\.stages\.(\d+)\.blocks\.\d+\.relu", lambda stage: f"stride_{4 * 2**stage}")
    return strides | blocks


# Our layer, its kind, and its name in each format; {s}, {b} and {i} count stages, blocks and convolutions.
WEIGHTS = table(
    """
    ours                 kind      augreg                   linen                    timm               transformers
    backbone.conv        conv      conv_root                conv_root                BACKBONE.conv      -
    backbone.norm        group     gn_root                  gn_root                  BACKBONE.norm      -
    backbone.stem.conv   conv      conv_root                conv_root                BACKBONE.stem.conv -
    backbone.stem.norm   group     gn_root                  gn_root                  BACKBONE.stem.norm -
    UNIT.conv{i}         conv      FLAX_UNIT/conv{i}        FLAX_UNIT/conv{i}        TIMM.conv{i}       -
    UNIT.norm{i}         group     FLAX_UNIT/gn{i}          FLAX_UNIT/gn{i}          TIMM.norm{i}       -
    UNIT.DOWN.conv       conv      FLAX_UNIT/conv_proj      FLAX_UNIT/conv_proj      TIMM.DOWN.conv     -
    UNIT.DOWN.norm       group     FLAX_UNIT/gn_proj        FLAX_UNIT/gn_proj        TIMM.DOWN.norm     -
    embedding            conv      embedding                embedding                patch_embed.proj   PATCHES
    cls                  token     cls                      cls                      cls_token          vit.embeddings.cls_token
    position             position  POSITION                 POSITION                 pos_embed          POSITIONS
    blocks.{b}.norm1     norm      BLOCK/LayerNorm_0        BLOCK/LayerNorm_0        blocks.{b}.norm1   HF.layernorm_before
    blocks.{b}.attention attention BLOCK/ATTENTION_1        BLOCK/ATTENTION_0        blocks.{b}.attn    HF.attention
    blocks.{b}.norm2     norm      BLOCK/LayerNorm_2        BLOCK/LayerNorm_1        blocks.{b}.norm2   HF.layernorm_after
    blocks.{b}.mlp.fc1   linear    BLOCK/MlpBlock_3/Dense_0 BLOCK/MlpBlock_0/Dense_0 blocks.{b}.mlp.fc1 HF.intermediate.dense
    blocks.{b}.mlp.fc2   linear    BLOCK/MlpBlock_3/Dense_1 BLOCK/MlpBlock_0/Dense_1 blocks.{b}.mlp.fc2 HF.output.dense
    features             norm      ENCODER/encoder_norm     ENCODER/encoder_norm     norm               vit.layernorm
    head                 linear    head                     head                     head               classifier
    """.replace("FLAX_UNIT", "block{s+1}/unit{b+1}")
    .replace("HF", "vit.encoder.layer.{b}")
    .replace("PATCHES", "vit.embeddings.patch_embeddings.projection")
    .replace("POSITIONS", "vit.embeddings.position_embeddings")
    .replace("POSITION", "ENCODER/posembed_input/pos_embedding")
    .replace("ATTENTION", "MultiHeadDotProductAttention")
    .replace("DOWN", "downsample")
    .replace("TIMM", "BACKBONE.stages.{s}.blocks.{b}")
    .replace("UNIT", "backbone.stages.{s}.blocks.{b}")
    .replace("BACKBONE", "patch_embed.backbone")
    .replace("BLOCK", "ENCODER/encoderblock_{b}")
    .replace("ENCODER", "Transformer")
)
_FLAX = {"conv": "flax", "linear": "flax"} | {k: f"flax_{k}" for k in ("norm", "group", "position", "attention")}
_HEADS = (r"pre_logits[./].*",)  # the first ViTs on ImageNet-21k had a tanh layer before the last one
FORMATS = {
    "augreg": Format("augreg", kinds=_FLAX, heads=_HEADS),  # the released files: names of Flax before linen
    "augreg_linen": Format("linen", kinds=_FLAX, heads=_HEADS),  # what the same programs write today
    "timm": Format("timm", heads=_HEADS),
    # Files of `ViTModel` have a pooler, which no classifier reads.
    "transformers": Format(
        "transformers",
        kinds={kind: f"transformers_{kind}" for kind in ("position", "attention")},
        ignored=(r"vit\.pooler\..*",),
    ),
}
TOP = ("features", "head")  # what a model without the top leaves in the checkpoint


def check_format(model, format):
    """Return why the weights of a `format` are not for `model`, or None: each definition has formats of its own."""
    gelu = next((layer.activation for layer in model.layers if layer.name.endswith(".mlp.fc1")), None)
    wanted = format if format in DEFINITIONS else "jax"
    if gelu in (None, DEFINITIONS[wanted]["gelu"]):
        return None
    return (
        f"the {format} format is for the {wanted} definition of a ViT, the model {model.name} has another GELU. "
        f"Fix: create it with definition={wanted!r}."
    )


def canonical(tensors):
    """Return the tensors of a Flax checkpoint under AugReg's names, without what training programs put around and before them.

    Takes off the roots "opt/target/", "params/" and "params/img/" (and leaves the optimizer's state), takes blocks apart that a
    scan stacked, gives group normalisations AugReg's shape, and a position embedding without a class token's row one of zeros.
    """
    roots = [root for root in ("opt/target/", "params/img/", "params/", "") if f"{root}embedding/kernel" in tensors]
    if not roots:
        return tensors
    root, found = roots[0], {}

    def put(name, array):  # the second tensor of a name is kept under another one, where `restore` finds it unused
        found[f"{name} (a second time)" if name in found else name] = array

    for key, array in tensors.items():
        name = key.removeprefix(root)
        if root and re.match(r"opt/(?!target/)", key):
            continue
        if not key.startswith(root):
            put(f"{key} (outside {root})", array)
        elif name.startswith("Transformer/encoderblock/") and array.ndim:
            for block, part in enumerate(array):
                put(name.replace("block/", f"block_{block}/"), part)
        elif name == "pos_embedding" and array.ndim == 3:
            put(f"Transformer/posembed_input/{name}", np.pad(array, ((0, 0), (1, 0), (0, 0))))
        elif re.fullmatch(r"(.*/)?gn(\d|_root|_proj)/(scale|bias)", name) and array.ndim == 1:
            put(name, array.reshape(1, 1, 1, -1))
        else:
            put(name, array)
    return found
