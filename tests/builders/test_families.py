"""Rules for every family: it has a battery, its upstream listings are tested, and its quickstart checkpoint works."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import builders
from builders import export, layers
from tests.builders.battery import CATALOG, GOLDEN, described

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent
QUICKSTART = [row for row in CATALOG.variants if "quickstart/" in row.checkpoint and row.precision == "float32"]


@pytest.mark.parametrize("family", builders.families())
def test_every_family_has_a_battery(family):
    text = (FOLDER / f"test_{family}.py").read_text(encoding="utf-8")
    assert "(Battery)" in text and "(ReferenceBattery)" in text and f'"{family}"' in text


def test_every_listing_of_upstream_names_is_tested():
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.glob("test_*.py")]
    listings = [path.stem for path in (GOLDEN / "checkpoint-keys").glob("*.txt")]
    assert len(listings) == 17
    assert not [name for name in listings if not any(f'"{name}"' in text for text in texts)]


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match=r"there is no family 'convnxt'. Fix: use one of convnext, "):
        builders.create("convnxt")


def test_all_families_of_the_quickstart_are_tested():
    assert {row.family for row in QUICKSTART} == {"convnext", "regnety", "vit"}


@pytest.mark.parametrize("row", QUICKSTART, ids=lambda row: row.stem)
def test_a_quickstart_model_knows_the_digits(row):
    """The committed checkpoint is small, in the format that its row says, and right on at least 98 % of the images."""
    path = CATALOG.root / row.checkpoint
    assert path.stat().st_size < 1_000_000
    with layers.deferred_weights():
        model = builders.create(row.family, num_classes=row.classes, **builders.arguments(row.facts()))
    assert builders.restore(model, path) == row.format
    data = np.load(CATALOG.root / "modules" / row.evaluation)
    logits = model(export.normalised_images(tf.constant(data["images"]), described(row.stem)), training=False)
    assert np.mean(np.argmax(logits, -1) == data["labels"]) >= 0.98
