"""Convert modules for another runtime and let that answer images: a process for each converter, since converters leak memory.

    python -m tests.support.converting onnx FOLDER

Each folder in FOLDER has a SavedModel `module` and `images.npz`, batches of images. It gets `onnx.npz` with the answers under the
names of the batches, or `onnx.txt` with what went wrong. `litert` answers the batch "own size" only, and if it has many images also
with smaller weights, under "float16" and "int8"; its files are `float32.tflite`, `float16.tflite` and `int8.tflite`.
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
MANY = 100  # images, which are enough to measure accuracy with


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
    """By LiteRT's converter, which TensorFlow has, and its interpreter: images of one size, one at a time."""
    import tensorflow as tf

    module, batch = tf.saved_model.load(str(folder / "module")), images["own size"]
    fixed = tf.TensorSpec([1, *batch.shape[1:]], tf.float32)
    function = tf.function(lambda images: module(images)).get_concrete_function(fixed)
    answers = {}
    for weights, types in {"float32": None, "float16": [tf.float16], "int8": []}.items():
        if types is not None and len(batch) < MANY:
            continue
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        if types is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = types
        (folder / f"{weights}.tflite").write_bytes(converter.convert())
        answers["own size" if types is None else weights] = _interpreted(folder / f"{weights}.tflite", batch)
    return answers


def _interpreted(path: Path, batch: np.ndarray) -> np.ndarray:
    """Return what LiteRT, which has its built-in operations only, answers to the images of a batch."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
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
