"""Published modules for evaluation: found by their address, checked against the record, unpacked once.

    module = find("http://127.0.0.1:8000/hubpress/convnext_digits/1", cache=Path("~/.cache/hubpress").expanduser())
    folder = unpack_to_cache(module.archive, module.sha256, cache=cache)      # a SavedModel for tensorflow_hub

Unpacked modules are kept in `<cache>/modules/<sha256 of the archive>`, where every run and every worker finds them, and files
for other runtimes in `<cache>/files/<sha256>`.
"""

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.archive import reading
from tools.archive.members import ArchiveError
from tools.catalog.layout import (
    ARCHIVE_SUFFIX,
    FORMAT_FILES,
    archive_path,
    format_path,
    format_record_path,
    is_handle,
    kind_of_format,
    record_path,
)
from tools.common import json_text
from tools.common.digests import parse_sha256
from tools.common.download import DownloadError, NotFound, fetch, fetch_text, plain_address
from tools.common.files import discard_unless_folder, make_cache_folder, sha256_of_file
from tools.evaluation import EvaluationError
from tools.evaluation.labels import Labels, load, numbered
from tools.hub import formats

MAX_CLASSES = 1_000_000
_TITLE = re.compile("[A-Za-z0-9][A-Za-z0-9_-]*")  # of a set of labels: a file's name, and never a path


@dataclass(frozen=True)
class Stated:
    """What the evaluator takes from a record: text, and a digest that is one."""

    handle: str
    sibling: str | None
    sha256: str


@dataclass(frozen=True)
class EvaluatedModule:
    """A classifier that is evaluated.

    Attributes:
      address: as it was given.
      archive: the address of its archive, or of its file for another runtime.
      handle: None if it has no record.
      sha256: the digest of that.
      outputs: how many logits it answers.
      labels: the classes that these stand for; None if nobody named them.
      format: that of a file for another runtime; None for the module itself.
    """

    address: str
    archive: str
    handle: str | None
    sha256: str
    outputs: int
    labels: Labels | None
    format: str | None = None

    @property
    def title(self) -> str:
        """The name in tables and messages: the handle, with the file's name if it is one, or the address."""
        if self.handle and self.format:
            return f"{self.handle}/{FORMAT_FILES[self.format]}"
        return self.handle or self.address

    @property
    def classes(self) -> Labels:
        """The classes that its logits stand for; numbers if nobody named them."""
        return self.labels or numbered(self.outputs)


def find(address: str, *, cache: Path, hub: str | None = None) -> EvaluatedModule:
    """Find the module of an address: a handle's URL, an archive, or a file for another runtime; http(s), a folder, gs://.

    A handle alone, or a handle's file, is one of `hub`.

    Raises EvaluationError: there is none, it is not what its record says, or it is no classifier.
    """
    plain = plain_address(address)
    folder_, _, last = plain.rpartition("/")
    if found := next((name for name, file in FORMAT_FILES.items() if file == last), None):
        return _of_format(address, find(folder_, cache=cache, hub=hub), found, cache)
    if hub and "://" not in plain and not Path(record_path(plain)).exists() and not plain.endswith(ARCHIVE_SUFFIX):
        plain = f"{plain_address(hub)}/{plain}"
    base = plain.removesuffix(ARCHIVE_SUFFIX)
    if "://" not in base:
        base = os.path.abspath(base)  # workers run in another folder
    archive = archive_path(base)
    try:
        record = _record(base)
        if record is None and not plain.endswith(ARCHIVE_SUFFIX):
            raise EvaluationError(
                f"{address}: there is no module (no {record_path(base)})",
                f"give a handle with its version, like http://host/publisher/name/1, or an archive ({ARCHIVE_SUFFIX})",
            )
        if record is None:
            with tempfile.TemporaryDirectory() as scratch:
                sha256 = sha256_of_file(fetch(archive, cache=Path(scratch)))
        else:
            sha256 = record.sha256
        folder = unpack_to_cache(archive, sha256, cache=cache)
    except (DownloadError, ArchiveError) as error:
        raise EvaluationError(f"{address}: {error}") from error
    return _described(address, archive, record, sha256, folder)


def _of_format(address: str, module: EvaluatedModule, name: str, cache: Path) -> EvaluatedModule:
    """Return a module's file in a format, which its records of formats must name."""
    base = module.archive.removesuffix(ARCHIVE_SUFFIX)
    url = format_path(base, name)
    recorded = _recorded_format(base, name)
    if module.handle is None or recorded is None:
        raise EvaluationError(
            f"{address}: no record of formats names it", "publish it with --formats, or correct the address"
        )
    try:
        fetch_to_cache(url, recorded, cache=cache)
    except DownloadError as error:
        raise EvaluationError(f"{address}: {error}") from error
    return dataclasses.replace(module, address=address, archive=url, sha256=recorded, format=name)


def _recorded_format(base: str, name: str) -> str | None:
    """Return the digest of a module's file that its records of formats state; None if none names it."""
    for number in range(1, formats.MOST_RECORDS + 1):
        address = format_record_path(base, kind_of_format(name), number)
        try:
            content = json_text.parse_object(fetch_text(address).encode())
        except NotFound:
            return None
        except json_text.JsonError as error:
            raise EvaluationError(
                f"{address} is no record of formats: {error}", f"run tools/verify.py {base}"
            ) from error
        if wrong := formats.problems(content):
            reason = "; ".join(wrong)
            raise EvaluationError(f"{address} is no record of formats: {reason}", f"run tools/verify.py {base}")
        for file in content["files"]:
            if file["format"] == name and f"/{base}".endswith(f"/{content['handle']}"):
                return str(file["sha256"])
    return None


def fetch_to_cache(url: str, sha256: str, *, cache: Path) -> Path:
    """Return a file for another runtime; download it if it is not in the cache yet. Raises as `unpack_to_cache` does."""
    try:
        target = cache / "files" / parse_sha256(sha256)
    except ValueError as error:
        raise EvaluationError(f"{url}: {error}", "give the digest of the file") from error
    if not target.is_file():
        make_cache_folder(target.parent)
        with tempfile.TemporaryDirectory(prefix=".getting-", dir=target.parent) as scratch:
            os.replace(fetch(url, cache=Path(scratch), sha256=sha256), target)
    return target


def unpack_to_cache(url: str, sha256: str, *, cache: Path) -> Path:
    """Return the folder with the SavedModel of an archive; download and unpack it if it is not there yet.

    Several processes may do so at once. Raises DownloadError, ArchiveError; EvaluationError: the digest is none, or the cache
    cannot be written.
    """
    try:
        folder = cache / "modules" / parse_sha256(sha256)
    except ValueError as error:
        raise EvaluationError(f"{url}: {error}", "give the digest of the archive") from error
    if not folder.is_dir():
        make_cache_folder(folder.parent)
        discard_unless_folder(folder)
        with tempfile.TemporaryDirectory(prefix=".getting-", dir=folder.parent) as scratch:
            file = fetch(url, cache=Path(scratch), sha256=sha256)
            reading.unpack(file, Path(scratch) / "module")
            with contextlib.suppress(OSError):  # another process unpacked the same meanwhile
                (Path(scratch) / "module").rename(folder)
        if not folder.is_dir():
            raise EvaluationError(f"{folder} cannot be written", "choose another folder with --cache")
    return folder


def _record(base: str) -> Stated | None:
    """Read the record of a module; None if there is none."""
    address = record_path(base)
    try:
        record = json.loads(fetch_text(address))
        handle, sibling = record["handle"], record.get("sibling")
        if not isinstance(handle, str) or not is_handle(handle) or not f"/{base}".endswith(f"/{handle}"):
            raise ValueError("its handle is another one")
        if not isinstance(sibling, str | None) or (sibling is not None and not is_handle(sibling)):
            raise ValueError("its sibling is no handle")
        return Stated(handle, sibling, parse_sha256(record["archive"]["sha256"], "archive.sha256"))
    except NotFound:
        return None
    except KeyError as error:
        reason = f"it has no {error}"
    except (TypeError, AttributeError):
        reason = "it has another shape"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise EvaluationError(f"{address} is not this module's record: {reason}", f"run tools/verify.py {base}")


def _described(address: str, archive: str, record: Stated | None, sha256: str, folder: Path) -> EvaluatedModule:
    """Read what an unpacked module says of itself."""
    try:
        described = json.loads((folder / "assets.extra/module.json").read_text(encoding="utf-8"))
        head, row = described["head"], described["row"]
        outputs, title = row["classes"], row["labels"]
        if not isinstance(head, str) or not isinstance(title, str | None) or (title and not _TITLE.fullmatch(title)):
            raise TypeError("a field has another type")
        if head == "classifier" and (type(outputs) is not int or not 1 <= outputs <= MAX_CLASSES):
            raise TypeError("classes is no number")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvaluationError(
            f"{address}: it has no description of itself (assets.extra/module.json)",
            "evaluate a module that hubpress published",
        ) from error
    if head != "classifier":
        raise EvaluationError(
            f"{address} is a {head.replace('_', ' ')} and answers no classes",
            f"evaluate {record.sibling}" if record and record.sibling else "evaluate a classifier",
        )
    names = load(title) if title else None
    if names:
        labels = folder / "assets/labels.txt"
        written = labels.read_text(encoding="utf-8", errors="replace").split("\n") if labels.is_file() else None
        if list(names.names) != written:
            raise EvaluationError(
                f"{address}: its labels() are not those of modules/labels/{title}.tsv", "get that version of it"
            )
    return EvaluatedModule(address, archive, record.handle if record else None, sha256, outputs, names)
