"""Publish a module's files for other runtimes: parent from the hub -> files -> check what arrived -> record of formats.

    publishing = FormatPublishing(storage, maker, cache=cache)
    results = publishing.publish(module, record, ["onnx", "float32"])

The parent is a published module; it is read and never changed. Files are created first, checked where they arrived, and only then
their record: without one a file is no format of the module. Whatever is killed, the same command finishes. Each format is made by
itself, so that one that cannot be made leaves the others alone. What is recorded is made again only if it is missing, would be
made otherwise than it was (then other bytes are refused), or if its record is to be signed: who holds the key vouches for what he
made.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from tools.catalog import layout
from tools.catalog.catalog import Module, Variant
from tools.common.clock import now
from tools.common.files import ROOT
from tools.common.problems import about, with_fix
from tools.hub import formats, unpacked
from tools.hub.formats import FormatAccuracy, FormatFile, FormatRecord
from tools.hub.records import Record
from tools.hub.signatures import Signer
from tools.hub.storage import AlreadyThere, NotThere, Storage, StorageError
from tools.publishing.build import Report
from tools.publishing.specification import versions

RECOVERABLE_ERRORS = (RuntimeError, ValueError, OSError)


class MadeFormat(Protocol):
    """A file that was made and checked: what `tools.publishing.format_build` returns."""

    @property
    def format(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def operations(self) -> Sequence[str]: ...
    @property
    def differences(self) -> Mapping[str, float]: ...
    @property
    def tolerance(self) -> float: ...
    @property
    def accuracy(self) -> Mapping[str, Any] | None: ...
    @property
    def versions(self) -> Mapping[str, str]: ...
    @property
    def key(self) -> str: ...
    @property
    def code(self) -> str: ...


class Maker(Protocol):
    """What makes files: `tools.publishing.format_build`."""

    def require(self, format: str) -> None:
        """Raise ConvertersMissing, a RuntimeError, if a file of this format cannot be made here."""

    def format_key(self, parent_sha256: str, family: str, format: str) -> str:
        """Return the key under which a file would be made now."""

    def make(
        self,
        parent: Path,
        parent_sha256: str,
        variant: Variant,
        module: Module,
        formats: Sequence[str],
        *,
        cache: Path,
        say: Report,
    ) -> Sequence[MadeFormat]:
        """Make and check files from an unpacked module; a RuntimeError says why one cannot be made."""


@dataclass(frozen=True)
class FormatResult:
    """Outcome for one format of a module.

    `state` is "published", "unchanged", "restored" (its file had gone), "left out" (nothing here can make it) or "failed"; the last
    two with `reason`.
    """

    module: Module
    format: str
    state: str
    reason: str = ""
    file: FormatFile | None = None


@dataclass(frozen=True)
class FormatPublishing:
    """Publishes formats into one hub; `cache` is the publisher's, `signer` signs each record of formats.

    With `leaves_out`, a format whose converters are not installed is left out and does not fail.
    `report(variant, stage, done, total)` is that of `tools.publishing.transaction.Publishing`.
    """

    storage: Storage
    maker: Maker
    cache: Path
    signer: Signer | None = None
    leaves_out: bool = False
    report: Callable[[Variant, str, int | None, int | None], None] = lambda *_: None

    def run(
        self, published: Iterable[tuple[Module, Record]], wanted: Callable[[Module], Sequence[str]], *, jobs: int = 1
    ) -> list[FormatResult]:
        """Publish the formats that `wanted` names of each module, `jobs` modules at a time."""
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            found = pool.map(lambda each: self.publish(each[0], each[1], wanted(each[0])), list(published))
            return [result for results in found for result in results]

    def publish(self, module: Module, record: Record, wanted: Sequence[str]) -> list[FormatResult]:
        """Publish the formats `wanted` of a module that is published, whose record is `record`; none raises."""
        try:
            return sorted(self._publish(module, record, wanted), key=lambda each: wanted.index(each.format))
        except RECOVERABLE_ERRORS as error:
            return [self._failed(module, name, error) for name in wanted]
        finally:
            self.report(module.variant, "done", None, None)

    def _publish(self, module: Module, record: Record, wanted: Sequence[str]) -> Iterator[FormatResult]:
        if not wanted and not self.signer:
            return
        past = formats.load_records(self.storage, record)
        recorded = formats.by_format(past)
        unsigned = [each for each in past if self.signer and not formats.is_signed(self.storage, each, self.signer)]
        to_vouch_for = {file["format"] for each in unsigned for file in each["files"]}
        made: dict[str, FormatFile] = {}
        states: dict[str, str] = {}
        missing = self._missing(wanted)
        for name, error in missing.items():
            if self.leaves_out:
                yield FormatResult(module, name, "left out", str(error))
            else:
                yield self._failed(module, name, error)
        wanted = [name for name in wanted if name not in missing]
        with self._parent(module, record) as parent:
            for name in dict.fromkeys((*wanted, *(name for name in layout.FORMAT_FILES if name in to_vouch_for))):
                try:
                    is_kept = name not in to_vouch_for and self._is_unchanged(module, record, name, recorded)
                    if is_kept:
                        states[name] = "unchanged"
                    else:
                        made[name], states[name] = self._make_and_store(module, record, name, recorded, parent)
                except RECOVERABLE_ERRORS as error:
                    if name in wanted:
                        yield self._failed(module, name, error)
        new: set[str] = set()
        refused: dict[str, FormatResult] = {}
        for kind, names in layout.FORMATS_OF_KIND.items():
            files = [made[name] for name in names if name in made and name not in recorded]
            try:
                if files:
                    added = formats.create(self.storage, record, kind, files, published=now())
                    new |= {file["format"] for file in added}
                self._sign(record, kind, made)
            except RECOVERABLE_ERRORS as error:
                refused |= {name: self._failed(module, name, error) for name in names if name in states}
        final = formats.load(self.storage, record)
        for name in wanted:
            if name in refused:
                yield refused[name]
            elif name in states:
                yield FormatResult(module, name, "published" if name in new else states[name], file=final[name])

    def _missing(self, names: Sequence[str]) -> dict[str, RuntimeError]:
        """Return the formats that nothing here can make, with why."""
        found = {}
        for name in names:
            try:
                self.maker.require(name)
            except RuntimeError as error:
                found[name] = error
        return found

    def _is_unchanged(self, module: Module, record: Record, name: str, recorded: dict[str, FormatFile]) -> bool:
        """Return whether a format is published as it would be made now, and its file is there.

        Raises:
          StorageError: what is there has another size.
        """
        was = recorded.get(name)
        if was is None:
            return False
        try:
            found = self.storage.stat(was["path"]).size
        except NotThere:
            return False
        if found != was["bytes"]:
            where = self.storage.url_for(was["path"])
            message = f"{module.handle}: {where} has {found:,} bytes, its record says {was['bytes']:,}"
            raise StorageError(with_fix(message, "move it away, and run the same command again, which restores it"))
        key = self.maker.format_key(record["archive"]["sha256"], module.variant.family, name)
        return was["build"]["key"] == key

    def _make_and_store(
        self,
        module: Module,
        record: Record,
        name: str,
        recorded: dict[str, FormatFile],
        parent: Callable[[], Path],
    ) -> tuple[FormatFile, str]:
        """Make a file and create it in the hub; return what a record says of it, and the state of a format that has one."""

        def say(stage: str, done: int | None, total: int | None) -> None:
            self.report(module.variant, f"{module.head} as {name}: {stage}", done, total)

        (made,) = self.maker.make(
            parent(),
            record["archive"]["sha256"],
            module.variant,
            module,
            [name],
            cache=self.cache,
            say=say,
        )
        file = self._described(module, made)
        formats.refuse_others(module.handle, file, recorded)
        path = file["path"]

        def progress(done: int, total: int | None) -> None:
            self.report(module.variant, f"store {name}", done, total)

        try:
            self.storage.create(path, made.path, progress=progress)
            state = "restored"
        except AlreadyThere:  # published, or left by a run that was cut off, or written just now by another publisher
            state = "unchanged"
            if name not in recorded and not self._holds(path, file):
                message = (
                    f"{module.handle}: another file lies at {self.storage.url_for(path)} without a record: another publisher is "
                    "still at work, or was cut off"
                )
                fix = "let it finish; if nobody is at work, delete the file, and run the same command again"
                raise StorageError(with_fix(message, fix)) from None
        self.storage.verify(path, file["bytes"], file["sha256"], file["md5"])
        return file, state

    def _described(self, module: Module, made: MadeFormat) -> FormatFile:
        """Return what a record says of a file; raises ValueError if the file is not the one that was made and checked."""
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        with made.path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                sha256.update(piece)
                md5.update(piece)
                size += len(piece)
        if (size, sha256.hexdigest()) != (made.bytes, made.sha256):
            message = f"{made.path} is not the file that was made and checked"
            raise ValueError(with_fix(message, "run the same command again"))
        return {
            "format": made.format,
            "path": layout.format_path(module.handle, made.format),
            "bytes": size,
            "sha256": made.sha256,
            "md5": md5.hexdigest(),
            "operations": list(made.operations),
            "differences": dict(made.differences),
            "tolerance": made.tolerance,
            "accuracy": cast(FormatAccuracy, dict(made.accuracy)) if made.accuracy else None,
            "versions": {"hubpress": versions(ROOT)["hubpress"], **made.versions},
            "build": {"key": made.key, "code": made.code},
        }

    def _sign(self, record: Record, kind: str, made: dict[str, FormatFile]) -> None:
        """Sign the records of a kind of which every file is one that was made here."""
        if self.signer is None:
            return
        for each in formats.load_records(self.storage, record):
            if each["kind"] == formats.KINDS[kind] and self._is_made(each, made):
                formats.sign(self.storage, each, self.signer)

    def _is_made(self, record: FormatRecord, made: dict[str, FormatFile]) -> bool:
        return all(
            file["format"] in made and made[file["format"]]["sha256"] == file["sha256"] for file in record["files"]
        )

    def _holds(self, path: str, file: FormatFile) -> bool:
        """Return whether the stored file is this one."""
        try:
            self.storage.verify(path, file["bytes"], file["sha256"], file["md5"])
            return True
        except NotThere:
            raise
        except StorageError:
            return False

    @contextmanager
    def _parent(self, module: Module, record: Record) -> Iterator[Callable[[], Path]]:
        """Give a function that returns the folder of the unpacked module, which is fetched from the hub when it is asked for."""
        with tempfile.TemporaryDirectory(prefix="hubpress-parent-") as folder:
            target, unfinished = Path(folder) / "module", Path(folder) / "unfinished"

            def unpack() -> Path:
                if not target.exists():
                    shutil.rmtree(unfinished, ignore_errors=True)
                    self.report(module.variant, f"fetch {module.head}", None, None)
                    unpacked.unpack(self.storage, module.handle, record["archive"]["sha256"], unfinished)
                    unfinished.rename(target)
                return target

            yield unpack

    def _failed(self, module: Module, name: str, error: Exception) -> FormatResult:
        reason = str(error)
        if module.handle not in reason or name not in reason:
            reason = about(f"{module.variant.file}: {module.variant.stem}: {module.handle}: {name}", error)
        return FormatResult(module, name, "failed", reason)
