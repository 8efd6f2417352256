"""Write what `tools/validate.py` found, for people, for programs and for GitHub's annotations; and list its rules."""

import json
from collections import Counter
from typing import Any

from tools.common.printable import json_text, printable_lines
from tools.common.problems import WARNING, Problem, with_fix
from tools.documents import document as grammar
from tools.documents.rule import Rule
from tools.documents.rules import GROUPS, RULES
from tools.documents.validation import ValidationReport

PROBLEM_KEYS = ("file", "line", "rule", "severity", "message", "fix")


def write(report: ValidationReport, form: str) -> str:
    """Return the report as text ("file:line: ..."), "json", or "github" workflow commands."""
    if form == "json":
        return json_text(_plain(report)) + "\n"
    if form == "github":
        return printable_lines("".join(f"{_annotation(each)}\n" for each in report.problems) + _summary(report))
    lines = [f"{p.file}:{p.line}: {p.severity}: {with_fix(p.message, p.fix)} [{p.rule}]\n" for p in report.problems]
    return printable_lines("".join(lines) + _summary(report))


def _plain(report: ValidationReport) -> dict[str, Any]:
    return {
        "documents": report.documents,
        "archives": report.archives,
        "errors": report.errors,
        "warnings": report.warnings,
        "problems": [{key: getattr(each, key) for key in PROBLEM_KEYS} for each in report.problems],
    }


def _annotation(problem: Problem) -> str:
    def value(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def key(text: str) -> str:
        return value(text).replace(":", "%3A").replace(",", "%2C")

    where = f"file={key(problem.file)},line={problem.line},title={key(problem.rule)}"
    return f"::{problem.severity} {where}::{value(with_fix(problem.message, problem.fix))}"


def _summary(report: ValidationReport) -> str:
    def count(number: int, what: str) -> str:
        return f"{number:,} {what}{'' if number == 1 else 's'}"

    archived = f" and {count(report.archives, 'archive')}" if report.archives else ""
    text = f"{count(report.documents, 'document')}{archived}: {count(report.errors, 'error')}, "
    text += count(report.warnings, "warning")
    by_rule = Counter(each.rule for each in report.problems).most_common()
    return text + (" (" + ", ".join(f"{rule} {number}" for rule, number in by_rule) + ")" if by_rule else "") + "\n"


def rules(form: str) -> str:
    """Return all rules: a line for each, "json", or "markdown" with what they ask for and what to do, in their groups."""
    if form == "markdown":
        return _markdown()
    found = sorted(RULES.values(), key=lambda each: (each.severity, each.name))
    if form == "json":
        groups = {rule.name: group for group, members in GROUPS.items() for rule in members}
        return json.dumps(
            [
                {
                    "name": each.name,
                    "severity": each.severity,
                    "published": WARNING if each.is_for_new else each.severity,
                    "summary": each.summary,
                    "fix": each.fix,
                    "group": groups[each.name],
                    "kinds": [kind for kind in grammar.KINDS if kind in each.kinds],
                }
                for each in found
            ],
            indent=1,
        )
    width = max(len(each.name) for each in found)
    return "\n".join(f"{each.name:{width}}  {each.severity:7}  {each.summary}" for each in found)


INTRODUCTION = """# Rules of the validator

`python tools/validate.py PATH` checks Hub documents in tfhub.dev's format against these rules. An error is what the format
forbids, and makes the exit status 1; a warning is what misleads a reader all the same. `--off RULE` leaves a rule out.
`--published` takes documents that were published before as they are: what tfhub.dev asked of new documents alone is a warning then.

This file is written by `python tools/validate.py --rules --format markdown`."""


def _markdown() -> str:
    parts = [INTRODUCTION]
    for group, members in GROUPS.items():
        parts.append(f"## {group}")
        for each in members:
            published = "; with `--published` a warning" if each.is_for_new else ""
            parts.append(f"### `{each.name}` ({each.severity}{published})")
            parts.append(f"{_sentence(each.summary.removeprefix('--archives: '))}{_scope(group, each)}")
            parts.append(f"Fix: {each.fix}.")
    return "\n\n".join(parts)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _scope(group: str, rule: Rule) -> str:
    """Return what a rule is about, where that is not every kind of document."""
    if group == "Archives":
        return " Checked with `--archives`."
    kinds = [kind for kind in grammar.KINDS if kind in rule.kinds]
    return f" Documents: {', '.join(kinds)}." if kinds and len(kinds) < len(grammar.KINDS) else ""
