"""Gather the records of a hub, check them against each other and the vocabularies, and connect what belongs together.

    hub = gather(records, publisher=catalog.publisher, collections=catalog.collections, base_url=url, tags=tags)
    hub.modules["hubpress/convnext_digits/1"].sibling

Everything is gathered before the first page is made, so that siblings, collections and versions are complete by construction.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tools.catalog import layout
from tools.catalog.catalog import Collection, Publisher
from tools.catalog.vocabularies import Tag
from tools.common.problems import Problem, with_fix
from tools.documents import document as grammar
from tools.hub.formats import FormatRecord, by_format
from tools.hub.notes import Note
from tools.hub.records import Record
from tools.hub.signatures import Claim
from tools.site.formatting import one_line
from tools.site.jobs import PageError
from tools.site.neighbours import Family
from tools.site.published_collection import PublishedCollection
from tools.site.published_formats import PublishedFormat
from tools.site.published_module import WEB_ADDRESS, PublishedModule


@dataclass(frozen=True)
class Hub:
    """Everything that is published in a hub, by handle."""

    publisher: Publisher
    base_url: str
    modules: dict[str, PublishedModule]
    collections: tuple[PublishedCollection, ...]
    tags: Mapping[str, Mapping[str, Tag]]
    has_benchmarks: bool = False  # whether there is a page of them to link

    @cached_property
    def names(self) -> list[PublishedModule]:
        """One module for each name, in the version to use; the latest published first."""
        chosen = {m.newest.handle: m.newest for m in self.modules.values()}
        return sorted(chosen.values(), key=lambda m: (_descending(m.published), m.name))


def _descending(text: str) -> tuple[int, ...]:
    return tuple(-ord(character) for character in text)


def gather(
    records: Iterable[Record],
    *,
    publisher: Publisher,
    collections: Iterable[Collection],
    base_url: str,
    tags: Mapping[str, Mapping[str, Tag]],
    yanked: Mapping[str, str] | None = None,
    measurements: Mapping[str, Sequence[Note]] | None = None,
    claims: Mapping[str, Claim] | None = None,
    formats: Mapping[str, Sequence[FormatRecord]] | None = None,
) -> Hub:
    """Check the records against each other and the vocabularies, and connect them.

    `publisher` and `collections` are those of `tools.catalog.load()`, `tags` is `tools.catalog.vocabularies.load(...)`,
    `yanked` says why a handle was withdrawn, `measurements` are the notes of what was measured later, `claims` whom the
    signature of its record names, and `formats` the records of its files for other runtimes, by handle. Raises `PageError` with
    every problem of every record.
    """
    base_url = base_url.rstrip("/")
    yanked = dict(yanked or {})
    measurements, claims, formats = measurements or {}, claims or {}, formats or {}
    problems: list[Problem] = []
    modules: dict[str, PublishedModule] = {}
    for record in records:
        handle = record.get("handle", "without a handle")
        found = _problems(record, publisher.name, tags)
        if handle in modules:
            found.append(
                Problem(f"record {handle}", "there are two of them", "keep the one that lies under its handle")
            )
        problems += found
        if not found:
            why = (one_line(yanked[handle]) or "no reason was given") if handle in yanked else None
            notes = tuple(measurements.get(handle, ()))
            files = tuple(PublishedFormat(each, base_url) for each in by_format(formats.get(handle, ())).values())
            modules[handle] = PublishedModule(
                record, base_url, tags, why, notes, publisher.notebooks, claims.get(handle), files
            )
    if problems:
        raise PageError("\n".join(map(str, problems)))
    modules = dict(sorted(modules.items(), key=lambda item: (item[1].name, item[1].version)))
    _connect(modules)
    found_collections = []
    for definition in sorted(collections, key=lambda each: each.name):
        if not all(re.fullmatch(grammar.COLLECTION_SEGMENT, part) for part in definition.name.split("/")):
            raise PageError(
                with_fix(f"collection {definition.name!r}: is no collection name", "correct `name` in its file")
            )
        members = {
            m.newest.handle: m.newest
            for m in modules.values()
            if m.newest.yanked is None and definition.selects(m.newest.row)
        }
        if members:
            ordered = tuple(sorted(members.values(), key=_by_size))
            found_collections.append(PublishedCollection(definition, publisher.name, base_url, ordered))
    listed = [(collection, {m.handle for m in collection.members}) for collection in found_collections]
    for module in modules.values():
        module.collections = [c for c, handles in listed if module.newest.handle in handles]
    return Hub(publisher, base_url, modules, tuple(found_collections), tags)


def _by_size(module: PublishedModule) -> tuple[Any, ...]:
    # As the papers' tables: by training data, then resolution, then size; heads of one row next to each other.
    count = module.measured["parameters"] or module.row["parameters"] or 0
    return (
        module.row["family"],
        len(module.row["datasets"]),
        module.row["data"],
        module.row["resolution"],
        count,
        module.name,
    )


def _connect(modules: dict[str, PublishedModule]) -> None:
    versions: dict[str, list[PublishedModule]] = {}
    for module in modules.values():
        versions.setdefault(module.name, []).insert(0, module)  # ascending in `modules`: the newest ends up first
    families: dict[tuple[str, str, str], list[PublishedModule]] = {}
    kin = {m.handle: (m.row["family"], m.head, m.precision) for m in modules.values()}
    for module in modules.values():
        module.versions = versions[module.name]
        if module.yanked is None and module is module.newest:
            families.setdefault(kin[module.handle], []).append(module)
        other = modules.get(module.record["sibling"] or "")
        if other is not None:
            # Both ways, even when the sibling was published later and only its record knows.
            module.sibling = other
            other.sibling = other.sibling or module
    compared = {key: Family(members) for key, members in families.items()}
    for module in modules.values():
        module.family = compared.get(kin[module.handle], module.family)


def _problems(record: Record, publisher: str, tags: Mapping[str, Mapping[str, Tag]]) -> list[Problem]:
    """Return what keeps a record from having a page."""
    handle = record.get("handle", "without a handle")
    again = "publish the module again under a new version"
    found: list[Problem] = []

    def add(message: str, fix: str) -> None:
        found.append(Problem(f"record {handle}", message, fix))

    try:
        owner, name, version = record["publisher"], record["name"], record["version"]
        if record["schema"] != 1:
            add(f"schema {record['schema']!r} is not 1", "update hubpress")
        if owner != publisher:
            add(f"is of publisher {owner!r}, not {publisher!r}", "use a hub of its own for each publisher")
        segments = name.split("/")
        well_formed = re.fullmatch(grammar.PUBLISHER, owner) and all(
            re.fullmatch(grammar.SEGMENT, each) for each in segments
        )
        if not well_formed or segments[0] == layout.COLLECTIONS or type(version) is not int or version < 1:
            add(f"{name!r}, version {version!r}, is no module name", f"correct the row's `stem`, and {again}")
        elif handle != f"{owner}/{name}/{version}":
            add(f"the handle should be {owner}/{name}/{version}", again)
        row = record["row"]
        used = [
            ("license", row["licence"]),
            ("task", record["task"]),
            ("network_architecture", row["network_architecture"]),
        ]
        used += [("dataset", value) for value in row["datasets"]]
        for vocabulary, value in used:
            if value not in tags[vocabulary]:
                add(f"{value!r} is not in modules/tags/{vocabulary}.yaml", "add it there, or correct the row")
        for key, link in (("paper.url", row["paper"]["url"]), ("numbers", row["numbers"])):
            if link is not None and not WEB_ADDRESS.fullmatch(link):
                add(f"`{key}` is {link!r}, which is no web address", f"correct the row, and {again}")
    except (KeyError, TypeError, AttributeError) as error:
        return [Problem(f"record {handle}", f"is not of schema 1 ({type(error).__name__}: {error})", again)]
    return found
