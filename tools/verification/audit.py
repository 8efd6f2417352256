"""Is a whole hub in order? Everything that a publisher or an accident could have left wrong, without a network of its own.

    report = audit(Storage("gs://bucket/hub"))                    # sizes, and digests where the storage keeps them
    report = audit(Storage("hub"), thorough=True)                 # every archive is read: digests and members

Errors are what makes a published module unusable or a page untrue; warnings are what a publisher at work, or one that was cut
off, leaves until the same command is run again.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tools.archive import contents as archive_contents
from tools.archive import saved_model
from tools.archive.members import ArchiveError
from tools.catalog import layout
from tools.hub import records
from tools.hub.storage import NotThere, ObjectInfo, Storage, StorageError

READERS = 4  # archives that are read at the same time
_PAGE = re.compile(r"((?:[^/]+/){2,}(?:0|[1-9][0-9]*))(?:/index\.html|\.md)")
_NOTE = re.compile(r"(.+)\.note-([1-9][0-9]*)\.json")


@dataclass(frozen=True)
class Finding:
    """One thing that is not in order: where, what, and what to do."""

    path: str
    message: str
    is_error: bool = True


@dataclass
class AuditReport:
    """`modules` records with `bytes` of archives, compared by `depth`: "sizes", "digests" or "content"."""

    modules: int = 0
    bytes: int = 0
    depth: str = "sizes"
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_error]


def audit(storage: Storage, *, thorough: bool = False) -> AuditReport:
    """Check every record, archive, note, page and index of a hub.

    Raises:
      StorageError: the storage cannot be read, or a record is no JSON.
    """
    hub = records.snapshot(storage)
    report = AuditReport(modules=len(hub.records))
    handles = {record["handle"] for record in hub.records}
    digests = True
    with ThreadPoolExecutor(READERS) as pool:
        checked = pool.map(lambda record: _archive(storage, record, hub.listing, thorough), hub.records)
        for record, (about, findings) in zip(hub.records, checked, strict=True):
            report.findings += findings
            report.bytes += about.size if about else 0
            digests = digests and (about is None or about.md5 is not None)
            for path in (f"{record['handle']}.md", f"{record['handle']}/index.html"):
                if path not in hub.listing:
                    report.findings.append(_unfinished(path, f"{record['handle']} is published, but {path} is missing"))
    report.depth = "content" if thorough else "digests" if digests and hub.records else "sizes"
    report.findings += _without_a_record(storage, hub.listing, handles)
    report.findings += _index(storage, hub)
    return report


def _archive(
    storage: Storage, record: dict[str, Any], listing: dict[str, ObjectInfo | None], thorough: bool
) -> tuple[ObjectInfo | None, list[Finding]]:
    path, handle = layout.archive_path(record["handle"]), record["handle"]
    restore = (
        f"restore it from a copy (its build key is {record.get('build', {}).get('key', 'not known')}), or yank {handle}"
    )
    facts = record.get("archive") if isinstance(record.get("archive"), dict) else {}
    if not re.fullmatch("[0-9a-f]{64}", str(facts.get("sha256"))) or not isinstance(facts.get("bytes"), int):
        return None, [
            Finding(f"{handle}.json", f"{handle}.json does not say what its archive is; restore it from a copy")
        ]
    if path not in listing:
        return None, [Finding(path, f"{path} is missing although {handle} is published; {restore}")]
    try:
        about = listing[path] or storage.stat(path)
        if thorough:
            problem = _content(storage, path, facts)
        elif about.size != facts["bytes"]:
            problem = f"has {about.size:,} bytes, its record says {facts['bytes']:,}"
        elif about.md5 and facts.get("md5") and about.md5 != facts["md5"]:
            problem = f"has the MD5 {about.md5}, its record says {facts['md5']}"
        else:
            problem = None
    except NotThere:
        return None, [Finding(path, f"{path} cannot be read although {handle} is published; {restore}")]
    return about, [Finding(path, f"{path} {problem}; {restore}")] if problem else []


def _content(storage: Storage, path: str, facts: dict[str, Any]) -> str | None:
    """What is wrong with an archive that is read to its end, or None."""
    with storage.open(path) as stream:
        try:
            found = archive_contents.read(stream, path)
        except (ArchiveError, saved_model.SavedModelError) as error:
            return f"is damaged: {error}".rstrip(".")
        except (OSError, EOFError) as error:
            raise StorageError(f"Cannot read {storage.url_for(path)}: {error}. Run the same command again.") from error
    for what, here, there in (
        ("bytes", found.bytes, facts["bytes"]),
        ("SHA-256", found.sha256, facts["sha256"]),
        ("MD5", found.md5, facts.get("md5", found.md5)),
        ("number of files", found.files, facts.get("members", found.files)),
    ):
        if here != there:
            return f"has the {what} {here}, its record says {there}"
    return None


def _without_a_record(storage: Storage, listing: dict[str, Any], handles: set[str]) -> list[Finding]:
    found = []
    numbers: dict[str, list[int]] = {}
    for path in listing:
        if path.endswith(".tar.gz") and path.removesuffix(".tar.gz") not in handles:
            message = f"{path} has no record: its publisher is at work or was cut off; publish it again to finish, or delete it"
            found.append(Finding(path, message, is_error=False))
        elif match := _NOTE.fullmatch(path):
            numbers.setdefault(match[1], []).append(int(match[2]))
        elif (match := _PAGE.fullmatch(path)) and match[1] not in handles and "/collections/" not in path:
            message = f"{path} is a page of {match[1]}, which has no record; delete it, or restore the record"
            found.append(Finding(path, message))
    for handle, present in numbers.items():
        if handle not in handles:
            found.append(Finding(handle, f"{handle} has notes but no record; restore the record"))
        elif sorted(present) != list(range(1, len(present) + 1)):
            message = (
                f"{handle} has the notes {sorted(present)}: one is missing, and notes are never deleted; restore it"
            )
            found.append(Finding(handle, message))
    return found


def _index(storage: Storage, hub: records.HubSnapshot) -> list[Finding]:
    if not hub.records:
        return []
    try:
        index = json.loads(storage.read("index.json"))
        listed = {module["handle"]: module for module in index["modules"]}
    except NotThere:
        return [_unfinished("index.json", "index.json is missing")]
    except (ValueError, TypeError, KeyError):
        return [_unfinished("index.json", "index.json cannot be understood", is_error=True)]
    found = []
    for record in hub.records:
        handle = record["handle"]
        module = listed.pop(handle, None)
        if module is None:
            found.append(_unfinished("index.json", f"index.json does not list {handle}"))
        elif module["archive"]["sha256"] != record["archive"].get("sha256"):
            found.append(_unfinished("index.json", f"index.json has another sha256 for {handle}", is_error=True))
        elif (module["yanked"] is not None) != (handle in hub.yanked):
            says = "is yanked" if handle in hub.yanked else "is not yanked"
            found.append(_unfinished("index.json", f"{handle} {says}, and index.json says otherwise"))
    found += [
        _unfinished("index.json", f"index.json lists {handle}, which has no record", is_error=True) for handle in listed
    ]
    return found


def _unfinished(path: str, message: str, *, is_error: bool = False) -> Finding:
    return Finding(path, f"{message}; run tools/render.py", is_error)
