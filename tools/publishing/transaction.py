"""Publish transaction: specification and build of a row -> archive -> check what arrived -> record.

    publisher = Publishing(catalog, storage, cache=..., mirrors=..., base_url=...)
    results = publisher.run(catalog.expand(["quickstart"]), jobs=1)
    publisher.write_pages()

Archives are created first, checked where they arrived, and only then their records: without a record a module does not exist, so
whatever is killed whenever, the hub stays readable, and the same command finishes the job. Nothing published is ever overwritten.

Both modules of a row, its heads, come from one build, also where publishers of different builds meet. Each creates the archives of
its heads, looks at those of the row's other heads, and only then creates records: of two that create the archives of different
heads at the same time, at least one sees the other's, and gives up.

With a signer, signatures follow the record (see `tools.publishing.attestations`). A record that was there already is signed only
if it says what this run would have written: who holds the key vouches for what he built, and not for what lies in a bucket.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tools.catalog import layout
from tools.catalog.catalog import Catalog, Module, Variant
from tools.catalog.checkpoints import fetch_checkpoint
from tools.common.clock import now
from tools.common.download import has_digest_in_name
from tools.common.problems import about, with_fix
from tools.hub import records
from tools.hub.differences import by_key, plain
from tools.hub.records import Record
from tools.hub.signatures import Signer
from tools.hub.storage import AlreadyThere, NotThere, Storage
from tools.publishing import attestations, build, consistency, prebuilt
from tools.publishing.build import ArchiveFacts, Build
from tools.publishing.specification import Specification, specify
from tools.site.writing import write_pages

# What goes wrong with one module and leaves the others alone; anything else is a fault of this program.
RECOVERABLE_ERRORS = (RuntimeError, ValueError, OSError)


class PublishError(RuntimeError):
    """A module is not published; the message says why and what to do."""


@dataclass
class PublishResult:
    """Outcome for one module.

    `state` is "published", "unchanged", "restored" (its archive had gone), "kept" (published before, and compared with nothing) or
    "failed" (with `reason`).
    """

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
    """Return the outcome of a module that is not published; the reason names its row, or a module of it."""
    variant, reason = module.variant, str(error)
    if not any(f"/{name}/{variant.version}" in reason for name in variant.names.values()):
        reason = about(f"{variant.file}: {variant.stem}", error)
    return PublishResult(module, "failed", reason)


def _row_of(module: Module) -> str:
    """Return what the modules of one row have in common."""
    return f"{module.variant.stem}/{module.variant.version}"


@dataclass
class Publishing:
    """One run against one hub.

    `cache` is the folder that keeps downloaded checkpoints and finished builds, `mirrors` a folder or URL with upstream files (see
    `tools.common.download.fetch`), `base_url` what handles begin with, `prebuilt` a folder of archives that Bazel made: then
    nothing is built here; `signer` signs each record. With `keeps_published`, rows whose modules are all published, and signed if
    they should be, are left as they are, whatever would be built from them now.
    `report(variant, stage, done, total)` is called from the threads that do the work; bytes are None between transfers.
    """

    catalog: Catalog
    storage: Storage
    base_url: str
    cache: Path
    mirrors: str | None = None
    prebuilt: Path | None = None
    signer: Signer | None = None
    keeps_published: bool = False
    report: Callable[[Variant, str, int | None, int | None], None] = no_progress
    _known: dict[str, Record] = field(default_factory=dict)  # records that were read, by path: they never change

    def run(self, modules: list[Module], jobs: int = 1) -> list[PublishResult]:
        """Publish `modules`, `jobs` rows at a time; a row that fails leaves the others alone."""
        self.storage.prepare()
        self.storage.delete_leftovers()
        rows: dict[str, list[Module]] = {}
        for module in modules:
            rows.setdefault(_row_of(module), []).append(module)
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
        """Publish `modules`, of one row. Raises what refuses all of them."""
        report = partial(self.report, variant)
        if self.keeps_published and (kept := self._kept(modules)):
            return kept
        if self.prebuilt:
            spec, folder = prebuilt.find(self.prebuilt, variant, self.catalog)
        else:
            spec = self._specification(variant)
        heads = [each for each in self.catalog.modules if _row_of(each) == _row_of(modules[0])]
        published = {module.handle: self._record(module.handle) for module in heads}
        for module in heads:
            self._refuse_another_definition(module, published[module.handle], spec)
        if all(self._is_unchanged(module, published[module.handle], spec) for module in modules):
            return [PublishResult(module, "unchanged", record=published[module.handle]) for module in modules]
        if self.prebuilt:
            report("check the prebuilt archives", None, None)
            row = prebuilt.load(folder, spec)
        else:
            row = build.get_or_make(spec, self.cache / "builds", root=self.catalog.root, report=report)
        for module in heads:
            self._refuse_other_bytes(module, published[module.handle], row.manifest["packed"][module.head])
        others = [each for each in heads if each not in modules and published[each.handle] is None]
        return self._store_row(modules, others, spec, row, published)

    def _kept(self, modules: list[Module]) -> list[PublishResult] | None:
        """Return the outcome for modules that are all published, with their archives, and signed if they should be; else None."""
        found = [(module, self._record(module.handle)) for module in modules]
        results = [
            PublishResult(module, "kept", record=record)
            for module, record in found
            if record is not None and self._is_there(module, record) and self._is_signed(record)
        ]
        return results if len(results) == len(modules) else None

    def _is_signed(self, record: Record) -> bool:
        return self.signer is None or attestations.is_attested(self.storage, record, self.signer)

    def _store_row(
        self,
        modules: list[Module],
        others: list[Module],
        spec: Specification,
        row: Build,
        published: dict[str, Record | None],
    ) -> list[PublishResult]:
        """Create the archives and then the records of `modules`; `others` are those of the row that are not published either."""
        built, checked, packed = row.manifest["built"], row.manifest["checked"], row.manifest["packed"]
        made = {}
        for module in modules:
            head = module.head
            made[module.handle] = records.assemble(module, spec, built[head], checked[head], packed[head], now())
            if published[module.handle] is None:
                self._check(module, made[module.handle], row)
        for module in others:
            self._refuse_foreign_archive(module, packed[module.head])
        states = {}
        for module in modules:
            existing = published[module.handle]
            is_there = existing is not None and self._is_there(module, existing)
            states[module.handle] = "unchanged" if is_there else self._store_archive(module, row)
        for module in others:
            self._refuse_foreign_archive(module, packed[module.head])
        results = [
            self._commit(each, packed[each.head], made[each.handle], published[each.handle], states[each.handle])
            for each in modules
        ]
        return [self._signed(each, made[each.module.handle], row) for each in results] if self.signer else results

    def _signed(self, result: PublishResult, made: Record, row: Build) -> PublishResult:
        """Sign a module that is published now; `made` is the record that this run assembled."""
        if result.state == "failed" or result.record is None or self.signer is None:
            return result
        module, record = result.module, result.record
        # When it was published and how its build was checked may differ from run to run.
        changes = [
            key
            for key in sorted(made.keys() | record.keys())
            if key not in ("published", "verification", "build") and plain(made).get(key) != plain(record).get(key)
        ]
        try:
            if changes:
                message = f"{module.handle} is published, and not signed: its record says something else in {', '.join(changes)}"
                fix = f"look at it; restore what the row was then, or publish version {module.variant.version + 1}"
                raise PublishError(with_fix(message, fix))
            source = attestations.source_of(self.catalog.root)
            archive = row.archive(module.head)
            attestations.attest(self.storage, record, archive=archive, source=source, by=self.signer)
        except RECOVERABLE_ERRORS as error:
            return _failed(module, error)
        return result

    def _check(self, module: Module, record: Record, row: Build) -> None:
        """Compare record, row, archive and document; raises ConsistencyError."""
        file, packed = row.archive(module.head), row.manifest["packed"][module.head]
        consistency.check(record, module=module, file=file, packed=packed, catalog=self.catalog, base_url=self.base_url)

    def _specification(self, variant: Variant) -> Specification:
        """Fetch the checkpoint of a row, and return the row's specification."""
        report = partial(self.report, variant)
        report("fetch", None, None)
        checkpoint = fetch_checkpoint(
            variant,
            self.catalog,
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

    def _is_unchanged(self, module: Module, record: Record | None, spec: Specification) -> bool:
        """Return whether a module is published as its row has it, its archive is there, and it is signed if it should be."""
        if record is None or record["build"]["key"] != spec["build"]["key"] or not self._is_there(module, record):
            return False
        return self._is_signed(record)

    def _is_there(self, module: Module, record: Record) -> bool:
        """Return whether the archive of a published module is there.

        Raises:
          PublishError: what is there has another size.
        """
        path, size = layout.archive_path(module.handle), record["archive"]["bytes"]
        try:
            found = self.storage.stat(path).size
        except NotThere:
            return False
        if found == size:
            return True
        fix = "move it away, and run the same command again, which puts the right one there"
        where = self.storage.url_for(path)
        raise PublishError(with_fix(f"{module.handle}: {where} has {found:,} bytes, its record says {size:,}", fix))

    def _refuse_another_definition(self, module: Module, record: Record | None, spec: Specification) -> None:
        """Refuse before anything is built what would give other bytes than are published: an archive states its definition."""
        if record is None:
            return
        defined = plain(spec["module"])
        row = {**record["row"], "paper": record["row"]["paper"]["url"]}
        recorded = {
            "row": {key: row.get(key, value) for key, value in defined["row"].items()},  # older records lack some keys
            "preprocessing": record["preprocessing"],
            # Not what was taken of the file: the build finds that out.
            "checkpoint": {key: records.checkpoint(record).get(key) for key in defined["checkpoint"]},
            "versions": record["versions"],
        }
        changes = [
            f"`{key.removeprefix('its ').replace(' ', '.')}` was {was!r}, and is {becomes!r}"
            for key, was, becomes in by_key("its", plain(recorded), defined)
        ]
        if changes:
            raise self._conflict(module, f"is published with another definition: {'; '.join(changes)}")

    def _refuse_other_bytes(self, module: Module, record: Record | None, packed: ArchiveFacts) -> None:
        """Refuse a build that is not the one that is published."""
        if record is not None and record["archive"]["sha256"] != packed["sha256"]:
            was, made = record["archive"]["sha256"][:12], packed["sha256"][:12]
            raise self._conflict(module, f"is published with other bytes (sha256 {was}..., these are {made}...)")

    def _refuse_foreign_archive(self, module: Module, packed: ArchiveFacts) -> None:
        """Refuse to go on beside an archive of another build, published or not."""
        path = layout.archive_path(module.handle)
        if not self.storage.exists(path) or self._holds(path, packed):
            return
        record = self._record(module.handle)  # there may be one by now
        self._refuse_other_bytes(module, record, packed)
        if record is None:
            message = (
                f"{module.handle}: an archive with other bytes lies at {self.storage.url_for(path)} without a record: "
                "another publisher is still at work, or was cut off"
            )
            fix = f"let it finish, or publish version {module.variant.version + 1}"
            raise PublishError(with_fix(message, fix))

    def _conflict(self, module: Module, message: str) -> PublishError:
        """Return the error for a version that is taken, for the other module of the row, too."""
        version = module.variant.version + 1
        return PublishError(
            with_fix(
                f"{module.handle} {message}; what is published never changes, and the modules of a row come from one build",
                f'publish version {version}: set `version = {version}, changes = "..."` in its row of {module.variant.file}',
            )
        )

    def _store_archive(self, module: Module, row: Build) -> str:
        """Create the archive of a module, or adopt the same that lies there; returns the state that a published module is in then.

        Raises:
          PublishError: an archive with other bytes lies there.
        """
        path, packed = layout.archive_path(module.handle), row.manifest["packed"][module.head]
        try:
            progress = partial(self.report, module.variant, f"store {module.head}")
            self.storage.create(path, row.archive(module.head), content_type="application/gzip", progress=progress)
            state = "restored"
        except AlreadyThere:  # published, or left by a run that was cut off, or written just now by another publisher
            self._refuse_foreign_archive(module, packed)
            state = "unchanged"
        self.storage.verify(path, packed["bytes"], packed["sha256"], packed["md5"])
        return state

    def _commit(
        self, module: Module, packed: ArchiveFacts, record: Record, existing: Record | None, state: str
    ) -> PublishResult:
        """Create the record, which is the publication; a module that has one is in `state`."""
        try:
            if existing is None:
                try:
                    data = records.encode(record)
                    self.storage.create(layout.record_path(module.handle), data, content_type="application/json")
                    return PublishResult(module, "published", record=record)
                except AlreadyThere:
                    existing, state = self._record(module.handle), "unchanged"
                    if existing is None:
                        raise
                    if records.encode(existing) == data:  # ours: the answer was lost
                        state = "published"
            self._refuse_other_bytes(module, existing, packed)
            return PublishResult(module, state, record=existing)
        except RECOVERABLE_ERRORS as error:  # the row's other module is none the worse
            return _failed(module, error)

    def _holds(self, path: str, packed: ArchiveFacts) -> bool:
        """Return whether the stored archive is the packed one."""
        try:
            self.storage.verify(path, packed["bytes"], packed["sha256"], packed["md5"])
            return True
        except NotThere:
            raise
        except RuntimeError:
            return False
