"""Replay the golden input of unpacked modules: one folder a line on standard input, one JSON line of findings for each.

    echo /tmp/module | python -m tools.verification.replay        # {"precision": "float32", "uint8": 3e-07, "float32": 3e-07, ...}

Findings are the precision that the module says it computes in, and by how it was asked the largest difference from the golden
output over max(1, its largest magnitude); or `{"error": ...}`. A module
is a program: replaying one runs it.
"""

import json
import os
import sys
from pathlib import Path


def replay(directory):
    """The precision of one SavedModel, and its differences from the outputs that it carries, by how it was asked."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_hub as hub

    from builders import precision

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
    module = hub.load(str(directory))
    signatures = [
        next(iter(module.signatures[name](images=tf.constant(given)).values()))
        for name, given in (("serving_default", floats), ("serving_uint8", images))
        if name in module.signatures
    ]
    if not signatures:
        raise ValueError("it has no signature serving_default")

    def difference(answer):
        answer = np.asarray(answer)
        if answer.shape != expected.shape:
            raise ValueError(f"it answers {list(answer.shape)}, golden.npz holds {list(expected.shape)}")
        if not np.isfinite(answer).all():
            raise ValueError("it answers numbers that are not finite")
        return precision.difference(answer, expected)

    return {
        "precision": computes_in,
        "uint8": difference(module(images)),
        "float32": difference(module(floats)),
        "signatures": max(map(difference, signatures)),
    }


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # What libraries print must not come between the findings.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            found = replay(line.rstrip("\n"))
        except Exception as error:
            found = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        print(json.dumps(found), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
