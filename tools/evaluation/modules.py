"""Published modules for evaluation: found by their address, checked against the record, unpacked once.

    module = find("http://127.0.0.1:8000/hubpress/convnext_digits/1", cache=Path("~/.cache/hubpress").expanduser())
    folder = unpacked(module.archive, module.sha256, cache=cache)      # a SavedModel for tensorflow_hub

Unpacked modules are kept in `<cache>/modules/<sha256 of the archive>`, where every run and every worker finds them.
"""

import contextlib
import hashlib
import json
import tempfile
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from tools.archive import reading
from tools.archive.members import ArchiveError
from tools.common.download import DownloadError, NotFound, fetch
from tools.evaluation import EvaluationError, labels

SMALL_BYTES = 64 << 20  # no record is larger


@dataclass(frozen=True)
class EvaluatedModule:
    """A classifier: where its archive lies, its handle (None without a record), and what its outputs mean (None: nobody said)."""

    address: str
    archive: str
    handle: str | None
    sha256: str
    outputs: int
    labels: labels.Labels | None

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.handle or self.address


def find(address: str, *, cache: Path, hub: str | None = None) -> EvaluatedModule:
    """The module of an address: a handle's URL, or an archive; http(s), a folder, gs://. A handle alone is one of `hub`.

    Raises EvaluationError: there is none, it is not what its record says, or it is no classifier.
    """
    plain = _plain(address)
    if hub and "://" not in plain and not Path(f"{plain}.json").exists() and not plain.endswith(".tar.gz"):
        plain = f"{_plain(hub)}/{plain}"
    base = plain.removesuffix(".tar.gz")
    try:
        record = _record(base)
        if record is None and not plain.endswith(".tar.gz"):
            raise EvaluationError(
                f"{address}: there is no module (no {base}.json); give a handle with its version, like "
                "http://host/publisher/name/1, or an archive (.tar.gz)"
            )
        if record is None:
            with tempfile.TemporaryDirectory() as scratch:
                sha256 = _digest(fetch(f"{base}.tar.gz", cache=Path(scratch)))
        else:
            sha256 = record["archive"]["sha256"]
        folder = unpacked(f"{base}.tar.gz", sha256, cache=cache)
    except (DownloadError, ArchiveError) as error:
        raise EvaluationError(f"{address}: {error}") from error
    return _described(address, f"{base}.tar.gz", record, sha256, folder)


def unpacked(url: str, sha256: str, *, cache: Path) -> Path:
    """The folder with the SavedModel of an archive, downloaded and unpacked if it is not there yet; many may do so at once."""
    kept = cache / "modules" / sha256
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".getting-", dir=kept.parent) as scratch:
            file = fetch(url, cache=Path(scratch), sha256=sha256)
            reading.unpack(file, Path(scratch) / "module")
            with contextlib.suppress(OSError):  # somebody else unpacked the same meanwhile
                (Path(scratch) / "module").rename(kept)
        if not kept.is_dir():
            raise EvaluationError(f"{kept} cannot be written; choose another folder with --cache")
    return kept


def _record(base: str) -> dict | None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            text = fetch(f"{base}.json", cache=Path(scratch), limit_bytes=SMALL_BYTES).read_text(encoding="utf-8")
            record = json.loads(text)
            if f"/{base}".endswith(f"/{record['handle']}") and record["archive"]["sha256"]:
                return record
        except NotFound:
            return None
        except (ValueError, TypeError, KeyError):
            pass
    raise EvaluationError(f"{base}.json is not this module's record; run tools/verify.py {base}")


def _described(address: str, url: str, record: dict | None, sha256: str, folder: Path) -> EvaluatedModule:
    try:
        described = json.loads((folder / "assets.extra/module.json").read_text(encoding="utf-8"))
        head, row = described["head"], described["row"]
        outputs, title = row["classes"], row["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(
            f"{address}: it does not say what it is (assets.extra/module.json); only modules of hubpress can be evaluated"
        ) from error
    if head != "classifier":
        sibling = f": evaluate {record['sibling']}" if record and record.get("sibling") else ""
        raise EvaluationError(f"{address} is a {head.replace('_', ' ')} and answers no classes{sibling}")
    names = labels.load(title) if title else None
    if names:
        written = (folder / "assets/labels.txt").read_text(encoding="utf-8").split("\n")
        if list(names.names) != written:
            raise EvaluationError(
                f"{address}: its labels() are not those of modules/labels/{title}.tsv; get that version of it"
            )
    return EvaluatedModule(address, url, record and record["handle"], sha256, outputs, names)


def _plain(address: str) -> str:
    """An address without query, fragment and final slash; `~` and file:// become paths."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        return urllib.parse.unquote(parts.path).rstrip("/")
    if "://" in address:
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return str(Path(address).expanduser()).rstrip("/")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
