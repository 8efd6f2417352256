"""How large a model is: parameters and multiply-adds, exact, of a model that exists or of a row whose weights are nowhere.

counting.multiply_adds(model, 224)          # of a built model
counting.count_row(row).parameters          # of a row of the catalogue, in a second, without memory for its weights
"""

import contextlib
import math
from dataclasses import dataclass

import keras
import tensorflow as tf

import builders
from builders import layers

MULTIPLY_OPS = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum")


@dataclass(frozen=True)
class Counts:
    """Numbers of weights, of those that training changes, and of multiply-adds for one image."""

    parameters: int
    trainable_parameters: int
    multiply_adds: int


def multiply_adds(model, resolution):
    """Multiply-adds of one image `[resolution, resolution, 3]` through convolutions and matrix products, as its graph has them."""
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec([1, resolution, resolution, 3], tf.float32)
    )
    return _graph_multiply_adds(traced.graph)


def count_row(row):
    """The `Counts` of a row of the catalogue (its facts): of the classifier, or of the encoder where the row has no classes."""
    return count(row["family"], row["resolution"], num_classes=row["classes"], **builders.arguments(row))


def count(family, resolution, **arguments):
    """The `Counts` of `builders.create(family, **arguments)` at a resolution."""
    shape = [resolution, resolution, 3]
    with tf.Graph().as_default() as graph, _weights_without_values():
        model = builders.create(family, **{"input_shape": tuple(shape)} | arguments)
        model(tf.compat.v1.placeholder(tf.float32, [1, *shape]), training=False)
        return Counts(
            model.count_params(),
            sum(math.prod(variable.shape) for variable in model.trainable_variables),
            _graph_multiply_adds(graph),
        )


@contextlib.contextmanager
def _weights_without_values():
    """In a graph that never runs: a variable is a placeholder, which has a shape and takes no memory, and little time."""

    class Shape(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return tf.compat.v1.placeholder(dtype, shape)

    def creator(_, initial_value, **_others):
        return initial_value() if callable(initial_value) else initial_value

    with layers.deferred_weights(Shape()), tf.variable_creator_scope(creator):
        yield


def _graph_multiply_adds(graph):
    return sum(_op_multiply_adds(op) for op in graph.get_operations() if op.type in MULTIPLY_OPS)


def _op_multiply_adds(op):
    """Outputs of one operation, times the products that are summed in each."""
    first, second, outputs = op.inputs[0].shape, op.inputs[1].shape, op.outputs[0].shape.num_elements()
    match op.type:
        case "Conv2D":  # kernel [rows, columns, inputs / groups, outputs]
            return outputs * second[:3].num_elements()
        case "DepthwiseConv2dNative":  # kernel [rows, columns, channels, multiplier]
            return outputs * second[:2].num_elements()
        case "Einsum":  # every index once
            operands = op.get_attr("equation").decode().split("->")[0].split(",")
            sizes = {}
            for indices, shape in zip(operands, (first, second), strict=True):
                sizes.update(zip(indices, shape.as_list(), strict=True))
            return math.prod(sizes.values())
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return outputs * first[-2 if transposed else -1]
