"""Find every regular expression in the code of a package, and texts that would make it slow.

    for found in patterns("tools.documents"):
        survives(found, seconds=20)

A pattern is found where the code calls `re`: one that is written in place or as a constant of its module. Texts are made from the
pattern's own parts: what it repeats, again and again, behind what comes before and in front of what it cannot match. The slowest of
those on a few kilobytes are then tried on a megabyte, in a process that may use so many seconds of processor time.
"""

import ast
import importlib
import os
import pkgutil
import re
import resource
import time
from re import _compiler, _constants, _parser
from typing import NamedTuple

SEARCHES = {"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)
SINGLE = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)
SHORT, LONG, TRIED = 4_000, 1_000_000, 3


class Found(NamedTuple):
    """A pattern, where it stands, and the methods that it is used with."""

    place: str
    pattern: re.Pattern
    methods: frozenset


def patterns(package, local):
    """Yield all patterns of a package; `local` maps the beginning of a place to a pattern that is known only when the code runs."""
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        yield from _of_module(importlib.import_module(module.name), local)


def _of_module(module, local):
    with open(module.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    constants, used = {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[id(node.value)] = node.targets[0].id
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in SEARCHES:
            used.setdefault(node.value.id, set()).add(node.attr)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re"):
            continue
        if node.func.attr not in SEARCHES | {"compile"}:
            continue
        place = f"{module.__name__}: {ast.unparse(node.args[0])}"
        flags = [each.value for each in node.keywords if each.arg == "flags"]
        flags += node.args[1:2] if node.func.attr == "compile" else []
        try:
            source, flag = (
                eval(ast.unparse(each), vars(module)) for each in (node.args[0], *(flags or [ast.Constant(0)]))
            )
        except (NameError, AttributeError):
            source, flag = next((text for start, text in local.items() if place.startswith(start)), None), 0
        assert source is not None, (
            f"{place} is known only when the code runs: make it a constant, or give an example of it"
        )
        methods = used.get(constants.get(id(node)), {"finditer"}) if node.func.attr == "compile" else {node.func.attr}
        yield Found(place, re.compile(source, flag), frozenset(methods))


def survives(found, seconds):
    """Return whether the pattern reads its slowest texts of a megabyte within some seconds of processor time."""
    process = os.fork()
    if not process:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            _try(found)
        finally:
            os._exit(0)
    return os.waitpid(process, 0)[1] == 0


def _try(found):
    timed = []
    for before, unit, behind in set(texts(found.pattern)):
        text = before + unit * (SHORT // len(unit)) + behind
        start = time.process_time()
        _read(found, text)
        timed.append((time.process_time() - start, before, unit, behind))
    for _, before, unit, behind in sorted(timed, reverse=True)[:TRIED]:
        _read(found, before + unit * (LONG // len(unit)) + behind)


def _read(found, text):
    for method in found.methods:
        if method in ("match", "fullmatch"):
            getattr(found.pattern, method)(text)
        else:  # what searches tries every place
            for _ in found.pattern.finditer(text):
                pass


def texts(pattern):
    """Yield (before, unit, behind) of texts that are made to be read slowly."""
    parsed = _parser.parse(pattern.pattern, pattern.flags)
    letters = sorted({"a", "0", " ", "\n", *re.sub(r"\\[a-zA-Z]|[A-Za-z0-9]", "", pattern.pattern)})
    example = _Example(parsed.state, letters)
    units = {("", whole) for whole in example.of(parsed)} | {("", whole[:-1]) for whole in example.of(parsed)}
    for before, unit in [*_repeats(parsed, "", example, False), *_repeats(parsed, "", example, True)]:
        units |= {(before, unit), ("", before + unit), ("", before)}
        units |= {("", before + unit + letter) for letter in letters}
    for before, unit in units:
        for behind in ("", "\0", "\n"):
            if unit:
                yield before, unit, behind


class _Example:
    """Makes short texts that match parts of a pattern."""

    def __init__(self, state, letters):
        self._state, self._letters = state, letters

    def of(self, nodes):
        """Return a few texts that match the nodes, each with other letters."""
        return {self._one(nodes, choice) for choice in range(4)}

    def _one(self, nodes, choice):
        return "".join(self._text(node, choice) for node in nodes)

    def _text(self, node, choice):
        kind, value = node
        if kind is _constants.LITERAL:
            return chr(value)
        if kind in SINGLE:
            alone = _compiler.compile(_parser.SubPattern(self._state, [node]), re.DOTALL)
            fitting = [letter for letter in self._letters if alone.match(letter)]
            return fitting[choice % len(fitting)] if fitting else next(filter(alone.match, map(chr, range(0x10000))))
        if kind in REPEATS:
            return self._one(value[2], choice) * max(value[0], min(1, value[1]))
        if kind is _constants.SUBPATTERN:
            return self._one(value[3], choice)
        if kind is _constants.ATOMIC_GROUP:
            return self._one(value, choice)
        if kind is _constants.BRANCH:
            return self._one(value[1][choice % len(value[1])], choice)
        return ""  # assertions, and references to groups


def _repeats(nodes, before, example, skip):
    """Yield (what comes before, what is repeated) of every part that may be repeated without end.

    With `skip`, what comes before is without its parts that need not be there.
    """
    for node in nodes:
        kind, value = node
        if kind in REPEATS:
            if value[1] > 100:
                for unit in example.of(value[2]):
                    yield before, unit
            yield from _repeats(value[2], before, example, skip)
        elif kind is _constants.SUBPATTERN:
            yield from _repeats(value[3], before, example, skip)
        elif kind is _constants.ATOMIC_GROUP:
            yield from _repeats(value, before, example, skip)
        elif kind is _constants.BRANCH:
            for branch in value[1]:
                yield from _repeats(branch, before, example, skip)
        elif kind in (_constants.ASSERT, _constants.ASSERT_NOT):
            yield from _repeats(value[1], before, example, skip)
        if kind not in REPEATS or value[0] or not skip:
            before += example._text(node, 0)
