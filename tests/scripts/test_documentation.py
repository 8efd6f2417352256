"""README, the other pages and every `--help` are held against what the scripts take."""

import argparse
import importlib
import re
import shlex

import pytest

from tests.support.commands import ROOT

SCRIPTS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__")
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "tests/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
OTHERS = {
    "--config",
    "--project",
    "--region",
    "--signature",
}  # of Bazel, Beam and model_signing, as are all with an underscore
COMMAND = re.compile(r"(?:python )(tools/\w+\.py)((?:\\\n|[^`\n])*)")


def parser(script):
    return importlib.import_module(f"tools.{script}").parser()


def actions(found):
    """Yield every action of a parser and of its commands."""
    for action in found._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)


def options(script):
    return {option for action in actions(parser(script)) for option in action.option_strings}


def commands(text):
    """Return [(script, its arguments), ...] of the command lines that a text shows."""
    found = []
    for path, rest in COMMAND.findall(text):
        words = shlex.split(rest.replace("\\\n", " "), comments=True)
        ends = [words.index(word) for word in (">", "|", "&&") if word in words]
        found.append((path.removeprefix("tools/").removesuffix(".py"), words[: min(ends, default=None)]))
    return found


def parses(script, words):
    """Return whether a script takes the arguments; what Beam's runners take besides is theirs."""
    try:
        _, others = parser(script).parse_known_args(words)
    except SystemExit:
        return False
    return not others or "--runner" in words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_pages_parse(page):
    for script, words in commands(page.read_text()):
        assert script in SCRIPTS, f"{page.name} names tools/{script}.py, which does not exist"
        if words:
            assert parses(script, words), f"{page.name}: tools/{script}.py {shlex.join(words)} does not parse"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_pages_exist(page):
    known = OTHERS.union(*map(options, SCRIPTS))
    code = re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", "\n".join(code)))
    assert {name for name in named if "_" not in name} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_targets_of_pages_exist(page):
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"there is no `make {target}`"
    for path in re.findall(r"\b(?:tools|modules|builders|collections|templates|tests|docs)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), path


def test_the_table_has_every_script():
    table = re.search(r"^## I want to \.\.\.$(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    in_table = {script for row in rows for script, _ in commands(row)}
    assert in_table == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_commands_that_parse(script):
    shown = commands(importlib.import_module(f"tools.{script}").__doc__)
    assert script in dict(shown), "no example of its own"
    for other, words in shown:
        assert parses(other, words), f"tools/{other}.py {shlex.join(words)} does not parse"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_has_a_help(script):
    assert all(action.help for action in actions(parser(script)) if not isinstance(action, argparse._SubParsersAction))
