"""Battery of tests for model families: a family describes a small network of its own, and inherits the tests.

    class TestPlain(Battery):
        family = Family("vit", architecture={"patch": 8, ...}, formats={"augreg": {}}, ...)

    class TestReferences(ReferenceBattery):                 # once for a family
        references = References("vit", limits={"logits": 5e-6, ...}, listings={"S_16.npz": row_arguments("vit_s16")})

A test that only one family needs stands in the family's file, below its classes.
"""

import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import builders
from builders import build, checkpoints, layers, precision, weights
from tests.builders.torch_files import torch_file
from tests.support.commands import ROOT
from tools import catalog
from tools.verification import conformance

GOLDEN = ROOT / "tests" / "golden"
CATALOG = catalog.load()
CLASSES = 5
# Largest differences from float32, over max(1, largest magnitude); measured: up to 0.0009 and 0.0085.
HALF_TOLERANCES = {"mixed_float16": 0.003, "mixed_bfloat16": 0.02}
RATE = 0.4  # of stochastic depth
TENSOR = keras.Input((64, 64, 3))
# Arguments of `builders.create` that every family refuses, and the whole message.
CLASSES_FIX = "Fix: pass a whole number from 1, or None with include_top=False for a model without logits."
SHAPE_FIX = (
    "Fix: pass (height, width, 3), sizes as whole numbers from 1 or None for any; the batch is not part of it. "
    "For other channels than 3 use input_tensor."
)
CHANNELS_FIX = (
    "Fix: pass a tensor [batch, height, width, 3]; keras.layers.Conv2D(3, 1), for example, makes 3 channels of others."
)
TENSOR_FIX = "Fix: pass keras.Input(...) or what layers make of one; call the model on images."
REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"num_classes": n}, f"num_classes={n!r} is not a number of classes. {CLASSES_FIX}") for n in (0, -1, True, 10.0, "10", None)),
    ({"num_classes": 0, "include_top": False}, f"num_classes=0 is not a number of classes. {CLASSES_FIX}"),
    ({"include_top": "no"}, "include_top='no' is neither True nor False. Fix: pass one of them."),
    *(
        ({"include_top": False, "pooling": p}, f"pooling={p!r} is unknown. Fix: use 'avg' for the feature vector or None for the map.")
        for p in ("max", "", True)
    ),
    (
        {"pooling": "avg"},
        "pooling='avg' and include_top=True contradict each other: a classifier gives logits. "
        "Fix: add include_top=False for the feature vector, or leave pooling out.",
    ),
    *(
        ({"drop_path_rate": r}, f"drop_path_rate={r!r} is not a rate. Fix: pass a number from 0 to less than 1.")
        for r in (-0.1, 1, 1.5, math.nan, "0.1", None, True)
    ),
    *(
        ({"input_shape": s}, f"input_shape={s!r} is not a shape of images. {SHAPE_FIX}")
        for s in (
            (3, 64, 64), (None, 64, 64, 3), (64, 64), (64, 64, 1), (64, 64, 4), (64, 64, None), (-64, 64, 3), (0, 64, 3), (64.0, 64, 3),
            (True, 64, 3), ("64", 64, 3), (), 64, "64x64",
        )
    ),
    (
        {"input_shape": (64, 64, 3), "input_tensor": TENSOR},
        "input_shape and input_tensor contradict each other: a tensor has a shape. Fix: pass one of them.",
    ),
    *(
        ({"input_tensor": t}, f"input_tensor is not an output of a Keras layer, but of type {kind}. {TENSOR_FIX}")
        for t, kind in (
            (np.zeros((1, 64, 64, 3), np.float32), "ndarray"), (tf.zeros((1, 64, 64, 3)), "EagerTensor"), ([TENSOR], "list"),
            ("images", "str"), (keras.KerasTensor((None, 64, 64, 3)), "KerasTensor"),
        )
    ),
    *(
        ({"input_tensor": keras.Input(s)}, f"input_tensor has the shape {(None, *s)}. {CHANNELS_FIX}")
        for s in ((64, 64, 1), (3, 64, 64), (64, 64), (64, 64, None))
    ),
    (
        {"input_tensor": keras.Input((64, 64, 3), dtype="uint8")},
        "input_tensor has the type uint8. Fix: make it a floating-point one, for example with keras.layers.Rescaling(1 / 255).",
    ),
]  # fmt: skip
SURPLUS = "surplus.weight"
# What torch.compile, data parallelism, Lightning and wrappers put before all names; and what may be beside these.
PREFIXES = (
    "_orig_mod.",
    "module.",
    "module._orig_mod.",
    "model.",
    "backbone.",
    "encoder.",
    "net.",
    "lit.model._orig_mod.",
)
COUNTERS = {"n_averaged": np.array(3), "loss.weight": np.ones(2, np.float32)}
FORMAT_NAMES = {"fb": "facebook", "npz": "augreg"}  # as the listings of names call formats -> as we do


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normally distributed float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def row_arguments(stem: str) -> dict[str, Any]:
    """Return the arguments of `builders.create` for a row of the catalogue, apart from its classes."""
    return builders.arguments(described(stem)["row"])


def described(stem: str) -> dict[str, Any]:
    """Return what defines a row's module, as far as its network and its preprocessing go."""
    row, shared = next(row for row in CATALOG.variants if row.stem == stem), CATALOG.preprocessing
    chosen = {
        "transform": shared["transforms"][row.transform],
        "normalization": shared["normalizations"][row.normalization],
    }
    return {"row": row.facts(), "preprocessing": chosen}


def rewrite(path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the tensors of a checkpoint in place."""
    tensors = {key: np.array(value) for key, value in checkpoints.read(path).tensors.items()}
    change(tensors)
    checkpoints.write(path, tensors)


def written(model, path, format: str) -> tuple[dict[str, np.ndarray], Mapping[str, str]]:
    """Write a checkpoint; return its tensors, which do not change with the file, and its metadata."""
    builders.write(model, path, format)
    file = checkpoints.read(path)
    return {key: np.array(value) for key, value in file.tensors.items()}, file.metadata


def assert_same_weights(first, second) -> None:
    """Assert that two models, or lists of arrays, have the same values."""
    first, second = (each if isinstance(each, list) else each.get_weights() for each in (first, second))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_refused(model, path, message: str) -> pytest.ExceptionInfo:
    """Assert that restoring `path` is refused with `message` (a regular expression), and that nothing was assigned."""
    before = model.get_weights()
    with pytest.raises(weights.RestoreError, match=message) as refused:
        builders.restore(model, path)
    assert_same_weights(before, model)
    return refused


def copy_weights(source, target) -> None:
    """Give the layers of `target` the weights of the layers of the same name in `source`."""
    ours = {layer.name: layer for layer in source.layers}
    for layer in target.layers:
        layer.set_weights(ours[layer.name].get_weights() if layer.weights else [])


def features_of(model):
    """Return the part of `model` up to its feature vector."""
    return keras.Model(model.input, model.get_layer("features").output)


def shapes_in(model, name: str, format: str) -> dict[str, tuple[int, ...]]:
    """Return `{key: shape}` of the checkpoint of `model` in `format`."""
    plan = weights.weights(model, builders.family_module(name), format)
    return {key: shape for weight in plan for key, shape in weight.shapes().items()}


@dataclass(frozen=True, eq=False)
class Family:
    """A small network of a family, and what the battery has to know of it."""

    name: str
    architecture: Mapping[str, Any]
    """Arguments of `builders.create`: each feature of the architecture once, in a second's work."""
    formats: Mapping[str, Mapping[str, Any]]
    """Formats that can hold it, with further arguments of the networks that a format is for."""
    others: Mapping[str, tuple[Mapping[str, Any], str]]
    """Other variants, whose checkpoints do not fit: changes of `architecture`, and what the refusal says."""
    sizes: Mapping[tuple[int, int], tuple[int, int]]
    """Height and width of an image -> those of the last map, as upstream rounds them."""
    maps: Mapping[str, int]
    """`builders.maps` by name, with their height and width for images of 64 x 64."""
    blocks: int
    """Residual blocks, over which the drop path rate grows."""
    inner: str
    """A layer that computes in half precision under a mixed policy."""
    branches: int = 1
    """Residual branches in a block, each with its own drop path."""
    size: tuple[int, int, int] = (64, 64, 3)
    fixed_size: bool = False
    """Whether a model is made for one image size."""
    pooling: tuple[str, ...] = ("avg",)
    smallest: int = 1
    """Side of the smallest images that the network can take."""
    suffixes: Mapping[str, str] = field(default_factory=dict)
    """Files of the formats, where they are not `.safetensors`."""
    refused_arguments: Mapping[str, tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    """Arguments that make no network of the family, and what the error says."""
    shifts: Mapping[str, float] = field(default_factory=dict)
    """What to add to variables whose path has such an end, lest they make parts of the network dead."""

    def create(self, **arguments):
        """Return a new model; `arguments` go before the family's."""
        size = {"input_shape": self.size} if self.fixed_size and "input_tensor" not in arguments else {}
        return builders.create(self.name, **{"num_classes": CLASSES} | size | dict(self.architecture) | arguments)

    def random(self, **arguments):
        """Return a new model in which no weight is zero or one, so that no term of the network can go missing unseen."""
        keras.utils.set_random_seed(1)
        model = self.create(**arguments)
        for number, variable in enumerate(model.variables):
            shift = sum(value for end, value in self.shifts.items() if variable.path.endswith(end))
            variable.assign(variable + shift + 0.1 * images(*variable.shape, seed=number))
        return model

    @functools.cache  # noqa: B019  (a family lives as long as the tests)
    def _made(self, purpose: str, arguments: tuple[tuple[str, Any], ...]):
        model = self.random(name=purpose, **dict(arguments))
        return model, model.get_weights()

    def model(self, purpose: str = "model", **arguments):
        """Return `random(**arguments)`, as new, from those that were made before: making one takes a second.

        Models of different `purpose` can be used beside each other.
        """
        model, values = self._made(purpose, tuple(arguments.items()))
        model.set_weights(values)
        model.trainable = True
        return model

    @property
    def named_formats(self) -> list[str]:
        """The formats of torch's names, with dots between their parts; Flax has slashes and other roots."""
        return [format for format in self.formats if format not in self.suffixes]

    def path(self, folder, format: str):
        """Return where a checkpoint of `format` is written to in `folder`."""
        return folder / f"weights{self.suffixes.get(format, '.safetensors')}"


def _head_key(family: Family, model, format: str, name: str) -> str:
    plan = weights.weights(model, builders.family_module(family.name), format)
    return next(w.keys[0] for w in plan if w.layer.name == "head" and w.variable.name == name)


def _inner_key(family: Family, model, format: str, _name: str) -> str:
    keys = list(shapes_in(model, family.name, format))
    return keys[len(keys) // 2]


# Damage: (which key, name of the head's variable, what is done to the tensors, what the refusal says of the key).
DEFECTS: dict[str, tuple[Callable, str, Callable, str]] = {
    "missing": (_inner_key, "", lambda t, key: t.pop(key), r"missing \(1\): {key}\n"),
    "extra": (_inner_key, "", lambda t, key: t.update({f"{key}.extra": np.ones(1, np.float32)}), r"unused \(1\): {key}\.extra\n"),
    "renamed": (_inner_key, "", lambda t, key: t.update({f"{key}s": t.pop(key)}), r"missing \(1\): {key}\n(.|\n)*unused \(1\): {key}s\n"),
    "misshaped": (_head_key, "bias", lambda t, key: t.update({key: np.zeros(6, np.float32)}), r"misshaped \(1\): {key} is \[6\], the model needs \[5\]\n"),
    "transposed": (_head_key, "kernel", lambda t, key: t.update({key: np.ascontiguousarray(t[key].T)}), r"misshaped \(1\): {key} is \[\d+, \d+"),
    "NaN": (_head_key, "bias", lambda t, key: t[key].__setitem__(2, np.nan), r"not finite \(1\): {key}\n"),
    "infinite": (_head_key, "bias", lambda t, key: t[key].__setitem__(2, np.inf), r"not finite \(1\): {key}\n"),
}  # fmt: skip


class Battery:
    """Tests of one small network of a family."""

    family: ClassVar[Family]

    def pytest_generate_tests(self, metafunc) -> None:
        """Give each argument of a test its values: those of the family."""
        family = self.family
        values = {
            "size": family.sizes,
            "pooling": family.pooling,
            "policy": HALF_TOLERANCES,
            "format": family.formats,
            "named_format": family.named_formats,
            "defect": DEFECTS,
            "other": family.others,
            "refused": family.refused_arguments,
            "training": (True, False),
        }
        for name, given in values.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, list(given), ids=str)

    @pytest.fixture
    def model(self):
        """A model that is the same at the beginning of each test."""
        return self.family.model()

    # The network

    def test_logits_are_a_linear_map_of_the_features(self, model):
        x = images(2, *self.family.size)
        features, head = features_of(model)(x), model.get_layer("head")
        assert model(x).shape == (2, CLASSES) and features.shape == (2, head.kernel.shape[0])
        np.testing.assert_allclose(model(x), features @ head.kernel + head.bias, atol=1e-5)

    def test_image_sizes(self, size):
        """The map without the top has the size that upstream rounds to."""
        shape = {"input_shape": (*size, 3)} if self.family.fixed_size else {}
        backbone = self.family.model("backbone", include_top=False, **shape)
        x = images(1, *size, 3)
        output = backbone(x)
        assert output.shape[:3] == (1, *self.family.sizes[size]) and np.isfinite(output).all()
        assert backbone.compute_output_shape(x.shape) == output.shape
        assert self.family.model("classifier", **shape)(x).shape == (1, CLASSES)

    def test_input_shape(self):
        assert self.family.create(input_shape=(96, 64, 3)).input_shape == (None, 96, 64, 3)

    def test_layers_around_the_network_are_left_alone(self, tmp_path):
        """Restoring, writing and maps see the network alone: behind layers, before a head, and after Keras saved it."""
        format = next(iter(self.family.formats))
        arguments = self.family.formats[format]
        checkpoint = self.family.path(tmp_path, format)
        whole, plain = self.family.model(**arguments), self.family.model("plain", include_top=False, **arguments)
        builders.write(whole, checkpoint, format)
        copy_weights(whole, plain)
        builders.write(plain, tmp_path / "plain.safetensors", format)
        pixels = keras.Input((*self.family.size[:2], 1), name="pixels")
        front = keras.layers.RandomFlip("horizontal")(pixels)
        front = keras.layers.Normalization(mean=0.5, variance=4.0)(front)
        front = keras.layers.Conv2D(3, 1, bias_initializer="ones", name="colours", data_format="channels_last")(front)
        built = self.family.create(input_tensor=front, include_top=False, **arguments)
        assert built.input is pixels
        pooled = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pooled")(built.output)
        extended = keras.Model(built.input, keras.layers.Dense(3, name="head")(pooled))
        extended.save(tmp_path / "extended.keras")
        x = images(1, *self.family.size[:2], 1)
        for model in (built, extended, keras.models.load_model(tmp_path / "extended.keras")):
            around = [layer for layer in model.layers if layer.name in ("colours", "head")]
            before = [layer.get_weights() for layer in around]
            assert builders.restore(model, checkpoint) == format
            for layer, values in zip(around, before, strict=True):
                assert_same_weights(layer.get_weights(), values)
            builders.write(model, tmp_path / "written.safetensors", format)
            assert (tmp_path / "written.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
            output = built.output if model is built else model.get_layer("pooled").input
            found = keras.Model(model.input, builders.maps(model) | {"output": output})(x, training=False)
            front = keras.Model(model.input, model.get_layer("colours").output)(x, training=False)
            expected = keras.Model(plain.input, builders.maps(plain) | {"output": plain.output})(front)
            assert list(found) == list(expected)
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, atol=1e-5)

    def test_pooled_features_without_the_top(self, model, pooling):
        backbone = self.family.model("pooled", include_top=False, pooling=pooling)
        copy_weights(model, backbone)
        x = images(2, *self.family.size)
        np.testing.assert_allclose(backbone(x), features_of(model)(x), atol=1e-6)
        assert backbone.output is backbone.get_layer("features").output

    def test_maps_are_the_networks_own(self):
        arguments = {"input_shape": (64, 64, 3)}
        model, backbone = self.family.model(**arguments), self.family.model("b", include_top=False, **arguments)
        copy_weights(model, backbone)
        maps = builders.maps(model)
        assert {name: output.shape[1:3] for name, output in maps.items()} == {
            name: (side, side) for name, side in self.family.maps.items()
        }
        if not maps:
            return
        x = images(2, 64, 64, 3)
        found = keras.Model(model.input, maps)(x)
        assert all(np.isfinite(value).all() and np.std(value) > 0 for value in found.values())
        np.testing.assert_allclose(list(found.values())[-1], backbone(x), atol=1e-5)

    def test_arguments_are_refused_as_by_every_family(self):
        for arguments, message in REFUSED:
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                self.family.create(**arguments)

    def test_refused_arguments_of_its_own(self, refused):
        arguments, message = self.family.refused_arguments[refused]
        with pytest.raises(ValueError, match=rf"{message}.*"):
            self.family.create(**arguments)

    def test_unknown_and_missing_arguments(self):
        name, *others = self.family.architecture
        message = (
            f"^{self.family.name}: 'deep' is not an argument, '{name}' is missing. Fix: its own arguments are .*{name}"
        )
        with pytest.raises(TypeError, match=message):
            builders.create(self.family.name, deep=3, **{each: self.family.architecture[each] for each in others})

    def test_smallest_images(self):
        """Smaller images are refused: by `create` if it is told, or else by the model that is made for any size."""
        side = self.family.smallest
        assert np.isfinite(self.family.create(input_shape=(side, side, 3))(images(1, side, side, 3))).all()
        if side > 1:
            message = f"images of {side} x {side - 1} are too small for this network. Fix: pass images of at least {side} x {side}."
            for tensor in ({"input_shape": (side, side - 1, 3)}, {"input_tensor": keras.Input((side, side - 1, 3))}):
                with pytest.raises(ValueError, match=f"^{message}$"):
                    self.family.create(**tensor)
            if not self.family.fixed_size:
                with pytest.raises(ValueError, match=r"the images are too small\. Fix: pass larger images\."):
                    self.family.create()(images(1, side, side - 1, 3))

    def test_numbers_of_numpy_are_numbers(self):
        size = {"input_shape": [np.int64(n) for n in self.family.size]}
        model = self.family.create(num_classes=np.int64(4), drop_path_rate=np.float32(0.5), **size)
        assert model.output_shape == (None, 4) and ('"rate": 0.5' in model.to_json() or not self.family.blocks)

    def test_saves_and_loads_as_a_keras_model(self, model, tmp_path):
        model.save(tmp_path / "model.keras")
        x = images(1, *self.family.size)
        np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))

    def test_mixed_precision(self, policy):
        previous = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            half = self.family.random()
        finally:
            keras.config.set_dtype_policy(previous)
        assert {v.dtype for v in half.variables} == {"float32"}
        assert half.get_layer(self.family.inner).compute_dtype == policy.removeprefix("mixed_")
        assert half.get_layer("features").compute_dtype == half.get_layer("features").output.dtype == "float32"
        full = self.family.model()
        full.set_weights(half.get_weights())
        x = images(2, *self.family.size)
        assert half(x).dtype == "float32"
        assert precision.difference(half(x), full(x)) < HALF_TOLERANCES[policy]
        # The loss scale of float16 has to come down first; its six steps are not worth the tracing, the other policy is traced.
        steps, eager = (6, True) if policy == "mixed_float16" else (1, False)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        half.compile("sgd", loss, jit_compile=False, run_eagerly=eager)
        before = half.get_weights()
        half.fit(x, np.array([0, 1]), epochs=steps, verbose=0)
        assert all(np.isfinite(w).all() for w in half.get_weights())
        moved = sum(not np.array_equal(a, b) for a, b in zip(before, half.get_weights(), strict=True))
        assert moved > 0.64 * len(before)

    def test_every_layer_computes_in_float64(self, model):
        """Where a layer rounded to float32, a difference of the images by 1e-8 would vanish or be multiplied."""
        policies, variables = [layer.dtype_policy for layer in model.layers], model.get_weights()
        first, change = (images(1, *self.family.size, seed=seed).astype(np.float64) for seed in (0, 1))
        with precision.in_float64(model):
            x, near, far = (
                build.answer(model, {"classifier": model}, first + step * change)["logits"] for step in (0, 1e-8, 2e-8)
            )
            assert model(first).dtype == "float64"
        assert x.dtype == np.float64 and np.abs(near - x).max() > 0
        assert np.abs((far - x) - 2 * (near - x)).max() < 1e-4 * np.abs(far - x).max()
        assert [layer.dtype_policy for layer in model.layers] == policies and model(first).dtype == "float32"
        assert_same_weights(model, variables)
        for own in (build.answer(model, {"classifier": model}, first)["logits"], model(first)):
            assert precision.difference(own, x) < 1e-5

    # Training

    def test_every_trainable_variable_gets_a_gradient(self, model, training):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(images(4, *self.family.size), training=training) - 1))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        norms = {v.path: float(tf.norm(g)) for v, g in zip(model.trainable_variables, gradients, strict=True)}
        assert norms and all(0 < norm < math.inf for norm in norms.values()), norms

    def test_fits_and_summarises(self, model, capsys):
        model.summary(line_length=120)
        assert f"{model.count_params():,}" in capsys.readouterr().out
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        before = model.get_weights()
        model.fit(images(4, *self.family.size), np.arange(4), batch_size=2, epochs=1, verbose=0)
        assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))

    def test_drop_path_grows_linearly_to_the_last_block(self):
        model = self.family.model("dropped", drop_path_rate=RATE)
        rates = [layer.share * layer.rate for layer in model.layers if isinstance(layer, layers.DropPath)]
        np.testing.assert_allclose(rates, np.repeat(np.linspace(0, RATE, self.family.blocks), self.family.branches))

    def test_drop_path_is_active_in_training_only_and_costs_nothing_at_0(self, model):
        x = np.repeat(images(1, *self.family.size), 16, axis=0)
        dropped = self.family.model("dropped", drop_path_rate=RATE)
        assert np.ptp(np.asarray(dropped(x, training=False)), axis=0).max() < 1e-5
        spread = np.ptp(np.asarray(dropped(x, training=True)), axis=0).max()
        assert spread > 1e-3 if self.family.blocks > 1 else spread < 1e-5
        traced = tf.function(lambda x: model(x, training=True)).get_concrete_function(
            tf.TensorSpec([2, *self.family.size])
        )
        assert not [op for op in traced.graph.get_operations() if "Random" in op.type]

    # Weights

    def test_deferred_weights_show_when_nothing_sets_them(self):
        with layers.deferred_weights():
            model = self.family.create()
        moving = [v for v in model.variables if not np.isnan(v).all()]
        assert not moving and np.isnan(model(images(1, *self.family.size))).all()

    def test_round_trip(self, tmp_path, format):
        arguments = self.family.formats[format]
        model, path = self.family.model(**arguments), self.family.path(tmp_path, format)
        builders.write(model, path, format)
        with layers.deferred_weights():
            other = self.family.create(**arguments)
        assert builders.restore(other, path) == format
        assert_same_weights(model, other)

    def test_a_prefix_of_all_names_is_taken_off(self, tmp_path, named_format):
        """What training programs put before names, alone and beside a few tensors that are no weights."""
        arguments = self.family.formats[named_format]
        model, path = self.family.model(**arguments), tmp_path / "weights.safetensors"
        tensors, metadata = written(model, path, named_format)
        other = self.family.model("other", **arguments)
        for prefix, beside in zip(PREFIXES, itertools.cycle([{}, COUNTERS]), strict=False):
            other.set_weights([np.zeros_like(value) for value in other.get_weights()])
            renamed = {prefix + key: value for key, value in tensors.items()}
            checkpoints.write(path, renamed | beside, metadata)
            found = builders.restore(other, path)
            assert (found, found.prefix, sorted(found.left_aside)) == (named_format, prefix, sorted(beside))
            assert_same_weights(model, other)

    def test_what_has_no_single_prefix_is_refused(self, tmp_path):
        """The message shows the nearest fit, and how to take one of two networks."""
        format = self.family.named_formats[-1]
        arguments = self.family.formats[format]
        model, path = self.family.model(**arguments), tmp_path / "weights.safetensors"
        tensors, metadata = written(model, path, format)
        other = self.family.model("other", **arguments)
        key = _inner_key(self.family, model, format, "")
        mangled = {f"model_ema.{name.replace('.', '')}": value for name, value in tensors.items()}
        second = {f"model_ema.module.{name}": value for name, value in tensors.items()}
        flat = {"shadow": np.zeros(sum(value.size for value in tensors.values()), np.float32)}
        after = rf"\({format} format, after the prefix 'model.'\) does not fit the model(.|\n)*"
        average = "nor an average of them, say which with key='model'"
        for beside, without, message in (
            ({}, f"model.{key}", rf"{after}missing \(1\): {re.escape(key)}\n(.|\n)* of the model's \d+ variables fit"),
            ({"model.x": np.zeros(1)}, None, rf"{after}unused \(1\): model.x\n"),
            ({key: tensors[key]}, None, rf"{after}unused \(1\): {re.escape(key)}\n"),
            (mangled, None, rf"{after}unused \({len(mangled)}\): model_ema(.|\n)*{average}"),
            ({"fc.weight": np.ones((CLASSES, 2))}, None, rf"{after}unused \(1\): fc.weight\n(.|\n)*{average}"),
            (flat, None, rf"{after}unused \(1\): shadow\n(.|\n)*{average}"),
            (second, None, r"more than one network .* 'model\.' and 'model_ema\.module\.'\. Fix: say which with key='model' or key='model_ema.module'"),
        ):  # fmt: skip
            spoilt = {f"model.{name}": value for name, value in tensors.items()} | beside
            checkpoints.write(path, {k: v for k, v in spoilt.items() if k != without}, metadata)
            assert_refused(other, path, message)
        found = builders.restore(other, path, key="model_ema.module")
        assert (found, found.entry, found.prefix) == (format, "model_ema.module", "")
        assert_same_weights(model, other)
        # A wrapper whose classifier is its own, and its backbone.
        backbone = self.family.model("backbone", include_top=False, pooling=self.family.pooling[0], **arguments)
        tensors, metadata = written(backbone, path, format)
        top = {"fc.weight": np.ones((CLASSES, 2)), "fc.bias": np.ones(CLASSES)}
        checkpoints.write(path, {f"net.{name}": value for name, value in tensors.items()} | top, metadata)
        assert_refused(
            other,
            path,
            r"after the prefix 'net.'(.|\n)*missing \(2\)(.|\n)*Fix: create the model with include_top=False",
        )
        assert builders.restore(backbone, path).left_aside == ("fc.bias", "fc.weight")

    def test_training_files_give_the_average_that_upstream_takes(self, tmp_path):
        """Of weights and their moving average; where upstream has no rule, neither."""
        format = self.family.named_formats[0]
        arguments = self.family.formats[format]
        model, path = self.family.model(**arguments), tmp_path / "x.pth"
        average, _ = written(model, tmp_path / "weights.safetensors", format)
        raw = {key: value + 1 if value.dtype.kind == "f" else value for key, value in average.items()}
        wrapped = {f"module.{key}": value for key, value in average.items()} | COUNTERS
        other = self.family.model("other", **arguments)
        for entry, prefix, top in (
            ("state_dict_ema", "", {"state_dict": raw, "state_dict_ema": average, "epoch": 3}),
            ("state_dict_ema", "module.", {"state_dict": raw, "state_dict_ema": wrapped}),
            ("model_ema", "module.", {"model": raw, "model_ema": wrapped}),
            ("model_ema", "", {"state_dict": raw, "model_ema": average}),
            ("state_dict", "", {"state_dict": average, "current_model_state": raw, "averaging_state": COUNTERS}),
            ("ema_state", "", {"model_state": raw, "ema_state": average, "test_err": 3.0, "ema_err": 2.0}),
            ("model_state", "", {"model_state": average, "ema_state": raw, "test_err": 2.0, "ema_err": 3.0}),
        ):
            other.set_weights([np.zeros_like(value) for value in other.get_weights()])
            found = builders.restore(other, torch_file(path, top))
            assert (found, found.entry, found.prefix) == (format, entry, prefix)
            assert_same_weights(model, other)
        other.set_weights([np.zeros_like(value) for value in other.get_weights()])
        before = other.get_weights()
        for key, top in (
            ("ema_state_dict", {"state_dict": raw, "ema_state_dict": average}),
            ("ema/module", {"model": raw, "ema": {"module": average, "updates": 3}}),
            ("averaged_model", {"model": raw, "averaged_model": wrapped}),
            ("callbacks/EMA/ema_weights", {"state_dict": raw, "callbacks": {"EMA": {"ema_weights": average}}}),
            ("callbacks/EMA", {"state_dict": raw, "callbacks": {"EMA": {"ema_weights": list(average.values())}}}),
            ("state_dict_ema", {"model": raw, "model_ema": average, "state_dict_ema": average}),
            ("best", {"state_dict": raw, "best": average}),
        ):
            torch_file(path, top)
            with pytest.raises(
                checkpoints.CheckpointError, match=rf"'{key}'.*Fix: say which with key='.*checkpoint_key"
            ):
                builders.restore(other, path)
        assert_same_weights(before, other)
        assert builders.restore(other, path, key="best").entry == "best"
        assert_same_weights(model, other)

    def test_a_file_with_other_classes_names_the_way_out(self, model, tmp_path):
        format = next(iter(self.family.formats))
        model, path = self.family.model(**self.family.formats[format]), self.family.path(tmp_path, format)
        builders.write(model, path, format)
        wider = self.family.model("wider", num_classes=CLASSES + 2, **self.family.formats[format])
        assert_refused(wider, path, rf"Fix: create the model with num_classes={CLASSES}, .* or with include_top=False")
        pooling = {"include_top": False, "pooling": self.family.pooling[0]}
        backbone = self.family.model("other", **pooling, **self.family.formats[format])
        assert builders.restore(backbone, path) == format
        builders.write(backbone, path, format)
        assert_refused(model, path, r"missing \(2\)(.|\n)*Fix: create the model with include_top=False.*no classifier")

    def test_formats_that_cannot_hold_the_model_are_refused(self, model, tmp_path):
        path, formats = tmp_path / "weights.safetensors", builders.family_module(self.family.name).FORMATS
        assert set(self.family.formats) <= set(formats)
        for format in [*(name for name in formats if name not in self.family.formats), "unknown"]:
            message = f"'{format}' has nothing for .*Fix: choose another one of {', '.join(formats)}"
            with pytest.raises(weights.RestoreError, match=message):
                builders.write(model, path, format)
            assert not path.exists()

    def test_checkpoint_that_does_not_fit_is_refused_whole(self, tmp_path, defect):
        key_of, name, change, message = DEFECTS[defect]
        for format, arguments in self.family.formats.items():
            model, path = self.family.model(**arguments), self.family.path(tmp_path, format)
            builders.write(model, path, format)
            key = key_of(self.family, model, format, name)
            rewrite(path, lambda tensors, key=key: change(tensors, key))
            refused = assert_refused(self.family.model("other", **arguments), path, message.format(key=re.escape(key)))
            assert f"{path} ({format} format) does not fit the model" in str(refused.value)
            for list_name in ("missing", "unused", "misshaped", "not finite"):
                assert f"{list_name} (" in str(refused.value)
            assert "\n  Fix: " in str(refused.value)

    def test_checkpoint_of_another_variant_is_refused(self, model, tmp_path, other):
        change, message = self.family.others[other]
        format = next(iter(self.family.formats))
        builders.write(model, self.family.path(tmp_path, format), format)
        variant = self.family.create(**change)
        assert_refused(variant, self.family.path(tmp_path, format), rf"does not fit the model(.|\n)*{message}")

    def test_checkpoint_of_another_family_is_refused(self, model, tmp_path):
        checkpoints.write(tmp_path / "other.safetensors", {"layer1.conv.weight": np.zeros((1, 1, 1, 1), np.float32)})
        assert_refused(model, tmp_path / "other.safetensors", "no known format of this family")

    def test_backbone_takes_a_classifiers_checkpoint_and_leaves_only_the_head(self, model, tmp_path, format):
        arguments = self.family.formats[format]
        model, path = self.family.model(**arguments), self.family.path(tmp_path, format)
        builders.write(model, path, format)
        for head in ({}, {"pooling": self.family.pooling[0]}):
            backbone = self.family.model("other", include_top=False, **head, **arguments)
            backbone.set_weights([w + 1 for w in backbone.get_weights()])
            assert builders.restore(backbone, path) == format
            ours = {layer.name: layer for layer in model.layers}
            for layer in backbone.layers:
                assert_same_weights(layer.get_weights(), ours[layer.name].get_weights() if layer.weights else [])
        rewrite(path, lambda tensors: tensors.update({SURPLUS: np.zeros(1, np.float32)}))
        assert_refused(backbone, path, rf"unused \(1\): {re.escape(SURPLUS)}")


@dataclass(frozen=True, eq=False)
class References:
    """References of a family's upstream, below tests/golden."""

    name: str
    limits: Mapping[str, float]
    """Largest differences from the golden outputs, as tools/verification/conformance.py measures them."""
    listings: Mapping[str, Mapping[str, Any]]
    """Files of tests/golden/checkpoint-keys, `NAME.FORMAT`, with the arguments of `builders.create`."""


class ReferenceBattery:
    """Tests of a family against its upstream: golden answers, and the names and shapes of checkpoints."""

    references: ClassVar[References]

    def pytest_generate_tests(self, metafunc) -> None:
        """Give each argument of a test its values."""
        if "case" in metafunc.fixturenames:
            cases = [path.parent for path in sorted(GOLDEN.glob("*/case.json"))]
            ours = [c for c in cases if json.loads((c / "case.json").read_text())["family"] == self.references.name]
            metafunc.parametrize("case", ours or [None], ids=lambda case: case.name if case else "none")
        if "listing" in metafunc.fixturenames:
            metafunc.parametrize("listing", list(self.references.listings) or [None])

    def test_golden_answers_are_reproduced(self, case):
        """Logits, features and, with batch statistics, a training step are upstream's."""
        assert case, f"there is no golden case of {self.references.name}. Fix: add one as tests/golden/README.md says."
        result = conformance.replay_case(case)
        assert result.error is None and {"logits", "features"} <= set(result.values) <= set(self.references.limits)
        for name, value in result.values.items():
            assert value < self.references.limits[name], result

    def test_names_and_shapes_are_the_upstream_ones(self, listing):
        assert listing, (
            f"there are no names and shapes of {self.references.name}'s checkpoints. "
            "Fix: add a file to tests/golden/checkpoint-keys."
        )
        suffix = listing.rpartition(".")[2]
        format = FORMAT_NAMES.get(suffix, suffix)
        with layers.deferred_weights():
            model = builders.create(self.references.name, **self.references.listings[listing])
        lines = (GOLDEN / "checkpoint-keys" / f"{listing}.txt").read_text().splitlines()
        upstream = {
            key: tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
            for key, shape in (line.split(" ", 1) for line in lines)
        }
        ignored = builders.family_module(self.references.name).FORMATS[format].ignored
        kept = {key: s for key, s in upstream.items() if not any(re.fullmatch(p, key) for p in ignored)}
        assert shapes_in(model, self.references.name, format) == kept
