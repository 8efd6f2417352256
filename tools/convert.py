"""Convert a module, a Keras model or a checkpoint to Keras's files or an upstream format, and back.

    python tools/convert.py https://models.example.org/hubpress/convnext_tiny_1k_224/1 tiny.keras
    python tools/convert.py tiny.keras tiny.safetensors --format timm
    python tools/convert.py https://models.example.org/hubpress/convnext_tiny_1k_224/1 ./folder --format transformers
    python tools/convert.py fine_tuned.pth fine_tuned.weights.h5 --as convnext_tiny --classes 10

A target without an ending is a folder that transformers or timm loads directly, with its configuration and preprocessing.
Every tensor of the source is used and every variable set, or nothing is written, and the message lists what is missing, unused, of
another shape, or not finite.
"""

import argparse
import os
from collections.abc import Sequence

from builders import environment
from tools.common import scripts


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("convert", __doc__)
    arguments.add_argument(
        "source",
        metavar="SOURCE",
        help="a module's address, handle, archive or folder; a .keras file; with --as a checkpoint or a .weights.h5 file",
    )
    arguments.add_argument(
        "target",
        metavar="TARGET",
        help="a new file that ends in .keras, .weights.h5, .safetensors or .npz; or a new folder for --format transformers or timm",
    )
    arguments.add_argument(
        "--as", dest="name", metavar="NAME", help="the row or the architecture of the catalogue that a checkpoint is of"
    )
    arguments.add_argument(
        "--format",
        metavar="FORMAT",
        help="of a .safetensors, .npz or folder target: timm, facebook, transformers, augreg, ...",
    )
    arguments.add_argument(
        "--classes", type=int, metavar="N", help="of the checkpoint, if not the row's; 0 for one without a classifier"
    )
    arguments.add_argument("--key", metavar="KEY", help="the network of a checkpoint with several")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from builders.library import conversion
    from tools.archive.members import ArchiveError
    from tools.common import console
    from tools.common.download import DownloadError

    try:
        said = conversion.convert(
            options.source,
            options.target,
            name=options.name,
            format=options.format,
            classes=options.classes,
            key=options.key,
        )
    except (conversion.ConversionError, DownloadError, ArchiveError, ValueError, OSError) as error:
        console.problems(error)
        return scripts.FAILED
    console.show(said)
    return 0


if __name__ == "__main__":
    environment.isolate()
    scripts.run(main, __file__)
