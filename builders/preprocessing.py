"""Preprocessing inside a module: resize, crop and normalise in the graph, as the upstream evaluation did it.

    transform = Transform(resize="short_side", size=256, crop=224, crop_offset="round", interpolation="bicubic",
                          antialias=True, library="pil")
    preprocess(images, transform, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))     # [batch, 224, 224, 3]

Resampling is separable: one weight matrix per axis, computed in the graph from the size of the images, so that any size
works on any device (tf.image.resize(antialias=True) has no GPU kernel) without XLA. A row of such a matrix holds few
weights that are not zero, all near its diagonal: outputs are computed in blocks of neighbours, each from the window of
pixels that it needs. Pixels that only feed what the crop throws away are never read.

Three libraries' arithmetic, as their sources define it:

- PIL (Resample.c): kernels widened by the scale when shrinking, weights rounded to 22 bits, the horizontal pass first,
  both passes rounded and clipped to 8 bits. Sums are float32 here and integers there: values that lie halfway between
  two levels may fall to the other side. (Pillow 13 begins with the vertical pass when the height shrinks much more than
  the width, older ones never do; published figures are older, and only warps of tall images could tell.)
- OpenCV (resize.cpp, on floats): no antialiasing, borders replicated, bicubic a = -0.75, nothing rounded or clipped;
- TensorFlow (tf.image.resize, version 2): without antialiasing bilinear replicates borders, and bicubic renormalises
  them and takes its weights from a table of 1024 positions; with antialiasing as PIL, but on floats.

The matrix products are float32. GPUs on which TensorFlow computes those in TF32 (its default since Ampere) may differ
from the CPU by a fraction of a level; `tf.config.experimental.enable_tensor_float_32_execution(False)` prevents it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

LARGEST_BLOCK = 16  # outputs computed together; fewer waste less on zeros, more are fewer operations
PIL_WEIGHT_SCALE = 2.0**22  # Resample.c, PRECISION_BITS
TENSORFLOW_TABLE_SIZE = 1024.0  # image_resizer: kTableSize of the bicubic weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
    """Resize and crop that make an image of any size square: the fields of a row of modules/preprocessing.toml.

    Attributes:
        resize: "short_side" (the shorter side to `size`, then a centre crop) or "warp" (both sides to `size`).
        size: pixels.
        interpolation: "bicubic" or "bilinear".
        antialias: whether kernels widen when the image shrinks; always for "pil", never for "opencv".
        library: "pil", "opencv" or "tensorflow".
        crop: pixels, only for "short_side".
        crop_offset: "round" (half to even) or "ceil", only for "short_side".
    """

    resize: str
    size: int
    interpolation: str
    antialias: bool
    library: str
    crop: int | None = None
    crop_offset: str | None = None

    def __post_init__(self) -> None:
        for field, choices in (
            ("resize", ("short_side", "warp")),
            ("interpolation", ("bicubic", "bilinear")),
            ("antialias", (True, False)),
            ("library", ("pil", "opencv", "tensorflow")),
            ("crop_offset", ("round", "ceil") if self.resize == "short_side" else (None,)),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"Transform: {field} = {getattr(self, field)!r} is unknown. Fix: use one of {choices}."
                )
        if self.antialias != {"pil": True, "opencv": False}.get(self.library, self.antialias):
            raise ValueError(
                f"Transform: antialias = {self.antialias} is not what library {self.library!r} does. Fix: negate it."
            )
        if self.resize == "warp" and self.crop is not None:
            raise ValueError(f"Transform: crop = {self.crop} with a warp, which crops nothing. Fix: leave it out.")
        if self.resize == "short_side" and (self.crop is None or self.crop > self.size):
            raise ValueError(
                f"Transform: crop = {self.crop} is no part of the image. Fix: use a number of pixels up to size = {self.size}."
            )
        if self.resolution < 1:
            raise ValueError(f"Transform: resolution {self.resolution} is too small. Fix: use at least 1 pixel.")

    @property
    def resolution(self) -> int:
        """Height and width of the result, in pixels."""
        return self.size if self.crop is None else self.crop

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Return the transform of a row of modules/preprocessing.toml; the words for the pages (`text`) are dropped."""
        row = {key: value for key, value in row.items() if key != "text"}
        unknown = sorted(set(row) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"Transform: unknown keys {unknown}. Fix: use the keys of modules/preprocessing.toml.")
        return cls(**row)


def preprocess(
    images: Any,
    transform: Transform,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    pixel_range: tuple[float, float] = (0, 1),
    never_empty: bool = False,
    portable: bool = False,
) -> Any:
    """Resize, crop and normalise images of any size for the network.

    Args:
        images: `[batch, height, width, 3]`, RGB; float32 in `pixel_range`, or uint8 (always 0 to 255). Any of the first
            three dimensions may be dynamic.
        transform: a `Transform`.
        mean, std: three floats each, for pixels in [0, 1].
        pixel_range: what float32 images call black and white.
        never_empty: whether an empty batch gives one image of zeros: fused kernels of oneDNN fail on nothing.
        portable: whether for runtimes that have no float64 and fail on nothing: weights of the resize are computed in float32,
            `tf.cond` decides between the two ways of an image, and there is no empty batch.

    Returns:
        float32 `[batch, resolution, resolution, 3]`: `(pixels in [0, 1] - mean) / std`. Images that already have that
        resolution are normalised only. Gradients flow to float images, straight through the roundings.

    Raises:
        ValueError: when the rank, the channels or the dtype cannot be right.
    """
    images = _checked(images)
    resolution = transform.resolution
    black, white = (0.0, 255.0) if images.dtype == tf.uint8 else (float(bound) for bound in pixel_range)
    if not white > black:
        raise ValueError(f"pixel_range = {pixel_range} is empty. Fix: write (black, white) with black < white.")

    floating = tf.float32 if portable else tf.float64

    def normalize(pixels, black, white):
        scale = [1.0 / ((white - black) * deviation) for deviation in std]
        offset = [
            -(black / (white - black) + average) / deviation for average, deviation in zip(mean, std, strict=True)
        ]
        # One whole row of pixels at a time: broadcasting along an axis of three is several times slower.
        rows = tf.reshape(tf.cast(pixels, tf.float32), [-1, resolution * 3])
        rows = rows * tf.constant(scale * resolution, tf.float32) + tf.constant(offset * resolution, tf.float32)
        if portable:  # a shape that is computed keeps LiteRT from its fast kernels
            return tf.reshape(rows, [-1, resolution, resolution, 3])
        return tf.reshape(rows, tf.concat([tf.shape(pixels)[:1], [resolution, resolution, 3]], axis=0))

    def to_levels(pixels):
        pixels = tf.cast(pixels, tf.float32)
        if black != 0.0:
            pixels -= black
        return pixels if white - black == 255.0 else pixels * (255.0 / (white - black))

    return _unless_right_size(
        images,
        transform,
        same=lambda images: normalize(images, black, white),
        other=lambda images: normalize(_resample(images, transform, to_levels, floating), 0.0, 255.0),
        never_empty=never_empty,
        branches=portable,
    )


def resize_and_crop(images: Any, transform: Transform) -> Any:
    """Resize and crop as `transform` says.

    Args:
        images: `[batch, height, width, 3]`, RGB, float32 in levels from 0 to 255, or uint8.
        transform: a `Transform`.

    Returns:
        float32 `[batch, resolution, resolution, 3]` in levels: whole numbers for library "pil" (whose input is
        rounded to whole levels too), else floats, which a bicubic kernel may carry a little below 0 and above 255.
        Images that already have that resolution are returned as they are.

    Raises:
        ValueError: when the rank, the channels or the dtype cannot be right.
    """
    images = _checked(images)
    return _unless_right_size(
        images,
        transform,
        same=lambda images: tf.cast(images, tf.float32),
        other=lambda images: _resample(images, transform, lambda pixels: tf.cast(pixels, tf.float32)),
    )


def _checked(images):
    images = tf.convert_to_tensor(images)
    shape = images.shape
    if images.dtype not in (tf.float32, tf.uint8) or not shape.is_compatible_with([None, None, None, 3]):
        raise ValueError(
            f"images are {images.dtype.name} {shape}. Fix: give RGB images, float32 or uint8, [batch, height, width, 3]."
        )
    return tf.ensure_shape(images, [None, None, None, 3])


def _unless_right_size(images, transform, *, same, other, never_empty=False, branches=False):
    """Return `same(images)` for images that have the module's resolution already, else `other(images)`.

    Decided while tracing if possible. Else both are computed, of which one gets no images. A branch (`tf.cond`) would be plainer,
    but of its sides, which have different shapes, XLA, OpenVINO and most converters make no graph or a wrong one; with `branches`
    there is one.
    """
    resolution = transform.resolution
    count, height, width = images.shape[:3]
    shape = tf.shape(images)
    if (height, width) == (resolution, resolution):
        parts = [same(images)]
    elif height not in (None, resolution) or width not in (None, resolution):
        parts = [other(images)]
    else:
        right = tf.logical_and(tf.equal(shape[1], resolution), tf.equal(shape[2], resolution))
        if branches:
            square = tf.stack([shape[0], resolution, resolution, 3])
            parts = [tf.cond(right, lambda: same(tf.reshape(images, square)), lambda: other(images))]
        else:
            number = shape[0] * tf.cast(right, tf.int32)
            of_right_size = tf.reshape(images[:number], tf.stack([number, resolution, resolution, 3]))
            parts = [same(of_right_size), other(images[number:])]
    if never_empty and not count:
        parts.append(tf.zeros(tf.stack([1 - tf.minimum(shape[0], 1), resolution, resolution, 3])))
        count = None if count is None else 1
    answers = parts[0] if len(parts) == 1 else tf.concat(parts, 0)
    return tf.ensure_shape(answers, [count, resolution, resolution, 3])


def _resample(images, transform, to_levels, floating=tf.float64):
    """Resize and crop; `to_levels` converts the part of the images that is needed to float32 levels.

    Weights are computed in `floating`.
    """
    resolution = transform.resolution
    shape = tf.shape(images)  # taken on the images' own device: on the CPU it would first fetch them from a GPU
    # Sizes, positions and weights are a few thousand numbers: cheaper on the CPU, and no positions to be fetched back.
    with tf.device("/device:CPU:0"):
        batch, lengths = shape[0], shape[1:3]
        axes = _windows(lengths, *_new_lengths(lengths, transform), transform, tf.minimum(batch, 1), floating)
        row_window, column_window = tf.unstack(axes.windows)
        first_row, first_column = tf.unstack(axes.starts[:, 0])
        used_height, used_width = tf.unstack(axes.starts[:, -1] + axes.windows - axes.starts[:, 0])
        row_starts, column_starts = tf.unstack(axes.starts - axes.starts[:, :1])
        window_rows = row_starts[:, tf.newaxis] + tf.range(row_window)
        pieces = tf.unstack(tf.stack([tf.zeros_like(column_starts), column_starts * 3], axis=1))
        piece_size = tf.stack([batch * used_height, column_window * 3])
        row_weights, column_weights = axes.weights[0, :, :row_window], axes.weights[1, :, :column_window]
        # Weights of the channels of neighbours, [blocks, window * 3, block * 3]: 0 between two different channels.
        same_channel = np.tile(np.eye(3, dtype=np.float32), axes.block)
        per_channel = tf.gather(column_weights, np.repeat(np.arange(axes.block), 3), axis=2)[:, :, tf.newaxis]
        per_channel = tf.unstack(tf.reshape(per_channel * same_channel, [axes.blocks, -1, axes.block * 3]))

    levels = to_levels(images[:, first_row : first_row + used_height, first_column : first_column + used_width])
    rounded = tf.identity
    if transform.library == "pil":
        rounded = _to_8_bits if images.dtype == tf.uint8 else _to_8_bits_and_back
    if images.dtype != tf.uint8:  # the levels of uint8 are whole
        levels = rounded(levels)

    # Horizontal pass. The three channels of a pixel stay together: a window of columns is one piece of each row, and
    # weights are repeated per channel, which costs less than moving the channels out of the way of a matrix product.
    flat = tf.reshape(
        levels,
        tf.stack([batch * used_height, used_width * 3]),
        name="images_of_at_least_1x1_pixel",  # TensorFlow names the operation when it refuses an empty image
    )
    flat = tf.concat(
        [
            tf.matmul(tf.slice(flat, start, piece_size), weights)
            for start, weights in zip(pieces, per_channel, strict=True)
        ],
        axis=1,
    )
    flat = rounded(flat)

    # Vertical pass: whole rows are gathered and mixed.
    padded = axes.blocks * axes.block
    flat = tf.reshape(flat, tf.stack([batch, used_height, padded * 3]))
    flat = tf.gather(flat, window_rows, axis=1)
    flat = rounded(tf.matmul(row_weights, flat, transpose_a=True))
    levels = tf.reshape(flat, tf.stack([batch, padded, padded, 3]))
    levels = levels[:, :resolution, :resolution]
    return tf.ensure_shape(levels, [images.shape[0], resolution, resolution, 3])


def _new_lengths(lengths, transform):
    """Return height and width after the resize, and where the crop begins in them; all are int32 `[2]`."""
    if transform.resize == "warp":
        return tf.fill([2], transform.size), tf.zeros([2], tf.int32)
    short = tf.maximum(tf.reduce_min(lengths), 1)  # empty images are refused later, by an operation with a name
    new = transform.size * lengths // short
    margin = new - transform.crop
    if transform.crop_offset == "ceil":
        return new, (margin + 1) // 2
    # Python's round(margin / 2): a half goes to the even neighbour.
    half = margin // 2
    return new, half + (margin % 2) * (half % 2)


def _to_8_bits(levels):
    """Round half up and clip to 0..255."""
    return tf.minimum(tf.floor(tf.nn.relu(levels + 0.5)), 255.0)


@tf.custom_gradient
def _to_8_bits_and_back(levels):
    """Round as `_to_8_bits`; the gradient is 1 inside the range and 0 outside."""

    def gradient(upstream):
        inside = tf.logical_and(levels >= 0.0, levels <= 255.0)
        return tf.where(inside, upstream, tf.zeros_like(upstream))

    return _to_8_bits(levels), gradient


@dataclasses.dataclass
class _Windows:
    """The weights of both axes: block i of `block` outputs is `transpose(weights[axis, i]) @ pixels[start : start + window]`.

    Attributes:
        starts: int32 `[2, blocks]`, ascending.
        windows: int32 `[2]`, of each axis.
        weights: float32 `[2, blocks, window, block]`; the window is the larger one.
    """

    starts: tf.Tensor
    windows: tf.Tensor
    weights: tf.Tensor
    blocks: int
    block: int


def _windows(lengths, new_lengths, offsets, transform, some, floating):
    """Return the weights of axes of `lengths` pixels resized to `new_lengths`, of which the crop from `offsets` on is wanted.

    With `some` = 0 instead of 1, windows are empty. Both axes share their operations: on a CPU these cost more than their numbers.
    Positions are `floating` throughout, by default float64: the virtual axis of a 1 x 4000 image is a million pixels long.
    """
    resolution = transform.resolution
    blocks = math.ceil(resolution / LARGEST_BLOCK)
    block = math.ceil(resolution / blocks)
    bicubic = transform.interpolation == "bicubic"
    radius = 2.0 if bicubic else 1.0

    source, target = (tf.cast(each, floating)[:, tf.newaxis] for each in (lengths, new_lengths))
    scale = source / target
    # The last block may reach over the crop; what it computes there is cut off, from positions that exist.
    outputs = tf.minimum(tf.range(blocks * block), resolution - 1) + offsets[:, tf.newaxis]
    whole = None  # the whole part of the centers, where they have two
    if floating == tf.float32 and transform.library == "pil":
        whole, fraction = _split_centers(outputs, lengths[:, tf.newaxis], new_lengths[:, tf.newaxis])
        centers = tf.cast(whole, floating) + fraction
    else:
        centers = _centers(tf.cast(outputs, floating), source, target, transform, floating)

    reach = radius * tf.maximum(scale, 1.0) if transform.antialias else tf.constant(radius, floating)
    centers = tf.reshape(centers, [2, blocks, block])
    last = lengths[:, tf.newaxis] - 1
    low = tf.clip_by_value(tf.cast(tf.floor(centers[:, :, 0] - reach - 0.5), tf.int32), 0, last)
    high = tf.clip_by_value(tf.cast(tf.math.ceil(centers[:, :, -1] + reach + 0.5), tf.int32), 0, last)
    windows = (tf.reduce_max(high - low, axis=1) + 1) * some
    starts = tf.minimum(low, (lengths - windows)[:, tf.newaxis])

    positions = (starts[:, :, tf.newaxis] + tf.range(tf.reduce_max(windows)))[..., tf.newaxis]
    centers = centers[:, :, tf.newaxis]
    last = tf.reshape(last, [2, 1, 1, 1])
    kernel = (lambda x: _bicubic(x, -0.75 if transform.library == "opencv" else -0.5)) if bicubic else _triangle
    if transform.antialias:
        scale = tf.reshape(tf.maximum(scale, 1.0), [2, 1, 1, 1])
        distances = tf.cast(positions, floating) + 0.5 - centers
        if whole is not None:
            whole, fraction = (tf.reshape(each, [2, blocks, 1, block]) for each in (whole, fraction))
            distances = tf.cast(positions - whole, floating) + (0.5 - fraction)
        weights = _normalized(kernel(distances / scale), positions, last)
        if transform.library == "pil":
            if whole is None:
                weights = tf.sign(weights) * tf.floor(tf.abs(weights) * PIL_WEIGHT_SCALE + 0.5) / PIL_WEIGHT_SCALE
            else:  # in two steps: a file of halves has its constants in halves, and 2^22 is none
                step = PIL_WEIGHT_SCALE**0.5
                weights = tf.sign(weights) * tf.floor(tf.abs(weights) * step * step + 0.5) / step / step
    elif bicubic and transform.library == "tensorflow":
        first = tf.floor(centers - 0.5)
        fraction = tf.round((centers - 0.5 - first) * TENSORFLOW_TABLE_SIZE) / TENSORFLOW_TABLE_SIZE
        weights = _normalized(kernel(tf.cast(positions, floating) - first - fraction), positions, last)
    else:
        # Borders are replicated: the weight of a tap outside goes to the pixel at the border.
        first = tf.floor(centers - 0.5)
        fraction = centers - 0.5 - first
        weights = 0.0
        for tap in (-1, 0, 1, 2) if bicubic else (0, 1):
            pixel = tf.clip_by_value(tf.cast(first, tf.int32) + tap, 0, last)
            weights += kernel(tap - fraction) * tf.cast(tf.equal(positions, pixel), floating)
    return _Windows(starts, windows, tf.cast(weights, tf.float32), blocks, block)


def _split_centers(outputs, source, target):
    """Return what `_centers` does for PIL in two parts, int32 and float32 from 0 to 1, from whole numbers (all int32).

    `(2 * output + 1) * source / (2 * target)` is divided digit by digit, of base 512, which overflows from an axis of two million
    pixels on.
    """
    doubled, divisor = 2 * outputs + 1, 2 * target
    high, low = doubled // 512, doubled % 512
    rest = high * source % divisor * 512 + low * source
    whole = high * source // divisor * 512 + rest // divisor
    return whole, tf.cast(rest % divisor, tf.float32) / tf.cast(divisor, tf.float32)


def _centers(outputs, source, target, transform, floating):
    """Return where output pixels lie on the source axis, in pixels; pixel i reaches from i to i + 1."""
    if transform.library == "pil":
        return (outputs + 0.5) * (source / target)
    if transform.library == "opencv":
        # resize.cpp multiplies in double and keeps the position in float.
        position = tf.cast((outputs + 0.5) * (source / target) - 0.5, tf.float32)
        return tf.cast(position, floating) + 0.5
    outputs, source, target = (tf.cast(value, tf.float32) for value in (outputs, source, target))
    if transform.antialias:
        return tf.cast((outputs + 0.5) * (1.0 / (target / source)), floating)
    return tf.cast((outputs + 0.5) * (source / target) - 0.5, floating) + 0.5


def _normalized(weights, positions, last):
    """Return the weights of pixels that exist, divided by their sum over the window."""
    weights *= tf.cast(positions <= last, weights.dtype)
    return weights / tf.reduce_sum(weights, axis=2, keepdims=True)


def _triangle(x):
    return tf.maximum(1.0 - tf.abs(x), 0.0)


def _bicubic(x, a):
    """Return Keys' cubic convolution kernel at `x` (IEEE ASSP 29(6), 1981, equation 15 for a = -0.5)."""
    x = tf.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = a * (((x - 5.0) * x + 8.0) * x - 4.0)
    return tf.where(x < 1.0, near, tf.where(x < 2.0, far, tf.zeros_like(x)))
