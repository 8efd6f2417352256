"""Check that a whole hub is in order: records, archives, notes, pages and the index.

    python tools/audit.py --hub ./hub
    python tools/audit.py --hub gs://bucket/hub --thorough
    python tools/audit.py --hub gs://bucket/hub --thorough --key publisher.pub

Compares sizes, and digests where the storage keeps them; with --key or --identity demands signatures of all but pages, which are
derived: --thorough compares those. Exit status 0 if there are no errors (warnings do not count: they are what a publisher at
work, or one that was cut off, leaves behind), 1 if there are.
"""

import argparse
from collections.abc import Sequence

from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("audit", __doc__)
    scripts.add_hub(arguments)
    arguments.add_argument(
        "--thorough",
        action="store_true",
        help="read every archive: its digests and members; compare every page with what it should be; name files that nobody made",
    )
    scripts.add_url(arguments)
    scripts.add_trust(arguments)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools import catalog
    from tools.common import console
    from tools.hub import signatures
    from tools.hub.storage import StorageError, open_hub
    from tools.site.jobs import PageError
    from tools.verification import audit, reporting

    try:
        trust = signatures.trust(options)
        storage = open_hub(options.hub)
        rows = catalog.load() if options.thorough else None
        report = audit.audit(storage, thorough=options.thorough, catalog=rows, base_url=options.url, trust=trust)
    except (catalog.CatalogError, StorageError, PageError) as error:
        console.problems(error)
        return scripts.status(error)
    reporting.show_audit(report, storage.url)
    return scripts.FAILED if report.errors else 0


if __name__ == "__main__":
    scripts.run(main, __file__)
