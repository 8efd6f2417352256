"""`tools/new.py variant --from`: rows of models that transformers and timm saved, in a folder of one's own, and what is refused."""

import json
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builders import regnety
from tests.support.commands import ROOT, run_script
from tools import catalog, new
from tools.archive import reading
from tools.catalog import labels
from tools.server.server import serve

GOLDEN = ROOT / "tests/golden"
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "resample": 3, **IMAGENET}
VIT = {"image_processor_type": "ViTImageProcessor", "resample": 2, **HALF}
CARD = """---
license: apache-2.0
datasets:
- imagenet-21k
- user/flowers
base_model: facebook/convnext-tiny-224
---
# Flowers
"""


@pytest.fixture
def model(tmp_path):
    """`model("vit", {...})`: a folder as save_pretrained writes it, from the golden case of a family."""

    def make(family, processor, card=None, **changes):
        folder = tmp_path / "model"
        shutil.copytree(GOLDEN / f"{family}_transformers", folder)
        (folder / "checkpoint.safetensors").rename(folder / "model.safetensors")
        if processor is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        if card:
            (folder / "README.md").write_text(card)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return folder

    return make


def run(capsys, *words):
    code = new.main(["variant", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def answered(own, name="flowers"):
    """Write what the row file still asks for."""
    file = own / f"modules/{name}.toml"
    text = file.read_text()
    for line in [line for line in text.splitlines() if '"TODO' in line]:
        key, value = line.partition(" = ")[0], {"licence": "mit"}
        if key == "datasets":
            text = text.replace(line, 'datasets = ["optical-recognition-of-handwritten-digits"]')
            continue
        text = text.replace(line, f'{key} = "{value.get(key, "the botanists of our institute")}"')
    file.write_text(text)


NETWORKS = {
    "convnext": (CONVNEXT | {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, {"depths": [2, 1, 3, 1], "dims": [16, 32, 48, 64]}, "convnext_224", {}),
    "convnextv2": (CONVNEXT | {"size": {"shortest_edge": 384}}, {"depths": [2, 1, 3, 1], "dims": [16, 32, 48, 64]}, "convnext_384", {}),
    "regnety": (CONVNEXT | {"size": {"shortest_edge": 224}}, {"widths": [16, 40, 80, 160], "depths": [1, 2, 2, 1], "group_size": 8}, "convnext_224", {}),
    "vit": (VIT | {"size": {"height": 64, "width": 64}}, {"patch": 16, "hidden": 48, "mlp": 192, "heads": 3, "layers": 3}, "pil_bilinear_64", {}),
    "vit with timm's epsilon": (VIT | {"size": 64}, {"patch": 16, "hidden": 48, "mlp": 192, "heads": 3, "layers": 3, "definition": "timm"}, "pil_bilinear_64", {"layer_norm_eps": 1e-6}),
    "convnext with another epsilon": (CONVNEXT | {"size": {"shortest_edge": 236}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "image_mean": [0.1, 0.2, 0.3]}, {"depths": [2, 1, 3, 1], "dims": [16, 32, 48, 64], "final_epsilon": 1e-6}, "pil_bicubic_236_224", {"layer_norm_eps": 1e-6}),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_of_transformers(model, tmp_path, capsys, name):
    processor, architecture, transform, changes = NETWORKS[name]
    folder, own = model(name.partition(" ")[0], processor, **changes), tmp_path / "own"
    code, out, err = run(capsys, "flowers", "--from", folder, "--catalog", own, "--licence", "mit")
    assert (
        (code, err) == (0, "")
        and "`text` is still to be written" in out
        and "note: `id2label` has transformers' placeholders" in out
    )
    answered(own)
    rows = catalog.load(own=own)
    row = next(row for row in rows.variants if row.stem == "flowers")
    assert (row.architecture, row.transform, row.classes, row.format) == (architecture, transform, 10, "transformers")
    assert row.names == {"classifier": "flowers", "feature_extractor": "flowers_fe"} and row.licence == "mit"
    assert row.source_text == row.data_text == "the botanists of our institute"
    assert rows.preprocessing["normalizations"][row.normalization]["mean"] == processor["image_mean"]
    assert rows.path(row.checkpoint).read_bytes() == (folder / "model.safetensors").read_bytes()
    assert labels.load(rows.path(f"modules/labels/{row.labels}.tsv")) == [f"LABEL_{n}" for n in range(10)]
    assert row.stem not in [each.stem for each in catalog.load().variants]


def test_names_of_classes_and_a_card(model, tmp_path, capsys):
    names = ["rose", "tulip", "iris", *(f"flower {n}" for n in range(7))]
    folder, own = (
        model("vit", VIT | {"size": 64}, CARD, id2label={str(n): each for n, each in enumerate(names)}),
        tmp_path / "own",
    )
    code, out, _ = run(capsys, "flowers", "--from", folder, "--catalog", own)
    assert code == 0 and "placeholders" not in out and "user/flowers of the card have no tag" in out
    assert (
        "sources.flowers: `licence` is still to be written. Fix: write the licence of the weights, an id of modules/tags/license.yaml; the card says 'apache-2.0'"
        in out
    )
    answered(own)
    row = next(row for row in catalog.load(own=own).variants if row.stem == "flowers")
    assert (row.data_text, row.datasets) == ("trained on imagenet-21k, user/flowers", ("imagenet-21k",))
    assert labels.load(own / "modules/labels/flowers.tsv") == names


TIMM = {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
VIT_TIMM = {"patch": 16, "hidden": 128, "mlp": 256, "layers": 2, "heads": 2}
TIMM_MODELS = {
    "convnext_timm": ("convnext_atto", {"depths": [2, 1, 3, 1], "dims": [16, 32, 48, 64]}, TIMM, "timm_augreg_224"),
    "regnety_timm": (
        "regnety_004",
        None,
        TIMM | {"crop_mode": "squash", "interpolation": "bilinear"},
        "pil_bilinear_224",
    ),
    "vit_timm": ("vit_tiny_patch16_224", VIT_TIMM, TIMM | {"crop_pct": 1.0}, "pil_bicubic_224_224"),
}


@pytest.mark.parametrize("case", TIMM_MODELS)
def test_a_model_of_timm(tmp_path, capsys, case):
    name, architecture, settings, transform = TIMM_MODELS[case]
    folder, own = tmp_path / "model", tmp_path / "own"
    folder.mkdir()
    shutil.copyfile(GOLDEN / case / "checkpoint.safetensors", folder / "model.safetensors")
    described = json.loads((GOLDEN / case / "case.json").read_text())
    classes = described["num_classes"]
    if case == "vit_timm":  # whose golden case has smaller heads than timm's
        shapes = {"patch_embed.proj.weight": (128, 3, 16, 16), "head.bias": (classes,)}
        shapes |= {f"blocks.{n}.mlp.fc1.weight": (256, 128) for n in range(2)}
        save_file({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}, folder / "model.safetensors")
    config = {
        "architecture": name,
        "num_classes": classes,
        "pretrained_cfg": settings,
        "label_names": [f"n{n}" for n in range(classes)],
    }
    (folder / "config.json").write_text(json.dumps(config | {"label_descriptions": {"n0": "rose"}}))
    code, _, err = run(capsys, "flowers", "--from", folder, "--catalog", own, "--licence", "mit")
    assert (code, err) == (0, "")
    answered(own)
    rows = catalog.load(own=own)
    row = next(row for row in rows.variants if row.stem == "flowers")
    assert (row.transform, row.normalization, row.format) == (transform, "half", "timm")
    assert architecture is None or row.architecture == architecture
    if case == "regnety_timm":
        found = regnety.stages(**{key: described[key] for key in ("w0", "wa", "wm", "depth", "group_size")})
        widths, depths, groups = map(list, zip(*found, strict=True))
        assert row.architecture == {"widths": widths, "depths": depths, "group_size": max(groups)}
    assert labels.load(own / "modules/labels/flowers.tsv")[:2] == ["rose", "n1"]


def damaged(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def sharded(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


REFUSED = {
    "no configuration": (lambda f: (f / "config.json").unlink(), {}, "has no config.json. Fix: name a folder or hf://user/model"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), {}, "config.json is no JSON"),
    "another family": (None, {"model_type": "swin"}, "`model_type` is 'swin', which is no family here. Fix: use a model of convnext"),
    "no classifier": (None, {"architectures": ["ViTModel"]}, "names no ...ForImageClassification"),
    "another activation": (None, {"hidden_act": "relu"}, "`hidden_act` is 'relu', and the networks here have 'gelu'"),
    "another epsilon": (None, {"layer_norm_eps": 1e-5}, "`layer_norm_eps` is 1e-05, and the networks here have 1e-12"),
    "no biases": (None, {"qkv_bias": False}, "`qkv_bias` is False"),
    "grey images": (None, {"num_channels": 1}, "`num_channels` is 1"),
    "other depth": (None, {"num_hidden_layers": 4}, "config.json says layers = 4, and the weights have 3. Fix: take the configuration"),
    "other classes": (None, {"id2label": {"0": "a", "1": "b"}}, "config.json says 2 classes, and the weights have a classifier of 10 classes"),
    "a gap in the classes": (None, {"id2label": {str(n): "x" for n in range(1, 11)}}, "class 0 has no printable name"),
    "weights of another network": (lambda f: shutil.copyfile(GOLDEN / "convnext_timm/checkpoint.safetensors", f / "model.safetensors"), {}, "has no tensors called as transformers calls those of a vit"),
    "no head": (lambda f: damaged(f, lambda t: t.pop("classifier.bias")), {}, "and the weights have no classifier"),
    "shards": (sharded, {}, "has no model.safetensors. Fix: write it with save_pretrained"),
    "a damaged header": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40)), {}, "cannot be read (its header would have"),
    "no preprocessing": (lambda f: (f / "preprocessor_config.json").unlink(), {}, "has no preprocessor_config.json. Fix: save the processor"),
    "another interpolation": (None, {"@resample": 1}, "the interpolation 1 cannot be expressed. Fix: use bilinear (2) or bicubic (3)"),
    "no rescaling": (None, {"@do_rescale": False}, "`do_rescale` is False"),
    "another scale": (None, {"@rescale_factor": 1 / 127.5}, "`rescale_factor` is 0.00784"),
    "no square": (None, {"@size": {"height": 64, "width": 32}}, "not a square"),
    "another size": (None, {"@size": 96}, "makes images of 96, and the ViT was made for 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_expressed_is_refused_and_nothing_written(model, tmp_path, capsys, case):
    damage, changes, message = REFUSED[case]
    processor = VIT | {"size": 64} | {k[1:]: v for k, v in changes.items() if k[0] == "@"}
    folder, own = model("vit", processor, **{k: v for k, v in changes.items() if k[0] != "@"}), tmp_path / "own"
    if damage:
        damage(folder)
    code, out, err = run(capsys, "flowers", "--from", folder, "--catalog", own, "--licence", "mit")
    assert code == 2 and out == "" and message in err and "Fix: " in err
    assert not own.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Flowers Of Ours",), "is no module's name. Fix: use lower-case"),
        (("flowers", "--licence", "mine"), "there is no licence 'mine'. Fix: use an id"),
        (("flowers", "resolution=64"), "KEY=VALUE and --from contradict each other"),
    ],
)
def test_wrong_words(model, tmp_path, capsys, words, message):
    folder = model("vit", VIT | {"size": 64})
    code, _, err = run(capsys, *words, "--from", folder, "--catalog", tmp_path / "own")
    assert code == 2 and message in err and not (tmp_path / "own").exists()


def test_a_second_time_is_refused(model, tmp_path, capsys):
    folder, own = model("vit", VIT | {"size": 64}), tmp_path / "own"
    assert run(capsys, "flowers", "--from", folder, "--catalog", own)[0] == 0
    answered(own)
    code, _, err = run(capsys, "flowers", "--from", folder, "--catalog", own)
    assert code == 2 and "modules/flowers.toml exists already. Fix: choose another name" in err
    assert run(capsys, "tulips", "--from", folder, "--catalog", own)[0] == 0  # shares its preprocessing
    answered(own, "tulips")
    assert {"flowers", "tulips"} <= {row.stem for row in catalog.load(own=own).variants}


def test_a_folder_of_ones_own_may_not_take_names_of_the_repository(tmp_path):
    own = tmp_path / "own"
    (own / "modules").mkdir(parents=True)
    shutil.copyfile(ROOT / "modules/regnety.toml", own / "modules/ours.toml")
    text = (ROOT / "modules/preprocessing.toml").read_text()
    (own / "modules/preprocessing.toml").write_text(text)
    with pytest.raises(catalog.CatalogError) as caught:
        catalog.load(own=own)
    said = "\n".join(map(str, caught.value.problems))
    assert "regnety200mf_classification/1 is published by modules/regnety.toml" in said
    assert "modules/preprocessing.toml has a convnext_224, too. Fix: give this one another name" in said
    with pytest.raises(catalog.CatalogError, match="has no folder `modules`"):
        catalog.load(own=tmp_path / "nothing")


@pytest.mark.slow
def test_from_fine_tuning_to_a_served_module(hub, tmp_path):
    """A module fine-tuned in tf_keras, saved as transformers has it, adopted, published, served, used and verified."""
    import tensorflow_hub
    import tf_keras

    import builders

    module, saved, own, ours = (tmp_path / name for name in ("module", "saved", "own", "hub"))
    reading.unpack(hub / "hubpress/convnext_digits/1.tar.gz", module)
    layer = tensorflow_hub.KerasLayer(str(module), trainable=True)
    tuned = tf_keras.Sequential([tf_keras.layers.InputLayer((8, 8, 3)), layer])
    tuned.compile(tf_keras.optimizers.SGD(1e-3), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = np.load(ROOT / "modules/quickstart/digits_test.npz")
    digits = data["labels"]
    images = (data["images"] / 255).astype(np.float32)
    tuned.fit(images, digits, epochs=1, verbose=0)
    saved.mkdir()
    network = builders.from_hub(module, variables=layer.resolved_object.variables)
    builders.write(network, saved / "model.safetensors", "transformers")
    config = {"model_type": "convnext", "architectures": ["ConvNextForImageClassification"], "depths": [1, 1, 2, 1]}
    config |= {"hidden_sizes": [16, 32, 64, 96], "layer_norm_eps": 1e-6, "image_size": 32}
    (saved / "config.json").write_text(json.dumps(config | {"id2label": {str(n): f"the digit {n}" for n in range(10)}}))
    (saved / "preprocessor_config.json").write_text(json.dumps(VIT | IMAGENET | {"size": 32, "resample": 3}))

    run_script("new", "variant", "our_digits", "--from", saved, "--catalog", own, "--licence", "mit")
    answered(own, "our_digits")
    run_script(
        "publish",
        "our_digits",
        "--hub",
        ours,
        "--catalog",
        own,
        "--cache",
        tmp_path / "cache",
        "--url",
        "http://127.0.0.1:1",
    )
    with serve(ours) as url:
        handle = f"{url}/hubpress/our_digits/1"
        published = tensorflow_hub.load(handle)
        logits = published(images).numpy()
        names = [name.decode() for name in published.labels().numpy()]
        assert run_script("verify", handle).returncode == 0
    np.testing.assert_allclose(logits, tuned(images), atol=1e-4)
    found = [names[index] for index in logits.argmax(-1)]
    assert np.mean([name == f"the digit {digit}" for name, digit in zip(found, digits, strict=True)]) > 0.95
    record = json.loads((ours / "hubpress/our_digits/1.json").read_text())
    assert record["row"]["source_text"] == "the botanists of our institute" and str(tmp_path) not in json.dumps(record)
    assert "the botanists of our institute" in (ours / "hubpress/our_digits/1.md").read_text()
