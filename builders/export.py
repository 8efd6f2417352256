"""A Keras model as a SavedModel that `hub.load`, `hub.KerasLayer`, TensorFlow Serving and TFSMLayer use, preprocessing inside.

`module(images, training=False, drop_path_rate=0.0)` with `images` `[batch, height, width, 3]`, float32 in the row's pixel range or
uint8; of a feature extractor also `stages(images, ...)`, the maps between its layers; further `variables`,
`trainable_variables`, `regularization_losses`, `labels()` and the signatures "serving_default" (float32) and "serving_uint8".
"""

import collections
import hashlib
import json
import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2

import builders
from builders.layers import override_drop_path
from builders.preprocessing import Transform, preprocess

OUTPUTS = {"classifier": "logits", "feature_extractor": "features"}


def head_model(model, head):
    """The part of a classifier that a head publishes: the whole, or up to the layer named "features"."""
    if head == "classifier":
        return model
    features = keras.Model(model.input, model.get_layer("features").output, name=f"{model.name}_features")
    features.family = model.family
    return features


def joint_model(model, head):
    """A head's model with all that its module answers: `{"logits": ...}`, or `{"features": ..., map: ...}` with `builders.maps`."""
    maps = builders.maps(model) if head == "feature_extractor" else {}
    return keras.Model(model.input, {OUTPUTS[head]: model.output, **maps}, name=model.name)


def save(model, head, described, directory, labels=None):
    """Write `model` (a head's model) as a SavedModel into `directory`.

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
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)  # of grouped convolutions
    tf.saved_model.save(root, str(directory), signatures, options)
    _slim(directory)
    extra = directory / "assets.extra"
    extra.mkdir(exist_ok=True)
    _written(extra / "module.json", json.dumps({**described, "head": head}, indent=1, sort_keys=True))
    _written(extra / "keras.json", json.dumps(json.loads(model.to_json()), indent=1, sort_keys=True))
    return directory


def normalised_images(images, described):
    """The module's preprocessing: images of any size, float32 or uint8, to `[batch, resolution, resolution, 3]` normalised."""
    normalization = described["preprocessing"]["normalization"]
    return preprocess(
        images,
        Transform.from_dict(described["preprocessing"]["transform"]),
        mean=normalization["mean"],
        std=normalization["std"],
        pixel_range=tuple(described["row"]["pixel_range"]),
    )


def write_golden(directory, images, outputs):
    """Put the images and the Keras model's answer into the module, for anyone to replay."""
    np.savez(Path(directory) / "assets.extra" / "golden.npz", images=images, outputs=outputs)


def golden_images():
    """Two uint8 images `[2, 240, 320, 3]` of coloured tiles, with edges for the antialiasing, that compress to nothing."""
    tiles = np.random.default_rng(7).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    return np.kron(tiles, np.ones((1, 10, 10, 1), np.uint8))


def signature(head, row, model):
    """Inputs and outputs as the record states them; shapes have null where any size goes."""
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


def _forward(model, described):
    """`forward(images, training, rate)`, all answers of the model by name, float32.

    All callers share its traces of preprocessing and network: each is saved once, and what a caller leaves unused is not computed.
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

    def train(x, rate):
        with override_drop_path(rate):
            return model(x, training=True)

    train = tf.function(train, input_signature=[normalised, tf.TensorSpec([], tf.float32)])

    def forward(images, training, rate):
        x = prepare[images.dtype](images)
        answers = train(x, rate) if training else infer(x)
        return {name: tf.cast(answer, tf.float32) for name, answer in answers.items()}

    return forward


def _call(forward):
    """A function of the module, `__call__` or `stages`, traced for both dtypes, in training and not."""

    @tf.function
    def __call__(images, training=False, drop_path_rate=0.0):
        return forward(images, training, drop_path_rate)

    rate = tf.TensorSpec([], tf.float32, name="drop_path_rate")
    for dtype in (tf.float32, tf.uint8):
        for training in (False, True):
            images = tf.TensorSpec([None, None, None, 3], dtype, name="images")
            __call__.get_concrete_function(images, training=training, drop_path_rate=rate)
    return __call__


def _signature(forward, dtype, output):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], dtype, name="images")])
    def serve(images):
        return {output: forward(images, False, None)[output]}

    return serve


def _labels(root):
    @tf.function(input_signature=[])
    def labels():
        return tf.strings.split(tf.io.read_file(root.labels_file.asset_path), "\n")

    return labels


def _slim(directory):
    """Drop what a loaded graph does not need, and make the fingerprint a function of the content.

    TensorFlow infers the shapes of intermediate results again, and the names of nodes inside functions, each repeated by all who
    use it, are over half of a graph. The fingerprint's identifier would be drawn at random.
    """
    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(path.read_bytes())
    names = {}
    for graph in saved.meta_graphs:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                node.attr.pop("_output_shapes", None)
            names[function.signature.name] = _shorten_names(function)
        for node in graph.graph_def.node:
            node.attr.pop("_output_shapes", None)
        for node in graph.object_graph_def.nodes:  # custom gradients keep results of the functions that they belong to
            if node.WhichOneof("kind") == "captured_tensor":
                name, _, output = node.captured_tensor.name.partition(":")
                node.captured_tensor.name = f"{names[node.captured_tensor.concrete_function][name]}:{output}"
    content = saved.SerializeToString(deterministic=True)
    path.write_bytes(content)
    path = directory / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef()
    fingerprint.ParseFromString(path.read_bytes())
    fingerprint.saved_model_checksum = int.from_bytes(hashlib.sha256(content).digest()[:8])
    fingerprint.uuid = str(int.from_bytes(hashlib.sha256(content).digest()[:16]))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _shorten_names(function):
    """Call the nodes of a function by what they are called inside their scopes, numbered, and captured variables by a number.

    Returns {old name: new name}.
    """
    names = {}
    for index, argument in enumerate(function.signature.input_arg):
        names[argument.name] = argument.name
        if argument.type == tf.resource.as_datatype_enum:  # a captured variable: nobody passes it by name
            names[argument.name] = argument.name = f"v{index}"
            function.arg_attr[index].attr.pop("_user_specified_name", None)
    taken = set(names.values())
    counts = collections.Counter()
    for node in function.node_def:
        leaf = re.sub(r"_\d+$", "", node.name.rsplit("/", 1)[-1])
        while (name := f"{leaf}_{counts[leaf]}" if counts[leaf] else leaf) in taken:
            counts[leaf] += 1
        taken.add(name)
        names[node.name] = name

    def renamed(reference):  # ^node, node:output:index, or the name of an argument
        control, reference = reference.startswith("^"), reference.removeprefix("^")
        name, colon, output = reference.partition(":")
        return "^" * control + names[name] + colon + output

    for node in function.node_def:
        node.name = names[node.name]
        node.input[:] = [renamed(reference) for reference in node.input]
        node.ClearField("experimental_debug_info")
        places = node.attr["_class"].list.s if "_class" in node.attr else []
        for index, place in enumerate(places):
            prefix, _, name = place.decode().partition("@")
            places[index] = f"{prefix}@{names.get(name, name)}".encode()
    for returned in (function.ret, function.control_ret):
        for key, reference in list(returned.items()):
            returned[key] = renamed(reference)
    return names


def _written(path, text):
    Path(path).write_text(text, encoding="utf-8")
    return str(path)
