"""Published modules as Keras models.

model = from_hub("https://models.example.org/hubpress/convnext_tiny_1k_224/1")
model = from_hub("./unpacked/module")           # or "1.tar.gz"
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from builders import unrolling
from builders.library.models import Loaded
from tools import catalog
from tools.archive import reading
from tools.archive.contents import MODULE
from tools.catalog import layout
from tools.common import files
from tools.common.download import NotFound, fetch

RECORD_BYTES = 16 << 20


class HubError(ValueError):
    """A handle or folder that leads to no module. The message ends with the fix."""


def from_hub(module: str | os.PathLike[str]) -> Any:
    """Return the functional `keras.Model` of a published module, with its weights, from its archive alone.

    It takes normalised images, which `builders.preprocessing_of(model)` makes of pixels, has a classifier's or a feature
    extractor's output, can be trained and saved, and answers what the module answers.

    Args:
      module: the address of a module (with `http://`, `gs://` or another scheme), a handle below the publisher's own hub
        ("hubpress/convnext_digits/1"), an archive, or the folder of an unpacked one.

    Raises:
      HubError: there is no such module.
      DownloadError, ArchiveError: the archive cannot be fetched, is not what its record says, or is damaged.
      builders.unrolling.UnrollingError: it was not made by this repository, or by a version with other layers.
    """
    text = os.fspath(module)
    path = Path(text)
    if path.is_dir():
        return _unrolled(path)
    with tempfile.TemporaryDirectory() as scratch:
        archive = path if path.is_file() else _fetched(text)
        folder = Path(scratch) / "module"
        reading.unpack(archive, folder)
        return _unrolled(folder)


def _fetched(text: str) -> Path:
    """Return the local archive of a module's address or handle, with the digest that its record says. Raises HubError."""
    handle = text.rstrip("/")
    if "://" not in handle:
        if not layout.is_handle(handle):
            raise HubError(
                f"{text} is no folder, no archive and no handle. "
                "Fix: pass publisher/name/version, the address of a module, or the path of an unpacked one."
            )
        handle = f"{catalog.load().publisher.url}/{handle}"
    cache = files.default_cache() / "modules"
    digest = None
    try:
        record = json.loads(fetch(layout.record_path(handle), cache=cache, limit_bytes=RECORD_BYTES).read_bytes())
        digest = record["archive"]["sha256"]
    except NotFound:
        pass  # a hub of others, which has no records
    except (ValueError, TypeError, KeyError) as error:
        raise HubError(f"{layout.record_path(handle)} is no record ({error!r}). Fix: audit the hub.") from None
    return fetch(layout.archive_path(handle), cache=cache, sha256=digest)


def _unrolled(folder: Path) -> Any:
    model = unrolling.unrolled(folder)
    try:
        described = json.loads((folder / MODULE).read_text(encoding="utf-8"))
        row, preprocessing = described["row"], described["preprocessing"]
        model.loaded = Loaded(row["stem"], folder, None, False, preprocessing)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HubError(
            f"{folder / MODULE} does not describe the module ({error!r}). Fix: get the module again."
        ) from None
    return model
