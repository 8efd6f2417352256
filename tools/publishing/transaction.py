"""Publish transaction: specification and build of a row -> archive -> check what arrived -> record.

    publisher = Publishing(catalog, storage, cache=..., mirrors=..., base_url=...)
    results = publisher.run(catalog.expand(["quickstart"]), jobs=1)
    publisher.write_pages()

An archive is created first, checked where it arrived, and only then its record: without a record a module does not exist, so
whatever is killed whenever, the hub stays readable, and the same command finishes the job. Nothing published is ever overwritten.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tools.catalog import layout
from tools.catalog.catalog import Catalog, Module, Variant
from tools.common.clock import now
from tools.common.download import has_digest_in_name
from tools.common.problems import with_fix
from tools.hub import records
from tools.hub.records import Record
from tools.hub.storage import AlreadyThere, NotThere, Storage
from tools.publishing import build, consistency, prebuilt
from tools.publishing.build import ArchiveFacts
from tools.publishing.specification import Specification, fetch_checkpoint, specify
from tools.site.writing import write_pages

# What goes wrong with one module and leaves the others alone; anything else is a fault of this program.
RECOVERABLE_ERRORS = (RuntimeError, ValueError, OSError)


class PublishError(RuntimeError):
    """A module is not published; the message says why and what to do."""


@dataclass
class PublishResult:
    """Outcome for one module: `state` is "published", "unchanged" or "failed" (with `reason`)."""

    module: Module
    state: str
    reason: str = ""
    record: Record | None = None

    @property
    def is_unverified(self) -> bool:
        """True if the weights came from a mirror, and neither the row nor the file's name has a digest to compare them with."""
        variant = self.module.variant
        is_mirrored = self.record is not None and self.record["checkpoint"].get("mirror", False)
        return is_mirrored and not variant.sha256 and not has_digest_in_name(variant.checkpoint)


def no_progress(_variant: Variant, _stage: str, _done: int | None, _total: int | None) -> None:
    """Report nothing."""


def _failed(module: Module, error: Exception) -> PublishResult:
    return PublishResult(module, "failed", str(error) or type(error).__name__)


@dataclass
class Publishing:
    """One run against one hub.

    `cache` is the folder that keeps downloaded checkpoints and finished builds, `mirrors` a folder or URL with upstream files by
    name, `base_url` what handles begin with, `prebuilt` a folder of archives that Bazel made: then nothing is built here.
    `report(variant, stage, done, total)` is called from the threads that do the work; bytes are None between transfers.
    """

    catalog: Catalog
    storage: Storage
    base_url: str
    cache: Path
    mirrors: str | None = None
    prebuilt: Path | None = None
    report: Callable[[Variant, str, int | None, int | None], None] = no_progress
    _known: dict[str, Record] = field(default_factory=dict)  # records that were read, by path: they never change

    def run(self, modules: list[Module], jobs: int = 1) -> list[PublishResult]:
        """Publish `modules`, `jobs` rows at a time; a row that fails leaves the others alone."""
        self.storage.prepare()
        self.storage.delete_leftovers()
        rows: dict[str, list[Module]] = {}
        for module in modules:
            rows.setdefault(f"{module.variant.stem}/{module.variant.version}", []).append(module)
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            results = pool.map(self._publish_row_safely, rows.values())
            return [result for row in results for result in row]

    def write_pages(self) -> int:
        """Derive the hub's pages and index from its records and notes; returns how many were written."""
        return write_pages(self.catalog, self.storage, self.base_url, self._known, cache=self.cache)

    def _publish_row_safely(self, modules: list[Module]) -> list[PublishResult]:
        variant = modules[0].variant
        try:
            return self._publish_row(variant, modules)
        except RECOVERABLE_ERRORS as error:
            return [_failed(module, error) for module in modules]
        finally:
            self.report(variant, "done", None, None)

    def _publish_row(self, variant: Variant, modules: list[Module]) -> list[PublishResult]:
        report = partial(self.report, variant)
        if self.prebuilt:
            spec, folder = prebuilt.find(self.prebuilt, variant, self.catalog)
        else:
            spec = self._specification(variant)
        published = {module.handle: self._record(module.handle) for module in modules}
        if all(record and record["build"]["key"] == spec["build"]["key"] for record in published.values()):
            return [PublishResult(module, "unchanged", record=published[module.handle]) for module in modules]
        if self.prebuilt:
            report("check the prebuilt archives", None, None)
            row = prebuilt.load(folder, spec)
        else:
            row = build.get_or_make(spec, self.cache / "builds", root=self.catalog.root, report=report)
        results = []
        for module in modules:
            head, manifest = module.head, row.manifest
            packed = manifest["packed"][head]
            try:
                record = records.assemble(
                    module, spec, manifest["built"][head], manifest["checked"][head], packed, now()
                )
                results.append(self._commit(module, row.archive(head), packed, record, published[module.handle]))
            except RECOVERABLE_ERRORS as error:  # the row's other module is none the worse
                results.append(_failed(module, error))
        return results

    def _specification(self, variant: Variant) -> Specification:
        """Fetch the checkpoint of a row, and return the row's specification."""
        report = partial(self.report, variant)
        report("fetch", None, None)
        checkpoint = fetch_checkpoint(
            variant,
            root=self.catalog.root,
            cache=self.cache,
            mirrors=self.mirrors,
            progress=partial(report, "fetch"),
        )
        report("hash", None, None)
        return specify(variant, self.catalog, checkpoint, is_mirrored=bool(self.mirrors))

    def _record(self, handle: str) -> Record | None:
        record = records.load(self.storage, handle)
        if record is not None:
            self._known[layout.record_path(handle)] = record
        return record

    def _commit(
        self, module: Module, file: Path, packed: ArchiveFacts, record: Record, existing: Record | None
    ) -> PublishResult:
        """Store the archive, check what arrived, and create the record. The record's creation is the publication."""
        if existing is None:
            existing = self._store_archive(module, file, packed, record)
        if existing is None:
            self.storage.verify(layout.archive_path(module.handle), packed["bytes"], packed["sha256"], packed["md5"])
            try:
                data = records.encode(record)
                self.storage.create(layout.record_path(module.handle), data, content_type="application/json")
                return PublishResult(module, "published", record=record)
            except AlreadyThere:
                existing = records.load(self.storage, module.handle)
                if existing and records.encode(existing) == records.encode(record):  # ours: the answer was lost
                    return PublishResult(module, "published", record=record)
                if existing is None:
                    raise
        if existing["archive"]["sha256"] == packed["sha256"]:
            return PublishResult(module, "unchanged", record=existing)
        version = module.variant.version + 1
        raise PublishError(
            with_fix(
                f"{module.handle} is published with other bytes (sha256 {existing['archive']['sha256'][:12]}..., these are "
                f"{packed['sha256'][:12]}...), and what is published never changes",
                f"publish version {version}: set `version = {version}` in its row of {module.variant.file}",
            )
        )

    def _store_archive(self, module: Module, file: Path, packed: ArchiveFacts, record: Record) -> Record | None:
        """Create the archive of a module that has no record, or adopt the same that lies there.

        Returns:
          The record that another publisher created meanwhile, or None if there is none.

        Raises:
          ConsistencyError: record, row, archive and document differ.
          PublishError: an archive with other bytes lies there.
        """
        path = layout.archive_path(module.handle)
        consistency.check(record, module=module, file=file, packed=packed, catalog=self.catalog, base_url=self.base_url)
        try:
            self.storage.create(
                path,
                file,
                content_type="application/gzip",
                progress=partial(self.report, module.variant, f"store {module.head}"),
            )
            return None
        except AlreadyThere:
            # Left by a run that was cut off, or written just now by another publisher: fine if it is the same.
            existing = records.load(self.storage, module.handle)
            if existing is None and not self._holds(path, packed):
                message = (
                    f"{module.handle}: an archive with other bytes lies at {self.storage.url_for(path)} without a record: "
                    "another publisher is still at work, or was cut off"
                )
                fix = f"let it finish, or publish version {module.variant.version + 1}"
                raise PublishError(with_fix(message, fix)) from None
            return existing

    def _holds(self, path: str, packed: ArchiveFacts) -> bool:
        """Return whether the stored archive is the packed one."""
        try:
            self.storage.verify(path, packed["bytes"], packed["sha256"], packed["md5"])
            return True
        except NotThere:
            raise
        except RuntimeError:
            return False
