"""Write folders that are ready to upload to Hugging Face and Kaggle, of modules that are published.

    python tools/mirror.py convnext --hub ./hub --out ./mirrors
    python tools/mirror.py hubpress/convnext_digits/1 --hub gs://bucket/hub --out ./mirrors

NAME is a row, a module, a family, a collection (of each module the newest version that is not withdrawn), a handle with its
version, or `all`. Upload a folder with

    huggingface-cli upload OWNER/NAME mirrors/huggingface/NAME
    kaggle models create -p mirrors/kaggle/FAMILY
    kaggle models instances create -p mirrors/kaggle/FAMILY/tensorFlow2/NAME --dir-mode tar

Folders that an earlier run made are replaced.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("mirror", __doc__)
    arguments.add_argument("names", nargs="+", metavar="NAME", help="what to mirror: names, or handles")
    scripts.add_hub(arguments)
    arguments.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the folders go")
    scripts.add_url(arguments)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools import catalog
    from tools.common import console
    from tools.hub import address, records
    from tools.hub.storage import StorageError, open_hub
    from tools.publishing import mirror, selection

    try:
        rows = catalog.load_usable()
        console.warnings(rows.warnings)
        storage = open_hub(options.hub)
        found = records.snapshot(storage)
        if found.problems:
            console.problems(records.DamagedHub(found.problems))
        chosen = selection.select(options.names, found, rows)
        url = address.for_reading(storage, options.url, rows.publisher.url)
        hub = mirror.gather(found, rows, url)
        folders = mirror.write(chosen, storage=storage, hub=hub, directory=options.out)
    except (catalog.CatalogError, StorageError, ValueError, OSError) as error:
        console.problems(error)
        return scripts.status(error)
    for folder in folders:
        console.show(f"mirrored to {folder}")
    return scripts.FAILED if found.problems else 0


if __name__ == "__main__":
    scripts.run(main, __file__)
