"""The publish transaction: row -> checkpoint -> build -> check -> archive -> storage -> record -> pages.

    publisher = Publishing(catalog, storage, cache=..., mirrors=..., base_url=...)
    results = publisher.run(catalog.expand(["quickstart"]), jobs=1)
    publisher.write_pages()

An archive is created first, checked where it arrived, and only then its record: without a record a module does not
exist, so whatever is killed whenever, the hub stays readable,
and the same command finishes the job. Nothing published is ever overwritten.
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tools.catalog import layout
from tools.catalog.catalog import HEADS, Catalog, Module, Variant
from tools.common.download import fetch, has_digest_in_name
from tools.hub import records
from tools.hub.storage import AlreadyThere, NotThere, Storage
from tools.publishing import build, consistency, targets

PACKAGES = ("tensorflow", "keras", "tensorflow-hub", "numpy")
# What the graph and the weights are made from; the other facts of a row are for its pages.
BUILD_KEY_FIELDS = (
    "family",
    "stem",
    "version",
    "architecture",
    "resolution",
    "classes",
    "labels",
    "transform",
    "normalization",
    "pixel_range",
    "precision",
    "format",
    "licence",
    "fine_tunable",
)


# What goes wrong with one module and leaves the others alone; anything else is a fault of this program.
RECOVERABLE_ERRORS = (RuntimeError, ValueError, OSError)

# A download is refused beyond this: no upstream file has more than a model's weights with their average and the optimizer's two
# moments (16 bytes for each parameter) and some room; LARGEST_BYTES where a row reports no parameters.
PARAMETER_BYTES, ROOM_BYTES, LARGEST_BYTES = 16, 256 << 20, 16 << 30


class PublishError(RuntimeError):
    """A module is not published; the message says why and what to do."""


@dataclass
class PublishResult:
    """What became of one module: `state` is "published", "unchanged" or "failed" (with `reason`)."""

    module: Module
    state: str
    reason: str = ""
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def is_unverified(self) -> bool:
        """Whether nothing but a mirror vouches for the weights: no digest in the row, none in the name of the file."""
        variant, came_from = self.module.variant, self.record.get("checkpoint", {})
        return bool(came_from.get("mirror")) and not variant.sha256 and not has_digest_in_name(variant.checkpoint)


def nothing(*_arguments) -> None:
    """No progress."""


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
    report: Callable[..., None] = nothing
    _known: dict[str, Any] = field(default_factory=dict)  # records that were read, by path: they never change

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

    def _publish_row_safely(self, modules: list[Module]) -> list[PublishResult]:
        variant = modules[0].variant
        try:
            return self._publish_row(variant, modules)
        except RECOVERABLE_ERRORS as error:
            return [_failed(module, error) for module in modules]
        finally:
            self.report(variant, "done", None, None)

    def _publish_row(self, variant: Variant, modules: list[Module]) -> list[PublishResult]:
        if self.prebuilt:
            kept, spec = self._prebuilt(variant)
        else:
            self.report(variant, "fetch", None, None)
            path = self._checkpoint(variant)
            self.report(variant, "hash", None, None)
            spec = self._specification(variant, path)
            kept = self._builds / spec["build"]["key"]
        published = {module.handle: self._record(module.handle) for module in modules}
        if all(record and record["build"]["key"] == spec["build"]["key"] for record in published.values()):
            return [PublishResult(module, "unchanged", record=published[module.handle]) for module in modules]
        made = self._prebuilt_made(variant, spec, kept) if self.prebuilt else self._made(variant, spec)
        results = []
        for module in modules:
            built, checked, packed = (made[key][module.head] for key in ("built", "checked", "packed"))
            record = records.assemble(module, spec, built, checked, packed, now())
            file = kept / f"{module.head}.tar.gz"
            try:
                results.append(self._commit(module, file, packed, record, published[module.handle]))
            except RECOVERABLE_ERRORS as error:  # the row's other module is none the worse
                results.append(_failed(module, error))
        return results

    def specification(self, variant: Variant) -> dict[str, Any]:
        """What decides a row's bytes, as `make` takes it: for those who build elsewhere (tools/publishing/action.py)."""
        return self._specification(variant, self._checkpoint(variant))

    def make(self, spec: dict[str, Any]) -> Path:
        """Build what a specification says; the folder with `made.json` and an archive for each head, `<head>.tar.gz`."""
        self._made(None, spec)
        return self._builds / spec["build"]["key"]

    def _record(self, handle: str) -> dict[str, Any] | None:
        record = records.load(self.storage, handle)
        if record is not None:
            self._known[layout.record_path(handle)] = record
        return record

    @property
    def _builds(self) -> Path:
        return self.cache / "builds"

    def _prebuilt(self, variant: Variant) -> tuple[Path, dict[str, Any]]:
        """The folder where Bazel put a row's archives, and the specification that they ought to be made from.

        A checkpoint from elsewhere need not be here: its size and digest are those that Bazel noted beside the archives.
        """
        target = targets.name(variant, self.catalog)
        folder = self.prebuilt / target
        if not folder.is_dir():
            raise PublishError(f"{variant.stem} is not in {self.prebuilt}; make it: `bazel build //modules:{target}`")
        if "://" not in variant.checkpoint:
            return folder, self._specification(variant, self._checkpoint(variant))
        noted = folder / "checkpoint.json"
        return folder, self._specification(variant, noted, _noted(noted))

    def _prebuilt_made(self, variant: Variant, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What was found out about archives that Bazel made, if they are what this run would make."""
        self.report(variant, "check the prebuilt archives", None, None)
        made, again = _noted(folder / "made.json"), f"run `bazel build //modules:{folder.name}` again"
        if made.get("key") != spec["build"]["key"]:
            raise PublishError(
                f"{folder} was made from another row, checkpoint, code or versions than are here; {again}, from this checkout "
                "and with this environment"
            )
        for head in spec["heads"]:
            file = folder / f"{head}.tar.gz"
            if not file.exists() or sha256(file) != made["packed"][head]["sha256"]:
                raise PublishError(f"{file} is not the archive that made.json beside it describes; {again}")
        return made

    def _made(self, variant: Variant, spec: dict[str, Any]) -> dict[str, Any]:
        """The checked archives of a row, `<cache>/builds/<key>/<head>.tar.gz`, and what was found out: kept, or made now.

        The key covers everything that decides the bytes, and an archive whose digest is not the one noted is made again.
        """
        kept = self._builds / spec["build"]["key"]
        try:
            made = json.loads((kept / "made.json").read_text())
            self.report(variant, "reuse the build", None, None)
            if all(sha256(kept / f"{head}.tar.gz") == made["packed"][head]["sha256"] for head in spec["heads"]):
                return made
            shutil.rmtree(kept)
        except FileNotFoundError:
            pass
        with build.build_directory(self._builds) as folder:
            made = build.make(spec, folder, root=self.catalog.root, report=partial(self.report, variant))
            try:
                (folder / "kept").rename(kept)
            except OSError:  # another process made the same meanwhile
                if not (kept / "made.json").exists():
                    raise
        return made

    def _commit(
        self, module: Module, file: Path, packed, record: dict[str, Any], existing: dict[str, Any] | None
    ) -> PublishResult:
        """Store the archive, check what arrived, and create the record. The record's creation is the publication."""

        archive, record_file = layout.archive_path(module.handle), layout.record_path(module.handle)
        stage = f"store {module.head}"
        if existing is None:
            consistency.check(
                record, module=module, file=file, packed=packed, catalog=self.catalog, base_url=self.base_url
            )
            try:
                self.storage.create(
                    archive,
                    file,
                    content_type="application/gzip",
                    progress=lambda done, total: self.report(module.variant, stage, done, total),
                )
            except AlreadyThere:
                # Left by a run that was cut off, or written just now by another publisher: fine if it is the same.
                existing = records.load(self.storage, module.handle)
                if existing is None and not self._holds(archive, packed):
                    raise PublishError(
                        f"{module.handle}: an archive with other bytes lies at {self.storage.url_for(archive)} without a "
                        f"record, from a publisher that is still at work or was cut off; let it finish, or publish version "
                        f"{module.variant.version + 1}"
                    ) from None
        if existing is None:
            self.storage.verify(archive, packed["bytes"], packed["sha256"], packed["md5"])
            try:
                self.storage.create(record_file, records.encode(record), content_type="application/json")
                return PublishResult(module, "published", record=record)
            except AlreadyThere:
                existing = records.load(self.storage, module.handle)
                if existing and records.encode(existing) == records.encode(record):  # ours: the answer was lost
                    return PublishResult(module, "published", record=record)
        if existing["archive"]["sha256"] == packed["sha256"]:
            return PublishResult(module, "unchanged", record=existing)
        raise PublishError(
            f"{module.handle} is published with other bytes (sha256 {existing['archive']['sha256'][:12]}..., these are "
            f"{packed['sha256'][:12]}...), and what is published never changes; publish version {module.variant.version + 1}: "
            f"set `version = {module.variant.version + 1}` in its row of {module.variant.file}"
        )

    def _holds(self, path: str, packed) -> bool:
        """Whether the stored archive is the packed one."""
        try:
            self.storage.verify(path, packed["bytes"], packed["sha256"], packed["md5"])
            return True
        except NotThere:
            raise
        except RuntimeError:
            return False

    def _checkpoint(self, variant: Variant) -> Path:
        """The local file of a row's checkpoint: in the repository, from the mirror, from the cache or from upstream."""
        if "://" not in variant.checkpoint:
            return self.catalog.root / variant.checkpoint
        return fetch(
            variant.checkpoint,
            cache=self.cache / "checkpoints",
            mirrors=self.mirrors,
            sha256=variant.sha256,
            progress=lambda done, total: self.report(variant, "fetch", done, total),
            limit_bytes=variant.parameters * PARAMETER_BYTES + ROOM_BYTES if variant.parameters else LARGEST_BYTES,
        )

    def _specification(self, variant: Variant, path: Path, found: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the build and check processes are told; everything that decides the bytes is in its `build.key`.

        `found` has the checkpoint's `bytes` and `sha256` where the file itself is not here.
        """
        facts = variant.facts()
        shared = self.catalog.preprocessing
        found = found or {"bytes": path.stat().st_size, "sha256": sha256(path)}
        digest = found["sha256"]
        if variant.sha256 and digest != variant.sha256:
            raise PublishError(
                f"{variant.file}: {variant.stem}: {path} has sha256 {digest}, the row pins {variant.sha256}; get the right file"
            )
        module = {
            "row": {key: facts[key] for key in BUILD_KEY_FIELDS} | {"paper": variant.paper["url"]},
            "preprocessing": {
                "transform": shared["transforms"][variant.transform],
                "normalization": shared["normalizations"][variant.normalization],
            },
            "checkpoint": {
                "url": variant.checkpoint,
                "file": variant.checkpoint.rsplit("/", 1)[1],
                "format": variant.format,
                "bytes": found["bytes"],
                "sha256": digest,
            },
            "versions": self.versions,
        }
        labels = self._labels(variant)
        evaluation = self.catalog.root / "modules" / variant.evaluation if variant.evaluation else None
        key = _digest(json.dumps([module, labels, self.sources, evaluation and sha256(evaluation)], sort_keys=True))
        spec = {
            "module": module,
            "labels": labels,
            "heads": [head for head in HEADS if head in variant.names],
            "build": {"sources": self.sources, "key": key},
            "checkpoint_path": str(path),
            "file": variant.file,
        }
        if evaluation:
            spec["evaluation"] = {"path": str(evaluation)}
        if "://" in variant.checkpoint and (self.mirrors or self.prebuilt) and found.get("origin") != "upstream":
            spec["mirror"] = True  # for the record: where a file came from does not decide the bytes
        return spec

    def _labels(self, variant: Variant) -> list[str] | None:
        if not variant.labels:
            return None
        lines = (self.catalog.root / f"modules/labels/{variant.labels}.tsv").read_text(encoding="utf-8").splitlines()
        return [line.split("\t")[1] for line in lines]

    @cached_property
    def versions(self) -> dict[str, str]:
        """Of the packages that decide the bytes."""
        found = {name.replace("-", "_"): importlib.metadata.version(name) for name in PACKAGES}
        project = tomllib.loads((self.catalog.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return found | {"python": ".".join(platform.python_version_tuple()[:2]), "hubpress": project["version"]}

    @cached_property
    def sources(self) -> str:
        """The digest of the code that makes a module's archive from its row."""
        packing = [self.catalog.root / f"tools/archive/{name}.py" for name in ("members", "packing")]
        files = [*sorted((self.catalog.root / "builders").glob("*.py")), *packing]
        parts = [f"{file.name}\0{_digest(file.read_text(encoding='utf-8'))}\n" for file in files]
        return _digest("".join([*parts, f"isal {importlib.metadata.version('isal')}"]))

    def write_pages(self) -> int:
        """`write_pages` for this run's hub."""
        return write_pages(self.catalog, self.storage, self.base_url, self._known, cache=self.cache)


def write_pages(
    catalog: Catalog, storage: Storage, base_url: str, known: dict[str, Any] | None = None, *, cache: Path | None = None
) -> int:
    """Derive pages and index from the hub's records and notes (see `tools.site.writing`); how many were written."""
    from tools.site import writing as pages

    return pages.write_pages(catalog, storage, base_url, known, cache=cache)


def now() -> str:
    """The time of publication, ISO 8601 in UTC; SOURCE_DATE_EPOCH sets it for runs that must repeat."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def sha256(path: Path) -> str:
    """The digest of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _noted(file: Path) -> dict[str, Any]:
    """A JSON file that Bazel made beside archives."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        raise PublishError(
            f"{file} is missing or damaged; run `bazel build //modules:{file.parent.name}` again"
        ) from None
