"""Start a variant, a family or a collection: write a stub, and say what is still to be written.

    python tools/new.py variant convnext size=tiny data=1k resolution=256
    python tools/new.py family resnet
    python tools/new.py collection small_models --family convnext

A stub has TODO where a person must decide. The catalogue refuses each of them and says what belongs there: correct what it names,
run `python tools/publish.py --dry-run` again, and go on until it lists the module.
"""

import argparse
from collections.abc import Sequence

from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("new", __doc__)
    kinds = arguments.add_subparsers(dest="kind", required=True)
    variant = kinds.add_parser("variant", help="a row in modules/FAMILY.toml")
    variant.add_argument("name", metavar="FAMILY", help="the family, like convnext")
    variant.add_argument("values", nargs="*", metavar="KEY=VALUE", help="what is known already, as in resolution=224")
    family = kinds.add_parser("family", help="builders/NAME.py, modules/NAME.toml and tests/builders/test_NAME.py")
    family.add_argument("name", metavar="NAME", help="what it will be called, in small letters")
    collection = kinds.add_parser("collection", help="collections/NAME.toml")
    collection.add_argument("name", metavar="NAME", help="what it will be called, in small letters")
    collection.add_argument("--family", help="select the rows of this family")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools import catalog
    from tools.catalog import scaffolding
    from tools.common import console

    try:
        match options.kind:
            case "variant":
                files = scaffolding.variant(options.name, dict(map(scaffolding.parse, options.values)))
            case "family":
                files = scaffolding.family(options.name)
            case "collection":
                files = scaffolding.collection(options.name, options.family)
    except scaffolding.ScaffoldingError as error:
        console.problems(error)
        return scripts.USAGE
    console.show("wrote " + ", ".join(files))
    try:
        catalog.load()
    except catalog.CatalogError as error:
        problems = "".join(f"  {problem}\n" for problem in error.problems)
        console.show(f"still to be written:\n{problems}then see it listed: python tools/publish.py --dry-run")
    else:
        console.show("the catalogue is complete: python tools/publish.py --dry-run lists it")
    return 0


if __name__ == "__main__":
    scripts.run(main, __file__)
