"""Validate Hub documents: files, folders, or a whole hub, in tfhub.dev's layout or as `tools/publish.py` writes it.

    python tools/validate.py hub
    python tools/validate.py assets/docs --tags tags --published --off licence-missing
    python tools/validate.py hub --archives --format json
    python tools/validate.py --rules

Prints `file:line: severity: what is wrong, what was expected. Fix: what to do.` for every problem of every file. Exit status 1 if
there are errors, 0 if there are none (warnings do not count), 2 if nothing could be validated. Links to folders are not followed.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.common import scripts
from tools.common.problems import with_fix


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("validate", __doc__)
    arguments.add_argument("paths", nargs="*", metavar="PATH", type=Path, help="documents, or folders of them")
    arguments.add_argument(
        "--root", type=Path, help="the folder of the publishers' folders (default: from the handles)"
    )
    arguments.add_argument(
        "--tags",
        metavar="DIR",
        type=Path,
        help="the tag files (default: beside assets/docs, else modules/tags)",
    )
    arguments.add_argument(
        "--url", help="what handles begin with (default: the hub's index.json, else https://tfhub.dev)"
    )
    arguments.add_argument(
        "--archives", action="store_true", help="read every page's archive and compare it with the page"
    )
    arguments.add_argument(
        "--published",
        action="store_true",
        help="take documents that were published long ago as they are: what was asked of new ones alone is a warning",
    )
    arguments.add_argument(
        "--off", metavar="RULE", action="append", default=[], help="leave a rule out; may be repeated"
    )
    arguments.add_argument(
        "--format",
        choices=("text", "json", "github", "markdown"),
        default="text",
        help="default: text; markdown is for --rules",
    )
    arguments.add_argument("--quiet", action="store_true", help="show errors only")
    arguments.add_argument("--rules", action="store_true", help="list the rules")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    options = arguments.parse_args(argv)

    from tools.documents import reporting, validation
    from tools.documents.tree import UsageError

    if options.rules:
        print(reporting.rules(options.format))
        return 0
    if options.format == "markdown":
        arguments.error(with_fix("--format markdown is for --rules", "choose text, json or github"))
    if not options.paths:
        arguments.error(with_fix("no documents are named", "name the documents to validate: files, folders, or a hub"))
    try:
        report = validation.validate(
            options.paths,
            root=options.root and options.root.absolute(),
            tags=options.tags,
            url=options.url,
            off=[name for each in options.off for name in each.split(",")],
            archives=options.archives,
            published=options.published,
        )
    except UsageError as error:
        arguments.error(str(error))
    if options.quiet:
        report.problems = [each for each in report.problems if each.is_error]
    sys.stdout.write(reporting.write(report, options.format))
    return scripts.FAILED if report.errors else 0


if __name__ == "__main__":
    gc.disable()  # thousands of small objects live until the end: collecting garbage costs a tenth of the time and finds nothing
    scripts.run(main, __file__)
