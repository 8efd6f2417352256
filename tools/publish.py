"""Publish modules: convert, check, pack, upload, document, index.

    python tools/publish.py quickstart --hub ./hub
    python tools/publish.py convnext_tiny_1k_224 --hub gs://bucket/hub --checkpoints ./mirror
    python tools/publish.py convnext --dry-run

NAME is a row (convnext_tiny_1k_224: its classifier and its feature extractor), one module (by handle, hubpress/NAME/1, or by a
name that is no row's), a family, a collection, or `all`. What is published never changes: publishing the same again does
nothing, and other bytes under a published version are refused. tools/yank.py withdraws a version.

Files for other runtimes lie beside each module: `onnx`, and `float32`, `float16` and `int8` of LiteRT. They are made from the
published module, which stays as it is. With --formats, modules that are published already are not built again:

    python tools/publish.py convnext_tiny_1k_224 --hub ./hub --formats onnx,int8
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tools.catalog.layout import FORMAT_FILES
from tools.common import scripts
from tools.common.problems import with_fix

FORMATS_VARIABLE = "HUBPRESS_FORMATS"  # what is published where nobody says --formats
DEFAULT_FORMATS, ALL_FORMATS, NO_FORMATS = "default", "all", "none"  # default: those of each row


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("publish", __doc__)
    arguments.add_argument(
        "names", nargs="*", metavar="NAME", help="what to publish; with --dry-run everything by default"
    )
    scripts.add_hub(arguments, required=False)
    scripts.add_url(arguments)
    source = arguments.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoints",
        metavar="DIR|URL",
        help="take upstream files from here, not from upstream: by their whole path (HOST/PATH, as `wget -x` keeps them), then by "
        "name; with --dry-run say which are missing in a folder",
    )
    source.add_argument(
        "--prebuilt",
        type=Path,
        metavar="DIR",
        help="publish what Bazel made (DIR: bazel-bin/modules), if it is what would be built here; builds nothing, unless "
        "--formats names files, and reads no checkpoints (Bazel's are named by HUBPRESS_CHECKPOINTS)",
    )
    scripts.add_catalog(arguments)
    scripts.add_cache(arguments, "downloads and builds")
    arguments.add_argument(
        "--jobs", type=scripts.positive, default=1, metavar="N", help="rows built at the same time (default: 1)"
    )
    arguments.add_argument(
        "--unpacked",
        action="store_true",
        help="also keep the modules unpacked, for clients that read them where they lie (TFHUB_MODEL_LOAD_FORMAT=UNCOMPRESSED)",
    )
    arguments.add_argument(
        "--formats",
        type=formats,
        default=os.environ.get(FORMATS_VARIABLE) or DEFAULT_FORMATS,
        metavar="FORMATS",
        help=f"files for other runtimes: `{DEFAULT_FORMATS}`, those of each row; `{ALL_FORMATS}`; `{NO_FORMATS}`; or some of "
        f"{', '.join(FORMAT_FILES)}, with commas (default: {FORMATS_VARIABLE}, or `{DEFAULT_FORMATS}`)",
    )
    scripts.add_signing(arguments)
    arguments.add_argument(
        "--dry-run",
        action="store_true",
        help="show the plan as a table and everything that is wrong with the rows; do nothing",
    )
    return arguments


def formats(text: str) -> tuple[str, ...] | None:
    """Return the formats that an option names, in their order; None for those of each row."""
    named = [name.strip() for name in text.split(",")]
    if named == [DEFAULT_FORMATS]:
        return None
    if named == [NO_FORMATS]:
        return ()
    if named == [ALL_FORMATS]:
        return tuple(FORMAT_FILES)
    if unknown := [name for name in named if name not in FORMAT_FILES]:
        known = f"{DEFAULT_FORMATS}, {ALL_FORMATS}, {NO_FORMATS}, or some of {', '.join(FORMAT_FILES)}"
        raise argparse.ArgumentTypeError(with_fix(f"{unknown[0]!r} is no format", f"name {known}"))
    return tuple(name for name in FORMAT_FILES if name in named)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    options = arguments.parse_args(argv)
    if not options.dry_run and not options.names:
        arguments.error(
            with_fix("nothing to publish is named", "name a module, family or collection of --dry-run, or `all`")
        )
    if not options.dry_run and not options.hub:
        arguments.error(with_fix("no hub is named", "say where to publish: --hub DIR or --hub gs://bucket/path"))
    if options.prebuilt and not options.prebuilt.is_dir():
        fix = "run `bazel build //modules:NAME`, and name bazel-bin/modules"
        arguments.error(with_fix(f"--prebuilt {options.prebuilt} is no folder", fix))

    from tools import catalog
    from tools.common import console
    from tools.publishing import reporting

    names = options.names or ["all"]
    try:
        rows = catalog.load_usable(own=options.catalog)
        modules = rows.modules if names == ["all"] else rows.expand(names)
    except catalog.CatalogError as error:
        console.problems(error)
        return scripts.FAILED
    except catalog.UnknownNameError as error:
        for each in rows.problems:  # the name may be one of a row that cannot be read
            console.problems(each)
        console.problems(error)
        return scripts.FAILED if rows.problems else scripts.USAGE
    if options.dry_run:
        return scripts.FAILED if reporting.show_plan(rows, modules, options.hub, options.checkpoints) else 0
    if names == ["all"]:
        for each in rows.problems:
            console.problems(each)
    else:
        console.warnings(rows.warnings)
    console.warnings(reporting.row_warnings(modules))

    from tools.hub import address, signatures, unpacked
    from tools.hub.records import DamagedHub
    from tools.hub.storage import Storage, StorageError
    from tools.publishing import format_build
    from tools.publishing.format_transaction import FormatPublishing
    from tools.publishing.transaction import Publishing
    from tools.site.jobs import PageError

    pages: int = 0
    problem: Exception | None = None
    try:
        signer = signatures.signer(options)  # before anything is built
        storage = Storage(options.hub)
        with reporting.PublishingProgress() as progress:
            publishing = Publishing(
                rows,
                storage,
                base_url=address.for_writing(storage, options.url, rows.publisher.url),
                cache=options.cache,
                mirrors=options.checkpoints,
                prebuilt=options.prebuilt,
                signer=signer,
                keeps_published=bool(options.formats),
                report=progress.report,
            )
            results = publishing.run(modules, options.jobs)
            done = [result for result in results if result.state != "failed"]
            format_publishing = FormatPublishing(
                storage,
                format_build,
                options.cache,
                signer=signer,
                leaves_out=options.formats is None,
                report=progress.report,
            )

            def wanted(module: catalog.Module) -> list[str]:
                if options.prebuilt and options.formats is None:  # which builds nothing
                    return []
                return [*(module.variant.formats if options.formats is None else options.formats)]

            published = [(result.module, result.record) for result in done if result.record is not None]
            files = format_publishing.run(published, wanted, jobs=options.jobs)
            if options.unpacked:
                for result in done:
                    unpacked.store(storage, result.module.handle)
            if done:
                try:
                    pages = publishing.write_pages()
                except DamagedHub as error:  # shown below what is published all the same
                    pages, problem = error.pages, error
                except (StorageError, PageError) as error:
                    problem = error
    except (StorageError, PageError) as error:
        console.problems(error)
        return scripts.status(error)
    reporting.show_results(results, pages, storage.url, publishing.base_url)
    reporting.show_formats(files)
    if problem:
        console.problems(problem)
    is_incomplete = (
        len(done) < len(results)
        or any(file.state == "failed" for file in files)
        or (names == ["all"] and bool(rows.problems))
    )
    return scripts.FAILED if problem or is_incomplete else 0


if __name__ == "__main__":
    scripts.run(
        main, __file__, interrupted="run the same command again: it goes on from here, and nothing is half-published"
    )
