"""Withdraw a published version that nobody should use any more, or take that back.

    python tools/yank.py hubpress/convnext_digits/1 --hub ./hub --why "trained on its test images"
    python tools/yank.py hubpress/convnext_digits/1 --hub ./hub --undo

A withdrawn version still loads: nothing published is ever deleted. Its page says why, and the lists leave it out.
"""

import argparse
from collections.abc import Sequence

from tools.common import scripts
from tools.common.problems import with_fix


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("yank", __doc__)
    arguments.add_argument("handle", metavar="HANDLE", help="a published version, like hubpress/NAME/1")
    scripts.add_hub(arguments)
    what = arguments.add_mutually_exclusive_group(required=True)
    what.add_argument("--why", metavar="TEXT", type=_sentence, help="one sentence for the module's page")
    what.add_argument("--undo", action="store_true", help="take the withdrawal back")
    scripts.add_url(arguments)
    scripts.add_cache(arguments, "the digests of pages")
    scripts.add_signing(arguments)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools import catalog
    from tools.common import clock, console
    from tools.hub import address, notes, signatures
    from tools.hub.records import DamagedHub
    from tools.hub.storage import StorageError, open_hub
    from tools.site.jobs import PageError
    from tools.site.writing import write_pages

    handle, action = options.handle.strip("/"), notes.UNYANK if options.undo else notes.YANK
    try:
        rows = catalog.load_usable()
        console.warnings(rows.warnings)
        storage = open_hub(options.hub)
        url = address.for_writing(storage, options.url, rows.publisher.url)
        signer = signatures.signer(options)
        note = notes.add_note(storage, handle, action, options.why or "", date=clock.now(), signer=signer)
        damage = None
        try:
            pages = write_pages(rows, storage, url, cache=options.cache)
        except DamagedHub as error:
            pages, damage = error.pages, error
    except (catalog.CatalogError, StorageError, PageError) as error:
        console.problems(error)
        return scripts.status(error)
    done = "no longer yanked" if options.undo else "yanked"
    console.show(f"{handle} is {done}" + ("" if note else " already") + f"; {pages} pages written to {storage.url}")
    if damage:
        console.problems(damage)
    return scripts.FAILED if damage else 0


def _sentence(text: str) -> str:
    """Return the words of a sentence on one line."""
    if words := " ".join(text.split()):
        return words
    raise argparse.ArgumentTypeError(with_fix("the reason is empty", "say why nobody should use the module any more"))


if __name__ == "__main__":
    scripts.run(main, __file__)
