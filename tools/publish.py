"""Publish modules: convert, check, pack, upload, document, index.

    python tools/publish.py quickstart --hub ./hub
    python tools/publish.py convnext_tiny_1k_224 --hub gs://bucket/hub --checkpoints ./mirror
    python tools/publish.py convnext --dry-run
    python tools/publish.py --hub ./hub --yank hubpress/convnext_digits/1 --why "trained on its test images"
    python tools/publish.py --hub ./hub --audit --thorough

NAME is a row (convnext_tiny_1k_224: its classifier and its feature extractor), one module (by handle, hubpress/NAME/1, or by a
name that is no row's), a family, a collection, or `all`. What is published never changes: publishing the same again does
nothing, and other bytes under a published version are refused. A version that nobody should use any more is yanked: it still
loads, its page says why, and the lists leave it out.
"""

import argparse
import pathlib
import sys

from tools.common.files import default_cache


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
        default=default_cache(),
        help="where downloads and builds are kept (default: %(default)s)",
    )
    arguments.add_argument(
        "--prebuilt",
        type=pathlib.Path,
        metavar="DIR",
        help="publish what Bazel made (DIR: bazel-bin/modules), if it is what would be built here; builds nothing",
    )
    arguments.add_argument("--jobs", type=int, default=1, metavar="N", help="rows built at the same time (default: 1)")
    arguments.add_argument(
        "--mirror-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="also write folders that are ready to upload to Hugging Face and Kaggle (see tools/publishing/mirror.py)",
    )
    arguments.add_argument(
        "--unpacked",
        action="store_true",
        help="also keep the modules unpacked, for clients that read them where they lie (TFHUB_MODEL_LOAD_FORMAT=UNCOMPRESSED)",
    )
    arguments.add_argument("--dry-run", action="store_true", help="show the plan as a table, and do nothing")
    arguments.add_argument(
        "--yank", metavar="HANDLE", help="withdraw a published version, like hubpress/NAME/1; with --why"
    )
    arguments.add_argument("--unyank", metavar="HANDLE", help="take a yank back")
    arguments.add_argument("--why", metavar="TEXT", help="for --yank: one sentence for the module's page")
    arguments.add_argument(
        "--audit",
        action="store_true",
        help="check that the whole hub is in order: sizes, and digests where the storage keeps them",
    )
    arguments.add_argument(
        "--thorough", action="store_true", help="for --audit: read every archive, its digests and members"
    )
    return arguments


def main(argv=None) -> int:
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.jobs < 1:
        arguments.error("--jobs must be at least 1")
    maintenance = [name for name in ("yank", "unyank", "audit") if getattr(options, name)]
    if maintenance:
        if len(maintenance) > 1 or options.names or options.dry_run:
            arguments.error(f"--{maintenance[0]} is a command of its own: leave out names and the other flags")
        if not options.hub:
            arguments.error("say which hub: --hub DIR or --hub gs://bucket/path")
        if options.yank and not (options.why or "").strip():
            arguments.error("say why nobody should use it any more: --why TEXT")
        return audit(options) if options.audit else yank(options)
    if options.why or options.thorough:
        arguments.error("--why goes with --yank, and --thorough with --audit")
    if not options.dry_run and not options.names:
        arguments.error("say what to publish: a module, family or collection, or `all`; --dry-run lists them")
    if options.prebuilt and options.checkpoints:
        arguments.error(
            "--prebuilt reads no checkpoints: leave out --checkpoints (Bazel's are named by HUBPRESS_CHECKPOINTS)"
        )
    if options.prebuilt and not options.prebuilt.is_dir():
        arguments.error(
            f"--prebuilt {options.prebuilt} is no folder: run `bazel build //modules:NAME`, and name bazel-bin/modules"
        )
    if not options.dry_run and not options.hub:
        arguments.error("say where to publish: --hub DIR or --hub gs://bucket/path")

    from tools import catalog
    from tools.common import console

    try:
        rows = catalog.load()
        names = options.names or ["all"]
        modules = rows.modules if names == ["all"] else rows.expand(names)
    except (catalog.CatalogError, catalog.UnknownNameError) as error:
        console.problems(error)
        return 2
    if options.dry_run:
        console.plan(modules, options.hub)
        return 0

    from tools.hub import address, unpacked
    from tools.hub.storage import Storage, StorageError
    from tools.publishing.transaction import Publishing
    from tools.site.pages import PageError

    try:
        storage = Storage(options.hub)
        with console.Progress() as progress:
            publishing = Publishing(
                rows,
                storage,
                base_url=address.for_writing(storage, options.url, rows.publisher.url),
                cache=options.cache,
                mirrors=options.checkpoints,
                prebuilt=options.prebuilt,
                report=progress.report,
            )
            results = publishing.run(modules, options.jobs)
            if options.unpacked:
                for result in results:
                    if result.state != "failed":
                        unpacked.store(storage, result.module.handle)
            pages, problem = 0, None
            if any(result.state != "failed" for result in results):
                try:
                    pages = publishing.write_pages()
                except (StorageError, PageError) as error:  # said below what is published all the same
                    problem = error
    except (StorageError, PageError) as error:
        console.problems(error)
        return 1
    except KeyboardInterrupt:
        console.problems("interrupted; nothing is half-published, and the same command goes on from here")
        return 130
    console.results(results, pages, storage.url, publishing.base_url)
    if problem:
        console.problems(problem)
        return 1
    if options.mirror_dir and not mirror(publishing, results, options.mirror_dir):
        return 1
    return 1 if any(result.state == "failed" for result in results) else 0


def yank(options: argparse.Namespace) -> int:
    """Yank a version or take that back, by a note beside its record, and make the pages again; the exit status."""
    from tools import catalog
    from tools.common import console
    from tools.hub import address, notes
    from tools.hub.storage import Storage, StorageError
    from tools.publishing.transaction import now, write_pages
    from tools.site.pages import PageError

    action = notes.YANK if options.yank else notes.UNYANK
    handle, why = (options.yank or options.unyank).strip("/"), " ".join((options.why or "").split())
    try:
        rows = catalog.load()
        storage = Storage(options.hub)
        url = address.for_writing(storage, options.url, rows.publisher.url)
        note = notes.add_note(storage, handle, action, why, date=now())
        pages = write_pages(rows, storage, url, cache=options.cache)
    except (catalog.CatalogError, StorageError, PageError) as error:
        console.problems(error)
        return 1
    done = "yanked" if action == notes.YANK else "no longer yanked"
    console.show(f"{handle} is {done}" + ("" if note else " already") + f"; {pages} pages written to {storage.url}")
    return 0


def audit(options: argparse.Namespace) -> int:
    """Check a whole hub; the exit status is 1 if something is wrong with it."""
    from tools.common import console
    from tools.hub.storage import Storage, StorageError
    from tools.verification import audit

    try:
        storage = Storage(options.hub)
        if not storage.is_there():
            raise StorageError(f"There is no hub at {storage.url}. Check the address.")
        report = audit.audit(storage, thorough=options.thorough)
    except StorageError as error:
        console.problems(error)
        return 1
    console.audit(report, storage.url)
    return 1 if report.errors else 0


def mirror(publishing, results, directory: pathlib.Path) -> bool:
    """Write the folders for other hubs of what is published by now; says what they are, or why there are none."""
    from tools.archive.members import ArchiveError
    from tools.common import console
    from tools.hub.storage import StorageError
    from tools.publishing import mirror

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
