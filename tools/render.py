"""Make the pages of a hub again from its records: after a change of templates, of collections or of the hub's address.

    python tools/render.py --hub ./hub --url http://127.0.0.1:8000

Pages that come out as they are already are left alone. Archives and records are never touched.
"""

import pathlib
import sys

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse


def main(argv=None) -> int:
    arguments = argparse.ArgumentParser(
        prog="tools/render.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--hub", required=True, help="a folder, gs://bucket/path, or any URL that fsspec knows")
    arguments.add_argument("--url", help="the public address that handles begin with (default: modules/publisher.toml)")
    options = arguments.parse_args(argv)

    from tools import catalog, console
    from tools.hub.publishing import write_pages
    from tools.hub.storage import Storage, StorageError
    from tools.pages.site import PageError

    try:
        rows = catalog.load()
        storage = Storage(options.hub)
        if not storage.is_there():
            raise StorageError(
                f"There is no hub at {storage.url}. Publish into it first: python tools/publish.py NAME --hub ..."
            )
        url = (options.url or rows.publisher.url).rstrip("/")
        count = write_pages(rows, storage, url)
    except (catalog.CatalogError, StorageError, PageError) as error:
        console.problems(error)
        return 1
    console.show(f"{count} pages written to {storage.url}; handles begin with {url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
