"""Published modules as Keras models.

model = from_hub("https://models.example.org/hubpress/convnext_tiny_1k_224/1")
model = from_hub("./unpacked/module")           # or "1.tar.gz"
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builders import unrolling
from builders.library.models import Loaded
from tools import catalog
from tools.archive import reading
from tools.archive.contents import LABELS, MODULE
from tools.catalog import layout
from tools.common import files
from tools.common.download import NotFound, fetch

RECORD_BYTES = 16 << 20


class HubError(ValueError):
    """A handle or folder that leads to no module. The message ends with the fix."""


def from_hub(module: str | os.PathLike[str], *, variables: Sequence[Any] | None = None) -> Any:
    """Return the functional `keras.Model` of a published module, with its weights, from its archive alone.

    It takes normalised images, which `builders.preprocessing_of(model)` makes of pixels, has a classifier's or a feature
    extractor's output, can be trained and saved, and answers what the module answers.

    Args:
      variables: other values, in the module's order: `layer.resolved_object.variables` of a `hub.KerasLayer` that was fine-tuned.
      module: the address of a module (with `http://`, `gs://` or another scheme), a handle below the publisher's own hub
        ("hubpress/convnext_digits/1"), an archive, or the folder of an unpacked one.

    Raises:
      HubError: there is no such module, or `variables` are not those of one like it.
      DownloadError, ArchiveError: the archive cannot be fetched, is not what its record says, or is damaged.
      builders.unrolling.UnrollingError: it was not made by this repository, or by a version with other layers.
    """
    text = os.fspath(module)
    path = Path(text)
    if path.is_dir():
        return _with_values(_unrolled(path), variables)
    with tempfile.TemporaryDirectory() as scratch:
        archive = path if path.is_file() else _fetched(text, Path(scratch))
        folder = Path(scratch) / "module"
        reading.unpack(archive, folder)
        return _with_values(_unrolled(folder), variables)


def _with_values(model: Any, variables: Sequence[Any] | None) -> Any:
    """Give a model's variables other values, in their order. Raises HubError if they have other shapes."""
    if variables is None:
        return model
    values = [np.asarray(variable) for variable in variables]
    if [value.shape for value in values] != [tuple(variable.shape) for variable in model.variables]:
        raise HubError(
            f"{len(values)} variables were given, and the module {model.name} has {len(model.variables)} of other shapes. "
            "Fix: pass `layer.resolved_object.variables` of the same module."
        )
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    return model


def _fetched(text: str, scratch: Path) -> Path:
    """Return the local archive of a module's address or handle, with the digest that its record says. Raises HubError.

    The archive is kept in the cache, under its digest; without a record, in the folder `scratch`.
    """
    handle = text.rstrip("/")
    if "://" not in handle:
        if not layout.is_handle(handle):
            raise HubError(
                f"{text} is no folder, no archive and no handle. "
                "Fix: pass publisher/name/version, the address of a module, or the path of an unpacked one."
            )
        handle = f"{catalog.load().publisher.url}/{handle}"
    path = layout.record_path(handle)
    try:
        record = json.loads(fetch(path, cache=scratch / "record", limit_bytes=RECORD_BYTES).read_bytes())
        digest = str(record["archive"]["sha256"])
    except NotFound:  # a hub of others, which has no records
        return fetch(layout.archive_path(handle), cache=scratch / "archive")
    except (ValueError, TypeError, KeyError) as error:
        raise HubError(f"{path} is no record ({error!r}). Fix: audit the hub.") from None
    cache = files.default_cache() / "modules" / digest[:16]
    return fetch(layout.archive_path(handle), cache=cache, sha256=digest)


def _unrolled(folder: Path) -> Any:
    model = unrolling.unrolled(folder)
    try:
        described = json.loads((folder / MODULE).read_text(encoding="utf-8"))
        row, preprocessing = described["row"], described["preprocessing"]
        names = folder / LABELS
        labels = tuple(names.read_text(encoding="utf-8").split("\n")) if names.is_file() else None
        model.loaded = Loaded(row["stem"], folder, None, False, preprocessing, labels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HubError(
            f"{folder / MODULE} does not describe the module ({error!r}). Fix: get the module again."
        ) from None
    return model
