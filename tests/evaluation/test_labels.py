"""Labels, ranks and counts: which class is meant, which answer is right, and sums that do not depend on order."""

import json

import numpy as np
import pytest

from tools.evaluation import BadImagesError, EvaluationError, labels, worker
from tools.evaluation.counts import Totals, summary, table


def test_labels_are_matched_by_id_or_refused():
    one, many = labels.load("imagenet_1k"), labels.load("imagenet_21k")
    assert (len(one), len(many)) == (1000, 21841)
    assert labels.match(one, one) == labels.ClassMapping()
    with pytest.raises(
        EvaluationError, match=r"1 of the 1000 classes of imagenet_1k are none of imagenet_21k: n04399382\. Fix: "
    ):
        labels.match(one, many, outputs="data")
    mapping = labels.match(one, many, outputs="data", missing="wrong")
    assert len(mapping.allowed) == 999 and mapping.columns.count(-1) == 1
    for number in (0, 65, 999):
        assert many.ids[mapping.columns[number]] == one.ids[number]
    some = labels.unlisted("flowers", ["n11939491", "n12057211"])  # daisy, yellow lady's slipper
    with pytest.raises(EvaluationError, match=r"2 of the 1000 classes of imagenet_1k\. Fix: say which outputs compete"):
        labels.match(some, one)
    assert labels.match(some, one, outputs="all") == labels.ClassMapping((985, 986), None)
    assert labels.match(some, one, outputs="data") == labels.ClassMapping((985, 986), (985, 986))
    with pytest.raises(EvaluationError, match=r"1000 of the 1000 classes .* none of digits"):
        labels.match(one, labels.load("digits"), missing="wrong")
    assert one.number("Tiger_cat") == one.number("n02123159") == 282
    with pytest.raises(EvaluationError, match="'crane' is the name of n02012849 and n03126707"):
        one.number("crane")
    with pytest.raises(EvaluationError, match="two classes of x mean 'tench'"):
        labels.match(labels.unlisted("x", ["tench", "n01440764"]), one)
    with pytest.raises(EvaluationError, match=r"there are no labels 'x'\. Fix: give one of digits, imagenet_1k"):
        labels.load("x")


def test_ranks_are_exact():
    """Against sorting: the first of equal logits is the larger one; only allowed logits compete; a missing class is never right."""
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 6, (200, 12)).astype(np.float32)  # many are equal
    answers = rng.integers(0, 5, 200)
    cases = [
        (None, None),
        ([3, 11, 0, 7, 5], None),
        ([3, 11, 0, 7, 5], [0, 3, 5, 7, 11]),
        ([-1, 11, 0, -1, 5], [0, 5, 8, 9, 1, 11]),
    ]
    for columns, allowed in cases:
        made = worker.LoadedModule(None, directory="", outputs=12, columns=columns, allowed=allowed)
        predicted, near = made.judge(logits, answers)
        for row, label, one, five in zip(logits, answers, predicted, near, strict=True):
            order = sorted(
                sorted(allowed) if allowed else range(12), key=lambda number, row=row: (-row[number], number)
            )
            target = label if columns is None else columns[label]
            assert (one, five) == (order[0], target in order[:5])


def test_counts_add_up_in_any_order():
    stated = [
        {
            **{"shards": 1, "images": 3, "broken": [[f"{i}", "is damaged"] for i in range(number)], "seconds": 1.0},
            "modules": [{"seconds": 0.5, "confusion": [[0, 0, 2], [1, number, 1]], "top5": [[0, 2], [1, number]]}],
            **{"versions": [{"numpy": "2"}], "devices": ["CPU"], "problems": []},
        }
        for number in (0, 1, 2)
    ]
    sums = []
    for order in ((0, 1, 2), (2, 0, 1)):
        totals = Totals()
        for number in order:
            totals.add(Totals.read(json.loads(json.dumps(stated[number]))))
        sums.append(totals.described())
    assert sums[0] == sums[1] and (sums[0]["shards"], sums[0]["images"], len(sums[0]["broken"])) == (3, 9, 3)
    names = labels.unlisted("x", ["a", "b", "c"])
    found = summary(Totals.read(sums[0]).modules[0], 9, names, None, names)
    assert found["top1"] == {"value": 77.78, "correct": 7} and found["top5"] == {"value": 100.0, "correct": 9}
    assert table(found["confusion"]).decode().splitlines()[1:] == ["a,a,a,a,6", "b,b,a,a,1", "b,b,b,b,1", "b,b,c,c,1"]
    stated[0]["images"] = 4
    with pytest.raises(EvaluationError, match="contradict"):
        Totals.read(stated[0])
    for damaged in (
        {},
        {"modules": None},
        stated[1] | {"broken": 1},
        stated[1] | {"modules": [1]},
        stated[1] | {"x": 1},
        [],
        1,
    ):
        with pytest.raises(EvaluationError, match="another shape"):
            Totals.read(damaged)


def test_a_label_is_a_number_only_if_somebody_said_so():
    """One rule for every kind of images: an id, a name, or with --first-label a number."""
    classes = labels.load("digits")
    for label, first_label, number in [
        *[
            (3, 0, 3),
            (3, 1, 2),
            ("3", None, 3),
            ("three", None, 3),
            ("Three", 0, 3),
            ("003", 0, 3),
            ("3", 1, 2),
            (-1, 0, -1),
        ],
    ]:
        assert labels.class_number(label, classes, first_label, "x") == number
    for label, first_label, said in [
        (3, None, "labels are numbers. Fix: say which one the first class has: --first-label 0 or 1"),
        ("003", None, "'003' is no class of the data. Fix: .*--labels.*--first-label 0 or 1"),
        ("third", 0, "'third' is no class of the data. Fix: .*--labels"),
        ("9" * 5000, 0, "9' is no class"),
    ]:
        with pytest.raises(BadImagesError, match=f"^x: .*{said}"):
            labels.class_number(label, classes, first_label, "x")
    with pytest.raises(EvaluationError, match="Fix: if labels are numbers, say which the first class has"):
        labels.match(labels.unlisted("folder", [f"{number:03}" for number in range(10)]), classes)
