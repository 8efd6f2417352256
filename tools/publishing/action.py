"""Bazel's actions, in a sandbox or on another machine: plan and build a row as tools/publish.py does.

    python -m tools.publishing.action plan --row convnext_digits/1 --checkpoint modules/quickstart/convnext_digits.safetensors \\
      --python 3.11 --spec spec.json --checkpoint-facts checkpoint.json
    python -m tools.publishing.action build --python 3.11 --spec spec.json --made made.json --archives classifier.tar.gz ...

The working folder is the root of a repository that holds only what the action declares. `plan` reads the catalogue and writes
the specification of a row; `build` makes its archives, and made.json, which are byte for byte those of tools/publish.py.
builders/module.bzl says why these are two.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

from tools import catalog
from tools.common.download import fetch
from tools.common.printable import printable_lines
from tools.common.problems import about, with_fix
from tools.publishing.build import PREFIX, BuildError, make
from tools.publishing.specification import CheckpointFacts, Specification, specify, versions

_LOCKED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)")


class ActionError(RuntimeError):
    """An action cannot be done here; the message ends with the fix."""


def plan(*, root: Path, row: str, checkpoint: Path, origin: Path | None, spec: Path, facts: Path) -> None:
    """Write the specification of `row`, its stem and version, as in convnext_tiny_1k_224/1.

    `checkpoint` is the file that is used; `origin` says where it came from, if it is not in the repository. `facts` gets what
    `tools/publish.py --prebuilt` must know of a checkpoint that it does not have.
    """
    rows = catalog.load_usable(root)
    variant = next((each for each in rows.variants if f"{each.stem}/{each.version}" == row), None)
    if variant is None and rows.problems:
        raise catalog.CatalogError(list(rows.problems))
    if variant is None:
        raise ActionError(with_fix(f"no row is called {row} any more", "run `python tools/bazel.py`"))
    path = fetch(str(checkpoint), cache=root, sha256=variant.sha256)  # with the checks of a download
    planned = specify(variant, rows, path)
    noted: CheckpointFacts = {
        "bytes": planned["module"]["checkpoint"]["bytes"],
        "sha256": planned["module"]["checkpoint"]["sha256"],
    }
    if origin:
        noted["origin"] = origin.read_text().strip()
    # Paths from the repository's root: the same on every machine, and valid in the build's own sandbox.
    planned["checkpoint_path"] = str(checkpoint)
    if "evaluation" in planned:
        planned["evaluation"]["path"] = str(Path(planned["evaluation"]["path"]).relative_to(root))
    spec.write_text(json.dumps(planned, sort_keys=True))
    facts.write_text(json.dumps(noted, sort_keys=True))


def build(*, root: Path, spec: Specification, made: Path, archives: list[Path]) -> None:
    """Make the archives of `spec` at their places, `<head>.tar.gz`, and `made`."""
    if (here := versions(root)) != (planned := spec["module"]["versions"]):
        raise ActionError(with_fix(f"this environment has {here}, the plan was made with {planned}", _FIX))
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=made.parent) as name:
        os.environ["HOME"] = name  # Keras and others write there
        folder = Path(name).resolve()
        try:
            make(spec, folder, root=root, report=lambda _stage, _done, _total: None, logs=folder / "logs")
        except BuildError as error:
            for log in (folder / "logs").glob("*"):  # a sandbox keeps nothing
                print(printable_lines(log.read_text(encoding="utf-8")), file=sys.stderr)
            raise ActionError(about(f"{spec['file']}: {spec['module']['row']['stem']}", error)) from None
        for file in [made, *archives]:
            shutil.move(folder / "finished" / file.name, file)


def check_environment(lock: Path, python: str) -> None:
    """Refuse another Python than `python`, or a package of another version than the lock has (what is not installed is no harm).

    Neither is an input of an action, so this is what makes it sound to share their results.
    """
    if (found := ".".join(platform.python_version_tuple()[:2])) != python:
        raise ActionError(with_fix(f"{sys.executable} is Python {found}, not {python}", _FIX))
    wanted: dict[str, set[str]] = {}
    for match in map(_LOCKED.match, lock.read_text(encoding="utf-8").splitlines()):
        if match:  # a package may be there twice, for different platforms
            wanted.setdefault(match[1], set()).add(match[2])
    for name, allowed in wanted.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version not in allowed:
            message = f"{sys.executable} has {name} {version}, {lock.name} says {' or '.join(sorted(allowed))}"
            raise ActionError(with_fix(message, _FIX))


_FIX = "run `make venv`, or install requirements.lock into that environment"


def main(arguments: list[str]) -> int:
    """Run an action; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tools.publishing.action")
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("plan", "build"):
        action = actions.add_parser(name)
        action.add_argument("--python", required=True)
        action.add_argument("--spec", type=Path, required=True)
        if name == "plan":
            action.add_argument("--row", required=True)
            action.add_argument("--checkpoint", type=Path, required=True)
            action.add_argument("--origin", type=Path)
            action.add_argument("--checkpoint-facts", type=Path, required=True)
        else:
            action.add_argument("--made", type=Path, required=True)
            action.add_argument("--archives", type=Path, nargs="+", required=True)
    options = parser.parse_args(arguments)
    root = Path.cwd()
    try:
        check_environment(root / "requirements.lock", options.python)
        if options.action == "plan":
            plan(
                root=root,
                row=options.row,
                checkpoint=options.checkpoint,
                origin=options.origin,
                spec=options.spec,
                facts=options.checkpoint_facts,
            )
        else:
            spec = json.loads(options.spec.read_text())
            build(root=root, spec=spec, made=options.made, archives=options.archives)
    except (RuntimeError, ValueError, OSError) as error:
        print(printable_lines(str(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
