"""tools/new.py: its stubs are refused with what belongs in them, and following that leads to a published module."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import builders
from builders import checkpoints
from tests.support.commands import environment, run_script
from tools import catalog
from tools.catalog import scaffolding
from tools.catalog.reading import ROW_KEYS
from tools.common.files import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path):
    """A copy of what publishing needs, to write into."""
    for folder in ("builders", "collections", "modules", "templates", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def run(repository, script, *arguments):
    return run_script(script, *arguments, root=repository, check=False)


def problems(repository):
    try:
        catalog.load(repository)
    except catalog.CatalogError as error:
        return error.problems
    return []


def follow(repository, file, answers):
    """Correct one thing after the other, each time what the first error names, until there is none; returns the errors seen.

    `answers` has for each key the values to write, in the order in which they are asked for.
    """
    seen = []
    while found := problems(repository):
        problem = found[0]
        assert problem.file == file and problem.fix, problem
        asked = re.fullmatch(r"`(\w+)` is still to be written", problem.message)
        key = asked[1] if asked else "224"
        assert asked or problem.message == "unknown transform `TODO`", problem
        path = repository / file
        text = path.read_text()
        changed = re.sub(
            rf'(?m)(\b{key} = )("TODO[^"]*"|"""\nTODO[^"]*""")', rf"\g<1>{answers[key].pop(0)}", text, count=1
        )
        assert changed != text, problem
        path.write_text(changed)
        seen.append(str(problem))
    assert not any(answers.values()), f"never asked for: {answers}"
    return seen


def test_a_new_variant_is_led_to_a_row_that_restores(repository):
    known = ("source=hubpress", "stem=convnext_again", "transform=digits_32", "fine_tunable=false")
    result = run(repository, "new", "variant", "convnext", *known)
    assert result.returncode == 0 and "wrote modules/convnext.toml\nstill to be written:" in result.stdout, (
        result.stderr
    )
    row = r"modules/convnext\.toml: variant \d+ \(TODO TODO TODO\): "
    assert re.search(
        row + r"`size` is still to be written\. Fix: write a key of \[architectures\] \(one of .*\bdigits\b.*\)\.\n",
        result.stdout,
    )
    assert re.search(row + r"`resolution` is still to be written\. Fix: write a whole number", result.stdout)
    answers = {
        "size": ['"digits"'],
        "data": ['"digits"'],
        "resolution": ["32"],
        "checkpoint": ['"convnext_digits.safetensors"'],
    }
    assert len(follow(repository, "modules/convnext.toml", answers)) == 4
    rows = catalog.load(repository)
    assert {m.handle for m in rows.expand(["convnext_again"])} == {
        "hubpress/convnext_again/1",
        "hubpress/convnext_again_fe/1",
    }
    row = rows.find("convnext_again_fe").variant.facts()
    assert row["fine_tunable"] is False
    model = builders.create(row["family"], num_classes=row["classes"], **builders.arguments(row))
    assert builders.restore(model, repository / row["checkpoint"]) == row["format"]


def test_a_new_family_is_led_to_a_published_module(repository):
    result = run(repository, "new", "family", "stubnet")
    assert result.returncode == 0, result.stderr
    assert (
        "wrote builders/stubnet.py, modules/stubnet.toml, tests/builders/test_stubnet.py\nstill to be written:"
        in result.stdout
    )
    answers = {
        "title": ['"Stub"', '"On Stubs"'],
        "network_architecture": ['"convnext"'],
        "width": ["16"],
        "url": ['"quickstart/"', '"https://example.org/stubs"'],
        "format": ['"upstream"'],
        "licence": ['"mit"'],
        "normalization": ['"imagenet"'],
        "text": ['"nobody"'],
        "224": ['"convnext_224"'],
        "authors": ['"A. Author"'],
        "venue": ['"nowhere"'],
        "key": ['"author2026stubs"'],
        "year": ["2026"],
        "checkpoint": ['"stub.safetensors"'],
    }
    random = np.random.default_rng(0)
    shapes = {
        "stem.0.weight": (16, 3, 4, 4),
        "stem.0.bias": (16,),
        "stem.1.weight": (16,),
        "stem.1.bias": (16,),
        "head.weight": (1000, 16),
        "head.bias": (1000,),
    }
    tensors = {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    checkpoints.write(repository / "modules/quickstart/stub.safetensors", tensors)
    seen = follow(repository, "modules/stubnet.toml", answers)
    assert len(seen) == 16 and all(". Fix: " in problem for problem in seen)
    result = run(repository, "publish", "stubnet", "--hub", repository / "hub", "--cache", repository / "cache")
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("stubnet_small_1k_224", "stubnet_small_1k_224_fe"):
        assert (repository / f"hub/hubpress/{name}/1.tar.gz").is_file()
        assert (repository / f"hub/hubpress/{name}/1.json").is_file()
    # The stub's test: the battery passes, and what is missing of upstream is named.
    assert "TODO" in (repository / "tests/builders/test_stubnet.py").read_text()
    for file in (
        "__init__.py",
        "support/__init__.py",
        "support/commands.py",
        "builders/battery.py",
        "builders/conftest.py",
        "builders/torch_files.py",
    ):
        (repository / "tests" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "tests" / file, repository / "tests" / file)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/builders/test_stubnet.py",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
    ]
    result = subprocess.run(
        command, cwd=repository, env=environment(repository), capture_output=True, text=True, timeout=600
    )
    failed = re.findall(r"(?m)^FAILED .*?::(\w+)::(\w+)", result.stdout)
    assert failed == [
        ("TestReferences", "test_golden_answers_are_reproduced"),
        ("TestReferences", "test_names_and_shapes_are_the_upstream_ones"),
    ], result.stdout
    assert "no golden case of stubnet. Fix: add one as tests/golden/README.md says" in result.stdout
    assert (
        "no names and shapes of stubnet's checkpoints. Fix: add a file to tests/golden/checkpoint-keys" in result.stdout
    )


@pytest.mark.parametrize("family", ["convnext", None])
def test_a_new_collection_is_led_to_a_collection(repository, family):
    assert scaffolding.collection("small_models", family, repository) == ["collections/small_models.toml"]
    path = repository / "collections/small_models.toml"
    if family is None:  # what a collection selects is checked against the rows
        assert any("no row has" in problem.message for problem in problems(repository))
        path.write_text(path.read_text().replace("TODO: a family, or other keys and values", "convnext"))
    answers = {"title": ['"Small models"'], "description": ['"Small ones."'], "about": ['"""\nThey are small.\n"""']}
    assert len(follow(repository, "collections/small_models.toml", answers)) == 3
    found = {c.name: c for c in catalog.load(repository).collections}["small_models"]
    assert found.selects({"family": "convnext"}) and not found.selects({"family": "vit"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("variant", "convnxt"),
            "there is no family 'convnxt'. Fix: start it: `tools/new.py family convnxt`; or did you mean `convnext`?",
        ),
        (("variant", "convnext", "resolution"), "is no KEY=VALUE. Fix: write, for example, resolution=224"),
        (("family", "convnext"), "builders/convnext.py exists already. Fix: choose another name, or edit it."),
        (("family", "ConvNeXt"), "is no family's name. Fix: use lower-case letters"),
        (("family", "class"), "'class' is a word of Python, which no module may be called. Fix: choose another."),
        (("family", "checkpoints"), "builders/checkpoints exists already"),
        (("collection", "convnext"), "collections/convnext.toml exists already"),
        (("collection", "a/b"), "is no collection's name"),
    ],
)
def test_refuses_and_says_what_to_do(capsys, monkeypatch, repository, arguments, said):
    from tools import new

    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    for function in ("variant", "family", "collection"):
        original = getattr(scaffolding, function)
        monkeypatch.setattr(scaffolding, function, lambda *given, original=original: original(*given, root=repository))
    assert new.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_a_row_is_not_given_what_the_family_does_not_have(repository):
    """Everything that is unknown is told at once, with the family's own names; nothing is written."""
    before = (repository / "modules/convnext.toml").read_bytes()
    done = run(
        repository, "new", "variant", "convnext", "size=tny", "colour=red", "data=2k", "source=timm", "resolutoin=224"
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: modules/convnext.toml has no size 'tny'. Fix: did you mean `tiny`, or add it to [architectures] first.",
        f"error: a row of modules/convnext.toml has no key 'colour'. Fix: write one of {', '.join(sorted(ROW_KEYS))}.",
        "error: modules/convnext.toml has no data '2k'. Fix: did you mean `21k`, or add it to [data] first.",
        "error: a row of modules/convnext.toml has no key 'resolutoin'. Fix: did you mean `resolution`?",
    ]
    assert (repository / "modules/convnext.toml").read_bytes() == before


def test_every_key_of_a_row_may_be_given(repository):
    values = {
        "precision": "float32",
        "source": "timm",
        "stem": "x",
        "heads": ["classifier"],
        "transform": "convnext_224",
    }
    values |= {"version": 2, "changes": "c", "sha256": "0" * 64, "parameters": 1, "gflops": 1.5, "top1": 1, "top5": 2}
    values |= {
        "fine_tunable": False,
        "evaluation": "quickstart/digits_test.npz",
        "checkpoint": "x.pth",
        "checkpoint_key": "model_ema",
        "formats": {"onnx": {}, "int8": {"top1_at_least": 80.5}},
        "resolution": 224,
    }
    scaffolding.variant("convnext", {"size": "tiny", "data": "1k", **values}, repository)
    assert set(values) | {"size", "data"} == set(ROW_KEYS) and not problems(repository)


@pytest.mark.parametrize(
    ("assignment", "value", "spelled"),
    [
        ("a=224", 224, "224"),
        ("a=28589128", 28589128, "28_589_128"),
        ("a=82.1", 82.1, "82.1"),
        ("a=true", True, "true"),
        ("a=tiny", "tiny", '"tiny"'),
        ("a=21k_1k", "21k_1k", '"21k_1k"'),
        ('a=["feature_extractor"]', ["feature_extractor"], '["feature_extractor"]'),
        ('a=say "no"', 'say "no"', '"say \\"no\\""'),
        ("a=b=c", "b=c", '"b=c"'),
        ("a={onnx = {}}", {"onnx": {}}, "{ onnx = {  } }"),
    ],
)
def test_values_of_the_command_line(assignment, value, spelled):
    assert scaffolding.parse(assignment) == ("a", value)
    assert scaffolding.toml(value) == spelled
