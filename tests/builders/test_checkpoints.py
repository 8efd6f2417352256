"""The checkpoint reader: every upstream format is read exactly; a hostile file is refused and does nothing else.

The torch files here are assembled opcode by opcode (`torch_files.py`), so that PyTorch is not needed and everything a
pickle can say can be said. With a Python that has PyTorch (this one, or the one named by TORCH_PYTHON) the reader is
also compared with torch.load(weights_only=True).
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from builders import weights
from builders.checkpoints import CheckpointError, read, sha256, write
from tests.builders.torch_files import (
    STATE,
    STORAGES,
    VALUES,
    Raw,
    call,
    encode,
    named,
    safetensors_file,
    storage,
    tensor,
    torch_legacy,
    torch_zip,
)

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"

GOLDEN_CASES = {
    # case: (file, container, entry, tensors, one of them, its shape)
    "convnext_fb": ("checkpoint.pth", "torch", "model", 83, "stages.2.1.pwconv1.weight", (192, 48)),
    "convnext_timm": ("checkpoint.safetensors", "safetensors", "", 83, "stages.2.blocks.1.mlp.fc1.weight", (192, 48)),
    "convnext_timm_conv_mlp": (
        *("checkpoint.safetensors", "safetensors", "", 83),
        *("stages.2.blocks.1.mlp.fc1.weight", (192, 48, 1, 1)),
    ),
    "convnextv2_fb": ("checkpoint.pt", "torch", "model", 90, "stages.2.1.grn.gamma", (1, 1, 1, 192)),
    "convnextv2_timm": ("checkpoint.safetensors", "safetensors", "", 90, "head.norm.weight", (64,)),
    "convnextv2_timm_conv_mlp": ("checkpoint.safetensors", "safetensors", "", 90, "head.norm.weight", (64,)),
    "regnety_pycls": ("checkpoint.pyth", "torch", "model_state", 208, "stem.conv.weight", (32, 3, 3, 3)),
    "regnety_pycls_legacy": ("checkpoint.pyth", "torch-legacy", "model_state", 208, "stem.conv.weight", (32, 3, 3, 3)),
    "regnety_timm": ("checkpoint.safetensors", "safetensors", "", 208, "stem.conv.weight", (32, 3, 3, 3)),
    "regnety_torchvision": ("checkpoint.pth", "torch", "", 208, "stem.0.weight", (32, 3, 3, 3)),
    "vit_hybrid_npz": ("checkpoint.npz", "npz", "", 67, "gn_root/scale", (1, 1, 1, 32)),
    "vit_hybrid_stem_npz": ("checkpoint.npz", "npz", "", 43, "conv_root/kernel", (7, 7, 3, 32)),
    "vit_hybrid_timm": ("checkpoint.safetensors", "safetensors", "", 71, "cls_token", (1, 1, 48)),
    "vit_npz": ("checkpoint.npz", "npz", "", 56, "cls", (1, 1, 48)),
    "vit_timm": ("checkpoint.safetensors", "safetensors", "", 44, "cls_token", (1, 1, 48)),
}


TORCH_WRITERS = pytest.mark.parametrize("save", [torch_zip, torch_legacy])


def refused(path, *words, key=None):
    """The refusal of `path`, which must name the file, each of `words` and a fix."""
    with pytest.raises(CheckpointError) as caught:
        read(path, key).check_finite()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert ". Fix: " in message
    for word in words:
        assert word in message, message
    return message


# ------------------------------------------------------------------------------------------------ what is read, and how


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden(case):
    file, container, key, count, name, shape = GOLDEN_CASES[case]
    checkpoint = read(GOLDEN / case / file)
    assert (checkpoint.container, checkpoint.key, len(checkpoint.tensors)) == (container, key, count)
    assert checkpoint.tensors[name].shape == shape
    parameters = sum(
        tensor.size
        for name, tensor in checkpoint.tensors.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    assert parameters == json.loads((GOLDEN / case / "case.json").read_text())["num_params"]
    for array in checkpoint.tensors.values():
        assert not array.flags.writeable
        assert not array.flags.owndata
    checkpoint.check_finite()
    checkpoint.check_intact()


@pytest.mark.parametrize("case", [case for case, row in GOLDEN_CASES.items() if row[1] in ("npz", "safetensors")])
def test_golden_as_its_own_library_reads_it(case):
    path = GOLDEN / case / GOLDEN_CASES[case][0]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            expected = dict(archive)
    else:
        expected = safetensors.numpy.load_file(path)
    tensors = read(path).tensors
    assert tensors.keys() == expected.keys()
    for name, array in tensors.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])


def test_both_torch_formats_of_one_network_are_equal():
    new = read(GOLDEN / "regnety_pycls" / "checkpoint.pyth").tensors
    old = read(GOLDEN / "regnety_pycls_legacy" / "checkpoint.pyth").tensors
    assert list(new) == list(old)
    for name in new:
        assert new[name].dtype == old[name].dtype
        np.testing.assert_array_equal(new[name], old[name])


@pytest.mark.parametrize("case", ["convnext_fb", "vit_npz", "convnext_timm", "regnety_pycls_legacy"])
def test_the_name_of_a_file_does_not_matter(tmp_path, case):
    file, container, *_ = GOLDEN_CASES[case]
    path = tmp_path / "weights.bin"
    path.write_bytes((GOLDEN / case / file).read_bytes())
    assert read(path).container == container


@TORCH_WRITERS
def test_values_strides_and_offsets(tmp_path, save):
    state = {
        "plain": tensor("0"),
        "transposed": tensor("0", (3, 2), stride=(1, 3)),
        "tail": tensor("0", (2,), offset=4, stride=(1,)),
        "every_second": tensor("0", (3,), stride=(2,)),
        "scalar": tensor("1", (), offset=5),
        "empty": tensor("1", (0, 4)),
        "repeated": tensor("1", (4, 2), stride=(0, 1)),
        "one": tensor("1", (1, 6), stride=(999, 1)),
    }
    tensors = read(save(tmp_path / "x.pth", state)).tensors
    block = VALUES.reshape(2, 3)
    expected = {
        "plain": block,
        "transposed": block.T,
        "tail": VALUES[4:],
        "every_second": VALUES[::2],
        "scalar": np.float32(15),
        "empty": np.zeros((0, 4), np.float32),
        "repeated": np.tile([[10, 11]], (4, 1)),
        "one": VALUES[None] + 10,
    }
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        assert tensors[name].shape == value.shape
        np.testing.assert_array_equal(tensors[name], value)
        with pytest.raises(ValueError, match="read-only"):
            tensors[name][...] = 0


@TORCH_WRITERS
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("BoolStorage", bool), ("ByteStorage", np.uint8), ("CharStorage", np.int8), ("ShortStorage", np.int16)),
        *(("IntStorage", np.int32), ("LongStorage", np.int64), ("HalfStorage", np.float16)),
        *(("BFloat16Storage", ml_dtypes.bfloat16), ("FloatStorage", np.float32), ("DoubleStorage", np.float64)),
        *(("ComplexFloatStorage", np.complex64), ("ComplexDoubleStorage", np.complex128)),
    ],
)
def test_every_storage(tmp_path, save, kind, dtype):
    values = np.array([0, 1, 1, 0, 1, 0]).astype(dtype)
    options = {"item": values.itemsize} if save is torch_legacy else {}
    path = save(tmp_path / "x.pth", {"x": tensor("0", kind=kind)}, {"0": values.tobytes()}, **options)
    checkpoint = read(path)
    assert checkpoint.tensors["x"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(checkpoint.tensors["x"].reshape(-1), values)
    checkpoint.check_finite()


def test_tensors_of_a_dtype_without_storage_class(tmp_path):
    """torch >= 2.3 writes uint16 and float8 as an untyped storage and the name of the dtype (_rebuild_tensor_v3)."""
    values = np.arange(6, dtype=np.uint16)
    untyped = Raw(encode(("storage", named("torch.storage", "UntypedStorage"), "0", "cpu", 12)) + b"Q")
    hooks = call("collections", "OrderedDict")
    rebuilt = (untyped, 2, (2, 2), (2, 1), False, hooks, named("torch", "uint16"))
    state = {"x": call("torch._utils", "_rebuild_tensor_v3", *rebuilt)}
    tensors = read(torch_zip(tmp_path / "x.pth", state, {"0": values.tobytes()})).tensors
    assert tensors["x"].dtype == np.uint16
    assert tensors["x"].tolist() == [[2, 3], [4, 5]]


def test_parameters_and_subclasses(tmp_path):
    hooks = call("collections", "OrderedDict")
    arguments = Raw(encode((storage("1", 6), 0, (6,), (1,), False, hooks)))
    rebuild = named("torch._utils", "_rebuild_tensor_v2")
    kind = named("torch.nn.parameter", "Parameter")
    state = {
        "parameter": call("torch._utils", "_rebuild_parameter", tensor("0"), True, hooks),
        "with_state": call("torch._utils", "_rebuild_parameter_with_state", tensor("0"), True, hooks, {"tag": 1}),
        "of_type": call("torch._tensor", "_rebuild_from_type_v2", rebuild, kind, arguments, {}),
    }
    tensors = read(torch_zip(tmp_path / "x.pth", state)).tensors
    assert tensors["parameter"].tolist() == tensors["with_state"].tolist() == VALUES.reshape(2, 3).tolist()
    assert tensors["of_type"].tolist() == (VALUES + 10).tolist()


def test_a_view_of_a_storage_in_the_legacy_format(tmp_path):
    """torch < 0.4 wrote a storage that is part of another one as (key, offset, count) of it."""
    state = {"x": tensor("0", (2,), view=(("7", 3, 2),)), "y": tensor("1", (6,), view=(None,))}
    tensors = read(torch_legacy(tmp_path / "x.pth", state)).tensors
    assert tensors["x"].tolist() == [3, 4]
    state = {"x": tensor("0", (2,), view=(("7", 5, 2),)), "y": tensor("1", (6,))}
    refused(torch_legacy(tmp_path / "y.pth", state), "'x'", "reaches out of storage")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_plain_containers(tmp_path, protocol):
    """Values that Python's own pickler writes around the tensors, with bytes, sets, long integers and shared values."""
    shared = ["x", 1.5, None, True]
    extra = {"args": argparse.Namespace(lr=1e-3), "rng": b"\0\xff" * 300, "set": {1, 2}, "frozen": frozenset("ab")}
    extra |= {"long": 1 << 128, "lists": [shared, shared], "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))}
    extra |= {
        "array": np.arange(3),
        "scalar": np.float64(1),
        "path": pathlib.PurePosixPath("a"),
        "dtype": np.dtype("f4"),
    }
    extra |= {"bytearray": bytearray(b"abc"), "text": "é" * 300, "negative": -5, "ordered": [("b", 1)], "big": 1 << 40}
    plain = pickle.dumps(extra, protocol)
    # The dict of Python's pickler, then one more entry: "model".
    pickled = plain[:-1] + encode("model") + encode(STATE) + b"s."
    tensors = read(torch_zip(tmp_path / "x.pth", None, pickled=pickled)).tensors
    assert list(tensors) == ["a.weight", "a.bias"]
    refused(tmp_path / "x.pth", "'args' is a pickled object of <", "Namespace>", key="args")


def test_a_state_dict_with_metadata_is_an_ordinary_one(tmp_path):
    ordered = Raw(
        call("collections", "OrderedDict")
        + b"("
        + b"".join(encode(name) + value for name, value in STATE.items())
        + b"u"
        + encode({"_metadata": {"": {"version": 1}}})
        + b"b"
    )
    assert list(read(torch_zip(tmp_path / "x.pth", ordered)).tensors) == ["a.weight", "a.bias"]


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none.pth", "no such file")
    refused(tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a file")


# ----------------------------------------------------------------------------------------------- which state dict it is

OTHER = {"b": tensor("1", (6,))}
HEADS = {"0.clf.0.weight": tensor("1", (6,))}
# A pickled module: a tree of modules, each with few tensors.
PROGRAM = Raw(
    named("torch.nn", "Linear") + b")\x81" + encode({"_parameters": {"weight": tensor("0")}, "_modules": {}}) + b"b"
)
for _ in range(6):
    PROGRAM = Raw(
        named("torch.nn", "Sequential") + b")\x81" + encode({"_parameters": {}, "_modules": {"0": PROGRAM}}) + b"b"
    )
MORE = ("more than one network", "no upstream says which")
NAMESPACE = Raw(named("argparse", "Namespace") + b")\x81" + encode({"lr": 1.0}) + b"b")


@pytest.mark.parametrize(
    ("top", "key", "found", "names"),
    [
        (STATE, None, "", ["a.weight", "a.bias"]),
        ({"model": STATE}, None, "model", ["a.weight", "a.bias"]),
        ({"state_dict": STATE, "epoch": 3}, None, "state_dict", ["a.weight", "a.bias"]),
        ({"module": STATE}, None, "module", ["a.weight", "a.bias"]),
        ({"rng": tensor("0"), "model": STATE}, None, "model", ["a.weight", "a.bias"]),
        ({"model": STATE, "model_ema": OTHER, "args": NAMESPACE}, None, "model_ema", ["b"]),
        ({"model": STATE, "model_ema": OTHER, "args": NAMESPACE}, "model", "model", ["a.weight", "a.bias"]),
        ({"model": STATE, "model_ema": OTHER, "args": NAMESPACE}, "model_ema", "model_ema", ["b"]),
        ({"model": STATE, "state_dict": OTHER}, "state_dict", "state_dict", ["b"]),
        ({"model": {"net": OTHER}}, "model/net", "model/net", ["b"]),
        # timm's rule, for its own files and for those of DeiT, ConvNeXt and torchvision
        ({"state_dict": STATE, "state_dict_ema": OTHER}, None, "state_dict_ema", ["b"]),
        ({"state_dict_ema": OTHER}, None, "state_dict_ema", ["b"]),
        ({"state_dict": STATE, "state_dict_ema": None}, None, "state_dict", ["a.weight", "a.bias"]),
        ({"state_dict": STATE, "model_ema": OTHER}, None, "model_ema", ["b"]),
        ({"model": STATE, "model_ema": False, "ema_decay": 0.99}, None, "model", ["a.weight", "a.bias"]),
        ({"model": STATE, "model_ema": {"decay": 0.99}}, None, "model", ["a.weight", "a.bias"]),
        # Lightning's
        (
            {"state_dict": OTHER, "current_model_state": STATE, "averaging_state": {"n_averaged": tensor("0")}},
            *(None, "state_dict", ["b"]),
        ),
        # No networks, or other ones
        ({"model": STATE, "ema_loss": tensor("0"), "args": NAMESPACE}, None, "model", ["a.weight", "a.bias"]),
        ({"model": STATE, "discriminator": OTHER}, None, "model", ["a.weight", "a.bias"]),
        ({"model": STATE, "criterion": {"scale": tensor("0")}}, None, "model", ["a.weight", "a.bias"]),
        ({"model": STATE, "optimizer": {"exp_avg": STATE}}, None, "model", ["a.weight", "a.bias"]),
        ({"model": STATE, "optimizer_states": [{"ema": STATE}]}, None, "model", ["a.weight", "a.bias"]),
        # The beginning of names, instead of an entry
        ({"net.a": tensor("0"), "ema.b": tensor("1", (6,))}, "ema", "ema", ["b"]),
        ({"state_dict": {"net.a": tensor("0"), "ema.x.b": tensor("0")}}, "state_dict/ema.x", "state_dict/ema.x", ["b"]),
        ({"model": {"depth": 3}, "state_dict": OTHER}, None, "state_dict", ["b"]),
        ({"model_state": STATE, "epoch": 1}, None, "model_state", ["a.weight", "a.bias"]),
        ({"model_state": STATE, "ema_state": OTHER, "test_err": 3.0, "ema_err": 2.5}, None, "ema_state", ["b"]),
        (
            {"model_state": STATE, "ema_state": OTHER, "test_err": 3.0, "ema_err": 3.0},
            *(None, "model_state", ["a.weight", "a.bias"]),
        ),
        ({"model_state": STATE, "ema_state": OTHER, "test_err": 3.0}, None, "model_state", ["a.weight", "a.bias"]),
        ({"model_state": STATE, "test_err": 3.0, "ema_err": 2.0}, None, "model_state", ["a.weight", "a.bias"]),
        ({"model_state": STATE, "ema_state": OTHER, "ema_err": 2.5}, None, "ema_state", ["b"]),
        ({"model_state": STATE, "ema_state": OTHER}, None, "model_state", ["a.weight", "a.bias"]),
        (
            {"classy_state_dict": {"base_model": {"model": {"trunk": OTHER, "heads": HEADS}}}},
            *(None, "classy_state_dict", ["b", "0.clf.0.weight"]),
        ),
        (
            {"classy_state_dict": {"base_model": {"model": {"trunk": OTHER, "heads": {}}}}},
            *(None, "classy_state_dict", ["b"]),
        ),
        ({"module.a": tensor("0"), "module.b": tensor("1", (6,))}, None, "", ["module.a", "module.b"]),
        ({"module.a": tensor("0"), "b": tensor("1", (6,))}, None, "", ["module.a", "b"]),
    ],
)
def test_state_dict(tmp_path, top, key, found, names):
    used = {"0": STORAGES["0"], "1": STORAGES["1"]}
    checkpoint = read(torch_zip(tmp_path / "x.pth", top, used), key)
    assert checkpoint.key == found
    assert list(checkpoint.tensors) == names


@pytest.mark.parametrize(
    ("top", "key", "words"),
    [
        ({"model": STATE, "state_dict": OTHER}, None, ["more than one", "'model', 'state_dict'", "key="]),
        (STATE | {"x": {"y": tensor("0")}}, None, ["'x' is of type dict, not a tensor"]),
        ({"weights": STATE, "epoch": 1}, None, ["no network", "'weights', 'epoch'"]),
        ({}, None, ["no network"]),
        ({"model": STATE}, "model_ema", ["no entry 'model_ema'", "'model'"]),
        ({"model": STATE}, "model/a.weight/x", ["no entry"]),
        ({"model": STATE, "epoch": 3}, "epoch", ["'epoch' is a int"]),
        ({"model": NAMESPACE}, None, ["'model' is a pickled object of <argparse.Namespace>", "state_dict()"]),
        ({"model": STATE | {"step": 3}}, None, ["'step' is of type int, not a tensor"]),
        ({"model": STATE | {"extra": NAMESPACE}}, None, ["'extra' is <argparse.Namespace>, not a tensor"]),
        ({"model": STATE | {3: tensor("0")}}, None, ["type int among its names"]),
        (NAMESPACE, None, ["pickled object of <argparse.Namespace>"]),
        ([tensor("0")], None, ["one list instead of named tensors"]),
        (tensor("0"), None, ["one tensor instead of named tensors"]),
        (3, None, ["one int instead"]),
        (
            {"model_state": STATE, "ema_state": OTHER, "test_err": NAMESPACE, "ema_err": 1.0},
            *(None, ["no plain numbers", "key='model_state'"]),
        ),
        (
            {"classy_state_dict": {"base_model": {"model": {"trunk": OTHER, "heads": OTHER}}}},
            *(None, ["both have 'b'"]),
        ),
        ({"classy_state_dict": {"base_model": 3}}, None, ["no tensors"]),
        (
            {"model_state": STATE, "ema_state": OTHER, "test_err": float("nan"), "ema_err": 1.0},
            *(None, ["no plain numbers", "key='model_state'"]),
        ),
        ({"model": {"state_dict": STATE}}, None, ["no network", "key='model/state_dict'", "checkpoint_key"]),
        ({"net": STATE, "ema": {"module": OTHER}}, None, ["no network", "key='net' or key='ema/module'"]),
        ({"ema": STATE}, None, ["no network", "key='ema'"]),
        ({"model": STATE}, "a", ["no entry 'a'"]),
        ({"model": STATE}, "", ["no entry ''"]),
        (
            {"model": STATE, "model_ema": OTHER, "state_dict_ema": OTHER},
            None,
            ["key='state_dict_ema' or key='model_ema'"],
        ),
        ({"model": STATE, "state_dict": STATE, "model_ema": OTHER}, None, ["more than one possible network"]),
        (
            {"model": STATE, "model_ema": NAMESPACE},
            None,
            ["'model_ema' is a pickled object", "averaging", "key='model'"],
        ),
        (
            {"model": STATE, "model_ema": {"module": STATE, "decay": 0.9}},
            None,
            [*MORE, "key='model' or key='model_ema/module'"],
        ),
        ({"state_dict": STATE, "ema_state_dict": STATE}, None, [*MORE, "key='state_dict' or key='ema_state_dict'"]),
        ({"state_dict": STATE, "ema_state_dict": OTHER, "averaging_state": {}}, None, [*MORE, "key='ema_state_dict'"]),
        ({"state_dict": STATE, "EMACallback": {"weights": [OTHER]}}, None, [*MORE, "key='EMACallback/weights/0'"]),
        (
            {"state_dict": STATE, "callbacks": {"EMA": {"ema_weights": [tensor("0")]}}},
            None,
            [*MORE, "no names in 'callbacks/EMA'"],
        ),
        (
            {"model": STATE, "ema": {"shadow_params": [tensor("0"), tensor("1")]}},
            None,
            [*MORE, "no names in 'ema'", "key='model'"],
        ),
        (
            {"model": STATE, "ema": Raw(named("a", "Average") + b")\x81" + encode({"shadow": OTHER}) + b"b")},
            None,
            [*MORE, "ema"],
        ),
        ({"model": STATE, "ema": PROGRAM}, None, [*MORE, "no names in 'ema'", "key='model'"]),
        ({"model": STATE, "teacher": STATE}, None, [*MORE, "key='teacher'"]),
        (
            {"model": STATE, "best": {f"module.{name}": value for name, value in STATE.items()}},
            None,
            [*MORE, "key='best'"],
        ),
        (
            {"model": {f"module.{name}": value for name, value in STATE.items()}, "best": STATE},
            None,
            [*MORE, "key='best'"],
        ),
        ({"model_state": STATE, "swa": STATE, "test_err": 1.0, "ema_err": 2.0}, None, [*MORE, "key='swa'"]),
        (
            {
                "classy_state_dict": {
                    "base_model": {"model": {"trunk": OTHER}},
                    "hooks": {"ema": {"ema_model_state": OTHER}},
                }
            },
            *(None, [*MORE, "key='classy_state_dict/hooks/ema/ema_model_state'"]),
        ),
        ({"a": tensor("0"), "b": tensor("1", (6,), kind="QInt8Storage")}, None, ["'b'", "not a tensor"]),
    ],
)
def test_no_state_dict_or_two(tmp_path, top, key, words):
    refused(torch_zip(tmp_path / "x.pth", top), *words, key=key)


@pytest.mark.parametrize("case", ["vit_npz", "convnext_timm"])
def test_flat_containers_have_no_entries(case):
    refused(GOLDEN / case / GOLDEN_CASES[case][0], "flat", key="model_ema")
    refused(GOLDEN / case / GOLDEN_CASES[case][0], "flat", key="")


@pytest.mark.parametrize(
    ("case", "key", "name"),
    [("vit_npz", "Transformer", "encoder_norm/bias"), ("convnext_timm", "stages.2", "blocks.1.gamma")],
)
def test_the_beginning_of_names_is_a_key_of_a_flat_container(case, key, name):
    path = GOLDEN / case / GOLDEN_CASES[case][0]
    checkpoint, whole = read(path, key), read(path).tensors
    assert checkpoint.key == key and checkpoint.tensors.keys() < {each[len(key) + 1 :] for each in whole}
    np.testing.assert_array_equal(checkpoint.tensors[name], whole[f"{key}{'/' if '/' in name else '.'}{name}"])


def test_a_search_for_other_networks_ends(tmp_path):
    """Entries inside each other, one of itself, and each named like an average: nothing is looked into twice."""
    nested = raw_pickle(
        *(b"}", encode("model"), encode(STATE), b"s"),
        *(encode("ema"), (b"}" + encode("ema")) * 20_000, b"}", b"s" * 20_000, b"s"),
    )
    assert read(torch_zip(tmp_path / "nested.pth", None, pickled=nested)).key == "model"
    itself = raw_pickle(b"}q\x00", encode("model"), encode(STATE), b"s", encode("ema"), b"h\x00s")
    assert read(torch_zip(tmp_path / "itself.pth", None, pickled=itself)).key == "model"
    many = {"model": STATE, "ema": [{str(number): {}} for number in range(20_000)]}
    assert read(torch_zip(tmp_path / "many.pth", many)).key == "model"
    large = raw_pickle(
        encode([[]] * 20_000),
        b"q\x000}",
        encode("model"),
        encode(STATE),
        b"s",
        encode("hooks"),
        b"](",
        encode({"ema": [Raw(b"h\x00")]}) * 10_000,
        b"es",
    )
    refused(torch_zip(tmp_path / "large.pth", None, pickled=large), "more entries than any real one")


# --------------------------------------------------------------------------------------------- pickles that want to run


def bombs(canary: str) -> dict[str, Raw]:
    """Values whose unpickling makes the folder `canary` (or imports the module `canary_module`, which does it)."""
    expression = f"__import__('os').mkdir({canary!r})"
    text, module, name = encode(canary), encode("os"), encode("mkdir")
    return {
        "global reduce": call("os", "mkdir", canary),
        "global system": call("os", "system", f"mkdir {canary}"),
        "builtins eval": call("builtins", "eval", expression),
        "builtins exec": call("builtins", "exec", expression),
        "python 2 eval": call("__builtin__", "eval", expression),
        "stack global": Raw(module + name + b"\x93" + encode((canary,)) + b"R"),
        "dotted stack global": Raw(module + encode("path.os.mkdir") + b"\x93" + encode((canary,)) + b"R"),
        "memoised global": Raw(named("os", "mkdir") + b"q\x01" + b"0h\x01" + encode((canary,)) + b"R"),
        "getattr chain": Raw(
            call("builtins", "getattr", call("builtins", "__import__", "os"), "mkdir") + encode((canary,)) + b"R"
        ),
        "map": call("builtins", "list", call("builtins", "map", named("os", "mkdir"), [canary])),
        "inst": Raw(b"(" + text + b"ios\nmkdir\n"),
        "obj": Raw(b"(" + named("os", "mkdir") + text + b"o"),
        "newobj import": Raw(named("canary_module", "Thing") + b")\x81"),
        "newobj_ex import": Raw(named("canary_module", "Thing") + b")}\x92"),
        "global import": named("canary_module", "Thing"),
        "build": Raw(named("canary_module", "Thing") + encode((None, {"touched": True})) + b"b"),
        "persistent": Raw(encode(("module", call("os", "mkdir", canary), "a.py", "source")) + b"Q"),
    }


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A folder that must not appear, and a module whose import makes it."""
    folder = tmp_path / "canary"
    (tmp_path / "canary_module.py").write_text(f"import os\nos.mkdir({str(folder)!r})\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("canary_module", None)


@pytest.mark.parametrize("name", bombs(""))
def test_the_bombs_are_real(canary, name):
    """Python's own unpickler makes the folder: otherwise the next test would show nothing."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, identity):
            return identity

    # Some fail over what mkdir returned; by then it has run.
    with contextlib.suppress(TypeError, AttributeError, pickle.UnpicklingError):
        protocol = b"\x80\x04" if name.startswith("dotted") else b"\x80\x02"
        Unpickler(io.BytesIO(protocol + bombs(str(canary))[name] + b".")).load()
    assert canary.exists()


@TORCH_WRITERS
@pytest.mark.parametrize("place", ["top", "tensor", "beside", "key", "shape", "storage"])
@pytest.mark.parametrize("name", bombs(""))
def test_nothing_in_a_pickle_runs(canary, tmp_path, name, place, save):
    bomb = bombs(str(canary))[name]
    hooks = call("collections", "OrderedDict")
    top = {
        "top": bomb,
        "tensor": {"model": STATE | {"x": bomb}},
        "beside": {"model": STATE, "args": bomb},
        "key": {"model": STATE | {bomb: tensor("0")}},
        "shape": {"model": STATE | {"x": call("torch._utils", "_rebuild_tensor_v2", storage("0", 6), 0, bomb, bomb)}},
        "storage": {"model": STATE | {"x": call("torch._utils", "_rebuild_tensor", bomb, 0, (1,), (1,), 0, hooks)}},
    }[place]
    path = save(tmp_path / "x.pth", top, STORAGES if place != "top" or save is torch_zip else {})
    if place == "beside" and name not in ("inst", "obj"):
        assert list(read(path).tensors) == ["a.weight", "a.bias"]
    else:
        refused(path)
    assert not canary.exists()
    assert "canary_module" not in sys.modules


def raw_pickle(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


LYING_PICKLES = {
    "bytearray of 2**62 bytes": raw_pickle(b"\x96" + struct.pack("<Q", 1 << 62)),
    "bytes of 2**62 bytes": raw_pickle(b"\x8e" + struct.pack("<Q", 1 << 62)),
    "text of 4 GB": raw_pickle(b"X" + struct.pack("<I", 0xFFFFFFFF)),
    "text of 2**63 bytes": raw_pickle(b"\x8d" + struct.pack("<Q", 1 << 63)),
    "integer of 2 GB": raw_pickle(b"\x8b" + struct.pack("<i", 0x7FFFFFFF)),
    "integer of -1 bytes": raw_pickle(b"\x8b" + struct.pack("<i", -1)),
    "integer of 100,000 digits": raw_pickle(encode(1 << 400_000)),
    "frame of 2**60 bytes": raw_pickle(b"\x95" + struct.pack("<Q", 1 << 60)),
    "protocol 200": b"\x80\xc8N.",
    "unknown opcode": raw_pickle(b"\xff"),
    "get of nothing": raw_pickle(b"h\x07"),
    "long get of nothing": raw_pickle(b"j" + struct.pack("<I", 0xFFFFFFFF)),
    "put of nothing": raw_pickle(b"q\x00"),
    "memoize of nothing": raw_pickle(b"\x94"),
    "pop of nothing": raw_pickle(b"0"),
    "tuple without mark": raw_pickle(b"t"),
    "setitems without mark": raw_pickle(b"u"),
    "setitem on an integer": raw_pickle(encode(1), encode("a"), encode(2), b"s"),
    "odd setitems": raw_pickle(b"}(", encode("a"), b"u"),
    "append to a dict": raw_pickle(b"}", encode(1), b"a"),
    "append to a tuple": raw_pickle(b")", encode(1), b"a"),
    "append across a mark": raw_pickle(b"](a"),
    "reduce of an integer": raw_pickle(encode(1), b")R"),
    "reduce without a tuple": raw_pickle(named("os", "mkdir"), encode("a"), b"R"),
    "build on a list": raw_pickle(b"]}b"),
    "newobj of a text": raw_pickle(encode("a"), b")\x81"),
    "stack global of integers": raw_pickle(encode(1), encode(2), b"\x93"),
    "persistent integer": raw_pickle(encode(1), b"Q"),
    "persistent text": raw_pickle(b"Pstorage\n"),
    "storage with a list as class": raw_pickle(encode(("storage", [], "0", "cpu", 6)), b"Q"),
    "storage of -1 items": raw_pickle(encode(("storage", named("torch", "FloatStorage"), "0", "cpu", -1)), b"Q"),
    "extension": raw_pickle(b"\x82\x01"),
    "two values": raw_pickle(encode(1), encode(2)),
    "open group": raw_pickle(b"}("),
    "no value": raw_pickle(),
    "no stop": b"\x80\x02}",
    "list as key": raw_pickle(b"}]", encode(1), b"s"),
    "nested tuples as key": raw_pickle(b"}", encode(1), b"\x85\x85", encode(1), b"s"),
    "colliding integers as keys": raw_pickle(b"}", encode(((1 << 61) - 1) * 7), encode(1), b"s"),
    "dict of itself": raw_pickle(b"}q\x00", encode("model"), b"h\x00s"),
    "tensor without arguments": raw_pickle(encode({"model": {"a": call("torch._utils", "_rebuild_tensor_v2")}})),
    "python 1 text": raw_pickle(b"S'a'\n"),
    "decimal of 100,000 digits": raw_pickle(b"L" + b"9" * 100_000 + b"L\n"),
}


@TORCH_WRITERS
@pytest.mark.parametrize("name", LYING_PICKLES)
def test_lying_pickles(tmp_path, name, save):
    refused(save(tmp_path / "x.pth", None, {}, pickled=LYING_PICKLES[name]))


DEEP = 300_000


def doubled(number: int) -> bytes:
    """Value `number` + 1 of the memo: a list that has value `number` twice."""
    get = b"h" + bytes([number])
    return b"](" + get + get + b"eq" + bytes([number + 1])


EXPENSIVE_PICKLES = {
    "nested lists": raw_pickle(b"]" * DEEP, b"a" * (DEEP - 1)),
    "nested tuples": raw_pickle(b")", b"\x85" * DEEP),
    "nested tuples as key": raw_pickle(b"})", b"\x85" * DEEP, b"Ns"),
    "nested dicts": raw_pickle((b"}" + encode("model")) * DEEP, b"}", b"s" * DEEP),
    "nested calls": raw_pickle(named("a", "b"), b")R" * DEEP),
    "nested groups": raw_pickle(b"(" * DEEP),
    "a billion laughs": raw_pickle(b"]q\x00", *map(doubled, range(99))),
    "a large dict, many times": raw_pickle(
        *(b"](", encode((1, 2)) * 20_000, b"eq\x000"),
        *(named("collections", "OrderedDict"), b"q\x010", b"h\x01h\x00\x85R0" * 20_000, b"N"),
    ),
    "endless steps": raw_pickle(b"N0" * 2_500_000, b"N"),
}


@pytest.mark.parametrize("name", EXPENSIVE_PICKLES)
def test_expensive_pickles(tmp_path, name):
    """Each would recurse, or take hours or all memory, in a reader that carries out what it reads."""
    refused(torch_zip(tmp_path / "x.pth", None, {}, pickled=EXPENSIVE_PICKLES[name]))


# ----------------------------------------------------------------------------------------------- lies about the tensors


@TORCH_WRITERS
@pytest.mark.parametrize(
    ("described", "words"),
    [
        (tensor("0", (2, 4)), ["'x'", "reaches element 7 of a storage that has 6"]),
        (tensor("0", (2, 3), offset=1), ["reaches element 6"]),
        (tensor("0", (2, 3), stride=(4, 1)), ["reaches element 6"]),
        (tensor("0", (2, 3), stride=(-3, 1)), ["stride"]),
        (tensor("0", (-2, -3)), ["size"]),
        (tensor("0", (2, 3), offset=-1), ["offset"]),
        (tensor("0", (2, 3), stride=(1,)), ["differ in length"]),
        (tensor("0", (2,), stride=(1 << 62,)), ["reaches element"]),
        (tensor("0", (1 << 62, 1 << 62), stride=(0, 0)), ["repeats a storage of 6 elements"]),
        (tensor("0", (1 << 40,), stride=(0,)), ["repeats"]),
        (tensor("0", (1 << 70,), stride=(0,)), ["size"]),
        (tensor("0", (1,) * 40, stride=(1,) * 40), ["size"]),
        (tensor("0", (0,), stride=(1,), offset=7), ["reaches element 7"]),
        (tensor("0", (2, 3), count=7), ["storage '0' has"]),
        (tensor("0", (2, 3), count=5), ["storage '0' has"]),
        (tensor("0", (2, 3), count=1 << 62), ["storage '0' has"]),
        (tensor("0", (1.5, 3), stride=(3, 1)), ["size"]),
        (tensor("0", (True, 3), stride=(3, 1)), ["size"]),
        (tensor("../../etc/passwd", (2, 3)), ["storage '../../etc/passwd' is missing"]),
        (tensor("9", (2, 3)), ["storage '9' is missing"]),
    ],
)
def test_lies_about_a_tensor(tmp_path, described, words, save):
    path = save(tmp_path / "x.pth", {"y": tensor("0"), "x": described, "z": tensor("1")})
    refused(path, *words)


def test_a_lie_in_what_is_not_taken_does_no_harm(tmp_path):
    """The optimizer's state of a training checkpoint is never touched."""
    path = torch_zip(tmp_path / "x.pth", {"model": STATE, "optimizer": {"state": tensor("9", (1 << 60,))}})
    assert list(read(path).tensors) == ["a.weight", "a.bias"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"counts": {"0": 1 << 61}}, ["truncated", "storage '0'"]),
        ({"counts": {"0": (1 << 64) - 1}}, ["truncated", "storage '0'"]),
        ({"counts": {"0": 5}}, []),
        ({"little_endian": False}, ["little-endian"]),
        ({"storages": STORAGES | {"2": b"1234"}}, ["nothing uses storage '2'"]),
        ({"storages": {"0": STORAGES["0"]}}, ["storage '1' is missing"]),
    ],
)
def test_lies_of_a_legacy_stream(tmp_path, options, words):
    refused(torch_legacy(tmp_path / "x.pth", STATE, **options), *words)


def test_bytes_behind_a_legacy_stream(tmp_path):
    path = torch_legacy(tmp_path / "x.pth", STATE)
    path.write_bytes(path.read_bytes() + b"more")
    refused(path, "4 bytes follow")


def test_a_plain_pickle_is_no_checkpoint(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": [1, 2, 3]}))
    refused(path, "not one that torch.save wrote")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extra": [("byteorder2", b""), ("constants.pkl", b"")]}, ["TorchScript"]),
        ({"method": zipfile.ZIP_DEFLATED}, ["compressed"]),
        ({"method": zipfile.ZIP_LZMA}, ["compressed"]),
        ({"extra": [("../evil", b"x")]}, ["unsafe name"]),
        ({"extra": [("..\\evil", b"x")]}, ["unsafe name"]),
        ({"root": "/archive"}, ["unsafe name"]),
        ({"extra": [("nested/data.pkl", b"x")]}, ["zip of other things"]),
        ({"storages": {"0": STORAGES["0"]}}, ["storage '1' is missing"]),
        ({"storages": {"0": b"short", "1": STORAGES["1"]}}, ["storage '0' has 5 bytes instead of 24"]),
    ],
)
def test_strange_zips(tmp_path, options, words):
    refused(torch_zip(tmp_path / "x.pth", STATE, **options), *words)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_with_doubled_encrypted_or_overlapping_members(tmp_path):
    path = tmp_path / "big.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", raw_pickle(encode(STATE)))
        archive.writestr("archive/byteorder", b"big")
    refused(path, "little-endian")
    torch_zip(tmp_path / "twice.pth", STATE, extra=[("data/0", b"x" * 24)])
    refused(tmp_path / "twice.pth", "two members are called 'archive/data/0'")

    torch_zip(tmp_path / "encrypted.pth", STATE)
    data = bytearray((tmp_path / "encrypted.pth").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "encrypted.pth").write_bytes(data)
    refused(tmp_path / "encrypted.pth", "encrypted")

    # The directory's last entry is made to point to the first member.
    data = bytearray(torch_zip(tmp_path / "overlap.pth", STATE).read_bytes())
    last = data.rindex(b"PK\1\2")
    data[last + 42 : last + 46] = struct.pack("<I", 0)
    (tmp_path / "overlap.pth").write_bytes(data)
    refused(tmp_path / "overlap.pth", "another name in its own header")

    # Both of a member's sizes grow by 40 bytes, into the next member.
    data = bytearray(torch_zip(tmp_path / "grown.pth", STATE).read_bytes())
    entry = data.index(b"archive/data/0", data.index(b"PK\1\2")) - 46
    data[entry + 20 : entry + 28] = struct.pack("<II", 64, 64)
    (tmp_path / "grown.pth").write_bytes(data)
    refused(tmp_path / "grown.pth", "overlap")


# -------------------------------------------------------------------------------------------------------- safetensors


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "data", "length", "words"),
    [
        ({"a": entry()}, b"\0" * 8, 1 << 62, ["truncated", "header claims"]),
        ({"a": entry()}, b"\0" * 8, (1 << 64) - 1, ["truncated"]),
        ({"a": entry()}, b"\0" * 8, 3, []),
        ({"a": entry()}, b"\0" * 8, 0, []),
        ({"a": entry()}, b"\0" * 4, None, ["truncated", "'a'"]),
        ({"a": entry()}, b"\0" * 9, None, ["1 bytes at the end belong to no tensor"]),
        ({"a": entry(offsets=(0, 4))}, b"\0" * 8, None, ["'a'", "does not agree"]),
        ({"a": entry(offsets=(8, 0))}, b"\0" * 8, None, ["'a'"]),
        ({"a": entry(offsets=(-8, 0))}, b"\0" * 8, None, ["'a'", "data_offsets"]),
        ({"a": entry(offsets=(0, 8, 8))}, b"\0" * 8, None, ["'a'"]),
        ({"a": entry(offsets=(0.0, 8.0))}, b"\0" * 8, None, ["'a'"]),
        ({"a": entry(shape=(-2,))}, b"\0" * 8, None, ["'a'", "shape"]),
        ({"a": entry(shape=(True, 2))}, b"\0" * 8, None, ["'a'", "shape"]),
        ({"a": entry(shape=(1 << 62, 1 << 62))}, b"\0" * 8, None, ["'a'"]),
        ({"a": entry(shape=(1 << 80,))}, b"\0" * 8, None, ["'a'"]),
        ({"a": entry(shape=(1,) * 50)}, b"\0" * 8, None, ["'a'"]),
        ({"a": entry(shape="2")}, b"\0" * 8, None, ["'a'"]),
        ({"a": entry("F4")}, b"\0" * 8, None, ["'a'", "unknown dtype 'F4'"]),
        ({"a": entry(["F32"])}, b"\0" * 8, None, ["'a'", "unknown dtype"]),
        ({"a": {"dtype": "F32"}}, b"", None, ["'a'", "lacks"]),
        ({"a": 3}, b"", None, ["'a'", "lacks"]),
        ({"a": entry(), "b": entry()}, b"\0" * 8, None, ["'b'", "overlap"]),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12, None, ["'b'", "overlap"]),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20, None, ["'b'", "hole"]),
        ({}, b"", None, ["no tensors"]),
        ({"__metadata__": {"format": "pt"}}, b"", None, ["no tensors"]),
        (b'{"a":1,"a":2}', b"", None, ["duplicate", "'a'"]),
        (b'{"a":' + b"[" * 100_000, b"", None, []),
        (b'{"a":' + b"9" * 100_000 + b"}", b"", None, []),
        (b'{"a":NaN}', b"", None, ["'a'"]),
        (b'{"\xff":1}', b"", None, []),
    ],
)  # fmt: skip
def test_lying_safetensors(tmp_path, header, data, length, words):
    refused(safetensors_file(tmp_path / "x.safetensors", header, data, length=length), *words)


def test_a_header_whose_length_looks_like_another_format(tmp_path):
    """A header of 0x80 bytes starts like a pickle, one of 0x4b50 bytes like a zip."""
    for size in (0x80, 0x4B50):
        text = json.dumps({"a": entry()}).encode()
        path = safetensors_file(tmp_path / "x.safetensors", text + b" " * (size - len(text)), VALUES[:2].tobytes())
        assert read(path).tensors["a"].tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------------------------ npz


def npz_file(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def npy(header, data=b"", version=1):
    text = header.encode() if isinstance(header, str) else repr(header).encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def described(descr="<f4", order=False, shape=(2,)):
    return {"descr": descr, "fortran_order": order, "shape": shape}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_npz(tmp_path, version, method):
    members = {
        "a/b.npy": npy(described(shape=(2, 3)), VALUES.tobytes(), version),
        "f.npy": npy(described(order=True, shape=(2, 3)), VALUES.tobytes(), version),
        "bf.npy": npy(described("<V2", shape=(2,)), np.array([1, 2], ml_dtypes.bfloat16).tobytes(), version),
        "scalar.npy": npy(described("<i8", shape=()), np.int64(7).tobytes(), version),
        "empty.npy": npy(described(shape=(0, 3)), b"", version),
    }
    checkpoint = read(npz_file(tmp_path / "x.npz", members, method))
    checkpoint.check_finite()
    checkpoint.check_intact()
    tensors = checkpoint.tensors
    assert tensors["a/b"].tolist() == VALUES.reshape(2, 3).tolist()
    assert tensors["f"].tolist() == VALUES.reshape((2, 3), order="F").tolist()
    assert tensors["bf"].dtype == ml_dtypes.bfloat16 and tensors["bf"].astype(float).tolist() == [1, 2]
    assert tensors["scalar"] == 7
    assert tensors["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(described("|O"), pickle.dumps([1, 2])), ["'a' holds pickled objects"]),
        (npy(described([("x", "<f4"), ("y", "|O")]), b"\0" * 16), ["structured"]),
        (npy(described("f4,f4"), b"\0" * 16), ["no number"]),
        (npy(described("<U4"), b"\0" * 32), ["no number"]),
        (npy(described("<M8[s]"), b"\0" * 16), ["no number"]),
        (npy(described(">f4"), b"\0" * 8), ["big-endian"]),
        (npy(described("nonsense"), b"\0" * 8), []),
        (npy(described(shape=(3,)), b"\0" * 8), ["has 8 bytes of data", "needs 12"]),
        (npy(described(shape=(1,)), b"\0" * 8), ["has 8 bytes of data", "needs 4"]),
        (npy(described(shape=(-2,)), b"\0" * 8), ["shape"]),
        (npy(described(shape=(1 << 62, 8)), b"\0" * 8), []),
        (npy(described(shape=3), b"\0" * 8), ["shape"]),
        (npy("{'descr': '<f4'}", b"\0" * 8), ["header"]),
        (npy("__import__('os').mkdir('x')", b"\0" * 8), []),
        (npy("(" * 9000, b"\0" * 8), []),
        (npy(" " * 20_000, b"\0" * 8), ["absurd header"]),
        (b"\x93NUMPY\x01\x00\xff\xff", ["truncated"]),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", ["absurd"]),
        (b"\x93NUMPY\x09\x00", ["no .npy data"]),
        (b"\x93NU", ["no .npy data"]),
        (b"", ["no .npy data"]),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_lying_npz(tmp_path, monkeypatch, data, words, method):
    monkeypatch.chdir(tmp_path)
    refused(npz_file(tmp_path / "x.npz", {"a.npy": data}, method), *words)
    assert os.listdir(tmp_path) == ["x.npz"]


def test_zip_bombs(tmp_path):
    zeros = npy(described(shape=(8 << 20,)), bytes(32 << 20))
    refused(npz_file(tmp_path / "x.npz", {"a.npy": zeros}, zipfile.ZIP_DEFLATED), "zip bomb")
    # The directory claims less than the member expands to.
    data = bytearray((tmp_path / "x.npz").read_bytes())
    position = data.index(b"PK\1\2") + 24
    data[position : position + 4] = struct.pack("<I", 1000)
    (tmp_path / "x.npz").write_bytes(data)
    refused(tmp_path / "x.npz", "truncated or damaged")


def test_a_zip_of_other_things(tmp_path):
    refused(npz_file(tmp_path / "x.npz", {"a.txt": b"1", "b.npy": b"2"}), "zip of other things", "'a.txt'")
    refused(npz_file(tmp_path / "y.npz", {}), "the zip directory is missing or broken")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["is empty"]),
        (b"x", ["no safetensors, torch or npz file"]),
        (b"\0" * 100, ["no safetensors, torch or npz file"]),
        (b"\n <!DOCTYPE html><html>", ["web page"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", ["Git LFS"]),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 20, ["HDF5"]),
        (b"\x1f\x8b\x08" + b"\0" * 20, ["gzip"]),
        (b"\x93NUMPY\x01\0", ["single .npy"]),
        (b"PK\x03\x04" + b"\0" * 100, ["truncated or damaged"]),
    ],
)
def test_other_files(tmp_path, data, words):
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    refused(path, *words)


# --------------------------------------------------------------------------------- truncated, damaged, not finite files


def small_files(folder: pathlib.Path) -> dict[str, bytes]:
    arrays = {"a/weight": VALUES.reshape(2, 3), "b": VALUES.astype(np.float16), "c": np.arange(9)}
    for suffix in ("npz", "safetensors"):
        write(folder / f"x.{suffix}", arrays)
    np.savez_compressed(folder / "compressed.npz", **arrays)
    top = {"model": STATE, "args": NAMESPACE, "epoch": 3, "optimizer": {"state": {0: tensor("1")}}}
    torch_zip(folder / "x.pth", top)
    torch_legacy(folder / "legacy.pth", top)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


SMALL = ["compressed.npz", "legacy.pth", "x.npz", "x.pth", "x.safetensors"]


@pytest.mark.parametrize("name", SMALL)
def test_truncated_anywhere(tmp_path, name):
    data = small_files(tmp_path)[name]
    path = tmp_path / "cut"
    assert read(tmp_path / name).tensors
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path)


@pytest.mark.parametrize("case", ["convnext_fb", "regnety_pycls_legacy", "vit_npz", "convnext_timm"])
def test_truncated_golden(tmp_path, case):
    data = (GOLDEN / case / GOLDEN_CASES[case][0]).read_bytes()
    path = tmp_path / "cut"
    for length in random.Random(1).sample(range(len(data)), 12):
        path.write_bytes(data[:length])
        refused(path)


def use(path: pathlib.Path) -> None:
    """Read every value; CheckpointError is the only exception there may be."""
    with contextlib.suppress(CheckpointError):
        checkpoint = read(path)
        checkpoint.check_finite()
        checkpoint.check_intact()
        for tensor in checkpoint.tensors.values():
            assert tensor.size <= 1 << 20
            tensor.tobytes()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore")
def test_damaged_anywhere(tmp_path, name, seed):
    original = small_files(tmp_path)[name]
    path = tmp_path / "damaged"
    generator = random.Random(f"{name} {seed}")
    for _ in range(150):
        data = bytearray(original)
        for _ in range(generator.choice([1, 1, 1, 2, 5, 20])):
            position = generator.randrange(len(data))
            match generator.randrange(4):
                case 0:
                    data[position] = generator.randrange(256)
                case 1:
                    data[position] ^= 1 << generator.randrange(8)
                case 2:
                    del data[position : position + generator.randrange(1, 9)]
                case 3:
                    start = generator.randrange(len(data))
                    data[position:position] = data[start : start + generator.randrange(1, 40)]
            data = data or bytearray(b"x")
        path.write_bytes(data)
        use(path)


HYPOTHESIS = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
SINGLE_OPCODES = [bytes([code]) for code in b"}])(usetab0R1NQ\x81\x85\x86\x87\x8f\x90\x91\x92\x93\x94"]
FRAGMENTS = [b"h\x00", b"q\x00", tensor("0"), storage("0", 6), *map(encode, ["model", "0", (2, 3), 1, STATE])]
FRAGMENTS += [named("torch._utils", "_rebuild_tensor_v2"), named("torch._tensor", "_rebuild_from_type_v2")]
FRAGMENTS += [named("collections", "OrderedDict"), named("torch.nn.parameter", "Parameter"), named("torch", "Size")]


@settings(max_examples=300, **HYPOTHESIS)
@given(
    st.lists(st.one_of(st.sampled_from(SINGLE_OPCODES), st.sampled_from(FRAGMENTS), st.binary(max_size=6)), max_size=30)
)
def test_random_programs(tmp_path, parts):
    path = torch_zip(tmp_path / "x.pth", None, pickled=raw_pickle(*parts))
    use(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_not_finite(tmp_path, suffix, dtype, value):
    damaged = np.ones((3, 4)).astype(dtype)
    damaged[2, 3] = value
    path = tmp_path / f"x.{suffix}"
    write(path, {"good": np.ones(5, dtype), "bad": damaged, "count": np.arange(3), "worse": damaged})
    message = refused(path, "'bad', 'worse'", "2 tensors")
    assert "good" not in message


def test_not_finite_in_a_strided_tensor(tmp_path):
    values = VALUES.copy()
    values[5] = np.nan
    state = {"x": tensor("0", (3, 2), stride=(1, 3)), "y": tensor("0", (2,), stride=(2,))}
    path = torch_zip(tmp_path / "x.pth", state, {"0": values.tobytes()})
    message = refused(path, "'x'", "1 tensor with")
    assert "'y'" not in message


@pytest.mark.parametrize("case", ["convnext_fb", "vit_npz"])
def test_a_flipped_bit_in_the_weights(tmp_path, case):
    data = bytearray((GOLDEN / case / GOLDEN_CASES[case][0]).read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum differs: '"):
        read(path).check_intact()


# -------------------------------------------------------------------------------------------------------------- writing

ARRAYS = numpy_strategies.arrays(
    st.sampled_from([np.dtype(kind) for kind in "?bBhHiIqQefd"] + [np.dtype(ml_dtypes.bfloat16)]),
    numpy_strategies.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    elements=st.integers(0, 1),
)


NAMES = st.text("abc/._é", min_size=1, max_size=9).filter(lambda name: ".." not in name and name[0] != "/")


@settings(max_examples=60, **HYPOTHESIS)
@given(tensors=st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=5))
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_round_trip(tmp_path, suffix, tensors):
    path = tmp_path / f"x.{suffix}"
    write(path, tensors)
    first = path.read_bytes()
    write(path, dict(tensors))
    assert path.read_bytes() == first
    checkpoint = read(path)
    checkpoint.check_intact()
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        assert checkpoint.tensors[name].dtype == array.dtype
        assert checkpoint.tensors[name].shape == array.shape
        assert checkpoint.tensors[name].tobytes() == array.tobytes()
    assert os.listdir(tmp_path) == [path.name]


def test_written_safetensors_are_those_of_the_library(tmp_path):
    kinds = [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.float16, np.uint32, np.int32, np.float32]
    kinds += [np.uint64, np.int64, np.float64, ml_dtypes.bfloat16]
    tensors = {f"{name}{number}": np.ones((2, 3), kind) for number, kind in enumerate(kinds) for name in "ba"}
    write(tmp_path / "x.safetensors", tensors)
    assert (tmp_path / "x.safetensors").read_bytes() == safetensors.numpy.save(tensors)


def test_written_npz_are_read_by_numpy(tmp_path):
    tensors = {"b/kernel": np.asfortranarray(VALUES.reshape(2, 3)), "a": VALUES[::2], "n": np.int64(3)}
    write(tmp_path / "x.npz", tensors)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        assert archive.files == list(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(archive[name], tensor)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("x.pth", VALUES, "no writer for '.pth'"),
        ("x.safetensors", np.array(["a"]), "'t': safetensors have no dtype <U1"),
        ("x.safetensors", VALUES.astype(np.complex64), "no dtype complex64"),
        ("x.npz", np.array([None]), "'t': an npz has no dtype object"),
        ("x.npz", VALUES.astype(ml_dtypes.float8_e5m2), "no dtype float8_e5m2"),
        ("x.npz", VALUES.astype(">f4"), "no dtype >f4"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, tensor, words):
    with pytest.raises(CheckpointError, match=words):
        write(tmp_path / name, {"t": tensor})
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------- memory


def _resident(path):
    """Return how many bytes of a file this process has mapped into its memory at this moment."""
    bytes_, counts = 0, False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if not line.split(maxsplit=1)[0].endswith(":"):
            counts = line.endswith(f" {path}")
        elif counts and line.startswith("Rss:"):
            bytes_ += int(line.split()[1]) * 1024
    return bytes_


@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_checking_a_checkpoint_leaves_none_of_it_in_memory(tmp_path):
    path = tmp_path / "weights.npz"
    write(path, {f"layer{number}": np.ones((1024, 1024), np.float32) for number in range(4)})
    checkpoint = read(path)
    assert _resident(path) < 1 << 20  # read as far as its directory
    assert sum(float(tensor.sum()) for tensor in checkpoint.tensors.values()) == 4 << 20
    assert _resident(path) >= 16 << 20
    checkpoint.check_intact()
    assert _resident(path) < 1 << 20
    checkpoint.check_finite()
    assert _resident(path) < 1 << 20


@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_restoring_holds_the_file_one_tensor_at_a_time(tmp_path):
    # Sixteen layers of 1 MiB. What restore asks of a model: layers by name, whose variables have a shape and can be assigned.
    path, count, one = tmp_path / "weights.safetensors", 16, 1 << 20
    write(path, {f"layers.{number}.weight": np.full((512, 512), number, np.float32) for number in range(count)})
    family = types.SimpleNamespace(
        WEIGHTS=weights.table("ours kind timm\nlayer{s} linear layers.{s}"),
        FORMATS={"timm": weights.Format("timm")},
        TOP=(),
    )
    resident, assigned = [], []

    def assign(value):
        resident.append(_resident(path))
        assigned.append(float(value[0, 0]))

    def layer(number):
        variable = types.SimpleNamespace(name="kernel", shape=(512, 512), assign=assign)
        return types.SimpleNamespace(name=f"layer{number}", variables=[variable])

    model = types.SimpleNamespace(name="model", layers=[layer(number) for number in range(count)])
    assert weights.restore(model, family, path) == "timm"
    assert assigned == list(range(count))
    # The system maps some pages around those that are asked for.
    assert one <= max(resident) < 4 * one, resident
    assert _resident(path) < one


def test_sha256():
    path = GOLDEN / "convnext_fb" / "checkpoint.pth"
    expected = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]
    assert sha256(path) == expected


def test_neither_tensorflow_nor_torch_is_imported():
    program = "import sys, builders.checkpoints; assert not {'tensorflow', 'keras', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=GOLDEN.parent.parent)


# ------------------------------------------------------------------------------------------------ compared with PyTorch

TORCH_PROGRAM = """
import argparse, collections, io, json, pathlib, sys
import numpy as np, torch

folder = pathlib.Path(sys.argv[1])
torch.manual_seed(0)
base = torch.randn(6, 8)
state = collections.OrderedDict(
    float=base, transposed=base.t(), sliced=base[1:5:2, ::3], shared=base.view(-1)[5:20], half=base.half(),
    bfloat=base.bfloat16(), double=base.double(), long=(base * 9).long(), bool=base > 0, scalar=torch.tensor(3.5),
    empty=torch.zeros(0, 3), expanded=base[:1].expand(4, 8),
    channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    parameter=torch.nn.Parameter(base.clone()), byte=base.byte(), int8=base.char(), short=base.short(), int=base.int(),
    complex=torch.complex(base, base),
)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 2))
optimizer = torch.optim.AdamW(network.parameters())
network[1](network[0](torch.randn(2, 3, 9, 8))).sum().backward()
optimizer.step()
trained = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "epoch": 3}
saved = {"state": state, "network": network.state_dict(), "trained": trained}
modern = {"uint16": torch.arange(6).to(torch.uint16), "float8": base.to(torch.float8_e4m3fn)}
for name, value in saved.items():
    torch.save(value, folder / f"{name}.zip.pth")
    torch.save(value, folder / f"{name}.legacy.pth", _use_new_zipfile_serialization=False)
    for protocol in (3, 4, 5):
        torch.save(value, folder / f"{name}.protocol{protocol}.pth", pickle_protocol=protocol)
torch.save(modern, folder / "modern.zip.pth")
with_arguments = {"model": state, "args": argparse.Namespace(lr=1)}
torch.save(with_arguments, folder / "namespace.zip.pth")
torch.save(with_arguments, folder / "namespace.legacy.pth", _use_new_zipfile_serialization=False)

torch.serialization.add_safe_globals([argparse.Namespace])
for path in [*map(pathlib.Path, sys.argv[2:]), *sorted(folder.glob("*.pth"))]:
    # The restricted reader of torch knows protocol 2 only.
    loaded = torch.load(path, map_location="cpu", weights_only="protocol" not in path.name)
    for key in ("model", "model_state"):
        loaded = loaded.get(key, loaded)
    name = path.name if path.parent == folder else path.parent.name
    described = {key: [str(value.dtype).removeprefix("torch."), list(value.shape)] for key, value in loaded.items()}
    (folder / f"{name}.json").write_text(json.dumps(described))
    raw = [value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for value in loaded.values()]
    (folder / f"{name}.raw").write_bytes(b"".join(raw))
"""


def test_compared_with_torch(tmp_path):
    """Every tensor of the torch goldens and of what this torch saves, bit by bit, as torch itself loads it."""
    python = os.environ.get("TORCH_PYTHON") or (sys.executable if importlib.util.find_spec("torch") else None)
    if not python:
        pytest.skip("PyTorch is not installed, and TORCH_PYTHON names no Python that has it")
    goldens = [GOLDEN / case / row[0] for case, row in GOLDEN_CASES.items() if row[1].startswith("torch")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([python, "-c", TORCH_PROGRAM, tmp_path, *goldens], check=True, env=environment, timeout=300)
    paths = [*goldens, *sorted(tmp_path.glob("*.pth"))]
    assert len(paths) == 5 + 15 + 3
    for path in paths:
        name = path.name if path.parent == tmp_path else path.parent.name
        expected = json.loads((tmp_path / f"{name}.json").read_text())
        tensors = read(path).tensors
        assert {key: [str(value.dtype), list(value.shape)] for key, value in tensors.items()} == expected, name
        assert b"".join(value.tobytes() for value in tensors.values()) == (tmp_path / f"{name}.raw").read_bytes(), name
