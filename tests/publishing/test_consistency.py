"""Row, record, archive and document of a module: whatever differs in one of them keeps it from being published."""

import copy
import dataclasses
import json
import re
from types import SimpleNamespace

import pytest

from tests.support import made, synthetic
from tests.support.commands import ROOT
from tests.support.synthetic import build
from tools.hub import records
from tools.hub.storage import Storage
from tools.publishing import consistency
from tools.publishing.specification import specify
from tools.publishing.transaction import Publishing
from tools.site import pages
from tools.site.jobs import MARKDOWN, Page

HEADS = ("classifier", "feature_extractor")
# What nobody but the record states, so that nothing can disagree with it. Its document repeats it, and is compared.
ONLY_IN_THE_RECORD = {
    "published",
    "build.key",
    "build.sources",
    "verification.keras_difference",
    "verification.sizes.0",
    "verification.sizes.1",
    "measured.parameters",
    "measured.trainable_parameters",
    "measured.gflops",
    "measured.top1.split",
    "measured.top1.date",
    "signature.arguments.training",
    "signature.arguments.drop_path_rate",
}


@pytest.fixture(scope="module", params=HEADS)
def module(request):
    return next(each for each in made.digits() if each.head == request.param)


@pytest.fixture(scope="module")
def archive(module, tmp_path_factory):
    """(file, what packing found out) of a module's archive."""
    folder = tmp_path_factory.mktemp("archive")
    model = made.saved_model(folder / "model", module)
    return folder / "1.tar.gz", made.pack(model, folder / "1.tar.gz")


def require(record, module, archive, packed=None):
    file, found = archive
    consistency.check(record, module=module, file=file, packed=packed or found, catalog=made.rows(), base_url=made.URL)


def test_what_agrees_is_accepted(module, archive):
    require(made.record(module, archive[1]), module, archive)


def leaves(value, path=""):
    """Every path to a value that is neither a table nor a list."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from leaves(each, f"{path}.{number}")
    else:
        yield path


def changed(record, path):
    """The record with another value at a path, of the same type where it has one."""
    record = copy.deepcopy(record)
    *folders, key = path.split(".")
    at = record
    for each in folders:
        at = at[int(each)] if isinstance(at, list) else at[each]
    key = int(key) if isinstance(at, list) else key
    value = at[key]
    if isinstance(value, bool):
        at[key] = not value
    elif isinstance(value, (int, float)):
        at[key] = value + 1
    elif isinstance(value, str) and re.fullmatch("[0-9a-f]{32,64}", value):
        at[key] = ("1" if value[0] == "0" else "0") + value[1:]
    elif isinstance(value, str) and re.fullmatch(r"\d+x\d+", value):
        at[key] = "7" + value
    elif isinstance(value, str):
        at[key] = value.replace("-20", "-21") if value.startswith("2026-11-20") else value + "x"
    else:
        at[key] = 1 if value is None else None
    return record


LEAVES = sorted({path for module in made.digits() for path in leaves(made.record(module))})


@pytest.mark.parametrize("path", LEAVES)
def test_any_field_of_the_record_that_differs_is_refused(path, module, archive):
    record = made.record(module, archive[1])
    if path not in set(leaves(record)):
        pytest.skip("the other head has this field")
    wrong = changed(record, path)
    if path in ONLY_IN_THE_RECORD:
        require(wrong, module, archive)  # and this list holds nothing that is compared after all
        return
    with pytest.raises(consistency.ConsistencyError) as refused:
        require(wrong, module, archive)
    message = str(refused.value)
    assert message.startswith(module.handle) and "is not published" in message.splitlines()[-1]


@pytest.mark.parametrize(
    ("what", "changes", "said"),
    [
        ("other classes", {"signatures": "wide"}, "serving_default"),
        ("no signatures", {"signatures": {}}, "the signature `serving_uint8`: .* the graph has none"),
        ("another input", {"signatures": "integers"}, "the inputs"),
        ("no module.json", {"inside": {"nothing": 0}}, "`head`"),
        ("another row inside", {"inside": "resolution"}, "`row.resolution`"),
        ("another licence inside", {"inside": "licence"}, "`row.licence`"),
    ],
)
def test_any_other_archive_is_refused(what, changes, said, module, tmp_path):
    changes = dict(changes)
    shape, name = [None, None, None, 3], "logits" if module.head == "classifier" else "features"
    width = made.signature(module)["outputs"][0]["shape"][-1]
    if isinstance(changes.get("signatures"), str):
        kind, wide = ("int32", 0) if changes["signatures"] == "integers" else ("uint8", 1)
        output = {name: ("float32", [None, width + wide])}
        changes["signatures"] = {
            "serving_default": ({"images": ("float32", shape)}, output),
            "serving_uint8": ({"images": (kind, shape)}, output),
        }
    if isinstance(changes.get("inside"), str):
        inside = {**made.described(module), "head": module.head}
        inside["row"][changes["inside"]] = 999
        changes["inside"] = inside
    packed = made.pack(made.saved_model(tmp_path / "model", module, **changes), tmp_path / "1.tar.gz")
    with pytest.raises(consistency.ConsistencyError, match=said):
        require(made.record(module, packed), module, (tmp_path / "1.tar.gz", packed))


def test_archive_without_its_labels_is_refused(tmp_path):
    module = made.digits()[0]
    packed = made.pack(made.saved_model(tmp_path / "model", module, labels=False), tmp_path / "1.tar.gz")
    with pytest.raises(
        consistency.ConsistencyError, match="the number of labels: the record says 10, the archive has none"
    ):
        require(made.record(module, packed), module, (tmp_path / "1.tar.gz", packed))


def test_other_bytes_than_were_packed_are_refused(module, archive, tmp_path):
    _, packed = archive
    other = made.saved_model(tmp_path / "model", module)
    (other / "variables/variables.index").write_bytes(b"other")
    made.pack(other, tmp_path / "1.tar.gz")
    with pytest.raises(consistency.ConsistencyError, match="`sha256`: the file says"):
        require(made.record(module, packed), module, (tmp_path / "1.tar.gz", packed))


TAKEN = {"entry": "model_ema", "prefix": "module.", "left_aside": ["n_averaged", "loss.weight"]}


def test_what_was_taken_of_a_checkpoint_is_what_row_module_and_document_say(tmp_path):
    row = dataclasses.replace(made.digits()[0].variant, checkpoint_key="model_ema")
    module = dataclasses.replace(made.digits()[0], variant=row)
    inside = {**made.described(module), "head": module.head}
    inside["checkpoint"] |= TAKEN
    packed = made.pack(made.saved_model(tmp_path / "model", module, inside=inside), tmp_path / "1.tar.gz")
    archive, record = (tmp_path / "1.tar.gz", packed), made.record(module, packed, TAKEN)
    assert record["row"]["checkpoint_key"] == "model_ema"
    require(record, module, archive)
    for path in [f"checkpoint.{path}" for path in leaves(TAKEN)]:
        with pytest.raises(consistency.ConsistencyError, match=r"`checkpoint[.`]"):
            require(changed(record, path), module, archive)
    with pytest.raises(consistency.ConsistencyError, match=r"`checkpoint` entry: the record says model_ema"):
        require(
            record,
            module,
            (tmp_path / "1.tar.gz", made.pack(made.saved_model(tmp_path / "other", module), tmp_path / "1.tar.gz")),
        )
    other = dataclasses.replace(module, variant=dataclasses.replace(row, checkpoint_key="state_dict"))
    with pytest.raises(
        consistency.ConsistencyError, match=r"`checkpoint.entry`: the row says 'state_dict', the record 'model_ema'"
    ):
        require(made.record(other, packed, TAKEN), other, archive)
    built = dict(made.build([record]))
    page = built[f"{module.handle}.md"]
    for line in ("| entry | `model_ema` |", "| prefix | `module.` |", "| left aside | `n_averaged, loss.weight` |"):
        assert f"{line}\n" in page.data.decode()
        without = page.data.replace(line.encode(), line.replace("` |", "x` |").encode())
        spoilt = built | {page.path: Page(page.path, without, page.content_type)}
        assert any(
            "checkpoint" in each
            for each in consistency.with_document(record, spoilt, base_url=made.URL, tags=made.tags())
        )
    assert "<dt>Entry</dt><dd><code>model_ema</code></dd>" in built[f"{module.handle}/index.html"].data.decode()


def test_the_entry_that_a_row_names_is_a_part_of_what_decides_the_bytes(tmp_path):
    row, file = made.digits()[0].variant, ROOT / made.digits()[0].variant.checkpoint
    plain, named = (
        specify(each, made.rows(), file) for each in (row, dataclasses.replace(row, checkpoint_key="model"))
    )
    assert named["module"]["row"].pop("checkpoint_key") == "model" and named["module"] == plain["module"]
    assert named["build"]["key"] != plain["build"]["key"]


# The document


@pytest.mark.parametrize("record", synthetic.records(), ids=lambda record: record["handle"])
def test_documents_of_every_kind_of_record_say_what_it_says(record):
    built = build(synthetic.records())
    said = consistency.with_document(record, built, base_url=synthetic.BASE_URL, tags=synthetic.TAGS)
    assert list(said) == []


def test_documents_of_every_row_say_what_it_says():
    found = [made.record(module) for module in made.rows().modules]
    built = made.build(found)
    for record in found:
        assert list(consistency.with_document(record, built, base_url=made.URL, tags=made.tags())) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# Module hubpress/convnext_digits/1", "# Module hubpress/convnext_digits/2", "handle"),
        ("<!-- task: image-classification", "<!-- task: image-feature-vector", "task"),
        ("fine-tunable: true", "fine-tunable: false", "fine-tunable"),
        ("license: apache-2.0", "license: mit", "license"),
        ("<!-- dataset: ", "<!-- dataset: mnist -->\n<!-- dataset: ", "dataset"),
        ("hub/hubpress/convnext_digits/1.tar.gz -->", "hub/hubpress/convnext_digits_fe/1.tar.gz -->", "asset-path"),
        ("| float32 | 0 to 1 |", "| float32 | 0 to 255 |", "signature"),
        ("`[batch, 10]`", "`[batch, 1000]`", "signature"),
        ("| Parameters | – | 186,554 |", "| Parameters | – | 186,555 |", "numbers Parameters"),
        ("| 98.61 |", "| 98.62 |", "numbers Top-1"),
        ("752,000 bytes", "752,001 bytes", "checkpoint size"),
        ("| weight names and layout | timm |", "| weight names and layout | keras |", "checkpoint weight names"),
        ("hub/hubpress/convnext_digits/1\"", "hub/hubpress/convnext_digits_fe/1\"", "code loads"),
        ("trainable=True,", "trainable=False,", "fine-tuning code"),
        ("](https://models.example.org", "]((https://models.example.org", "malformed-link"),
    ],
)  # fmt: skip
def test_other_data_in_a_document_is_refused(old, new, said):
    record = next(each for each in synthetic.records() if each["handle"] == "hubpress/convnext_digits/1")
    built = dict(build(synthetic.records()))
    path = "hubpress/convnext_digits/1.md"
    text = built[path].data.decode()
    assert old in text
    built[path] = Page(path, text.replace(old, new).encode(), built[path].content_type)
    found = list(consistency.with_document(record, built, base_url=synthetic.BASE_URL, tags=synthetic.TAGS))
    assert any(said in each for each in found), found


# Sentences of templates/hub/ that state facts, and other words for each: tests/site/test_module_document.py says that they are right.
REWORDED = [
    ("It was made with", "Made by means of"),
    (", published on ", " and published "),
    ("The archive has ", "What is downloaded has "),
    (" bytes (", " B ("),
    ("sees images at", "looks at images of"),
    ("pixels; preprocessing is part of the module, so it takes", "pixels. As preprocessing is inside, it takes"),
    ("Resizing: ", "First: "),
    ("under the licence ", "available as "),
    ("`module.labels()` returns", "Ask `module.labels()` for"),
    ("that gives one score for each of 10 classes", "with 10 classes"),
    ("## Numbers", "## Figures"),
    ("## Provenance", "## Where the weights come from"),
    ("## Citation", "## How to cite"),
]


def reworded(text):
    for old, new in REWORDED:
        assert old in text, old
        text = text.replace(old, new)
    return text


def test_other_words_in_templates_publish(monkeypatch, module, archive):
    """Whoever edits templates/hub/ may choose the words: only data are compared."""
    if module.head != "classifier":
        pytest.skip("its words are among the classifier's")
    make, edit = pages.build, reworded

    def build(made, **arguments):
        built = make(made, **arguments)
        path = f"{module.handle}.md"
        return {**built, path: Page(path, edit(built[path].data.decode()).encode(), MARKDOWN)}

    monkeypatch.setattr(pages, "build", build)
    require(made.record(module, archive[1]), module, archive)
    edit = lambda text: reworded(text).replace("| 98.61 |", "| 98.16 |")  # noqa: E731
    with pytest.raises(consistency.ConsistencyError, match="numbers Top-1 accuracy"):
        require(made.record(module, archive[1]), module, archive)


# In the transaction


def test_nothing_is_stored_of_a_module_that_disagrees(module, archive, tmp_path, monkeypatch):
    storage = Storage(str(tmp_path / "hub"))
    publishing = Publishing(made.rows(), storage, base_url=made.URL, cache=tmp_path)
    file, packed = archive
    head, record = module.head, made.record(module, packed)
    manifest = {"built": {head: {}}, "checked": {head: {}}, "packed": {head: packed}}
    row = SimpleNamespace(manifest=manifest, archive=lambda head: file)

    def store(assembled):
        monkeypatch.setattr(records, "assemble", lambda *arguments: assembled)
        return publishing._store_row([module], [], {}, row, {module.handle: None})

    with pytest.raises(consistency.ConsistencyError):
        store(changed(record, "row.licence"))
    assert list(storage.list()) == []
    (result,) = store(record)
    assert result.state == "published"
    assert json.loads(storage.read(f"{module.handle}.json")) == record
