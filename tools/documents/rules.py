"""What a Hub document must be: named rules, each a function over one document, listed by `tools/validate.py --rules`.

    for rule, line, message, fix in check(Page("google/x/1.md", "google/x/1.md", text), hub):
        ...

Errors are what tfhub.dev's format forbids; warnings are what it never looked at and misleads a reader all the same.
A rule over one document is a generator here; `tools.documents.validation` has those over a whole hub, its tag files and archives.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from tools.documents import document as grammar
from tools.documents.document import Document, Entry, parse

ERROR, WARNING = "error", "warning"
Finding = tuple[int, str, str]  # line, what is wrong and was expected, fix


@dataclass(frozen=True)
class Fields:
    """The metadata of a kind: what it must have, what it may have, and how its asset-path ends."""

    required: frozenset[str]
    optional: frozenset[str]
    asset_suffix: str = ""


def _fields(required: str, optional: str, asset_suffix: str = "") -> Fields:
    return Fields(frozenset(required.split()), frozenset(optional.split()), asset_suffix)


FIELDS = {
    "Module": _fields(
        "asset-path fine-tunable format task",
        "network-architecture colab dataset language license interactive-visualizer",
        ".tar.gz",
    ),
    "Placeholder": _fields("task", "dataset fine-tunable interactive-visualizer language license network-architecture"),
    "Lite": _fields("asset-path parent-model", "colab interactive-visualizer", ".tflite"),
    "Coral": _fields("asset-path parent-model", "colab interactive-visualizer", ".tflite"),
    "Tfjs": _fields("asset-path parent-model", "colab demo interactive-visualizer", ".tar.gz"),
    "Collection": _fields("task", "dataset language network-architecture"),
    "Publisher": _fields("", ""),
}
REPEATABLE = frozenset(("dataset", "language", "task", "network-architecture"))
VOCABULARIES = {
    "dataset": "dataset",
    "task": "task",
    "network-architecture": "network_architecture",
    "license": "license",
    "language": "language",
    "interactive-visualizer": "interactive_visualizer",
}
DOMAINS = ("image-", "text-", "audio-", "video-")
FORMATS = ("hub", "saved_model", "saved_model_2")
LEGACY = re.compile(r"legacy|internal|[@/].*")  # asset-paths from before archives had addresses


class Rule(NamedTuple):
    """A rule by its name; `check` is None if it is about more than one document."""

    name: str
    severity: str
    summary: str
    kinds: frozenset[str] = frozenset()
    check: Callable[["Page", object], Iterator[Finding]] | None = None


RULES: dict[str, Rule] = {}


def declare(name: str, severity: str, summary: str) -> str:
    """Register a rule that is checked elsewhere; returns its name."""
    RULES[name] = Rule(name, severity, summary)
    return name


def rule(name: str, severity: str, summary: str, kinds: Collection[str] = (*grammar.KINDS, "")):
    """Register a generator `(page, hub) -> line, message, fix` for documents of some kinds ("" has no readable line 1)."""

    def register(function):
        RULES[name] = Rule(name, severity, summary, frozenset(kinds), function)
        return function

    return register


@dataclass
class Page:
    """One document under examination: `file` is how messages name it, `path` where it lies below the documents' root."""

    file: str
    path: str
    text: str
    document: Document = field(init=False)
    links: list[tuple[int, str]] | None = None

    def __post_init__(self):
        self.document = parse(self.text)

    @cached_property
    def code(self) -> list[tuple[int, int, bool]]:
        """Fenced blocks of the body: start and end of what is inside, and whether the block is closed."""
        return fences(self.document.body or "")

    def in_code(self, position: int) -> bool:
        return any(start <= position < end for start, end, _ in self.code)


_FENCE = re.compile(r"[`~]{3,}")
_BEFORE_FENCE = re.compile(r"[ \t]*(?:[*+>-][ \t]+|\d+\.[ \t]+)?")


def fences(text: str) -> list[tuple[int, int, bool]]:
    """The fenced code blocks of Markdown: (start, end, closed) of the text between the fences."""
    if "```" not in text and "~~~" not in text:
        return []
    found, opened, passed = [], None, 0
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


def active(off: Collection[str] = ()) -> dict[str, list[Rule]]:
    """The rules over one document that are on, by kind."""
    rules = [each for each in RULES.values() if each.check and each.name not in off]
    return {kind: [each for each in rules if kind in each.kinds] for kind in (*grammar.KINDS, "")}


def check(page: Page, hub, rules: dict[str, list[Rule]] | None = None) -> Iterator[tuple[Rule, int, str, str]]:
    """Apply the rules to a page; `hub` is the `tools.documents.validation.Tree` that it belongs to."""
    for each in (rules or active())[page.document.kind]:
        for line, message, fix in each.check(page, hub):
            # What is missing at the end of a file belongs to its last line.
            yield each, min(line, page.text.count("\n") + 1), message, fix


def nearest(word: str, known: Collection[str], limit: int = 12) -> str:
    """A fix for an unknown word: the known one that is nearest, or what is known."""
    close = difflib.get_close_matches(word, known, n=1) if len(word) < 100 else None
    if close:
        return f"write `{close[0]}`"
    if not known:
        return "remove the line"
    listed = sorted(known)
    return "use one of " + ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


# Text and line 1

declare("encoding", ERROR, "a document is UTF-8 text without a byte order mark or zero bytes")
declare("unreadable", ERROR, "every file that is named or found can be read")


@rule("crlf", ERROR, "lines end with a newline, not with carriage return and newline")
def _crlf(page, hub):
    if "\r" in page.text:
        line = page.text.count("\n", 0, page.text.index("\r")) + 1
        count = page.text.count("\r")
        yield (
            line,
            f"{count} carriage return{'s' if count > 1 else ''} (CRLF line ends); the format's lines end with a newline alone",
            "convert the file, for example with `sed -i 's/\\r$//'`",
        )


@rule("handle", ERROR, "line 1 is `# Kind publisher/name/version` with a name that the grammar permits")
def _handle(page, hub):
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


@rule("description", ERROR, "behind line 1 come at most one blank line and a description of one line or more")
def _description(page, hub):
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
)
def _metadata_line(page, hub):
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


@rule("trailing-blanks", ERROR, "line 1 and the metadata lines end without blanks")
def _trailing_blanks(page, hub):
    document = page.document
    heading = document.heading.rstrip("\r")
    if document.kind and heading != heading.rstrip():
        yield 1, "line 1 ends in a blank", "remove the blanks at its end"
    for number, each in enumerate(document.metadata, document.metadata_line):
        if isinstance(each, Entry) and each.tail and each.tail.strip("\r"):
            yield number, f"the line of `{each.key}` ends in a blank", "remove the blanks at its end"


# Metadata


@rule("required-metadata", ERROR, "every key that its kind requires is there", kinds=grammar.KINDS)
def _required(page, hub):
    document = page.document
    missing = FIELDS[document.kind].required.difference(
        [each.key for each in document.metadata if isinstance(each, Entry)]
    )
    if missing:
        broken = "\n".join(each for each in document.metadata if isinstance(each, str))
        for key in sorted(missing):
            if key not in broken:  # else the line is there, and another rule says what is wrong with it
                yield (
                    document.first_entry_line,
                    f"`{key}` is missing, a {document.kind} needs it",
                    f"add `<!-- {key}: ... -->`",
                )


@rule("unknown-metadata", ERROR, "every key is one that its kind may have", kinds=grammar.KINDS)
def _unknown(page, hub):
    document = page.document
    fields = FIELDS[document.kind]
    for number, each in enumerate(document.metadata, document.metadata_line):
        if isinstance(each, Entry) and each.key not in fields.required and each.key not in fields.optional:
            yield (
                number,
                f"`{each.key}` is no metadata of a {document.kind}",
                nearest(each.key, fields.required | fields.optional),
            )


@rule("repeated-metadata", ERROR, "only dataset, language, task and network-architecture have more than one value")
def _repeated(page, hub):
    first: dict[str, str] = {}
    for number, each in enumerate(page.document.metadata, page.document.metadata_line):
        if not isinstance(each, Entry) or each.key in REPEATABLE:
            continue
        if first.setdefault(each.key, each.value) != each.value:
            yield (
                number,
                f"`{each.key}` has the value {each.value[:60]!r} and, above, {first[each.key][:60]!r}; one was expected",
                "keep one of the two lines",
            )


@rule("duplicate-metadata", WARNING, "no value is given twice")
def _duplicate(page, hub):
    seen = set()
    for number, each in enumerate(page.document.metadata, page.document.metadata_line):
        if isinstance(each, Entry):
            if (each.key, each.value) in seen:
                yield number, f"`{each.key}: {each.value[:60]}` is there twice", "remove one of the lines"
            seen.add((each.key, each.value))


@rule("vocabulary", ERROR, "dataset, task, architecture, licence, language and visualizer come from the tag files")
def _vocabulary(page, hub):
    for number, each in enumerate(page.document.metadata, page.document.metadata_line):
        if isinstance(each, Entry) and each.key in VOCABULARIES:
            known = hub.tags.get(VOCABULARIES[each.key])
            if known is not None and each.value not in known:
                name = VOCABULARIES[each.key]
                yield (
                    number,
                    f"{each.value[:60]!r} is no {each.key} of tags/{name}.yaml",
                    f"{nearest(each.value, known, 6)}, or add it to that file",
                )


@rule("task-domain", ERROR, "a task begins with image-, text-, audio- or video-")
def _task_domain(page, hub):
    for value in page.document.values("task"):
        if not value.startswith(DOMAINS):
            yield (
                page.document.line_of("task", value),
                f"task {value[:60]!r} belongs to no domain, it should start with {', '.join(DOMAINS)}",
                "choose another task",
            )


@rule("metadata-value", ERROR, "format, colab and demo have values of their kind", kinds=grammar.MODELS)
def _value(page, hub):
    for number, each in enumerate(page.document.metadata, page.document.metadata_line):
        if not isinstance(each, Entry):
            continue
        if each.key == "format" and each.value not in FORMATS:
            yield number, f"{each.value[:60]!r} is no format", f"write one of {', '.join(FORMATS)}"
        elif each.key == "colab" and not each.value.startswith("https://colab.research.google.com/"):
            yield (
                number,
                f"{each.value[:80]!r} is no address on colab.research.google.com",
                "write https://colab.research.google.com/...",
            )
        elif each.key == "demo" and not each.value.startswith("https://"):
            yield number, f"{each.value[:80]!r} is no https address", "write https://..."


@rule("fine-tunable", ERROR, "fine-tunable is true or false", kinds=("Module", "Placeholder"))
def _fine_tunable(page, hub):
    for value in page.document.values("fine-tunable"):
        if value not in ("true", "false"):
            yield (
                page.document.line_of("fine-tunable", value),
                f"fine-tunable is {value[:60]!r}, true or false was expected",
                "write `<!-- fine-tunable: true -->` if the module can be trained further, else false",
            )


@rule("asset-path", ERROR, "asset-path is the web address of an archive of the right type", kinds=grammar.MODELS)
def _asset_path(page, hub):
    document = page.document
    suffix = FIELDS[document.kind].asset_suffix
    for value in document.values("asset-path") if suffix else ():
        if LEGACY.fullmatch(value):
            continue
        where = document.line_of("asset-path", value)
        if not re.match(r"https?://[^\s/]+/\S+$", value):
            yield where, f"{value[:80]!r} is no web address", f"write https://.../{document.version}{suffix}"
        elif not value.endswith(suffix):
            yield where, f"{value[-60:]!r} does not end in {suffix}", f"publish the {document.kind} as {suffix}"


@rule(
    "legacy-asset-path",
    WARNING,
    "asset-path is an address, not a word from before archives had one",
    kinds=grammar.MODELS,
)
def _legacy_asset_path(page, hub):
    value = page.document.value("asset-path")
    if value and LEGACY.fullmatch(value):
        yield (
            page.document.line_of("asset-path"),
            f"asset-path {value[:60]!r} is accepted in old documents only: nobody can fetch it",
            "write the archive's address",
        )


@rule("metadata-spacing", WARNING, "metadata is written `<!-- key: value -->` with single blanks")
def _spacing(page, hub):
    for number, each in enumerate(page.document.metadata, page.document.metadata_line):
        if isinstance(each, Entry) and (each.before != " " or each.after != " "):
            yield (
                number,
                f"`{each.key}` is not written with one blank before and behind its value",
                f"write `<!-- {each.key}: {each.value[:80]} -->`",
            )


@rule("licence-missing", WARNING, "a module names the licence of its weights", kinds=("Module",))
def _licence(page, hub):
    document = page.document
    if document.value("license") is None:
        yield (
            document.first_entry_line,
            "no licence is named, so nobody may rely on one",
            "add `<!-- license: ... -->` with an id of tags/license.yaml",
        )


# Places and links


@rule("document-path", ERROR, "a document lies where its handle says", kinds=grammar.KINDS)
def _path(page, hub):
    expected = page.document.paths
    if page.path not in expected:
        yield (
            1,
            f"{page.document.kind} {page.document.handle[:120]} lies at {page.path}, {expected[0][:160]} was expected",
            "move the file or correct line 1",
        )


def _links(page: Page, hub) -> list[tuple[int, str]]:
    """(line, address below the hub) of every link to the hub that stands in the document, the metadata left out."""
    if page.links is None:
        document = page.document
        page.links = []
        for position, address in hub.addresses("\n".join(document.description)):
            line = document.description_line + "\n".join(document.description).count("\n", 0, position)
            page.links.append((line, address))
        last, line = 0, document.body_line
        for position, address in hub.addresses(document.body or ""):
            line += document.body.count("\n", last, position)
            last = position
            page.links.append((line, address))
    return page.links


@rule("collection-link", ERROR, "a collection links models of its hub, and each of them exists", kinds=("Collection",))
def _collection_link(page, hub):
    models = [(line, address) for line, address in _links(page, hub) if hub.is_model(address)]
    if not models:
        yield (
            page.document.body_line,
            f"the collection links no model of {hub.url}, at least one was expected",
            f"add `* [name]({hub.url}/{page.document.publisher}/name/1)`",
        )
    for line, address in models:
        if hub.find(address) is False:
            yield line, f"{hub.url}/{address} is no document of this hub", hub.suggest(address)


@rule("dead-link", WARNING, "links inside the hub lead to a document", kinds=grammar.KINDS)
def _dead_link(page, hub):
    said = set()
    for line, address in _links(page, hub):
        if address in said:
            continue
        said.add(address)
        if hub.find(address) is False and not (page.document.kind == "Collection" and hub.is_model(address)):
            yield line, f"dead link: {hub.url}/{address} is no document of this hub", hub.suggest(address)


@rule("unknown-publisher", WARNING, "links inside the hub name publishers that it has", kinds=grammar.KINDS)
def _unknown_publisher(page, hub):
    said = set()
    for line, address in _links(page, hub):
        publisher = address.split("/")[0]
        if hub.find(address) is None and "/" in address and publisher not in said:
            said.add(publisher)
            yield (
                line,
                f"{hub.url}/{address} is of publisher {publisher!r}, of whom nothing is here, so it cannot be checked",
                nearest(publisher, hub.publishers),
            )


@rule(
    "parent-model", WARNING, "the parent-model of a Lite, Tfjs or Coral document exists", kinds=tuple(grammar.FORMATS)
)
def _parent(page, hub):
    for value in page.document.values("parent-model"):
        if hub.find(value) is False:
            yield (
                page.document.line_of("parent-model", value),
                f"parent-model {value[:120]!r} is no document of this hub",
                hub.suggest(value),
            )


_MALFORMED = (
    ("((http", re.compile(r"\(\(https?://"), "two opening brackets before an address"),
    ("(http", re.compile(r"\]\s{1,9}\(https?://"), "a blank between the text and the address of a link"),
    ("](", re.compile(r"\]\((?:https?:/(?!/)|https?//|htt?ps?;|www\.)"), "a link whose address has no https://"),
    (
        "](http",
        re.compile(r"\]\(https?://[^\s()]*(?:\([^\s()]*\)[^\s()]*)*(?=\s+[^\s)\"'(])"),
        "a link that is never closed",
    ),
)
_NUMBERED = re.compile(r"\[\d+\]\s")  # [1] (https://...) is a reference, and no link


@rule("malformed-link", WARNING, "links are written [text](address)", kinds=grammar.KINDS)
def _malformed(page, hub):
    body = page.document.body or ""
    for needed, pattern, what in _MALFORMED:
        if needed not in body:
            continue
        for match in pattern.finditer(body):
            reference = _NUMBERED.match(body, body.rfind("[", 0, match.start() + 1))
            if not page.in_code(match.start()) and not reference:
                shown = " ".join(body[match.start() : match.end() + 40].split())
                yield page.document.line_at(match.start()), f"{what}: {shown[:70]!r}", "write [text](https://...)"


# Code and tables

_QUOTED = re.compile(r"[\"']")


@rule("snippet-handle", WARNING, "the code of a page loads the page's own model", kinds=grammar.MODELS)
def _snippet(page, hub):
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


@rule("unclosed-code", WARNING, "every code block that is opened is closed", kinds=grammar.KINDS)
def _unclosed(page, hub):
    for start, _, closed in page.code:
        if not closed:
            yield page.document.line_at(start), "this code block is never closed", "add a line ``` behind it"


_ITEM = re.compile(r"^[ \t]*(?:[*+-]|\d+\.)[ \t]+(.*)$", re.M)
_TEXT = re.compile(r"\[`?([^\]`]+)`?\]\(")


@rule("collection-table", WARNING, "every model of a collection's table is in its lists", kinds=("Collection",))
def _table(page, hub):
    document = page.document
    body = document.body or ""
    listed = set()
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
    for number, name, linked, known in rows:
        if not known and (shared > 1 or (shared and linked)) and re.search(r"[\d_/-]", name):
            yield (
                number,
                f"{name!r} is in the table, but in none of the lists",
                f"add `* [{name}](...)` to the list",
            )


@rule("text-trailing-blanks", WARNING, "lines of text end without blanks, a line break's two excepted")
def _text_trailing(page, hub):
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
