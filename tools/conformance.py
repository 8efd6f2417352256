"""Compare the builders with golden cases of the upstream implementations, and print the differences.

    python tools/conformance.py tests/golden
    python tools/conformance.py tests/golden/convnext_fb --format json

Exit status 1 if a difference is above its limit.
"""

import argparse
import os
from collections.abc import Sequence

from builders import environment
from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("conformance", __doc__)
    arguments.add_argument(
        "folders", nargs="+", metavar="DIR", help="a case, a preprocessing folder, or a folder of such"
    )
    arguments.add_argument(
        "--format", choices=("text", "json"), default="text", help="one line per case, or one JSON list"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tools.catalog import CatalogError, preprocessing
    from tools.common import console
    from tools.verification import conformance

    try:
        transforms = preprocessing.load()["transforms"]
    except CatalogError as error:
        console.problems(error)
        return scripts.FAILED
    results = []
    for result in conformance.replay(options.folders, transforms):
        results.append(result)
        if options.format == "text":
            console.show(str(result))
    if options.format == "json":
        console.show_json([result.as_dict() for result in results])
    return 0 if all(result.passed for result in results) else scripts.FAILED


if __name__ == "__main__":
    environment.isolate()
    scripts.run(main, __file__)
