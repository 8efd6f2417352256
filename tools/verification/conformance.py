"""Conformance: compare the builders' outputs with those that upstream implementations gave for the same input.

    results = list(replay([Path("tests/golden")], transforms))      # tools/conformance.py prints them

Two kinds of goldens, described in tests/golden/README.md: a case (a folder with case.json, a checkpoint and io.npz)
checks a family's model and the reading of its checkpoints; a preprocessing folder (IMAGE.png and IMAGE__TRANSFORM.png
or .npz) checks the transforms. The two are separate, so that a difference tells which of them is wrong.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import builders
from tools.common.problems import with_fix

# Largest difference: of outputs relative to max(1, max |reference|); of images in levels of 255.
OUTPUT_LIMIT = 1e-4
LEVEL_LIMITS: dict[str, dict[str, float]] = {
    ".png": {"max": 2.0, "mean": 0.45},  # upstream works on 8 bits
    ".npz": {"max": 0.25},  # upstream works on floats, stored as float16
}

# Checkpoints in .npz and timm's belong to two definitions of one architecture (GELU, epsilons, standardisation). In the timm cases
# the width factor applies to the ResNet's stages, not to its stem.
VIT_DEFINITIONS: dict[str, dict[str, Any]] = {
    "augreg_npz": {"definition": "jax"},
    "timm": {"definition": "timm", "stem_width": 64},
    "transformers": {"definition": "transformers"},
}
TRANSFORMERS_EPSILON = 1e-12  # of the last normalisation of transformers' ConvNeXts: `layer_norm_eps` in config.json
FIXED_SIZE_FAMILIES = ("vit",)  # made for one image size; the checkpoint's position embedding is resized to it


@dataclass(frozen=True)
class ConformanceResult:
    """Differences of the builders from one golden.

    Attributes:
        case: the golden's name.
        values: differences by name, in the order to print them.
        limits: the largest allowed difference for each name that has one.
        error: why it could not be compared; None if it was.
    """

    case: str
    values: Mapping[str, float]
    limits: Mapping[str, float]
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Tell whether it was compared and every difference is within its limit; not-a-number never is."""
        return self.error is None and all(self.values[name] <= limit for name, limit in self.limits.items())

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        result = {"case": self.case, "passed": self.passed, **self.values}
        return result if self.error is None else {**result, "error": self.error}

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.case} error: {self.error}"
        levels = "max" in self.values
        line = [self.case] + [f"{key}={value:{'.5f' if levels else '.2e'}}" for key, value in self.values.items()]
        for key, limit in self.limits.items():
            if not self.values[key] <= limit:
                line.append(f"FAILED: {key} above {limit:g}")
        return " ".join(line)


def replay(folders: Iterable[str | Path], transforms: Mapping[str, Mapping[str, Any]]) -> Iterator[ConformanceResult]:
    """Compare every golden in `folders`.


    Args:
        folders: paths of cases, of preprocessing folders, or of folders that hold such, at any depth.
        transforms: the rows of modules/preprocessing.toml by name.

    Yields:
        A `ConformanceResult` for each golden, and one with an error for each folder in which there is none.
    """
    for folder in folders:
        found = False
        for golden in _goldens(Path(folder)):
            found = True
            yield replay_case(golden) if golden.is_dir() else replay_image(golden, transforms)
        if not found:
            yield ConformanceResult(
                str(folder),
                {},
                {},
                with_fix("no goldens here", "name a folder with case.json or IMAGE__TRANSFORM files"),
            )


def _goldens(folder: Path) -> Iterator[Path]:
    """Yield case folders and IMAGE__TRANSFORM files below `folder`, in order of their names."""
    if (folder / "case.json").is_file():
        yield folder
        return
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir():
            yield from _goldens(entry)
        elif "__" in entry.stem and entry.suffix in LEVEL_LIMITS:
            yield entry


def replay_case(folder: Path) -> ConformanceResult:
    """Compare one case folder: logits and features of every batch, and for RegNetY one step in training mode."""
    try:
        values = _output_differences(folder)
    except Exception as error:  # one broken case must not hide the others
        return ConformanceResult(folder.name, {}, {}, _one_line(error))
    return ConformanceResult(folder.name, values, dict.fromkeys(values, OUTPUT_LIMIT))


def architecture_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the architecture of a case: the keys of its case.json that are arguments of its family's `network`."""
    known = inspect.signature(builders.family_module(case["family"]).network).parameters
    return {key: value for key, value in case.items() if key in known and key != "num_classes"}


def _output_differences(folder: Path) -> dict[str, float]:
    import keras

    case = json.loads((folder / "case.json").read_text("utf-8"))
    family = case["family"]
    with np.load(folder / "io.npz", allow_pickle=False) as file:
        arrays = dict(file)
    indices = sorted(int(match[1]) for match in (re.fullmatch(r"images_(\d+)", name) for name in arrays) if match)
    if not indices:
        raise ValueError(with_fix("io.npz has no array images_0", "write the case again"))

    def make(shape: tuple[int, ...] | None) -> Any:
        architecture = architecture_of(case)
        if family == "vit":
            architecture |= VIT_DEFINITIONS[case["format"]]
        elif case.get("format") == "transformers" and "convnext" in family:
            architecture["final_epsilon"] = TRANSFORMERS_EPSILON
        model = builders.create(family, num_classes=case["num_classes"], input_shape=shape, **architecture)
        builders.restore(model, folder / case["checkpoint"])
        return keras.Model(model.input, [model.output, model.get_layer("features").output])

    models: dict[tuple[int, ...] | None, Any] = {}
    values = {"logits": 0.0, "features": 0.0}
    for index in indices:
        images = arrays[f"images_{index}"]
        shape = images.shape[1:] if family in FIXED_SIZE_FAMILIES else None
        if shape not in models:
            models[shape] = make(shape)
        outputs = models[shape](images, training=False)
        for name, output in zip(values, outputs, strict=True):
            values[name] = _worse(values[name], _relative_difference(output, arrays[f"{name}_{index}"]))

    if "train_logits_0" in arrays:
        model = models[None]  # used up here: a step in training mode changes the running statistics
        logits, _ = model(arrays["images_0"], training=True)
        values["train"] = _relative_difference(logits, arrays["train_logits_0"])
        for name, endings in (("mean", ("_mean",)), ("var", ("_var", "_variance"))):
            statistics = [weight for weight in model.non_trainable_weights if weight.path.endswith(endings)]
            total = sum(float(np.sum(keras.ops.convert_to_numpy(weight))) for weight in statistics)
            difference = _relative_difference(total, arrays[f"train_running_{name}_sum"])
            values["train"] = _worse(values["train"], difference)
    return values


def replay_image(path: Path, transforms: Mapping[str, Mapping[str, Any]]) -> ConformanceResult:
    """Compare one preprocessing golden, the file IMAGE__TRANSFORM.png or .npz beside IMAGE.png."""
    try:
        values = _level_differences(path, transforms)
    except Exception as error:  # one broken file must not hide the others
        return ConformanceResult(path.stem, {}, {}, _one_line(error))
    return ConformanceResult(path.stem, values, LEVEL_LIMITS[path.suffix])


def _level_differences(path: Path, transforms: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    from builders import preprocessing

    image_name, transform_name = path.stem.rsplit("__", 1)
    if transform_name not in transforms:
        raise ValueError(with_fix(f"there is no [transforms.{transform_name}]", "add it to modules/preprocessing.toml"))
    transform = preprocessing.Transform.from_dict(transforms[transform_name])
    image = _read_png(path.with_name(f"{image_name}.png"))
    if path.suffix == ".png":
        reference = _read_png(path)
    else:
        with np.load(path, allow_pickle=False) as arrays:
            reference = arrays["rgb_0_255"]
    levels = preprocessing.resize_and_crop(image[np.newaxis], transform).numpy()[0]
    if levels.shape != reference.shape:
        message = f"the golden is {reference.shape}, the transform gives {levels.shape}"
        raise ValueError(with_fix(message, "correct the transform"))
    difference = np.abs(levels.astype(np.float64) - reference.astype(np.float64))
    return {"max": float(difference.max()), "mean": float(difference.mean())}


def _read_png(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 `[height, width, 3]`."""
    import tensorflow as tf

    return np.asarray(tf.io.decode_png(path.read_bytes(), channels=3), np.uint8)


def _relative_difference(output: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the largest absolute difference, divided by max(1, the largest absolute value of the reference)."""
    output, reference = np.asarray(output, np.float64), np.asarray(reference, np.float64)
    if output.shape != reference.shape:
        message = f"the golden is {reference.shape}, the model gives {output.shape}"
        raise ValueError(with_fix(message, "correct the architecture"))
    return float(np.abs(output - reference).max() / max(1.0, np.abs(reference).max()))


def _worse(first: float, second: float) -> float:
    """Return the larger of two differences; not-a-number is the largest."""
    return float(np.maximum(first, second))


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
