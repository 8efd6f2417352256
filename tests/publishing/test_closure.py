"""Keys of a build, and the files that they cover: the import closure, by made-up sources, by editing every file, and by what real processes import."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest

import builders
from tests.support.builds import specification_of
from tests.support.commands import ROOT
from tools import catalog
from tools.publishing import closure, specification

GOLDEN = ROOT / "tests/golden/convnextv2_fb"
# Of the three programs, as the specification has them.
PROGRAMS = {
    "build": (specification.BUILD_PROGRAMS, specification.build_sources),
    "check": (specification.CHECK_PROGRAMS, specification.check_sources),
}


# Made-up sources


@pytest.fixture
def imported(tmp_path):
    """`imported({path: text}, "tools.a", family=None)`: the closure in a repository that holds these files."""

    def run(texts, *modules, family=None):
        for path, text in texts.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return closure.files(tmp_path, modules, family=family)

    return run


@pytest.mark.parametrize(
    "text",
    [
        "import tools.b.c",
        "import os, tools.b.c as c",
        "from tools.b import c",
        "from tools.b.c import name",
        "from .b import c",
        "from .b.c import name",
        "from . import b\nfrom .b import c",
        "def f():\n    from tools.b import c",
        "class A:\n    def f(self):\n        if self:\n            import tools.b.c",
        "try:\n    import tools.b.c\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('tools.b.c')",
        "from importlib import import_module\nx = [import_module('tools.b.c')]",
        "import typing\nif typing.TYPE_CHECKING:\n    import tools.d\nelse:\n    import tools.b.c",
    ],
)
def test_every_way_to_import_a_module(imported, text):
    files = {
        "tools/a.py": text,
        "tools/b/__init__.py": "",
        "tools/b/c.py": "",
        "tools/d.py": "",
        "tools/__init__.py": "",
    }
    assert imported(files, "tools.a") == ["tools/__init__.py", "tools/a.py", "tools/b/__init__.py", "tools/b/c.py"]


def test_packages_and_what_they_import_count(imported):
    files = {
        "tools/__init__.py": "",
        "tools/a.py": "from tools.b.c import name",
        "tools/b/__init__.py": "from . import d\nfrom ..e import x",
        "tools/b/c.py": "name = 1",
        "tools/b/d.py": "import tools.a",  # a circle
        "tools/e.py": "import numpy, json.decoder",
        "tools/b/f.py": "",
    }
    assert imported(files, "tools.a") == sorted(set(files) - {"tools/b/f.py"})
    assert imported(files, "tools.b.f", "tools.e") == sorted(files)
    assert imported(files, "tools.e") == ["tools/__init__.py", "tools/e.py"]


def test_the_library_counts_for_itself_alone(imported):
    """`builders` offers models by name, which no build asks for: `test_all_that_real_processes_import_is_in_the_keys` holds that."""
    files = {
        "builders/__init__.py": "def f():\n    from builders import library\n    from builders.library import models",
        "builders/library/__init__.py": "from builders.library import models",
        "builders/library/models.py": "import tools.a",
        "tools/__init__.py": "",
        "tools/a.py": "",
    }
    assert imported(files, "builders") == ["builders/__init__.py"]
    assert imported(files, "builders.library") == sorted(files)


def test_what_only_a_type_checker_imports_does_not_count(imported):
    files = {
        "tools/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tools import b",
        "tools/b.py": "",
    }
    assert imported(files, "tools.a") == ["tools/a.py"]


def test_a_name_that_is_no_module_is_a_name(imported):
    assert imported({"tools/__init__.py": "x = 1", "tools/a.py": "from tools import x"}, "tools.a") == [
        "tools/__init__.py",
        "tools/a.py",
    ]


def test_a_family_is_the_one_that_is_asked_for(imported):
    files = {
        "builders/__init__.py": 'import importlib\ndef get(family):\n    return importlib.import_module(f"builders.{family}")',
        "builders/one.py": "",
        "builders/two.py": "from builders import layers",
        "builders/layers.py": "",
    }
    assert imported(files, "builders", family="one") == ["builders/__init__.py", "builders/one.py"]
    assert imported(files, "builders", family="two") == [
        "builders/__init__.py",
        "builders/layers.py",
        "builders/two.py",
    ]
    with pytest.raises(closure.ClosureError, match=r"^builders/__init__\.py:3: it imports a family.* Fix: "):
        imported(files, "builders")
    with pytest.raises(closure.ClosureError, match=r"^builders/__init__\.py:3: there is no module builders\.three"):
        imported(files, "builders", family="three")


@pytest.mark.parametrize(
    "text",
    [
        "from tools.b import *",
        "import importlib\nimportlib.import_module(name)",
        "import importlib\nimportlib.import_module(f'tools.{name}')",
        "import importlib\nimportlib.import_module('tools.' + name)",
        "import importlib\nimportlib.import_module('.b', 'tools')",
        "__import__(name)",
        "import tools.missing",
        "from tools.b.missing import name",
    ],
)
def test_what_does_not_say_what_it_imports_is_refused(imported, text):
    with pytest.raises(closure.ClosureError, match=r"^tools/a\.py:[12]: .* Fix: .*\.$"):
        imported({"tools/__init__.py": "", "tools/a.py": text, "tools/b.py": ""}, "tools.a")


def test_a_program_that_is_missing_is_named(imported):
    with pytest.raises(closure.ClosureError, match=r"^tools\.nothing: there is no such module"):
        imported({}, "tools.nothing")


# This repository


@pytest.mark.parametrize("family", builders.families())
def test_a_build_has_nothing_to_do_with_what_checks_evaluates_or_shows_it(family):
    files = closure.files(ROOT, specification.BUILD_PROGRAMS, family=family)
    assert {"builders/__init__.py", "builders/build.py", f"builders/{family}.py", "tools/archive/packing.py"} <= set(
        files
    )
    tools = [file for file in files if file.startswith("tools/")]
    assert all(file.startswith(("tools/__init__", "tools/archive/", "tools/common/")) for file in tools), tools
    assert not {"tools/archive/reading.py", "tools/archive/contents.py"} & set(files)
    assert not [file for file in files if file.startswith("builders/library/")]
    others = {each for each in builders.families() if f"builders/{each}.py" in files}
    assert others == {family} | ({"convnext"} if family == "convnextv2" else set())  # which is made of its parts


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the sources, with a library of builders."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("builders", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "builders/library").mkdir(exist_ok=True)
    (folder / "builders/library/extra.py").write_text("import builders\n")
    return folder


@pytest.mark.parametrize("family", builders.families())
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_edit_changes_the_key_if_and_only_if_the_program_imports_the_file(sources, program, family):
    modules, digest = PROGRAMS[program]
    inside = set(closure.files(sources, modules, family=family))
    before = digest(sources, family)
    every = sorted(str(file.relative_to(sources)) for file in sources.rglob("*.py"))
    assert inside < set(every) and len(every) > 80
    for name in every:
        file = sources / name
        text = file.read_text()
        file.write_text(f"{text}\n# edited\n")
        assert (digest(sources, family) != before) == (name in inside), name
        file.write_text(text)
    assert digest(sources, family) == before


def variants():
    """A small row of each family: the quickstart's, and one for a golden checkpoint of the family that the quickstart lacks."""
    by_stem = {variant.stem: variant for variant in catalog.load().variants}
    found = {family: by_stem[f"{family}_digits"] for family in ("convnext", "regnety", "vit")}
    case = json.loads((GOLDEN / "case.json").read_text())
    found["convnextv2"] = dataclasses.replace(
        found["convnext"],
        family="convnextv2",
        architecture={"depths": case["depths"], "dims": case["dims"]},
        checkpoint=str(GOLDEN / case["checkpoint"]),
        format=case["format"],
    )
    return found


# Runs a module as `python -m` does, and writes the files of all imported modules when it leaves.
DRIVER = """
import json, os, pathlib, runpy, sys
leave, out, program = os._exit, pathlib.Path(sys.argv.pop(1)), sys.argv[1]
def report(status):
    out.write_text(json.dumps([module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)]))
    leave(status)
os._exit = report
sys.argv.pop(0)
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


def run(program, folder, **options) -> set[str]:
    """Run a program on `folder`; the files of this repository that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, folder / "imported.json", program, folder / "spec.json", folder / "out"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = json.loads((folder / "imported.json").read_text())
    assert any("/tensorflow/" in file for file in files)
    return {file.removeprefix(f"{ROOT}/") for file in files if file.startswith((f"{ROOT}/builders/", f"{ROOT}/tools/"))}


@pytest.mark.slow
@pytest.mark.parametrize("family", builders.families())
def test_all_that_real_processes_import_is_in_the_keys(tmp_path, family):
    variant = variants()[family]
    spec = specification.specify(variant, catalog.load(), ROOT / variant.checkpoint)
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    inside = set(closure.files(ROOT, specification.BUILD_PROGRAMS, family=family))
    found = run("builders.build", tmp_path)
    assert f"builders/{family}.py" in found and found <= inside, found - inside
    if family != "convnextv2":  # one that needs another's file is enough: the check knows no families
        return
    inside = set(closure.files(ROOT, specification.CHECK_PROGRAMS, family=family))
    heads = "".join(json.dumps({"head": head}) + "\n" for head in spec["heads"])
    found = run("tools.publishing.check", tmp_path, input=heads)
    assert all((tmp_path / f"out/{head}.check.json").exists() for head in spec["heads"])
    assert "builders/precision.py" in found and found <= inside, found - inside


def test_what_a_building_process_is_told_is_in_the_key(monkeypatch):
    before = specification_of("convnext_digits")
    monkeypatch.setitem(specification.ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL", "0")
    after = specification_of("convnext_digits")
    assert before["build"]["key"] != after["build"]["key"] and before["build"]["sources"] == after["build"]["sources"]
