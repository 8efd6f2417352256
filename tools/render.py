"""Make the pages of a hub again from its records.

    python tools/render.py --hub ./hub --url http://127.0.0.1:8000

Pages that come out as they are already are left alone. Archives and records are never touched.
"""

import argparse
from collections.abc import Sequence

from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("render", __doc__)
    scripts.add_hub(arguments)
    scripts.add_url(arguments)
    scripts.add_catalog(arguments)
    scripts.add_cache(arguments, "the digests of pages")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools import catalog
    from tools.common import console
    from tools.hub import address
    from tools.hub.records import DamagedHub
    from tools.hub.storage import StorageError, open_hub
    from tools.site.jobs import PageError
    from tools.site.writing import write_pages

    try:
        rows = catalog.load_usable(own=options.catalog)
        console.warnings(rows.warnings)
        storage = open_hub(options.hub)
        url = address.for_writing(storage, options.url, rows.publisher.url)
        damage = None
        try:
            count = write_pages(rows, storage, url, cache=options.cache)
        except DamagedHub as error:
            count, damage = error.pages, error
    except (catalog.CatalogError, StorageError, PageError) as error:
        console.problems(error)
        return scripts.status(error)
    console.show(f"{count} pages written to {storage.url}; handles begin with {url}")
    if damage:
        console.problems(damage)
    return scripts.FAILED if damage else 0


if __name__ == "__main__":
    scripts.run(main, __file__)
