"""Builders of modules: Keras models of every family, strict checkpoints, preprocessing, export as a SavedModel.

import builders
model = builders.create("convnext", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
builders.restore(model, "convnext_tiny_1k_224_ema.pth")
logits = model(images)                     # [batch, height, width, 3], float32, normalised
"""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builders import weights


def families() -> tuple[str, ...]:
    """Return the names of all families: the files of this folder that have a table of weights.

    They are found and not listed: a list would be a part of every module's build key, and a new family would rebuild all.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(file.stem for file in files if "\nWEIGHTS = " in file.read_text(encoding="utf-8"))


def family_module(family: str) -> ModuleType:
    """Return the module of a family, `builders/FAMILY.py`. Raises ValueError for an unknown family."""
    if family not in families():
        raise ValueError(f"there is no family {family!r}. Fix: use one of {', '.join(families())}.")
    return importlib.import_module(f"builders.{family}")


def create(
    family: str,
    *,
    num_classes: int | None = 1000,
    include_top: bool = True,
    input_shape: tuple[int | None, ...] | None = None,
    input_tensor: Any = None,
    **architecture: Any,
) -> Any:
    """Build a functional Keras model of `family` on normalised images `[batch, height, width, 3]` (any size by default).

    The output is float32 logits `[batch, num_classes]`, and the layer named "features" gives `[batch, features]`; with
    `include_top=False` it is the last map, or with `pooling="avg"` the feature vector. `architecture` are the family's own
    arguments (see its file). Raises ValueError for an unknown family, TypeError for an argument that it does not have.
    """
    model = family_module(family).create(
        num_classes=num_classes,
        include_top=include_top,
        input_shape=input_shape,
        input_tensor=input_tensor,
        **architecture,
    )
    model.family = family  # for restore and write
    return model


def maps(model: Any) -> dict[str, Any]:
    """Return the maps between the layers of `model`, `{name: Keras tensor [batch, rows, columns, channels]}`, for dense tasks.

    `keras.Model(model.input, builders.maps(model))` computes them. They are named by stride or by block; a family may have none.
    """
    found = getattr(family_module(_family_of(model)), "maps", None)
    return found(model) if found else {}


def arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `create` for a row of the catalogue: its own, and those that its family derives from the row.

    A row without classes has a checkpoint without a head, and gets the model that gives the feature vector.
    """
    derive = getattr(family_module(row["family"]), "arguments", None)
    own: dict[str, Any] = derive(row) if derive else dict(row["architecture"])
    return own if row["classes"] else own | {"include_top": False, "pooling": "avg"}


def restore(
    model: Any,
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    resize: bool = True,
    grid: tuple[int, int] | None = None,
) -> "weights.Restored":
    """Load an upstream checkpoint into `model`, strictly; return the recognised format, and what of the file was taken.

    See builders/weights.py:restore for the arguments.
    """
    from builders import weights

    return weights.restore(model, family_module(_family_of(model)), path, key=key, resize=resize, grid=grid)


def write(model: Any, path: str | os.PathLike[str], format: str) -> None:
    """Write the weights of `model` in an upstream `format`, to `.safetensors` or `.npz` (see builders/weights.py:write)."""
    from builders import weights

    weights.write(model, family_module(_family_of(model)), path, format)


def _family_of(model: Any) -> str:
    """Return the family that built `model`: what `create` noted, or the one to whose names all layers belong.

    Models that were loaded from a file or cut to a part have lost the note.
    """
    from builders import weights

    noted = getattr(model, "family", None)
    if noted in families():
        return str(noted)
    names = [layer.name for layer in model.layers if layer.weights]
    for family in families():
        rows = family_module(family).WEIGHTS
        if names and all(any(row.ours.fullmatch(name) for row in rows) for name in names):
            return family
    raise weights.RestoreError(
        f"the model {model.name} was not made by builders.create, or has layers of its own. Fix: restore the backbone alone."
    )
