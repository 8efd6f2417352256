"""Every rule of the validator, in groups; `tools/validate.py --rules` lists them.

for rule, line, message, fix in check(DocumentFile("google/x/1.md", "google/x/1.md", text), hub):
    ...
"""

import itertools
from collections.abc import Collection, Iterator

from tools.documents import archives, body_rules, heading_rules, link_rules, metadata_rules, tagfiles, tree_rules
from tools.documents import document as grammar
from tools.documents.rule import DocumentFile, Rule
from tools.documents.tree import Tree

GROUPS: dict[str, tuple[Rule, ...]] = {
    "Text and line 1": (
        tree_rules.ENCODING,
        tree_rules.UNREADABLE,
        tree_rules.DOCUMENT_SIZE,
        tree_rules.LINKED_FOLDER,
        heading_rules.crlf,
        heading_rules.handle,
        heading_rules.description,
        heading_rules.metadata_line,
        heading_rules.trailing_blanks,
    ),
    "Metadata": (
        metadata_rules.required_metadata,
        metadata_rules.unknown_metadata,
        metadata_rules.repeated_metadata,
        metadata_rules.duplicate_metadata,
        metadata_rules.vocabulary,
        metadata_rules.task_domain,
        metadata_rules.metadata_value,
        metadata_rules.fine_tunable,
        metadata_rules.asset_path,
        metadata_rules.legacy_asset_path,
        metadata_rules.metadata_spacing,
        metadata_rules.licence_missing,
    ),
    "Places and links": (
        link_rules.document_path,
        link_rules.collection_link,
        link_rules.dead_link,
        link_rules.unknown_publisher,
        link_rules.parent_model,
        link_rules.malformed_link,
    ),
    "Code, tables and text": (
        body_rules.snippet_handle,
        body_rules.unclosed_code,
        body_rules.collection_table,
        body_rules.text_trailing_blanks,
    ),
    "Between documents": (tree_rules.PUBLISHER_PAGE, tree_rules.DUPLICATE_HANDLE, tree_rules.SHARED_ARCHIVE),
    "Tag files": (tagfiles.TAG_FILE,),
    "Archives": archives.RULES,
}
MOST_PROBLEMS = 100  # of one rule in one document
RULES = {rule.name: rule for group in GROUPS.values() for rule in group}


def active(off: Collection[str] = ()) -> dict[str, list[Rule]]:
    """Return the rules over one document that are on, by kind."""
    rules = [each for each in RULES.values() if each.check and each.name not in off]
    return {kind: [each for each in rules if kind in each.kinds] for kind in (*grammar.KINDS, "")}


def check(
    page: DocumentFile, hub: Tree, rules: dict[str, list[Rule]] | None = None
) -> Iterator[tuple[Rule, int, str, str]]:
    """Apply the rules to a document; yield each that is broken, the line, what is wrong, and what to do.

    Of one rule `MOST_PROBLEMS` are yielded, then that there are more: looking for the right word of fifty thousand takes minutes.
    """
    lines = page.text.count("\n") + 1  # what is missing at the end of a file belongs to its last line
    for each in (rules or active())[page.document.kind]:
        found = each.check(page, hub) if each.check else iter(())
        for line, message, fix in itertools.islice(found, MOST_PROBLEMS):
            yield each, min(line, lines), message, fix
        for line, *_ in itertools.islice(found, 1):
            yield (
                each,
                min(line, lines),
                "there is more of this kind from here on",
                "correct what is named, and validate again",
            )
