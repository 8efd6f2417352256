"""A digest of all code and templates that can change a page, so that a page made by other code is made again.

    renderer_key("tools.site.pages")        # of what makes the pages of a hub

The code is a module and every module of this repository that it imports, directly or not, also those that it imports within
functions. It is read and not imported: what some other command happened to import does not matter. The standard library's
`modulefinder` follows the imports, too, but compiles each file and those of all libraries, which takes seconds.
`tools.publishing.closure` finds the same files, and refuses what it cannot follow because its keys decide bytes; it parses each
file, which would be a fifth of the time of a run that makes one page again.
"""

import hashlib
import importlib.metadata
import re
from functools import cache
from pathlib import Path

from tools.common.files import ROOT

PACKAGES = ("tools", "builders")  # of this repository
# One import on a line, as the formatter writes them; names in brackets may take several lines.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^()]*\)|[^\n]*)|import[ \t]+([\w., \t]+))", re.M
)
# What turns Markdown, code and templates into HTML: another version may do it otherwise.
_LIBRARIES = ("cmarkgfm", "jinja2", "nh3", "pygments")


@cache
def renderer_key(module: str, root: Path = ROOT) -> str:
    """Return the digest of the code of `module` and what it imports, of all templates, and of the libraries' versions."""
    content = hashlib.blake2b(digest_size=16)
    for path in sources(module, root) + sorted((root / "templates").rglob("*.j2")):
        name = path.relative_to(root).as_posix().encode()
        data = path.read_bytes()
        content.update(b"%s\0%d\0%s" % (name, len(data), data))
    content.update(repr([importlib.metadata.version(library) for library in _LIBRARIES]).encode())
    return content.hexdigest()


def sources(module: str, root: Path = ROOT) -> list[Path]:
    """Return the files of `module` and of everything in this repository that it imports, sorted."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name.partition(".")[0] not in PACKAGES:
            continue
        path = _file(name, root)
        if path is None or path in found:
            continue
        found.add(path)
        waiting.append(name.rpartition(".")[0])  # a package's own file runs first
        for parent, names, plain in _IMPORT.findall(path.read_text(encoding="utf-8")):
            if parent:
                waiting.append(parent)
                waiting += [f"{parent}.{each}" for each in re.findall(r"\w+", names)]  # a module, or what is no file
            waiting += [each.split()[0] for each in plain.split(",") if each.strip()]
    return sorted(found)


def _file(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)
