"""`float32.tflite`, `float16.tflite`, `int8.tflite`: a published module for LiteRT, in phones and browsers.

    write(Path("int8.tflite"), "int8", model, described, "logits")

A file has two signatures, which share weights: `fixed` takes uint8 images of the module's own size, and does the least; `anysize`
takes uint8 images of any size and resizes them as the module does, with weights computed in float32. "float16" and "int8" say how
weights are stored: halves, or 8 bits with a scale for each channel (dynamic range: sums are of whole numbers, activations are not).
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builders.formats import ConversionError

LARGEST_BYTES = (1 << 31) - 1  # of a FlatBuffer


def write(
    path: Path,
    format: str,
    model: Any,
    described: Mapping[str, Any],
    output: str,
) -> list[str]:
    """Write a module as a LiteRT file; return the sorted names of its operations.

    Args:
      path: of the file.
      format: "float32", "float16" or "int8".
      model: the module's Keras model (see builders/unrolling.py).
      described: its `assets.extra/module.json`.
      output: the name of its answer.

    Raises:
      ConversionError: LiteRT has no operation of its own for one that the module needs, or the file would be too large.
    """
    import tensorflow as tf

    from builders.formats.litert_network import portable
    from builders.preprocessing import Transform, preprocess

    definition, row = described["preprocessing"], described["row"]
    resolution = row["resolution"]
    network = portable(model, resolution)
    weights = 4 * sum(math.prod(variable.shape) for variable in model.variables)
    if weights > LARGEST_BYTES:
        raise ConversionError(
            f"the weights have {weights:,} bytes, a FlatBuffer has at most {LARGEST_BYTES:,}. Fix: leave the format out."
        )

    def answer(images: Any) -> Any:
        normalised = preprocess(
            images,
            Transform.from_dict(definition["transform"]),
            mean=definition["normalization"]["mean"],
            std=definition["normalization"]["std"],
            pixel_range=tuple(row["pixel_range"]),
            portable=True,
        )
        return network(normalised, training=False)

    shapes = {"fixed": [None, resolution, resolution, 3], "anysize": [None, None, None, 3]}
    signatures = {name: _frozen(answer, shape, output) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory(prefix="hubpress-litert-") as folder:
        tf.saved_model.save(tf.Module(), folder, signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=sorted(signatures))
        if format != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16] if format == "float16" else []
        try:
            content = converter.convert()
        except Exception as error:
            raise ConversionError(
                f"LiteRT's converter refuses it: {str(error).strip().splitlines()[0]}. Fix: leave the format out."
            ) from error
    content = _shared(content)
    path.write_bytes(content)
    return operations(content)


def _frozen(answer: Any, shape: list[int | None], output: str) -> Any:
    """Return a function of uint8 images of a shape with constants instead of variables, which the converter would keep."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specification = tf.TensorSpec(shape, tf.uint8, name="images")
    frozen = convert_variables_to_constants_v2(
        tf.function(answer).get_concrete_function(specification), lower_control_flow=False
    )

    @tf.function(input_signature=[specification])  # type: ignore[untyped-decorator]
    def named(images: Any) -> Any:
        return {output: frozen(images)[0]}

    return named


def _shared(content: bytes) -> bytes:
    """Return a file whose signatures share equal constants: the converter writes those of each function."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    first: dict[bytes, int] = {}
    same: dict[int, int] = {}
    for index, buffer in enumerate(model.buffers):
        data = b"" if buffer.data is None else bytes(buffer.data)
        same[index] = first.setdefault(data, index) if data else index
        if same[index] != index:
            buffer.data = None
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = same[tensor.buffer]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operations(content: bytes) -> list[str]:
    """Return the sorted names of the operations of a LiteRT file. Raises ConversionError for one that is not built in."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = {max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes}
    if schema.BuiltinOperator.CUSTOM in codes:
        foreign = sorted(code.customCode.decode() for code in model.operatorCodes if code.customCode)
        raise ConversionError(
            f"it has operations that LiteRT has not: {', '.join(foreign)}. Fix: leave the format out."
        )
    return sorted(names[code] for code in codes)
