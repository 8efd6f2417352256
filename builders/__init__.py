"""How a row becomes a SavedModel: Keras models of every family, strict checkpoints, preprocessing, export.

import builders
model = builders.create("convnext", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
builders.restore(model, "convnext_tiny_1k_224_ema.pth")
logits = model(images)                     # [batch, height, width, 3], float32, normalised
"""

import importlib

FAMILIES = ("convnext", "convnextv2", "regnety", "vit")


def family_module(family: str):
    """The module of a family, `builders/FAMILY.py`; raises ValueError for an unknown one."""
    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}; builders has {', '.join(FAMILIES)}")
    return importlib.import_module(f"builders.{family}")


def create(family, *, num_classes=1000, include_top=True, input_shape=None, input_tensor=None, **architecture):
    """Build a functional Keras model of `family` on normalised images `[batch, height, width, 3]` (any size by default).

    The output is float32 logits `[batch, num_classes]`, and the layer named "features" gives `[batch, features]`; with
    `include_top=False` it is the last map, or with `pooling="avg"` the feature vector. `architecture` are the family's own
    arguments (see its file). Raises ValueError for an unknown family, TypeError for an argument that it does not have.
    """
    model = family_module(family).create(
        num_classes=num_classes,
        include_top=include_top,
        input_shape=input_shape,
        input_tensor=input_tensor,
        **architecture,
    )
    model.family = family  # restore and write ask for it
    return model


def maps(model):
    """The maps between the layers of `model`, `{name: Keras tensor [batch, rows, columns, channels]}`, for dense tasks.

    `keras.Model(model.input, builders.maps(model))` computes them. Named by their
    stride, or by their block (see the family; it may have none).
    """
    found = getattr(family_module(_family_of(model)), "maps", None)
    return found(model) if found else {}


def arguments(row):
    """The arguments of `create` for a row of the catalogue: its own, and what its family derives from the row.

    A row without classes has a checkpoint without a head, and gets the model that gives the feature vector.
    """
    derive = getattr(family_module(row["family"]), "arguments", None)
    own = derive(row) if derive else dict(row["architecture"])
    return own if row["classes"] else own | {"include_top": False, "pooling": "avg"}


def restore(model, path, *, key=None, resize=True):
    """Load an upstream checkpoint into `model`, strictly; returns the recognised format (see builders/weights.py:restore)."""
    from builders import weights

    return weights.restore(model, family_module(_family_of(model)), path, key=key, resize=resize)


def write(model, path, format):
    """Write the weights of `model` in an upstream `format`, to `.safetensors` or `.npz` (see builders/weights.py:write)."""
    from builders import weights

    return weights.write(model, family_module(_family_of(model)), path, format)


def _family_of(model) -> str:
    """The family that built `model`; of a model that was loaded or cut, its layers say so, since their names are the family's."""
    from builders import weights

    if getattr(model, "family", None) in FAMILIES:
        return model.family
    names = [layer.name for layer in model.layers if layer.weights]
    for family in FAMILIES:
        rows = family_module(family).WEIGHTS
        if names and all(any(row.ours.fullmatch(name) for row in rows) for name in names):
            return family
    raise weights.RestoreError(
        f"the model {model.name} was not made by builders.create, or has layers of its own; restore the backbone alone"
    )
