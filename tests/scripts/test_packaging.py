"""The project's files agree with each other: what is installed, what is locked, what CI installs."""

import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import programs
from tests.support.commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_every_folder_of_code_is_a_package_that_is_installed():
    settings = PROJECT["tool"]["setuptools"]["packages"]["find"]
    found = setuptools.find_packages(str(ROOT), include=settings["include"])
    folders = {path.parent for top in ("builders", "tools") for path in (ROOT / top).rglob("*.py")}
    assert set(found) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_every_script_is_named_where_nobody_may_import_it():
    scripts = [f"tools.{path.stem}" for path in sorted((ROOT / "tools").glob("*.py")) if path.stem != "__init__"]
    contracts = {each["name"]: each for each in PROJECT["tool"]["importlinter"]["contracts"]}
    assert contracts["Nobody imports scripts"]["protected_modules"] == scripts


def test_the_lock_pins_what_the_project_asks_for():
    text = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", text, re.MULTILINE))
    asked = [
        *PROJECT["project"]["dependencies"],
        *(each for name in ("test", "beam", "huggingface", "imagenet") for each in EXTRAS[name]),
    ]
    for requirement in map(Requirement, asked):
        if requirement.name != PROJECT["project"]["name"]:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert "://" not in text, "an index is named"


@pytest.fixture
def make(tmp_path):
    """`make(*arguments, pythons)`: run the Makefile in a folder that has a .venv, where only these programs are called python..."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("sh", "rm", "touch", "make"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))

    def run(*arguments, **pythons):
        for name, version in pythons.items():
            file = tmp_path / "bin" / name.replace("_", ".")
            file.write_text(
                f"#!{sys.executable}\nimport sys\nsys.version_info = {version}\n"
                "if sys.argv[1] == '-c':\n    exec(sys.argv[2])\nelse:\n    sys.exit(f'{sys.argv[0]} makes it')\n"
            )
            file.chmod(0o755)
        environment = {"PATH": str(tmp_path / "bin")}
        return subprocess.run(
            ["make", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "pythons", "chosen"),
    [
        ([], {"python3_12": (3, 12)}, "python3.12"),
        ([], {"python3_13": (3, 13), "python3_11": (3, 11)}, "python3.11"),
        (["PYTHON=other"], {"other": (3, 13), "python3_11": (3, 11)}, "other"),
        (["PYTHON="], {"python3_11": (3, 11)}, "python3.11"),
    ],
)
def test_make_takes_a_python_that_will_do(make, arguments, pythons, chosen):
    assert f"/{chosen} makes it" in make("venv", *arguments, **pythons).stderr


@pytest.mark.parametrize(
    ("arguments", "pythons"),
    [([], {}), ([], {"python3": (3, 12)}), (["PYTHON=old"], {"old": (3, 10)}), (["PYTHON=new"], {"new": (3, 14)}), (["PYTHON=none"], {})],
)  # fmt: skip
def test_make_without_such_a_python_says_so_and_leaves_the_environment(make, tmp_path, arguments, pythons):
    done = make("venv", *arguments, **pythons)
    assert done.stderr.startswith("hubpress needs Python 3.11, 3.12 or 3.13. Fix: ") and "makes it" not in done.stderr
    assert done.returncode and (tmp_path / ".venv").is_dir()


def test_ci_installs_every_program_that_tests_need():
    named = re.search(r"declare -A packages=\((.*)\)", (ROOT / ".ci/run").read_text())[1]
    installed = dict(re.findall(r"\[(\w+)\]=(\S+)", named))
    assert installed == {program: package for program, (_, package) in programs.PROGRAMS.items()}


def test_a_missing_program_skips_a_test_and_fails_it_in_ci(monkeypatch):
    monkeypatch.setattr(programs, "PROGRAMS", {"abacus": (("no-such-program",), "abacus-tools")})
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"abacus is not installed\. Fix: apt-get install abacus-tools"):
        programs.requires("abacus")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install abacus-tools"):
        programs.requires("abacus")
    monkeypatch.setattr(programs, "PROGRAMS", {"shell": (("no-such-program", "sh"), "dash")})
    assert programs.requires("shell").endswith("/sh")
