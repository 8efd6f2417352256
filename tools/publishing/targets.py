"""Files that tell Bazel of the catalogue: a target for each row, the upstream file and the sources that each needs.

    for file, text in texts(catalog.load()).items(): (ROOT / file).write_text(text)

`tools/bazel.py` writes these files, and a test fails when the catalogue and they differ.
"""

import collections
import json

from tools.catalog.catalog import HEADS, Catalog, Variant

BUILD_FILE, CHECKPOINTS_FILE = "modules/BUILD.bazel", "modules/checkpoints.bzl"
_HEADER = "# Made by `python tools/bazel.py` from the rows of modules/*.toml: change those, and run it again.\n"


class TargetError(ValueError):
    """Two rows would have one target or one checkpoint; the message names the rows and the fix."""


def name(variant: Variant, catalog: Catalog) -> str:
    """Return the target of a row, as in `//modules:convnext_tiny_1k_224`; with its version where the catalogue has several."""
    versions = sum(other.stem == variant.stem for other in catalog.variants)
    return variant.stem if versions == 1 else f"{variant.stem}-{variant.version}"


def texts(catalog: Catalog) -> dict[str, str]:
    """Return the generated files, by path in the repository. Raises TargetError."""
    return {BUILD_FILE: _targets(catalog), CHECKPOINTS_FILE: _checkpoints(catalog)}


def _targets(catalog: Catalog) -> str:
    names = collections.Counter(name(variant, catalog) for variant in catalog.variants)
    if twice := [each for each, count in names.items() if count > 1]:
        raise TargetError(f"rows of different families are called {', '.join(twice)}; give one of them another `stem`")
    rows = []
    for variant in catalog.variants:
        remote = "://" in variant.checkpoint
        facts = {
            "name": name(variant, catalog),
            "checkpoint": f"@checkpoints//:{file_name(variant)}" if remote else _in_package(variant.checkpoint),
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
    found: dict[str, list[str]] = {}
    for variant in catalog.variants:
        if "://" not in variant.checkpoint:
            continue
        file, facts = file_name(variant), [variant.checkpoint, variant.sha256 or ""]
        if found.setdefault(file, facts) != facts:
            raise TargetError(
                f"{variant.file}: {variant.stem}: {found[file][0]} and {variant.checkpoint} have one file name, and a folder of "
                "checkpoints can hold only one of them; take one of the files from a copy with another name"
            )
    lines = [f"    {json.dumps(file)}: {json.dumps(facts)},\n" for file, facts in sorted(found.items())]
    return (
        f'"""The upstream file of each row, by name: its URL, and the SHA-256 that the row pins."""\n\n{_HEADER}'
        f"CHECKPOINTS = {{\n{''.join(lines)}}}\n"
    )


def file_name(variant: Variant) -> str:
    """Return the name of a row's upstream file in a folder of checkpoints."""
    return variant.checkpoint.rsplit("/", 1)[1]


def _in_package(checkpoint: str) -> str:
    """Return the label, inside `modules/`, of a checkpoint that lies in the repository."""
    return checkpoint.removeprefix("modules/")
