"""The tag files: read the vocabularies of the documents' metadata, and find everything that is wrong with them.

    ids = read(Path("tags"), problems)["task"]        # {"image-classification", ...}

A file lists `values`, each with `id` and `display_name` and by vocabulary `url`, `domains`, `url_template`; or it describes
addresses, `format: url` with an optional `required_domain`.
"""

import os
import re
from pathlib import Path
from typing import Any

from tools.common.problems import ERROR, Problem
from tools.documents.metadata import DOMAINS, VOCABULARIES
from tools.documents.rule import Rule
from tools.documents.tree import read_document

TAG_FILE = Rule(
    "tag-file",
    ERROR,
    "tag files are YAML of the known form, with unique ids",
    "correct the file at the line that is named",
)

KEYS = {
    "license": {"id", "display_name", "url"},
    "task": {"id", "display_name", "domains"},
    "interactive_visualizer": {"id", "url_template"},
}
DEEPEST = 10  # collections in each other; a vocabulary has four
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def read(folder: Path, problems: list[Problem]) -> dict[str, dict[str, None]]:
    """Return the ids of every vocabulary; what is wrong with the files is added to `problems`.

    A vocabulary whose file cannot be read is left out, so that its values are not reported one by one.
    """
    import yaml

    found: dict[str, dict[str, None]] = {}
    for name in VOCABULARIES.values():
        if not (folder / f"{name}.yaml").is_file():
            _add(
                problems,
                folder / f"{name}.yaml",
                1,
                "the tag file does not exist",
                "add it, or name its folder with --tags",
            )
    for path in sorted(folder.glob("*.yaml")):
        try:
            node = _composed(read_document(path).decode("utf-8"), yaml)
        except OSError as error:
            _add(problems, path, 1, f"cannot be read: {error.strerror}", "correct its permissions, or remove it")
            continue
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            what = getattr(error, "problem", None) or str(error).split("\n")[0]
            _add(problems, path, mark.line + 1 if mark else 1, f"is no YAML: {what}", "correct the file at that line")
            continue
        ids = _vocabulary(path, node, problems, yaml)
        if ids is not None:
            found[path.stem] = ids
    return found


def _composed(text: str, yaml: Any) -> Any:
    """Return the root node of a YAML text, or raise YAMLError; one that is nested more deeply would crash the C library."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem="it is nested more deeply than any tag file", problem_mark=event.start_mark
            )
    return yaml.compose(text, Loader=loader)


def _vocabulary(path: Path, node: Any, problems: list[Problem], yaml: Any) -> dict[str, None] | None:
    top = _mapping(path, node, problems, yaml)
    if top is None:
        return None
    allowed = {"format", "required_domain"} if "format" in top else {"values"}
    for key, (line, _) in top.items():
        if key not in allowed:
            _add(
                problems, path, line, f"unknown key {key!r}, {' and '.join(sorted(allowed))} were expected", "remove it"
            )
    if "format" in top:
        if path.stem in VOCABULARIES.values():
            _add(problems, path, 1, "lists no values, a vocabulary was expected", "add `values:`")
        elif getattr(top["format"][1], "value", None) != "url":
            _add(problems, path, top["format"][0], "the only format is `url`", "write `format: url`")
        return None
    if "values" not in top or not isinstance(top["values"][1], yaml.SequenceNode):
        _add(problems, path, 1, "has no list `values`", "write `values:` and below it `  - id: ...`")
        return None
    ids: dict[str, None] = {}
    keys = KEYS.get(path.stem, {"id", "display_name"})
    optional = {"url"} if path.stem == "license" else set()
    for item in top["values"][1].value:
        line = item.start_mark.line + 1
        entry = _mapping(path, item, problems, yaml)
        if entry is None:
            continue
        for key in sorted(keys - optional - entry.keys()):
            _add(problems, path, line, f"a value has no `{key}`", f"add `{key}: ...`")
        for key in entry.keys() - keys:
            _add(
                problems,
                path,
                entry[key][0],
                f"unknown key {key!r}, {', '.join(sorted(keys))} were expected",
                "remove it",
            )
        if "id" not in entry:
            continue
        identifier = _word(entry["id"][1])
        line = entry["id"][0]
        if not _ID.fullmatch(identifier):
            _add(problems, path, line, f"{identifier!r} is no id", "use letters, digits, `.`, `_`, `+` and `-`")
        elif identifier in ids:
            _add(problems, path, line, f"id {identifier!r} is there twice", "remove one of the two")
        if path.stem == "task":
            _check_task(path, line, identifier, entry, problems)
        ids[identifier] = None
    return ids


def _check_task(
    path: Path, line: int, identifier: str, entry: dict[str, tuple[int, Any]], problems: list[Problem]
) -> None:
    if not identifier.startswith(DOMAINS):
        _add(problems, path, line, f"task {identifier!r} does not start with {', '.join(DOMAINS)}", "rename it")
    if "domains" not in entry:
        return
    line, node = entry["domains"]
    listed = [_word(each) for each in node.value] if isinstance(node.value, list) else []
    if not listed:
        _add(problems, path, line, "`domains` is not a list", "write `domains:` and below it `  - image`")
    for domain in listed:
        if f"{domain}-" not in DOMAINS:
            _add(problems, path, line, f"{domain!r} is no domain", "use image, text, audio or video")


def _mapping(path: Path, node: Any, problems: list[Problem], yaml: Any) -> dict[str, tuple[int, Any]] | None:
    """Return {key: (line, node)} of a mapping; None, and a problem is added, if it is none."""
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1 if node is not None else 1
        _add(problems, path, line, "keys and values were expected", "write `id: ...` and `display_name: ...`")
        return None
    found: dict[str, tuple[int, Any]] = {}
    for key, value in node.value:
        if _word(key) in found:
            _add(problems, path, key.start_mark.line + 1, f"key {_word(key)!r} is there twice", "remove one of the two")
        found[_word(key)] = (key.start_mark.line + 1, value)
    return found


def _word(node: Any) -> str:
    """Return the word that a node is; "" of a list or a mapping, which aliases can make longer than any memory."""
    return node.value if isinstance(node.value, str) else ""


def _add(problems: list[Problem], path: Path, line: int, message: str, fix: str) -> None:
    problems.append(TAG_FILE.problem(os.fspath(path), line, message, fix))
