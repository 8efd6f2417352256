"""From `modules/*.toml` and `collections/*.toml` to a `Catalog`, with every problem of every file in one go."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.catalog import preprocessing, vocabularies
from tools.catalog.catalog import COLAB, COLUMNS, HEADS, PRECISIONS, Catalog, Collection, Publisher, Variant, compose
from tools.catalog.fields import Problems, Table, one_of, read_toml, suggest
from tools.catalog.layout import is_name, is_publisher_name
from tools.catalog.preprocessing import PreprocessingRows
from tools.catalog.vocabularies import Vocabularies
from tools.common.files import ROOT

NO_FAMILIES = {"publisher.toml", "preprocessing.toml"}  # the files of modules/ that hold no rows
SELECTABLE = ("family", "size", "data", "resolution", "licence", "stem", "precision")
NAME_FIX = "use lower-case letters, digits, `_`, `.`, `-`"


def load(root: Path = ROOT) -> Catalog:
    """Read `modules/` and `collections/` below `root`; raises `CatalogError` with every problem of every file."""
    problems = Problems()
    tags = vocabularies.load(root / vocabularies.FOLDER)
    shared = preprocessing.read(root / preprocessing.FILE, preprocessing.FILE, problems)
    publisher = _publisher(root, problems)
    variants: list[Variant] = []
    for path in sorted((root / "modules").glob("*.toml")):
        if path.name not in NO_FAMILIES:
            variants += _family(path, root, tags, shared, problems)
    _refuse_duplicates(variants, problems)
    collections = [
        _collection(path, root, variants, problems) for path in sorted((root / "collections").glob("*.toml"))
    ]
    problems.raise_if_any()
    assert publisher is not None and shared is not None
    return Catalog(publisher, tuple(variants), tuple(filter(None, collections)), shared, root)


def _publisher(root: Path, problems: Problems) -> Publisher | None:
    file = "modules/publisher.toml"
    count = len(problems.found)
    table = Table(read_toml(root / file, file, problems), file, "", problems)
    if len(problems.found) > count:
        return None
    texts = {key: table.take(key, str) for key in ("name", "title", "description", "about", "url")}
    notebooks = table.take("notebooks", str, None)
    table.finish()
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
    return Publisher(**texts, notebooks=notebooks and notebooks.rstrip("/"))


# Families


@dataclass(frozen=True)
class _Family:
    """The tables of a family's file that its rows refer to; None for a table that has a problem."""

    facts: dict[str, Any]
    patterns: dict[str, str | None]
    architectures: dict[str, Any]
    data: dict[str, dict[str, Any] | None]
    sources: dict[str, dict[str, Any] | None]
    default_source: str | None
    paper: dict[str, Any]


def _family(
    path: Path, root: Path, tags: Vocabularies, shared: PreprocessingRows | None, problems: Problems
) -> list[Variant]:
    file = str(path.relative_to(root))
    top = Table(read_toml(path, file, problems), file, "", problems)
    if not top.values:
        return []
    facts = {
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
        key: _data(Table(value, file, f"data.{key}", problems), tags, root)
        for key, value in (top.take("data", dict) or {}).items()
    }
    sources, default_source = {}, None
    for key, value in (top.take("sources", dict) or {}).items():
        sources[key], is_default = _source(Table(value, file, f"sources.{key}", problems), tags, shared)
        default_source = key if is_default else default_source
    paper = _paper(Table(top.take("paper", dict) or {}, file, "paper", problems))
    rows = top.take("variants", list, of=dict) or []
    top.finish()
    family = _Family(facts, patterns, architectures, data, sources, default_source, paper)
    variants = []
    for number, values in enumerate(rows, 1):
        row = " ".join(str(values.get(k, "?")).partition(":")[0] for k in ("size", "data", "resolution"))
        count = len(problems.found)
        variant = _variant(Table(values, file, f"variant {number} ({row})", problems), family, shared, root)
        if variant and len(problems.found) == count:
            variants.append(variant)
    return variants


def _variant(table: Table, family: _Family, shared: PreprocessingRows | None, root: Path) -> Variant | None:
    size = table.take("size", str, choices=family.architectures)
    data_key = table.take("data", str, choices=family.data)
    resolution = table.take("resolution", int)
    source_key = table.take("source", str, family.default_source, choices=family.sources)
    stem = table.take("stem", str, family.patterns["stem"])
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
        "checkpoint_key": table.take("checkpoint_key", str, None),
    }
    heads = table.take("heads", list, list(HEADS), of=str, choices=HEADS)
    table.finish()
    if source_key is None:
        table.complain(
            "names no `source`, and no source of this file has `default = true`",
            f"add `source = ...` ({one_of(family.sources)})",
        )
    if None in (size, data_key, resolution, source_key, stem, checkpoint, heads, own["precision"]):
        return None
    data, source = family.data[data_key], family.sources[source_key]
    if data is None or source is None or shared is None:
        return None
    _check_figures(table, own, source, source_key)
    transform = transform or source["transforms"].get(str(resolution))
    if not transform:
        table.complain(
            f"no transform for resolution {resolution}",
            f"add `transform = ...`, or {resolution} to sources.{source_key}.transforms",
        )
    elif transform in shared["transforms"]:
        made = preprocessing.resolution(shared["transforms"][transform])
        if made != resolution:
            table.complain(
                f"transform `{transform}` makes {made}x{made} images, not {resolution}x{resolution}",
                "name another transform",
            )
    if checkpoint.endswith(".index.json"):
        table.complain(
            f"checkpoint {checkpoint} is an index of shards, whose digest does not cover them",
            "write them into one file with builders.checkpoints, and name that",
        )
    if own["checkpoint_key"] is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", own["checkpoint_key"], re.ASCII):
        table.complain(
            f"`checkpoint_key = {own['checkpoint_key']!r}` is no key", "write names of entries with `/` between them"
        )
    if evaluation and not (root / "modules" / evaluation).is_file():
        table.complain(
            f"evaluation data modules/{evaluation} does not exist",
            "put the labelled images there, or drop `evaluation`",
        )
    if data["classes"] is None and "classifier" in heads:
        table.complain(
            f"has a classifier, but data.{data_key} has no `classes`",
            f'add `classes = ...` to data.{data_key}, or `heads = ["feature_extractor"]` to the row of a checkpoint without a head',
        )
    parts = {"size": size, "data": data_key, "resolution": resolution, "precision": own["precision"]}
    url = source["url"] + checkpoint
    if not re.match(r"[a-z0-9+]+://", url):
        url = f"modules/{url}"
        if not (root / url).is_file():
            table.complain(f"checkpoint {url} does not exist", "put the file there, or correct `checkpoint`")
    fields = {k: v for k, v in source.items() if k not in ("url", "transforms", "text")}
    return Variant(
        file=table.file,
        stem=compose(stem, "{stem}", **parts),
        size=size,
        data=data_key,
        resolution=resolution,
        architecture=dict(family.architectures[size]),
        transform=transform,
        checkpoint=url,
        source_text=source["text"],
        paper=family.paper,
        evaluation=evaluation,
        names=_names(table, stem, family.patterns, heads, parts),
        **family.facts,
        **data,
        **fields,
        **own,
    )


def _check_figures(table: Table, own: Mapping[str, Any], source: Mapping[str, Any], source_key: str) -> None:
    if own["sha256"] and not re.fullmatch(r"[0-9a-f]{64}", own["sha256"]):
        table.complain(f"`sha256 = {own['sha256']!r}` is no SHA-256", "write 64 lower-case hexadecimal digits")
    for key in ("top1", "top5"):
        if own[key] is not None and not 0 < own[key] <= 100:
            table.complain(f"`{key} = {own[key]}` is no percentage", "write per cent, above 0 and up to 100")
    if (own["top1"] is not None or own["gflops"] is not None) and not source["numbers"]:
        table.complain("has reported figures without a source for them", f"add `numbers = URL` to sources.{source_key}")


def _names(
    table: Table, stem: str, patterns: Mapping[str, str | None], heads: list[str], parts: dict[str, Any]
) -> dict[str, str]:
    names = {}
    for head in heads:
        pattern = patterns[head]
        if not pattern:
            table.complain(f"the file has no pattern for a {head}", f'add `{head} = "{{stem}}..."` at the top')
            continue
        names[head] = compose(stem, pattern, **parts)
        if not is_name(names[head]):
            table.complain(f"{names[head]!r} is no module name", NAME_FIX)
    return names


def _data(table: Table, tags: Vocabularies, root: Path) -> dict[str, Any] | None:
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


def _source(table: Table, tags: Vocabularies, shared: PreprocessingRows | None) -> tuple[dict[str, Any] | None, bool]:
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
    for name in (found["transforms"] or {}).values():
        if shared and name not in shared["transforms"]:
            table.complain(f"unknown transform `{name}`", suggest(name, shared["transforms"]))
    if len(found["pixel_range"]) != 2:
        table.complain("`pixel_range` is not a pair", "write `pixel_range = [0, 1]` or `[0, 255]`")
    missing = any(found[key] is None for key in ("url", "format", "licence", "normalization", "transforms", "text"))
    return (None if missing else found), bool(is_default)


def _paper(table: Table) -> dict[str, Any]:
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


# Collections


def _collection(path: Path, root: Path, variants: list[Variant], problems: Problems) -> Collection | None:
    file = str(path.relative_to(root))
    count = len(problems.found)
    table = Table(read_toml(path, file, problems), file, "", problems)
    if not table.values:
        return None
    texts = {key: table.take(key, str) for key in ("name", "title", "description", "about")}
    columns = table.take("columns", list, of=str, choices=COLUMNS)
    select = table.take("select", dict) or {}
    table.finish()
    if texts["name"] and not is_name(texts["name"]):
        table.complain(f"{texts['name']!r} is no collection name", NAME_FIX)
    for key, values in select.items():
        if key not in SELECTABLE:
            table.complain(f"select has the unknown key `{key}`", suggest(key, SELECTABLE))
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
