"""A network made of operations that LiteRT has: the portable twin of a module's Keras model.

    twin = portable(model, 224)         # answers normalised images [batch, 224, 224, 3] as `model` does

Normalisations whose statistics are known are folded into kernels, as inference does; LayerNorm is written with a mean and a square
root, for TensorFlow's fused kernel has no counterpart there. All weights are variables, so that two signatures of a file share
them.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from builders.formats import ConversionError
from builders.layers import activate, flatten_rows, tf_padding, unflatten_rows


def portable(model: Any, resolution: int) -> Any:
    """Return a functional model of the same weights and outputs, for images of one size and batches of any.

    Raises ConversionError about a layer that does not compute in float32.
    """
    for layer in model.layers:
        if layer.compute_dtype != "float32":
            raise ConversionError(
                f"the layer {layer.name} computes in {layer.compute_dtype}. Fix: publish files of float32 rows."
            )

    def call(layer: Any, *arguments: Any, **more: Any) -> Any:
        twin = TWINS.get(type(layer).__name__)
        more.pop("training", None) if twin else None
        return (twin(layer) if twin else layer)(*arguments, **more)

    images = keras.Input((resolution, resolution, 3), name="images")
    return keras.models.clone_model(model, input_tensors=images, clone_function=lambda layer: layer, call_function=call)


class _Normalization(keras.layers.Layer):
    """A `LayerNormalization` of plain operations."""

    def __init__(self, source):
        super().__init__(name=f"{source.name}.plain")
        self.source = source

    def call(self, inputs):
        rows = flatten_rows(inputs)
        rows -= tf.reduce_mean(rows, -1, keepdims=True)
        rows *= tf.math.rsqrt(tf.reduce_mean(tf.square(rows), -1, keepdims=True) + self.source.epsilon)
        rows = rows * tf.convert_to_tensor(self.source.gamma) + tf.convert_to_tensor(self.source.beta)
        return unflatten_rows(rows, inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


class _Folded(keras.layers.Layer):
    """A convolution whose kernel and bias were computed from a layer's variables."""

    def __init__(self, source, kernel, bias, padding, activation=None):
        super().__init__(name=f"{source.name}.folded")
        self.source, self.padding, self.activation = source, padding, activation
        self.kernel, self.bias = tf.Variable(kernel.astype(np.float32)), tf.Variable(bias.astype(np.float32))

    def call(self, inputs):
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        outputs = tf.nn.conv2d(inputs, kernel, self.source.strides, tf_padding(self.padding))
        return activate(tf.nn.bias_add(outputs, bias), self.activation)

    def compute_output_shape(self, input_shape):
        return self.source.compute_output_shape(input_shape)


def _normalised_convolution(layer):
    kernel, *vectors = (
        np.asarray(v, np.float64)
        for v in (layer.kernel, layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    gamma, beta, mean, variance = vectors
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return _Folded(layer, kernel * scale, beta - mean * scale, layer.size // 2, layer.activation)


def _standardized_convolution(layer):
    from builders import vit

    kernel = np.asarray(layer.kernel, np.float64)
    rows = kernel.reshape(-1, layer.filters)
    rows = rows - rows.mean(0)
    rows = rows * np.asarray(vit.DEFINITIONS[layer.definition]["scale"](tf.constant(np.square(rows).mean(0))))
    return _Folded(layer, rows.reshape(kernel.shape), np.zeros(layer.filters), "same")


class _Rows(keras.layers.Layer):
    """A `Reshape` of a map to tokens, `[batch, rows, columns, channels] -> [batch, rows * columns, channels]`."""

    def __init__(self, source):
        super().__init__(name=f"{source.name}.plain")

    def call(self, inputs):
        return tf.reshape(inputs, [-1, inputs.shape[1] * inputs.shape[2], inputs.shape[3]])


class _Token(keras.layers.Layer):
    """A `ClassToken` whose copies are sums, for the number of images is not known."""

    def __init__(self, source):
        super().__init__(name=f"{source.name}.plain")
        self.source = source

    def call(self, inputs):
        return tf.concat([0.0 * inputs[:, :1] + tf.convert_to_tensor(self.source.token), inputs], 1)


# By the name of the class; all other layers are the module's own.
TWINS = {
    "ClassToken": _Token,
    "LayerNormalization": _Normalization,
    "NormalisedConvolution": _normalised_convolution,
    "Reshape": _Rows,
    "StandardizedConvolution": _standardized_convolution,
}
