"""Conversion: a module, a Keras model or a checkpoint to Keras's files or an upstream format, and back.

convert("https://models.example.org/hubpress/convnext_tiny_1k_224/1", "tiny.keras")
convert("tiny.keras", "tiny.safetensors", format="timm")
convert("fine_tuned.safetensors", "fine_tuned.weights.h5", name="convnext_tiny", classes=10)
"""

import contextlib
import os
from pathlib import Path
from typing import Any

import builders
from builders import weights as formats
from builders.library import pretrained
from builders.library.hub import from_hub
from tools.common.files import discard

KERAS, KERAS_WEIGHTS, UPSTREAM = ".keras", ".weights.h5", (".safetensors", ".npz")


class ConversionError(ValueError):
    """A source or target that cannot be converted. The message ends with the fix."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    name: str | None = None,
    format: str | None = None,
    classes: int | None = None,
    key: str | None = None,
) -> str:
    """Convert `source` to `target`; return a sentence that says what was read and written.

    Nothing is written unless every tensor of the source was used and every variable set (see builders/weights.py:restore).

    Args:
      source: a module's address, handle, archive or folder; a `.keras` file; or, with `name`, a checkpoint or a `.weights.h5`.
      target: a new file: `.keras`, `.weights.h5`, or `.safetensors` or `.npz` in an upstream `format`; or, without an ending, a new
        folder that transformers or timm loads, with configuration and preprocessing (builders/library/pretrained.py).
      name: the row or the architecture of the catalogue that a file without one is of.
      format: of the target: timm, facebook, transformers, ... as the family has them.
      classes: of a checkpoint's classifier, where they are not the row's; 0 for one without a classifier.
      key: the network of a checkpoint with several.

    Raises:
      ConversionError: the target exists, or is no file that can be written; or a name or format is missing or not needed.
      ValueError, RestoreError, CheckpointError, DownloadError: as `builders.create` and `builders.from_hub`.
    """
    source_text, path = os.fspath(source), Path(target)
    if not path.suffix and format in pretrained.FORMATS:
        if not path.parent.is_dir():
            raise ConversionError(f"{path.parent} is no folder. Fix: make it first.")
        model, said = _read(source_text, name, classes, key)
        files = pretrained.save(model, path, format=format)
        return f"{source_text} ({said}) -> {path}: {', '.join(files)}"
    suffix = next((each for each in (KERAS, KERAS_WEIGHTS, *UPSTREAM) if path.name.endswith(each)), None)
    if suffix is None:
        raise ConversionError(
            f"{path}: its ending says no format. Fix: end it in {', '.join((KERAS, KERAS_WEIGHTS, *UPSTREAM))}."
        )
    if (suffix in UPSTREAM) != (format is not None):
        need = (
            "which upstream format it is in. Fix: say one with --format"
            if suffix in UPSTREAM
            else "no format. Fix: leave it out"
        )
        raise ConversionError(f"{path}: a {suffix} file needs {need}.")
    if path.exists():
        raise ConversionError(f"{path} exists. Fix: name a new file.")
    if not path.parent.is_dir():
        raise ConversionError(f"{path.parent} is no folder. Fix: make it first.")
    model, said = _read(source_text, name, classes, key)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        if suffix == KERAS:
            model.save(part)
        elif suffix == KERAS_WEIGHTS:
            model.save_weights(part)
        else:
            assert format is not None
            builders.write(model, part, format)
        os.replace(part, path)
    except formats.RestoreError as error:
        raise formats.RestoreError(str(error).replace(str(part), str(path))) from None
    finally:
        with contextlib.suppress(OSError):
            discard(part)
    variables = sum(1 for _ in model.variables)
    return f"{source_text} ({said}) -> {path}: {variables} variables, {model.count_params():,} parameters"


def _read(source: str, name: str | None, classes: int | None, key: str | None) -> tuple[Any, str]:
    """Return the model of a source, and what the source is."""
    if name is None:
        if key is not None or classes is not None:
            raise ConversionError(
                f"{source}: a key or classes are said of a checkpoint alone. Fix: say its name with --as."
            )
        if source.endswith(KERAS):
            return _loaded(source), "a Keras model"
        if Path(source).is_file() and not source.endswith(".tar.gz"):
            raise ConversionError(
                f"{source}: a file of weights does not say its network. "
                "Fix: name a row or an architecture with --as, such as --as convnext_tiny."
            )
        return from_hub(source), "a module"
    head: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if classes == 0:
        head = {"include_top": False, "pooling": "avg"}
    if source.endswith(KERAS_WEIGHTS):
        model = builders.create(name, **head)
        try:
            model.load_weights(source)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConversionError(
                f"{source}: not the weights of {name} ({reason}). Fix: correct --as or --classes."
            ) from None
        return model, "Keras weights"
    model = builders.create(name, **head)
    restored = builders.restore(model, source, key=key, resize=False)
    taken = "".join(f", {what} {value!r}" for what, value in restored.taken().items())
    return model, f"{restored} format{taken}"


def _loaded(source: str) -> Any:
    import keras

    try:
        return keras.models.load_model(source)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConversionError(
            f"{source}: Keras cannot load it ({reason}). Fix: pass a model of builders that was saved."
        ) from None
