"""The rules over one document: each is a generator over what breaks it.

Errors are what tfhub.dev's format forbids; warnings are what it never looked at and misleads a reader all the same.
"""

import re
from collections.abc import Iterator

from tools.common.problems import ERROR, WARNING
from tools.documents import document as grammar
from tools.documents.document import Entry
from tools.documents.metadata import DOMAINS, FIELDS, FORMATS, LEGACY, REPEATABLE, VOCABULARIES
from tools.documents.rule import DocumentFile, Finding, nearest, rule
from tools.documents.tree import Tree

# Text and line 1


@rule(
    "crlf",
    ERROR,
    "lines end with a newline, not with carriage return and newline",
    fix="convert the file, for example with `sed -i 's/\\r$//'`",
)
def crlf(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
def handle(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
def description(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
def metadata_line(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
def trailing_blanks(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    document = page.document
    heading = document.heading.rstrip("\r")
    if document.kind and heading != heading.rstrip():
        yield 1, "line 1 ends in a blank", "remove the blanks at its end"
    for number, each in enumerate(document.metadata, document.metadata_line):
        if isinstance(each, Entry) and each.tail and each.tail.strip("\r"):
            yield number, f"the line of `{each.key}` ends in a blank", "remove the blanks at its end"


# Metadata


@rule(
    "required-metadata",
    ERROR,
    "every key that its kind requires is there",
    fix="add `<!-- key: ... -->` for each key that is missing",
    kinds=grammar.KINDS,
)
def required_metadata(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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


@rule(
    "unknown-metadata",
    ERROR,
    "every key is one that its kind may have",
    fix="write the key that was meant, or remove the line",
    kinds=grammar.KINDS,
)
def unknown_metadata(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    document = page.document
    fields = FIELDS[document.kind]
    for number, each in enumerate(document.metadata, document.metadata_line):
        if isinstance(each, Entry) and each.key not in fields.required and each.key not in fields.optional:
            yield (
                number,
                f"`{each.key}` is no metadata of a {document.kind}",
                nearest(each.key, fields.required | fields.optional),
            )


@rule(
    "repeated-metadata",
    ERROR,
    "only dataset, language, task and network-architecture have more than one value",
    fix="keep one of the lines",
)
def repeated_metadata(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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


@rule(
    "duplicate-metadata",
    WARNING,
    "no value is given twice",
    fix="remove one of the lines",
)
def duplicate_metadata(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    seen = set()
    for number, each in enumerate(page.document.metadata, page.document.metadata_line):
        if isinstance(each, Entry):
            if (each.key, each.value) in seen:
                yield number, f"`{each.key}: {each.value[:60]}` is there twice", "remove one of the lines"
            seen.add((each.key, each.value))


@rule(
    "vocabulary",
    ERROR,
    "dataset, task, architecture, licence, language and visualizer come from the tag files",
    fix="write a value of `tags/VOCABULARY.yaml`, or add it to that file",
)
def vocabulary(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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


@rule(
    "task-domain",
    ERROR,
    "a task begins with image-, text-, audio- or video-",
    fix="choose a task that begins with a domain",
)
def task_domain(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    for value in page.document.values("task"):
        if not value.startswith(DOMAINS):
            yield (
                page.document.line_of("task", value),
                f"task {value[:60]!r} belongs to no domain, it should start with {', '.join(DOMAINS)}",
                "choose another task",
            )


@rule(
    "metadata-value",
    ERROR,
    "format, colab and demo have values of their kind",
    fix="write a known format, an address on colab.research.google.com, or an https address of a demo",
    kinds=grammar.MODELS,
)
def metadata_value(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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


@rule(
    "fine-tunable",
    ERROR,
    "fine-tunable is true or false",
    fix="write `<!-- fine-tunable: true -->` if the module can be trained further, else false",
    kinds=("Module", "Placeholder"),
)
def fine_tunable(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    for value in page.document.values("fine-tunable"):
        if value not in ("true", "false"):
            yield (
                page.document.line_of("fine-tunable", value),
                f"fine-tunable is {value[:60]!r}, true or false was expected",
                "write `<!-- fine-tunable: true -->` if the module can be trained further, else false",
            )


@rule(
    "asset-path",
    ERROR,
    "asset-path is the web address of an archive of the right type",
    fix="write the https address of the archive, with the ending that the kind has (`.tar.gz`, `.tflite`)",
    kinds=grammar.MODELS,
)
def asset_path(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
    fix="write the archive's address",
    kinds=grammar.MODELS,
)
def legacy_asset_path(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    value = page.document.value("asset-path")
    if value and LEGACY.fullmatch(value):
        yield (
            page.document.line_of("asset-path"),
            f"asset-path {value[:60]!r} is accepted in old documents only: nobody can fetch it",
            "write the archive's address",
        )


@rule(
    "metadata-spacing",
    WARNING,
    "metadata is written `<!-- key: value -->` with single blanks",
    fix="write one blank before and behind the value",
)
def metadata_spacing(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    for number, each in enumerate(page.document.metadata, page.document.metadata_line):
        if isinstance(each, Entry) and (each.before != " " or each.after != " "):
            yield (
                number,
                f"`{each.key}` is not written with one blank before and behind its value",
                f"write `<!-- {each.key}: {each.value[:80]} -->`",
            )


@rule(
    "licence-missing",
    WARNING,
    "a module names the licence of its weights",
    fix="add `<!-- license: ... -->` with an id of `tags/license.yaml`",
    kinds=("Module",),
)
def licence_missing(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    document = page.document
    if document.value("license") is None:
        yield (
            document.first_entry_line,
            "no licence is named, so nobody may rely on one",
            "add `<!-- license: ... -->` with an id of tags/license.yaml",
        )


# Places and links


@rule(
    "document-path",
    ERROR,
    "a document lies where its handle says",
    fix="move the file, or correct line 1",
    kinds=grammar.KINDS,
)
def document_path(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    expected = page.document.paths
    if page.path not in expected:
        yield (
            1,
            f"{page.document.kind} {page.document.handle[:120]} lies at {page.path}, {expected[0][:160]} was expected",
            "move the file or correct line 1",
        )


def _links(page: DocumentFile, hub: Tree) -> list[tuple[int, str]]:
    """(line, address below the hub) of every link to the hub that stands in the document, the metadata left out."""
    if page.links is None:
        document = page.document
        page.links = []
        for position, address in hub.addresses("\n".join(document.description)):
            line = document.description_line + "\n".join(document.description).count("\n", 0, position)
            page.links.append((line, address))
        last, line = 0, document.body_line
        body = document.body or ""
        for position, address in hub.addresses(body):
            line += body.count("\n", last, position)
            last = position
            page.links.append((line, address))
    return page.links


@rule(
    "collection-link",
    ERROR,
    "a collection links models of its hub, and each of them exists",
    fix="link the models with their addresses in the hub, in versions that exist",
    kinds=("Collection",),
)
def collection_link(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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


@rule(
    "dead-link",
    WARNING,
    "links inside the hub lead to a document",
    fix="correct the address, or publish what it names",
    kinds=grammar.KINDS,
)
def dead_link(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    said = set()
    for line, address in _links(page, hub):
        if address in said:
            continue
        said.add(address)
        if hub.find(address) is False and not (page.document.kind == "Collection" and hub.is_model(address)):
            yield line, f"dead link: {hub.url}/{address} is no document of this hub", hub.suggest(address)


@rule(
    "unknown-publisher",
    WARNING,
    "links inside the hub name publishers that it has",
    fix="correct the publisher in the address",
    kinds=grammar.KINDS,
)
def unknown_publisher(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
    "parent-model",
    WARNING,
    "the parent-model of a Lite, Tfjs or Coral document exists",
    fix="correct the handle, or publish the model that it names",
    kinds=tuple(grammar.FORMATS),
)
def parent_model(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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


@rule(
    "malformed-link",
    WARNING,
    "links are written [text](address)",
    fix="write `[text](https://...)`",
    kinds=grammar.KINDS,
)
def malformed_link(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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


@rule(
    "snippet-handle",
    WARNING,
    "the code of a page loads the page's own model",
    fix="load the page's own handle in its code",
    kinds=grammar.MODELS,
)
def snippet_handle(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
def unclosed_code(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
    for start, _, closed in page.code:
        if not closed:
            yield page.document.line_at(start), "this code block is never closed", "add a line ``` behind it"


_ITEM = re.compile(r"^[ \t]*(?:[*+-]|\d+\.)[ \t]+(.*)$", re.M)
_TEXT = re.compile(r"\[`?([^\]`]+)`?\]\(")


@rule(
    "collection-table",
    WARNING,
    "every model of a collection's table is in its lists",
    fix="add the model to the list of its kind, too",
    kinds=("Collection",),
)
def collection_table(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
def text_trailing_blanks(page: DocumentFile, hub: Tree) -> Iterator[Finding]:
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
