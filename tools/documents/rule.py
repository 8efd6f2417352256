"""A rule of the validator, and the document that it is applied to.

    @rule("crlf", ERROR, "lines end with a newline", fix="convert the file")
    def crlf(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
        yield line, "what is wrong", "what to do"

`tools.documents.rules` lists all of them.
"""

import bisect
import difflib
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from tools.common.problems import WARNING, Problem
from tools.documents import document as grammar
from tools.documents.document import Document, parse
from tools.documents.tree import Tree

LineProblem = tuple[int, str, str]  # line, what is wrong and was expected, fix: a rule makes a `Problem` of it


@dataclass
class DocumentFile:
    """One document under examination: `file` is how messages name it, `path` where it lies below the documents' root."""

    file: str
    path: str
    text: str
    document: Document = field(init=False)
    links: list[tuple[int, str]] | None = None

    def __post_init__(self) -> None:
        self.document = parse(self.text)

    @cached_property
    def code(self) -> list[tuple[int, int, bool]]:
        """Fenced blocks of the body: start and end of what is inside, and whether the block is closed."""
        return fences(self.document.body or "")

    def in_code(self, position: int) -> bool:
        """Return whether a position of the body lies in a fenced block."""
        block = bisect.bisect_right(self.code, (position, sys.maxsize)) - 1
        return block >= 0 and position < self.code[block][1]


_FENCE = re.compile(r"[`~]{3,}")
_BEFORE_FENCE = re.compile(r"[ \t]*(?:[*+>-][ \t]+|\d+\.[ \t]+)?")


def fences(text: str) -> list[tuple[int, int, bool]]:
    """Return the fenced code blocks of Markdown: (start, end, closed) of the text between the fences."""
    if "```" not in text and "~~~" not in text:
        return []
    found: list[tuple[int, int, bool]] = []
    opened: tuple[str, int] | None = None
    passed = 0
    for match in _FENCE.finditer(text):
        if match.start() < passed:
            continue
        begin = text.rfind("\n", 0, match.start()) + 1
        passed = text.find("\n", match.end())
        passed = len(text) if passed < 0 else passed
        marks, rest = match[0], text[match.end() : passed]
        if len(set(marks)) > 1 or not _BEFORE_FENCE.fullmatch(text, begin, match.start()):
            continue
        if opened is None:
            if "`" not in rest or marks[0] == "~":
                opened = marks, passed
        elif marks[0] == opened[0][0] and len(marks) >= len(opened[0]) and not rest.strip():
            found.append((opened[1], begin, True))
            opened = None
    if opened:
        found.append((opened[1], len(text), False))
    return found


Check = Callable[[DocumentFile, Tree], Iterator[LineProblem]]


class Rule(NamedTuple):
    """A rule by its name: what it asks for, and what to do if it is broken.

    `kinds` are the kinds of documents that it is about, "" among them if it is also about one whose line 1 cannot be read; `check`
    is None if it is about more than one document. A rule that `is_for_new` was not asked of the documents that tfhub.dev published.
    """

    name: str
    severity: str
    summary: str
    fix: str
    kinds: frozenset[str] = frozenset()
    check: Check | None = None
    is_for_new: bool = False

    def problem(self, file: str, line: int, message: str, fix: str, *, published: bool = False) -> Problem:
        """Return the problem that the rule is broken in a line of a file: in a published document, maybe only a warning."""
        severity = WARNING if published and self.is_for_new else self.severity
        return Problem(file, message, fix, line=line, rule=self.name, severity=severity)


def rule(
    name: str,
    severity: str,
    summary: str,
    *,
    fix: str,
    kinds: Collection[str] = (*grammar.KINDS, ""),
    is_for_new: bool = False,
) -> Callable[[Check], Rule]:
    """Return a decorator that makes a rule of its check, for documents of some kinds."""
    return lambda check: Rule(name, severity, summary, fix, frozenset(kinds), check, is_for_new)


def nearest(word: str, known: Collection[str], limit: int = 12) -> str:
    """Return a fix for an unknown word: the known one that is nearest, or what is known."""
    close = difflib.get_close_matches(word, known, n=1) if len(word) < 100 else None
    if close:
        return f"write `{close[0]}`"
    if not known:
        return "remove the line"
    listed = sorted(known)
    return "use one of " + ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")
