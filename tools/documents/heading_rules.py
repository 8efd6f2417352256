"""The rules over line 1, the description, and how the lines of metadata are written."""

from collections.abc import Iterator

from tools.common.problems import ERROR
from tools.documents import document as grammar
from tools.documents.document import Entry
from tools.documents.rule import DocumentFile, LineProblem, rule
from tools.documents.tree import Tree


@rule(
    "crlf",
    ERROR,
    "lines end with a newline, not with carriage return and newline",
    fix="convert the file, for example with `sed -i 's/\\r$//'`",
)
def crlf(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    if "\r" in page.text:
        line = page.text.count("\n", 0, page.text.index("\r")) + 1
        count = page.text.count("\r")
        yield (
            line,
            f"{count} carriage return{'s' if count > 1 else ''} (CRLF line ends); the format's lines end with a newline alone",
            "convert the file, for example with `sed -i 's/\\r$//'`",
        )


@rule(
    "handle",
    ERROR,
    "line 1 is `# Kind publisher/name/version` with a name that the grammar permits",
    fix="write `# Module publisher/name/version`, with another kind where it is one",
)
def handle(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    document = page.document
    if not document.kind:
        message, fix = grammar.explain_heading(document.heading)
        yield 1, message, fix
    elif document.heading and document.heading.rstrip().replace(grammar.JOINER, "") != document.canonical_heading:
        yield (
            1,
            "the version has leading zeros, a plain number was expected",
            f"write `{document.canonical_heading}`",
        )


@rule(
    "description",
    ERROR,
    "behind line 1 come at most one blank line and a description of one line or more",
    fix="write a sentence that says what this is on line 3, behind one blank line",
)
def description(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    document = page.document
    if not document.description:
        yield (
            document.description_line,
            "there is no description, one or more lines were expected before the metadata",
            "add a sentence that says what this is",
        )
    elif len(document.gap) > 1:
        yield (
            3,
            f"{len(document.gap)} blank lines before the description, at most one was expected",
            "remove the others",
        )


@rule(
    "metadata-line",
    ERROR,
    "between description and first heading stand only `<!-- key: value -->`, badges and blank lines",
    fix="write each key as `<!-- key: value -->` on a line of its own, and move text below a heading",
)
def metadata_line(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    for number, each in enumerate(page.document.metadata, page.document.metadata_line):
        if isinstance(each, Entry):
            if "-->" in each.value or "<!--" in each.value:
                yield number, "two comments on one line, one was expected", "put each on a line of its own"
        elif each.strip() and not each.startswith(grammar.BADGE):
            shown = each.strip()[:60]
            if each.lstrip().startswith("<!"):
                inside = each.strip().removeprefix("<!").strip("-<> \t")
                key, _, value = inside.partition(":")
                fix = f"write `<!-- {key.strip()} : {value.strip()} -->`".replace(" :", ":") if value else "add a value"
                yield number, f"{shown!r} is no metadata, `<!-- key: value -->` was expected", fix
            else:
                yield (
                    number,
                    f"{shown!r} is text among the metadata, which ends at the first line that starts with `#`",
                    "move it below a heading",
                )


@rule(
    "trailing-blanks",
    ERROR,
    "line 1 and the metadata lines end without blanks",
    fix="remove the blanks at the end of the line",
)
def trailing_blanks(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    document = page.document
    heading = document.heading.rstrip("\r")
    if document.kind and heading != heading.rstrip():
        yield 1, "line 1 ends in a blank", "remove the blanks at its end"
    for number, each in enumerate(document.metadata, document.metadata_line):
        if isinstance(each, Entry) and each.tail and each.tail.strip("\r"):
            yield number, f"the line of `{each.key}` ends in a blank", "remove the blanks at its end"
