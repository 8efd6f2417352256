"""Check a built row the way a consumer meets it: through tensorflow_hub, in a fresh process, before anything is stored.

    echo '{"head": "classifier"}' | python -m tools.publishing.check SPEC.json OUT     # SPEC and OUT as builders.build had them

The heads come by standard input, a line of JSON for each as soon as it is built; OUT/HEAD.check.json holds what was found.
Progress goes to standard output, `{"event": "stage", "name": ...}`, and `{"event": "checked", "head": ...}` after each head.
For each head: the golden output is reproduced from uint8 and from float32 images, the signatures agree, a 1x1 and a 4000x3000
image are answered, labels fit, `hub.KerasLayer` takes a training step that changes every trainable variable, and the accuracy on
the row's labelled images is measured where it has some.
"""

import functools
import gc
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from builders import environment
from tools.common.problems import Problem

SIZES = ((1, 1), (4000, 3000))

Say = Callable[[Mapping[str, Any]], None]
Require = Callable[[bool, str], None]  # raises CheckError with the message unless it is so


class CheckError(ValueError):
    """A module does not do what its page would say."""


def check(spec: Mapping[str, Any], out: Path, heads: Iterable[str], say: Say) -> None:
    """Check `heads` below `out`, and write what was found out about each beside it.

    Args:
      spec: the specification (see tools/publishing/specification.py).
      out: the folder with a SavedModel and `HEAD.json` for each head.
      heads: an iterable that may wait for the next.
      say: is called with messages for the parent process.

    Raises:
      CheckError: something is not as it should be.
    """
    import tensorflow  # noqa: F401 (seconds, while the first head is still being built)
    import tensorflow_hub  # noqa: F401

    for head in heads:
        built = json.loads((out / f"{head}.json").read_text())
        findings = check_head(spec, head, out / head, built, say)
        (out / f"{head}.check.json").write_text(json.dumps(findings))
        say({"event": "checked", "head": head})
        gc.collect()  # functions and variables of a module refer to each other: without this two modules lie in memory


def check_head(
    spec: Mapping[str, Any], head: str, directory: Path, built: Mapping[str, Any], say: Say
) -> dict[str, Any]:
    """Check one SavedModel; returns what its record states about it. Raises CheckError."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_hub as hub

    from builders import precision

    row = {**spec["module"]["row"], "file": spec["file"]}
    require = functools.partial(_require, row, head)
    say(_stage(f"check {head}"))
    module = hub.load(str(directory))
    golden = np.load(directory / "assets.extra/golden.npz", allow_pickle=False)
    images, expected = golden["images"], golden["outputs"]
    low, high = row["pixel_range"]
    floats = (images / np.float32(255) * np.float32(high - low) + np.float32(low)).astype(np.float32)
    output = built["signature"]["outputs"][0]
    serving_default, serving_uint8 = (module.signatures[name] for name in ("serving_default", "serving_uint8"))
    # Each way in, but both images at once by one of them only: the largest networks take seconds for an image.
    first, last = slice(0, 1), slice(1, None)
    answers = {
        "module(uint8)": (slice(None), module(images)),
        "module(float32)": (last, module(floats[last])),
        "serving_default": (first, serving_default(images=tf.constant(floats[first]))[output["name"]]),
        "serving_uint8": (last, serving_uint8(images=tf.constant(images[last]))[output["name"]]),
    }
    worst, tolerance = 0.0, precision.tolerance(row)
    for name, (part, answer) in answers.items():
        require(answer.shape == expected[part].shape, f"{name} has the shape {list(answer.shape)}")
        difference = float(np.abs(answer.numpy() - expected[part]).max() / max(1, np.abs(expected).max()))
        require(
            difference <= tolerance,
            f"{name} differs from the golden output by {difference:.2g}, more than {tolerance:.2g}",
        )
        worst = max(worst, difference)
    require(
        answer.dtype.name == output["dtype"] and list(answer.shape[1:]) == output["shape"][1:],
        f"answers {answer.dtype.name} {list(answer.shape)}, the signature says {output}",
    )
    for height, width in SIZES:
        answer = module(np.full((1, height, width, 3), high, np.float32)).numpy()
        require(np.isfinite(answer).all(), f"answers {answer.ravel()[:3]} to a white {height}x{width} image")
    _check_maps(module, built, images[:1], expected[:1], tolerance, require)
    if head == "classifier" and spec["labels"]:
        names = [name.decode() for name in module.labels().numpy()]
        require(names == spec["labels"], f"labels() gives {len(names)} names, not the {len(spec['labels'])} of the row")
    findings: dict[str, Any] = {
        "golden_tolerance": tolerance,
        "keras_difference": worst,
        "sizes": [f"{height}x{width}" for height, width in SIZES],
    }
    if head == "classifier" and spec.get("evaluation"):
        say(_stage("measure accuracy"))
        findings["top1"] = _accuracy(module, spec["evaluation"])
    if row["fine_tunable"]:
        say(_stage(f"fine-tune {head}"))
        # One image, for the memory; with batch statistics two, or those of a map of one pixel leave nothing to learn from.
        has_statistics = len(module.variables) > len(module.trainable_variables)
        findings["fine_tuned"] = _fine_tune(hub, tf, module, row, require, images if has_statistics else images[:1])
    return findings


def _check_maps(
    module: Any, built: Mapping[str, Any], images: Any, expected: Any, tolerance: float, require: Require
) -> None:
    """Check `stages()`: the answer, and the maps that the signature lists, with the golden values (by their mean magnitudes)."""
    import numpy as np

    output = built["signature"]["outputs"][0]["name"]
    maps = {each["name"]: each for each in built["signature"]["maps"]}
    found = {name: answer.numpy() for name, answer in module.stages(images).items()}
    require(set(found) == {output, *maps}, f"stages() gives {sorted(found)}, not {sorted({output, *maps})}")
    answer = found.pop(output)
    difference = float(np.abs(answer - expected).max() / max(1, np.abs(expected).max()))
    require(difference <= tolerance, f"stages()[{output!r}] differs from the golden one by {difference:.2g}")
    for name, values in found.items():
        require(list(values.shape[1:]) == maps[name]["shape"][1:], f"stages()[{name!r}] is {values.shape}")
        magnitude = float(np.abs(values).mean())
        difference = abs(magnitude - built["magnitudes"][name]) / max(1e-6, built["magnitudes"][name])
        require(difference <= tolerance, f"stages()[{name!r}] differs from the golden one by {difference:.2g}")


def _accuracy(module: Any, evaluation: Mapping[str, Any], batch: int = 64) -> dict[str, Any]:
    """Return top-1 (%) of a classifier on an `.npz` of `images` uint8 `[n, h, w, 3]` and `labels` `[n]`: exact counts."""
    import numpy as np

    data = np.load(evaluation["path"], allow_pickle=False)
    images, labels = data["images"], data["labels"]
    correct = sum(
        int((module(images[i : i + batch]).numpy().argmax(-1) == labels[i : i + batch]).sum())
        for i in range(0, len(labels), batch)
    )
    return {"value": round(100 * correct / len(labels), 2), "correct": correct, "images": len(labels)}


def _fine_tune(hub: Any, tf: Any, module: Any, row: Mapping[str, Any], require: Require, images: Any) -> bool:
    """Take one step of gradient descent through `hub.KerasLayer(trainable=True)`; every trainable variable must have changed.

    `images` are uint8. All in one graph: the gradient of a variable is gone as soon as it is applied, where outside of a graph all
    of them lie in memory beside all intermediate results.
    """
    size = row["resolution"]
    layer = hub.KerasLayer(module, trainable=True, arguments={"drop_path_rate": 0.0})
    low, high = row["pixel_range"]
    batch = tf.image.convert_image_dtype(tf.constant(images[:, :size, :size]), tf.float32) * (high - low) + low
    variables = layer.trainable_variables
    require(len(variables) > 0, "says it is fine-tunable, but hub.KerasLayer finds no trainable variable")

    def step(batch: Any) -> tuple[Any, Any, Any]:
        with tf.GradientTape() as tape:
            outputs = layer(batch, training=True)
            loss = tf.reduce_mean(tf.square(outputs - 1.0))
        norms, changed = [], []
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            require(gradient is not None, f"no gradient reaches {variable.name}")
            norm = tf.norm(gradient)
            before = tf.convert_to_tensor(variable)
            after = before - 1e-3 / norm * gradient
            norms.append(norm)
            changed.append(tf.reduce_any(after != before))
            variable.assign(after)
        return outputs, tf.stack(norms), tf.stack(changed)

    # The Python of this function is plain: without autograph its errors keep their type.
    outputs, norms, changed = tf.function(step, autograph=False)(batch)
    for variable, norm, moved in zip(variables, norms.numpy(), changed.numpy(), strict=True):
        require(0 < norm < float("inf"), f"the gradient of {variable.name} has norm {norm}")
        require(moved, f"a training step leaves {variable.name} as it was")
    answer = layer(batch, training=False)
    require(bool(tf.reduce_all(tf.math.is_finite(answer))), "answers NaN after one training step")
    require(float(tf.reduce_max(tf.abs(answer - outputs))) > 0, "a training step changed nothing")
    return True


def _require(row: Mapping[str, Any], head: str, is_so: bool, message: str) -> None:
    """Raise CheckError about a head of a row with `message` unless `is_so`."""
    if not is_so:
        fix = f"correct the row, its checkpoint or builders/{row['family']}.py: nothing was published"
        raise CheckError(str(Problem(row["file"], f"the {head} {message}", fix, row=row["stem"])))


def _stage(name: str) -> dict[str, str]:
    """Return the message that a stage begins."""
    return {"event": "stage", "name": name}


def main(arguments: list[str]) -> int:
    """Check the heads that standard input names; returns the exit status."""
    specification, out = map(Path, arguments)
    heads = (json.loads(line)["head"] for line in sys.stdin)
    return environment.run(lambda say: check(json.loads(specification.read_text()), out, heads, say), CheckError)


if __name__ == "__main__":
    environment.end(main(sys.argv[1:]))
