"""Builders of modules: Keras models of every family, strict checkpoints, preprocessing, export as a SavedModel.

    import builders

    model = builders.create("convnext", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
    builders.restore(model, "convnext_tiny_1k_224_ema.pth")
    logits = model(images)                                      # [batch, height, width, 3], float32, normalised
    maps = keras.Model(model.input, builders.maps(model))       # {"stride_4": [batch, height/4, width/4, 96], ...}

    pixels = keras.Input((None, None, 1))                       # layers in front, and a head of your own behind
    images = keras.layers.Conv2D(3, 1)(keras.layers.RandomFlip()(pixels))
    backbone = builders.create(
        "convnext", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768), include_top=False, pooling="avg", input_tensor=images
    )
    model = keras.Model(backbone.input, keras.layers.Dense(10)(backbone.output))
    builders.restore(model, "convnext_tiny_1k_224_ema.pth")     # sets the layers of the ConvNeXt and leaves the others
    model.save("mine.keras")                                    # loads wherever `builders` is imported

By name, for the rows of the catalogue and the modules of a hub (builders/library):

    builders.list("convnext_tiny*")                             # ["convnext_tiny_1k_224", ...]
    model = builders.create("convnext_tiny_1k_224", weights="row", num_classes=10)      # strict but for the new head
    pixels = builders.preprocessing_of(model)                   # a Keras layer: [batch, any height, any width, 3], 0 to 255
    module = builders.from_hub("http://127.0.0.1:8000/hubpress/convnext_digits/1")      # a module's Keras model, with its weights

Importing `builders` is cheap: TensorFlow and Keras are imported by the first call that needs them.
"""

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builders import weights

from builders import registration

_LIBRARY = (
    "from_hub",
    "list",
    "preprocessing_of",
)  # of builders/library, which is imported when one of them is asked for
_OWN: Any = object()  # the number of classes that a row has, or 1000


def __getattr__(name: str) -> Any:
    """Return what `builders.library` offers, which no build imports."""
    if name in _LIBRARY:
        from builders import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def families() -> tuple[str, ...]:
    """Return the names of all families: the files of this folder that have a table of weights.

    They are found and not listed: a list would be a part of every module's build key, and a new family would rebuild all.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(file.stem for file in files if "\nWEIGHTS = " in file.read_text(encoding="utf-8"))


def family_module(family: str) -> ModuleType:
    """Return the module of a family, `builders/FAMILY.py`. Raises ValueError for an unknown family."""
    if family not in families():
        raise ValueError(f"there is no family {family!r}. Fix: use one of {', '.join(families())}.")
    return importlib.import_module(f"builders.{family}")


def create(
    family: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = _OWN,
    include_top: bool = True,
    pooling: str | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    input_tensor: Any = None,
    drop_path_rate: float = 0.0,
    name: str | None = None,
    **architecture: Any,
) -> Any:
    """Build a functional Keras model of `family`, on normalised images `[batch, height, width, 3]`.

    Args:
      family: a family, such as "convnext", with its arguments; or a name of the catalogue, which says them: that of a row, such as
        "convnext_tiny_1k_224", or of an architecture, such as "convnext_tiny".
      weights: None for random ones, a path or URL of a checkpoint in one of the family's formats, or, with a name of the catalogue,
        "row" or the data that it was trained on, such as "1k" (see builders/library/models.py:create).
      num_classes: length of the logits; by default that of the row, or 1000.
      include_top: with False the output is the last map `[batch, rows, columns, channels]`, for heads of your own.
      pooling: without the top, "avg" gives the feature vector `[batch, features]` that the classifier's last layer is fed.
      input_shape: `(height, width, 3)`; by default any size, of a ViT, which is made for one size, (224, 224, 3).
      input_tensor: an output of Keras layers to build on instead, such as an augmentation. The layers in front of it belong to the
        model, but `restore`, `write` and `maps` see those of the family alone.
      drop_path_rate: stochastic depth of the last block; earlier ones grow linearly to it. Active in training only.
      name: of the model; the family's by default.
      architecture: the family's own arguments (see `network` in its file).

    Returns:
      A functional `keras.Model`, float32 logits `[batch, num_classes]`; the layer named "features" has the feature vector.

    Raises:
      ValueError: for an unknown family or name, and for arguments that contradict each other or make no network.
      TypeError: for an argument that the family does not have, or needs.
      RestoreError, CheckpointError, DownloadError: for weights that do not fit, cannot be read, or cannot be fetched.
    """
    if family not in families() or weights is not None:
        from builders import library

        said = {} if num_classes is _OWN else {"num_classes": num_classes}
        return library.create(
            family,
            weights=weights,
            include_top=include_top,
            pooling=pooling,
            input_shape=input_shape,
            input_tensor=input_tensor,
            drop_path_rate=drop_path_rate,
            name=name,
            **said,
            **architecture,
        )
    num_classes = 1000 if num_classes is _OWN else num_classes
    module = family_module(family)
    _check_names(module, family, architecture)

    from builders import layers, networks

    networks.check(
        num_classes=num_classes,
        include_top=include_top,
        pooling=pooling,
        poolings=getattr(module, "POOLING", ("avg",)),
        drop_path_rate=drop_path_rate,
    )
    images = networks.images(input_shape, input_tensor, default=getattr(module, "INPUT_SHAPE", (None, None, 3)))
    images = layers.Beginning(family, name="network")(images)
    outputs = module.network(
        images,
        num_classes=num_classes and int(num_classes),
        include_top=include_top,
        pooling=pooling,
        drop_path_rate=float(drop_path_rate),
        **architecture,
    )
    model = networks.model(images, outputs, name or family)
    if input_tensor is None:
        known = _backbone(model).layers
        unknown = [layer.name for layer in model.layers if layer.variables and layer not in known]
        if unknown:
            raise ValueError(
                f"builders/{family}.py: the layers {', '.join(unknown)} have weights that no checkpoint would set. "
                "Fix: add a line for each to WEIGHTS, and use layers of this package or subclasses in that file."
            )
    return model


def maps(model: Any) -> dict[str, Any]:
    """Return the maps between the layers of `model`, `{name: Keras tensor [batch, rows, columns, channels]}`, for dense tasks.

    `keras.Model(model.input, builders.maps(model))` computes them. They are named by stride or by block; a family may have none.
    Layers before and behind the network change nothing. Raises ValueError if the network is a model inside of `model`.
    """
    backbone = _backbone(model)
    if backbone.inside:
        raise ValueError(
            f"the network in {model.name} is a model of its own there, {backbone.inside}, which has maps of its own input. "
            f"Fix: pass model.get_layer({backbone.inside!r})."
        )
    found = getattr(family_module(backbone.family), "maps", None)
    return found(model) if found else {}


def arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `create` for a row of the catalogue: its own, and those that its family derives from the row.

    A row without classes has a checkpoint without a head, and gets the model that gives the feature vector.
    """
    derive = getattr(family_module(row["family"]), "arguments", None)
    own: dict[str, Any] = derive(row) if derive else dict(row["architecture"])
    return own if row["classes"] else own | {"include_top": False, "pooling": "avg"}


def restore(
    model: Any,
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    resize: bool = True,
    grid: tuple[int, int] | None = None,
) -> "weights.Restored":
    """Load an upstream checkpoint into `model`, strictly; return the recognised format, and what of the file was taken.

    Of a model with other layers around the network, only those of the network are set. See builders/weights.py:restore for the
    arguments.
    """
    from builders import weights

    backbone = _backbone(model)
    return weights.restore(backbone, family_module(backbone.family), path, key=key, resize=resize, grid=grid)


def write(model: Any, path: str | os.PathLike[str], format: str) -> None:
    """Write the weights of `model` in an upstream `format`, to `.safetensors` or `.npz` (see builders/weights.py:write).

    Of a model with other layers around the network, only those of the network are written.
    """
    from builders import weights

    backbone = _backbone(model)
    weights.write(backbone, family_module(backbone.family), path, format)


def family_of(model: Any) -> str:
    """Return the family of the network in a model. Raises RestoreError if it has none, or several."""
    return _backbone(model).family


@dataclass(frozen=True)
class _Backbone:
    """The network that `create` built inside of a model, with what builders/weights.py asks a model for.

    It has the layers whose class is one of this package's and whose name is in the family's table of weights. All others are
    somebody else's, wherever they stand. `inside` is the name of the layer that holds it, if that is a model of its own.
    """

    name: str
    family: str
    layers: list[Any]
    inside: str | None


def _backbone(model: Any) -> _Backbone:
    """Find the network in a model that `create` made, that was cut or extended, or that Keras loaded. Raises RestoreError."""
    from builders import weights
    from builders.layers import Beginning

    layers = list(_flat(model))
    begins = [(layer.family, inside) for layer, inside in layers if isinstance(layer, Beginning)]
    if len(begins) != 1:
        raise weights.RestoreError(
            f"the model {model.name} has {len(begins)} networks that builders.create made, not one. "
            "Fix: pass the model of one, for example model.get_layer(NAME)."
        )
    ((family, inside),) = begins
    rows = family_module(family).WEIGHTS
    own = [layer for layer, _ in layers if type(layer).__module__.startswith("builders.")]
    own = [layer for layer in own if any(row.ours.fullmatch(layer.name) for row in rows)]
    return _Backbone(model.name, family, own, inside)


def _flat(model: Any, inside: str | None = None) -> Iterator[tuple[Any, str | None]]:
    """Yield the layers of `model` and of the models inside it, with the name of the layer of `model` that holds them."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _flat(layer, inside or layer.name)
        else:
            yield layer, inside


def _check_names(module: ModuleType, family: str, architecture: Mapping[str, Any]) -> None:
    """Raise TypeError for names of arguments that the family of `module` does not have, and for needed ones that are missing."""
    shared = inspect.signature(create).parameters
    parameters = [
        each for each in inspect.signature(module.network).parameters.values() if each.kind == each.KEYWORD_ONLY
    ]
    own = {each.name: each.default is each.empty for each in parameters if each.name not in shared}
    wrong = [f"{name!r} is not an argument" for name in architecture if name not in own]
    wrong += [f"{name!r} is missing" for name, needed in own.items() if needed and name not in architecture]
    if wrong:
        raise TypeError(f"{family}: {', '.join(wrong)}. Fix: its own arguments are {', '.join(own)}.")


registration.register_layers()
