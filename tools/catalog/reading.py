"""From `modules/*.toml` and `collections/*.toml` to a `Catalog`, with every problem of every file in one go."""

import math
import os
import re
import urllib.parse
from collections.abc import Collection as Names
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.catalog import labels, preprocessing, vocabularies
from tools.catalog.catalog import (
    COLAB,
    COLUMNS,
    FORMATS,
    HEADS,
    LARGE_FORMATS,
    LARGE_PARAMETERS,
    PRECISIONS,
    Catalog,
    Collection,
    Publisher,
    Variant,
    compose,
)
from tools.catalog.fields import REQUIRED, CatalogError, Problems, Table, one_of, read_toml, shown, suggest
from tools.catalog.layout import is_name, is_publisher_name
from tools.catalog.preprocessing import PreprocessingRows
from tools.catalog.vocabularies import Vocabularies
from tools.common.files import ROOT
from tools.common.problems import Problem

HEADLINE_WORDS = 9  # of a publisher at most
NO_FAMILIES = {"publisher.toml", "preprocessing.toml"}  # the files of modules/ that hold no rows
SELECTABLE = ("family", "size", "data", "resolution", "licence", "stem", "precision")
# Keys of a row that are fields of its `Variant` as they are: type, and default.
_OWN: dict[str, tuple[type, Any]] = {
    "resolution": (int, REQUIRED),
    "version": (int, 1),
    "changes": (str, None),
    "sha256": (str, None),
    "parameters": (int, None),
    "gflops": (float, None),
    "top1": (float, None),
    "top5": (float, None),
    "fine_tunable": (bool, True),
    "evaluation": (str, None),
    "checkpoint_key": (str, None),
}
ROW_KEYS = ("size", "data", "precision", "source", "stem", "heads", "transform", "checkpoint", "formats", *_OWN)
NAME_FIX = "use lower-case letters, digits, `_`, `.`, `-`"


def load(root: Path = ROOT, own: Path | None = None) -> Catalog:
    """Read `modules/` and `collections/` below `root`, and below `own` if that is given.

    A folder of one's own has rows, labels, collections and preprocessing beside the repository's, and may have a publisher instead.

    Raises:
      CatalogError: with every problem of every file.
    """
    catalog = load_usable(root, own)
    if catalog.problems:
        raise CatalogError(list(catalog.problems))
    return catalog


def load_usable(root: Path = ROOT, own: Path | None = None) -> Catalog:
    """Read as `load` does, without the families and collections whose files have problems: these are in `Catalog.problems`.

    Raises:
      CatalogError: `modules/publisher.toml` or `modules/preprocessing.toml`, which all need, has one.
    """
    problems = Problems()
    tags = vocabularies.load(root / vocabularies.FOLDER)
    shared = preprocessing.read(root / preprocessing.FILE, preprocessing.FILE, problems)
    folders = [root]
    if own:
        folders.append(own)
        if not (own / "modules").is_dir():
            problems.found.append(
                Problem(str(own), "it has no folder `modules`", "name the folder that `modules/` is in")
            )
        if shared and (own / preprocessing.FILE).is_file():
            shared = preprocessing.read(own / preprocessing.FILE, str(own / preprocessing.FILE), problems, shared)
    publisher = _publisher(own if own and (own / "modules/publisher.toml").is_file() else root, problems)
    families = _Families(folders, tags, shared, problems, publisher.formats if publisher else None)
    variants = [
        variant
        for folder in folders
        for path in sorted((folder / "modules").glob("*.toml"))
        if path.name not in NO_FAMILIES
        for variant in families.read(path)
    ]
    known = None if problems.found else variants  # what rows of a file with problems would hold, nobody knows
    collections = [
        _collection(path, folder, known, problems)
        for folder in folders
        for path in sorted((folder / "collections").glob("*.toml"))
    ]
    if publisher is None or shared is None:
        raise CatalogError(problems.found)
    found = tuple(filter(None, collections))
    return Catalog(publisher, tuple(variants), found, shared, root, tuple(problems.found), own)


def _publisher(root: Path, problems: Problems) -> Publisher | None:
    file = "modules/publisher.toml"
    count = len(problems.found)
    table = Table(read_toml(root / file, file, problems), file, "", problems)
    if len(problems.found) > count:
        return None
    texts = {key: table.take(key, str) for key in ("name", "title", "description", "about", "url")}
    notebooks = table.take("notebooks", str, None)
    formats = _formats(table)
    headline, example = table.take("headline", str, None), table.take("example", str, None)
    table.finish()
    if headline is not None and len(headline.split()) > HEADLINE_WORDS:
        table.complain(f"`headline` has {len(headline.split())} words", f"write at most {HEADLINE_WORDS}")
    if example is not None and not is_name(example):
        table.complain(f"`example = {example!r}` is no module's name", "write the name without publisher and version")
    if texts["name"] and not is_publisher_name(texts["name"]):
        table.complain(
            f"`name = {texts['name']!r}` is no publisher's name", "use lower-case letters, digits and hyphens"
        )
    if notebooks is not None and not notebooks.startswith(COLAB):
        table.complain(
            f"`notebooks = {notebooks!r}` is no address on Colab",
            f"write {COLAB}github/OWNER/REPOSITORY/blob/BRANCH/notebooks",
        )
    if len(problems.found) > count:
        return None
    texts["url"] = texts["url"].rstrip("/")
    return Publisher(
        **texts, notebooks=notebooks and notebooks.rstrip("/"), formats=formats, headline=headline, example=example
    )


def _formats(table: Table) -> dict[str, dict[str, float]] | None:
    """Take the table `formats`: the limits of each format that is published; None if there is none."""
    if "formats" not in table.values:
        table.take("formats", dict, None)
        return None
    found = {}
    for name, limits in table.tables("formats").items():
        if name not in FORMATS:
            table.complain(f"`formats` has the unknown format {shown(name)}", suggest(name, FORMATS))
            continue
        least = limits.take("top1_at_least", float, None)
        limits.finish()
        if least is not None and not 0 <= least <= 100:
            table.complain(
                f"`top1_at_least = {shown(least)}` of {name} is no accuracy", "write per cent, from 0 to 100"
            )
        found[name] = {} if least is None else {"top1_at_least": float(least)}
    return {name: found[name] for name in FORMATS if name in found}


# Families


@dataclass(frozen=True)
class _Family:
    """The tables of a family's file that its rows refer to; a value that has a problem is None."""

    facts: dict[str, Any]
    patterns: dict[str, str | None]
    architectures: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]]
    sources: dict[str, dict[str, Any]]
    default_source: str | None
    paper: dict[str, Any]
    formats: dict[str, dict[str, float]] | None


@dataclass
class _Families:
    """Reads one family's file after the other; `_claimed` has file and row by the names and versions that they publish.

    `folders` are those in which `modules/` lies, the repository first.
    """

    folders: list[Path]
    tags: Vocabularies
    shared: PreprocessingRows | None
    problems: Problems
    formats: dict[str, dict[str, float]] | None  # the publisher's
    _claimed: dict[str, str] = field(default_factory=dict)

    def read(self, path: Path) -> list[Variant]:
        """Return the rows of a file; none if anything in it has a problem."""
        file, before = str(Path("modules", path.name)), len(self.problems.found)
        top = Table(read_toml(path, file, self.problems), file, "", self.problems)
        if len(self.problems.found) > before:
            return []
        family = self._family(top)
        rows = top.take("variants", list, of=dict) or []
        top.finish()
        variants = []
        for number, values in enumerate(rows, 1):
            facts = (values.get(key, "?") for key in ("size", "data", "resolution"))
            row = " ".join((each if isinstance(each, str) else shown(each)).partition(":")[0] for each in facts)
            table = Table(values, file, f"variant {number} ({row})", self.problems)
            fields = self._fields(table, family)
            if len(self.problems.found) == before:
                variants.append(Variant(**fields))
        return variants if len(self.problems.found) == before else []

    def _path(self, path: str) -> Path:
        """Return where a file of the catalogue lies, or would lie in the repository."""
        return next(
            (folder / path for folder in reversed(self.folders) if (folder / path).exists()), self.folders[0] / path
        )

    def _family(self, top: Table) -> _Family:
        facts = {
            "family": top.take("family", str),
            "title": top.take("title", str),
            "network_architecture": top.take("network_architecture", str, choices=self.tags["network_architecture"]),
        }
        patterns = {"stem": top.take("stem", str), **{head: top.take(head, str, None) for head in HEADS}}
        architectures = {}
        for size, table in top.tables("architectures").items():
            architectures[size] = {key: table.take(key, type(value)) for key, value in table.values.items()}
        data = {key: self._data(table) for key, table in top.tables("data").items()}
        sources, default_source = {}, None
        for key, table in top.tables("sources").items():
            default_source = key if table.take("default", bool, False) else default_source
            sources[key] = self._source(table)
        paper = _paper(Table(top.take("paper", dict) or {}, top.file, "paper", self.problems))
        return _Family(facts, patterns, architectures, data, sources, default_source, paper, _formats(top))

    def _data(self, table: Table) -> dict[str, Any]:
        found = {
            "data_text": table.take("text", str),
            "datasets": tuple(table.take("datasets", list, of=str, choices=self.tags["dataset"]) or ()),
            "classes": table.take("classes", int, None),
            "labels": table.take("labels", str, None),
        }
        table.finish()
        _check_positive(table, found, ("classes",))
        if found["labels"] is not None and not re.fullmatch(r"\w[\w.-]*", found["labels"]):
            table.complain(
                f"`labels = {shown(found['labels'])}` is no name", "name a file of modules/labels, without .tsv"
            )
        elif found["labels"]:
            self._check_labels(table, found)
        return found

    def _check_labels(self, table: Table, data: dict[str, Any]) -> None:
        file = self._path(f"{labels.FOLDER}/{data['labels']}.tsv")
        for problem in labels.problems(file, data["classes"]):
            if problem.line is None:  # the file may be right and the row wrong
                table.complain(f"{problem.file} {problem.message}", problem.fix)
            elif problem not in self.problems.found:  # other data has the same labels
                self.problems.found.append(problem)

    def _source(self, table: Table) -> dict[str, Any]:
        transforms = Table(
            table.take("transforms", dict, {}) or {}, table.file, f"{table.row}.transforms", self.problems
        )
        found = {
            "url": table.take("url", str),
            "format": table.take("format", str),
            "licence": table.take("licence", str, choices=self.tags["license"]),
            "normalization": self._shared(table, "normalization", REQUIRED),
            "transforms": {key: self._shared(transforms, key) for key in transforms.values},
            "pixel_range": tuple(table.take("pixel_range", list, [0.0, 1.0], of=float) or ()),
            "numbers": table.take("numbers", str, None),
            "source_text": table.take("text", str),
        }
        table.finish()
        for key in transforms.values:
            if not key.isdecimal():
                transforms.complain(
                    f"`{key}` is no resolution", "write the side of the images in pixels, as in `224 = ...`"
                )
        low_high = found["pixel_range"]
        if len(low_high) != 2 or not -math.inf < low_high[0] < low_high[1] < math.inf:
            table.complain("`pixel_range` is not a pair", "write `pixel_range = [0, 1]` or `[0, 255]`")
        return found

    def _shared(self, table: Table, key: str, default: Any = None) -> Any:
        """Take the name of a normalisation, or of a transform."""
        kind = "normalizations" if key == "normalization" else "transforms"
        known: Names[str] | None = self.shared[kind] if self.shared else None  # type: ignore[literal-required]
        return table.take(key, str, default, choices=known, listed_in=f"[{kind}] of {preprocessing.FILE}")

    def _fields(self, table: Table, family: _Family) -> dict[str, Any]:
        """Return the fields of a row's `Variant`; those that have a problem are None, and all others are checked all the same."""
        own = {
            "size": table.take("size", str, choices=family.architectures),
            "data": table.take("data", str, choices=family.data),
            "precision": table.take("precision", str, "float32", choices=PRECISIONS),
            **{key: table.take(key, kind, default) for key, (kind, default) in _OWN.items()},
        }
        source_key = table.take("source", str, family.default_source, choices=family.sources)
        stem = table.take("stem", str, family.patterns["stem"])
        heads = table.take("heads", list, list(HEADS), of=str, choices=HEADS)
        transform, checkpoint = self._shared(table, "transform"), table.take("checkpoint", str)
        formats = self._row_formats(table, family, own)
        table.finish()
        if source_key is None and "source" not in table.values:
            fix = f"add `source = ...` ({one_of(family.sources)})"
            table.complain("names no `source`, and no source of this file has `default = true`", fix)
        data, source = family.data.get(own["data"], {}), family.sources.get(source_key, {})
        _check_positive(table, own, ("resolution", "version", "parameters", "gflops"))
        _check_figures(table, own, source, source_key)
        by_resolution = source.get("transforms", {})
        if "transform" not in table.values:
            transform = by_resolution.get(str(own["resolution"]))
        if own["resolution"] and source and (transform or str(own["resolution"]) not in by_resolution):
            self._check_transform(table, own["resolution"], transform, source_key)
        if own["evaluation"] and not os.path.isfile(self._path(f"modules/{own['evaluation']}")):
            table.complain(
                f"evaluation data modules/{own['evaluation']} does not exist",
                "put the labelled images there, or drop `evaluation`",
            )
        key = own["checkpoint_key"]
        if key is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", key, re.ASCII):
            table.complain(f"`checkpoint_key = {shown(key)}` is no key", "write names of entries with `/` between them")
        if heads == []:
            table.complain("`heads` is empty", f"write {one_of(HEADS)}, or delete it")
        if data and data["classes"] is None and heads and "classifier" in heads:
            table.complain(
                f"has a classifier, but data.{own['data']} has no `classes`",
                f'add `classes = ...` to data.{own["data"]}, or `heads = ["feature_extractor"]` to the row of a checkpoint without '
                "a head",
            )
        return {
            "file": table.file,
            "transform": transform,
            "checkpoint": self._checkpoint(table, source.get("url"), checkpoint),
            "architecture": dict(family.architectures.get(own["size"], {})),
            "paper": family.paper,
            **family.facts,
            **data,
            **{key: value for key, value in source.items() if key not in ("url", "transforms")},
            **self._names(table, stem, family.patterns, heads or [], own),
            **own,
            "formats": formats,
        }

    def _row_formats(self, table: Table, family: _Family, own: dict[str, Any]) -> dict[str, dict[str, float]]:
        """Return the formats of a row: its own, its family's, the publisher's, or those that its size allows."""
        given = _formats(table)
        if own["precision"] not in (None, "float32"):
            if given:
                table.complain(
                    f"has `formats`, but its network computes in {own['precision']}",
                    "delete it: they are for float32 rows",
                )
            return {}
        large = own["parameters"] is not None and own["parameters"] > LARGE_PARAMETERS
        default: dict[str, dict[str, float]] = {name: {} for name in (LARGE_FORMATS if large else FORMATS)}
        found = next((each for each in (given, family.formats, self.formats) if each is not None), default)
        for name, limits in (given or {}).items():
            if limits and own["evaluation"] is None:
                table.complain(
                    f"`formats.{name}` has a limit, and the row no labelled images",
                    "add `evaluation = ...`, or drop it",
                )
        return found

    def _check_transform(self, table: Table, resolution: int, transform: str | None, source_key: str) -> None:
        """Complain about a row whose images are not made in its size."""
        if not self.shared:
            return
        rows = self.shared["transforms"]
        if transform:
            made = preprocessing.resolution(rows[transform])
            if made != resolution:
                message = f"transform `{transform}` makes {made}x{made} images, not {resolution}x{resolution}"
                table.complain(message, "name another transform")
        elif "transform" not in table.values:
            fitting = [name for name, row in rows.items() if preprocessing.resolution(row) == resolution]
            there = f"there: {', '.join(fitting)}" if fitting else "there is none yet, so write one there"
            table.complain(
                f"no transform for resolution {resolution}",
                f"add `transform = NAME` to the row, or `{resolution} = NAME` to sources.{source_key}.transforms, where "
                f"[transforms.NAME] is a table of {preprocessing.FILE} that makes {resolution}x{resolution} images ({there})",
            )

    def _checkpoint(self, table: Table, base: str | None, name: str | None) -> str | None:
        """Return the URL of a row's checkpoint, or its path in the repository."""
        if base is None or name is None:
            return None
        url = base + name
        if name.endswith(".index.json"):
            table.complain(
                f"checkpoint {name} is an index of shards, whose digest does not cover them",
                "write them into one file with builders.checkpoints, and name that",
            )
        if re.match(r"[a-z0-9+]+://", url):
            if not _names_a_file(url):
                table.complain(f"checkpoint {url} names no file", "correct `checkpoint`, or the `url` of its source")
            return url
        url = f"modules/{url}"
        if not os.path.isfile(self._path(url)):
            table.complain(f"checkpoint {url} does not exist", "put the file there, or correct `checkpoint`")
        return url

    def _names(
        self, table: Table, stem: str | None, patterns: Mapping[str, str | None], heads: list[str], own: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the row's stem and the names of its heads."""
        parts = {key: own[key] for key in ("size", "data", "resolution", "precision")}
        names: dict[str, str] = {}
        if stem is None or None in parts.values():
            return {"stem": None, "names": names}
        for head in ("stem", *heads):
            pattern = "{stem}" if head == "stem" else patterns[head]
            if not pattern:
                table.complain(f"the file has no pattern for a {head}", f'add `{head} = "{{stem}}..."` at the top')
                continue
            try:
                names[head] = compose(stem, pattern, **parts)
            except (LookupError, ValueError, AttributeError, TypeError):
                wrong = stem if head == "stem" else pattern
                fix = "use {size}, {data} and {resolution}, and in the patterns of heads {stem}"
                table.complain(f"{shown(wrong)} is no pattern of a name", fix)
                break
            if not is_name(names[head]):
                table.complain(f"{shown(names[head])} is no module name", NAME_FIX)
            elif head != "stem":
                self._claim(table, f"{names[head]}/{own['version']}")
        return {"stem": names.pop("stem", None), "names": names}

    def _claim(self, table: Table, name: str) -> None:
        """Complain about a row whose module another one publishes."""
        if first := self._claimed.get(name):
            table.complain(f"{name} is published by {first}, too", "give one of them another `stem` or `version`")
        else:
            self._claimed[name] = f"{table.file}, {table.row.partition('(')[2].removesuffix(')')}"


def _names_a_file(url: str) -> bool:
    """Return whether an address has a place and the name of a file."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return bool((parts.netloc or parts.scheme == "file") and parts.path.rpartition("/")[2])


def _check_positive(table: Table, own: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if own[key] is not None and own[key] <= 0:
            table.complain(f"`{key} = {own[key]}` is not above 0", "write a positive number")


def _check_figures(table: Table, own: Mapping[str, Any], source: Mapping[str, Any], source_key: str | None) -> None:
    if own["sha256"] and not re.fullmatch(r"[0-9a-f]{64}", own["sha256"]):
        table.complain(f"`sha256 = {shown(own['sha256'])}` is no SHA-256", "write 64 lower-case hexadecimal digits")
    for key in ("top1", "top5"):
        if own[key] is not None and not 0 < own[key] <= 100:
            table.complain(f"`{key} = {own[key]}` is no percentage", "write per cent, above 0 and up to 100")
    if (own["top1"] is not None or own["gflops"] is not None) and source and not source["numbers"]:
        table.complain("has reported figures without a source for them", f"add `numbers = URL` to sources.{source_key}")


def _paper(table: Table) -> dict[str, Any]:
    paper = {key: table.take(key, str) for key in ("title", "authors", "venue", "url", "key")}
    paper["year"] = table.take("year", int)
    table.finish()
    return paper


# Collections


def _collection(path: Path, root: Path, variants: list[Variant] | None, problems: Problems) -> Collection | None:
    """Read a collection that selects among `variants`, or None if these are not all known."""
    file = str(path.relative_to(root))
    count = len(problems.found)
    table = Table(read_toml(path, file, problems), file, "", problems)
    if len(problems.found) > count:
        return None
    texts = {key: table.take(key, str) for key in ("name", "title", "description", "about")}
    columns = table.take("columns", list, of=str, choices=COLUMNS)
    select = table.take("select", dict) or {}
    table.finish()
    if texts["name"] and not is_name(texts["name"]):
        table.complain(f"{shown(texts['name'])} is no collection name", NAME_FIX)
    for key, values in select.items():
        if key not in SELECTABLE:
            table.complain(f"select has the unknown key {shown(key)}", suggest(key, SELECTABLE))
        elif not isinstance(values, list):
            table.complain(f"`select.{key}` is not a list", f"write `{key} = [{shown(values)}]`")
        else:
            known = [getattr(variant, key) for variant in variants or ()]
            for value in values:
                if known and value not in known:
                    table.complain(f"`select.{key}` has {shown(value)}, which no row has", suggest(value, {*known}))
    if len(problems.found) > count:
        return None
    return Collection(**texts, columns=tuple(columns), select={key: tuple(values) for key, values in select.items()})
