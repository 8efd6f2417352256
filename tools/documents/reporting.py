"""How `tools/validate.py` says what it found: for people, for programs, and for GitHub's annotations."""

import json
from collections import Counter

from tools.documents import (
    validation,
)
from tools.documents.rules import RULES


def write(report: validation.ValidationReport, form: str) -> str:
    """The report as text ("file:line: ..."), "json", or "github" workflow commands."""
    if form == "json":
        return json.dumps(_plain(report), indent=1, ensure_ascii=False) + "\n"
    if form == "github":
        return "".join(f"{_annotation(each)}\n" for each in report.problems) + _summary(report)
    lines = [f"{p.file}:{p.line}: {p.severity}: {p.message}; {p.fix} [{p.rule}]\n" for p in report.problems]
    return "".join(lines) + _summary(report)


def _plain(report: validation.ValidationReport) -> dict:
    return {
        "documents": report.documents,
        "archives": report.archives,
        "errors": report.errors,
        "warnings": report.warnings,
        "problems": [each._asdict() for each in report.problems],
    }


def _annotation(problem: validation.Problem) -> str:
    def value(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def key(text: str) -> str:
        return value(text).replace(":", "%3A").replace(",", "%2C")

    where = f"file={key(problem.file)},line={problem.line},title={key(problem.rule)}"
    return f"::{problem.severity} {where}::{value(problem.message)}; {value(problem.fix)}"


def _summary(report: validation.ValidationReport) -> str:
    def count(number: int, what: str) -> str:
        return f"{number:,} {what}{'' if number == 1 else 's'}"

    archived = f" and {count(report.archives, 'archive')}" if report.archives else ""
    text = f"{count(report.documents, 'document')}{archived}: {count(report.errors, 'error')}, "
    text += count(report.warnings, "warning")
    by_rule = Counter(each.rule for each in report.problems).most_common()
    return text + (" (" + ", ".join(f"{rule} {number}" for rule, number in by_rule) + ")" if by_rule else "") + "\n"


def rules(form: str) -> str:
    """All rules, their severity and what they ask for."""
    found = sorted(RULES.values(), key=lambda each: (each.severity, each.name))
    if form == "json":
        return json.dumps([{"name": r.name, "severity": r.severity, "summary": r.summary} for r in found], indent=1)
    width = max(len(each.name) for each in found)
    return "\n".join(f"{each.name:{width}}  {each.severity:7}  {each.summary}" for each in found)
