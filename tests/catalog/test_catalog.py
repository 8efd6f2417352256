"""The catalogue: what is published, what every row must hold, and what is refused with file, row and fix."""

import copy
import datetime
import functools
import shutil
import tomllib

import pytest

from tools import catalog
from tools.catalog import labels, preprocessing, reading, scaffolding
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
    ("modules/convnext.toml", 'transform = "timm_nano_224"', 'transform = "timm_nano"', ["did you mean `timm_nano_224`, or add it to [transforms] of modules/preprocessing.toml."]),
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


# Labels


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "modules/labels/digits.tsv there is no such file. Fix: put it there, with an id, a tab and a name in a line"),
        (b"zero\none\n", "modules/labels/digits.tsv:1: 'zero' is not an id, a tab and a name, nor are 1 others. Fix: write an id"),
        (b"0\tzero\n1\t\n", "modules/labels/digits.tsv:2: '1\\t' is not an id, a tab and a name. Fix: write an id"),
        (b"0\tzero\n1\tone\tuno\n", "modules/labels/digits.tsv:2: '1\\tone\\tuno' is not an id"),
        (b"0\tzero\n0\tone\n", "modules/labels/digits.tsv:2: the id 0 is that of line 1, too. Fix: give each class an id of its own."),
        (b"0\tzero\n1\t\x1b[31mone\n", "modules/labels/digits.tsv:2: '1\\t\\x1b[31mone' is not an id"),
        (b"0\tz\xe9ro\n", "modules/labels/digits.tsv cannot be read: it is not UTF-8"),
        (b"", "modules/labels/digits.tsv:1: '' is not an id"),
        (b"0\tzero\n1\tone\n", "modules/convnext.toml: data.digits: modules/labels/digits.tsv has 2 labels, not 10."),
    ],
    ids=["missing", "names alone", "an empty name", "three columns", "an id twice", "an escape", "latin-1", "empty", "too few"],
)  # fmt: skip
def test_labels_that_are_wrong_are_named_with_their_file_and_line(copied, content, said):
    file = copied / "modules/labels/digits.tsv"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(copied)
    lines = str(refused.value).splitlines()
    assert any(said in line for line in lines), lines
    assert len(lines) == len(set(lines))  # the file is named once, though three families have these labels


def test_labels_end_lines_as_any_system_does(copied):
    file = copied / "modules/labels/digits.tsv"
    expected = labels.load(file)
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert catalog.load(copied).variants and labels.load(file) == expected and len(expected) == 10


# Everything that is wrong, at once, and nobody else's rows


def test_a_row_is_told_everything_that_it_lacks(copied):
    """The file to edit, too: a transform is a table of another one."""
    scaffolding.variant("convnext", {"size": "nano", "data": "1k", "resolution": 288, "source": "timm"}, copied)
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(copied)
    texts = [str(problem) for problem in refused.value.problems]
    where = "modules/convnext.toml: variant 31 (nano 1k 288): "
    assert len(texts) == 2 and all(text.startswith(where) for text in texts)
    assert "`checkpoint` is still to be written" in texts[0]
    assert texts[1] == (
        f"{where}no transform for resolution 288. Fix: add `transform = NAME` to the row, or `288 = NAME` to "
        "sources.timm.transforms, where [transforms.NAME] is a table of modules/preprocessing.toml that makes 288x288 images "
        "(there is none yet, so write one there)."
    )
    scaffolding.variant(
        "convnext", {"size": "nano", "data": "1k", "resolution": 384, "source": "timm", "checkpoint": "x"}, copied
    )
    with pytest.raises(catalog.CatalogError, match=r"makes 384x384 images \(there: convnext_384, timm_augreg_384"):
        catalog.load(copied)


def test_every_part_of_a_half_written_family_is_told_at_once(copied):
    """Rows, the tables that they refer to, labels and files: nothing waits for another problem to be corrected."""
    spoiled = [
        ('network_architecture = "convnext"', 'network_architecture = "TODO"'),
        ('size = "atto",   data = "1k", ', 'size = "atto",   data = "1k", sha256 = "x", '),
        ('licence = "mit"', 'licence = "TODO"'),
        ('datasets = ["imagenet-21k"]', "datasets = 7"),
        ('labels = "digits"', 'labels = "digit"'),
        ("transforms = { 224", 'transforms = { 225 = "TODO", 224'),
        ('resolution = 32, source = "hubpress"', 'resolution = 33, source = "hubpress"'),
        ('checkpoint = "convnext_digits.safetensors"', 'checkpoint = "gone.safetensors"'),
        ('evaluation = "quickstart/digits_test.npz"', 'evaluation = "quickstart/gone.npz"'),
        ("year = 2022", 'year = "2022"'),
    ]
    for old, new in spoiled:
        spoil(copied, "modules/convnext.toml", old, new)
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(copied)
    text = str(refused.value)
    for said in (
        "`network_architecture` is still to be written",
        "`sha256 = 'x'` is no SHA-256",
        "sources.facebook: `licence` is still",
        "data.21k: `datasets = 7` is not a list",
        "modules/labels/digit.tsv there is no such file",
        "sources.facebook.transforms: `225` is still to be written",
        "transform `digits_32` makes 32x32 images, not 33x33",
        "checkpoint modules/quickstart/gone.safetensors does not exist",
        "evaluation data modules/quickstart/gone.npz does not exist",
        "paper: `year = '2022'` is not a whole number",
    ):
        assert said in text, said


def test_other_families_and_collections_go_on(copied):
    """What is left out is what a file with a problem holds; a collection is not blamed for rows that nobody can read."""
    spoil(copied, "modules/vit.toml", "resolution = 384", 'resolution = "TODO"')
    spoil(copied, "collections/regnety.toml", "[select]", "[selects]")
    found = catalog.load_usable(copied)
    assert {variant.family for variant in found.variants} == {variant.family for variant in CATALOG.variants} - {"vit"}
    assert {each.name for each in CATALOG.collections} - {each.name for each in found.collections} == {"regnety"}
    assert {problem.file for problem in found.problems} == {"modules/vit.toml", "collections/regnety.toml"}
    assert found.warnings[0].startswith(
        "modules/vit.toml: it has 1 problem, and what depends on it is left out. Fix: run `python "
    )
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(copied)
    assert refused.value.problems == list(found.problems)
    (copied / "modules/preprocessing.toml").unlink()  # which all need
    with pytest.raises(catalog.CatalogError, match=r"modules/preprocessing\.toml: cannot be read"):
        catalog.load_usable(copied)


# Values of every type and shape, in every place of every file
WRONG = [None, True, 0, -1, 10**30, float("nan"), "", "x\x1b[31m\u202e", "{nope}", "{size.__class__}", "https://[x/y", [], [[]], [1, "a"], {"a": {}}, datetime.date(2020, 1, 1), "TODO"]  # fmt: skip
FILES = ("modules/vit.toml", "modules/publisher.toml", "modules/preprocessing.toml", "collections/quickstart.toml")


def places(value, path=()):
    """Yield the path of each value; of lists and rows that are alike the first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_value_of_any_type_is_a_problem_in_words_or_none(copied, monkeypatch, file):
    """Whatever stands in a file, it is told with escapes for what a terminal would obey."""
    for other in ("convnext", "convnextv2", "regnety"):
        (copied / f"modules/{other}.toml").unlink()
    content = {name: tomllib.loads((copied / name).read_text()) for name in FILES}
    vit, shared = content["modules/vit.toml"], content["modules/preprocessing.toml"]
    row = next(each for each in vit["variants"] if each["data"] == "digits")
    vit["variants"] = [row]
    for key, chosen in (("architectures", "size"), ("data", "data"), ("sources", "source")):
        vit[key] = {row[chosen]: vit[key][row[chosen]]}
    source = vit["sources"][row["source"]]
    shared["transforms"] = {row["transform"]: shared["transforms"][row["transform"]]}
    shared["normalizations"] = {source["normalization"]: shared["normalizations"][source["normalization"]]}
    original, spoiled = reading.read_toml, {}

    def read_toml(path, name, problems):
        found = spoiled.get(name) or content.get(name)
        return copy.deepcopy(found) if found else original(path, name, problems)

    for module in (reading, preprocessing):
        monkeypatch.setattr(module, "read_toml", read_toml)
    told = 0
    for place in filter(None, places(content[file])):
        for value in WRONG:
            spoiled[file] = copy.deepcopy(content[file])
            holder = functools.reduce(lambda table, key: table[key], place[:-1], spoiled[file])
            holder[place[-1]] = value
            try:
                found = catalog.load(copied)
                for module in found.modules:
                    assert module.handle.isprintable() and module.variant.file_name
                    assert found.is_named_alone(module.variant)
            except catalog.CatalogError as error:
                told += 1
                for problem in error.problems:
                    assert str(problem).isprintable() and ". Fix: " in str(problem)
    assert told > 50


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "a = " + "1" * 5000, "a = 0x" + "f" * 5000, 'a = "\x1b[31m"', b"\xff"]
)
def test_a_file_that_nobody_can_read_is_a_problem(copied, text):
    data = text if isinstance(text, bytes) else text.encode()
    for file in ("modules/vit.toml", "collections/quickstart.toml"):
        (copied / file).write_bytes(data)
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(copied)
    assert {"modules/vit.toml", "collections/quickstart.toml"} <= {problem.file for problem in refused.value.problems}
    assert all(str(problem).isprintable() and len(str(problem)) < 1000 for problem in refused.value.problems)
