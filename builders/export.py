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
from tensorflow.python.saved_model import save_context  # private, and pinned by the lock

import builders
from builders.layers import override_drop_path
from builders.preprocessing import Transform, preprocess

OUTPUTS = {"classifier": "logits", "feature_extractor": "features"}
OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=True)  # of grouped convolutions
# Attributes that only say what TensorFlow finds out again, or tell the tracing of more Python.
NEEDLESS = ("_output_shapes", "debug_name", "_has_manual_control_dependencies")


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
    tf.saved_model.save(root, str(directory), signatures, OPTIONS)
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
    with save_context.save_context(OPTIONS):  # what is traced outside of it, saving would trace again
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
        captured = [node.captured_tensor for node in graph.object_graph_def.nodes if node.HasField("captured_tensor")]
        kept = collections.defaultdict(set)  # custom gradients keep results of the functions that they belong to
        for tensor in captured:
            kept[tensor.concrete_function].add(tensor.name.partition(":")[0])
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                for attribute in NEEDLESS:
                    node.attr.pop(attribute, None)
            _drop_copies(function, kept.get(function.signature.name, set()))
            names[function.signature.name] = _shorten_names(function)
            if "__inference__traced_" in function.signature.name:  # saving and restoring ask nobody for shapes
                for argument in function.signature.input_arg:
                    argument.ClearField("handle_data")
        _drop_reads(graph.graph_def)
        for node in graph.graph_def.node:
            for attribute in NEEDLESS:
                node.attr.pop(attribute, None)
        for tensor in captured:
            name, _, output = tensor.name.partition(":")
            tensor.name = f"{names[tensor.concrete_function][name]}:{output}"
    content = saved.SerializeToString(deterministic=True)
    path.write_bytes(content)
    path = directory / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef()
    fingerprint.ParseFromString(path.read_bytes())
    fingerprint.saved_model_checksum = int.from_bytes(hashlib.sha256(content).digest()[:8])
    fingerprint.uuid = str(int.from_bytes(hashlib.sha256(content).digest()[:16]))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _drop_reads(graph):
    """Remove the reading of each variable from the outer graph: nobody takes what it gives."""
    taken = {reference.lstrip("^").partition(":")[0] for node in graph.node for reference in node.input}
    kept = [node for node in graph.node if node.op != "ReadVariableOp" or node.name in taken]
    del graph.node[:]
    graph.node.extend(kept)


def _drop_copies(function, kept):
    """Remove from a function, but for the nodes that are `kept`, its second and further constants of one value, what only hands a
    tensor on, and what tells variables how to be read while they are saved: each node costs a tenth of a millisecond of loading."""
    instead, constants, gone = {}, {}, set()  # of a result, of a node when it is waited for
    for node in function.node_def:
        if node.name in kept:
            continue
        if node.op == "DisableCopyOnRead":
            gone.add(node.name)
        elif node.op == "Identity" and len(node.input) == 1 and "_class" not in node.attr:
            instead[f"{node.name}:output:0"] = node.input[0]
            gone.add(node.name)
        elif node.op == "Const" and not node.input:
            first = constants.setdefault(
                (node.device, node.attr["value"].SerializeToString(deterministic=True)), node.name
            )
            if first != node.name:
                instead[f"{node.name}:output:0"] = f"{first}:output:0"
                gone.add(node.name)
    awaited = {reference[1:] for node in function.node_def for reference in node.input if reference.startswith("^")}
    awaited |= set(function.control_ret.values())
    gone -= {name for name in gone & awaited if f"{name}:output:0" in instead}  # rare, and not worth the care

    def source(reference):
        while reference.partition(":")[0] in gone and reference in instead:
            reference = instead[reference]
        return reference

    nodes = [node for node in function.node_def if node.name not in gone]
    for node in nodes:
        node.input[:] = [
            source(reference) for reference in node.input if reference[1:] not in gone or reference[0] != "^"
        ]
    for key, reference in list(function.ret.items()):
        function.ret[key] = source(reference)
    for key, name in list(function.control_ret.items()):
        if name in gone:
            function.control_ret.pop(key)
            function.signature.control_output.remove(key)
    del function.node_def[:]
    function.node_def.extend(nodes)


def _shorten_names(function):
    """Call the nodes of a function by four letters of what they are called inside their scopes, numbered, and captured variables
    by a number: each name is repeated by all who use it.

    Returns {old name: new name}.
    """
    names, captures = {}, False
    for index, argument in enumerate(function.signature.input_arg):
        names[argument.name] = argument.name
        if argument.type == tf.resource.as_datatype_enum:  # a captured variable: nobody passes it by name
            names[argument.name] = argument.name = f"v{index}"
            captures = True
            function.arg_attr[index].attr.pop("_user_specified_name", None)
    taken = set(names.values())
    counts = collections.Counter()
    for node in function.node_def:
        leaf = re.sub(r"_?\d+$", "", node.name.rsplit("/", 1)[-1])
        if captures:  # the network, and how it is saved: elsewhere errors name the node that found something wrong
            leaf = re.sub("[^a-z]", "", leaf.lower())[:4]
        leaf = leaf or "n"
        while (name := f"{leaf}{counts[leaf] or ''}") in taken:
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
