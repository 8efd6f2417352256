"""`portable.onnx`: a published module for ONNX Runtime, OpenVINO and browsers, uint8 images of any size and number.

    write(parent, "classifier", model, described, "portable.onnx")

The preprocessing is the module's own graph, converted by tf2onnx, in float64 where it has that; the network is emitted layer by
layer (builders/formats/onnx_network.py). Names are given in the order of computation, so that the same module gives the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from builders.formats import ConversionError
from builders.formats.onnx_network import Graph, emit

OPSET = 20  # of LayerNormalization (17) and Gelu
CONVERTED_OPSET = 18  # the last that tf2onnx knows; what it writes means the same in 20
IR_VERSION = 9  # the first with opset 20, for older runtimes
LARGEST_BYTES = (1 << 31) - 1  # of a protocol buffer


def write(path: Path, model: Any, described: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[str]:
    """Write a module as an ONNX file; return the sorted names of its operations.

    Args:
      path: of the file.
      model: the module's Keras model (see builders/unrolling.py).
      described: its `assets.extra/module.json`.
      outputs: the Keras tensors that it answers, by name.

    Raises:
      ConversionError: a layer or an operation is not ONNX's own, or the file would be larger than a protocol buffer may be.
    """
    graph, resolution = Graph(), described["row"]["resolution"]
    for name in ("images", *outputs):
        graph.free_name(name)  # layers may have these names, too
    normalised = _add_preprocessing(described, graph)
    found = emit(model, normalised, resolution, outputs, graph)
    nodes = [
        *graph.nodes,
        *(helper.make_node("Identity", [value], [name], name=name) for name, (value, _) in found.items()),
    ]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", "height", "width", 3])
    answers = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape[1:]])
        for name, (_, shape) in found.items()
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "module", [images], answers, list(graph.initializers.values())),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hubpress",
    )
    if proto.ByteSize() > LARGEST_BYTES:
        raise ConversionError(
            f"the file would have {proto.ByteSize():,} bytes, a protocol buffer has at most {LARGEST_BYTES:,}. "
            "Fix: leave the format out."
        )
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return sorted({node.op_type for node in nodes})


def _add_preprocessing(described: Mapping[str, Any], graph: Graph) -> str:
    """Add what the module does with its `images` before its network; return the name of the result, channels last."""
    import tensorflow as tf
    import tf2onnx

    from builders.preprocessing import Transform, preprocess

    definition, row = described["preprocessing"], described["row"]
    specification = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")

    @tf.function(input_signature=[specification])  # type: ignore[untyped-decorator]
    def prepare(images: Any) -> Any:
        return preprocess(
            images,
            Transform.from_dict(definition["transform"]),
            mean=definition["normalization"]["mean"],
            std=definition["normalization"]["std"],
            pixel_range=tuple(row["pixel_range"]),
        )

    converted, _ = tf2onnx.convert.from_function(prepare, input_signature=[specification], opset=CONVERTED_OPSET)
    foreign = sorted({node.domain for node in converted.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise ConversionError(f"the preprocessing has operations of {foreign}. Fix: correct builders/preprocessing.py.")
    return _add_converted(converted.graph, graph)


def _add_converted(converted: Any, graph: Graph) -> str:
    """Add a converter's graph under names of ours, in the order in which its output needs them; return that output.

    The converter's own names differ from process to process, and so may its order.
    """
    (source,), (output,) = (each.name for each in converted.input), (each.name for each in converted.output)
    makers = {name: node for node in converted.node for name in node.output}
    constants = {each.name: each for each in converted.initializer}
    names, waiting = {source: "images", "": ""}, [output]
    while waiting:
        value = waiting[-1]
        if value in names:
            waiting.pop()
        elif value in constants:
            array = numpy_helper.to_array(constants[value])
            names[value] = name = graph.free_name("preprocessing.constant")
            graph.initializers[name] = numpy_helper.from_array(array, name)
        else:
            node = makers[value]
            missing = [name for name in node.input if name not in names]
            if missing:
                waiting += reversed(missing)
                continue
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            name = graph.free_name("preprocessing")
            copy.name = name
            for field in ("doc_string", "domain"):  # both are empty, and whether they are there at all differs, too
                copy.ClearField(field)
            copy.input[:] = [names[each] for each in node.input]
            copy.output[:] = [name if not i else graph.free_name(f"{name}.output") for i in range(len(node.output))]
            names |= dict(zip(node.output, copy.output, strict=True))
            attributes = sorted(copy.attribute, key=lambda attribute: attribute.name)
            del copy.attribute[:]
            copy.attribute.extend(attributes)
            graph.nodes.append(copy)
    return names[output]
