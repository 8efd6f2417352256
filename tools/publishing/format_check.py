"""Check a file for another runtime in that runtime, beside the module that it was made from, before anything is stored.

    python -m tools.publishing.format_check SPEC.json OUT

SPEC holds `parent` (the folder of the unpacked module), `format`, `made` (the file), `file` and `stem` (where the row is written,
for errors), `evaluation` (the labelled images, or null) and `top1_at_least` (per cent, or null). OUT gets `CHECK.json` with what
was found. The file answers the golden images and images of five sizes as the module does, and its maps are the module's;
its accuracy
on the row's labelled images is measured where the row has some. Progress goes to standard output as lines of JSON.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builders import environment
from tools.common.problems import Problem

SIZES = ((1, 1), (37, 500), None, (768, 1024), (3000, 4000))  # height and width; None is the module's own
# The largest difference over the largest answer. Halves have 11 significant bits; with weights of 8 bits, of which a row shares one
# scale, and activations that are rounded to 8 bits as well, a network of random weights differs by up to 0.023 (measured).
TOLERANCES = {"onnx": 1e-4, "float32": 1e-4, "float16": 1e-2, "int8": 0.1}
# LiteRT computes the weights of the resize in float32. Where PIL rounds to whole levels, a sum close to a half may then fall to the
# other side: one level of 255, in up to 7.2e-4 of the values of noise (measured); answers differ by up to 4.1e-4.
RESIZED_TOLERANCES = {"float32": 2e-3}

Answer = Callable[..., dict[str, Any]]  # answer(images) of a runtime: arrays by name
Say = Callable[[Mapping[str, Any]], None]


class FormatCheckError(ValueError):
    """A file does not do what its page would say."""


def check(spec: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Replay a file; return its differences by size, their tolerance, and its accuracy or None.

    Raises:
      FormatCheckError: it answers something else than the module, its runtime refuses it, or it is less accurate than allowed.
    """
    import numpy as np
    import tensorflow as tf

    parent, format = Path(spec["parent"]), spec["format"]
    described = json.loads((parent / "assets.extra" / "module.json").read_text(encoding="utf-8"))
    require = functools.partial(_require, spec, described["head"])
    say(_stage(f"check {format}"))
    try:
        answers = _onnx(Path(spec["made"])) if format == "onnx" else _litert(Path(spec["made"]))
    except (RuntimeError, ValueError, TypeError) as error:
        require(False, f"its runtime refuses the file: {str(error).strip().splitlines()[-1]}")
    module = tf.saved_model.load(str(parent))
    name = {"classifier": "logits", "feature_extractor": "features"}[described["head"]]
    with np.load(parent / "assets.extra" / "golden.npz", allow_pickle=False) as golden:
        expected = {"golden": (golden["images"], golden["outputs"])}
    resolution, tolerance = described["row"]["resolution"], TOLERANCES[format]
    for size in SIZES:
        height, width = size or (resolution, resolution)
        images = _tiles(height, width) if size else _noise(height)
        expected["own size" if size is None else f"{height}x{width}"] = images, module(images).numpy()
    differences = {}
    for which, (images, wanted) in expected.items():
        say(_stage(f"check {format} at {which}"))
        try:
            found = [answer(images) for answer in answers if answer.takes(images)]
        except RuntimeError as error:
            require(False, f"is refused by its runtime ({which}): {str(error).strip().splitlines()[-1]}")
        values = [each[name] for each in found]
        require(all(value.shape == wanted.shape for value in values), f"answers {which} images with other shapes")
        differences[which] = max(_difference(value, wanted) for value in values)
        allowed = tolerance if which == "own size" else RESIZED_TOLERANCES.get(format, tolerance)
        require(
            differences[which] <= allowed,
            f"differs from the module by {differences[which]:.2g} of the largest answer ({which}), more than {allowed:.2g}",
        )
    if len(found[0]) > 1:
        images = expected["golden"][0][:1]
        stages = {key: value.numpy() for key, value in module.stages(tf.constant(images)).items()}
        found = answers[0](images)
        require(found.keys() == stages.keys(), f"has the outputs {sorted(found)}, the module {sorted(stages)}")
        differences["maps"] = max(_difference(found[key], stages[key]) for key in stages)
        require(differences["maps"] <= tolerance, f"its maps differ from the module's by {differences['maps']:.2g}")
    accuracy = None
    if spec["evaluation"] and described["head"] == "classifier":
        say(_stage(f"measure accuracy of {format}"))
        accuracy = _accuracy(answers[0], name, spec["evaluation"]["path"])
        limit = spec.get("top1_at_least")
        require(
            limit is None or accuracy["value"] >= limit,
            f"has a top-1 accuracy of {accuracy['value']} %, the row allows {limit} at least",
        )
    return {
        "differences": differences,
        "tolerance": RESIZED_TOLERANCES.get(format, tolerance),
        "accuracy": accuracy,
    }


class _Onnx:
    """A session of ONNX Runtime."""

    def __init__(self, path: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [each.name for each in self._session.get_outputs()]

    def takes(self, images: Any) -> bool:
        return True

    def __call__(self, images: Any) -> dict[str, Any]:
        return dict(zip(self._names, self._session.run(self._names, {"images": images}), strict=True))


class _Litert:
    """A signature of a file in LiteRT, which has built-in operations only."""

    def __init__(self, interpreter: Any, signature: str):
        self._interpreter, self._runner = interpreter, interpreter.get_signature_runner(signature)
        self._details = self._runner.get_input_details()["images"]

    def takes(self, images: Any) -> bool:
        """Return whether the signature is for images of this size; -1 is any."""
        return all(
            ours in (-1, given)
            for ours, given in zip(self._details["shape_signature"][1:], images.shape[1:], strict=True)
        )

    def __call__(self, images: Any) -> dict[str, Any]:
        return dict(self._runner(images=images))


def _onnx(path: Path) -> list[Any]:
    return [_Onnx(path)]


def _litert(path: Path) -> list[Any]:
    """Return the signatures of a file, the one for any size first."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return [_Litert(interpreter, name) for name in sorted(interpreter.get_signature_list())]


def _tiles(height: int, width: int) -> Any:
    """Return two uint8 images of coloured tiles: after resampling they have few levels, and none close to a half.

    There PIL's arithmetic rounds, which two runtimes that add up in another order may do differently.
    """
    import numpy as np

    tiles = np.random.default_rng(2).integers(0, 256, (2, 3, 2, 3), dtype=np.uint8)
    return tiles[:, np.arange(height) * 3 // height][:, :, np.arange(width) * 2 // width]


def _noise(resolution: int) -> Any:
    """Return two uint8 images of noise, of the module's own size: they are not resampled."""
    import numpy as np

    return np.random.default_rng(2).integers(0, 256, (2, resolution, resolution, 3), dtype=np.uint8)


def _difference(answer: Any, expected: Any) -> float:
    """Return the largest difference over the largest answer; what is not finite differs by infinity."""
    import numpy as np

    difference = float(np.abs(answer - expected).max() / max(np.abs(expected).max(), 1e-30))
    return difference if np.isfinite(difference) else float("inf")


def _accuracy(answer: Any, name: str, path: str, batch: int = 64) -> dict[str, Any]:
    """Return top-1 (%) on an `.npz` of `images` uint8 `[n, h, w, 3]` and `labels` `[n]`: exact counts."""
    import numpy as np

    with np.load(path, allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    parts = [slice(start, start + batch) for start in range(0, len(labels), batch)]
    correct = sum(int((answer(images[part])[name].argmax(-1) == labels[part]).sum()) for part in parts)
    return {"value": round(100 * correct / len(labels), 2), "correct": correct, "images": len(labels)}


def _require(spec: Mapping[str, Any], head: str, is_so: bool, message: str) -> None:
    """Raise FormatCheckError about a file of a row with `message` unless `is_so`."""
    if not is_so:
        fix = "leave the format out of the row's `formats`: nothing of it was published"
        about = f"the {spec['format']} file of the {head} {message}"
        raise FormatCheckError(str(Problem(spec["file"], about, fix, row=spec["stem"])))


def _stage(name: str) -> dict[str, str]:
    """Return the message that a stage begins."""
    return {"event": "stage", "name": name}


def main(arguments: list[str]) -> int:
    """Check the file of the specification; returns the exit status."""
    specification, out = map(Path, arguments)

    def work(say: Say) -> None:
        found = check(json.loads(specification.read_text()), say)
        out.mkdir(exist_ok=True)
        (out / "CHECK.json").write_text(json.dumps(found))

    return environment.run(work, FormatCheckError)


if __name__ == "__main__":
    environment.end(main(sys.argv[1:]))
