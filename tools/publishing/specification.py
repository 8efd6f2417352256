"""Specification of a build: all that a row, its checkpoint and the code that is here decide, and two keys of it.

    path = fetch_checkpoint(variant, catalog, cache=cache)
    spec = specify(variant, catalog, path)
    spec["build"]["key"], spec["check"]["key"]

The build key decides the bytes of a row's archives: it covers what defines the module, its labels, and the code that the building
process and packing import. The check key decides whether a finished build is checked again: it covers the code that the checking
process imports, and the labelled images. An edit of anything else rebuilds and checks nothing.
"""

import hashlib
import importlib.metadata
import json
import platform
import tomllib
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from tools.catalog import labels
from tools.catalog.catalog import HEADS, Catalog, Variant
from tools.common.files import sha256_of_file
from tools.common.problems import Problem
from tools.publishing import closure

# What the processes that build and check are told, beside this process's own variables: a part of the build key.
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",  # what is built and checked is what a CPU computes
}

BUILD_PROGRAMS = ("builders.build", "tools.archive.packing")
CHECK_PROGRAMS = ("tools.publishing.check",)
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
    "checkpoint_key",
    "licence",
    "fine_tunable",
)


class SpecificationError(RuntimeError):
    """A row cannot be built from the checkpoint that is here; the message names the row and the fix."""


class CheckpointFacts(TypedDict):
    """Size and SHA-256 of a checkpoint; `origin` is "upstream" or "mirror", where Bazel fetched it."""

    bytes: int
    sha256: str
    origin: NotRequired[str]


class UpstreamFile(TypedDict):
    """An upstream file: where it is from, its weight names and layout, and what it is."""

    url: str
    file: str
    format: str
    bytes: int
    sha256: str


class Definition(TypedDict):
    """Definition of a module: all that decides its bytes; its `assets.extra/module.json` states it, too."""

    row: dict[str, Any]
    preprocessing: dict[str, Any]
    checkpoint: UpstreamFile
    versions: dict[str, str]


class BuildKey(TypedDict):
    """The digest of the code that makes the bytes, and of all that decides them; a record states both."""

    sources: str
    key: str


class CheckKey(TypedDict):
    """The digest of all that checks a build."""

    key: str


class EvaluationImages(TypedDict):
    """The labelled images of a row, an `.npz`."""

    path: str


class Specification(TypedDict):
    """Specification of a build, for the building and the checking process; SPEC.json of builders/build.py.

    `labels` are class names; `file` is where the row is written, for errors; `mirror` says that the checkpoint did not come from
    upstream, for the record: that does not decide the bytes.
    """

    module: Definition
    labels: list[str] | None
    heads: list[str]
    build: BuildKey
    check: CheckKey
    checkpoint_path: str
    file: str
    evaluation: NotRequired[EvaluationImages]
    mirror: NotRequired[bool]


def specify(
    variant: Variant,
    catalog: Catalog,
    checkpoint: Path,
    *,
    facts: CheckpointFacts | None = None,
    is_mirrored: bool = False,
) -> Specification:
    """Return the specification of a row.

    Args:
      variant: the row.
      catalog: where it is from; preprocessing, labels and sources are read below its root.
      checkpoint: the local file.
      facts: of the checkpoint, where the file itself is not here.
      is_mirrored: a checkpoint from elsewhere did not come from upstream.

    Raises:
      SpecificationError: the row pins another digest.
      OSError: a file cannot be read.
      ClosureError: the sources do not say what they import.
    """
    if facts is None:
        facts = {"bytes": checkpoint.stat().st_size, "sha256": sha256_of_file(checkpoint)}
    if variant.sha256 and facts["sha256"] != variant.sha256:
        message = f"{checkpoint} has sha256 {facts['sha256']}, the row pins {variant.sha256}"
        raise SpecificationError(str(Problem(variant.file, message, "get the right file", row=variant.stem)))
    module = _definition(variant, catalog, facts)
    names = _labels(variant, catalog)
    evaluation = catalog.path(f"modules/{variant.evaluation}") if variant.evaluation else None
    sources = build_sources(catalog.root, variant.family)
    checks = [check_sources(catalog.root, variant.family), evaluation and sha256_of_file(evaluation)]
    spec: Specification = {
        "module": module,
        "labels": names,
        "heads": [head for head in HEADS if head in variant.names],
        "build": {"sources": sources, "key": _digest_of([module, names, sources, ENVIRONMENT])},
        "check": {"key": _digest_of(checks)},
        "checkpoint_path": str(checkpoint),
        "file": variant.file,
    }
    if evaluation:
        spec["evaluation"] = {"path": str(evaluation)}
    if is_mirrored and "://" in variant.checkpoint:
        spec["mirror"] = True
    return spec


def versions(root: Path) -> dict[str, str]:
    """Return the versions of the packages that decide the bytes, of Python and of the repository at `root`."""
    found = {name.replace("-", "_"): importlib.metadata.version(name) for name in PACKAGES}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found | {"python": ".".join(platform.python_version_tuple()[:2]), "hubpress": project["version"]}


def build_sources(root: Path, family: str) -> str:
    """Return the digest of the code that makes a family's archives: what the building process and packing import."""
    # ISA-L compresses to the same bytes on every x86-64 processor that runs TensorFlow, and to others on ARM.
    compressor = f"isal {importlib.metadata.version('isal')} {platform.machine()}"
    return _digest(_listed(root, BUILD_PROGRAMS, family) + compressor)


def check_sources(root: Path, family: str) -> str:
    """Return the digest of the code that checks a family's builds."""
    return _digest(_listed(root, CHECK_PROGRAMS, family))


def _definition(variant: Variant, catalog: Catalog, checkpoint: CheckpointFacts) -> Definition:
    facts, shared = variant.facts(), catalog.preprocessing
    return {
        "row": {key: facts[key] for key in BUILD_KEY_FIELDS if key in facts} | {"paper": variant.paper["url"]},
        "preprocessing": {
            "transform": shared["transforms"][variant.transform],
            "normalization": shared["normalizations"][variant.normalization],
        },
        "checkpoint": {
            "url": variant.checkpoint,
            "file": variant.checkpoint.rsplit("/", 1)[1],
            "format": variant.format,
            "bytes": checkpoint["bytes"],
            "sha256": checkpoint["sha256"],
        },
        "versions": versions(catalog.root),
    }


def _labels(variant: Variant, catalog: Catalog) -> list[str] | None:
    if not variant.labels:
        return None
    return labels.load(catalog.path(f"{labels.FOLDER}/{variant.labels}.tsv"))


def _listed(root: Path, programs: tuple[str, ...], family: str) -> str:
    """Return the files that programs import with their digests, a line for each; line endings do not count."""
    files = closure.files(root, programs, family=family)
    return "".join(f"{file}\0{_digest((root / file).read_text(encoding='utf-8'))}\n" for file in files)


def _digest_of(value: Any) -> str:
    return _digest(json.dumps(value, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
