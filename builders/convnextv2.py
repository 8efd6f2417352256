"""ConvNeXt V2: ConvNeXt with global response normalisation instead of layer scale, pre-trained as a masked autoencoder (FCMAE).

Woo et al. 2023, "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", https://arxiv.org/abs/2301.00808.
Upstream: facebookresearch/ConvNeXt-V2, models/convnextv2.py; the second naming of the weights: timm, timm/models/convnext.py.

    model = builders.create("convnextv2", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
    builders.restore(model, "convnextv2_tiny_1k_224_ema.pt")
"""

import keras
import tensorflow as tf

from builders import weights
from builders.convnext import EPSILON, assemble, format_arguments, maps
from builders.layers import (
    DepthwiseConvolution,
    DropPath,
    LayerNormalization,
    Linear,
    initializer,
    register,
    statistics_dtype,
)
from builders.weights import Format, Kind, table


def network(
    images,
    *,
    depths,
    dims,
    num_classes,
    include_top,
    pooling,
    drop_path_rate,
    final_norm=True,
    final_epsilon=EPSILON,
):
    """Build a ConvNeXt V2 on normalised `images`; return its output (see builders/__init__.py:create).

    Without the top, that is the last stage's map `[batch, height/32, width/32, dims[-1]]`; odd sizes lose their last rows, as
    upstream.

    Args:
      depths: blocks of each of the four stages.
      dims: channels of each stage.
      final_norm: False for the checkpoints of the autoencoder alone, which end with the last stage: the feature vector is the
        plain global average, and there is no top.
      final_epsilon: epsilon of the last normalisation: `layer_norm_eps` of a configuration of transformers.
    """
    if include_top and not final_norm:
        raise ValueError("a ConvNeXt V2 without its last normalisation has no classifier. Fix: add include_top=False.")

    def block(x, width, share, name):
        return _block(x, width, drop_path_rate, share, name)

    return assemble(
        images,
        block,
        depths=depths,
        dims=dims,
        num_classes=num_classes,
        include_top=include_top,
        pooling=pooling,
        final_norm=final_norm,
        final_epsilon=final_epsilon,
    )


def arguments(row):
    """Return the arguments of `builders.create` for a row: one without classes has a checkpoint of the encoder alone.

    Of transformers' files without a classifier, the last normalisation is still there.
    """
    has_norm = row["classes"] is not None or row["format"] == "transformers"
    return {**format_arguments(row), **row["architecture"], "final_norm": has_norm}


def _block(x, width, rate, share, name):
    """Build a block (figure 5 of the paper): that of ConvNeXt with response normalisation before the second linear layer."""
    shortcut = x
    x = DepthwiseConvolution(7, name=f"{name}.conv_dw")(x)
    x = LayerNormalization(epsilon=EPSILON, name=f"{name}.norm")(x)
    x = Linear(4 * width, activation="gelu", name=f"{name}.mlp.fc1")(x)
    x = GlobalResponseNormalization(name=f"{name}.mlp.grn")(x)
    x = Linear(width, name=f"{name}.mlp.fc2")(x)
    x = DropPath(rate, share, name=f"{name}.drop_path")(x)
    return keras.layers.Add(name=f"{name}.add")([shortcut, x])


@register
class GlobalResponseNormalization(keras.layers.Layer):
    """Scale each channel by how strong it is beside the others: `gamma * (x * n) + beta + x`, `[batch, h, w, channels]`.

    `n` is the channel's L2 norm over height and width (not a matrix norm), divided by the mean of all channels' norms plus
    `epsilon` (section 3.2, algorithm 1; models/utils.py:GRN). At least float32 under any policy: the sum of squares over a map
    overflows float16. Both weights start at zero, so the layer starts as the identity.
    """

    def __init__(self, *, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=initializer("zeros"))
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer=initializer("zeros"))

    def call(self, inputs):
        x = tf.cast(inputs, statistics_dtype(inputs))
        squares = tf.reduce_sum(tf.square(x), [1, 2], keepdims=True)
        norms = tf.sqrt(tf.maximum(squares, 1e-30))  # a dead channel has gradient 0, as in PyTorch, not NaN
        relative = norms / (tf.reduce_mean(norms, -1, keepdims=True) + self.epsilon)
        # One product and one sum over the map: x * n * gamma + x = x * (1 + n * gamma).
        scale = 1.0 + relative * tf.cast(self.gamma, x.dtype)
        return tf.cast(x * scale + tf.cast(self.beta, x.dtype), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


__all__ = ["FORMATS", "TOP", "WEIGHTS", "maps", "network"]

# Our layer, its kind, and the layer's name in each format; {s} and {b} count stages and blocks from 0. "sparse" is what FCMAE
# training itself writes: convolutions and normalisations of MinkowskiEngine below `encoder.`.
WEIGHTS = table(
    """
    ours          kind      timm          facebook         sparse                   transformers
    stem.conv     conv      stem.0        DOWN.0.0         encoder.DOWN.0.0         STEM.patch_embeddings
    stem.norm     norm      stem.1        DOWN.0.1         encoder.DOWN.0.1         STEM.layernorm
    STAGE.norm    norm      STAGE.0       DOWN.{s}.0       encoder.DOWN.{s}.0.ln    HF.downsampling_layer.0
    STAGE.conv    conv      STAGE.1       DOWN.{s}.1       encoder.DOWN.{s}.1       HF.downsampling_layer.1
    BLOCK.conv_dw depthwise BLOCK.conv_dw FACEBOOK.dwconv  encoder.FACEBOOK.dwconv  HF.layers.{b}.dwconv
    BLOCK.norm    norm      BLOCK.norm    FACEBOOK.norm    encoder.FACEBOOK.norm.ln HF.layers.{b}.layernorm
    BLOCK.mlp.fc1 linear    BLOCK.mlp.fc1 FACEBOOK.pwconv1 encoder.FACEBOOK.pwconv1 HF.layers.{b}.pwconv1
    BLOCK.mlp.grn grn       BLOCK.mlp.grn FACEBOOK.grn     encoder.FACEBOOK.grn     HF.layers.{b}.grn
    BLOCK.mlp.fc2 linear    BLOCK.mlp.fc2 FACEBOOK.pwconv2 encoder.FACEBOOK.pwconv2 HF.layers.{b}.pwconv2
    features      norm      head.norm     norm             -                        convnextv2.layernorm
    head          linear    head.fc       head             -                        classifier
    """.replace("FACEBOOK", "stages.{s}.{b}")
    .replace("STAGE", "stages.{s}.downsample")
    .replace("BLOCK", "stages.{s}.blocks.{b}")
    .replace("HF", "convnextv2.encoder.stages.{s}")
    .replace("STEM", "convnextv2.embeddings")
    .replace("DOWN", "downsample_layers")
)


def _reshaped(*leading):
    """Ours is the vector `[channels]`, the checkpoint's has axes of length 1 before it."""
    return lambda arrays, shape: arrays[0].reshape(shape), lambda array: [array.reshape(*leading, -1)]


def _sparse(arrays, shape):
    """MinkowskiEngine counts the places of a kernel down the columns: `[columns * rows, ...] -> [rows, columns, ...]`."""
    rows, columns, inputs, outputs = shape
    return arrays[0].reshape(columns, rows, inputs, outputs).swapaxes(0, 1)


_ROW = _reshaped(1)
_SPARSE_CONV = (_sparse, lambda array: [array.swapaxes(0, 1).reshape(-1, *array.shape[2:])])
_SPARSE_DEPTHWISE = (_sparse, lambda array: [array.swapaxes(0, 1).reshape(-1, array.shape[2])])
KINDS = {
    **weights.KINDS,
    "grn": {"gamma": Kind((".gamma",), *_reshaped(1, 1, 1)), "beta": Kind((".beta",), *_reshaped(1, 1, 1))},
    "transformers_grn": {
        "gamma": Kind((".weight",), *_reshaped(1, 1, 1)),
        "beta": Kind((".bias",), *_reshaped(1, 1, 1)),
    },
    "sparse_grn": {"gamma": Kind((".gamma",), *_ROW), "beta": Kind((".beta",), *_ROW)},
    "sparse_conv": {"kernel": Kind((".kernel",), *_SPARSE_CONV), "bias": Kind((".bias",), *_ROW)},
    "sparse_linear": {
        variable: Kind((f".linear{kind.suffixes[0]}",), kind.read, kind.write)
        for variable, kind in weights.KINDS["linear"].items()
    },
    "sparse_depthwise": {"kernel": Kind((".kernel",), *_SPARSE_DEPTHWISE), "bias": Kind((".bias",), *_ROW)},
}
_HEADS = (r"head\.pre_logits\..*",)  # of timm's variants with an MLP as their classifier
FORMATS = {
    "timm": Format("timm", kinds={"grn": "norm"}, heads=_HEADS),
    # MLPs as 1x1 convolutions (atto to nano)
    "timm_conv_mlp": Format("timm", kinds={"grn": "norm", "linear": "pointwise", "head": "linear"}, heads=_HEADS),
    "facebook": Format("facebook"),
    "transformers": Format("transformers", kinds={"grn": "transformers_grn"}),
    # What the encoder was trained with is left aside (main_finetune.py), the rest as utils.py:remap_checkpoint_keys reads it.
    "facebook_sparse": Format(
        "sparse",
        kinds={kind: f"sparse_{kind}" for kind in ("conv", "depthwise", "linear", "grn")} | {"stem.conv": "conv"},
        ignored=(r"(decoder|proj|pred)\..*", "mask_token"),
    ),
}
TOP = ("features", "head")  # what a model without the top leaves in the checkpoint
