"""Write the stub of a row, a family or a collection, with TODO where a person must decide.

A stub need not be complete: `tools.catalog.load` refuses every TODO, and says what belongs in its place.
"""

import keyword
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tools.catalog.fields import Problems, read_toml, suggest
from tools.catalog.layout import is_name
from tools.catalog.reading import NAME_FIX, NO_FAMILIES, ROW_KEYS
from tools.common.files import ROOT
from tools.common.problems import UsageError, with_fix

# The keys that every row must have, and what their TODO asks for.
ROW = {
    "size": "TODO: a key of [architectures]",
    "data": "TODO: a key of [data]",
    "resolution": "TODO: a whole number, the side of the images in pixels",
    "checkpoint": "TODO: the name of the file at upstream, below the `url` of its source",
}


_TABLES = {
    "size": "architectures",
    "data": "data",
    "source": "sources",
}  # of a family's file, by the key that names a row of it


class ScaffoldingError(UsageError, ValueError):
    """A stub cannot be written; the message ends with the fix."""


def variant(family: str, values: dict[str, Any], root: Path = ROOT) -> list[str]:
    """Add a row with `values` to the file of `family`; return the changed files, relative to `root`.

    Raises:
      ScaffoldingError: there is no such family, or it has no such key, size, data or source.
    """
    path = root / f"modules/{family}.toml"
    families = {p.stem for p in (root / "modules").glob("*.toml") if p.name not in NO_FAMILIES}
    if family not in families:
        raise ScaffoldingError(
            with_fix(
                f"there is no family {family!r}",
                f"start it: `tools/new.py family {family}`; or {suggest(family, families)}",
            )
        )
    if wrong := list(_unknown(path, values)):
        raise ScaffoldingError("\n".join(wrong))
    row = ", ".join(f"{key} = {toml(value)}" for key, value in (ROW | values).items())
    text = path.read_text(encoding="utf-8")
    changed = re.sub(r"(?ms)^(variants = \[\n.*?)^\]$", lambda m: f"{m[1]}  {{ {row} }},\n]", text, count=1)
    if changed == text:
        raise ScaffoldingError(with_fix(f"{path.name} has no list `variants = [` that ends with a line `]`", "add one"))
    path.write_text(changed, encoding="utf-8")
    return [f"modules/{family}.toml"]


def family(name: str, root: Path = ROOT) -> list[str]:
    """Write a family's model, rows and test; return the files, relative to `root`."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ScaffoldingError(with_fix(f"{name!r} is no family's name", "use lower-case letters, digits and `_`"))
    if keyword.iskeyword(name):
        raise ScaffoldingError(
            with_fix(f"{name!r} is a word of Python, which no module may be called", "choose another")
        )
    files = {
        f"builders/{name}.py": "family.py.j2",
        f"modules/{name}.toml": "family.toml.j2",
        f"tests/builders/test_{name}.py": "family_test.py.j2",
    }
    _refuse_existing([f"builders/{name}", *files], root)
    for file, template in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(rendered(root, template, name=name), encoding="utf-8")
    variant(name, {"size": "small", "data": "1k", "resolution": 224}, root)
    return list(files)


def collection(name: str, family: str | None = None, root: Path = ROOT) -> list[str]:
    """Write a collection's file, of the rows of `family`; return the file, relative to `root`."""
    if "/" in name or not is_name(name):
        raise ScaffoldingError(with_fix(f"{name!r} is no collection's name", NAME_FIX))
    file = f"collections/{name}.toml"
    _refuse_existing([file], root)
    text = rendered(root, "collection.toml.j2", name=name, family=family or "TODO: a family, or other keys and values")
    (root / file).write_text(text, encoding="utf-8")
    return [file]


def toml(value: Any) -> str:
    """Return a value as TOML spells it: a string in quotation marks, a number, true or false, a list or an inline table of such."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, int | float):
        return f"{value:_}" if isinstance(value, int) else repr(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse(assignment: str) -> tuple[str, Any]:
    """Return the key and the value of `KEY=VALUE`: a number, true or false, a list where it looks like one, else a string."""
    key, sign, value = assignment.partition("=")
    if not sign or not re.fullmatch(r"[a-z0-9_]+", key):
        raise ScaffoldingError(with_fix(f"{assignment!r} is no KEY=VALUE", "write, for example, resolution=224"))
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _unknown(path: Path, values: dict[str, Any]) -> Iterator[str]:
    """Yield what the rows of a family's file cannot say."""
    file = f"modules/{path.name}"
    tables = read_toml(path, file, Problems())
    for key, value in values.items():
        if key not in ROW_KEYS:
            yield with_fix(f"a row of {file} has no key {key!r}", suggest(key, ROW_KEYS))
        known = tables.get(_TABLES.get(key, ""))
        if isinstance(known, dict) and str(value) not in known:
            yield with_fix(f"{file} has no {key} {value!r}", suggest(value, known, f"[{_TABLES[key]}] first"))


def _refuse_existing(files: Iterable[str], root: Path) -> None:
    for file in files:
        if (root / file).exists():
            raise ScaffoldingError(with_fix(f"{file} exists already", "choose another name, or edit it"))


def rendered(root: Path, template: str, **names: Any) -> str:
    """Return a template of `templates/new` with `names` filled in."""
    import jinja2

    loader = jinja2.FileSystemLoader(root / "templates/new")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    return environment.get_template(template).render(**names)
