"""Import closure of a program: the files of the repository that it may import, read from the sources.

    files(ROOT, ["builders.build"], family="vit")       # ["builders/__init__.py", "builders/build.py", ..., "builders/vit.py", ...]

Every import counts, also one inside a function, and so do the packages that a module lies in. Imports for type checkers alone do
not, and neither do those of `builders.library` from outside of it. Nothing is executed. The standard library's `modulefinder` reads
all of TensorFlow, too, and does not know families.
"""

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tools.common.problems import Problem

PACKAGES = ("builders", "tools")  # of this repository; all others are the environment's, whose versions are in the keys
FAMILY = "{family}"
# What `builders` offers besides: models by name, and modules unrolled. No build asks for it, so no key covers it.
LIBRARY = "builders.library"


class ClosureError(ValueError):
    """The sources do not say which file is imported; the message names the line and the fix."""


class _Import(NamedTuple):
    """One import: the module, or `names` of it, which may be modules, too; `FAMILY` in `module` stands for the row's family."""

    module: str
    names: tuple[str, ...]
    line: int


def files(root: Path, modules: Iterable[str], *, family: str | None = None) -> list[str]:
    """Return what running or importing `modules` may import, as sorted paths from the repository at `root`.

    `family` is what `import_module(f"builders.{family}")` imports. Raises ClosureError.
    """
    found: set[str] = set()
    waiting = list(modules)
    for module in waiting:
        if _file(root, module) is None:
            raise ClosureError(str(Problem(module, "there is no such module", "correct its name")))
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        package, _, _ = module.rpartition(".")
        if package:
            waiting.append(package)
        file = _file(root, module)
        if file is None:
            continue
        found.add(file)
        waiting += _imported(root, module, file, family)
    return sorted(found)


def _imported(root: Path, module: str, file: str, family: str | None) -> Iterator[str]:
    """Yield the modules of this repository that one of them imports."""
    text = (root / file).read_text(encoding="utf-8")
    package = module if file.endswith("/__init__.py") else module.rpartition(".")[0]
    for each in _imports(text, file, package):
        name = each.module
        if FAMILY in name:
            if family is None:
                problem = Problem(file, "it imports a family, and none is given", "say which", line=each.line)
                raise ClosureError(str(problem))
            name = name.replace(FAMILY, family)
        if name.partition(".")[0] not in PACKAGES or (_is_library(name) and not _is_library(module)):
            continue
        if _file(root, name) is None and not (root / name.replace(".", "/")).is_dir():
            raise ClosureError(str(Problem(file, f"there is no module {name}", "correct the import", line=each.line)))
        yield name
        parts = (f"{name}.{part}" for part in each.names if _file(root, f"{name}.{part}"))
        yield from (part for part in parts if not _is_library(part) or _is_library(module))


def _is_library(module: str) -> bool:
    return module == LIBRARY or module.startswith(f"{LIBRARY}.")


def _file(root: Path, module: str) -> str | None:
    """Return the path of a module of this repository, or None if there is none."""
    path = module.replace(".", "/")
    return next((each for each in (f"{path}.py", f"{path}/__init__.py") if (root / each).is_file()), None)


@functools.lru_cache(maxsize=1024)
def _imports(text: str, file: str, package: str) -> tuple[_Import, ...]:
    """Return the imports of a source text; raises ClosureError for those that do not say what they import."""
    visitor = _Visitor(file, package)
    visitor.visit(ast.parse(text, file))
    return tuple(visitor.found)


class _Visitor(ast.NodeVisitor):
    """Collect the imports of one file."""

    def __init__(self, file: str, package: str):
        self.found: list[_Import] = []
        self._file, self._package = file, package

    def visit_If(self, node: ast.If) -> None:
        """Leave out what only a type checker imports."""
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for each in node.orelse:
                self.visit(each)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [_Import(alias.name, (), node.lineno) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:  # one level is the package itself
            parents = self._package.split(".")
            module = ".".join([*parents[: len(parents) + 1 - node.level], *([module] if module else [])])
        names = tuple(alias.name for alias in node.names)
        if names == ("*",) and module.partition(".")[0] in PACKAGES:
            self._refuse(node, f"`from {module} import *` does not say what it imports", "name what is used")
        self.found.append(_Import(module, names, node.lineno))

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"):
            module = _spelled(node.args[0]) if node.args else None
            if module is None or module.startswith("."):
                fix = 'write the name, or f"builders.{family}"'
                self._refuse(node, f"`{ast.unparse(node)}` does not say what it imports", fix)
            else:
                self.found.append(_Import(module, (), node.lineno))
        self.generic_visit(node)

    def _refuse(self, node: ast.stmt | ast.expr, message: str, fix: str) -> None:
        raise ClosureError(str(Problem(self._file, message, fix, line=node.lineno)))


def _spelled(node: ast.expr) -> str | None:
    """Return the text of a constant or of an f-string whose only variable is `family`; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue) and ast.unparse(part.value) == "family":
            parts.append(FAMILY)
        else:
            return None
    return "".join(parts)
