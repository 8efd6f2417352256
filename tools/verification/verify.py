"""Verify from outside, by its address alone, that a published module is what its hub says.

    with Verification() as verification:
        for target in verification.find("https://hub.example/hubpress/convnext_digits/1"):
            result = verification.verify(target)          # result.ok, result.checks

Works against any base URL: `tools/serve.py`, a bucket, a CDN or a plain file server, since record, document and archive lie at
`<handle>.json`, `<handle>.md` and `<handle>.tar.gz`; and against folders and gs://. TensorFlow runs in a process of its own,
which is started for the first replay and answers all.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from tools.archive import contents as archive_contents
from tools.archive import reading, saved_model
from tools.archive.contents import Contents
from tools.archive.members import ArchiveError
from tools.catalog import layout
from tools.common import json_text
from tools.common.download import Budget, DownloadError, NotFound, fetch, fetch_text, plain_address
from tools.common.files import sha256_of_file
from tools.common.problems import UsageError, with_fix
from tools.common.workers import Worker, WorkerError, WorkerRefusal
from tools.documents import archives
from tools.documents.document import parse
from tools.hub import formats, notes, signatures
from tools.hub.differences import differences, file_differences
from tools.hub.formats import FormatFile, FormatRecord
from tools.hub.records import Record, record_problems
from tools.hub.signatures import SignatureError, SigningError, Trust
from tools.hub.storage import StorageError, checked

REPLAY_SECONDS = 600
SMALL_BYTES = 16 << 20  # of a record, a note, a document, an index
CHECKS = ("record", "signature", "archive", "members", "document", "golden")
FORMATS = "formats"  # one more check, of modules that have files for other runtimes
NO_FORMATS = "it has none"
GOLDEN = "golden.npz"
OK, FAILED, SKIPPED = "ok", "failed", "skipped"


class NothingThereError(UsageError, ValueError):
    """An address is neither a module's nor an archive's nor a hub's; the message ends with the fix."""


class VerificationError(ValueError):
    """A check failed; the message says what differs. Or nothing can be checked, since an address cannot be reached."""


class SkippedCheck(Exception):
    """A check cannot be made; the message says why."""


@dataclass(frozen=True)
class Check:
    """The outcome of one of `CHECKS`: `state` is "ok", "failed" or "skipped", `message` says what was found or why not."""

    name: str
    state: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class VerificationLimits:
    """What a server may make a verification spend, on one module or on the list of a hub's modules.

    Attributes:
        seconds: of downloads, together.
        requests: to the server, those for notes included.
        bytes: of downloads, together, and of an unpacked archive.
        memory_bytes: of a module's graph, labels and description, which are read into memory; a small multiple of it is taken.
    """

    seconds: float = 3600
    requests: int = 200
    bytes: int = 16 << 30
    memory_bytes: int = archive_contents.MEMORY_BYTES

    def budget(self) -> Budget:
        """Return the budget of the downloads for one module."""
        fix = "raise --max-seconds, --max-requests or --max-bytes if you trust the server"
        return Budget(seconds=self.seconds, requests=self.requests, bytes=self.bytes, fix=fix)

    def of_archives(self) -> reading.Limits:
        """Return the limits of unpacking."""
        return reading.Limits(member_size=self.bytes, unpacked_size=self.bytes)


@dataclass
class VerificationResult:
    """The checks of one module; `note` says that it is withdrawn, and why."""

    url: str
    handle: str | None = None
    note: str = ""
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if no check failed."""
        return all(check.state != FAILED for check in self.checks)

    def described(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        checks = [{"name": each.name, "state": each.state, "message": each.message} for each in self.checks]
        return {"url": self.url, "handle": self.handle, "ok": self.ok, "note": self.note, "checks": checks}


@dataclass(frozen=True)
class Target:
    """A module to verify.

    `url` is its address without an ending, `listed` its entry in the hub's index, where one was read; `problem` says what is wrong
    with that entry, so that nothing can be verified.
    """

    url: str
    listed: dict[str, Any] | None = None
    problem: str = ""


class Verification:
    """Verifies modules one after the other; a context manager, because it keeps a process and a scratch folder.

    `replay=False` leaves the golden inputs out: a module is a program, and replaying one runs it. `limits` are for each module.
    With `trust` every record and every note must be signed by somebody whom it names; nothing else is looked at before.
    """

    def __init__(self, *, replay: bool = True, limits: VerificationLimits | None = None, trust: Trust | None = None):
        self._replay = replay
        self._trust = trust
        self._limits = limits or VerificationLimits()
        self._budget = self._limits.budget()
        self._worker: Worker | None = None
        self._format_worker: Worker | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="hubpress-verify-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for worker in (self._worker, self._format_worker):
            if worker:
                worker.close()
        self._scratch.cleanup()

    # Finding

    def find(self, address: str, *, every: bool = False) -> list[Target]:
        """Return the modules of an address.

        Of an archive or a handle that one; of a hub the newest version of each that is not withdrawn, or with `every` all.

        Raises:
          NothingThereError: there is nothing to verify.
          VerificationError: nobody can tell.
        """
        self._budget = self._limits.budget()
        address = plain_address(address)
        address = address if "://" in address else str(Path(address).absolute())
        if address.endswith(layout.ARCHIVE_SUFFIX):
            return [Target(address.removesuffix(layout.ARCHIVE_SUFFIX))]
        last = address.rpartition("/")[2]
        try:
            if last.isdecimal() and self._there(layout.record_path(address)):
                return [Target(address)]
            index = self._json(f"{address}/{layout.INDEX}")
        except NotFound as error:
            raise NothingThereError(
                with_fix(
                    f"{address} is no module (there is no {layout.record_path(last)} beside it) and no hub (it has no "
                    f"{layout.INDEX})",
                    "give the address of a hub, of a handle with its version, or of an archive (.tar.gz)",
                )
            ) from error
        except DownloadError as error:  # its message ends with the fix
            raise VerificationError(f"{address} cannot be verified: {error}") from error
        except ValueError as error:
            raise NothingThereError(
                with_fix(f"{address} cannot be verified: {error}", "give a hub's address")
            ) from error
        return _listed(address, index, every)

    # Verifying

    def verify(self, target: Target) -> VerificationResult:
        """Download a module and check everything that its hub says of it; what is wrong is in the result."""
        result = VerificationResult(target.url)
        self._budget = self._limits.budget()
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as folder:
            self._verify(target, result, Path(folder))
        done = {check.name for check in result.checks}
        result.checks += [Check(name, SKIPPED, "for what failed before") for name in CHECKS if name not in done]
        return result

    def _verify(self, target: Target, result: VerificationResult, folder: Path) -> None:
        record: Record | None = None
        files: dict[str, bytes] = {}  # the record and its notes, by address
        with _checking(result, "record") as message:
            record = self._record(target, files)
            result.handle = record["handle"]
            result.note = self._withdrawn(target.url, result.handle, files)
            message.append(f"published {record['published']}")
        if result.checks[-1].state == FAILED:
            return
        with _checking(result, "signature") as message:
            message.append(self._signatures(target, result.handle, files))
        if result.checks[-1].state == FAILED:
            return
        file: Path | None = None
        with _checking(result, "archive") as message:
            limit = min(record["archive"]["bytes"] if record else self._limits.bytes, self._limits.bytes)
            url = layout.archive_path(target.url)
            file = fetch(url, cache=folder / "downloads", limit_bytes=limit, budget=self._budget)
            message.append(_check_file(file, record))
        if file is None or result.checks[-1].state == FAILED:
            return
        contents: Contents | None = None
        with _checking(result, "members") as message:
            contents = self._read(file)
            message.append(_check_contents(contents, record))
        with _checking(result, "document") as message:
            if record is None:
                raise SkippedCheck("without a record nobody knows where it is")
            message.append(_check_document(self._text(layout.document_path(target.url)), record, contents))
        if contents is None:
            return
        with _checking(result, "golden") as message:
            if not self._replay:
                raise SkippedCheck("not asked for")
            message.append(self._golden(file, folder / "module", record))
        if record is not None:
            with _checking(result, FORMATS) as message:
                message.append(self._formats(target, record, folder))
            if result.checks[-1] == Check(FORMATS, SKIPPED, NO_FORMATS):
                result.checks.pop()

    def _formats(self, target: Target, record: Record, folder: Path) -> str:
        """Check the files for other runtimes of a module, if it has any: records, signatures, digests, golden output."""
        found = self._format_records(target, record)
        if not found:
            raise SkippedCheck(NO_FORMATS)
        golden, said = folder / GOLDEN, []
        for name, recorded in formats.by_format(found).items():
            url = layout.format_path(target.url, name)
            limit = min(recorded["bytes"], self._limits.bytes)
            file = fetch(url, cache=folder / "formats", limit_bytes=limit, budget=self._budget)
            if (file.stat().st_size, sha256_of_file(file)) != (recorded["bytes"], recorded["sha256"]):
                raise VerificationError(f"{url} is not the file that its record describes")
            said.append(f"{name} {self._replay_format(file, name, recorded, golden)}")
        if any(each["kind"] == formats.KINDS[layout.LITE] for each in found):
            self._check_lite_document(target, record)
        return ", ".join(said)

    def _format_records(self, target: Target, record: Record) -> list[FormatRecord]:
        """Return the records of a module's formats, which are numbered without gaps, so that nobody need list the hub."""
        contents: dict[str, Any] = {}
        urls: dict[str, str] = {}
        for kind in formats.KINDS:
            for number in range(1, formats.MOST_RECORDS + 1):
                path = layout.format_record_path(record["handle"], kind, number)
                url = layout.format_record_path(target.url, kind, number)
                files: dict[str, bytes] = {}
                try:
                    contents[path], urls[path] = self._json(url, files), url
                except NotFound:
                    break
                if self._trust is not None:
                    try:
                        self._trust.check(files[url], self._signature(url), name=url)
                    except NotFound:
                        message = f"unsigned: nothing lies at {layout.signature_path(url)}"
                        fix = "do not use it before its publisher has signed it"
                        raise VerificationError(with_fix(message, fix)) from None
                if wrong := formats.problems(contents[path], layout.parse_format_record_path(path), record):
                    raise VerificationError(f"{url} is malformed: {'; '.join(wrong)}")
        found, double = formats.collect(contents, urls)
        for problem in double.values():
            raise VerificationError(str(problem))
        return found

    def _replay_format(self, file: Path, name: str, recorded: FormatFile, golden: Path) -> str:
        """Return what replaying the golden input in a file gives, or why it was not replayed."""
        if not self._replay or not golden.is_file():
            return "digests agree"
        if self._format_worker is None or not self._format_worker.is_alive:
            self._format_worker = Worker("tools.verification.format_replay")
        asked = {"file": str(file), "format": name, "golden": str(golden)}
        try:
            found = self._format_worker.request(asked, timeout=REPLAY_SECONDS)
        except (WorkerError, WorkerRefusal) as error:
            raise VerificationError(f"replaying {name} failed: {error}") from error
        if "missing" in found:
            return f"digests agree, not replayed: {found['missing']} is not installed"
        if not found["difference"] <= recorded["tolerance"]:
            raise VerificationError(
                f"{name} differs from the golden output by {found['difference']:.2g}, the stated tolerance is "
                f"{recorded['tolerance']:.2g}"
            )
        return f"differs by {found['difference']:.2g}, tolerance {recorded['tolerance']:.2g}"

    def _check_lite_document(self, target: Target, record: Record) -> None:
        """Compare the document of kind Lite with the module."""
        document = parse(self._text(layout.lite_document_path(target.url)))
        asset = document.value("asset-path") or ""
        if (document.kind, document.value("parent-model")) != ("Lite", record["handle"]):
            raise VerificationError(f"the document of kind Lite is that of {document.kind} {document.handle}")
        files = tuple(f"/{layout.format_path(record['handle'], name)}" for name in layout.FORMATS_OF_KIND[layout.LITE])
        if not asset.endswith(files):
            raise VerificationError(f"the asset-path of the document of kind Lite is {asset}")

    def _signatures(self, target: Target, handle: str | None, files: dict[str, bytes]) -> str:
        """Check the signatures of a record and its notes; with nobody to trust, say whom the record's names."""
        url = layout.record_path(target.url)
        if self._trust is None:
            if url not in files:
                raise SkippedCheck("there is no record that could be signed")
            try:
                found = signatures.claim(self._signature(url), name=url)
            except NotFound:
                raise SkippedCheck("unsigned") from None
            raise SkippedCheck(
                f"signed, not checked: give --key or --identity (it names {signatures.described(found)})"
            )
        if handle is None:
            raise VerificationError("unsigned: there is no record beside the archive, and the record is what is signed")
        signers, unsigned, wrong = [], [], []
        for number, (address, data) in enumerate(files.items()):
            if number and (problems := notes.problems(json_text.parse_object(data), layout.NotePath(handle, number))):
                wrong.append(with_fix(f"{address} is malformed: {'; '.join(problems)}", "tell the hub's owner"))
            try:
                signers.append(self._trust.check(data, self._signature(address), name=address))
            except NotFound:
                unsigned.append(address)
            except SignatureError as error:
                wrong.append(str(error))
        if unsigned:
            message = f"unsigned: nothing lies at {', '.join(map(layout.signature_path, unsigned))}"
            wrong.insert(0, with_fix(message, "do not use it before its publisher has signed it"))
        if wrong:
            raise VerificationError(" ".join(wrong))
        others = f", as are {len(files) - 1} notes" if len(files) > 1 else ""
        return f"signed by {signers[0]}{others}"

    def _signature(self, url: str) -> bytes:
        return self._bytes(layout.signature_path(url), signatures.MAX_BYTES)

    def _bytes(self, url: str, limit_bytes: int = SMALL_BYTES) -> bytes:
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as folder:
            return fetch(url, cache=Path(folder), limit_bytes=limit_bytes, budget=self._budget).read_bytes()

    def _record(self, target: Target, files: dict[str, bytes]) -> Record:
        if target.problem:
            raise VerificationError(target.problem)
        url = layout.record_path(target.url)
        try:
            found = self._json(url, files)
        except NotFound:
            if target.listed is not None:
                raise
            raise SkippedCheck("there is none beside the archive, so its bytes are compared with nothing") from None
        handle = found.get("handle")
        if isinstance(handle, str) and not f"/{target.url}".endswith(f"/{handle}"):
            raise VerificationError(f"the record at {url} is that of {handle}")
        if wrong := record_problems(found):
            raise VerificationError(f"{url} is malformed: {'; '.join(wrong)}")
        record = cast(Record, found)
        listed = (target.listed or {}).get("archive")
        sha256 = listed.get("sha256") if isinstance(listed, dict) else None
        if target.listed is not None and sha256 != record["archive"]["sha256"]:
            raise VerificationError(f"{layout.INDEX} and the record of {handle} name different archives")
        return record

    def _golden(self, file: Path, folder: Path, record: Record | None) -> str:
        reading.unpack(file, folder, self._limits.of_archives())
        if not (folder / "assets.extra/golden.npz").is_file():
            raise VerificationError("the archive has no assets.extra/golden.npz to replay")
        shutil.copy(folder / "assets.extra/golden.npz", folder.parent / GOLDEN)
        if self._worker is None or not self._worker.is_alive:
            self._worker = Worker("tools.verification.replay")
        try:
            found = self._worker.request({"folder": str(folder)}, timeout=REPLAY_SECONDS)
        except (WorkerError, WorkerRefusal) as error:
            raise VerificationError(f"replaying it failed: {error}") from error
        finally:
            shutil.rmtree(folder)
        tolerance = record["verification"]["golden_tolerance"] if record else found["tolerance"]
        worst = max(found["differences"].values())
        if not worst <= tolerance:
            raise VerificationError(
                f"it differs from its golden output by {worst:.2g}, the stated tolerance is {tolerance:.2g}: "
                f"{found['differences']}"
            )
        return f"differs by {worst:.2g}, tolerance {tolerance:.2g}"

    def _read(self, file: Path) -> Contents:
        limits, memory = self._limits.of_archives(), self._limits.memory_bytes
        with file.open("rb", buffering=0) as stream:
            return archive_contents.read(stream, file.name, memory_bytes=memory, limits=limits)

    def _text(self, url: str) -> str:
        return fetch_text(url, limit_bytes=SMALL_BYTES, budget=self._budget)

    def _there(self, url: str) -> bool:
        try:
            self._text(url)
            return True
        except NotFound:
            return False

    def _json(self, url: str, files: dict[str, bytes] | None = None) -> dict[str, Any]:
        """Return the object at `url`; its bytes are added to `files`."""
        data = self._bytes(url)
        if files is not None:
            files[url] = data
        try:
            return json_text.parse_object(data)
        except json_text.JsonError as error:
            raise VerificationError(f"{url} cannot be used: {error}") from error

    def _withdrawn(self, url: str, handle: str, files: dict[str, bytes]) -> str:
        """Return why a module was withdrawn, as its notes say: they are numbered without gaps, so nobody need list the hub."""
        why, number = "", 1
        with contextlib.suppress(NotFound):
            while True:
                note = self._json(layout.note_path(url, number), files)
                if note.get("action") == notes.YANK:
                    why = f"withdrawn: {note.get('why')}"
                elif note.get("action") == notes.UNYANK and not notes.problems(note, layout.NotePath(handle, number)):
                    why = ""  # in doubt a module stays withdrawn
                number += 1
        return why


@contextlib.contextmanager
def _checking(result: VerificationResult, name: str) -> Iterator[list[str]]:
    """Run one check: the block appends its message to the list; a SkippedCheck skips it, and other errors make it fail."""
    message: list[str] = []
    try:
        yield message
    except SkippedCheck as reason:
        result.checks.append(Check(name, SKIPPED, str(reason)))
    except (
        VerificationError,
        SignatureError,
        SigningError,
        DownloadError,
        ArchiveError,
        saved_model.SavedModelError,
        OSError,
        UnicodeError,
    ) as error:
        result.checks.append(Check(name, FAILED, " ".join(str(error).split())))
    else:
        result.checks.append(Check(name, OK, " ".join(message)))


def _check_file(file: Path, record: Record | None) -> str:
    """Compare an archive as a file with its record."""
    with file.open("rb") as stream:
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    found = {"bytes": file.stat().st_size, "sha256": sha256_of_file(file), "md5": md5}
    if record and (wrong := file_differences(record, found)):
        raise VerificationError("; ".join(map(str, wrong)))
    return f"{found['bytes']:,} bytes, sha256 {found['sha256']}"


def _check_contents(contents: Contents, record: Record | None) -> str:
    """Compare signatures, description and labels with the record."""
    if "serving_default" not in contents.signatures:
        raise VerificationError("the archive has no signature serving_default")
    if record and (wrong := differences(record, contents)):
        raise VerificationError("; ".join(map(str, wrong)))
    return f"{contents.files} files, {contents.unpacked_bytes:,} bytes"


def _check_document(text: str, record: Record, contents: Contents | None) -> str:
    """Compare a Hub document with the record, and its table with the graph."""
    document, archive = parse(text), record["archive"]
    if (document.kind, document.handle) != ("Module", record["handle"]):
        raise VerificationError(f"the document is that of {document.kind} {document.handle}")
    asset = document.value("asset-path") or ""
    if not asset.endswith(f"/{archive['path']}"):
        raise VerificationError(f"the document's asset-path is {asset}, the record's archive lies at {archive['path']}")
    if archive["sha256"] not in text:
        raise VerificationError(f"the document does not name the archive's sha256 {archive['sha256']}")
    if not archives.signature_table(document):
        raise VerificationError("the document has no table of inputs and outputs")
    if contents and (wrong := list(archives.signature_problems(document, contents.signatures))):
        raise VerificationError("; ".join(wrong))
    return "agrees with the signature" if contents else "agrees with the record"


def _listed(base: str, index: dict[str, Any], every: bool) -> list[Target]:
    """Return the modules of a hub's index, with what is wrong with an entry where it is no module's."""
    modules = index.get("modules")
    if not isinstance(modules, list):
        message = f"{base}/{layout.INDEX} is no index of a hub: it has no list of modules"
        raise NothingThereError(with_fix(message, "give a hub's address"))
    if not modules:
        raise NothingThereError(with_fix(f"{base} lists no module", "publish one first"))
    targets: list[Target] = []
    newest: dict[str, int] = {}
    for number, each in enumerate(modules):
        if not isinstance(each, dict) or not _is_entry(each):
            problem = f"{layout.INDEX} has an entry that is no module's: modules[{number}]"
            targets.append(Target(f"{base}/{layout.INDEX}#{number}", {}, problem))
            continue
        targets.append(Target(f"{base}/{each['handle']}", each))
        if not each.get("yanked"):
            newest[each["name"]] = max(each["version"], newest.get(each["name"], 0))
    return [
        target
        for target in targets
        if every or not target.listed or newest.get(target.listed["name"]) == target.listed["version"]
    ]


def _is_entry(each: dict[str, Any]) -> bool:
    """Return whether an object of an index names a module."""
    try:
        checked(each["handle"])
    except (KeyError, TypeError, AttributeError, StorageError):
        return False
    version = each.get("version")
    return isinstance(each.get("name"), str) and isinstance(version, int) and not isinstance(version, bool)
