"""Archives that Bazel made: find them, and make sure that they are what would be built here.

spec, folder = find(Path("bazel-bin/modules"), variant, catalog)
build = load(folder, spec)
"""

import json
from pathlib import Path
from typing import Any

from tools.catalog.catalog import Catalog, Variant
from tools.catalog.checkpoints import fetch_checkpoint
from tools.common.files import sha256_of_file
from tools.common.problems import with_fix
from tools.publishing import targets
from tools.publishing.build import MANIFEST, Build, is_complete
from tools.publishing.specification import CheckpointFacts, Specification, specify


class PrebuiltError(RuntimeError):
    """Bazel's archives of a row are missing, damaged, or made from something else; the message ends with the fix."""


def find(prebuilt: Path, variant: Variant, catalog: Catalog) -> tuple[Specification, Path]:
    """Return the specification of a row, and the folder where Bazel put its archives.

    A checkpoint from elsewhere need not be here: its size and digest are those that Bazel noted beside the archives.

    Raises:
      PrebuiltError: Bazel has not made the row.
      SpecificationError: the row pins another checkpoint.
    """
    target = targets.name(variant, catalog)
    folder = prebuilt / target
    if not folder.is_dir():
        message = f"{variant.file}: {variant.stem} is not in {prebuilt}"
        raise PrebuiltError(with_fix(message, f"run `bazel build //modules:{target}`"))
    if "://" not in variant.checkpoint:
        checkpoint = fetch_checkpoint(variant, catalog, cache=prebuilt)
        return specify(variant, catalog, checkpoint), folder
    noted = folder / "checkpoint.json"
    facts = _read(noted)
    if not facts.keys() >= CheckpointFacts.__required_keys__:
        raise _damaged(noted)
    return specify(variant, catalog, noted, facts=facts, is_mirrored=facts.get("origin") != "upstream"), folder


def load(folder: Path, spec: Specification) -> Build:
    """Return the build that Bazel made, if it is what a build from `spec` would be.

    Raises:
      PrebuiltError: it was made or checked with something else, or an archive is not the one that was made.
    """
    manifest, again = _read(folder / MANIFEST), f"run `bazel build //modules:{folder.name}` again"
    others = []
    if manifest.get("build_key") != spec["build"]["key"]:
        others.append("was made from another row, checkpoint, code or versions than are here")
    if manifest.get("check_key") != spec["check"]["key"]:
        others.append("was checked with other code or other labelled images than are here")
    if others:
        fix = f"{again}, from this checkout and with this environment"
        raise PrebuiltError(with_fix(f"{folder} {' and '.join(others)}", fix))
    if not is_complete(manifest, spec):
        raise _damaged(folder / MANIFEST)
    build = Build(folder, manifest)
    for head in spec["heads"]:
        file = build.archive(head)
        if not file.is_file() or sha256_of_file(file) != manifest["packed"][head]["sha256"]:
            raise PrebuiltError(with_fix(f"{file} is not the archive that made.json beside it describes", again))
    return build


def _read(file: Path) -> Any:
    """Return the content of a JSON file that Bazel made beside archives."""
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        return content
    except (OSError, ValueError, RecursionError):
        raise _damaged(file) from None


def _damaged(file: Path) -> PrebuiltError:
    """Return the error for a file that is not what Bazel writes."""
    fix = f"run `bazel build //modules:{file.parent.name}` again"
    return PrebuiltError(with_fix(f"{file} is missing or damaged", fix))
