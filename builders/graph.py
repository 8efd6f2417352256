"""Surgery on a saved graph: remove and rename what loading does not need, so that `saved_model.pb` is small and loads fast.

    graph.slim(directory)                       # of a SavedModel; what it computes stays

The same model gives the same bytes: what TensorFlow draws at random is derived from the content.
"""

import collections
import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2

# Attributes that only say what TensorFlow finds out again, or tell the tracing of more Python.
NEEDLESS = ("_output_shapes", "debug_name", "_has_manual_control_dependencies")
# Operations whose results get their shapes from those of variables.
READS = {"ReadVariableOp"}


def slim(directory: Path) -> None:
    """Remove from the SavedModel in `directory` what a loaded graph does not need; make its fingerprint a function of the content.

    TensorFlow infers the shapes of intermediate results again, and the names of nodes inside functions, each repeated by all who
    use it, are over half of a graph. TensorFlow would draw the fingerprint's identifier at random.
    """
    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(path.read_bytes())
    names: dict[str, dict[str, str]] = {}
    for graph in saved.meta_graphs:
        captured = [node.captured_tensor for node in graph.object_graph_def.nodes if node.HasField("captured_tensor")]
        kept: dict[str, set[str]] = collections.defaultdict(
            set
        )  # custom gradients keep results of the functions that they belong to
        for tensor in captured:
            kept[tensor.concrete_function].add(tensor.name.partition(":")[0])
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                for attribute in NEEDLESS:
                    node.attr.pop(attribute, None)
            _drop_copies(function, kept.get(function.signature.name, set()))
            names[function.signature.name] = _shorten_names(function)
            # Who only passes variables on needs no shapes of theirs, and saving and restoring ask nobody for them.
            reads = any(node.op == "ReadVariableOp" for node in function.node_def)
            if not reads or "__inference__traced_" in function.signature.name:
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


def _drop_reads(graph: Any) -> None:
    """Remove the operation that reads each variable from the outer graph, where nothing uses its result."""
    taken = {reference.lstrip("^").partition(":")[0] for node in graph.node for reference in node.input}
    kept = [node for node in graph.node if node.op != "ReadVariableOp" or node.name in taken]
    del graph.node[:]
    graph.node.extend(kept)


def _drop_copies(function: Any, kept: Collection[str]) -> None:
    """Remove the nodes of a function that copy: each costs a tenth of a millisecond of loading.

    These are repeated constants of one value, identities, and hints on how variables are read while they are saved; not the nodes
    that are `kept`.
    """
    instead: dict[str, str] = {}  # a result of a removed node -> the result to use
    constants: dict[tuple[str, bytes], str] = {}  # device and value -> the first node that has it
    gone: set[str] = set()
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

    def source(reference: str) -> str:
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


def _shorten_names(function: Any) -> dict[str, str]:
    """Shorten the names of a function's nodes, which all who use a node repeat; return {old name: new name}.

    A node gets four letters of its name inside its scopes, numbered; a captured variable gets a number.
    """
    names: dict[str, str] = {}
    captures = False
    for index, argument in enumerate(function.signature.input_arg):
        names[argument.name] = argument.name
        if argument.type == tf.resource.as_datatype_enum:  # a captured variable: nobody passes it by name
            names[argument.name] = argument.name = f"v{index}"
            captures = True
            function.arg_attr[index].attr.pop("_user_specified_name", None)
    taken = set(names.values())
    counts: collections.Counter[str] = collections.Counter()
    for node in function.node_def:
        leaf = re.sub(r"_?\d+$", "", node.name.rsplit("/", 1)[-1])
        if captures:  # the network, and how it is saved: elsewhere errors name the node that found something wrong
            leaf = re.sub("[^a-z]", "", leaf.lower())[:4]
        leaf = leaf or "n"
        while (name := f"{leaf}{counts[leaf] or ''}") in taken:
            counts[leaf] += 1
        taken.add(name)
        names[node.name] = name

    def renamed(reference: str) -> str:  # ^node, node:output:index, or the name of an argument
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
