"""Export of Keras models as SavedModels for `hub.load`, `hub.KerasLayer`, TensorFlow Serving and TFSMLayer, preprocessing inside.

`module(images, training=False, drop_path_rate=0.0)` with `images` `[batch, height, width, 3]`, float32 in the row's pixel range or
uint8; of a feature extractor also `stages(images, ...)`, the maps between its layers; further `variables`,
`trainable_variables`, `regularization_losses`, `labels()` and the signatures "serving_default" (float32) and "serving_uint8".
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.saved_model import save_context  # private, and pinned by the lock

import builders
from builders import graph
from builders.layers import override_drop_path
from builders.preprocessing import Transform, preprocess

Array = npt.NDArray[Any]
OUTPUTS = {"classifier": "logits", "feature_extractor": "features"}
OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=True)  # of grouped convolutions


def head_model(model: Any, head: str) -> Any:
    """Return the part of a classifier that a head publishes: the whole, or up to the layer named "features"."""
    if head == "classifier":
        return model
    features = keras.Model(model.input, model.get_layer("features").output, name=f"{model.name}_features")
    features.family = model.family
    return features


def joint_model(model: Any, head: str) -> Any:
    """Return a head's model with all outputs of its module: `{"logits": ...}`, or `{"features": ..., NAME: ...}` with the maps."""
    maps = builders.maps(model) if head == "feature_extractor" else {}
    return keras.Model(model.input, {OUTPUTS[head]: model.output, **maps}, name=model.name)


def save(
    model: Any,
    head: str,
    described: Mapping[str, Any],
    directory: str | os.PathLike[str],
    labels: Sequence[str] | None = None,
) -> Path:
    """Write `model` (a head's model) as a SavedModel into `directory`; return its path.

    `described` is what defines the module (see builders/build.py): its `preprocessing` and `row` go into the graph, and the
    whole into `assets.extra/module.json`. `labels` are class names, for `module.labels()`.
    """
    directory = Path(directory)
    forward = _forward(joint_model(model, head), described)
    root = tf.__internal__.tracking.AutoTrackable()
    root.variables = [v.value for v in model.variables]
    root.trainable_variables = [v.value for v in model.trainable_variables]
    root.regularization_losses = []
    root.__call__ = _call(lambda *arguments: forward(*arguments)[OUTPUTS[head]])
    if signature(head, described["row"], model)["maps"]:
        root.stages = _call(lambda *arguments: {k: v for k, v in forward(*arguments).items() if k != OUTPUTS[head]})
    if labels:
        root.labels_file = tf.saved_model.Asset(_written(directory.parent / "labels.txt", "\n".join(labels)))
        root.labels = _labels(root)
    signatures = {
        "serving_default": _signature(forward, tf.float32, OUTPUTS[head]),
        "serving_uint8": _signature(forward, tf.uint8, OUTPUTS[head]),
    }
    tf.saved_model.save(root, str(directory), signatures, OPTIONS)
    graph.slim(directory)
    extra = directory / "assets.extra"
    extra.mkdir(exist_ok=True)
    _written(extra / "module.json", json.dumps({**described, "head": head}, indent=1, sort_keys=True))
    _written(extra / "keras.json", json.dumps(json.loads(model.to_json()), indent=1, sort_keys=True))
    return directory


def normalised_images(images: Any, described: Mapping[str, Any]) -> Any:
    """Preprocess images of any size, float32 or uint8, as the module does; return them as `[batch, resolution, resolution, 3]`."""
    normalization = described["preprocessing"]["normalization"]
    return preprocess(
        images,
        Transform.from_dict(described["preprocessing"]["transform"]),
        mean=normalization["mean"],
        std=normalization["std"],
        pixel_range=tuple(described["row"]["pixel_range"]),
    )


def write_golden(directory: str | os.PathLike[str], images: Array, outputs: Array) -> None:
    """Write the images and the Keras model's outputs into the module, for anyone to replay."""
    np.savez(Path(directory) / "assets.extra" / "golden.npz", images=images, outputs=outputs)


def golden_images(transform: Mapping[str, Any]) -> Array:
    """Return two uint8 images `[2, height, width, 3]` of coloured tiles in a black frame, which compress well.

    `transform` (a row of modules/preprocessing.toml) makes each side half as long, or twice as long; the odd width of a warp stays.
    Then all weights are multiples of 1/256, whatever the kernel, except near a border, where they meet black only. Sums of pixels
    with such weights are exact in float32 (of even pixels; others need one bit more), so that every processor resizes these images
    to the same numbers, and rounds the same way where one lies in the middle between two levels.
    """
    size = transform["size"]
    sides, frames = (2 * size, 2 * (size + size // 4)), (7, 7)  # a frame is what kernels read that end at the border
    if transform["resize"] == "warp":
        sides, frames = (2 * size, size if size % 2 else size // 2), (7, 0 if size % 2 else 4)
    rows, columns = (
        np.pad(1 + np.arange(side - 2 * frame) // 10, frame) for side, frame in zip(sides, frames, strict=True)
    )
    tiles = 2 * np.random.default_rng(1).integers(0, 128, (2, rows.max() + 1, columns.max() + 1, 3), dtype=np.uint8)
    tiles[:, 0] = tiles[:, :, 0] = 0
    return tiles[:, rows][:, :, columns]


def signature(head: str, row: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return the inputs and outputs as the record states them; shapes have null where any size goes."""
    low, high = row["pixel_range"]
    shape = [None, None, None, 3]
    size = (row["resolution"], row["resolution"], 3)
    maps = []
    if head == "feature_extractor":
        shapes = joint_model(model, head).compute_output_shape((None, *size))
        maps = [{"name": k, "dtype": "float32", "shape": list(v)} for k, v in shapes.items() if k != OUTPUTS[head]]
    return {
        "inputs": [
            {"name": "images", "dtype": "float32", "shape": shape, "range": [low, high]},
            {"name": "images", "dtype": "uint8", "shape": shape, "range": [0, 255]},
        ],
        "outputs": [{"name": OUTPUTS[head], "dtype": "float32", "shape": [None, int(model.output.shape[-1])]}],
        "maps": maps,
        "arguments": {"training": False, "drop_path_rate": 0.0},
    }


def _forward(model: Any, described: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    """Return `forward(images, training, rate)`, which computes all outputs of the model by name, float32.

    All callers share its traces of preprocessing and network: each is saved once, and unused outputs are not computed.
    """
    resolution = described["row"]["resolution"]
    normalised = tf.TensorSpec([None, resolution, resolution, 3], tf.float32)
    prepare = {
        dtype: tf.function(
            lambda images: normalised_images(images, described),
            input_signature=[tf.TensorSpec([None, None, None, 3], dtype)],
        )
        for dtype in (tf.float32, tf.uint8)
    }
    infer = tf.function(lambda x: model(x, training=False), input_signature=[normalised])

    def train(x: Any, rate: Any) -> Any:
        with override_drop_path(rate):
            return model(x, training=True)

    train = tf.function(train, input_signature=[normalised, tf.TensorSpec([], tf.float32)])

    def forward(images: Any, training: Any, rate: Any) -> dict[str, Any]:
        x = prepare[images.dtype](images)
        answers = train(x, rate) if training else infer(x)
        return {name: tf.cast(answer, tf.float32) for name, answer in answers.items()}

    return forward


def _call(forward: Callable[..., Any]) -> Any:
    """Return a function of the module, `__call__` or `stages`, traced for both dtypes, in training and not."""

    @tf.function
    def __call__(images: Any, training: Any = False, drop_path_rate: Any = 0.0) -> Any:
        return forward(images, training, drop_path_rate)

    rate = tf.TensorSpec([], tf.float32, name="drop_path_rate")
    with save_context.save_context(OPTIONS):  # what is traced outside of it, saving would trace again
        for dtype in (tf.float32, tf.uint8):
            for training in (False, True):
                images = tf.TensorSpec([None, None, None, 3], dtype, name="images")
                __call__.get_concrete_function(images, training=training, drop_path_rate=rate)
    return __call__


def _signature(forward: Callable[..., dict[str, Any]], dtype: Any, output: str) -> Any:
    """Return the traced function of a serving signature, whose images have `dtype`."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], dtype, name="images")])
    def serve(images: Any) -> Any:
        return {output: forward(images, False, None)[output]}

    return serve


def _labels(root: Any) -> Any:
    """Return the traced function that gives the class names of the module."""

    @tf.function(input_signature=[])
    def labels() -> Any:
        return tf.strings.split(tf.io.read_file(root.labels_file.asset_path), "\n")

    return labels


def _written(path: Path, text: str) -> str:
    """Write `text` to `path`; return the path as a string."""
    path.write_text(text, encoding="utf-8")
    return str(path)
