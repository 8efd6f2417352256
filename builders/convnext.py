"""ConvNeXt: convolutional networks in the manner of vision Transformers.

Liu et al. 2022, "A ConvNet for the 2020s", https://arxiv.org/abs/2201.03545. Upstream: facebookresearch/ConvNeXt,
models/convnext.py; the small variants and the second naming of the weights: timm, timm/models/convnext.py; another one: Hugging
Face's transformers, models/convnext/modeling_convnext.py, whose last normalisation has an epsilon of its own.

    model = builders.create("convnext", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
    builders.restore(model, "convnext_tiny_1k_224_ema.pth")
"""

import keras

from builders import networks
from builders.layers import (
    Convolution,
    DepthwiseConvolution,
    DropPath,
    GlobalAverage,
    LayerNormalization,
    LayerScale,
    Linear,
    last_outputs,
)
from builders.weights import Format, table

EPSILON = 1e-6  # of every normalisation
TRANSFORMERS_EPSILON = 1e-12  # of the last one where transformers' configuration says nothing else (`layer_norm_eps`)


def network(
    images,
    *,
    depths,
    dims,
    num_classes,
    include_top,
    pooling,
    drop_path_rate,
    layer_scale=1e-6,
    isotropic=False,
    final_epsilon=EPSILON,
):
    """Build a ConvNeXt on normalised `images`; return its output (see builders/__init__.py:create).

    Without the top, that is the last stage's map `[batch, height/32, width/32, dims[-1]]`; odd sizes lose their last rows, as
    upstream.

    Args:
      depths: blocks of each of the four stages.
      dims: channels of each stage.
      layer_scale: initial value of the layer scale; 0 leaves it out.
      isotropic: one stage on 16x16 patches, as in a ViT (section 3.3 of the paper; models/convnext_isotropic.py).
      final_epsilon: epsilon of the last normalisation: `layer_norm_eps` of a configuration of transformers.
    """

    def block(x, width, share, name):
        return _block(x, width, drop_path_rate, share, layer_scale, name)

    return assemble(
        images,
        block,
        depths=depths,
        dims=dims,
        num_classes=num_classes,
        include_top=include_top,
        pooling=pooling,
        isotropic=isotropic,
        final_epsilon=final_epsilon,
    )


def arguments(row):
    """Return the arguments of `builders.create` for a row: its architecture, and the last epsilon of its format."""
    return format_arguments(row) | row["architecture"]


def format_arguments(row):
    """Return the arguments that a row's format decides."""
    return {"final_epsilon": TRANSFORMERS_EPSILON} if row["format"] == "transformers" else {}


def assemble(
    images,
    block,
    *,
    depths,
    dims,
    num_classes,
    include_top,
    pooling,
    isotropic=False,
    final_norm=True,
    final_epsilon=EPSILON,
):
    """Build what all ConvNeXts have around their blocks: stem, downsampling, head (arguments as in `network`).

    `block(x, width, share, name)` makes one block; `share` is its part of the drop path rate, from 0 at the first to 1 at the last.
    `final_norm=False` makes the plain global average the feature vector.
    """
    networks.check_whole(depths=depths, dims=dims)
    networks.check_epsilon(final_epsilon=final_epsilon)
    if len(depths) != len(dims):
        raise ValueError(f"depths={depths!r} and dims={dims!r} differ in length. Fix: give both for each stage.")
    if isotropic and len(dims) != 1:
        raise ValueError(f"an isotropic ConvNeXt has one stage, not {len(dims)}. Fix: write depths=(18,), dims=(384,).")
    networks.check_size(images, 16 if isotropic else 4 * 2 ** (len(dims) - 1))
    if isotropic:
        x = Convolution(dims[0], 16, strides=16, name="stem")(images)
    else:
        x = Convolution(dims[0], 4, strides=4, name="stem.conv")(images)
        x = LayerNormalization(epsilon=EPSILON, name="stem.norm")(x)
    total, position = sum(depths), 0
    for stage, (depth, width) in enumerate(zip(depths, dims, strict=True)):
        prefix = f"stages.{stage}"
        if stage:
            x = LayerNormalization(epsilon=EPSILON, name=f"{prefix}.downsample.norm")(x)
            x = Convolution(width, 2, strides=2, name=f"{prefix}.downsample.conv")(x)
        for number in range(depth):
            label = f"blocks.{number}" if isotropic else f"{prefix}.blocks.{number}"
            x = block(x, width, position / max(1, total - 1), label)
            position += 1
    if include_top or pooling:
        x = GlobalAverage(name="pool" if final_norm else "features", dtype="float32")(x)
        if final_norm:
            x = LayerNormalization(epsilon=final_epsilon, name="features", dtype="float32")(x)
    if include_top:
        x = Linear(num_classes, name="head", dtype="float32")(x)
    return x


def _block(x, width, rate, share, layer_scale, name):
    """Build a block (figure 4 of the paper): 7x7 depthwise convolution, normalisation, MLP with exact GELU, layer scale."""
    shortcut = x
    x = DepthwiseConvolution(7, name=f"{name}.conv_dw")(x)
    x = LayerNormalization(epsilon=EPSILON, name=f"{name}.norm")(x)
    x = Linear(4 * width, activation="gelu", name=f"{name}.mlp.fc1")(x)
    x = Linear(width, name=f"{name}.mlp.fc2")(x)
    if layer_scale:
        x = LayerScale(initial=layer_scale, name=f"{name}.scale")(x)
    x = DropPath(rate, share, name=f"{name}.drop_path")(x)
    return keras.layers.Add(name=f"{name}.add")([shortcut, x])


def maps(model):
    """Return the map of each stage by its stride, `stride_4` to `stride_32`; isotropic: of each block, from `block_0`."""
    strides = last_outputs(model, r"stages\.(\d+)\.blocks\.\d+\.add", lambda stage: f"stride_{4 * 2**stage}")
    return strides or last_outputs(model, r"blocks\.(\d+)\.add", "block_{}".format)


# Our layer, its kind (builders/weights.py), and the layer's name in each format; {s} and {b} count stages and blocks from 0.
WEIGHTS = table(
    """
    ours          kind      timm          facebook                torchvision             transformers
    stem.conv     conv      stem.0        downsample_layers.0.0   features.0.0            STEM.patch_embeddings
    stem.norm     norm      stem.1        downsample_layers.0.1   features.0.1            STEM.layernorm
    DOWN.norm     norm      DOWN.0        downsample_layers.{s}.0 features.{2s}.0         HF.downsampling_layer.0
    DOWN.conv     conv      DOWN.1        downsample_layers.{s}.1 features.{2s}.1         HF.downsampling_layer.1
    BLOCK.conv_dw depthwise BLOCK.conv_dw FACEBOOK.dwconv         TORCHVISION.block.0     HF.layers.{b}.dwconv
    BLOCK.norm    norm      BLOCK.norm    FACEBOOK.norm           TORCHVISION.block.2     HF.layers.{b}.layernorm
    BLOCK.mlp.fc1 linear    BLOCK.mlp.fc1 FACEBOOK.pwconv1        TORCHVISION.block.3     HF.layers.{b}.pwconv1
    BLOCK.mlp.fc2 linear    BLOCK.mlp.fc2 FACEBOOK.pwconv2        TORCHVISION.block.5     HF.layers.{b}.pwconv2
    BLOCK.scale   vector    BLOCK.gamma   FACEBOOK.gamma          TORCHVISION.layer_scale HF.layers.{b}.layer_scale_parameter
    features      norm      head.norm     norm                    classifier.0            convnext.layernorm
    head          linear    head.fc       head                    classifier.2            classifier
    """.replace("DOWN", "stages.{s}.downsample")
    .replace("FACEBOOK", "stages.{s}.{b}")
    .replace("TORCHVISION", "features.{2s+1}.{b}")
    .replace("BLOCK", "stages.{s}.blocks.{b}")
    .replace("HF", "convnext.encoder.stages.{s}")
    .replace("STEM", "convnext.embeddings")
) + table(  # the isotropic ones, of which only Facebook has weights
    """
    ours               kind      facebook
    stem               conv      stem
    blocks.{b}.conv_dw depthwise blocks.{b}.dwconv
    blocks.{b}.norm    norm      blocks.{b}.norm
    blocks.{b}.mlp.fc1 linear    blocks.{b}.pwconv1
    blocks.{b}.mlp.fc2 linear    blocks.{b}.pwconv2
    blocks.{b}.scale   vector    blocks.{b}.gamma
    """
)
_HEADS = (r"head\.pre_logits\..*",)  # of timm's variants with an MLP as their classifier
FORMATS = {
    "timm": Format("timm", heads=_HEADS),
    # MLPs as 1x1 convolutions (atto to nano)
    "timm_conv_mlp": Format("timm", kinds={"linear": "pointwise", "head": "linear"}, heads=_HEADS),
    "facebook": Format("facebook"),
    "torchvision": Format("torchvision", kinds={"vector": "column"}),
    "transformers": Format("transformers"),
}
TOP = ("features", "head")  # what a model without the top leaves in the checkpoint
