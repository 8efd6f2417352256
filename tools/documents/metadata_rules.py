"""The rules over metadata: which keys a document has, and which values."""

import re
from collections.abc import Iterator

from tools.common.problems import ERROR, WARNING
from tools.documents import document as grammar
from tools.documents.document import Entry
from tools.documents.metadata import DOMAINS, FIELDS, FORMATS, LEGACY, REPEATABLE, VOCABULARIES
from tools.documents.rule import DocumentFile, LineProblem, nearest, rule
from tools.documents.tree import Tree


@rule(
    "required-metadata",
    ERROR,
    "every key that its kind requires is there",
    fix="add `<!-- key: ... -->` for each key that is missing",
    kinds=grammar.KINDS,
)
def required_metadata(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
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
def unknown_metadata(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
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
def repeated_metadata(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
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
def duplicate_metadata(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
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
def vocabulary(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
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
def task_domain(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    for line, value in page.document.lines_of("task"):
        if not value.startswith(DOMAINS):
            yield (
                line,
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
def metadata_value(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
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
    is_for_new=True,
)
def fine_tunable(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    for line, value in page.document.lines_of("fine-tunable"):
        if value not in ("true", "false"):
            yield (
                line,
                f"fine-tunable is {value[:60]!r}, true or false was expected",
                "write `<!-- fine-tunable: true -->` if the module can be trained further, else false",
            )


@rule(
    "asset-path",
    ERROR,
    "asset-path is the web address of an archive of the right type",
    fix="write the https address of the archive, with the ending that the kind has (`.tar.gz`, `.tflite`)",
    kinds=grammar.MODELS,
    is_for_new=True,
)
def asset_path(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    document = page.document
    suffix = FIELDS[document.kind].asset_suffix
    for where, value in document.lines_of("asset-path") if suffix else ():
        if LEGACY.fullmatch(value):
            continue
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
def legacy_asset_path(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
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
def metadata_spacing(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
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
def licence_missing(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    document = page.document
    if document.value("license") is None:
        yield (
            document.first_entry_line,
            "no licence is named, so nobody may rely on one",
            "add `<!-- license: ... -->` with an id of tags/license.yaml",
        )
