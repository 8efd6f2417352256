"""The catalogue: what is published, what every row must hold, and what is refused with file, row and fix."""

import shutil

import pytest

from tools import catalog
from tools.catalog import scaffolding
from tools.catalog.catalog import compose
from tools.common.files import ROOT

CATALOG = catalog.load()
CONVNEXT = [v for v in CATALOG.variants if v.family == "convnext" and v.data in ("1k", "21k", "21k_1k")]
SIZES = ["atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge"]


def test_convnext_has_the_25_published_rows():
    v1 = [v for v in CONVNEXT if v.size in SIZES]
    assert len(v1) == 25
    for variant in v1:
        assert variant.names == {
            "classifier": f"convnext_{variant.size}_{variant.data}_{variant.resolution}",
            "feature_extractor": f"convnext_{variant.size}_{variant.data}_{variant.resolution}_fe",
        }
        assert variant.version == 1
    handles = [m.handle for m in CATALOG.modules]
    assert "hubpress/convnext_large_1k_384/1" in handles and "hubpress/convnext_large_1k_384_fe/1" in handles
    assert len(handles) == len(set(handles))


@pytest.mark.parametrize("variant", CATALOG.variants, ids=lambda v: v.stem)
def test_row_is_complete(variant):
    assert variant.licence and variant.checkpoint and variant.format and variant.paper["url"].startswith("https://")
    assert variant.transform in CATALOG.preprocessing["transforms"]
    assert variant.normalization in CATALOG.preprocessing["normalizations"]
    assert (variant.top1 is None and variant.gflops is None) or variant.numbers.startswith("https://")
    if variant.labels:
        lines = (ROOT / f"modules/labels/{variant.labels}.tsv").read_text().splitlines()
        assert len(lines) == variant.classes and all(len(line.split("\t")) == 2 for line in lines)


@pytest.mark.parametrize("collection", CATALOG.collections, ids=lambda c: c.name)
def test_collection_selects_by_rows(collection):
    members = [m for m in CATALOG.modules if collection.selects(m.variant.facts())]
    assert members and CATALOG.expand([collection.name]) == members


def test_seed_defect_no_module_is_missing_from_its_collection():
    """The collection that this family was first published with listed 14 of its 15 modules."""
    names = {m.name for m in CATALOG.expand(["convnext"])}
    assert {n for v in CONVNEXT for n in v.names.values()} <= names


def test_names_are_composed_in_one_place():
    assert compose("a_{size}", "{stem}_fe", size="s", data="d", resolution=1) == "a_s_fe"
    assert compose("a_{size}", "{stem}_fe", size="s", precision="float32") == "a_s_fe"
    assert compose("a_{size}", "{stem}_fe", size="s", precision="bfloat16") == "a_s_bf16_fe"


def test_precision_is_a_column(copied):
    """Float32 where nothing is said; another one makes a module of its own, beside that of the same row in float32."""
    written = scaffolding.variant(
        "vit",
        {"size": "s16", "data": "21k_1k", "resolution": 224, "precision": "bfloat16", "checkpoint": "x.npz"},
        copied,
    )
    assert written == ["modules/vit.toml"]
    found = catalog.load(copied)
    rows = {v.stem: v for v in found.variants}
    assert rows["vit_s16_bf16"].names == {
        "classifier": "vit_s16_bf16_classification",
        "feature_extractor": "vit_s16_bf16_fe",
    }
    assert rows["vit_s16_bf16"].precision == rows["vit_s16_bf16"].facts()["precision"] == "bfloat16"
    assert {v.precision for stem, v in rows.items() if not stem.endswith("_bf16")} == {"float32"}
    assert rows["vit_s16"].names["feature_extractor"] == "vit_s16_fe"
    members = [m.variant.stem for m in found.expand(["vision_transformer"])]
    assert members.count("vit_s16_bf16") == members.count("vit_s16") == 2


def test_a_collection_may_choose_a_precision():
    """And records from before there was a choice are float32."""
    quickstart = next(c for c in CATALOG.collections if c.name == "quickstart")
    facts = next(v for v in CATALOG.variants if v.stem == "convnext_digits").facts()
    assert quickstart.selects(facts)
    assert quickstart.selects({key: value for key, value in facts.items() if key != "precision"})
    assert not quickstart.selects(facts | {"precision": "bfloat16"})


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["convnext_tiny_1k_224"], ["convnext_tiny_1k_224", "convnext_tiny_1k_224_fe"]),
        (["hubpress/convnext_tiny_1k_224/1"], ["convnext_tiny_1k_224"]),
        (["hubpress/convnext_tiny_1k_224_fe/1"], ["convnext_tiny_1k_224_fe"]),
        (["convnext_digits_fe"], ["convnext_digits_fe"]),
        (["convnext_xlarge_21k_2"], ["convnext_xlarge_21k_224", "convnext_xlarge_21k_224_fe"]),
    ],
)
def test_names_are_found_and_completed(asked, expected):
    assert [m.name for m in CATALOG.expand(asked)] == expected


@pytest.mark.parametrize(
    ("asked", "suggestion"),
    [("convnxt_tiny_1k_224", "convnext_tiny_1k_224"), ("convnxt", "convnext"), ("xyz", "--dry-run")],
)
def test_mistyped_names_are_suggested(asked, suggestion):
    with pytest.raises(catalog.UnknownNameError, match=suggestion):
        CATALOG.expand([asked])


# What is wrong: file, text to replace, replacement, and what the error must say (file and row, problem, fix).
BAD = [
    ("modules/convnext.toml", 'size = "tiny",   data = "1k"', 'sise = "tiny",   data = "1k"', ["unknown key `sise`", "did you mean `size`?"]),
    ("modules/convnext.toml", 'licence = "mit"', 'licence = "mitt"', ["sources.facebook", "'mitt'", "did you mean `mit`?"]),
    ("modules/convnext.toml", 'licence = "mit"\n', "", ["sources.facebook: `licence` is missing", "add `licence"]),
    ("modules/convnext.toml", 'datasets = ["imagenet-21k"]', 'datasets = ["imagenet21k"]', ["data.21k", "did you mean `imagenet-21k`?"]),
    ("modules/convnext.toml", 'network_architecture = "convnext"', 'network_architecture = "convnex"', ["convnext"]),
    ("modules/convnext.toml", 'size = "small",  data = "1k",     resolution = 224', 'size = "tiny",  data = "1k",     resolution = 224', ["convnext_tiny_1k_224/1 is published by", "tiny 1k 224"]),
    ("modules/convnext.toml", 'stem = "convnext_{size}_{data}_{resolution}"', 'stem = "ConvNeXt {size}_{data}_{resolution}"', ["is no module name", "lower-case"]),
    ("modules/convnext.toml", "resolution = 384, parameters = 88_591_464,  gflops = 45.0", 'resolution = "384", parameters = 88_591_464,  gflops = 45.0', ["is not a whole number"]),
    ("modules/convnext.toml", "top1 = 82.1,", "top1 = 821,", ["no percentage"]),
    ("modules/convnext.toml", 'numbers = "https://github.com/facebookresearch/ConvNeXt"\n', "", ["figures without a source"]),
    ("modules/convnext.toml", 'transform = "timm_nano_224"', 'transform = "timm_nano"', ["did you mean `timm_nano_224`?"]),
    ("modules/convnext.toml", 'transform = "timm_nano_224"', 'transform = "convnext_384"', ["makes 384x384 images, not 224x224"]),
    ("modules/convnext.toml", 'checkpoint = "convnext_digits.safetensors"', 'checkpoint = "gone.safetensors"', ["modules/quickstart/gone.safetensors does not exist"]),
    ("modules/convnext.toml", 'checkpoint = "convnext_atto_d2-01bb0f51.pth"', 'checkpoint = "model.safetensors.index.json"', ["variant 1 (atto 1k 224)", "is an index of shards, whose digest does not cover them", "write them into one file"]),
    ("modules/convnext.toml", 'precision = "bfloat16"', 'checkpoint_key = ""', ["`checkpoint_key = ''` is no key", "names of entries with `/`"]),
    ("modules/convnext.toml", 'precision = "bfloat16"', 'checkpoint_key = 3', ["`checkpoint_key = 3` is not a string"]),
    ("modules/convnext.toml", 'labels = "digits"', 'labels = "imagenet_1k"', ["has 1000 labels, not 10"]),
    ("modules/convnext.toml", 'precision = "bfloat16"', 'precision = "bf16"', ["modules/convnext.toml: variant 30 (digits digits 32)", "`precision` has the unknown value 'bf16'", "did you mean `bfloat16`?"]),
    ("modules/convnext.toml", 'precision = "bfloat16"', 'precision = "int8"', ["'int8'", "write one of bfloat16, float32"]),
    ("modules/convnext.toml", ', precision = "bfloat16"', "", ["convnext_digits/1 is published by", "digits digits 32, too"]),
    ("modules/convnext.toml", 'family = "convnext"', 'family = "convnext', ["modules/convnext.toml: is not valid TOML"]),
    ("modules/convnext.toml", "classes = 21841", "classes = true", ["is not a whole number"]),
    ("modules/preprocessing.toml", "size = 235", "size = 100", ["modules/preprocessing.toml", "timm_nano_224"]),
    ("modules/convnext.toml", 'stem = "convnext_{size}_{data}_{resolution}"', 'stem = "collections/{size}_{data}_{resolution}"', ["'collections/tiny_1k_224' is no module name"]),
    ("modules/convnext.toml", "resolution = 384, parameters = 88_591_464,", 'resolution = "TODO", parameters = 88_591_464,', ["`resolution` is still to be written. Fix: write a whole number."]),
    ("modules/convnext.toml", 'licence = "mit"', 'licence = "TODO: of the weights"', ["sources.facebook: `licence` is still to be written. Fix: write of the weights (one of "]),
    ("modules/convnext.toml", 'transforms = {', 'transforms = "x" #', ["`transforms = 'x'` is not a table"]),
    ("modules/publisher.toml", 'name = "hubpress"', 'name = "static"', ["`name = 'static'` is no publisher's name"]),
    ("modules/publisher.toml", 'name = "hubpress"', 'name = hubpress', ["modules/publisher.toml: is not valid TOML"]),
    ("modules/publisher.toml", 'name = "hubpress"', 'name = "Hub Press"', ["lower-case letters, digits and hyphens"]),
    ("modules/publisher.toml", 'name = "hubpress"', 'name = "hubpress"\nnotebooks = "https://github.com/a/b"', ["is no address on Colab", "colab.research.google.com/github/OWNER"]),
    ("collections/convnext.toml", 'columns = ["reported_top1"', 'columns = ["reported_top_1"', ["did you mean `reported_top1`?"]),
    ("collections/convnext.toml", "[select]", "[selects]", ["unknown key `selects`"]),
    ("collections/convnext.toml", '"21k_1k"]', '"22k"]', ["'22k', which no row has"]),
]  # fmt: skip


@pytest.fixture
def copied(tmp_path):
    for name in ("modules", "collections"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def spoil(root, file, old, new):
    text = (root / file).read_text()
    assert old in text, f"{file} no longer has {old!r}; correct the test"
    (root / file).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(("file", "old", "new", "said"), BAD, ids=[f"{b[0].split('/')[1]}-{b[3][0][:30]}" for b in BAD])
def test_bad_row_is_refused(copied, file, old, new, said):
    spoil(copied, file, old, new)
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(copied)
    text = str(refused.value)
    assert file in text
    assert all(problem.file and problem.fix and ". Fix: " in str(problem) for problem in refused.value.problems)
    for part in said:
        assert part in text


def test_all_problems_of_all_files_in_one_go(copied):
    for file, old, new, _ in (BAD[0], BAD[1], BAD[-3]):
        spoil(copied, file, old, new)
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(copied)
    text = str(refused.value)
    assert "`sise`" in text and "'mitt'" in text and "reported_top1" in text
    assert len(refused.value.problems) >= 3


@pytest.mark.parametrize("file", ["modules/publisher.toml", "modules/preprocessing.toml"])
def test_a_missing_file_is_named(copied, file):
    (copied / file).unlink()
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(copied)
    assert f"{file}: cannot be read (No such file or directory). Fix: restore the file." in str(refused.value)


def test_imagenet_labels_are_wordnets():
    """21k heads follow the sorted WordNet ids, as upstream's image folders do; the 1k classes are among them but for one."""
    ids = {name: [line.split("\t")[0] for line in (ROOT / f"modules/labels/{name}.tsv").read_text().splitlines()] for name in ("imagenet_1k", "imagenet_21k")}  # fmt: skip
    assert len(ids["imagenet_1k"]) == 1000 and len(ids["imagenet_21k"]) == 21841
    for found in ids.values():
        assert found == sorted(set(found)) and all(i[0] == "n" and len(i) == 9 for i in found)
    assert set(ids["imagenet_1k"]) - set(ids["imagenet_21k"]) == {"n04399382"}
