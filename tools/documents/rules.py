"""Every rule of the validator, in groups; `tools/validate.py --rules` lists them.

for rule, line, message, fix in check(DocumentFile("google/x/1.md", "google/x/1.md", text), hub):
    ...
"""

from collections.abc import Collection, Iterator

from tools.documents import archives, document_rules, tagfiles, tree_rules
from tools.documents import document as grammar
from tools.documents.rule import DocumentFile, Rule
from tools.documents.tree import Tree

GROUPS: dict[str, tuple[Rule, ...]] = {
    "Text and line 1": (
        tree_rules.ENCODING,
        tree_rules.UNREADABLE,
        document_rules.crlf,
        document_rules.handle,
        document_rules.description,
        document_rules.metadata_line,
        document_rules.trailing_blanks,
    ),
    "Metadata": (
        document_rules.required_metadata,
        document_rules.unknown_metadata,
        document_rules.repeated_metadata,
        document_rules.duplicate_metadata,
        document_rules.vocabulary,
        document_rules.task_domain,
        document_rules.metadata_value,
        document_rules.fine_tunable,
        document_rules.asset_path,
        document_rules.legacy_asset_path,
        document_rules.metadata_spacing,
        document_rules.licence_missing,
    ),
    "Places and links": (
        document_rules.document_path,
        document_rules.collection_link,
        document_rules.dead_link,
        document_rules.unknown_publisher,
        document_rules.parent_model,
        document_rules.malformed_link,
    ),
    "Code, tables and text": (
        document_rules.snippet_handle,
        document_rules.unclosed_code,
        document_rules.collection_table,
        document_rules.text_trailing_blanks,
    ),
    "Between documents": (tree_rules.PUBLISHER_PAGE, tree_rules.DUPLICATE_HANDLE, tree_rules.SHARED_ARCHIVE),
    "Tag files": (tagfiles.TAG_FILE,),
    "Archives": archives.RULES,
}
RULES = {rule.name: rule for group in GROUPS.values() for rule in group}


def active(off: Collection[str] = ()) -> dict[str, list[Rule]]:
    """Return the rules over one document that are on, by kind."""
    rules = [each for each in RULES.values() if each.check and each.name not in off]
    return {kind: [each for each in rules if kind in each.kinds] for kind in (*grammar.KINDS, "")}


def check(
    page: DocumentFile, hub: Tree, rules: dict[str, list[Rule]] | None = None
) -> Iterator[tuple[Rule, int, str, str]]:
    """Apply the rules to a document; yield each that is broken, the line, what is wrong, and what to do."""
    for each in (rules or active())[page.document.kind]:
        if each.check:
            for line, message, fix in each.check(page, hub):
                # What is missing at the end of a file belongs to its last line.
                yield each, min(line, page.text.count("\n") + 1), message, fix
