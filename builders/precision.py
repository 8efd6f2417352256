"""Precision: the numbers in which a row's network computes ("float32" or "bfloat16"), and how closely its outputs repeat.

    with precision.using("bfloat16"):
        model = builders.create("convnext", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))

Under "bfloat16" variables stay float32, as upstream has them; layers round their inputs and variables to bfloat16 and compute in
it, except those that say `dtype="float32"` (the features and the head). Preprocessing, inputs and outputs are float32 in any case.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # Keras's names

DIGITS = 6  # significant ones of a golden output, which is what the network answers in float64 (see `rounded`)

# The largest difference of an output from the golden one, divided by max(1, largest magnitude), on any processor. bfloat16 has 8
# significant bits: one rounding moves a number by up to 2^-9 of itself, and a kernel that does two operations rounds once where
# two kernels round twice. Measured over every family, from digits to full depth, with oneDNN's kernels and Eigen's, operation by
# operation and as a graph: up to 0.024 for these golden images, up to 0.052 for eleven other draws of them.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2**-4}

# The largest difference, by the same measure, that a network in bfloat16 may have where it is built. The rest of the tolerance is for
# other processors: two differ by up to 0.020 (measured).
LARGEST_CHANGE = 0.042


def tolerance(row: Mapping[str, Any]) -> float:
    """Return the tolerance of a row: of its facts, or of a published module's own, which may be too old to say a precision."""
    precision: str = row.get("precision", "float32")
    return TOLERANCES[precision]


def difference(answer: Any, expected: Any) -> float:
    """Return how far `answer` is from `expected` (arrays of one shape) by the measure of the tolerances."""
    import numpy as np

    return float(np.abs(np.asarray(answer) - expected).max() / max(1, np.abs(expected).max()))


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Build layers inside that compute in the precision `name`, whatever Keras is set to. Raises ValueError for an unknown one."""
    import keras

    if name not in POLICIES:
        raise ValueError(f"there is no precision {name!r}. Fix: use {' or '.join(POLICIES)}.")
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_dtype_policy(POLICIES[name])
    keras.config.set_floatx("float32")  # the type of the model's input
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_floatx(floatx)


@contextlib.contextmanager
def in_float64(model: Any) -> Iterator[None]:
    """Let every layer of `model` compute in float64 inside. Its variables stay float32: a layer casts its own while it computes."""
    import keras

    class Float64(keras.DTypePolicy):  # type: ignore[misc]  # Keras is not typed
        variable_dtype = "float32"

    before = [(layer, layer.dtype_policy) for layer in model.layers]
    try:
        for layer, _ in before:
            layer.dtype_policy = Float64("float64")
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def rounded(answer: Any) -> Any:
    """Return `answer`, a float64 array, as float32, rounded to `DIGITS` significant digits of its largest magnitude.

    So the bytes do not depend on the processor, whose float64 answers differ from another's by less than 1e-14 of that magnitude,
    where the rounded ones lie 1e-6 to 1e-5 of it apart: the two round to different numbers with a probability below 1e-8 for each
    number, which is less than one module in 10,000 for a thousand classes and two images.
    """
    import numpy as np

    largest = float(np.abs(answer).max())
    exponent = math.floor(math.log10(largest)) if 0 < largest < math.inf else 0
    return np.round(answer, DIGITS - 1 - exponent).astype(np.float32)
