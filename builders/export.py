"""Export of Keras models as SavedModels for `hub.load`, `hub.KerasLayer`, TensorFlow Serving and TFSMLayer, preprocessing inside.

`module(images, training=False, drop_path_rate=0.0, seed=0)` with `images` `[batch, height, width, 3]`, float32 in the row's pixel
range or uint8, gives the answer, logits or features. `module.stages(images, ...)` gives a dictionary of one pass: the answer, under
its name, and the maps between the layers. Further `variables`, `trainable_variables`, `regularization_losses`, `labels()` and the
signatures "serving_default" (float32) and "serving_uint8".

- An empty batch gives an empty answer, and an error in training.
- With the Python number 0.0 as `drop_path_rate` (the default) no random number is drawn. With another rate each training step draws
  what it drops from a sequence that begins anew in each process, and with `tf.random.set_seed`: runs repeat. `seed` (a number or a
  scalar int32 tensor) chooses the sequence; `tf.random.set_seed` does not, since no graph that is loaded knows its number.
- `stages(images, shifts={name: [batch, h, w, channels]})` adds a tensor to each of the maps, from which the network goes on. The
  gradient of the answer with respect to a shift of zeros is that with respect to the map, as Grad-CAM needs it. (Between two
  results of one call TensorFlow has no gradient.)
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
from builders.layers import DropPath, Shift, drop_path_factors, override_drop_path, override_shifts
from builders.preprocessing import Transform, preprocess

Array = npt.NDArray[Any]
OUTPUTS = {"classifier": "logits", "feature_extractor": "features"}
STEP_SEED = 20220110  # any number but 0, which would mean another one in each process
OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=True)  # of grouped convolutions


def head_model(model: Any, head: str) -> Any:
    """Return the part of a classifier that a head publishes: the whole, or up to the layer named "features"."""
    if head == "classifier":
        return model
    return keras.Model(model.input, model.get_layer("features").output, name=f"{model.name}_features")


def joint_model(model: Any, head: str) -> Any:
    """Return a head's model with all outputs of its module: `{"logits": ...}` or `{"features": ...}`, and the maps by name."""
    return keras.Model(model.input, {OUTPUTS[head]: model.output, **builders.maps(model)}, name=model.name)


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
    answer, stages, shifts = _functions(model, head, described)
    root = tf.__internal__.tracking.AutoTrackable()
    root.variables = [v.value for v in model.variables]
    root.trainable_variables = [v.value for v in model.trainable_variables]
    root.regularization_losses = []
    root.__call__ = _traced(answer)
    root.stages = _traced(stages, shifts)
    if labels:
        root.labels_file = tf.saved_model.Asset(_written(directory.parent / "labels.txt", "\n".join(labels)))
        root.labels = _labels(root)
    signatures = {
        "serving_default": _signature(answer, tf.float32, OUTPUTS[head]),
        "serving_uint8": _signature(answer, tf.uint8, OUTPUTS[head]),
    }
    tf.saved_model.save(root, str(directory), signatures, OPTIONS)
    graph.slim(directory)
    extra = directory / "assets.extra"
    extra.mkdir(exist_ok=True)
    _written(extra / "module.json", json.dumps({**described, "head": head}, indent=1, sort_keys=True))
    _written(extra / "keras.json", json.dumps(json.loads(model.to_json()), indent=1, sort_keys=True))
    return directory


def normalised_images(images: Any, described: Mapping[str, Any], *, never_empty: bool = False) -> Any:
    """Preprocess images of any size, float32 or uint8, as the module does; return them as `[batch, resolution, resolution, 3]`.

    With `never_empty`, an empty batch gives one image of zeros.
    """
    normalization = described["preprocessing"]["normalization"]
    return preprocess(
        images,
        Transform.from_dict(described["preprocessing"]["transform"]),
        mean=normalization["mean"],
        std=normalization["std"],
        pixel_range=tuple(described["row"]["pixel_range"]),
        never_empty=never_empty,
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
    shapes = _shapes(joint_model(model, head), row)
    maps = [{"name": k, "dtype": "float32", "shape": list(v)} for k, v in shapes.items() if k != OUTPUTS[head]]
    return {
        "inputs": [
            {"name": "images", "dtype": "float32", "shape": shape, "range": [low, high]},
            {"name": "images", "dtype": "uint8", "shape": shape, "range": [0, 255]},
        ],
        "outputs": [{"name": OUTPUTS[head], "dtype": "float32", "shape": [None, int(model.output.shape[-1])]}],
        "maps": maps,
        "arguments": {"training": False, "drop_path_rate": 0.0, "seed": 0},
    }


def _shapes(joint: Any, row: Mapping[str, Any]) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of the outputs of a `joint_model` at the row's resolution."""
    shapes: dict[str, tuple[int | None, ...]] = joint.compute_output_shape(
        (None, row["resolution"], row["resolution"], 3)
    )
    return shapes


def _functions(
    model: Any, head: str, described: Mapping[str, Any]
) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
    """Return the module's `answer(images, training, rate, seed)` and `stages(images, training, rate, seed, shifts)`, float32.

    Third, the specification of `shifts`. Both share their traces of preprocessing and network: each is saved once.
    """
    output, joint = OUTPUTS[head], joint_model(model, head)
    specs = {
        name: tf.TensorSpec(shape, tf.float32, name=name)
        for name, shape in _shapes(joint, described["row"]).items()
        if name != output
    }
    shifted = _shiftable(joint, [name for name in joint.output if name != output])
    normalised = tf.TensorSpec([None, *[described["row"]["resolution"]] * 2, 3], tf.float32)
    dropping = [layer for layer in model.layers if isinstance(layer, DropPath) and layer.share > 0]
    prepare = {
        dtype: tf.function(
            lambda images: normalised_images(images, described, never_empty=True),
            input_signature=[tf.TensorSpec([None, None, None, 3], dtype)],
        )
        for dtype in (tf.float32, tf.uint8)
    }

    @tf.function(input_signature=[normalised])
    def some(x: Any) -> Any:
        """Refuse an empty batch, of which nothing can be learnt: TensorFlow's error names the operation."""
        shape = tf.stack([tf.maximum(tf.shape(x)[0], 1), *x.shape[1:]])
        return tf.reshape(x, shape, name="at_least_one_image_to_train_with")

    @tf.function(input_signature=[normalised])
    def infer(x: Any) -> Any:
        return tf.cast(model(x, training=False), tf.float32)

    @tf.function(input_signature=[normalised, tf.TensorSpec([], tf.int32), specs])
    def look(x: Any, count: Any, shifts: Any) -> Any:
        """Return all outputs of the first `count` images; those for which there are no shifts are not shifted."""
        missing = {name: tf.zeros([tf.shape(x)[0] - tf.shape(s)[0], *s.shape[1:]]) for name, s in shifts.items()}
        with override_shifts({name: tf.concat([shifts[name], missing[name]], 0) for name in shifts}):
            return {name: tf.cast(y, tf.float32)[:count] for name, y in shifted(x, training=False).items()}

    def training_step(network: Any) -> Any:
        @tf.function(input_signature=[normalised, tf.TensorSpec([len(dropping), None], tf.float32)])
        def train(x: Any, factors: Any) -> Any:
            with override_drop_path({layer.name: factors[row] for row, layer in enumerate(dropping)}):
                return {name: tf.cast(y, tf.float32) for name, y in network(x, training=True).items()}

        def trained(images: Any, rate: Any, seed: Any) -> Any:
            count = tf.shape(images)[0]
            factors = _drop_path_factors([layer.share for layer in dropping], count, rate, seed)
            return train(some(prepare[images.dtype](images)[:count]), factors)

        return trained

    train = train_all = training_step(joint)
    if len(joint.layers) > len(
        model.layers
    ):  # maps with layers of their own, which would cost each step their gradients
        train = training_step(keras.Model(model.input, {output: model.output}))

    def answer(images: Any, training: Any, rate: Any, seed: Any) -> Any:
        if training:
            return train(images, rate, seed)[output]
        return infer(prepare[images.dtype](images))[: tf.shape(images)[0]]

    def stages(images: Any, training: Any, rate: Any, seed: Any, shifts: Any) -> Any:
        if training:
            return train_all(images, rate, seed)
        count = tf.shape(images)[0]
        if shifts is None:
            given = {name: tf.zeros([0, *spec.shape[1:]]) for name, spec in specs.items()}
        else:
            given = {name: tf.reshape(shift, [count, *shift.shape[1:]]) for name, shift in shifts.items()}
        return look(prepare[images.dtype](images), count, given)

    return answer, stages, specs


def _shiftable(joint: Any, names: Sequence[str]) -> Any:
    """Return a `joint_model`, of the same layers, that has a `Shift` behind each layer that makes one of the maps `names`."""
    shifts = {}
    for name in names:
        operation = joint.output[name]._keras_history.operation
        while operation not in joint.layers or operation.name == f"map.{name}":  # tokens, put in rows and columns
            operation = operation.input._keras_history.operation
        shifts[operation.name] = Shift(name, name=f"shift.{name}")  # type: ignore[no-untyped-call]

    def call(layer: Any, *arguments: Any, **more: Any) -> Any:
        outputs = layer(*arguments, **more)
        return shifts[layer.name](outputs) if layer.name in shifts else outputs

    return keras.models.clone_model(joint, clone_function=lambda layer: layer, call_function=call)


def _drop_path_factors(shares: Sequence[float], count: Any, rate: Any, seed: Any) -> Any:
    """Return the factors `[branches, count]` of a training step. Without a rate nothing is drawn.

    An operation with a seed in the graph counts the steps, so that they repeat; `enable_op_determinism` refuses one without.
    """
    if isinstance(rate, float) and rate == 0.0:
        return tf.ones([len(shares), count])
    with tf.device("/device:CPU:0"):
        step = tf.raw_ops.RandomUniformInt(
            shape=[1], minval=tf.int32.min, maxval=tf.int32.max, seed=STEP_SEED, seed2=STEP_SEED
        )
        numbers = tf.random.stateless_uniform([len(shares), count], tf.concat([step, [seed]], 0))
    return drop_path_factors(rate, shares, numbers)


def _traced(function: Callable[..., Any], shifts: Any = None) -> Any:
    """Return a function of the module, traced for both dtypes, in training and not; `shifts` is the specification for `stages`."""
    if shifts is None:

        @tf.function
        def traced(images: Any, training: Any = False, drop_path_rate: Any = 0.0, seed: Any = 0) -> Any:
            return function(images, training, drop_path_rate, seed)

    else:

        @tf.function
        def traced(
            images: Any, training: Any = False, drop_path_rate: Any = 0.0, seed: Any = 0, shifts: Any = None
        ) -> Any:
            return function(images, training, drop_path_rate, seed, shifts)

    rate, seed = tf.TensorSpec([], tf.float32, name="drop_path_rate"), tf.TensorSpec([], tf.int32, name="seed")
    with save_context.save_context(OPTIONS):  # what is traced outside of it, saving would trace again
        for dtype in (tf.float32, tf.uint8):
            images = tf.TensorSpec([None, None, None, 3], dtype, name="images")
            traced.get_concrete_function(images, False, rate, seed)
            traced.get_concrete_function(images, True, 0.0, 0)  # what a loaded function takes for these very numbers
            traced.get_concrete_function(images, True, rate, seed)
            if shifts:
                traced.get_concrete_function(images, False, rate, seed, shifts)
    return traced


def _signature(answer: Callable[..., Any], dtype: Any, output: str) -> Any:
    """Return the traced function of a serving signature, whose images have `dtype`."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], dtype, name="images")])
    def serve(images: Any) -> Any:
        return {output: answer(images, False, 0.0, 0)}

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
