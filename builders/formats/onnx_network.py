"""A network as ONNX operations, layer by layer: LayerNorm, GELU and convolutions arrive as the runtime's own.

    graph = Graph()
    outputs = emit(model, "images", resolution, {"logits": model.output}, graph)
    graph.nodes, graph.initializers

A converter of TensorFlow graphs sees what a layer is made of, and a runtime then does not find its fused kernels again. This file
has a function for each layer of the families instead. Convolutions and what is between them lie as `[batch, channels, rows,
columns]`, matrix products over channels as `[batch, rows, columns, channels]`; a map is transposed where one kind meets the
other, once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from builders.formats import ConversionError

LAST, FIRST = "channels last", "channels first"
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
GELU = {"gelu": "none", "gelu_tanh": "tanh"}


class Graph:
    """Nodes and constants, collected in the order of computation; equal constants of one name are kept once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._names: set[str] = set()

    def constant(self, name: str, value: Any) -> str:
        """Add an array, float32 unless it is of whole numbers; return its name."""
        array = np.ascontiguousarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        name = self.free_name(name)
        self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, operation: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add an operation with one output; return the name of it."""
        name = self.free_name(name)
        self.nodes.append(helper.make_node(operation, list(inputs), [name], name=name, **attributes))
        return name

    def free_name(self, name: str) -> str:
        """Return a name that nothing has yet: `name`, or with a number behind it."""
        found, number = name, 1
        while found in self._names:
            number += 1
            found = f"{name}.{number}"
        self._names.add(found)
        return found


class _Value:
    """A tensor of the network: its shape with channels last, and its names by layout; without rows and columns only `LAST`."""

    def __init__(self, shape: tuple[int | None, ...], layout: str, name: str):
        self.shape, self.names = shape, {layout: name}


class _Emission:
    """One walk over a network."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def name(self, value: _Value, layout: str) -> str:
        """Return the name of a value in a layout, transposed now if it is not there yet."""
        if layout not in value.names:
            (other,) = value.names.values()
            order = TO_FIRST if layout == FIRST else TO_LAST
            value.names[layout] = self.graph.node("Transpose", [other], f"{other}.transposed", perm=order)
        return value.names[layout]

    def own_layout(self, value: _Value) -> str:
        """Return the layout in which a value was computed."""
        return next(iter(value.names))


Layer = Callable[[_Emission, Any, list[_Value], tuple[int | None, ...], Mapping[str, Any]], _Value]


def emit(
    model: Any, images: str, resolution: int, outputs: Mapping[str, Any], graph: Graph
) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Add the layers between a Keras model's input and `outputs` (Keras tensors by name) to a graph.

    Args:
      model: a functional model with the family's layers.
      images: the value of the graph with the normalised images, `[batch, resolution, resolution, 3]`.
      resolution: pixels.
      outputs: what is computed; maps have their channels last, as in the module.
      graph: where the operations go.

    Returns:
      The names of the outputs in the graph, and their shapes.

    Raises:
      ConversionError: about a layer that is not known here, or that does not compute in float32.
    """
    import keras

    network = keras.Model(model.input, dict(outputs))
    emission = _Emission(graph)
    values = {id(model.inputs[0]): _Value((None, resolution, resolution, 3), LAST, images)}
    depths = sorted(network._nodes_by_depth.items(), reverse=True)  # private, and pinned by the lock
    for node in [node for _, nodes in depths for node in nodes if not node.is_input]:
        layer, inputs = node.operation, [values[id(tensor)] for tensor in node.input_tensors]
        kind = type(layer).__name__
        if kind not in LAYERS:
            raise ConversionError(
                f"the layer {layer.name} is a {kind}, which has no ONNX operations. "
                "Fix: add it to LAYERS in builders/formats/onnx_network.py, or leave the format out."
            )
        if layer.compute_dtype != "float32":
            raise ConversionError(
                f"the layer {layer.name} computes in {layer.compute_dtype}. Fix: publish files of float32 rows."
            )
        given = [value.shape for value in inputs]
        arguments = {key: value for key, value in node.arguments.kwargs.items() if key != "training"}
        shape = _shape(layer, kind, given, arguments)
        values[id(node.outputs[0])] = LAYERS[kind](emission, layer, inputs, shape, arguments)
    found = {name: values[id(tensor)] for name, tensor in outputs.items()}
    return {name: (emission.name(value, LAST), value.shape) for name, value in found.items()}


def _shape(layer: Any, kind: str, given: list[Any], arguments: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Return the shape of a layer's output at the network's resolution, channels last."""
    if kind == "Attention":
        return (None, 1 if arguments.get("token_only") else given[0][1], given[0][2])
    if kind == "TakeToken":
        return (None, 1, given[0][2]) if layer.keep_axis else (None, given[0][2])
    if kind == "TokensToMap":
        return (None, *layer.grid, given[0][2])
    if kind == "Reshape":
        return (None, given[0][1] * given[0][2], given[0][3])
    return tuple(layer.compute_output_shape(given if len(given) > 1 else given[0]))


def _array(variable: Any) -> Any:
    return np.asarray(variable, np.float64)


def _same(emission, layer, inputs, shape, arguments):
    """What only marks or trains."""
    return inputs[0]


def _activated(emission, name, activation, label):
    graph = emission.graph
    if activation is None:
        return name
    if activation in GELU:
        return graph.node("Gelu", [name], f"{label}.gelu", approximate=GELU[activation])
    if activation == "relu":
        return graph.node("Relu", [name], f"{label}.relu")
    raise ConversionError(f"the layer {label} has the activation {activation}. Fix: add it to onnx_network.py.")


def _product(emission, name, rank, kernel, bias, label):
    """Add a matrix product over the last axis, and a bias."""
    graph = emission.graph
    kernel, bias = graph.constant(f"{label}.kernel", kernel), graph.constant(f"{label}.bias", bias)
    if rank == 2:
        return graph.node("Gemm", [name, kernel, bias], label)
    return graph.node("Add", [graph.node("MatMul", [name, kernel], f"{label}.product"), bias], label)


def _linear(emission, layer, inputs, shape, arguments):
    name = emission.name(inputs[0], LAST)
    name = _product(emission, name, len(shape), _array(layer.kernel), _array(layer.bias), layer.name)
    return _Value(shape, LAST, _activated(emission, name, layer.activation, layer.name))


def _convolved(emission, label, given, shape, kernel, bias, *, strides, padding, groups, activation=None):
    """Add a convolution of a kernel `[size, size, inputs / groups, filters]`; `padding` as that of the layers."""
    size = kernel.shape[0]
    if padding == "same":
        missing = [max(0, (n - 1) * strides + size - given.shape[axis]) for axis, n in enumerate(shape[1:3], 1)]
        pads = [n // 2 for n in missing] + [n - n // 2 for n in missing]
    else:
        pads = [0 if padding == "valid" else padding] * 4
    graph, constants = emission.graph, []
    constants.append(graph.constant(f"{label}.kernel", kernel.transpose(3, 2, 0, 1)))
    if bias is not None:
        constants.append(graph.constant(f"{label}.bias", bias))
    name = graph.node(
        "Conv",
        [emission.name(given, FIRST), *constants],
        label,
        kernel_shape=[size, size],
        strides=[strides, strides],
        pads=pads,
        group=groups,
    )
    return _Value(shape, FIRST, _activated(emission, name, activation, label))


def _convolution(emission, layer, inputs, shape, arguments):
    bias = _array(layer.bias) if layer.use_bias else None
    more = {"strides": layer.strides, "padding": layer.padding, "groups": 1}
    return _convolved(emission, layer.name, inputs[0], shape, _array(layer.kernel), bias, **more)


def _standardized_convolution(emission, layer, inputs, shape, arguments):
    """With the kernel that the layer's variable stands for."""
    import tensorflow as tf

    from builders import vit

    kernel = _array(layer.kernel)
    rows = kernel.reshape(-1, layer.filters)
    rows = rows - rows.mean(0)
    scale = vit.DEFINITIONS[layer.definition]["scale"](tf.constant(np.square(rows).mean(0)))
    kernel = (rows * np.asarray(scale)).reshape(kernel.shape)
    more = {"strides": layer.strides, "padding": layer.padding, "groups": 1}
    return _convolved(emission, layer.name, inputs[0], shape, kernel, None, **more)


def _depthwise_convolution(emission, layer, inputs, shape, arguments):
    kernel, bias = _array(layer.kernel).transpose(0, 1, 3, 2), _array(layer.bias)
    more = {"strides": 1, "padding": "same", "groups": shape[-1]}
    return _convolved(emission, layer.name, inputs[0], shape, kernel, bias, **more)


def _normalised_convolution(emission, layer, inputs, shape, arguments):
    """With the running statistics inside kernel and bias."""
    scale = _array(layer.gamma) / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    bias = _array(layer.beta) - _array(layer.moving_mean) * scale
    more = {"strides": layer.strides, "padding": layer.size // 2, "groups": layer.groups}
    kernel = _array(layer.kernel) * scale
    return _convolved(emission, layer.name, inputs[0], shape, kernel, bias, activation=layer.activation, **more)


def _layer_normalization(emission, layer, inputs, shape, arguments):
    constants = [emission.graph.constant(f"{layer.name}.{v.name}", _array(v)) for v in (layer.gamma, layer.beta)]
    given = [emission.name(inputs[0], LAST), *constants]
    name = emission.graph.node("LayerNormalization", given, layer.name, axis=-1, epsilon=layer.epsilon)
    return _Value(shape, LAST, name)


def _group_normalization(emission, layer, inputs, shape, arguments):
    """As an instance normalisation of the groups, for which every runtime has a kernel."""
    from builders import vit

    graph, label, channels = emission.graph, layer.name, shape[-1]
    grouped = graph.constant(f"{label}.groups", np.array([0, vit.GROUPS, -1], np.int64))
    back = graph.constant(f"{label}.shape", np.array([0, channels, *shape[1:3]], np.int64))
    unit = [graph.constant(f"{label}.{n}", value(vit.GROUPS)) for n, value in (("ones", np.ones), ("zeros", np.zeros))]
    rows = graph.node("Reshape", [emission.name(inputs[0], FIRST), grouped], f"{label}.grouped")
    rows = graph.node("InstanceNormalization", [rows, *unit], f"{label}.normalised", epsilon=layer.epsilon)
    name = graph.node("Reshape", [rows, back], f"{label}.map")
    gamma, beta = (graph.constant(f"{label}.{v.name}", _array(v)[:, None, None]) for v in (layer.gamma, layer.beta))
    name = graph.node("Add", [graph.node("Mul", [name, gamma], f"{label}.scaled"), beta], label)
    return _Value(shape, FIRST, _activated(emission, name, layer.activation, label))


def _layer_scale(emission, layer, inputs, shape, arguments):
    """Scale the channels: in the constants of the product that makes them, if nothing else reads that."""
    graph, name = emission.graph, emission.name(inputs[0], LAST)
    gamma, add = _array(layer.gamma), graph.nodes[-1]
    product = graph.nodes[-2] if len(graph.nodes) > 1 else None
    if add.op_type == "Add" and add.output[0] == name and product is not None and product.op_type == "MatMul":
        for constant in (product.input[1], add.input[1]):
            scaled = numpy_helper.to_array(graph.initializers[constant]).astype(np.float64) * gamma
            graph.initializers[constant] = numpy_helper.from_array(scaled.astype(np.float32), constant)
        return inputs[0]
    return _Value(shape, LAST, graph.node("Mul", [name, graph.constant(f"{layer.name}.gamma", gamma)], layer.name))


def _add(emission, layer, inputs, shape, arguments):
    """In the layout of the shortcut, which is the longer-lived one."""
    layout = emission.own_layout(inputs[0])
    return _Value(
        shape, layout, emission.graph.node("Add", [emission.name(value, layout) for value in inputs], layer.name)
    )


def _relu(emission, layer, inputs, shape, arguments):
    layout = emission.own_layout(inputs[0])
    return _Value(shape, layout, emission.graph.node("Relu", [emission.name(inputs[0], layout)], layer.name))


def _max_pooling(emission, layer, inputs, shape, arguments):
    size, strides, given = layer.pool_size[0], layer.strides[0], inputs[0]
    missing = [max(0, (n - 1) * strides + size - given.shape[axis]) for axis, n in enumerate(shape[1:3], 1)]
    pads = [0] * 4 if layer.padding == "valid" else [n // 2 for n in missing] + [n - n // 2 for n in missing]
    name = emission.graph.node(
        "MaxPool",
        [emission.name(given, FIRST)],
        layer.name,
        kernel_shape=[size, size],
        strides=[strides, strides],
        pads=pads,
    )
    return _Value(shape, FIRST, name)


def _global_average(emission, layer, inputs, shape, arguments):
    graph = emission.graph
    if emission.own_layout(inputs[0]) == FIRST:
        name = graph.node("GlobalAveragePool", [emission.name(inputs[0], FIRST)], f"{layer.name}.pool")
        return _Value(shape, LAST, graph.node("Flatten", [name], layer.name))
    axes = graph.constant(f"{layer.name}.axes", np.array([1, 2], np.int64))
    return _Value(shape, LAST, graph.node("ReduceMean", [emission.name(inputs[0], LAST), axes], layer.name, keepdims=0))


def _response_normalization(emission, layer, inputs, shape, arguments):
    graph, label, name = emission.graph, layer.name, emission.name(inputs[0], LAST)
    axes = [graph.constant(f"{label}.{n}", np.array(v, np.int64)) for n, v in (("plane", [1, 2]), ("channels", [-1]))]
    norms = graph.node("ReduceL2", [name, axes[0]], f"{label}.norms", keepdims=1)
    mean = graph.node("ReduceMean", [norms, axes[1]], f"{label}.mean", keepdims=1)
    mean = graph.node("Add", [mean, graph.constant(f"{label}.epsilon", np.float32(layer.epsilon))], f"{label}.divisor")
    relative = graph.node("Div", [norms, mean], f"{label}.relative")
    gamma, beta = (graph.constant(f"{label}.{v.name}", _array(v)) for v in (layer.gamma, layer.beta))
    one = graph.constant(f"{label}.one", np.float32(1))
    scale = graph.node("Add", [graph.node("Mul", [relative, gamma], f"{label}.gain"), one], f"{label}.scale")
    return _Value(shape, LAST, graph.node("Add", [graph.node("Mul", [name, scale], f"{label}.scaled"), beta], label))


def _excite(emission, layer, inputs, shape, arguments):
    graph, label = emission.graph, layer.name
    gates = graph.node("Sigmoid", [emission.name(inputs[1], LAST)], f"{label}.gates")
    axes = graph.constant(f"{label}.axes", np.array([2, 3], np.int64))
    gates = graph.node("Unsqueeze", [gates, axes], f"{label}.planes")
    return _Value(shape, FIRST, graph.node("Mul", [emission.name(inputs[0], FIRST), gates], label))


def _attention(emission, layer, inputs, shape, arguments):
    graph, label, name = emission.graph, layer.name, emission.name(inputs[0], LAST)
    hidden = inputs[0].shape[2]
    width = hidden // layer.heads
    kernel, bias = _array(layer.qkv_kernel).reshape(hidden, 3, hidden), _array(layer.qkv_bias).reshape(3, hidden)
    scaled = np.array([width**-0.5, 1, 1])  # the queries' factor lies in their weights
    kernel, bias = kernel * scaled[:, None], bias * scaled[:, None]
    asking = name
    if arguments.get("token_only"):
        asking = _slice(graph, name, 0, 1, f"{label}.token")
    parts = {}
    if asking == name:
        rows = _product(emission, name, 3, kernel.reshape(hidden, -1), bias.reshape(-1), f"{label}.qkv")
        names = [graph.free_name(f"{label}.{part}") for part in ("queries", "keys", "values")]
        graph.nodes.append(helper.make_node("Split", [rows], names, name=f"{label}.parts", axis=-1, num_outputs=3))
        parts = dict(zip(("queries", "keys", "values"), names, strict=True))
    else:
        parts = {
            part: _product(emission, asking if not i else name, 3, kernel[:, i], bias[i], f"{label}.{part}")
            for i, part in enumerate(("queries", "keys", "values"))
        }
    heads = graph.constant(f"{label}.heads", np.array([0, -1, layer.heads, width], np.int64))
    orders = {"queries": (0, 2, 1, 3), "keys": (0, 2, 3, 1), "values": (0, 2, 1, 3)}
    by_head = {}
    for part, order in orders.items():
        rows = graph.node("Reshape", [parts[part], heads], f"{label}.{part}.heads")
        by_head[part] = graph.node("Transpose", [rows], f"{label}.{part}.by_head", perm=order)
    scores = graph.node("MatMul", [by_head["queries"], by_head["keys"]], f"{label}.scores")
    shares = graph.node("Softmax", [scores], f"{label}.shares", axis=-1)
    mixed = graph.node("MatMul", [shares, by_head["values"]], f"{label}.mixed")
    mixed = graph.node("Transpose", [mixed], f"{label}.by_token", perm=(0, 2, 1, 3))
    rows = graph.constant(f"{label}.rows", np.array([0, -1, hidden], np.int64))
    mixed = graph.node("Reshape", [mixed, rows], f"{label}.joined")
    kernel, bias = _array(layer.out_kernel).reshape(hidden, hidden), _array(layer.out_bias)
    return _Value(shape, LAST, _product(emission, mixed, 3, kernel, bias, label))


def _slice(graph, name, start, end, label):
    """Add the tokens from `start` to `end` of `[batch, tokens, hidden]`."""
    bounds = {"start": [start], "end": [end], "axis": [1]}
    given = [graph.constant(f"{label}.{key}", np.array(value, np.int64)) for key, value in bounds.items()]
    return graph.node("Slice", [name, *given], label)


def _class_token(emission, layer, inputs, shape, arguments):
    """One copy of the token for each image: its product with ones, and the tokens behind it."""
    graph, label, name = emission.graph, layer.name, emission.name(inputs[0], LAST)
    token = graph.constant(f"{label}.token", _array(layer.token))
    count = graph.node("Shape", [name], f"{label}.batch", start=0, end=1)
    rest = graph.constant(f"{label}.one_token", np.array([1, shape[-1]], np.int64))
    sizes = graph.node("Concat", [count, rest], f"{label}.sizes", axis=0)
    token = graph.node("Expand", [token, sizes], f"{label}.tokens")
    return _Value(shape, LAST, graph.node("Concat", [token, name], label, axis=1))


def _position_embedding(emission, layer, inputs, shape, arguments):
    embedding = emission.graph.constant(f"{layer.name}.embedding", _array(layer.embedding))
    return _Value(shape, LAST, emission.graph.node("Add", [emission.name(inputs[0], LAST), embedding], layer.name))


def _take_token(emission, layer, inputs, shape, arguments):
    graph, name = emission.graph, emission.name(inputs[0], LAST)
    if layer.keep_axis:
        return _Value(shape, LAST, _slice(graph, name, 0, 1, layer.name))
    if inputs[0].shape[1] > 1:
        name = _slice(graph, name, 0, 1, f"{layer.name}.first")
    axis = graph.constant(f"{layer.name}.axis", np.array([1], np.int64))
    return _Value(shape, LAST, graph.node("Squeeze", [name, axis], layer.name))


def _tokens_to_map(emission, layer, inputs, shape, arguments):
    graph = emission.graph
    tokens = _slice(graph, emission.name(inputs[0], LAST), 1, 1 + math.prod(layer.grid), f"{layer.name}.tokens")
    sizes = graph.constant(f"{layer.name}.shape", np.array([0, *layer.grid, shape[-1]], np.int64))
    return _Value(shape, LAST, graph.node("Reshape", [tokens, sizes], layer.name))


def _reshape(emission, layer, inputs, shape, arguments):
    sizes = emission.graph.constant(f"{layer.name}.shape", np.array([0, -1, shape[-1]], np.int64))
    return _Value(shape, LAST, emission.graph.node("Reshape", [emission.name(inputs[0], LAST), sizes], layer.name))


# What each layer becomes, by the name of its class. `Reshape`, `MaxPooling2D`, `Add` and `ReLU` are Keras's own.
LAYERS: dict[str, Layer] = {
    "Add": _add,
    "Attention": _attention,
    "Beginning": _same,
    "ClassToken": _class_token,
    "Convolution": _convolution,
    "DepthwiseConvolution": _depthwise_convolution,
    "DropPath": _same,
    "Excite": _excite,
    "GlobalAverage": _global_average,
    "GlobalResponseNormalization": _response_normalization,
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "LayerScale": _layer_scale,
    "Linear": _linear,
    "MaxPooling2D": _max_pooling,
    "NormalisedConvolution": _normalised_convolution,
    "PositionEmbedding": _position_embedding,
    "ReLU": _relu,
    "Rectify": _relu,
    "Reshape": _reshape,
    "StandardizedConvolution": _standardized_convolution,
    "TakeToken": _take_token,
    "TokensToMap": _tokens_to_map,
}
