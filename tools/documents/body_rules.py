"""The rules over code, tables and the lines of text."""

import re
from collections.abc import Iterator

from tools.common.problems import WARNING
from tools.documents import document as grammar
from tools.documents.document import Entry
from tools.documents.rule import DocumentFile, LineProblem, rule
from tools.documents.tree import Tree

_QUOTED = re.compile(r"[\"']")


@rule(
    "snippet-handle",
    WARNING,
    "the code of a page loads the page's own model",
    fix="load the page's own handle in its code",
    kinds=grammar.MODELS,
)
def snippet_handle(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    document = page.document
    if not document.body or not hub.mentioned(document.body):
        return
    own = hub.own_addresses(document)
    for start, end, _ in page.code:
        code = document.body[start:end]
        loaded = [
            (position, address)
            for position, address in hub.addresses(code)
            if _QUOTED.match(code, hub.start_of(code, position) - 1) and hub.is_model(address) and "/" in address
        ]
        if loaded and not any(address in own for _, address in loaded):
            position, address = loaded[0]
            yield (
                document.line_at(start + position),
                f"the code loads {hub.url}/{address}, not this page's own {document.handle}",
                f"load {hub.url}/{own[0]}",
            )


@rule(
    "unclosed-code",
    WARNING,
    "every code block that is opened is closed",
    fix="close the block with a line of three backticks",
    kinds=grammar.KINDS,
)
def unclosed_code(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    for start, _, closed in page.code:
        if not closed:
            yield page.document.line_at(start), "this code block is never closed", "add a line ``` behind it"


_ITEM = re.compile(r"^[ \t]*(?:[*+-]|\d+\.)[ \t]+(.*)$", re.M)
_TEXT = re.compile(r"\[`?([^\[\]`]+)`?\]\(")


@rule(
    "collection-table",
    WARNING,
    "every model of a collection's table is in its lists",
    fix="add the model to the list of its kind, too",
    kinds=("Collection",),
)
def collection_table(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    document = page.document
    body = document.body or ""
    listed: set[str] = set()
    for match in _ITEM.finditer(body):
        addresses = [address for _, address in hub.addresses(match[1])]
        if addresses:
            listed.update(_TEXT.findall(match[1]))
            listed.update(hub.name_of(address) for address in addresses)
    rows = []
    lines = body.split("\n")
    for number, line in enumerate(lines, document.body_line):
        cells = line.strip().split("|", 2)
        below = lines[number - document.body_line + 1].strip() if number - document.body_line + 1 < len(lines) else ""
        if len(cells) < 3 or cells[0] or below.startswith(("|-", "|:", "| -", "| :")):
            continue  # no row, or the heading of a table
        first = cells[1].strip("`* \t")
        named = _TEXT.match(first)
        name = named[1] if named else first
        if re.fullmatch(r"[\w./-]+", name) and not re.fullmatch(r"[\d\W_]+", name):
            linked = {hub.name_of(address) for _, address in hub.addresses(first)}
            rows.append((number, name, bool(linked), bool((linked | {name}) & listed)))
    # A table is one of models if its rows link them, or share at least two names with the lists; the others were forgotten.
    shared = sum(known for *_, known in rows)
    for number, name, is_linked, known in rows:
        if not known and (shared > 1 or (shared and is_linked)) and re.search(r"[\d_/-]", name):
            yield (
                number,
                f"{name!r} is in the table, but in none of the lists",
                f"add `* [{name}](...)` to the list",
            )


@rule(
    "text-trailing-blanks",
    WARNING,
    "lines of text end without blanks, a line break's two excepted",
    fix="remove the blanks at the end of the lines",
)
def text_trailing_blanks(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    text = page.text
    if " \n" not in text and "\t\n" not in text and not text.endswith((" ", "\t")):
        return
    document = page.document
    lines = text.split("\n")
    skipped = {1} | {
        number for number, each in enumerate(document.metadata, document.metadata_line) if isinstance(each, Entry)
    }
    found = [
        number
        for number, line in enumerate(lines, 1)
        if line.endswith((" ", "\t"))
        and number not in skipped
        and not _is_break(line, lines[number] if number < len(lines) else "")
    ]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield found[0], f"this line{more} end{'s' * (not more)} in blanks", "remove them"


def _is_break(line: str, below: str) -> bool:
    plain = line.rstrip()
    return bool(plain) and line == plain + "  " and bool(below.strip())
