"""Models by the names of the catalogue, with the weights of its rows.

model = create("convnext_tiny_1k_224", weights="row")                   # a row
model = create("convnext_tiny", weights="21k_1k", num_classes=10)       # an architecture, and the data of one of its rows
layer = preprocessing_of(model)                                         # what the row's accuracy was measured with
"""

import difflib
import fnmatch
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builders
from builders import weights as formats
from tools import catalog
from tools.catalog import checkpoints, labels
from tools.catalog.catalog import Catalog, Variant
from tools.common.download import fetch
from tools.common.files import default_cache

MIRROR_VARIABLE = "HUBPRESS_CHECKPOINTS"  # a folder or base URL that is asked instead of upstream, as for Bazel
ROW = "row"


@dataclass(frozen=True)
class Loaded:
    """Which weights a model was made with: its attribute `loaded`.

    name: of the row, or what the caller called the architecture.
    path: the local checkpoint, or None if the weights are random.
    restored: the recognised format, and what of the file was taken (builders/weights.py:Restored); None without a checkpoint.
    has_new_head: whether the classifier was drawn at random, since the checkpoint has another number of classes.
    preprocessing: "transform" and "normalization" of the row, or None for a family without a row.
    labels: names of the classes that the row has, or None.
    """

    name: str
    path: Path | None
    restored: formats.Restored | None
    has_new_head: bool
    preprocessing: Mapping[str, Any] | None
    labels: tuple[str, ...] | None = None


def names(pattern: str = "*") -> list[str]:
    """Return the names of the catalogue's rows that match a shell's `pattern`, such as "convnext*", in the order of the files."""
    return [row.stem for row in _catalog().variants if fnmatch.fnmatchcase(row.stem, pattern)]


def create(
    which: str,
    /,
    *,
    weights: str | os.PathLike[str] | None = None,
    include_top: bool = True,
    pooling: str | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    input_tensor: Any = None,
    **arguments: Any,
) -> Any:
    """Build the model of a row, an architecture or a family, with its weights; its attribute `loaded` says which.

    Checkpoints are fetched as for publishing: once, resumed, with the digest that the row pins, and from the mirror that the
    environment variable HUBPRESS_CHECKPOINTS names.

    Args:
      which: a row ("convnext_tiny_1k_224"), an architecture ("convnext_tiny": family and size), or a family with its arguments.
      weights: None, "row" for the row's checkpoint, the data of one of an architecture's rows ("1k", "21k", "21k_1k"; of several
        resolutions that of `input_shape`, or else the smallest), or a path or URL. Restored strictly.
      arguments: as in `builders.create`. With another `num_classes` than the checkpoint's, all but the classifier is restored, and
        the classifier is new.

    Raises:
      ValueError: for an unknown name or data, and as `builders.create`.
      RestoreError, CheckpointError, DownloadError: the checkpoint does not fit, cannot be read, or cannot be fetched.
    """
    row, rows = _found(which)
    if rows and isinstance(weights, str) and weights in {each.data for each in rows}:
        row, weights = _of_data(rows, weights, input_shape), ROW
    elif weights == ROW and row is None:
        known = (
            f"{', '.join(each.stem for each in rows)}, or weights={rows[0].data!r}"
            if rows
            else "a name of the catalogue"
        )
        raise ValueError(f"{which!r} is no row, whose weights there would be. Fix: use {known}.")
    elif isinstance(weights, str) and weights != ROW and not _is_place(weights):
        known = ", ".join(repr(data) for data in dict.fromkeys(each.data for each in rows)) or "none of the catalogue's"
        raise ValueError(
            f"weights={weights!r} are unknown for {which!r}. Fix: use {ROW!r}, {known}, or the path or URL of a checkpoint."
        )
    described = row or (rows[0] if rows else None)
    given = dict(arguments)
    if input_shape is not None:
        given["input_shape"] = input_shape
    if input_tensor is not None:
        given["input_tensor"] = input_tensor
    said_classes = given.get("num_classes")
    if described is None:
        family, precision = which, "float32"
    else:
        own = builders.arguments(described.facts())
        for key in ("include_top", "pooling", *(("input_shape",) if input_tensor is not None else ())):
            own.pop(key, None)
        given = (
            own
            | {"name": described.stem if row else which}
            | {k: v for k, v in given.items() if v is not None or k != "name"}
        )
        classes = described.classes if row else 1000
        if "num_classes" not in arguments:
            given["num_classes"] = classes
        family, precision = described.family, described.precision
    from builders import precision as precisions

    with precisions.using(precision):
        model = builders.create(family, include_top=include_top, pooling=pooling, **given)
    if weights is None:
        model.loaded = Loaded(which, None, None, False, _preprocessing(row), _labels(row))
        return model
    if weights == ROW:
        assert row is not None
        path, key = _checkpoint(row), row.checkpoint_key
        has_own_classes = include_top and said_classes is not None and said_classes != row.classes
    else:
        path, key, has_own_classes = _local(weights), None, False
    restored, has_new_head = _restored(
        model, path, key, has_own_classes, may_be_new=said_classes is not None and weights != ROW
    )
    model.loaded = Loaded(
        row.stem if row else which,
        path,
        restored,
        has_new_head,
        _preprocessing(row),
        None if has_new_head else _labels(row),
    )
    return model


def preprocessing_of(model_or_name: Any, *, pixel_range: Sequence[float] = (0, 255)) -> Any:
    """Return a row's preprocessing as a Keras layer, `[batch, any height, any width, 3] -> [batch, side, side, 3]`.

    `keras.Sequential([preprocessing_of(model), model])` takes the pixels of image files: uint8, or floats in `pixel_range`.

    Args:
      model_or_name: a name of the catalogue's rows, or a model that `builders.create` or `builders.from_hub` made by name.
      pixel_range: black and white of float images.

    Raises ValueError: there is no such row, or the model takes images of another size than the row.
    """
    if isinstance(model_or_name, str):
        row, rows = _found(model_or_name)
        if row is None:
            fix = (
                f"name one of {', '.join(each.stem for each in rows)}"
                if rows
                else "name a row: builders.list() has them"
            )
            raise ValueError(f"{model_or_name!r} is no row, whose preprocessing there would be. Fix: {fix}.")
        found, shape = _preprocessing(row), None
    else:
        loaded = getattr(model_or_name, "loaded", None)
        found, shape = loaded and loaded.preprocessing, getattr(model_or_name, "input_shape", None)
        if found is None:
            row = next((each for each in _catalog().variants if each.stem == model_or_name.name), None)
            found = _preprocessing(row)
        if found is None:
            raise ValueError(
                f"nothing says which row the model {model_or_name.name} is of. "
                "Fix: pass the name of a row: builders.list() has them."
            )
    assert found is not None
    from builders.library.layers import Preprocessing

    normalization = found["normalization"]
    layer = Preprocessing(
        transform={key: value for key, value in found["transform"].items() if key != "text"},
        mean=normalization["mean"],
        std=normalization["std"],
        pixel_range=pixel_range,
        name="preprocessing",
    )
    side = layer.compute_output_shape((None, None, None, 3))[1]
    if shape is not None and any(size not in (None, side) for size in shape[1:3]):
        raise ValueError(
            f"the row's preprocessing makes images of {side} x {side}, the model takes {shape[1]} x {shape[2]}. "
            "Fix: create the model for the row's size, or resize and normalise images in layers of your own."
        )
    return layer


@functools.cache
def _catalog() -> Catalog:
    return catalog.load()


def _found(name: str) -> tuple[Variant | None, list[Variant]]:
    """Return the row of a name, or the rows of an architecture, or neither for a family. Raises ValueError."""
    rows = _catalog().variants
    for row in rows:
        if name in (row.stem, row.names.get("classifier")):
            return row, [row]
        if name == row.names.get("feature_extractor"):
            raise ValueError(
                f"{name!r} is a feature extractor. Fix: create({row.stem!r}, include_top=False, pooling='avg') is its model."
            )
    same = [row for row in rows if f"{row.family}_{row.size}" == name]
    if same:
        return None, same
    if name in builders.families():
        return None, []
    known = dict.fromkeys([*(row.stem for row in rows), *(f"{row.family}_{row.size}" for row in rows)])
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    hint = f", or did you mean {', '.join(close)}?" if close else ", or a name that builders.list() has."
    raise ValueError(f"there is no family {name!r}. Fix: use one of {', '.join(builders.families())}{hint}")


def _of_data(rows: Sequence[Variant], data: str, input_shape: tuple[int | None, ...] | None) -> Variant:
    """Return the row of an architecture that was trained on `data`, of the resolution of `input_shape` or else the smallest."""
    found = sorted(
        (row for row in rows if row.data == data), key=lambda row: (row.resolution, row.precision != "float32")
    )
    sizes = set(input_shape[:2]) if input_shape else set()
    return next((row for row in found if sizes == {row.resolution}), found[0])


def _is_place(weights: str) -> bool:
    """Tell whether a text is a path or a URL of a checkpoint."""
    return "/" in weights or "." in weights or os.sep in weights


def _checkpoint(row: Variant) -> Path:
    """Return the local file of a row's checkpoint, fetched where it is not here yet. Raises DownloadError."""
    return checkpoints.fetch_checkpoint(
        row, _catalog(), cache=default_cache(), mirrors=os.environ.get(MIRROR_VARIABLE) or None
    )


def _local(weights: str | os.PathLike[str]) -> Path:
    """Return the local file of a path or URL. Raises DownloadError."""
    text = os.fspath(weights)
    if "://" not in text:
        return Path(text)
    return fetch(text, cache=default_cache() / "checkpoints", limit_bytes=checkpoints.LARGEST_BYTES)


def _restored(
    model: Any, path: Path, key: str | None, has_own_classes: bool, *, may_be_new: bool
) -> tuple[formats.Restored, bool]:
    """Restore a checkpoint, without its head if the model `has_own_classes`, or if it `may_be_new` and all the rest fits."""
    if not has_own_classes:
        try:
            return builders.restore(model, path, key=key), False
        except formats.RestoreError as error:
            if not may_be_new:
                raise
            try:
                return builders.restore(_headless(model), path, key=key), True
            except (formats.RestoreError, ValueError):
                raise error from None
    return builders.restore(_headless(model), path, key=key), True


def _headless(model: Any) -> Any:
    """Return the part of a classifier before its last layer, of the same layers. Raises ValueError if there is no classifier."""
    import keras

    return keras.Model(model.input, model.get_layer("features").output, name=model.name)


def _preprocessing(row: Variant | None) -> Mapping[str, Any] | None:
    """Return the transform and the normalisation of a row."""
    if row is None:
        return None
    shared = _catalog().preprocessing
    return {
        "transform": shared["transforms"][row.transform],
        "normalization": shared["normalizations"][row.normalization],
    }


def _labels(row: Variant | None) -> tuple[str, ...] | None:
    """Return the names of a row's classes."""
    if row is None or row.labels is None:
        return None
    return tuple(labels.load(_catalog().path(f"{labels.FOLDER}/{row.labels}.tsv")))
