"""Replay the golden input of unpacked modules: a worker process (`tools.common.workers`), because a module is a program.

    echo '{"folder": "/tmp/module"}' | python -m tools.verification.replay
    # {"precision": "float32", "tolerance": 0.0001, "differences": {"uint8": 3e-07, "float32": 3e-07, "signatures": 3e-07}}

`precision` is what the module says that it computes in, and `tolerance` what outputs on different machines may differ by then.
`differences` are from the golden output over max(1, its largest magnitude), by how the module was asked. What cannot be replayed is
answered by `{"error": ...}`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tools.common.workers import Message, serve

ERROR_CHARACTERS = 500  # of TensorFlow's messages, which may list a whole graph


def replay(directory: str) -> dict[str, Any]:
    """Return the precision of one SavedModel, its tolerance, and its differences from the outputs that it carries.

    Raises:
      ValueError: it carries no golden input that can be replayed, or answers nothing that can be compared.
    """
    import numpy as np
    import tensorflow as tf
    import tensorflow_hub as hub

    from builders import precision

    compare: Any = precision.difference  # it has no types

    extra = Path(directory) / "assets.extra"
    described = json.loads((extra / "module.json").read_text(encoding="utf-8"))
    with np.load(extra / "golden.npz", allow_pickle=False) as golden:
        images, expected = golden["images"], golden["outputs"]
    if not expected.size or not np.isfinite(expected).all():
        raise ValueError("golden.npz holds no finite outputs")
    low, high = described["row"]["pixel_range"]
    computes_in = described["row"].get("precision", "float32")
    if computes_in not in precision.TOLERANCES:
        raise ValueError(f"it says that it computes in {computes_in!r}; known: {', '.join(precision.TOLERANCES)}")
    floats = (images / np.float32(255) * np.float32(high - low) + np.float32(low)).astype(np.float32)
    module = hub.load(directory)
    signatures = [
        next(iter(module.signatures[name](images=tf.constant(given)).values()))
        for name, given in (("serving_default", floats), ("serving_uint8", images))
        if name in module.signatures
    ]
    if not signatures:
        raise ValueError("it has no signature serving_default")

    def difference(answer: Any) -> float:
        answer = np.asarray(answer)
        if answer.shape != expected.shape:
            raise ValueError(f"it answers {list(answer.shape)}, golden.npz holds {list(expected.shape)}")
        if not np.isfinite(answer).all():
            raise ValueError("it answers numbers that are not finite")
        return float(compare(answer, expected))

    return {
        "precision": computes_in,
        "tolerance": precision.TOLERANCES[computes_in],
        "differences": {
            "uint8": difference(module(images)),
            "float32": difference(module(floats)),
            "signatures": max(map(difference, signatures)),
        },
    }


def answer(message: Message) -> Message:
    """Answer `{"folder": ...}` by what `replay` finds, or by an error in one line."""
    try:
        return replay(message["folder"])
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARACTERS]}


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(serve(answer))
