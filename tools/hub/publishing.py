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
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.catalog import vocabularies
from tools.catalog.catalog import HEADS, Catalog, Module, Variant
from tools.hub import archive, records
from tools.hub.download import fetch
from tools.hub.storage import AlreadyThere, NotThere, Storage

PACKAGES = ("tensorflow", "keras", "tensorflow-hub", "numpy")
# What the graph and the weights are made from; the other facts of a row are for its pages.
DEFINING = (
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
    "format",
    "licence",
    "fine_tunable",
)


class PublishError(RuntimeError):
    """A module is not published; the message says why and what to do."""


@dataclass
class Result:
    """What became of one module: `state` is "published", "unchanged" or "failed" (with `reason`)."""

    module: Module
    state: str
    reason: str = ""
    record: dict[str, Any] = field(default_factory=dict)


def nothing(*_arguments) -> None:
    """No progress."""


@dataclass
class Publishing:
    """One run against one hub.

    `cache` is the folder that keeps downloaded checkpoints and finished builds, `mirrors` a folder or URL with upstream files by
    name, `base_url` what handles begin with. `report(variant, stage, done, total)` is called from the threads that do the work;
    bytes are None between transfers.
    """

    catalog: Catalog
    storage: Storage
    base_url: str
    cache: Path
    mirrors: str | None = None
    report: Callable[..., None] = nothing
    _known: dict[str, Any] = field(default_factory=dict)  # records that were read, by path: they never change

    def run(self, modules: list[Module], jobs: int = 1) -> list[Result]:
        """Publish `modules`, `jobs` rows at a time; a row that fails leaves the others alone."""
        self.storage.prepare()
        self.storage.delete_leftovers()
        rows: dict[str, list[Module]] = {}
        for module in modules:
            rows.setdefault(f"{module.variant.stem}/{module.variant.version}", []).append(module)
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            results = pool.map(self._publish_row_safely, rows.values())
            return [result for row in results for result in row]

    def _publish_row_safely(self, modules: list[Module]) -> list[Result]:
        variant = modules[0].variant
        try:
            return self._publish_row(variant, modules)
        except Exception as error:
            if not isinstance(error, RuntimeError | ValueError | OSError):
                raise
            reason = str(error) or type(error).__name__
            return [Result(module, "failed", reason) for module in modules]
        finally:
            self.report(variant, "done", None, None)

    def _publish_row(self, variant: Variant, modules: list[Module]) -> list[Result]:
        self.report(variant, "fetch", None, None)
        path = self._checkpoint(variant)
        self.report(variant, "hash", None, None)
        spec = self._specification(variant, path)
        published = {module.handle: self._record(module.handle) for module in modules}
        if all(record and record["build"]["key"] == spec["build"]["key"] for record in published.values()):
            return [Result(module, "unchanged", record=published[module.handle]) for module in modules]
        made = self._made(variant, spec)
        results = []
        for module in modules:
            built, checked, packed = (made[key][module.head] for key in ("built", "checked", "packed"))
            record = records.assemble(module, spec, built, checked, packed, now())
            file = self._builds / spec["build"]["key"] / f"{module.head}.tar.gz"
            results.append(self._commit(module, file, packed, record, published[module.handle]))
        return results

    def _record(self, handle: str) -> dict[str, Any] | None:
        record = records.load(self.storage, handle)
        if record is not None:
            self._known[records.paths(handle)["record"]] = record
        return record

    @property
    def _builds(self) -> Path:
        return self.cache / "builds"

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
        self._builds.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=self._builds) as folder:
            made = self._make(variant, spec, Path(folder))
            try:
                (Path(folder) / "kept").rename(kept)
            except OSError:  # another process made the same meanwhile
                if not (kept / "made.json").exists():
                    raise
        return made

    def _make(self, variant: Variant, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Build, check and pack all heads of a row below `folder`; the archives and `made.json` end up in `folder/kept`."""
        out, specification, kept = folder / "out", folder / "spec.json", folder / "kept"
        specification.write_text(json.dumps(spec))
        self._process(variant, "builders.build", specification, out)
        self._process(variant, "builders.check", specification, out)
        made = {
            "built": json.loads((out / "build.json").read_text())["heads"],
            "checked": json.loads((out / "check.json").read_text()),
            "packed": {},
        }
        kept.mkdir()
        for head in spec["heads"]:
            stage = f"pack {head}"
            packed = archive.pack(
                out / head,
                kept / f"{head}.tar.gz",
                lambda done, total, stage=stage: self.report(variant, stage, done, total),
            )
            shutil.rmtree(out / head)
            made["packed"][head] = {
                "bytes": packed.size,
                "unpacked_bytes": packed.unpacked_size,
                "sha256": packed.sha256,
                "content_sha256": packed.content_sha256,
                "md5": packed.md5,
                "members": sum(not member.is_folder for member in packed.members),
            }
        (kept / "made.json").write_text(json.dumps(made))
        return made

    def _commit(
        self, module: Module, file: Path, packed, record: dict[str, Any], existing: dict[str, Any] | None
    ) -> Result:
        """Store the archive, check what arrived, and create the record. The record's creation is the publication."""
        from tools.pages import crosscheck

        where = records.paths(module.handle)
        stage = f"store {module.head}"
        if existing is None:
            crosscheck.require(
                record, module=module, file=file, packed=packed, catalog=self.catalog, base_url=self.base_url
            )
            try:
                self.storage.create(
                    where["archive"],
                    file,
                    content_type="application/gzip",
                    progress=lambda done, total: self.report(module.variant, stage, done, total),
                )
            except AlreadyThere:
                # Left by a run that was cut off, or written just now by another publisher: fine if it is the same.
                existing = records.load(self.storage, module.handle)
                if existing is None and not self._holds(where["archive"], packed):
                    raise PublishError(
                        f"{module.handle}: an archive with other bytes lies at {self.storage.url_for(where['archive'])} without a "
                        f"record, from a publisher that is still at work or was cut off; let it finish, or publish version "
                        f"{module.variant.version + 1}"
                    ) from None
        if existing is None:
            self.storage.verify(where["archive"], packed["bytes"], packed["sha256"], packed["md5"])
            try:
                self.storage.create(where["record"], records.encode(record), content_type="application/json")
                return Result(module, "published", record=record)
            except AlreadyThere:
                existing = records.load(self.storage, module.handle)
                if existing and records.encode(existing) == records.encode(record):  # ours: the answer was lost
                    return Result(module, "published", record=record)
        if existing["archive"]["sha256"] == packed["sha256"]:
            return Result(module, "unchanged", record=existing)
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
        )

    def _specification(self, variant: Variant, path: Path) -> dict[str, Any]:
        """What the build and check processes are told; everything that decides the bytes is in its `build.key`."""
        facts = variant.facts()
        shared = self.catalog.preprocessing
        digest = sha256(path)
        if variant.sha256 and digest != variant.sha256:
            raise PublishError(
                f"{variant.file}: {variant.stem}: {path} has sha256 {digest}, the row pins {variant.sha256}; get the right file"
            )
        module = {
            "row": {key: facts[key] for key in DEFINING} | {"paper": variant.paper["url"]},
            "preprocessing": {
                "transform": shared["transforms"][variant.transform],
                "normalization": shared["normalizations"][variant.normalization],
            },
            "checkpoint": {
                "url": variant.checkpoint,
                "file": variant.checkpoint.rsplit("/", 1)[1],
                "format": variant.format,
                "bytes": path.stat().st_size,
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
        """The digest of the code that makes a module from its row."""
        files = sorted((self.catalog.root / "builders").glob("*.py"))
        return _digest("".join(f"{file.name}\0{_digest(file.read_text(encoding='utf-8'))}\n" for file in files))

    def _process(self, variant: Variant, module: str, specification: Path, out: Path) -> None:
        """Run a stage of the build in a process of its own; its progress lines are reported, its errors raised."""
        environment = os.environ | {
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": str(self.catalog.root),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",  # the golden outputs are a CPU's
        }
        log = specification.with_name(f"{module}.log")
        with log.open("w+", encoding="utf-8", errors="replace") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(specification), str(out)],
                cwd=self.catalog.root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            try:
                for line in process.stdout:
                    if line.startswith("stage "):
                        self.report(variant, line[len("stage ") :].strip(), None, None)
                code = process.wait()
            finally:
                process.kill()
            if code:
                errors.seek(0)
                raise PublishError(_reason(module, code, errors.read()))

    def write_pages(self) -> int:
        """`write_pages` for this run's hub."""
        return write_pages(self.catalog, self.storage, self.base_url, self._known)


def write_pages(catalog: Catalog, storage: Storage, base_url: str, known: dict[str, Any] | None = None) -> int:
    """Derive pages and index from the hub's records and notes, again if others add some meanwhile; how many were written.

    `known` are records that were read already, by path.
    """
    from tools.pages import site

    tags = vocabularies.load(catalog.root / "modules/tags")
    known = {} if known is None else known
    written, seen = 0, None
    while (hub := records.survey(storage, known)) and (hub.records, hub.yanked) != seen:
        pages = site.build(
            hub.records,
            publisher=catalog.publisher,
            collections=catalog.collections,
            base_url=base_url,
            tags=tags,
            yanked=hub.yanked,
        )
        # What lists the others comes last, so that no link is dead meanwhile.
        for wave in (False, True):
            chosen = [page for path, page in pages.items() if _lists(path) == wave]
            written += _store(storage, chosen, hub.listing)
        seen = (hub.records, hub.yanked)
    return written


def _lists(path: str) -> bool:
    """Whether a page is an index of others: the hub's own files, and the search."""
    return "/" not in path or path.startswith("search/")


def _store(storage: Storage, pages: list, listing: dict[str, Any]) -> int:
    """Write the pages that are not there as they are, several at a time where each takes a round trip; how many were written."""

    def store(page) -> bool:
        return storage.replace(page.path, page.data, content_type=page.content_type, known=listing.get(page.path))

    with ThreadPoolExecutor(1 if storage.is_local else records.REMOTE_READERS) as pool:
        return sum(pool.map(store, pages))


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


def _reason(module: str, code: int, log: str) -> str:
    """What a failed stage said: its own message, or the end of a traceback."""
    if code < 0:
        killed = " (out of memory?)" if code == -9 else ""
        return f"{module} was killed by signal {-code}{killed}; run the same command again"
    chatter = re.compile(
        r"\s*$|WARNING: All log|[IWE]\d{4} \d\d:|.*Warning: |  from pkg_resources|To enable the following"
    )
    lines = [line for line in log.splitlines() if not chatter.match(line)]
    start = max((i for i, line in enumerate(lines) if line.startswith("Traceback")), default=None)
    if start is not None:
        return f"{module} failed:\n" + "\n".join(lines[start:][-6:])
    return "\n".join(lines) or f"{module} failed with exit status {code}"
