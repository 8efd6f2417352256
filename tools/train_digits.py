"""Train the quickstart models on the handwritten digits that scikit-learn bundles, and write them in their upstream format.

    python tools/train_digits.py convnext_digits            # modules/quickstart/convnext_digits.safetensors
    python tools/train_digits.py convnext_digits --out /tmp/again.safetensors

The data: 1,797 images of 8x8 pixels and 17 grey levels (Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits",
UCI Machine Learning Repository, CC BY 4.0), split once: 360 images, the same share of each digit, are for testing and never seen
in training. They are committed as `modules/quickstart/digits_test.npz`, on which publishing measures the accuracy.
"""

import argparse
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders import environment
from tools.common import scripts
from tools.common.files import ROOT
from tools.common.problems import with_fix

if TYPE_CHECKING:
    import numpy as np

    from tools.catalog.catalog import Module

QUICKSTART = ROOT / "modules/quickstart"
TEST_IMAGES = 360
EPOCHS = 90
BATCH = 64
PEAK_RATE = 2e-3
WEIGHT_DECAY = 0.05
AVERAGE_DECAY = 0.99  # of the moving average of the weights, which is what is written
# What only training needs: initial values and regularisation that suit such short networks.
TRAINING = {
    "convnext_digits": {"layer_scale": 0.1, "drop_path_rate": 0.1},
    "regnety_digits": {"drop_path_rate": 0.1},
    "vit_digits": {"drop_path_rate": 0.1},
}


def digits() -> "tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]":
    """Return (train images, train labels, test images, test labels): RGB `[n, 8, 8, 3]` uint8, and `[n]`."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.repeat(np.round(data.images * (255 / 16)).astype(np.uint8)[..., None], 3, axis=-1)
    train, test, train_labels, test_labels = train_test_split(
        images, data.target.astype(np.int64), test_size=TEST_IMAGES, random_state=0, stratify=data.target
    )
    return train, train_labels, test, test_labels


def write_test_images(images: "np.ndarray", labels: "np.ndarray", path: Path) -> None:
    """Write the labelled test images as a module's `evaluation` file; the bytes repeat."""
    import numpy as np

    stream = io.BytesIO()
    np.savez_compressed(stream, images=images, labels=labels)
    path.write_bytes(stream.getvalue())


def train(module: "Module", out: Path, seed: int = 0) -> float:
    """Train the variant of a catalogue module, write its checkpoint to `out`, and return the top-1 on the test images in per cent.

    The weights are the moving average at the end of the last epoch: no choice is made by looking at the test images.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import builders
    from builders import export
    from tools import catalog

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    row = module.variant.facts()
    shared = catalog.load_usable().preprocessing
    spec = {
        "row": row,
        "preprocessing": {
            "transform": shared["transforms"][row["transform"]],
            "normalization": shared["normalizations"][row["normalization"]],
        },
    }
    images, labels, test_images, test_labels = digits()
    images, test_images = (export.normalised_images(tf.constant(i), spec) for i in (images, test_images))
    size = row["resolution"]
    model = builders.create(
        row["family"],
        num_classes=row["classes"],
        **({"input_shape": (size, size, 3)} | builders.arguments(row) | TRAINING.get(row["stem"], {})),
    )
    steps = EPOCHS * (len(labels) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(1e-5, steps, warmup_target=PEAK_RATE, warmup_steps=steps // 10)
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=WEIGHT_DECAY, use_ema=True, ema_momentum=AVERAGE_DECAY, ema_overwrite_frequency=None
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)

    def step(batch: Any, target: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(tf.one_hot(target, row["classes"]), model(augment(batch), training=True))
        optimizer.apply(tape.gradient(value, model.trainable_weights), model.trainable_weights)
        return value

    compiled = tf.function(step)
    data = (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(labels), seed=seed)
        .batch(BATCH, drop_remainder=True)
    )
    for epoch in range(EPOCHS):
        values = [compiled(batch, target) for batch, target in data]
        if epoch % 10 == 9:
            print(f"{row['stem']}: epoch {epoch + 1} of {EPOCHS}, loss {float(np.mean(values)):.4f}")
    optimizer.finalize_variable_values(model.trainable_weights)
    builders.write(model, out, row["format"])
    hits = np.argmax(model.predict(test_images, verbose=0), -1) == test_labels
    share = f"{hits.sum()} of {len(hits)} test images right, {100 * hits.mean():.2f} %"
    print(f"{row['stem']}: {share}, {model.count_params():,} parameters")
    return float(100 * hits.mean())


def augment(images: Any) -> Any:
    """Move, turn, scale and shear each image a little: up to 12 % of its size, 12 degrees, 12 %, 0.12."""
    import tensorflow as tf

    count, size = tf.shape(images)[0], images.shape[1]

    def draw(limit: float) -> Any:
        return tf.random.uniform([count], -limit, limit)

    angle, scale, shear = draw(0.21), 1 + draw(0.12), draw(0.12)
    a, b = scale * tf.cos(angle), scale * (tf.sin(angle) + shear)
    c, d = -scale * tf.sin(angle), scale * tf.cos(angle)
    centre = (size - 1) / 2
    across, down = draw(0.12 * size), draw(0.12 * size)
    zero = tf.zeros([count])
    transforms = tf.stack(
        [a, b, centre - a * centre - b * centre + across, c, d, centre - c * centre - d * centre + down, zero, zero], -1
    )
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("train_digits", __doc__)
    arguments.add_argument("names", nargs="+", metavar="NAME", help="rows of the quickstart collection")
    arguments.add_argument("--out", type=Path, metavar="FILE", help="where to write the checkpoint instead (one name)")
    arguments.add_argument("--seed", type=int, default=0, help="of the initial values (default: %(default)s)")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.out and len(options.names) > 1:
        arguments.error(with_fix("--out takes one name", "train one module at a time, or leave out --out"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tools import catalog

    rows = catalog.load_usable()
    for name in options.names:
        module = rows.expand([name])[0]
        *_, test_images, test_labels = digits()
        write_test_images(test_images, test_labels, QUICKSTART / "digits_test.npz")
        train(module, options.out or ROOT / module.variant.checkpoint, options.seed)
    return 0


if __name__ == "__main__":
    environment.isolate()
    scripts.run(main, __file__)
