"""In which numbers a row's network computes, and how closely its answers repeat: "float32", or what its `precision` says.

    with precision.using("bfloat16"):
        model = builders.create("convnext", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))

Under "bfloat16" variables stay float32, as upstream has them; layers compute on what was rounded to bfloat16 and hand that on, but
for those that say `dtype="float32"` (the features and the head). Preprocessing, inputs and outputs are float32 in any case.
"""

import contextlib

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # Keras's names

# The largest difference of an answer from the golden one over max(1, largest magnitude) that another processor, or the fused
# kernels of a graph, may cause. bfloat16 has 8 significant bits: one rounding moves a number by up to 2^-9 of itself, and a kernel
# that does two operations rounds once where two kernels round twice. Measured over every family, from digits to full depth: up to
# 0.012 between operation by operation and a fused graph, 0.020 between oneDNN's kernels and Eigen's; three times that is allowed.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2**-4}

# The largest difference, by the same measure, of a network in bfloat16 from itself in float32 (measured: up to 0.027).
LARGEST_CHANGE = 2**-3


def tolerance(row):
    """The tolerance of a row (its facts, or what a module says of itself; those of old say nothing, and are float32)."""
    return TOLERANCES[row.get("precision", "float32")]


def difference(answer, expected):
    """How far `answer` is from `expected` (arrays of one shape) by the measure of the tolerances: a float."""
    import numpy as np

    return float(np.abs(np.asarray(answer) - expected).max() / max(1, np.abs(expected).max()))


@contextlib.contextmanager
def using(name):
    """Build layers inside that compute in the precision `name`; raises ValueError for an unknown one."""
    import keras

    if name not in POLICIES:
        raise ValueError(f"there is no precision {name!r}; use {' or '.join(POLICIES)}")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
