"""Replay the golden input of a module in a file for another runtime: a worker process (`tools.common.workers`).

    echo '{"file": "int8.tflite", "format": "int8", "golden": "golden.npz"}' | python -m tools.verification.format_replay
    # {"difference": 0.002}

The difference is from the golden output, over its largest magnitude, and the largest of all signatures that take the golden images.
Where the runtime is not installed the answer is `{"missing": PACKAGE}`; what cannot be replayed is answered by `{"error": ...}`.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from tools.catalog import layout
from tools.common.workers import Message, serve

ERROR_CHARACTERS = 500
RUNTIMES = {"onnx": ("onnxruntime", "onnxruntime"), "lite": ("ai_edge_litert", "ai-edge-litert")}  # import, and package


def replay(file: str, format_name: str, golden: str) -> Message:
    """Return the largest difference of a file's answers from the golden output, or the package that is missing.

    Raises:
      ValueError: it takes no golden image, or answers nothing that can be compared.
      Exception: whatever a runtime raises at a file.
    """
    import importlib.util

    import numpy as np

    kind = layout.kind_of_format(format_name)
    module, package = RUNTIMES[kind]
    if importlib.util.find_spec(module) is None:
        return {"missing": package}
    with np.load(golden, allow_pickle=False) as stored:
        images, expected = stored["images"], stored["outputs"]
    if not expected.size or not np.isfinite(expected).all():
        raise ValueError("golden.npz holds no finite outputs")
    differences = []
    for answer in _onnx(file) if kind == "onnx" else _litert(file, images.shape):
        found = np.asarray(answer(images))
        if found.shape != expected.shape:
            raise ValueError(f"it answers {list(found.shape)}, golden.npz holds {list(expected.shape)}")
        if not np.isfinite(found).all():
            raise ValueError("it answers numbers that are not finite")
        differences.append(float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)))
    if not differences:
        raise ValueError("none of its signatures takes the golden images")
    return {"difference": max(differences)}


def _onnx(file: str) -> Iterator[Callable[[Any], Any]]:
    """Yield what answers images, uint8 `[n, h, w, 3]`, by the first output of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0].name
    yield lambda images: session.run([first], {"images": images})[0]


def _litert(file: str, shape: tuple[int, ...]) -> Iterator[Callable[[Any], Any]]:
    """Yield what answers images of a shape, for each signature of a LiteRT file that takes them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file)
    for name in sorted(interpreter.get_signature_list()):
        runner = interpreter.get_signature_runner(name)
        sizes = runner.get_input_details()["images"]["shape_signature"]
        if all(size in (-1, given) for size, given in zip(sizes[1:], shape[1:], strict=True)):
            outputs = sorted(runner.get_output_details())
            answer = "logits" if "logits" in outputs else "features" if "features" in outputs else outputs[0]
            yield lambda images, runner=runner, answer=answer: runner(images=images)[answer]  # type: ignore[misc]


def answer(message: Message) -> Message:
    """Answer a request by what `replay` finds, or by an error in one line."""
    try:
        return replay(message["file"], message["format"], message["golden"])
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARACTERS]}


if __name__ == "__main__":
    sys.exit(serve(answer))
