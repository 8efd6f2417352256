"""Is a published module what its hub says? Asked from outside, with nothing but the address.

    with Verification() as verification:
        for module in verification.find("https://hub.example/hubpress/convnext_digits/1"):
            result = verification.verify(module)          # result.ok, result.checks

Works against any base URL: `tools/serve.py`, a bucket, a CDN or a plain file server, since record, document and archive lie at
`<handle>.json`, `<handle>.md` and `<handle>.tar.gz`; and against folders and gs://. TensorFlow runs in a process of its own,
which is started for the first replay and answers all.
"""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders import precision
from tools.archive import contents as archive_contents
from tools.archive import reading, saved_model
from tools.archive.members import ArchiveError
from tools.catalog import layout
from tools.common.download import DownloadError, NotFound, fetch
from tools.hub import notes, records
from tools.hub.storage import StorageError, checked

ROOT = Path(__file__).resolve().parents[2]
SMALL_BYTES = 64 << 20  # no record, document or index is larger
REPLAY_SECONDS = 600
CHECKS = ("record", "archive", "members", "document", "golden")
OK, FAILED, SKIPPED = "ok", "failed", "skipped"


class NothingThere(ValueError):
    """An address is neither a module's nor an archive's nor a hub's, or cannot be reached; the message ends with the fix."""


class _Wrong(ValueError):
    """A check failed; the message says what differs."""


@dataclass(frozen=True)
class Check:
    """One of `CHECKS`: `state` is "ok", "failed" or "skipped", `message` says what was found or why not."""

    name: str
    state: str
    message: str = ""


@dataclass
class VerificationResult:
    """What became of one module; `note` says that it is withdrawn, and why."""

    url: str
    handle: str | None = None
    note: str = ""
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(check.state != FAILED for check in self.checks)

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        checks = [{"name": each.name, "state": each.state, "message": each.message} for each in self.checks]
        return {"url": self.url, "handle": self.handle, "ok": self.ok, "note": self.note, "checks": checks}


@dataclass(frozen=True)
class Target:
    """A module to verify: `url` is its address without an ending; what the hub's index says of it, where one was read."""

    url: str
    listed: dict[str, Any] | None = None


class Verification:
    """Verifies modules one after the other; a context manager, because it keeps a process and a scratch folder.

    `replay=False` leaves the golden inputs out: a module is a program, and replaying one runs it.
    """

    def __init__(self, *, replay: bool = True, report: Callable[[str, str], None] = lambda url, stage: None):
        self._replay = replay
        self._report = report
        self._worker: _Replayer | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="hubpress-verify-")

    def __enter__(self) -> "Verification":
        return self

    def __exit__(self, *_exception) -> None:
        if self._worker:
            self._worker.close()
        self._scratch.cleanup()

    # Finding

    def find(self, address: str, *, every: bool = False) -> list[Target]:
        """The modules of an address: of an archive or a handle that one; of a hub the newest version of each that is not
        withdrawn, or with `every` all.

        Raises:
          NothingThere: there is nothing to verify.
        """
        address = _plain(address)
        if address.endswith(".tar.gz"):
            return [Target(address.removesuffix(".tar.gz"))]
        last = address.rpartition("/")[2]
        try:
            if last.isdecimal() and self._there(f"{address}.json"):
                return [Target(address)]
            index = self._json(f"{address}/index.json")
        except NotFound as error:
            raise NothingThere(
                f"{address} is no module (there is no {last}.json beside it) and no hub (it has no index.json). Give the "
                "address of a hub, of a handle with its version, or of an archive (.tar.gz)."
            ) from error
        except (DownloadError, ValueError) as error:
            raise NothingThere(f"{address} cannot be verified: {error}") from error
        return _listed(address, index, every)

    # Verifying

    def verify(self, target: Target) -> VerificationResult:
        """Download a module and check everything that its hub says of it; what is wrong is in the result."""
        result = VerificationResult(target.url)
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as folder:
            self._verify(target, result, Path(folder))
        done = {check.name for check in result.checks}
        result.checks += [Check(name, SKIPPED, "for what failed before") for name in CHECKS if name not in done]
        return result

    def _verify(self, target: Target, result: VerificationResult, folder: Path) -> None:
        record = None
        with _checking(result, "record") as said:
            try:
                record = self._json(f"{target.url}.json")
                said.append(_record(record, target))
                result.handle = record["handle"]
                result.note = self._withdrawn(target.url)
            except NotFound:
                if target.listed is not None:
                    raise
                said[:] = [SKIPPED, "there is none beside the archive, so nothing vouches for its bytes"]
        if result.checks[-1].state == FAILED:
            return
        facts = record["archive"] if record else {}
        file = None
        with _checking(result, "archive") as said:
            self._report(target.url, "download")
            file = fetch(f"{target.url}.tar.gz", cache=folder / "downloads", limit_bytes=facts.get("bytes"))
            said.append(_archive(file, facts))
        if file is None or result.checks[-1].state == FAILED:
            return
        contents = None
        with _checking(result, "members") as said:
            contents = _contents(file)
            said.append(_members(contents, record))
        with _checking(result, "document") as said:
            if record is None:
                said += [SKIPPED, "without a record nobody knows where it is"]
            else:
                said.append(_document(self._text(f"{target.url}.md"), record, contents))
        if contents is None:
            return
        with _checking(result, "golden") as said:
            if not self._replay:
                said += [SKIPPED, "not asked for"]
            else:
                self._report(target.url, "replay")
                said.append(self._golden(file, folder / "module", record, contents))

    def _golden(self, file: Path, folder: Path, record: dict[str, Any] | None, contents) -> str:
        reading.unpack(file, folder)
        if not (folder / "assets.extra/golden.npz").is_file():
            raise _Wrong("the archive has no assets.extra/golden.npz to replay")
        if self._worker is None or not self._worker.alive:
            self._worker = _Replayer()
        found = self._worker.replay(folder)
        shutil.rmtree(folder)
        if "error" in found:
            raise _Wrong(found["error"])
        computes_in = found.pop("precision")
        tolerance = record["verification"]["golden_tolerance"] if record else precision.TOLERANCES[computes_in]
        worst = max(found.values())
        if not worst <= tolerance:
            raise _Wrong(
                f"it differs from its golden output by {worst:.2g}, the stated tolerance is {tolerance:.2g}: {found}"
            )
        return f"differs by {worst:.2g}, tolerance {tolerance:.2g}"

    # Reading

    def _there(self, url: str) -> bool:
        try:
            self._text(url)
            return True
        except NotFound:
            return False

    def _text(self, url: str) -> str:
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as folder:
            file = fetch(url, cache=Path(folder), limit_bytes=SMALL_BYTES)
            return file.read_text(encoding="utf-8")

    def _json(self, url: str) -> dict[str, Any]:
        try:
            content = json.loads(self._text(url))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise _Wrong(f"{url} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise _Wrong(f"{url} is no JSON object")
        return content

    def _withdrawn(self, url: str) -> str:
        """Why a module was withdrawn, as its notes say: they are numbered without gaps, so nobody need list the hub."""
        why, number = "", 1
        with contextlib.suppress(NotFound):
            while True:
                note = self._json(layout.note_path(url, number))
                if note.get("action") in (notes.YANK, notes.UNYANK):
                    why = f"withdrawn: {note.get('why')}" if note["action"] == notes.YANK else ""
                number += 1
        return why


@contextlib.contextmanager
def _checking(result: VerificationResult, name: str):
    """Runs one check: what the block appends to the list is its message, or state and message; errors make it fail."""
    said: list[str] = []
    try:
        yield said
    except (
        _Wrong,
        DownloadError,
        ArchiveError,
        saved_model.SavedModelError,
        OSError,
        UnicodeDecodeError,
    ) as error:
        result.checks.append(Check(name, FAILED, " ".join(str(error).split())))
        return
    state = said.pop(0) if said and said[0] == SKIPPED else OK
    result.checks.append(Check(name, state, " ".join(said)))


def _record(record: dict[str, Any], target: Target) -> str:
    handle, facts = record.get("handle"), record.get("archive")
    if record.get("kind") != "Module" or not isinstance(handle, str) or not isinstance(facts, dict):
        raise _Wrong(f"{target.url}.json is no module's record")
    if not f"/{target.url}".endswith(f"/{handle}"):
        raise _Wrong(f"the record at {target.url}.json is that of {handle}")
    if not re.fullmatch("[0-9a-f]{64}", str(facts.get("sha256"))) or not isinstance(facts.get("bytes"), int):
        raise _Wrong("the record states no size and SHA-256 of the archive")
    tolerance = record.get("verification", {}).get("golden_tolerance")
    if not isinstance(tolerance, int | float) or not 0 <= tolerance <= 1:
        raise _Wrong(f"the record states the tolerance {tolerance!r} for the golden output, which is none")
    listed = (target.listed or {}).get("archive")
    if target.listed is not None and (not isinstance(listed, dict) or listed.get("sha256") != facts["sha256"]):
        raise _Wrong(f"index.json and the record of {handle} name different archives")
    return f"published {record.get('published')}"


def _archive(file: Path, facts: dict[str, Any]) -> str:
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.seek(0, 2)
        stream.seek(0)
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    for what, here in (("bytes", size), ("sha256", sha256), ("md5", md5)):
        if facts.get(what, here) != here:
            raise _Wrong(f"the archive's {what} is {here}, the record says {facts[what]}")
    return f"{size:,} bytes, sha256 {sha256}"


def _contents(file: Path):

    with file.open("rb", buffering=0) as stream:
        return archive_contents.read(stream, file.name)


def _members(contents, record: dict[str, Any] | None) -> str:
    """The graph's signatures and the module's own description against the record."""

    serving = contents.signatures.get("serving_default")
    if serving is None:
        raise _Wrong("the archive has no signature serving_default")
    summary = f"{contents.files} files, {contents.unpacked_bytes:,} bytes"
    if record is None:
        return summary
    facts = record["archive"]
    for what, here in (("members", contents.files), ("unpacked_bytes", contents.unpacked_bytes)):
        if facts.get(what, here) != here:
            raise _Wrong(f"the archive's {what} is {here}, the record says {facts[what]}")
    signature = record.get("signature") or {}
    stated = {_tensor(each) for each in signature.get("outputs", [])}
    given = {(name, tensor.dtype, tensor.shape) for name, tensor in serving.outputs.items()}
    if stated != given:
        raise _Wrong(f"the graph's outputs are {sorted(given, key=str)}, the record says {sorted(stated, key=str)}")
    taken = {
        (name, tensor.dtype, tensor.shape)
        for each in contents.signatures.values()
        for name, tensor in each.inputs.items()
    }
    if missing := {_tensor(each) for each in signature.get("inputs", [])} - taken:
        raise _Wrong(f"the graph takes {sorted(taken, key=str)}, the record says {sorted(missing, key=str)}")
    try:
        described = json.loads(contents.texts.get(archive_contents.MODULE, b"{}"))
    except ValueError as error:
        raise _Wrong(f"{archive_contents.MODULE} is no JSON: {error}") from error
    for key in ("head", "checkpoint", "preprocessing", "versions"):
        stated = records.checkpoint(record) if key == "checkpoint" else record.get(key)
        if described.get(key) != stated:
            raise _Wrong(f"{archive_contents.MODULE} says of {key} {described.get(key)!r}, the record {stated!r}")
    return summary


def _tensor(stated: dict[str, Any]) -> tuple[str, str, tuple | None]:
    shape = stated.get("shape")
    return stated.get("name"), stated.get("dtype"), None if shape is None else tuple(shape)


def _document(text: str, record: dict[str, Any], contents) -> str:
    from tools.documents import archives
    from tools.documents.document import parse

    document = parse(text)
    if (document.kind, document.handle) != ("Module", record["handle"]):
        raise _Wrong(f"the document is that of {document.kind} {document.handle}")
    asset = document.value("asset-path") or ""
    if not asset.endswith(f"/{record['archive']['path']}"):
        raise _Wrong(f"the document's asset-path is {asset}, the record's archive lies at {record['archive']['path']}")
    if record["archive"]["sha256"] not in text:
        raise _Wrong(f"the document does not name the archive's sha256 {record['archive']['sha256']}")
    if not archives.signature_table(document):
        raise _Wrong("the document has no table of inputs and outputs")
    if contents and (problems := list(archives.signature_problems(document, contents.signatures))):
        raise _Wrong("; ".join(problems))
    return "agrees with the signature" if contents else "agrees with the record"


def _plain(address: str) -> str:
    """An address without query, fragment and final slash; `~` and file:// become paths."""
    if "://" not in address:
        return str(Path(address).expanduser().absolute())
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        return urllib.parse.unquote(parts.path).rstrip("/")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _listed(base: str, index: dict[str, Any], every: bool) -> list[Target]:
    """The modules of a hub's index; an index that cannot be understood is no hub's."""
    try:
        modules = [(str(each["name"]), int(each["version"]), each) for each in index["modules"]]
        for _, _, each in modules:
            checked(each["handle"])
    except (KeyError, TypeError, ValueError, StorageError) as error:
        raise NothingThere(f"{base}/index.json is no index of a hub ({error!r}). Give a hub's address.") from error
    if not modules:
        raise NothingThere(f"{base} lists no module. Publish one first.")
    newest: dict[str, int] = {}
    for name, version, each in modules:
        if not each.get("yanked"):
            newest[name] = max(version, newest.get(name, 0))
    wanted = [each for name, version, each in modules if every or newest.get(name) == version]
    return [Target(f"{base}/{each['handle']}", each) for each in wanted]


class _Replayer:
    """The process with TensorFlow: `tools.verification.replay`, one folder after the other."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.verification.replay"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def replay(self, folder: Path) -> dict[str, Any]:
        watch = threading.Timer(REPLAY_SECONDS, self._process.kill)
        watch.start()
        try:
            self._process.stdin.write(f"{folder}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            return json.loads(line) if line else {"error": self._end()}
        except (BrokenPipeError, ValueError):
            return {"error": self._end()}
        finally:
            watch.cancel()

    def _end(self) -> str:
        self._process.kill()
        return (
            f"replaying it ended the process (exit status {self._process.wait()}), or took more than {REPLAY_SECONDS} s"
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
