"""Make networks with random weights, so that speed is measured without downloads: speed does not depend on weights.

    python -m tools.benchmarks.synthesise module convnext_tiny_1k_224 OUT        # the classifier as a SavedModel, OUT/
    python -m tools.benchmarks.synthesise checkpoint convnext_tiny_1k_224 OUT    # OUT/FILE, in the row's format
    python -m tools.benchmarks.synthesise keras convnext_tiny_1k_224 OUT         # as Keras saves it: OUT/model.keras, OUT/export/
    python -m tools.benchmarks.synthesise tf_keras convnext_tiny_1k_224 OUT      # the same architecture, as tf_keras saves it

`module` writes what a build writes: the network, its preprocessing, labels and signatures, by builders/export.py. Run as a
process of its own by the benchmarks; `module_of` and the others use again what was made for the same code and row.
"""

import hashlib
import pathlib
import shutil
import sys
import tempfile

from tools.benchmarks import measuring
from tools.benchmarks.rows import PEERS
from tools.common.files import ROOT


def module_of(row: str, cache: pathlib.Path) -> pathlib.Path:
    """Return the folder of a row's classifier with random weights."""
    return _cached("module", row, cache)


def checkpoint_of(row: str, cache: pathlib.Path) -> pathlib.Path:
    """Return the file of a row's checkpoint with random weights; its name is not upstream's, which may promise a digest."""
    return next(_cached("checkpoint", row, cache).iterdir())


def keras_files_of(row: str, cache: pathlib.Path) -> pathlib.Path:
    """Return the folder with `model.keras` and `export/`: the same Keras model, saved as Keras saves models."""
    return _cached("keras", row, cache)


def tf_keras_folder_of(row: str, cache: pathlib.Path) -> pathlib.Path:
    """Return the SavedModel that tf_keras's `model.save` writes of the architecture, which tf_keras.applications must have."""
    return _cached("tf_keras", row, cache)


def _cached(what: str, row: str, cache: pathlib.Path) -> pathlib.Path:
    """Return `cache/WHAT-ROW-DIGEST`, made once; the digest is of the code and the row, folders of other digests are deleted."""
    digest = hashlib.sha256()
    for file in sorted([*(ROOT / "builders").glob("*.py"), *(ROOT / "modules").glob("*.toml"), pathlib.Path(__file__)]):
        digest.update(file.read_bytes())
    cache = cache.absolute()  # what is made there is used by processes that run elsewhere
    folder = cache / f"{what}-{row}-{digest.hexdigest()[:12]}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob(f"{what}-{row}-????????????"):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as scratch:
        made = pathlib.Path(scratch, "made")
        measuring.run(
            [sys.executable, "-m", "tools.benchmarks.synthesise", what, row, made],
            f"{row}: no {what} could be made",
            "correct it, and measure again",
            TF_CPP_MIN_LOG_LEVEL="3",
            CUDA_VISIBLE_DEVICES="-1",
            PYTHONHASHSEED="0",
        )
        made.rename(folder)
    return folder


def main(what: str, row: str, out: str) -> None:
    """Write the network of a row into the folder `out`."""
    if what == "tf_keras":
        import tf_keras

        made = getattr(tf_keras.applications, str(PEERS[row][1]))(weights=None, classifier_activation=None)
        made.save(out, save_format="tf")
        return
    import keras

    import builders
    from builders import export
    from tools import catalog

    rows = catalog.load()
    variant = rows.expand([row])[0].variant
    facts, folder = variant.facts(), pathlib.Path(out)
    keras.utils.set_random_seed(0)
    model = builders.create(variant.family, num_classes=variant.classes, **builders.arguments(facts))
    folder.mkdir(parents=True)
    if what == "checkpoint":
        file = folder / ("random.npz" if variant.format == "augreg" else "random.safetensors")
        builders.write(model, file, variant.format)
    elif what == "keras":
        model.save(folder / "model.keras")
        model.export(folder / "export", verbose=False)
    else:
        shared = rows.preprocessing
        described = {
            "row": facts,
            "preprocessing": {
                "transform": shared["transforms"][variant.transform],
                "normalization": shared["normalizations"][variant.normalization],
            },
        }
        labels = [f"class {number}" for number in range(variant.classes or 0)]
        export.save(export.head_model(model, "classifier"), "classifier", described, folder / "module", labels)
        for file in (folder / "module").iterdir():
            file.rename(folder / file.name)
        shutil.rmtree(folder / "module")
        (folder / "labels.txt").unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
