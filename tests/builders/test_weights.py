"""What `builders.restore` makes of files that do not say everything: grids of positions, hidden layers of classifiers, shards."""

import json
import re

import numpy as np
import pytest
from scipy import ndimage

import builders
from builders import build, checkpoints, export, vit, weights
from tests.builders import test_convnext, test_convnextv2, test_vit
from tests.builders.battery import (
    CLASSES,
    assert_refused,
    assert_same_weights,
    described,
    features_of,
    images,
    written,
)
from tests.builders.torch_files import torch_file
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow

PLAIN = test_vit.FAMILIES["plain"]
DEFINITION = {"augreg": "jax", "augreg_linen": "jax", "timm": "timm", "transformers": "transformers"}
KEYS = {
    "augreg": test_vit.POSITIONS,
    "augreg_linen": test_vit.POSITIONS,
    "timm": "pos_embed",
    "transformers": "vit.embeddings.position_embeddings",
}
AXIS_WEIGHTS = {"timm": vit._bicubic, "transformers": vit._plain_bicubic}  # held against torch's in test_vit


def model_of(grid, format="augreg", purpose="model"):
    """Return a small ViT whose patches are a grid of rows and columns."""
    return PLAIN.model(purpose, input_shape=(8 * grid[0], 8 * grid[1], 3), definition=DEFINITION[format])


def positions_of(model):
    return np.asarray(model.get_layer("position").embedding)


def file_of(tmp_path, grid, format="augreg", *, says_grid=True, suffix=".safetensors"):
    """Write the small ViT of a grid, and return the path and the positions; other programs' files do not say the grid."""
    model, path = model_of(grid, format), tmp_path / f"weights{suffix}"
    tensors, metadata = written(model, path, format)
    assert metadata == {"grid": "{}x{}".format(*grid)}
    if not says_grid:
        checkpoints.write(path, tensors)
    return path, positions_of(model)


def resized(positions, old, new, format):
    """Resize positions as upstream does: scipy's zoom for vit_jax, torch's bicubic for timm (antialiased) and transformers."""
    grid = positions[0, 1:].reshape(*old, -1)
    if format in AXIS_WEIGHTS:
        rows, columns = (AXIS_WEIGHTS[format](*sides) for sides in zip(old, new, strict=True))
        grid = np.einsum("ik,jl,klc->ijc", rows, columns, grid)
    else:
        grid = ndimage.zoom(grid.astype(np.float64), (new[0] / old[0], new[1] / old[1], 1), order=1)
    return np.concatenate([positions[:, :1], grid.reshape(1, -1, positions.shape[2])], 1)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("format", DEFINITION)
@pytest.mark.parametrize("grid", [(2, 8), (8, 2), (4, 16), (4, 4), (2, 3), (1, 1)], ids=str)
def test_positions_come_back_as_they_were_written(tmp_path, grid, format, suffix):
    """Whatever the grid: a number of positions that is a square does not make it one."""
    path, positions = file_of(tmp_path, grid, format, suffix=suffix)
    other = model_of(grid, format, "other")
    other.set_weights([np.zeros_like(value) for value in other.get_weights()])
    for resize in (True, False):
        assert builders.restore(other, path, resize=resize) == format
        np.testing.assert_array_equal(positions_of(other), positions)
    assert_same_weights(model_of(grid, format), other)


@pytest.mark.parametrize("format", DEFINITION)
@pytest.mark.parametrize(
    ("old", "new"), [((2, 8), (4, 4)), ((4, 4), (2, 8)), ((2, 8), (4, 16)), ((2, 3), (4, 4))], ids=str
)
def test_a_grid_that_the_file_says_is_resized_from_that_grid(tmp_path, old, new, format):
    path, positions = file_of(tmp_path, old, format)
    other = model_of(new, format, "other")
    builders.restore(other, path)
    np.testing.assert_allclose(positions_of(other), resized(positions, old, new, format), atol=1e-6)
    with pytest.raises(weights.RestoreError, match=r"misshaped \(1\): "):
        builders.restore(other, path, resize=False)
    with pytest.raises(
        weights.RestoreError, match=rf"are a grid of {old[0]}x{old[1]}, not of 5x5\. Fix: leave grid out"
    ):
        builders.restore(other, path, grid=(5, 5))


EITHER = r"has 16 positions, which may be a grid of 4x4 or of 2x8 \(rows x columns\)(.|\n)*Fix: say which with grid=\(4, 4\) or grid=\(2, 8\)"
UNKNOWN = r"is \[1, 7, 24\], the model needs \[1, 17, 24\](.|\n)*Fix: say with grid=\(rows, columns\)"


@pytest.mark.parametrize("format", ["augreg", "timm"])
@pytest.mark.parametrize(
    ("old", "new", "said", "expected"),
    [
        # Upstream's files are squares.
        ((4, 4), (4, 4), None, (4, 4)),
        ((4, 4), (6, 6), None, (4, 4)),
        ((4, 4), (7, 3), None, (4, 4)),
        # As many positions as the model has are its own, where they are no square.
        ((2, 3), (2, 3), None, (2, 3)),
        # 16 positions are a square, or a grid like the model's.
        ((2, 8), (2, 8), None, EITHER),
        ((2, 8), (4, 16), None, EITHER),
        ((2, 8), (2, 8), (2, 8), (2, 8)),
        ((2, 8), (4, 16), (2, 8), (2, 8)),
        ((4, 4), (2, 8), (4, 4), (4, 4)),
        ((2, 8), (4, 4), (2, 8), (2, 8)),
        # 6 positions are no square, and the model has others.
        ((2, 3), (4, 4), None, UNKNOWN),
        ((2, 3), (4, 4), (2, 3), (2, 3)),
        ((2, 3), (4, 4), (3, 3), r"has 6 positions, not those of a grid of 3x3(.|\n)*Fix: correct grid"),
    ],
    ids=str,
)
def test_a_grid_that_the_file_does_not_say(tmp_path, old, new, said, expected, format):
    path, positions = file_of(tmp_path, old, format, says_grid=False)
    other = model_of(new, format, "other")
    if isinstance(expected, str):
        before = other.get_weights()
        with pytest.raises(weights.RestoreError, match=rf"misshaped \(1\): {KEYS[format]} {expected}"):
            builders.restore(other, path, grid=said)
        assert_same_weights(before, other)
    else:
        builders.restore(other, path, grid=said)
        now = positions if expected == new else resized(positions, expected, new, format)
        np.testing.assert_allclose(positions_of(other), now, atol=0 if expected == new else 1e-6)


@pytest.mark.parametrize("grid", [(0, 16), (-2, -8), (16,), (4, 4, 1), (4.0, 4.0), "44"])
def test_a_grid_that_is_none_is_refused(tmp_path, grid):
    path, _ = file_of(tmp_path, (4, 4), says_grid=False)
    with pytest.raises(ValueError, match=r"are no rows and columns\. Fix: pass two positive numbers"):
        builders.restore(model_of((4, 4), purpose="other"), path, grid=grid)


def test_a_grid_for_a_network_without_positions_is_refused(tmp_path):
    family = test_convnext.TestStaged.family
    model = family.model()
    builders.write(model, tmp_path / "weights.safetensors", "timm")
    assert checkpoints.read(tmp_path / "weights.safetensors").metadata == {}
    with pytest.raises(weights.RestoreError, match=r"has no position embedding\. Fix: leave grid out"):
        builders.restore(model, tmp_path / "weights.safetensors", grid=(2, 8))


# Classifiers with a hidden layer, which no model here has


@pytest.mark.parametrize(
    ("family", "format", "suffix", "name"),
    [
        (PLAIN, "augreg", ".npz", "pre_logits/{}"),
        (PLAIN, "augreg_linen", ".npz", "pre_logits/{}"),
        (PLAIN, "timm", ".safetensors", "pre_logits.fc.{}"),
        (test_convnext.TestStaged.family, "timm", ".safetensors", "head.pre_logits.fc.{}"),
        (test_convnextv2.TestSmall.family, "timm", ".safetensors", "head.pre_logits.fc.{}"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_hidden_layer_of_the_classifier_is_left_aside_with_it(tmp_path, family, format, suffix, name):
    arguments = family.formats[format]
    model, path = family.model(**arguments), tmp_path / f"weights{suffix}"
    tensors, metadata = written(model, path, format)
    width = features_of(model).output.shape[-1]
    hidden = (
        {"kernel": (width, width), "bias": (width,)} if "/" in name else {"weight": (width, width), "bias": (width,)}
    )
    tensors |= {name.format(part): np.ones(shape, np.float32) for part, shape in hidden.items()}
    checkpoints.write(path, tensors, metadata)
    fix = r"Fix: create the model with include_top=False.* has a hidden layer \(.*pre_logits"
    assert_refused(model, path, rf"unused \(2\): {re.escape(name.format('bias'))}(.|\n)*{fix}")
    x = images(1, *family.size)
    for pooling in (None, family.pooling[0]):
        backbone = family.model("other", include_top=False, pooling=pooling, **arguments)
        assert builders.restore(backbone, path) == format
        if pooling:
            np.testing.assert_allclose(backbone(x), features_of(model)(x), atol=1e-6)
    checkpoints.write(path, tensors | {"pre_logit.bias": np.ones(2, np.float32)}, metadata)
    assert_refused(backbone, path, r"unused \(1\): pre_logit.bias\n")


# Shards


def test_an_index_of_shards_is_restored_like_one_file(tmp_path):
    family = test_convnext.TestStaged.family
    model = family.model()
    tensors, _ = written(model, tmp_path / "whole.safetensors", "timm")
    names = list(tensors)
    places = {name: f"model-0000{1 + number % 3}-of-00003.safetensors" for number, name in enumerate(names)}
    for file in set(places.values()):
        checkpoints.write(tmp_path / file, {name: tensors[name] for name in names if places[name] == file})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}, indent=2))
    other = family.model("other")
    found = builders.restore(other, index)
    assert (found, found.shards, found.taken()) == ("timm", 3, {})
    assert_same_weights(model, other)
    one = tmp_path / "model-00002-of-00003.safetensors"
    assert_refused(other, one, r"missing(.|\n)*Fix: name the index of its shards \(.index.json\) and not one of them")
    # A digest of the index says nothing of the shards, so that nothing is published from it.
    row = described("convnext_digits")["row"] | {"architecture": dict(family.architecture), "classes": CLASSES}
    message = r"rows.toml: x: model.safetensors.index.json is an index, whose digest does not cover its 3 shards. Fix: write them"
    with pytest.raises(ValueError, match=message):
        build.restored(row, index, "rows.toml: x")


# Publishing


def test_a_build_takes_the_average_of_a_training_file_or_what_the_row_names(tmp_path):
    """Raw weights of 10 % beside an average of 99 %: what a build restores, and says that it did."""
    module, path = described("convnext_digits"), tmp_path / "checkpoint-best.pth"
    row = module["row"]
    good = {k: np.array(v) for k, v in checkpoints.read(ROOT / row["checkpoint"]).tensors.items()}
    random = np.random.default_rng(0)
    bad = {key: random.normal(size=value.shape).astype(np.float32) for key, value in good.items()}
    file = np.load(ROOT / "modules" / row["evaluation"])
    inputs = export.normalised_images(file["images"], module)

    def right(top, **said):
        model = build.restored(row | said, torch_file(path, top), "rows.toml: x")
        answers = model(inputs)
        return model.restored.taken(), float((np.argmax(answers, -1) == file["labels"]).mean())

    taken, share = right({"state_dict": bad, "state_dict_ema": good, "epoch": 7})
    assert taken == {"entry": "state_dict_ema"} and share > 0.98
    wrapped = {f"module.{key}": value for key, value in good.items()} | {"n_averaged": np.array(9)}
    taken, share = right({"model": bad, "model_ema": wrapped})
    assert taken == {"entry": "model_ema", "prefix": "module.", "left_aside": ["n_averaged"]} and share > 0.98
    with pytest.raises(
        checkpoints.CheckpointError, match=r"'state_dict', 'ema/module'.*Fix: say which with .*checkpoint_key"
    ):
        right({"state_dict": bad, "ema": {"module": good}})
    taken, share = right({"state_dict": bad, "ema": {"module": good}}, checkpoint_key="ema/module")
    assert taken == {"entry": "ema/module"} and share > 0.98
    taken, share = right({"state_dict": bad, "ema": {"module": good}}, checkpoint_key="state_dict")
    assert taken == {"entry": "state_dict"} and share < 0.3
