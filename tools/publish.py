"""Publish modules: convert, check, pack, upload, document, index.

    python tools/publish.py quickstart --hub ./hub
    python tools/publish.py convnext_tiny_1k_224 --hub gs://bucket/hub --checkpoints ./mirror
    python tools/publish.py convnext --dry-run

NAME is a row (convnext_tiny_1k_224: its classifier and its feature extractor), one module (by handle, hubpress/NAME/1, or by a
name that is no row's), a family, a collection, or `all`. What is published never changes: publishing the same again does
nothing, and other bytes under a published version are refused.
"""

import pathlib
import sys

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import os

DEFAULT_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hubpress"


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="tools/publish.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "names", nargs="*", metavar="NAME", help="what to publish; with --dry-run everything by default"
    )
    arguments.add_argument("--hub", help="where to: a folder, gs://bucket/path, or any URL that fsspec knows")
    arguments.add_argument(
        "--url", help="the public address of the hub, which handles begin with (default: modules/publisher.toml)"
    )
    arguments.add_argument(
        "--checkpoints", metavar="DIR|URL", help="take upstream files from here, by file name, not from upstream"
    )
    arguments.add_argument(
        "--cache",
        type=pathlib.Path,
        default=DEFAULT_CACHE,
        help="where downloads and builds are kept (default: %(default)s)",
    )
    arguments.add_argument("--jobs", type=int, default=1, metavar="N", help="rows built at the same time (default: 1)")
    arguments.add_argument(
        "--mirror-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="also write folders that are ready to upload to Hugging Face and Kaggle (see tools/pages/mirror.py)",
    )
    arguments.add_argument("--dry-run", action="store_true", help="show the plan as a table, and do nothing")
    return arguments


def main(argv=None) -> int:
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.jobs < 1:
        arguments.error("--jobs must be at least 1")
    if not options.dry_run and not options.names:
        arguments.error("say what to publish: a module, family or collection, or `all`; --dry-run lists them")
    if not options.dry_run and not options.hub:
        arguments.error("say where to publish: --hub DIR or --hub gs://bucket/path")

    from tools import catalog, console

    try:
        rows = catalog.load()
        names = options.names or ["all"]
        modules = rows.modules if names == ["all"] else rows.expand(names)
    except (catalog.CatalogError, catalog.Unknown) as error:
        console.problems(error)
        return 2
    if options.dry_run:
        console.plan(modules, options.hub)
        return 0

    from tools.hub.publishing import Publishing
    from tools.hub.storage import Storage, StorageError

    try:
        storage = Storage(options.hub)
        with console.Progress() as progress:
            publishing = Publishing(
                rows,
                storage,
                base_url=(options.url or rows.publisher.url).rstrip("/"),
                cache=options.cache,
                mirrors=options.checkpoints,
                report=progress.report,
            )
            results = publishing.run(modules, options.jobs)
            pages = publishing.write_pages() if any(r.state != "failed" for r in results) else 0
    except StorageError as error:
        console.problems(error)
        return 1
    except KeyboardInterrupt:
        console.problems("interrupted; nothing is half-published, and the same command goes on from here")
        return 130
    console.results(results, pages, storage.url, publishing.base_url)
    if options.mirror_dir and not mirror(publishing, results, options.mirror_dir):
        return 1
    return 1 if any(result.state == "failed" for result in results) else 0


def mirror(publishing, results, directory: pathlib.Path) -> bool:
    """Write the folders for other hubs of what is published by now; says what they are, or why there are none."""
    from tools import console
    from tools.hub.archive import ArchiveError
    from tools.hub.storage import StorageError
    from tools.pages import mirror

    done = [result.record for result in results if result.state != "failed"]
    try:
        hub = mirror.gather(publishing.storage, publishing.catalog, publishing.base_url)
        folders = mirror.write(done, storage=publishing.storage, hub=hub, directory=directory)
    except (StorageError, ArchiveError, ValueError, OSError) as error:
        console.problems(error)
        return False
    for folder in folders:
        console.show(f"mirrored to {folder}")
    return True


if __name__ == "__main__":
    sys.exit(main())
