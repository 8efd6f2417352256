"""Write what Bazel needs to know of the catalogue: modules/BUILD.bazel, modules/checkpoints.bzl and modules/sources.bzl.

    python tools/bazel.py             # after a row or an import was added or changed
    python tools/bazel.py --check     # only say whether they are as the catalogue wants them; exit status 1 if not

Then `bazel build //modules:NAME` makes a row's archives in a sandbox, or takes them from a cache that others filled, and
`python tools/publish.py NAME --prebuilt bazel-bin/modules --hub DIR` publishes them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tools.common import scripts
from tools.common.problems import Problem


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("bazel", __doc__)
    arguments.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if something would change"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools import catalog
    from tools.common import console
    from tools.publishing import closure, targets

    try:
        rows = catalog.load()
        texts = targets.texts(rows)
    except (catalog.CatalogError, targets.TargetError, closure.ClosureError) as error:
        console.problems(error)
        return scripts.FAILED
    stale = [file for file, text in texts.items() if _text(rows.root / file) != text]
    if options.check:
        for file in stale:
            console.problems(
                Problem(file, "it is not what the catalogue and the sources say", "run `python tools/bazel.py`")
            )
        return scripts.FAILED if stale else 0
    for file in stale:
        (rows.root / file).write_text(texts[file], encoding="utf-8")
    console.show("wrote " + ", ".join(stale) if stale else "nothing changed")
    return 0


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


if __name__ == "__main__":
    scripts.run(main, __file__)
