"""Files for other runtimes as the evaluator calls them: images in, logits out, like a module.

call = load("/cache/modules/0123...", "int8")
logits = call(images)            # images uint8 [n, h, w, 3], logits float32 [n, classes]
"""

from collections.abc import Callable
from typing import Any

from tools.catalog.layout import LITE, kind_of_format
from tools.evaluation import EvaluationError

INSTALL = "pip install 'hubpress[formats]'"
OUTPUT = "logits"
ANY_SIZE, FIXED = "anysize", "fixed"  # signatures of LiteRT files


def load(file: str, format_name: str) -> Callable[[Any], Any]:
    """Return a function from images, uint8 `[n, h, w, 3]`, to logits, float32 `[n, classes]`.

    Raises:
      EvaluationError: the runtime is not installed, or refuses the file.
    """
    try:
        return _litert(file) if kind_of_format(format_name) == LITE else _onnx(file)
    except ImportError as error:
        raise EvaluationError(f"{format_name} needs a runtime that is not installed: {error}", INSTALL) from error
    except Exception as error:  # whatever a runtime raises at a foreign file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EvaluationError(
            f"{file}: its runtime refuses the file: {reason}", "check it with tools/verify.py"
        ) from error


def _onnx(file: str) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {"images": images})[0]


def _litert(file: str) -> Callable[[Any], Any]:
    """Return the signature for any size, and the fixed one for images of its size."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file)
    runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    size = tuple(runners[FIXED].get_input_details()["images"]["shape_signature"][1:]) if FIXED in runners else None

    def call(images: Any) -> Any:
        name = FIXED if images.shape[1:] == size or ANY_SIZE not in runners else ANY_SIZE
        return runners[name](images=images)[OUTPUT]

    return call
