"""Pages kept from an earlier build: never stale, whatever changes, and nothing is made twice."""

import pytest
import synthetic
from conftest import build

from tools.catalog.catalog import Publisher
from tools.pages import kept, site

PUBLISHER = Publisher("hubpress", "A new title", "A new description.", "About.\n", synthetic.BASE_URL)


def data(pages):
    return {path: page.data for path, page in pages.items()}


def record(**changes):
    return [
        synthetic.change(each, **changes) if each["handle"] == "hubpress/convnext_digits/1" else each
        for each in synthetic.records()
    ]


# What may change between two builds: each must show on the same pages as without anything kept.
CHANGES = {
    "a fact": (lambda: record(row__top1=99.0), {}),
    "a measurement": (lambda: record(measured__gflops=0.5), {}),
    "a new version": (lambda: [*synthetic.records(), synthetic.record("convnext_digits", version=2)], {}),
    "a version that goes": (lambda: synthetic.records()[1:], {}),
    "a withdrawal": (synthetic.records, {"yanked": {"hubpress/convnext_digits/1": "wrong"}}),
    "another reason": (synthetic.records, {"yanked": {"hubpress/convnext_tiny_1k_224/2": "another reason"}}),
    "the publisher": (synthetic.records, {"publisher": PUBLISHER}),
    "the collections": (synthetic.records, {"collections": [synthetic.collection("new", "New", data=("digits",))]}),
    "the address": (synthetic.records, {"base_url": "https://elsewhere.example.org"}),
    "nothing": (synthetic.records, {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_kept_pages_are_those_that_would_be_made(tmp_path, change):
    with kept.Kept(tmp_path) as before:
        build(synthetic.records(), kept=before)
    make, arguments = CHANGES[change]
    for _ in range(2):
        with kept.Kept(tmp_path) as now:
            assert data(build(make(), kept=now, **arguments)) == data(build(make(), **arguments))


def made(monkeypatch, folder, records):
    """The handles of the modules whose pages were made."""
    found, make = [], site._module_texts
    monkeypatch.setattr(site, "_module_texts", lambda hub, module: (found.append(module.handle), make(hub, module))[1])
    with kept.Kept(folder) as pages:
        build(records, kept=pages)
    monkeypatch.undo()
    return found


def test_only_what_changed_is_made(monkeypatch, tmp_path):
    assert len(made(monkeypatch, tmp_path, synthetic.records())) == len(synthetic.records())
    assert made(monkeypatch, tmp_path, synthetic.records()) == []
    changed = made(monkeypatch, tmp_path, record(row__top1=99.0))
    assert changed == ["hubpress/convnext_digits/1", "hubpress/convnext_digits_fe/1"]  # and the sibling that names it
    assert made(monkeypatch, tmp_path, record(row__top1=99.0)) == []
    assert len(made(monkeypatch, tmp_path, synthetic.records())) == 2  # what nobody asked for was forgotten


def test_other_templates_make_everything_again(monkeypatch, tmp_path):
    made(monkeypatch, tmp_path, synthetic.records())
    monkeypatch.setattr(kept, "templates", lambda: "changed")
    with kept.Kept(tmp_path) as pages:
        assert pages.texts([1], lambda: ("new",)) == ("new",)
        assert not set(pages._entries) & pages._used


@pytest.mark.parametrize("damage", ["cut", "text", "folder"])
def test_a_damaged_file_is_as_good_as_none(tmp_path, damage):
    with kept.Kept(tmp_path) as before:
        build(synthetic.records(), kept=before)
    (file,) = tmp_path.iterdir()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(file.read_bytes()[:1000] if damage == "cut" else b"no database")
    with kept.Kept(tmp_path) as now:
        assert data(build(synthetic.records(), kept=now)) == data(build(synthetic.records()))
    if damage != "folder":
        with kept.Kept(tmp_path) as again:
            assert len(again._entries) == len(synthetic.records())
