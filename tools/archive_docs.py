"""Make a site to browse and search from a tree of documents in tfhub.dev's format, of whatever publisher.

    python tools/archive_docs.py tfhub.dev/assets/docs --out ./site
    python tools/serve.py --hub ./site

The documents are only read. Pages that come out as they are already are left alone. Links are not followed.
Every document without a page is named, and every one that is too long or too deep for Markdown: its page shows it as it is written.
Exit status 1 if a document has no page.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("archive_docs", __doc__)
    arguments.add_argument("documents", metavar="DOCS", type=Path, help="the folder with the publishers' folders")
    arguments.add_argument(
        "--out", metavar="SITE", type=Path, required=True, help="where the site goes: a new folder, or its own"
    )
    arguments.add_argument("--url", help="what the documents' handles begin with (default: https://tfhub.dev)")
    arguments.add_argument(
        "--served-at",
        metavar="URL",
        help="the public address of the site, for its feed and sitemap (default: --url)",
    )
    arguments.add_argument("--title", default="Hub documents", help="what the site is called (default: %(default)s)")
    arguments.add_argument(
        "--processes", metavar="N", type=scripts.positive, default=2, help="that render (default: %(default)s)"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools.common import console
    from tools.common.problems import with_fix
    from tools.documents.tree import OFFICIAL
    from tools.site import document_archive
    from tools.site.jobs import PageError

    try:
        report = document_archive.render(
            options.documents,
            options.out,
            url=options.url or OFFICIAL,
            address=options.served_at,
            title=options.title,
            processes=options.processes,
        )
    except (PageError, OSError) as error:
        console.problems(error)
        return scripts.FAILED
    for problem in report.problems:
        console.note(f"{problem.file}:{problem.line}: {problem.severity}: {with_fix(problem.message, problem.fix)}")
    console.show(
        f"{report.documents:,} documents: {report.written:,} pages written, {report.kept:,} kept, "
        f"{report.removed:,} removed in {options.out}"
    )
    return scripts.FAILED if any(problem.is_error for problem in report.problems) else 0


if __name__ == "__main__":
    scripts.run(main, __file__)
