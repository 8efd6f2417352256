"""Copies for Hugging Face and Kaggle: ready to upload, and from the same records as the pages."""

import json

import pytest
import yaml

from tests.support import made, synthetic
from tools import catalog
from tools import mirror as script
from tools.hub.records import HubSnapshot, snapshot
from tools.hub.storage import Storage, StorageError
from tools.publishing import mirror
from tools.publishing.selection import SelectionError, select
from tools.site import pages

KAGGLE_MODEL = {
    "ownerSlug",
    "title",
    "slug",
    "subtitle",
    "isPrivate",
    "description",
    "publishTime",
    "provenanceSources",
}
KAGGLE_INSTANCE = {
    "ownerSlug",
    "modelSlug",
    "instanceSlug",
    "framework",
    "overview",
    "usage",
    "licenseName",
    "fineTunable",
    "trainingData",
    "modelInstanceType",
    "baseModelInstance",
    "externalBaseModelUrl",
}


@pytest.fixture(scope="module")
def hub():
    """All kinds of synthetic records."""
    return pages.gather(
        synthetic.records(),
        publisher=synthetic.PUBLISHER,
        collections=synthetic.COLLECTIONS,
        base_url=synthetic.BASE_URL,
        tags=synthetic.TAGS,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(storage, records) of a hub with the small ConvNeXt."""
    folder = tmp_path_factory.mktemp("mirrored") / "hub"
    return Storage(str(folder)), made.publish(folder, made.digits())


def write(small, directory):
    storage, records = small
    hub = mirror.gather(snapshot(storage), made.rows(), made.URL)
    return mirror.write(records, storage=storage, hub=hub, directory=directory)


def front_matter(text):
    assert text.startswith("---\n")
    front, body = text[4:].split("\n---\n", 1)
    return yaml.safe_load(front), body


def test_folders_are_ready_to_upload(small, tmp_path):
    folders = write(small, tmp_path / "mirror")
    assert [each.relative_to(tmp_path / "mirror").as_posix() for each in folders] == [
        "huggingface/convnext_digits",
        "kaggle/convnext/tensorFlow2/convnext-digits",
        "huggingface/convnext_digits_fe",
        "kaggle/convnext/tensorFlow2/convnext-digits-fe",
    ]
    model = {"saved_model.pb", "fingerprint.pb", "variables", "assets.extra"}
    assert {each.name for each in folders[0].iterdir()} == model | {"assets", "README.md"}
    assert {each.name for each in folders[3].iterdir()} == model | {"model-instance-metadata.json"}
    assert (folders[0] / "saved_model.pb").read_bytes() == (folders[1] / "saved_model.pb").read_bytes()
    assert sorted(each.name for each in (tmp_path / "mirror").iterdir()) == ["huggingface", "kaggle"]
    assert json.loads((tmp_path / "mirror/kaggle/convnext/model-metadata.json").read_text()).keys() == KAGGLE_MODEL


def test_a_second_run_replaces_the_first(small, tmp_path):
    first = write(small, tmp_path)
    (first[0] / "README.md").write_text("old")
    before = {
        each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file() and each != first[0] / "README.md"
    }
    assert write(small, tmp_path) == first
    assert (first[0] / "README.md").read_text() != "old"
    assert all(each.read_bytes() == data for each, data in before.items())


def test_folders_of_somebody_else_are_left_alone(small, tmp_path):
    mine = tmp_path / "huggingface/convnext_digits/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(mirror.MirrorError, match="something else"):
        write(small, tmp_path)
    assert mine.read_text() == "mine"


def test_other_bytes_than_the_recorded_are_not_mirrored(small, tmp_path):
    storage, records = small
    hub = mirror.gather(snapshot(storage), made.rows(), made.URL)
    module = hub.modules[records[0]["handle"]]
    module.record["archive"]["sha256"] = made.digest("other")
    with pytest.raises(StorageError, match="the record says"):
        mirror.write([module.record], storage=storage, hub=hub, directory=tmp_path)
    assert not (tmp_path / "huggingface").exists()


@pytest.mark.parametrize("record", synthetic.records(), ids=lambda record: record["handle"])
def test_model_card(record, hub):
    module = hub.modules[record["handle"]]
    front, body = front_matter(mirror.model_card(module, hub))
    assert front["license"] == record["row"]["licence"]
    assert front["library_name"] == "tf-keras"
    assert front["pipeline_tag"] == (
        "image-classification" if record["head"] == "classifier" else "image-feature-extraction"
    )
    assert front["tags"][-1] == record["row"]["network_architecture"]
    assert ("datasets" in front) == ("imagenet-ilsvrc-2012-cls" in record["row"]["datasets"])
    assert module.url in body and record["archive"]["sha256"] in body and "## Numbers" in body
    assert body.count("```") % 2 == 0
    results = front.get("model-index", [{}])[0].get("results", [])
    values = [metric["value"] for result in results for metric in result["metrics"]]
    classifier = record["head"] == "classifier"
    top1 = record["measured"]["top1"]
    assert values == [
        each
        for each in (
            record["row"]["top1"] if classifier else None,
            record["row"]["top5"] if classifier and record["row"]["top1"] else None,
            top1["value"] if top1 else None,
        )
        if each is not None
    ]
    for result in results:
        assert result.keys() == {"task", "dataset", "metrics", "source"}
        assert result["source"]["url"].startswith("https://") and result["dataset"].keys() == {"name", "type", "split"}
    if values:
        assert front["model-index"][0]["name"] == record["name"]


def test_unknown_licence_is_other_there(hub):
    record = synthetic.record("custom_licence", row__licence="custom")
    changed = pages.gather(
        [record],
        publisher=synthetic.PUBLISHER,
        collections=(),
        base_url=synthetic.BASE_URL,
        tags=synthetic.TAGS,
    )
    module = changed.modules[record["handle"]]
    front, _ = front_matter(mirror.model_card(module, changed))
    assert (front["license"], front["license_name"]) == ("other", "custom")
    with pytest.raises(mirror.MirrorError, match="Kaggle has no licence 'custom'"):
        mirror.kaggle_instance(module, changed)


@pytest.mark.parametrize("record", synthetic.records(), ids=lambda record: record["handle"])
def test_kaggle_metadata(record, hub):
    module = hub.modules[record["handle"]]
    model, instance = mirror.kaggle_model(module, hub), mirror.kaggle_instance(module, hub)
    assert model.keys() == KAGGLE_MODEL and instance.keys() == KAGGLE_INSTANCE
    assert (model["ownerSlug"], model["slug"]) == (instance["ownerSlug"], instance["modelSlug"])
    assert instance["framework"] == "tensorFlow2"
    for slug in (model["slug"], instance["instanceSlug"]):
        assert slug and set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert instance["fineTunable"] is record["row"]["fine_tunable"]
    names = {"apache-2.0": "Apache 2.0", "mit": "MIT"}
    assert instance["licenseName"] == names.get(
        record["row"]["licence"], "Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)"
    )
    assert instance["trainingData"] == [
        synthetic.TAGS["dataset"][each].display_name for each in record["row"]["datasets"]
    ]
    assert "${PATH}" in instance["usage"] and module.url in instance["usage"]
    assert module.newest.name in model["description"]
    assert json.loads(json.dumps(model)) == model


def test_command_mirrors_what_is_published(small, tmp_path, capsys):
    storage, _ = small
    names = ["hubpress/convnext_digits/1", "--hub", storage.url]
    assert script.main([*names, "--out", str(tmp_path / "mirror")]) == 0
    assert f"mirrored to {tmp_path}/mirror/huggingface/convnext_digits\n" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert script.main([*names, "--out", str(tmp_path / "file")]) == 1
    assert "error" in capsys.readouterr().err


def test_names_select_what_is_published():
    """A version by its handle, and by any other name the newest that is not withdrawn; what is not there is said."""

    def record(name, version):
        return {"handle": f"hubpress/{name}/{version}"}

    found = [record("convnext_digits", 1), record("convnext_digits", 2), record("convnext_digits", 3)]
    found += [record("convnext_digits_fe", 1), record("gone", 1)]
    hub = HubSnapshot(found, {"hubpress/convnext_digits/3": "wrong labels"})

    def handles(*names):
        return [each["handle"].removeprefix("hubpress/") for each in select(names, hub, catalog.load())]

    assert handles("hubpress/convnext_digits/1") == ["convnext_digits/1"]
    assert handles("convnext_digits") == ["convnext_digits/2", "convnext_digits_fe/1"]  # a row: both of its heads
    assert handles("convnext_digits_fe", "convnext_digits_fe") == ["convnext_digits_fe/1"]
    assert handles("quickstart") == ["convnext_digits/2", "convnext_digits_fe/1"]
    assert handles("gone") == handles("hubpress/gone") == ["gone/1"]  # the catalogue has it no longer
    assert handles("all") == ["convnext_digits/2", "convnext_digits_fe/1", "gone/1"]
    for name, said in [
        ("hubpress/convnext_digits/3", "it is withdrawn: wrong labels"),
        ("hubpress/convnext_digits/4", "nothing of that name is published"),
        ("vit", "nothing of that name is published"),
        ("no_such", "nothing of that name is published"),
    ]:
        with pytest.raises(SelectionError, match=f"{name}: {said}.*Fix: "):
            handles(name)
