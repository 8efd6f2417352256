"""Make the pages of a hub again from its records, or a site from any tree of documents in tfhub.dev's format.

    python tools/render.py --hub ./hub --url http://127.0.0.1:8000
    python tools/render.py --docs tfhub.dev/assets/docs --out ./site

Pages that come out as they are already are left alone. Archives, records and documents are never touched.
"""

import argparse
import pathlib
import sys

from tools.common.files import default_cache


def main(argv=None) -> int:
    arguments = argparse.ArgumentParser(
        prog="tools/render.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--hub", help="a folder, gs://bucket/path, or any URL that fsspec knows")
    arguments.add_argument(
        "--url",
        help="the public address that handles begin with (default: modules/publisher.toml; with --docs https://tfhub.dev)",
    )
    arguments.add_argument(
        "--cache",
        metavar="DIR",
        type=pathlib.Path,
        default=default_cache(),
        help="what is remembered of --hub's pages, so that one change is quick; may be deleted (default: %(default)s)",
    )
    arguments.add_argument("--docs", metavar="DIR", type=pathlib.Path, help="a tree of documents, not necessarily ours")
    arguments.add_argument(
        "--out", metavar="DIR", type=pathlib.Path, help="where the site of --docs goes: new or its own"
    )
    arguments.add_argument(
        "--address",
        metavar="URL",
        help="where the site of --docs will be served, for its feed and sitemap (default: --url)",
    )
    arguments.add_argument("--title", default="Hub documents", help="what the site of --docs is called")
    arguments.add_argument("--processes", metavar="N", type=int, default=2, help="with --docs (default: 2)")
    options = arguments.parse_args(argv)
    if options.docs or options.out:
        if options.hub or not (options.docs and options.out):
            arguments.error("give --docs and --out together, or --hub")
        return documents(options)
    if not options.hub:
        arguments.error("give --hub, or --docs and --out")

    from tools import catalog
    from tools.common import console
    from tools.hub import address
    from tools.hub.storage import Storage, StorageError
    from tools.publishing.transaction import write_pages
    from tools.site.pages import PageError

    try:
        rows = catalog.load()
        storage = Storage(options.hub)
        if not storage.is_there():
            raise StorageError(
                f"There is no hub at {storage.url}. Publish into it first: python tools/publish.py NAME --hub ..."
            )
        url = address.for_writing(storage, options.url, rows.publisher.url)
        count = write_pages(rows, storage, url, cache=options.cache)
    except (catalog.CatalogError, StorageError, PageError) as error:
        console.problems(error)
        return 1
    console.show(f"{count} pages written to {storage.url}; handles begin with {url}")
    return 0


def documents(options) -> int:
    """Render a tree of documents; 1 if a document has no page."""
    from tools.common.problems import with_fix
    from tools.site import document_archive
    from tools.site.jobs import PageError

    url = options.url or document_archive.OFFICIAL
    try:
        report = document_archive.render(
            options.docs,
            options.out,
            url=url,
            address=options.address,
            title=options.title,
            processes=max(1, options.processes),
        )
    except (PageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for problem in report.problems:
        print(f"{problem.file}:{problem.line}: error: {with_fix(problem.message, problem.fix)}", file=sys.stderr)
    print(
        f"{report.documents:,} documents: {report.written:,} pages written, {report.kept:,} kept, "
        f"{report.removed:,} removed in {options.out}"
    )
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
