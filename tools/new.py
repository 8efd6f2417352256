"""Start a variant, a family or a collection: write a stub, and say what is still to be written.

    python tools/new.py variant convnext size=tiny data=1k resolution=256
    python tools/new.py family resnet
    python tools/new.py collection small_models --family convnext
    python tools/new.py variant flowers --from hf://user/model --catalog ./ours --licence mit

With --from, a variant is a model of your own, which transformers or timm saved: its configuration gives the architecture, the names
of the classes and the preprocessing, and a file of its own is written, into the folder --catalog or the repository.

A stub has TODO where a person must decide. The catalogue refuses each of them and says what belongs there: correct what it names,
run `python tools/publish.py --dry-run` again, and go on until it lists the module.
"""

import argparse
from collections.abc import Sequence

from tools.common import scripts
from tools.common.problems import with_fix


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("new", __doc__)
    kinds = arguments.add_subparsers(dest="kind", required=True)
    variant = kinds.add_parser("variant", help="a row in modules/FAMILY.toml")
    variant.add_argument(
        "name", metavar="FAMILY|NAME", help="the family, like convnext; with --from what it will be called"
    )
    variant.add_argument("values", nargs="*", metavar="KEY=VALUE", help="what is known already, as in resolution=224")
    variant.add_argument(
        "--from",
        dest="source",
        metavar="DIR|hf://USER/MODEL",
        help="a model that transformers or timm saved: config.json, model.safetensors, preprocessor_config.json",
    )
    variant.add_argument("--licence", metavar="ID", help="of its weights: an id of modules/tags/license.yaml")
    scripts.add_catalog(variant)
    family = kinds.add_parser("family", help="builders/NAME.py, modules/NAME.toml and tests/builders/test_NAME.py")
    family.add_argument("name", metavar="NAME", help="what it will be called, in small letters")
    collection = kinds.add_parser("collection", help="collections/NAME.toml")
    collection.add_argument("name", metavar="NAME", help="what it will be called, in small letters")
    collection.add_argument("--family", help="select the rows of this family")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    from tools import catalog
    from tools.catalog import adoption, scaffolding
    from tools.common import console
    from tools.common.download import DownloadError
    from tools.common.files import ROOT

    own = getattr(options, "catalog", None)
    said: list[str] = []

    try:
        match options.kind:
            case "variant" if options.source:
                if options.values:
                    raise scaffolding.ScaffoldingError(
                        with_fix("KEY=VALUE and --from contradict each other", "edit the row file that --from writes")
                    )
                rows = catalog.load(own=own if own and (own / "modules").is_dir() else None)
                adopted = adoption.adopt(
                    options.source, options.name, catalog=rows, folder=own or ROOT, licence=options.licence
                )
                files, said = adopted.files, adopted.said
            case "variant" if own or options.licence:
                raise scaffolding.ScaffoldingError(
                    with_fix("--catalog and --licence are for a model of your own", "name it with --from")
                )
            case "variant":
                files = scaffolding.variant(options.name, dict(map(scaffolding.parse, options.values)))
            case "family":
                files = scaffolding.family(options.name)
            case "collection":
                files = scaffolding.collection(options.name, options.family)
    except scaffolding.ScaffoldingError as error:
        console.problems(error)
        return scripts.USAGE
    except (catalog.CatalogError, DownloadError) as error:
        console.problems(error)
        return scripts.FAILED
    console.show("wrote " + ", ".join(files))
    for sentence in said:
        console.show(f"note: {sentence}")
    listing = "python tools/publish.py --dry-run" + (f" --catalog {own}" if own else "")
    try:
        catalog.load(own=own)
    except catalog.CatalogError as error:
        problems = "".join(f"  {problem}\n" for problem in error.problems)
        console.show(f"still to be written:\n{problems}then see it listed: {listing}")
    else:
        console.show(f"the catalogue is complete: {listing} lists it")
    return 0


if __name__ == "__main__":
    scripts.run(main, __file__)
