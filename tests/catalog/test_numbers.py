"""Every row's published parameters and multiply-adds, recounted on the model that the row describes.

No model here has weights: builders/counting.py says how.
"""

from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf

import builders
from builders import counting
from tools import catalog

pytestmark = pytest.mark.slow

ROWS = {variant.stem: variant for variant in catalog.load().variants}
TOLERANCE = 0.02  # of printed multiply-adds, which are rounded, and of which some count normalisations

# Printed figures that are wrong: what the source printed, what it should be (10^9 multiply-adds), and why we think so.
WRONG = {
    "convnext_base_21k_1k_384": (47.0, 45.1, "the same network as convnext_base_1k_384, printed there as 45.0"),
}


@pytest.fixture(scope="module")
def count():
    """The counts of a row; rows that describe the same network at the same size share one."""
    counted = {}

    def of(variant):
        row = variant.facts()
        key = (row["family"], repr(builders.arguments(row)), row["classes"], row["resolution"])
        if key not in counted:
            counted[key] = counting.count_row(row)
        return counted[key]

    return of


@pytest.mark.parametrize("stem", ROWS)
def test_published_numbers(stem, count):
    """Published parameters are those that training changes; running statistics of batch normalisation are not among them."""
    row = ROWS[stem]
    found = count(row)
    assert row.parameters in (None, found.trainable_parameters)
    giga = found.multiply_adds / 1e9
    printed, right, _ = WRONG.get(stem, (row.gflops, row.gflops, ""))
    assert printed == row.gflops
    if right is not None:
        assert right == pytest.approx(giga, rel=TOLERANCE)
    if stem in WRONG:
        assert printed != pytest.approx(giga, rel=TOLERANCE), f"{stem} is not wrong any more; take it out of WRONG"


def test_wrong_figures_are_of_rows():
    assert set(WRONG) <= set(ROWS)


# Rows without a printed figure, counted by hand: nothing else would notice a wrong architecture.
BY_HAND = {
    # Stem 16x16x3, 36 blocks (7x7 depthwise, two linear layers, a normalisation and a layer scale), normalisation, head; all biases.
    "convnext_iso_large_1k_224": (769 * 1024)
    + 36 * (50 * 1024 + 2 * 1024 + 1025 * 4096 + 4097 * 1024 + 1024)
    + 2 * 1024
    + 1025 * 1000,
    # The fine-tuned network less its last normalisation and its head.
    "convnextv2_tiny_fcmae_224": 28_635_496 - 2 * 768 - 769 * 1000,
    "convnextv2_huge_fcmae_224": 660_289_640 - 2 * 2816 - 2817 * 1000,
}


@pytest.mark.parametrize("stem", BY_HAND)
def test_unpublished_numbers(stem, count):
    assert ROWS[stem].parameters is None
    assert count(ROWS[stem]).trainable_parameters == BY_HAND[stem]


# The counting itself


@cache
def digits_model():
    row = ROWS["convnext_digits"].facts()
    return row, builders.create(row["family"], num_classes=row["classes"], **builders.arguments(row))


def test_counting_without_weights_is_counting_with_weights():
    row, model = digits_model()
    found = counting.count_row(row)
    assert found.parameters == found.trainable_parameters == model.count_params()
    assert found.multiply_adds == counting.multiply_adds(model, row["resolution"])
    assert np.isfinite(model(np.zeros((1, 32, 32, 3), np.float32))).all()  # and later models have their values


def test_weights_that_training_leaves_alone_are_told_apart(monkeypatch):
    """A batch normalisation: 4 weights a channel, 2 of which training changes."""

    def create(family, *, num_classes, input_shape):
        inputs = keras.Input(input_shape)
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, use_bias=False)(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.GlobalAveragePooling2D()(x)))

    monkeypatch.setattr(counting.builders, "create", create)
    found = counting.count("any", 8, num_classes=5)
    assert found.parameters == 108 + 16 + 25 and found.trainable_parameters == 108 + 8 + 25
    assert found.multiply_adds == 6 * 6 * 4 * 27 + 4 * 5


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: tf.nn.conv2d(x, tf.ones([3, 3, 8, 6]), 2, "SAME"), 4 * 4 * 6 * 9 * 8),
        (lambda x: tf.nn.conv2d(x, tf.ones([3, 3, 2, 12]), 1, "VALID"), 6 * 6 * 12 * 9 * 2),  # four groups
        (lambda x: tf.nn.depthwise_conv2d(x, tf.ones([7, 7, 8, 1]), [1, 1, 1, 1], "SAME"), 8 * 8 * 8 * 49),
        (lambda x: tf.matmul(tf.reshape(x, [64, 8]), tf.ones([8, 5])), 64 * 8 * 5),
        (lambda x: tf.matmul(tf.reshape(x, [64, 8]), tf.ones([64, 5]), transpose_a=True), 64 * 8 * 5),
        (lambda x: tf.matmul(tf.reshape(x, [2, 32, 8]), tf.ones([2, 7, 8]), transpose_b=True), 2 * 32 * 8 * 7),
        (lambda x: tf.einsum("bhwc,cnd->bhwnd", x, tf.ones([8, 2, 3])), 64 * 8 * 2 * 3),
        (lambda x: tf.einsum("bqc,bkc->bqk", tf.reshape(x, [2, 32, 8]), tf.ones([2, 9, 8])), 2 * 32 * 9 * 8),
    ],
    ids=["convolution", "grouped", "depthwise", "product", "transposed", "batches", "einsum", "attention"],
)
def test_each_operation_is_counted_exactly(function, expected):
    inputs = keras.Input((8, 8, 8))

    class Layer(keras.layers.Layer):
        def call(self, x):
            return function(x)

        def compute_output_shape(self, shape):
            return shape

    model = keras.Model(inputs, Layer()(inputs))
    traced = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec([1, 8, 8, 8], tf.float32))
    assert counting._graph_multiply_adds(traced.graph) == expected
