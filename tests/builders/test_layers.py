"""Layers that families share, each by itself."""

import numpy as np

from builders import layers


def test_drop_path_is_stochastic_in_training_only_and_unbiased():
    layer = layers.DropPath(0.5)
    x = np.ones((4000, 1, 1, 2), "float32")
    np.testing.assert_array_equal(layer(x, training=False), x)
    dropped = np.asarray(layer(x, training=True))
    assert set(np.unique(dropped)) == {0.0, 2.0}  # an image keeps its branch, doubled, or loses it whole
    assert (dropped[..., 0] == dropped[..., 1]).all() and abs(dropped.mean() - 1) < 0.1


def test_gelu_is_exact():
    layer = layers.Linear(1, activation="gelu")
    layer.build((None, 1))
    layer.kernel.assign([[1.0]])
    # x * Phi(x), from tables of the normal distribution; the tanh form gives 0.8411920 and -0.1588080 at 1.
    np.testing.assert_allclose(
        np.ravel(layer(np.array([[1.0], [-1.0], [2.0]]))), [0.8413447, -0.1586553, 1.9544997], atol=2e-7
    )
