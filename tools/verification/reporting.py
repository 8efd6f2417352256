"""Show what an audit or a verification found."""

from tools.common import console
from tools.common.console import size, table
from tools.common.problems import with_fix
from tools.verification.audit import AuditReport
from tools.verification.verify import FAILED, OK, SKIPPED, VerificationResult

MARKS = {OK: "ok", FAILED: "FAILED", SKIPPED: "-"}
DO_NOT_USE = "do not use the module, and tell the hub's owner"
DEPTHS = {
    "content": "every archive read: digests and members",
    "digests": "sizes and digests compared with the storage's own",
    "sizes": "sizes compared; this storage keeps no digests, so --thorough would read the archives",
}


def show_audit(report: AuditReport, hub: str) -> None:
    """Show a line for each problem of a hub, and then what was looked at and how."""
    for problem in report.problems:
        (console.problems if problem.is_error else console.warning)(str(problem))
    checked = "checked" if report.are_signatures_checked else "not checked: give --key"
    signed = f"{report.signed} modules signed, {checked}. " if report.signed or report.are_signatures_checked else ""
    files = f"{report.files} files for other runtimes, " if report.files else ""
    console.show(
        f"{hub}: {report.modules} modules, {files}{size(report.bytes)} of archives; {DEPTHS[report.depth]}. {signed}"
        f"{len(report.errors)} errors, {len(report.problems) - len(report.errors)} warnings"
    )


def show_verified(results: list[VerificationResult]) -> None:
    """Show a line for each module with its checks, and then the reason of every failure."""
    names = list(dict.fromkeys(check.name for result in results for check in result.checks))
    rows = []
    for result in results:
        states = {check.name: check.state for check in result.checks}
        marks = (MARKS[states.get(name, SKIPPED)] for name in names)
        rows.append((result.handle or result.url, *marks, result.note))
    console.show(table("Module", *(name.capitalize() for name in names), "", rows=rows))
    for result in results:
        for check in result.checks:
            if check.state == FAILED:
                message = f"{result.handle or result.url}: {check.name}: {check.message}"
                console.problems(message if "Fix: " in message else with_fix(message, DO_NOT_USE))
    wrong = sum(not result.ok for result in results)
    console.show(f"{len(results)} verified, {wrong} wrong" if wrong else f"{len(results)} verified, nothing wrong")
