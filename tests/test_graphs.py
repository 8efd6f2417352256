"""What users do with the graphs of published modules: compile them, repeat what is random, take gradients between network and answer."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.support.commands import ROOT
from tools import catalog
from tools.archive import reading

pytestmark = pytest.mark.slow

MODULES = {module.name: module for module in catalog.load().expand(["quickstart"])}
CLASSIFIERS = [name for name, module in MODULES.items() if module.head == "classifier"]
EXTRACTOR = next(name for name in MODULES if name not in CLASSIFIERS)
OUTPUTS = {"classifier": "logits", "feature_extractor": "features"}
NETWORK = ("Conv2D", "DepthwiseConv2dNative", "MatMul")  # what answers, as opposed to what prepares images
# The map of the last block, behind which the class token alone is looked at.
WITHOUT_EFFECT = {"vit": f"block_{MODULES['vit_digits_classification'].variant.architecture['layers'] - 1}"}
SIZES = {"its own size": None, "another size": (20, 27)}
OTHER = SIZES["another size"]
# Sizes are the business of the preprocessing, which all share: one family in each, the others in that which takes more of it.
ONE_IN_EACH_SIZE = [(CLASSIFIERS[0], None), *((name, OTHER) for name in CLASSIFIERS)]


@pytest.fixture(scope="module")
def folders(hub, tmp_path_factory):
    """Return the unpacked archives of the quickstart's modules by name."""
    parent = tmp_path_factory.mktemp("modules")
    for name, module in MODULES.items():
        reading.unpack(hub / f"{module.handle}.tar.gz", parent / name)
    return {name: parent / name for name in MODULES}


@pytest.fixture(scope="module")
def load(folders):
    """`load(name)` gives a module of its own, whose weights a test may change."""
    return lambda name: tf.saved_model.load(str(folders[name]))


def pictures(name, size=None, count=2):
    """Return noise, uint8 `[count, height, width, 3]`; by default of the module's own size."""
    resolution = MODULES[name].variant.resolution
    return np.random.default_rng(0).integers(0, 256, (count, *(size or (resolution, resolution)), 3), dtype=np.uint8)


def output(name):
    return OUTPUTS[MODULES[name].head]


# Compilers


@pytest.mark.parametrize(("name", "size"), [*ONE_IN_EACH_SIZE, (EXTRACTOR, OTHER)])
def test_xla_compiles_the_answer(load, name, size):
    """Levels may be rounded to the one beside them, where XLA sums in another order."""
    module, images = load(name), pictures(name, size)
    compiled = tf.function(lambda images: module(images), jit_compile=True)(images).numpy()
    expected = module(images).numpy()
    assert np.abs(compiled - expected).max() < 5e-3 * np.abs(expected).max()


@pytest.mark.parametrize(("name", "size"), ONE_IN_EACH_SIZE)
def test_xla_compiles_a_training_step(load, name, size):
    """The gradients of all variables, and what batch normalisations learn."""
    labels = np.array([3, 7])

    def step(module, images):
        with tf.GradientTape() as tape:
            logits = module(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return loss, tape.gradient(loss, module.trainable_variables)

    found = []
    for compiled in (True, False):
        module, images = load(name), tf.constant(pictures(name, size))
        before = [variable.numpy() for variable in module.variables]
        loss, gradients = tf.function(step, jit_compile=compiled)(module, images)
        moved = [variable - old for variable, old in zip(module.variables, before, strict=True)]
        found.append((loss.numpy(), [g.numpy() for g in gradients], [m.numpy() for m in moved]))
    (loss, gradients, moved), (expected_loss, expected_gradients, expected_moved) = found
    assert loss == pytest.approx(expected_loss, rel=2e-2)
    for values, expected in ((gradients, expected_gradients), (moved, expected_moved)):
        scale = max(np.abs(each).max() for each in expected)
        assert max(np.abs(a - b).max() for a, b in zip(values, expected, strict=True)) <= 2e-2 * scale
    assert sum(np.abs(gradient).max() > 0 for gradient in gradients) >= 0.9 * len(gradients)


# What is random

FINE_TUNE = """
import json, sys
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

folder, deterministic, rate, seeds = json.loads(sys.argv[1])
if deterministic:
    tf.config.experimental.enable_op_determinism()
images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("float32") / 255
labels = np.arange(16) % 10
for seed in seeds:
    if seed is not None:
        tf_keras.utils.set_random_seed(7)
    arguments = {} if rate is None else {"drop_path_rate": rate} | ({} if seed is None else {"seed": seed})
    model = tf_keras.Sequential([hub.KerasLayer(folder, trainable=True, arguments=arguments)])
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    print(json.dumps(model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]))
"""


def fine_tuned(folder, deterministic, rate, seeds):
    """Return the losses of a fine-tuning in a new process, for each of the seeds."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FINE_TUNE, json.dumps([str(folder), deterministic, rate, seeds])],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_fine_tuning_repeats_under_op_determinism(folders, name):
    """With drop path: equal seeds give equal losses within a process and in the next one, another seed gives others."""
    first, again, *others = fine_tuned(folders[name], True, 0.2, [0, 0, 1] if name == CLASSIFIERS[0] else [0, 0])
    assert first == again and first not in others
    if others:
        assert fine_tuned(folders[name], True, 0.2, [0]) == [first]


def test_without_drop_path_nothing_is_random(folders):
    """`enable_op_determinism` refuses operations that are random and have no seed; here nobody has set one."""
    name = CLASSIFIERS[0]
    (plain,), (zero,) = (fine_tuned(folders[name], True, rate, [None]) for rate in (None, 0.0))
    assert np.isfinite(plain).all() and plain == zero


@pytest.mark.parametrize("name", MODULES)
def test_no_random_operation_where_no_rate_is_given(load, name):
    module = load(name)
    for training in (False, True):
        traced = tf.function(lambda images, training=training: module(images, training=training))
        definition = traced.get_concrete_function(tf.TensorSpec([None, None, None, 3], tf.uint8)).graph.as_graph_def()
        functions = {function.signature.name: function.node_def for function in definition.library.function}
        pending, seen, operations = [definition.node], set(), set()
        while pending:
            for node in pending.pop():
                operations.add(node.op)
                called = {each.func.name for each in node.attr.values() if each.HasField("func")} | {node.op}
                for each in called & functions.keys() - seen:
                    seen.add(each)
                    pending.append(functions[each])
        assert operations & set(NETWORK), "the test has looked into the network"
        assert not {operation for operation in operations if "Random" in operation}


# One pass: answer and maps


@pytest.mark.parametrize("name", MODULES)
def test_stages_give_answer_and_maps_of_one_pass(load, name):
    module, images = load(name), pictures(name)
    found = module.stages(images)
    assert len(found) >= 4
    np.testing.assert_allclose(found[output(name)], module(images), atol=1e-5)
    for training in (False, True):
        assert set(module.stages(images, training=training)) == set(found)


@pytest.mark.parametrize("name", [*CLASSIFIERS, EXTRACTOR])
def test_gradient_of_the_answer_by_a_map(load, name):
    """That of a shift of zeros, compared with the change of the answer by a small shift. Grad-CAM needs no more."""
    module, images = load(name), pictures(name)
    found = module.stages(images)
    maps = {key: values for key, values in found.items() if key != output(name)}
    shifts = {key: tf.zeros_like(values) for key, values in maps.items()}
    with tf.GradientTape() as tape:
        tape.watch(shifts)
        answer = module.stages(images, shifts=shifts)[output(name)]
        target = tf.reduce_sum(answer[:, 0] - answer[:, 1])
    np.testing.assert_allclose(answer, found[output(name)], atol=1e-5)
    gradients = tape.gradient(target, shifts)

    def shifted(key, direction, step):
        answer = module.stages(images, shifts=shifts | {key: step * direction})[output(name)].numpy().astype("float64")
        return (answer[:, 0] - answer[:, 1]).sum()

    for key, values in maps.items():
        gradient = gradients[key]
        size, step = tf.norm(gradient), 3e-4 * tf.norm(values)
        if key == WITHOUT_EFFECT.get(MODULES[name].variant.family):
            assert size == 0
            direction = values / tf.norm(values)
        else:
            assert size > 0, key
            direction = gradient / size
        change = (shifted(key, direction, step) - shifted(key, direction, -step)) / (2 * float(step))
        assert change == pytest.approx(float(size), rel=0.05, abs=1e-6), key


# Empty batches


@pytest.mark.parametrize(("name", "dtype"), zip(MODULES, itertools.cycle([np.uint8, np.float32])))
def test_an_empty_batch_gives_an_empty_answer(load, name, dtype):
    """In training it is refused: there is nothing to learn from it."""
    module = load(name)
    for size in SIZES.values():
        images, expected = pictures(name, size).astype(dtype), module.stages(pictures(name, size))
        width = expected[output(name)].shape[1]
        assert module(images[:0]).shape == (0, width)
        for function in (module, module.stages):
            with pytest.raises((ValueError, tf.errors.OpError), match="at_least_one_image_to_train_with"):
                function(images[:0], training=True)
        for key, values in module.stages(images[:0]).items():
            assert values.shape == (0, *expected[key].shape[1:])
    signature = {np.uint8: "serving_uint8", np.float32: "serving_default"}[dtype]
    assert module.signatures[signature](images=tf.constant(images[:0]))[output(name)].shape == (0, width)
