"""Files that tell Bazel of the catalogue: a target for each row, the upstream file and the sources that each needs.

    for file, text in texts(catalog.load()).items(): (ROOT / file).write_text(text)

`tools/bazel.py` writes these files, and a test fails when the catalogue and they differ.
"""

import collections
import json

from tools.catalog.catalog import HEADS, Catalog, Variant
from tools.common.download import mirror_paths
from tools.common.problems import with_fix
from tools.publishing import closure
from tools.publishing.specification import BUILD_PROGRAMS, CHECK_PROGRAMS

BUILD_FILE, CHECKPOINTS_FILE, SOURCES_FILE = "modules/BUILD.bazel", "modules/checkpoints.bzl", "modules/sources.bzl"
ACTION_PROGRAMS = ("tools.publishing.action", *CHECK_PROGRAMS)
_HEADER = "# Made by `python tools/bazel.py` from the rows of modules/*.toml: change those, and run it again.\n"
_SOURCES_HEADER = "# Made by `python tools/bazel.py` from what the sources import: run it again when that changes.\n"


class TargetError(ValueError):
    """Two rows would have one target, or contradict each other; the message names the rows and the fix."""


def name(variant: Variant, catalog: Catalog) -> str:
    """Return the target of a row, as in `//modules:convnext_tiny_1k_224`; with its version where the catalogue has several."""
    versions = sum(other.stem == variant.stem for other in catalog.variants)
    return variant.stem if versions == 1 else f"{variant.stem}-{variant.version}"


def texts(catalog: Catalog) -> dict[str, str]:
    """Return the generated files, by path in the repository. Raises TargetError and ClosureError."""
    return {BUILD_FILE: _targets(catalog), CHECKPOINTS_FILE: _checkpoints(catalog), SOURCES_FILE: _sources(catalog)}


def _targets(catalog: Catalog) -> str:
    names = collections.Counter(name(variant, catalog) for variant in catalog.variants)
    if twice := [each for each, count in names.items() if count > 1]:
        message = f"rows of different families are called {', '.join(twice)}"
        raise TargetError(with_fix(message, "give one of them another `stem`"))
    rows = []
    for variant in catalog.variants:
        remote = "://" in variant.checkpoint
        facts = {
            "name": name(variant, catalog),
            "checkpoint": f"@checkpoints//:{_label(variant, catalog)}" if remote else _in_package(variant.checkpoint),
            "builders": f"//builders:{variant.family}",
            "evaluation": variant.evaluation,
            "heads": [head for head in HEADS if head in variant.names],
            "row": f"{variant.stem}/{variant.version}",
        }
        lines = [f"    {key} = {json.dumps(value)},\n" for key, value in facts.items() if value]
        rows.append(f"\nmodule(\n{''.join(lines)})\n")
    return (
        f'"""A target for each row: `bazel build //modules:NAME`, or `//modules:all`."""\n\n{_HEADER}'
        'load("//builders:module.bzl", "module")\n\n'
        'package(default_visibility = ["//visibility:public"])\n\n'
        "# What rows are read from; quickstart files are here because rows must name files that exist.\n"
        'filegroup(\n    name = "catalogue",\n'
        '    srcs = glob(["*.toml", "labels/*", "quickstart/*", "tags/*"]),\n    tags = ["manual"],\n)\n'
        + "".join(rows)
    )


def _checkpoints(catalog: Catalog) -> str:
    upstream: dict[str, list[str]] = {}
    for variant in catalog.variants:
        if "://" not in variant.checkpoint:
            continue
        label = _label(variant, catalog)
        facts = [variant.checkpoint, mirror_paths(variant.checkpoint)[0], variant.sha256 or ""]
        if upstream.setdefault(label, facts) != facts:
            message = f"{variant.file}: {variant.stem}: two rows have the file {variant.checkpoint} and pin different digests of it"
            raise TargetError(with_fix(message, "correct `sha256` of one of them"))
    lines = [f"    {json.dumps(label)}: {json.dumps(facts)},\n" for label, facts in sorted(upstream.items())]
    return (
        '"""The upstream file of each row, by label: its URL, its path in a mirror, and the SHA-256 that the row pins.\n\n'
        "The label is the file's name, or the whole path where several files have that name; those are not looked up by name.\n"
        f'"""\n\n{_HEADER}'
        f"CHECKPOINTS = {{\n{''.join(lines)}}}\n"
    )


def _sources(catalog: Catalog) -> str:
    """Return the lists of sources: a target has those that its actions import and no others, so that other edits build nothing."""
    families = {}
    for family in sorted({variant.family for variant in catalog.variants}):
        files = closure.files(catalog.root, (*BUILD_PROGRAMS, *CHECK_PROGRAMS), family=family)
        families[family] = _below("builders", files)
    action = _below("tools", closure.files(catalog.root, ACTION_PROGRAMS, family=catalog.variants[0].family))
    return (
        f'"""The sources that actions need: of `tools/`, and of `builders/` by family."""\n\n{_SOURCES_HEADER}'
        f"ACTION = {_listed(action)}\n\nFAMILIES = {{\n"
        + "".join(f"    {json.dumps(family)}: {_listed(files, indent=4)},\n" for family, files in families.items())
        + "}\n"
    )


def _below(folder: str, files: list[str]) -> list[str]:
    return [file.removeprefix(f"{folder}/") for file in files if file.startswith(f"{folder}/")]


def _listed(files: list[str], indent: int = 0) -> str:
    margin = " " * indent
    return "[\n" + "".join(f"{margin}    {json.dumps(file)},\n" for file in files) + f"{margin}]"


def _label(variant: Variant, catalog: Catalog) -> str:
    """Return the label, inside `@checkpoints`, of a row's upstream file: the last place where a mirror is asked for it."""
    return mirror_paths(variant.checkpoint, is_named_alone=catalog.is_named_alone(variant))[-1]


def _in_package(checkpoint: str) -> str:
    """Return the label, inside `modules/`, of a checkpoint that lies in the repository."""
    return checkpoint.removeprefix("modules/")
