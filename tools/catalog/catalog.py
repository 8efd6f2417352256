"""Rows of `modules/*.toml` and `collections/*.toml` as records; every fact of a module that a person wrote down.

catalog = load()
for module in catalog.modules: print(module.handle)
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.catalog import preprocessing, vocabularies
from tools.catalog.fields import Problems, Table, read_toml, suggest

ROOT = Path(__file__).resolve().parents[2]
HEADS = ("classifier", "feature_extractor")
# What a network may compute in, and what its name says of that; the first is meant where a row says nothing.
PRECISIONS = {"float32": "", "bfloat16": "_bf16"}
FAMILY_FILES_EXCLUDED = {"publisher.toml", "preprocessing.toml"}
COLUMNS = {
    "reported_top1": "Reported top-1 (%)",
    "measured_top1": "Measured top-1 (%)",
    "parameters": "Parameters",
    "gflops": "GFLOPs",
    "resolution": "Resolution",
    "download": "Download",
}
COLAB = "https://colab.research.google.com/"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*")
_PUBLISHER = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Publisher:
    """Who publishes. `url` is the base of the handles, without a slash at the end; `notebooks` is where Colab finds the folder
    `notebooks/`, or None if nowhere."""

    name: str
    title: str
    description: str
    about: str
    url: str
    notebooks: str | None = None


@dataclass(frozen=True)
class Variant:
    """One row: an upstream checkpoint, what it is, and what its source says of it.

    `top1` and `top5` are per cent and `gflops` is 10^9 multiply-adds, as `numbers` (a URL) printed them; None where the source
    has no figure. `pixel_range` is what float32 pixels span; `mean` and `std` apply to pixels scaled to [0, 1].
    `checkpoint` is a URL, or a path inside the repository. `evaluation` is an `.npz` of labelled images, or None; `changes`
    says what a later version corrects. `classes` is None for a checkpoint without a head. `precision` is what the network computes
    in (a key of `PRECISIONS`); its variables, inputs and outputs are float32 all the same.
    """

    file: str
    stem: str
    version: int
    family: str
    title: str
    size: str
    data: str
    data_text: str
    datasets: tuple[str, ...]
    network_architecture: str
    architecture: dict[str, Any]
    resolution: int
    classes: int | None
    labels: str | None
    transform: str
    normalization: str
    pixel_range: tuple[float, float]
    precision: str
    checkpoint: str
    format: str
    sha256: str | None
    licence: str
    source_text: str
    numbers: str | None
    parameters: int | None
    gflops: float | None
    top1: float | None
    top5: float | None
    paper: dict[str, Any]
    fine_tunable: bool
    evaluation: str | None
    changes: str | None
    names: dict[str, str]

    def facts(self) -> dict[str, Any]:
        """The row as plain data, for the process that builds it and for the record."""
        return asdict(self)


@dataclass(frozen=True)
class Module:
    """What a consumer loads: one head of one variant, at one version."""

    publisher: str
    variant: Variant
    head: str

    @property
    def name(self) -> str:
        return self.variant.names[self.head]

    @property
    def handle(self) -> str:
        return f"{self.publisher}/{self.name}/{self.variant.version}"


@dataclass(frozen=True)
class Collection:
    """A page about modules that belong together: those whose row has one of the selected values for every key of `select`."""

    name: str
    title: str
    description: str
    about: str
    columns: tuple[str, ...]
    select: dict[str, tuple]

    def selects(self, facts: dict[str, Any]) -> bool:
        """Whether a row's facts (or a record's `row`) satisfy every condition."""
        facts = {"precision": "float32", **facts}  # records from before there was another precision do not say
        return all(facts.get(key) in values for key, values in self.select.items())


class Unknown(LookupError):
    """A name that is no module, family or collection. The message suggests the nearest ones."""


@dataclass(frozen=True)
class Catalog:
    """Everything that can be published, in the order of the files."""

    publisher: Publisher
    variants: tuple[Variant, ...]
    collections: tuple[Collection, ...]
    preprocessing: dict[str, dict[str, Any]]
    root: Path

    @property
    def modules(self) -> list[Module]:
        return [Module(self.publisher.name, v, head) for v in self.variants for head in HEADS if head in v.names]

    def find(self, name: str) -> Module:
        """The module of a name or handle; raises `Unknown`."""
        return self.expand([name], kinds=())[0]

    def expand(self, names: Iterable[str], kinds=("row", "family", "collection")) -> list[Module]:
        """Modules for names of rows, modules (or their handles), families, collections, or unique beginnings of a row's name.

        Raises `Unknown` with every name that is none, each with suggestions.
        """
        modules = self.modules
        by_name = {m.name: m for m in modules}
        by_handle = {m.handle: m for m in modules}
        by_row: dict[str, list[Module]] = {}
        for module in modules:
            by_row.setdefault(module.variant.stem, []).append(module)
        collections = {c.name: c for c in self.collections}
        families = {v.family for v in self.variants}
        found: dict[str, Module] = {}
        unknown = []
        for name in names:
            if name in by_handle:
                hits = [by_handle[name]]
            elif "row" in kinds and name in by_row:
                hits = by_row[name]
            elif name in by_name:
                hits = [by_name[name]]
            elif "collection" in kinds and name in collections:
                hits = [m for m in modules if collections[name].selects(m.variant.facts())]
            elif "family" in kinds and name in families:
                hits = [m for m in modules if m.variant.family == name]
            else:
                begun = [stem for stem in by_row if "row" in kinds and stem.startswith(name) and len(name) >= 4]
                hits = by_row[begun[0]] if len(begun) == 1 else []
            if not hits:
                known = dict.fromkeys([*by_name, *by_row, *collections, *families])
                close = difflib.get_close_matches(name, known, n=4, cutoff=0.5) or [k for k in known if name in k][:4]
                hint = f"did you mean {', '.join(close)}?" if close else "`tools/publish.py --dry-run` lists all names"
                unknown.append(f"no module, family or collection is called {name!r}; {hint}")
            found.update((m.handle, m) for m in hits)
        if unknown:
            raise Unknown("\n".join(unknown))
        return [m for m in modules if m.handle in found]


def load(root: Path = ROOT) -> Catalog:
    """Read `modules/` and `collections/` below `root`; raises `CatalogError` with every problem of every file."""
    problems = Problems()
    tags = vocabularies.load(root / "modules/tags")
    try:
        shared = preprocessing.load(root / "modules/preprocessing.toml")
    except preprocessing.PreprocessingError as error:
        problems.found.extend(error.problems)
        shared = None
    publisher = _publisher(root, problems)
    variants: list[Variant] = []
    for path in sorted((root / "modules").glob("*.toml")):
        if path.name not in FAMILY_FILES_EXCLUDED:
            variants += _family(path, root, tags, shared, problems)
    _refuse_duplicates(variants, problems)
    collections = []
    for path in sorted((root / "collections").glob("*.toml")):
        collection = _collection(path, root, variants, problems)
        if collection:
            collections.append(collection)
    problems.raise_if_any()
    return Catalog(publisher, tuple(variants), tuple(collections), shared, root)


def _publisher(root: Path, problems: Problems) -> Publisher:
    file = "modules/publisher.toml"
    table = Table(read_toml(root / file, file, problems), file, "", problems)
    values = {key: table.take(key, str) for key in ("name", "title", "description", "about", "url")}
    values["notebooks"] = table.take("notebooks", str, None)
    table.finish()
    if values["name"] and not _PUBLISHER.fullmatch(values["name"]):
        table.complain(
            f"`name = {values['name']!r}` is no publisher's name", "use lower-case letters, digits and hyphens"
        )
    if values["notebooks"] is not None and not values["notebooks"].startswith(COLAB):
        table.complain(
            f"`notebooks = {values['notebooks']!r}` is no address on Colab",
            f"write {COLAB}github/OWNER/REPOSITORY/blob/BRANCH/notebooks",
        )
    for key in ("url", "notebooks"):
        values[key] = values[key] and values[key].rstrip("/")
    values["url"] = values["url"] or ""
    return Publisher(**values)


def _family(path: Path, root: Path, tags, shared, problems: Problems) -> list[Variant]:
    file = str(path.relative_to(root))
    top = Table(read_toml(path, file, problems), file, "", problems)
    if not top.values:
        return []
    family = {
        "family": top.take("family", str),
        "title": top.take("title", str),
        "network_architecture": top.take("network_architecture", str, choices=tags["network_architecture"]),
    }
    patterns = {"stem": top.take("stem", str), **{head: top.take(head, str, None) for head in HEADS}}
    architectures = top.take("architectures", dict) or {}
    for size, values in architectures.items():
        if not isinstance(values, dict):
            problems.add(
                file, "architectures", f"`{size} = {values!r}` is not a table", "write its arguments as { ... }"
            )
            continue
        table = Table(values, file, f"architectures.{size}", problems)
        for key, value in values.items():
            table.take(key, type(value))
    data = {
        key: _data(value, file, f"data.{key}", tags, root, problems)
        for key, value in (top.take("data", dict) or {}).items()
    }
    sources, default_source = {}, None
    for key, value in (top.take("sources", dict) or {}).items():
        sources[key], is_default = _source(value, file, f"sources.{key}", tags, shared, problems)
        default_source = key if is_default else default_source
    paper = _paper(top.take("paper", dict) or {}, file, problems)
    rows = top.take("variants", list, of=dict) or []
    top.finish()
    variants = []
    for number, values in enumerate(rows, 1):
        row = " ".join(str(values.get(k, "?")).partition(":")[0] for k in ("size", "data", "resolution"))
        table = Table(values, file, f"variant {number} ({row})", problems)
        count = len(problems.found)
        variant = _variant(table, family, patterns, architectures, data, sources, default_source, paper, shared, root)
        if variant and len(problems.found) == count:
            variants.append(variant)
    return variants


def _variant(
    table, family, patterns, architectures, data, sources, default_source, paper, shared, root
) -> Variant | None:
    size = table.take("size", str, choices=architectures)
    data_key = table.take("data", str, choices=data)
    resolution = table.take("resolution", int)
    source = table.take("source", str, default_source, choices=sources)
    stem = table.take("stem", str, patterns["stem"])
    transform = table.take("transform", str, None, choices=shared["transforms"] if shared else None)
    checkpoint = table.take("checkpoint", str)
    evaluation = table.take("evaluation", str, None)
    own = {
        "version": table.take("version", int, 1),
        "changes": table.take("changes", str, None),
        "sha256": table.take("sha256", str, None),
        "parameters": table.take("parameters", int, None),
        "gflops": table.take("gflops", float, None),
        "top1": table.take("top1", float, None),
        "top5": table.take("top5", float, None),
        "fine_tunable": table.take("fine_tunable", bool, True),
        "precision": table.take("precision", str, "float32", choices=PRECISIONS),
    }
    heads = table.take("heads", list, list(HEADS), of=str, choices=HEADS)
    table.finish()
    if source is None:
        table.complain(
            "names no `source`, and no source of this file has `default = true`",
            "add `source = ...`: " + suggest("", sources),
        )
    if None in (size, data_key, resolution, source, stem, checkpoint, heads, own["precision"]):
        return None
    if data[data_key] is None or sources[source] is None or shared is None:
        return None
    if own["sha256"] and not re.fullmatch(r"[0-9a-f]{64}", own["sha256"]):
        table.complain(f"`sha256 = {own['sha256']!r}` is no SHA-256", "write 64 lower-case hexadecimal digits")
    for key in ("top1", "top5"):
        if own[key] is not None and not 0 < own[key] <= 100:
            table.complain(f"`{key} = {own[key]}` is no percentage", "write per cent, above 0 and up to 100")
    transform = transform or sources[source]["transforms"].get(str(resolution))
    if not transform:
        table.complain(
            f"no transform for resolution {resolution}",
            f"add `transform = ...`, or {resolution} to sources.{source}.transforms",
        )
    elif transform in shared["transforms"] and preprocessing.resolution(shared["transforms"][transform]) != resolution:
        got = preprocessing.resolution(shared["transforms"][transform])
        table.complain(
            f"transform `{transform}` makes {got}x{got} images, not {resolution}x{resolution}", "name another transform"
        )
    if (own["top1"] is not None or own["gflops"] is not None) and not sources[source]["numbers"]:
        table.complain("has reported figures without a source for them", f"add `numbers = URL` to sources.{source}")
    if evaluation and not (root / "modules" / evaluation).is_file():
        table.complain(
            f"evaluation data modules/{evaluation} does not exist",
            "put the labelled images there, or drop `evaluation`",
        )
    if data[data_key]["classes"] is None and "classifier" in heads:
        table.complain(
            f"has a classifier, but data.{data_key} has no `classes`",
            f'add `classes = ...` to data.{data_key}, or `heads = ["feature_extractor"]` to the row of a checkpoint without a head',
        )
    names, parts = {}, {"size": size, "data": data_key, "resolution": resolution, "precision": own["precision"]}
    for head in heads:
        if not patterns[head]:
            table.complain(f"the file has no pattern for a {head}", f'add `{head} = "{{stem}}..."` at the top')
            continue
        names[head] = compose(stem, patterns[head], **parts)
        if not _NAME.fullmatch(names[head]):
            table.complain(f"{names[head]!r} is no module name", "use lower-case letters, digits, `_`, `.`, `-`")
    url = sources[source]["url"] + checkpoint
    if not re.match(r"[a-z0-9+]+://", url):
        url = f"modules/{url}"
        if not (root / url).is_file():
            table.complain(f"checkpoint {url} does not exist", "put the file there, or correct `checkpoint`")
    fields = {k: v for k, v in sources[source].items() if k not in ("url", "transforms", "text")}
    return Variant(
        file=table.file,
        stem=compose(stem, "{stem}", **parts),
        size=size,
        data=data_key,
        resolution=resolution,
        architecture=dict(architectures[size]),
        transform=transform,
        checkpoint=url,
        source_text=sources[source]["text"],
        paper=paper,
        evaluation=evaluation,
        names=names,
        **family,
        **data[data_key],
        **fields,
        **own,
    )


def compose(stem: str, pattern: str, *, precision: str = "float32", **parts: Any) -> str:
    """The one place where a module's name is spelled: `pattern` over the row's parts and its `stem`.

    >>> compose("convnext_{size}_{data}_{resolution}", "{stem}_fe", size="tiny", data="1k", resolution=224)
    'convnext_tiny_1k_224_fe'
    >>> compose("vit_{size}", "{stem}_fe", size="s16", precision="bfloat16")
    'vit_s16_bf16_fe'
    """
    return pattern.format(stem=stem.format(**parts) + PRECISIONS[precision], **parts)


def _data(values: dict, file: str, row: str, tags, root: Path, problems: Problems) -> dict | None:
    table = Table(values, file, row, problems)
    found = {
        "data_text": table.take("text", str),
        "datasets": table.take("datasets", list, of=str, choices=tags["dataset"]),
        "classes": table.take("classes", int, None),
        "labels": table.take("labels", str, None),
    }
    table.finish()
    if None in (found["data_text"], found["datasets"]):
        return None
    found["datasets"] = tuple(found["datasets"])
    if found["labels"]:
        path = root / "modules/labels" / f"{found['labels']}.tsv"
        count = len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
        if count != found["classes"]:
            table.complain(
                f"modules/labels/{path.name} has {count} labels, not {found['classes']}",
                "correct `labels`, `classes` or the file",
            )
    return found


def _source(values: dict, file: str, row: str, tags, shared, problems: Problems) -> tuple[dict | None, bool]:
    table = Table(values, file, row, problems)
    is_default = table.take("default", bool, False)
    found = {
        "url": table.take("url", str),
        "format": table.take("format", str),
        "licence": table.take("licence", str, choices=tags["license"]),
        "normalization": table.take("normalization", str, choices=shared["normalizations"] if shared else None),
        "transforms": table.take("transforms", dict, {}),
        "pixel_range": tuple(table.take("pixel_range", list, [0.0, 1.0], of=float) or ()),
        "numbers": table.take("numbers", str, None),
        "text": table.take("text", str),
    }
    table.finish()
    for name in found["transforms"].values():
        if shared and name not in shared["transforms"]:
            table.complain(f"unknown transform `{name}`", suggest(name, shared["transforms"]))
    if len(found["pixel_range"]) != 2:
        table.complain("`pixel_range` is not a pair", "write `pixel_range = [0, 1]` or `[0, 255]`")
    missing = any(found[key] is None for key in ("url", "format", "licence", "normalization", "text"))
    return (None if missing else found), bool(is_default)


def _paper(values: dict, file: str, problems: Problems) -> dict[str, Any]:
    table = Table(values, file, "paper", problems)
    paper = {key: table.take(key, str) for key in ("title", "authors", "venue", "url", "key")}
    paper["year"] = table.take("year", int)
    table.finish()
    return paper


def _refuse_duplicates(variants: list[Variant], problems: Problems) -> None:
    seen: dict[str, Variant] = {}
    for variant in variants:
        for name in variant.names.values():
            key = f"{name}/{variant.version}"
            if key in seen:
                first = seen[key]
                problems.add(
                    variant.file,
                    f"{variant.size} {variant.data} {variant.resolution}",
                    f"{key} is published by {first.file}, {first.size} {first.data} {first.resolution}, too",
                    "give one of them another `stem` or `version`",
                )
            seen[key] = variant


def _collection(path: Path, root: Path, variants: list[Variant], problems: Problems) -> Collection | None:
    file = str(path.relative_to(root))
    table = Table(read_toml(path, file, problems), file, "", problems)
    if not table.values:
        return None
    count = len(problems.found)
    texts = {key: table.take(key, str) for key in ("name", "title", "description", "about")}
    columns = table.take("columns", list, of=str, choices=COLUMNS)
    select = table.take("select", dict) or {}
    table.finish()
    if texts["name"] and not _NAME.fullmatch(texts["name"]):
        table.complain(f"{texts['name']!r} is no collection name", "use lower-case letters, digits, `_`, `.`, `-`")
    keys = ("family", "size", "data", "resolution", "licence", "stem", "precision")
    for key, values in select.items():
        if key not in keys:
            table.complain(f"select has the unknown key `{key}`", suggest(key, keys))
        elif not isinstance(values, list):
            table.complain(f"`select.{key}` is not a list", f"write `{key} = [{values!r}]`")
        else:
            known = {getattr(v, key) for v in variants}
            for value in values:
                if known and value not in known:
                    table.complain(f"`select.{key}` has {value!r}, which no row has", suggest(value, known))
    if len(problems.found) > count:
        return None
    return Collection(**texts, columns=tuple(columns), select={key: tuple(values) for key, values in select.items()})
