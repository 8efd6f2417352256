"""Convert modules for another runtime and let that answer images: a process for each converter, since converters leak memory.

    python -m tests.support.converting onnx FOLDER

Each folder in FOLDER has a SavedModel `module` and `images.npz`, batches of images. It gets `onnx.npz` with the answers under the
names of the batches, or `onnx.txt` with what went wrong. `litert` converts for two batches, "own size" and, where there is one,
"labelled": for this with all kinds of weights, to `float32.tflite`, `float16.tflite` and `int8.tflite`.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CI"] = "true"  # OpenVINO then reports nothing to its makers
Batches = dict[str, np.ndarray]


def onnx(folder: Path, images: Batches) -> Batches:
    """As `python -m tf2onnx.convert` does it, and by ONNX Runtime."""
    import onnxruntime
    import tf2onnx.convert

    path = folder / "module.onnx"
    sys.argv[1:] = ["--saved-model", str(folder / "module"), "--output", str(path)]
    tf2onnx.convert.main()
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    return {name: session.run(None, {given.name: batch})[0] for name, batch in images.items()}


def openvino(folder: Path, images: Batches) -> Batches:
    """By OpenVINO, which reads SavedModels; height, width and batch stay free."""
    import openvino as ov

    model = ov.convert_model(folder / "module")
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    return {name: compiled(batch)[0] for name, batch in images.items()}


def litert(folder: Path, images: Batches) -> Batches:
    """By LiteRT's converter, which TensorFlow has, and its interpreter: a file for one size of images, which go one at a time."""
    import tensorflow as tf

    module = tf.saved_model.load(str(folder / "module"))

    def file(size: tuple[int, ...], smaller: bool = False, types: list[tf.DType] = []) -> bytes:  # noqa: B006
        function = tf.function(lambda images: module(images))
        fixed = function.get_concrete_function(tf.TensorSpec([1, *size], tf.float32))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([fixed], module)
        converter.optimizations = [tf.lite.Optimize.DEFAULT] if smaller else []
        converter.target_spec.supported_types = types
        return converter.convert()

    own = images["own size"]
    answers = {"own size": _interpreted(file(own.shape[1:]), own)}
    if "labelled" in images:
        batch = images["labelled"]
        for kind, settings in {"float32": (), "float16": (True, [tf.float16]), "int8": (True,)}.items():
            data = file(batch.shape[1:], *settings)
            (folder / f"{kind}.tflite").write_bytes(data)
            answers[f"labelled {kind}"] = _interpreted(data, batch)
    return answers


def _interpreted(model: bytes, batch: np.ndarray) -> np.ndarray:
    """Return what LiteRT, which has its built-in operations only, answers to the images of a batch."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for image in batch:
        interpreter.set_tensor(given["index"], image[np.newaxis])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(answer["index"]))
    return np.concatenate(answers)


CONVERTERS: dict[str, Callable[[Path, Batches], Batches]] = {"onnx": onnx, "openvino": openvino, "litert": litert}


def main(name: str, parent: str) -> None:
    for folder in sorted(Path(parent).iterdir()):
        with np.load(folder / "images.npz") as images:
            batches = dict(images)
        try:
            np.savez(folder / f"{name}.npz", **CONVERTERS[name](folder, batches))
        except Exception:
            (folder / f"{name}.txt").write_text(traceback.format_exc())


if __name__ == "__main__":
    main(*sys.argv[1:])
