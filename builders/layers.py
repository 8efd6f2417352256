"""Layers that two or more families share, written for the kernels that TensorFlow fuses on a CPU.

Each is an ordinary Keras 3 layer: serialisable, mixed-precision aware, float32 variables unless Keras is set to another floatx.
Channels are last everywhere, whatever `keras.config.image_data_format()` says.
`deferred_weights()` builds layers whose variables hold NaN until a checkpoint sets them; `override_drop_path()` and
`override_shifts()` give layers further inputs while a graph is traced.
"""

import contextlib
import contextvars
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from builders.registration import PACKAGE

if keras.config.backend() != "tensorflow":
    raise ImportError(
        f"the layers of builders are made of TensorFlow's operations, and Keras's backend is {keras.config.backend()}. "
        'Fix: set KERAS_BACKEND=tensorflow, or "backend": "tensorflow" in ~/.keras/keras.json.'
    )

_DEFERRED: contextvars.ContextVar[Any] = contextvars.ContextVar("deferred_weights", default=None)
_DROP_PATH: contextvars.ContextVar[Any] = contextvars.ContextVar("drop_path", default=None)
_SHIFTS: contextvars.ContextVar[Any] = contextvars.ContextVar("shifts", default=None)
register = keras.saving.register_keras_serializable(PACKAGE)


@contextlib.contextmanager
def deferred_weights(initializer: Any = None) -> Iterator[None]:
    """Build layers without drawing initial values: a variable that no checkpoint sets stays NaN, so that outputs show it.

    `initializer`: a Keras initialiser to use instead of NaN.
    """
    token = _DEFERRED.set(initializer or keras.initializers.Constant(math.nan))
    try:
        yield
    finally:
        _DEFERRED.reset(token)


@contextlib.contextmanager
def override_drop_path(factors: Mapping[str, Any]) -> Iterator[None]:
    """Multiply branches by `factors[name of the DropPath layer]` (float32 `[batch]`) in training, instead of drawing numbers."""
    token = _DROP_PATH.set(factors)
    try:
        yield
    finally:
        _DROP_PATH.reset(token)


@contextlib.contextmanager
def override_shifts(shifts: Mapping[str, Any]) -> Iterator[None]:
    """Let every `Shift` layer add `shifts[its map]` to its input."""
    token = _SHIFTS.set(shifts)
    try:
        yield
    finally:
        _SHIFTS.reset(token)


def initializer(value: Any) -> Any:
    """Return the Keras initialiser of a weight, or the one of `deferred_weights` inside it.

    `value`: a standard deviation (truncated normal), "zeros", "ones", a constant's `(value,)`, or an initialiser's configuration.
    """
    if _DEFERRED.get():
        return _DEFERRED.get()
    if isinstance(value, tuple):
        return keras.initializers.Constant(value[0])
    if isinstance(value, float):
        return keras.initializers.TruncatedNormal(stddev=value)
    return keras.initializers.get(value)


@register
class Beginning(keras.layers.Layer):
    """Mark where the network of a family begins: images pass unchanged.

    It tells the family to `builders.restore`, `write` and `maps`, also of models that were cut, extended, or saved and loaded.
    """

    def __init__(self, family: str, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.family = family

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "family": self.family}


@register
class Linear(keras.layers.Layer):
    """`x @ kernel + bias` over the last axis, `[..., inputs] -> [..., units]`, then an optional `activation`.

    Computed on a matrix, whatever the rank: only there does TensorFlow fuse product, bias and exact GELU.
    `activation`: None, "gelu" (exact, erf), "gelu_tanh" or "relu".
    """

    def __init__(self, units, *, activation=None, stddev=0.02, **kwargs):
        super().__init__(**kwargs)
        self.units, self.activation, self.stddev = units, activation, stddev

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], self.units), initializer=initializer(self.stddev)
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=initializer("zeros"))

    def call(self, inputs):
        rows = flatten_rows(inputs)
        outputs = tf.nn.bias_add(tf.matmul(rows, tf.convert_to_tensor(self.kernel)), tf.convert_to_tensor(self.bias))
        return unflatten_rows(activate(outputs, self.activation), inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "activation": self.activation, "stddev": self.stddev}


@register
class Convolution(keras.layers.Layer):
    """2-D convolution `[batch, h, w, inputs] -> [batch, h', w', filters]`, kernel `[size, size, inputs, filters]`.

    `padding`: "valid", "same" (TensorFlow's and XLA's rule) or a number of zero rows on each side (PyTorch's).
    Groups need more than `tf.nn.conv2d`: see builders/regnety.py.
    """

    def __init__(self, filters, size, *, strides=1, padding="valid", use_bias=True, stddev=0.02, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.strides, self.padding = filters, size, strides, padding
        self.use_bias, self.stddev = use_bias, stddev

    def build(self, input_shape):
        shape = (self.size, self.size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer(self.stddev))
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer=initializer("zeros"))

    def call(self, inputs):
        if self.padding == "valid" and any(length is not None and length < self.size for length in inputs.shape[1:3]):
            raise ValueError(f"{self.name}: its map would be empty, the images are too small. Fix: pass larger images.")
        outputs = tf.nn.conv2d(inputs, tf.convert_to_tensor(self.kernel), self.strides, tf_padding(self.padding))
        return tf.nn.bias_add(outputs, tf.convert_to_tensor(self.bias)) if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        rows, columns = (spatial(n, self.size, self.strides, self.padding) for n in input_shape[1:3])
        return (input_shape[0], rows, columns, self.filters)

    def get_config(self):
        keys = ("filters", "size", "strides", "padding", "use_bias", "stddev")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


@register
class DepthwiseConvolution(keras.layers.Layer):
    """One `size` x `size` filter for each channel, stride 1, same spatial size; kernel `[size, size, channels, 1]`, with bias."""

    def __init__(self, size, *, stddev=0.02, **kwargs):
        super().__init__(**kwargs)
        self.size, self.stddev = size, stddev

    def build(self, input_shape):
        shape = (self.size, self.size, input_shape[-1], 1)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer(self.stddev))
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer=initializer("zeros"))

    def call(self, inputs):
        outputs = tf.nn.depthwise_conv2d(inputs, tf.convert_to_tensor(self.kernel), [1, 1, 1, 1], "SAME")
        return tf.nn.bias_add(outputs, tf.convert_to_tensor(self.bias))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "size": self.size, "stddev": self.stddev}


@register
class LayerNormalization(keras.layers.Layer):
    """Normalise the last axis to mean 0 and variance 1 (`epsilon` inside the root), then scale and shift.

    Statistics are float32, or float64 where the layer computes in it. In float32 written as a batch normalisation whose channels
    are the rows: the one form that has a fused kernel on a CPU. That kernel does not know float64.
    """

    def __init__(self, *, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=initializer("ones"))
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer=initializer("zeros"))

    def call(self, inputs):
        rows = flatten_rows(tf.cast(inputs, statistics_dtype(inputs)))
        if rows.dtype == tf.float64:
            mean, variance = tf.nn.moments(rows, [-1], keepdims=True)
            normalised = (rows - mean) * tf.math.rsqrt(variance + self.epsilon)
        else:
            count = tf.shape(rows)[:1]
            columns = tf.reshape(rows, [1, -1, rows.shape[-1], 1])
            columns, *_ = tf.compat.v1.nn.fused_batch_norm(
                columns, tf.ones(count), tf.zeros(count), epsilon=self.epsilon, data_format="NCHW"
            )
            normalised = tf.reshape(columns, [-1, rows.shape[-1]])
        outputs = normalised * tf.cast(self.gamma, rows.dtype) + tf.cast(self.beta, rows.dtype)
        return unflatten_rows(tf.cast(outputs, self.compute_dtype), inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@register
class LayerScale(keras.layers.Layer):
    """Multiply each channel by a learnt number that starts near zero (Touvron et al. 2021, section 3.2)."""

    def __init__(self, *, initial=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=initializer((self.initial,)))

    def call(self, inputs):
        return inputs * tf.convert_to_tensor(self.gamma)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial": self.initial}


@register
class DropPath(keras.layers.Layer):
    """Stochastic depth (Huang et al. 2016): in training, drop an image's branch with probability `rate * share`, scale up the rest.

    `share` grows from 0 at the first block to 1 at the last; `rate` is the model's drop path rate.
    """

    def __init__(self, rate=0.0, share=1.0, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.share = rate, share

    def call(self, inputs, training=False):
        factors = _DROP_PATH.get()
        if not training or self.share == 0 or (factors is None and self.rate == 0):
            return inputs
        if factors is None:
            factor = drop_path_factors(self.rate, [self.share], tf.random.uniform([1, tf.shape(inputs)[0]]))[0]
        else:
            factor = tf.stop_gradient(factors[self.name])
        return inputs * tf.cast(tf.reshape(factor, [-1] + [1] * (inputs.shape.rank - 1)), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "share": self.share}


def drop_path_factors(rate: Any, shares: Any, numbers: Any) -> Any:
    """Return what stochastic depth multiplies branches by, float32 `[branches, batch]`: 0, or 1 over the probability of keeping.

    `rate`: the model's, a scalar; `shares`: of the branches (see `DropPath`); `numbers`: uniform in [0, 1), `[branches, batch]`.
    """
    keep = 1.0 - tf.cast(rate, tf.float32) * tf.constant(shares, tf.float32)[:, tf.newaxis]
    return tf.math.divide_no_nan(tf.floor(keep + numbers), keep)


@register
class Shift(keras.layers.Layer):
    """Add to a map `[batch, h, w, channels]` what `override_shifts` has under the name `of`; else the identity.

    To tokens `[batch, 1 + h * w, channels]`, the class token first, the same is added, and to the class token nothing.
    """

    def __init__(self, of, **kwargs):
        super().__init__(**kwargs)
        self.of = of

    def call(self, inputs):
        shifts = _SHIFTS.get()
        if shifts is None:
            return inputs
        shift = tf.cast(shifts[self.of], inputs.dtype)
        if inputs.shape.rank == 3:
            shift = tf.reshape(shift, [-1, shift.shape[1] * shift.shape[2], shift.shape[3]])
            shift = tf.pad(shift, [[0, 0], [1, 0], [0, 0]])[:, : inputs.shape[1]]
        return inputs + shift

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "of": self.of}


@register
class GlobalAverage(keras.layers.Layer):
    """The mean over height and width: `[batch, h, w, channels] -> [batch, channels]`."""

    def call(self, inputs):
        return tf.reduce_mean(inputs, [1, 2])

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])


def last_outputs(model: Any, pattern: str, name: Callable[[int], str]) -> dict[str, Any]:
    """Return `{name(number): output}` of the layers that `pattern` matches, its group being the number; the last one counts."""
    found = {}
    for layer in model.layers:
        match = re.fullmatch(pattern, layer.name)
        if match:
            found[name(int(match[1]))] = layer.output
    return found


def statistics_dtype(inputs: Any) -> Any:
    """Return the type for sums over many of `inputs`: float32, or float64 for float64."""
    return tf.float64 if inputs.dtype == tf.float64 else tf.float32


def flatten_rows(inputs: Any) -> Any:
    """Reshape `[..., channels] -> [rows, channels]`."""
    return inputs if inputs.shape.rank == 2 else tf.reshape(inputs, [-1, inputs.shape[-1]])


def unflatten_rows(rows: Any, like: Any) -> Any:
    """Reshape `[rows, channels] -> [..., channels]` with the leading axes of `like`."""
    if like.shape.rank == 2:
        return rows
    if like.shape[1:-1].is_fully_defined():  # a static shape keeps the graph small
        return tf.reshape(rows, [-1, *like.shape[1:-1], rows.shape[-1]])
    return tf.reshape(rows, tf.concat([tf.shape(like)[:-1], [rows.shape[-1]]], 0))


def activate(inputs: Any, activation: str | None) -> Any:
    """Apply an activation by name (see `Linear`)."""
    match activation:
        case None:
            return inputs
        case "gelu":
            # Not tf.nn.gelu, which is written with erfc: converters have no such operation. This spelling is the one that TensorFlow's
            # own optimiser, OpenVINO and LiteRT all make one kernel of.
            return 0.5 * inputs * (1.0 + tf.math.erf(inputs / math.sqrt(2)))
        case "gelu_tanh":
            # What tf.nn.gelu(approximate=True) computes, without its power, which keeps the CPU's graph optimiser from fusing it.
            cubic = 0.044715 * (inputs * tf.square(inputs))
            return (0.5 * inputs) * (1.0 + tf.tanh(math.sqrt(2 / math.pi) * (inputs + cubic)))
        case "relu":
            return tf.nn.relu(inputs)
    raise ValueError(f"unknown activation {activation!r}. Fix: use None, gelu, gelu_tanh or relu.")


def tf_padding(padding: str | int) -> Any:
    """Return `padding` (see `Convolution`) as TensorFlow's operations take it."""
    return padding.upper() if isinstance(padding, str) else [[0, 0], [padding] * 2, [padding] * 2, [0, 0]]


def spatial(length: int | None, size: int, strides: int, padding: str | int) -> int | None:
    """Return the length of an axis after a convolution; None stays None."""
    if length is None:
        return None
    if padding == "same":
        return -(-length // strides)
    return (length + 2 * (padding if isinstance(padding, int) else 0) - size) // strides + 1
