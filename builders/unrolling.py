"""The Keras model of a published module, from nothing but its own files: layers from `keras.json`, weights from its variables.

    model = unrolled("unpacked/module")         # of the layers of this package; logits, or the feature vector
    keras.Model(model.input, builders.maps(model))

The model takes normalised images; `assets.extra/module.json` says how they are made.
"""

import os
from pathlib import Path
from typing import Any

MODEL = "assets.extra/keras.json"


class UnrollingError(ValueError):
    """A folder is no module that can be unrolled; the message names the file and the fix."""


def unrolled(folder: str | os.PathLike[str]) -> Any:
    """Return the functional `keras.Model` of a head from the unpacked module in `folder`, with the module's weights.

    Its variables are those of the SavedModel in their order, bit by bit, and it has the names and the family's maps.

    Raises:
      UnrollingError: there is no description of layers, it has layers that are not known here, or the variables are others.
    """
    import keras
    import tensorflow as tf

    from builders import layers

    folder = Path(folder)
    try:
        text = (folder / MODEL).read_text(encoding="utf-8")
        reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    except (OSError, UnicodeDecodeError, tf.errors.OpError) as error:
        raise UnrollingError(
            f"{folder}: {MODEL} or the variables cannot be read ({error}). Fix: give the folder of an unpacked module."
        ) from None
    try:
        with layers.deferred_weights():
            model = keras.models.model_from_json(text)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UnrollingError(
            f"{folder / MODEL}: Keras cannot make the model ({str(error).strip().splitlines()[0]}). "
            "Fix: use the version of this repository that made the module."
        ) from None
    values = _variables(reader)
    shapes = [tuple(variable.shape) for variable in model.variables]
    if [tuple(value.shape) for value in values] != shapes:
        raise UnrollingError(
            f"{folder}: the module has {len(values)} variables, {MODEL} describes {len(shapes)}, of other shapes. "
            "Fix: get the module again."
        )
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    return model


def _variables(reader: Any) -> list[Any]:
    """Return the arrays of a SavedModel's checkpoint in the order of the module's attribute `variables`."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    children = {child.local_name: child.node_id for child in graph.nodes[0].children}
    if "variables" not in children:
        return []
    listed = {int(child.local_name): child.node_id for child in graph.nodes[children["variables"]].children}
    return [reader.get_tensor(graph.nodes[listed[i]].attributes[0].checkpoint_key) for i in sorted(listed)]
