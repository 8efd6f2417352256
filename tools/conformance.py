"""Compare the builders with golden cases and print the differences; exit 1 if one is above its limit.

python tools/conformance.py tests/golden
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/conformance.py", description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a case, a preprocessing folder, or a folder of such")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="one line per case, or one JSON list"
    )
    options = parser.parse_args(arguments)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tools.catalog import CatalogError, preprocessing
    from tools.verification import conformance

    try:
        transforms = preprocessing.load()["transforms"]
    except CatalogError as error:
        print(error, file=sys.stderr)
        return 1
    results = []
    for result in conformance.replay(options.folders, transforms):
        results.append(result)
        if options.format == "text":
            print(result, flush=True)
    if options.format == "json":
        print(json.dumps([result.as_dict() for result in results], indent=1))
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
