"""Size of a model: exact parameters and multiply-adds, of a built model or of a row without its weights.

counting.multiply_adds(model, 224)          # of a built model
counting.count_row(row).parameters          # of a row of the catalogue, in a second, without memory for its weights
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

import builders
from builders import layers

MULTIPLY_OPS = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum")


@dataclass(frozen=True)
class Counts:
    """Numbers of weights, of weights that training changes, and of multiply-adds for one image."""

    parameters: int
    trainable_parameters: int
    multiply_adds: int


def multiply_adds(model: Any, resolution: int) -> int:
    """Return the multiply-adds of one image `[resolution, resolution, 3]` in the convolutions and matrix products of its graph."""
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec([1, resolution, resolution, 3], tf.float32)
    )
    return _graph_multiply_adds(traced.graph)


def count_row(row: Mapping[str, Any]) -> Counts:
    """Return the `Counts` of a row of the catalogue (its facts): the classifier's, or the encoder's if the row has no classes."""
    return count(row["family"], row["resolution"], num_classes=row["classes"], **builders.arguments(row))


def count(family: str, resolution: int, **arguments: Any) -> Counts:
    """Return the `Counts` of `builders.create(family, **arguments)` at a resolution."""
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
def _weights_without_values() -> Iterator[None]:
    """Make every variable a placeholder, which has a shape and takes no memory; only for graphs that never run."""

    class Shape(keras.initializers.Initializer):  # type: ignore[misc]  # Keras is not typed
        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            return tf.compat.v1.placeholder(dtype, shape)

    def creator(_: Any, initial_value: Any, **_others: Any) -> Any:
        return initial_value() if callable(initial_value) else initial_value

    with layers.deferred_weights(Shape()), tf.variable_creator_scope(creator):
        yield


def _graph_multiply_adds(graph: Any) -> int:
    return sum(_op_multiply_adds(op) for op in graph.get_operations() if op.type in MULTIPLY_OPS)


def _op_multiply_adds(op: Any) -> int:
    """Return the outputs of one operation, times the products that are summed in each."""
    first, second = op.inputs[0].shape, op.inputs[1].shape
    outputs = int(op.outputs[0].shape.num_elements())
    match op.type:
        case "Conv2D":  # kernel [rows, columns, inputs / groups, outputs]
            return outputs * int(second[:3].num_elements())
        case "DepthwiseConv2dNative":  # kernel [rows, columns, channels, multiplier]
            return outputs * int(second[:2].num_elements())
        case "Einsum":  # every index once
            operands = op.get_attr("equation").decode().split("->")[0].split(",")
            sizes: dict[str, int] = {}
            for indices, shape in zip(operands, (first, second), strict=True):
                sizes.update(zip(indices, shape.as_list(), strict=True))
            return math.prod(sizes.values())
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return outputs * int(first[-2 if transposed else -1])
