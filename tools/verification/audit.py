"""Audit a whole hub: everything that a publisher or an accident could have left wrong, without a network of its own.

    report = audit(Storage("gs://bucket/hub"))                    # sizes, and digests where the storage keeps them
    report = audit(Storage("hub"), thorough=True)                 # every archive is read: digests, signatures, labels
    report = audit(Storage("hub"), thorough=True, catalog=catalog.load())        # and every page compared with what it should be

Errors are what makes a published module unusable or a page untrue; warnings are what a publisher at work, or one that was cut
off, leaves until the same command is run again.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.archive import contents as archive_contents
from tools.archive.members import ArchiveError, refusal
from tools.archive.saved_model import SavedModelError
from tools.catalog import layout
from tools.catalog.catalog import Catalog
from tools.common import json_text
from tools.common.problems import ERROR, WARNING, Problem, with_fix
from tools.hub import address, formats, records
from tools.hub.differences import differences, file_differences
from tools.hub.formats import FormatFile
from tools.hub.records import HubSnapshot, Record
from tools.hub.signatures import SignatureError, Trust
from tools.hub.storage import CHUNK_BYTES, NotThere, ObjectInfo, Storage, StorageError
from tools.hub.unpacked import unpack
from tools.site.benchmarks import FILE as BENCHMARKS
from tools.site.jobs import Job, perform
from tools.site.writing import plan_pages

READERS = 4  # archives that are read at the same time
RENDER = "run tools/render.py"
Listing = dict[str, ObjectInfo | None]
Depth = Literal["sizes", "digests", "content"]


@dataclass
class AuditReport:
    """`modules` records and `files` for other runtimes, with `bytes` of archives and files.

    They were compared by `depth`: "sizes", "digests" or "content". `signed` modules are signed, as they say;
    `are_signatures_checked` tells whether anybody looked.
    """

    modules: int = 0
    files: int = 0
    bytes: int = 0
    depth: Depth = "sizes"
    signed: int = 0
    are_signatures_checked: bool = False
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """The problems that are no warnings."""
        return [problem for problem in self.problems if problem.is_error]


def audit(
    storage: Storage,
    *,
    thorough: bool = False,
    catalog: Catalog | None = None,
    base_url: str | None = None,
    trust: Trust | None = None,
) -> AuditReport:
    """Check every record, archive, note, page and index of a hub.

    Args:
      thorough: read every archive, and with a `catalog` every page, too.
      catalog: what pages are made from besides records.
      base_url: the address that pages are for; by default `address.for_writing` decides.
      trust: whose signatures every module, record and note must have; thorough, of the members of archives as well.

    Raises:
      StorageError: the storage cannot be read.
    """
    hub = records.snapshot(storage)
    report = AuditReport(modules=len(hub.records), problems=list(hub.problems.values()))
    digests = True
    with ThreadPoolExecutor(READERS) as pool:
        checked = pool.map(lambda record: _check_module(storage, record, hub.listing, thorough), hub.records)
        for info, problems in checked:
            report.problems += problems
            report.bytes += info.size if info else 0
            digests = digests and (info is None or info.md5 is not None)
    report.depth = "content" if thorough else "digests" if digests and hub.records else "sizes"
    with ThreadPoolExecutor(READERS) as pool:
        files = [(record["handle"], file) for record in hub.records for file in _files(hub, record["handle"])]
        for info, problems in pool.map(
            lambda each: _check_file(storage, each[0], each[1], hub.listing, thorough), files
        ):
            report.problems += problems
            report.bytes += info.size if info else 0
    report.files = len(files)
    report.problems += _without_record(hub)
    report.signed = len(hub.claims)
    report.are_signatures_checked = trust is not None
    report.problems += _signatures(storage, hub, trust, thorough) if trust else _partly_signed(hub)
    report.problems += _signatures_of_nothing(hub)
    report.problems += _index(storage, hub)
    if thorough and catalog:
        report.problems += _pages(storage, hub, catalog, base_url)
    return report


def _check_module(
    storage: Storage, record: Record, listing: Listing, thorough: bool
) -> tuple[ObjectInfo | None, list[Problem]]:
    """Check a record, its archive and its pages; returns what the storage says of the archive, and what is wrong."""
    handle = record["handle"]
    pages = [
        Problem(path, f"{handle} is published, but this page is missing", RENDER, severity=WARNING)
        for path in (layout.document_path(handle), layout.page_path(handle))
        if path not in listing
    ]
    path = layout.archive_path(handle)
    restore = f"restore it from a copy (its build key is {record['build']['key']}), or yank {handle}"
    if path not in listing:
        return None, [Problem(path, f"it is missing although {handle} is published", restore), *pages]
    try:
        info = listing[path] or storage.stat(path)
        wrong = (
            _content(storage, path, record)
            if thorough
            else [str(each) for each in file_differences(record, {"bytes": info.size, "md5": info.md5})]
        )
    except NotThere:
        return None, [Problem(path, f"it cannot be read although {handle} is published", restore), *pages]
    return info, [*(Problem(path, each, restore) for each in wrong), *pages]


def _files(hub: HubSnapshot, handle: str) -> list[FormatFile]:
    """Return what the records of a module's formats say of its files."""
    return list(formats.by_format(hub.formats.get(handle, ())).values())


def _check_file(
    storage: Storage, handle: str, file: FormatFile, listing: Listing, thorough: bool
) -> tuple[ObjectInfo | None, list[Problem]]:
    """Check a file for another runtime; returns what the storage says of it, and what is wrong."""
    path = file["path"]
    restore = f"restore it from a copy (its key is {file['build']['key']}), or publish it again with --formats {file['format']}"
    if path not in listing:
        return None, [Problem(path, f"it is missing although {handle} has a record of it", restore)]
    try:
        info = listing[path] or storage.stat(path)
        found: dict[str, object] = {"bytes": info.size, "md5": info.md5}
        if thorough:
            with storage.open(path) as stream:
                digest = hashlib.sha256()
                while piece := stream.read(CHUNK_BYTES):
                    digest.update(piece)
                found |= {"sha256": digest.hexdigest()}
    except NotThere:
        return None, [Problem(path, f"it cannot be read although {handle} has a record of it", restore)]
    except OSError as error:
        raise StorageError(
            with_fix(f"cannot read {storage.url_for(path)}: {error}", "run the same command again")
        ) from error
    stated: Mapping[str, object] = file
    return info, [
        Problem(path, f"`{key}`: the record says {stated[key]}, the file has {value}", restore)
        for key, value in found.items()
        if value is not None and value != stated[key]
    ]


def _content(storage: Storage, path: str, record: Record) -> list[str]:
    """Read an archive to its end and return what is wrong with it."""
    with storage.open(path) as stream:
        try:
            found = archive_contents.read(stream, path)
        except (ArchiveError, SavedModelError) as error:
            return [f"it is damaged: {error}".rstrip(".")]
        except (OSError, EOFError) as error:
            raise StorageError(
                with_fix(f"cannot read {storage.url_for(path)}: {error}", "run the same command again")
            ) from error
    return [str(each) for each in differences(record, found)]


def _without_record(hub: HubSnapshot) -> Iterator[Problem]:
    """Yield archives, pages and notes of modules that have no record, and notes whose numbers have gaps."""
    handles = _recorded(hub)
    numbers: dict[str, list[int]] = {}
    for path in hub.listing:
        if path.endswith(layout.ARCHIVE_SUFFIX) and layout.handle_of_archive(path) not in handles:
            message = "it has no record: its publisher is at work or was cut off"
            yield Problem(path, message, "publish it again to finish, or delete it", severity=WARNING)
        elif note := layout.parse_note_path(path):
            numbers.setdefault(note.handle, []).append(note.number)
        elif (each := layout.parse_format_path(path)) and each.handle in handles:
            if each.format not in [file["format"] for file in _files(hub, each.handle)]:
                message = "it has no record: its publisher is at work or was cut off"
                fix = f"publish it again with --formats {each.format} to finish, or delete it"
                yield Problem(path, message, fix, severity=WARNING)
        elif place := layout.parse_format_record_path(path):
            if place.handle not in handles:
                yield Problem(path, f"it is about {place.handle}, which has no record", "restore the record")
        elif (handle := layout.handle_of_page(path)) and not handles & {handle, layout.handle_of_lite(path)}:
            yield Problem(path, f"it is a page of {handle}, which has no record", "delete it, or restore the record")
    for handle, present in numbers.items():
        if handle not in handles:
            yield Problem(handle, "it has notes but no record", "restore the record")
        elif sorted(present) != list(range(1, len(present) + 1)):
            message = f"it has the notes {sorted(present)}: one is missing, and notes are never deleted"
            yield Problem(handle, message, "restore it from a copy")


def _signatures_of_nothing(hub: HubSnapshot) -> Iterator[Problem]:
    """Yield the signatures whose file is not there."""
    for path in hub.listing:
        signed = layout.signed_path(path)
        if signed and signed not in hub.listing:
            yield Problem(path, "it is a signature of nothing", f"restore {signed}, or delete it", severity=WARNING)


def _partly_signed(hub: HubSnapshot) -> Iterator[Problem]:
    """Yield what is missing of the modules of which only a part is signed."""
    of_formats = _format_records(hub)
    for handle in sorted(_recorded(hub)):
        paths = layout.attestation_paths(handle)
        missing = [path for path in paths if path not in hub.listing]
        if missing and len(missing) < len(paths):
            message = (
                f"it is missing, and other signatures of {handle} are there: its publisher is at work or was cut off"
            )
            yield Problem(missing[0], message, "publish it again with --sign-key to finish", severity=WARNING)
        for path in of_formats.get(handle, ()) if handle in hub.claims else ():
            if layout.signature_path(path) not in hub.listing:
                message = "it is unsigned, and its module is signed: its publisher is at work or was cut off"
                yield Problem(path, message, "publish it again with --sign-key to finish", severity=WARNING)


def _signatures(storage: Storage, hub: HubSnapshot, trust: Trust, thorough: bool) -> Iterator[Problem]:
    """Yield what is not signed by somebody who is trusted."""
    sign = "publish it again with --sign-key, if it is right"
    of_formats = _format_records(hub)
    for handle in sorted(_recorded(hub)):
        notes = [path for path in hub.listing if (note := layout.parse_note_path(path)) and note.handle == handle]
        for path in (
            layout.record_path(handle),
            *notes,
            *of_formats.get(handle, ()),
            layout.bom_path(handle),
            layout.provenance_path(handle),
        ):
            signature = layout.signature_path(path)
            if path not in hub.listing:
                yield Problem(path, f"it is missing, so {handle} is not signed in full", sign)
            elif signature not in hub.listing:
                yield Problem(path, "it is unsigned", sign)
            else:
                yield from _signature(storage, signature, trust, storage.read(path))
    for record in hub.records:
        bundle = layout.bundle_path(record["handle"])
        if bundle not in hub.listing:
            yield Problem(bundle, f"it is missing, so {record['handle']} is not signed in full", sign)
        elif thorough and record["archive"]["path"] in hub.listing:
            with tempfile.TemporaryDirectory(prefix="hubpress-audit-") as folder:
                try:
                    unpack(storage, record["handle"], record["archive"]["sha256"], Path(folder) / "module")
                except StorageError:
                    continue  # named as what is wrong with the archive
                yield from _signature(storage, bundle, trust, Path(folder) / "module")


def _signature(storage: Storage, path: str, trust: Trust, content: bytes | Path) -> Iterator[Problem]:
    """Yield what is wrong with the signature at `path`."""
    try:
        trust.check(content, storage.read(path), name=path)
    except SignatureError as error:
        message, _, fix = str(error).partition(". Fix: ")
        yield Problem(path, message.removeprefix(f"{path}: "), fix)


def _format_records(hub: HubSnapshot) -> dict[str, list[str]]:
    """Return the paths of the records of each module's formats, by handle."""
    found: dict[str, list[str]] = {}
    for path in sorted(hub.listing):
        if place := layout.parse_format_record_path(path):
            found.setdefault(place.handle, []).append(path)
    return found


def _pages(storage: Storage, hub: HubSnapshot, catalog: Catalog, base_url: str | None) -> Iterator[Problem]:
    """Yield the pages that are not what they should be, and the files that nobody made."""
    try:
        url = address.for_writing(storage, base_url, catalog.publisher.url)
    except address.AddressError as error:
        message, _, fix = str(error).partition(". Fix: ")
        yield Problem(layout.INDEX, message.partition(": ")[2], fix)
        return
    left_out = set(hub.problems)
    planned = plan_pages(catalog, storage, url, hub)
    yield from (hub.problems[path] for path in hub.problems.keys() - left_out)
    made: set[str] = set()
    for batch in perform(planned, Job.pages, processes=1):
        for page in (page for _, pages in batch for page in pages):
            made.add(page.path)
            if page.path in hub.listing and storage.read(page.path) != page.data:
                message = "it is not what its records give: somebody changed it, or other templates made it"
                yield Problem(page.path, message, f"delete it, then {RENDER}")
    recorded = _recorded(hub)
    pages_of_damaged = {
        path for handle in recorded for path in (layout.document_path(handle), layout.page_path(handle))
    }
    for path in sorted(hub.listing.keys() - made - pages_of_damaged):
        if not _belongs(path, recorded):
            yield Problem(path, "nobody of hubpress made this file", "look at it, and delete it")


def _belongs(path: str, recorded: set[str]) -> bool:
    """Return whether a path is that of a record, a note, an archive, a signature, a member of an unpacked module, or a report."""
    if (file := layout.parse_format_path(path)) and file.handle in recorded:
        return True
    if path == BENCHMARKS or records.is_record_or_note(path) or layout.handle_of_archive(path):
        return True
    if layout.handle_of_attestation(path) or layout.signed_path(path):
        return True
    handles = [handle for handle in layout.handles_of_path(path) if handle in recorded]
    return any(refusal(path.removeprefix(f"{handle}/"), is_folder=False) is None for handle in handles)


def _recorded(hub: HubSnapshot) -> set[str]:
    """Return the handles that have a record, be it malformed."""
    return {handle for path in hub.listing if (handle := layout.handle_of_record(path))}


def _index(storage: Storage, hub: HubSnapshot) -> Iterator[Problem]:
    """Yield where the index is not what the records and notes say."""

    def problem(message: str, severity: str = ERROR) -> Problem:
        return Problem(layout.INDEX, message, RENDER, severity=severity)

    if not hub.records:
        return
    try:
        index = json_text.parse(storage.read(layout.INDEX))
        listed = {str(module["handle"]): (module["archive"]["sha256"], module["yanked"]) for module in index["modules"]}
    except NotThere:
        yield problem("it is missing", WARNING)
        return
    except (ValueError, TypeError, KeyError):
        yield problem("it cannot be understood")
        return
    for record in hub.records:
        handle = record["handle"]
        if handle not in listed:
            yield problem(f"it does not list {handle}", WARNING)
            continue
        sha256, yanked = listed.pop(handle)
        if sha256 != record["archive"]["sha256"]:
            yield problem(f"it has another sha256 for {handle}")
        elif (yanked is not None) != (handle in hub.yanked):
            says = "is yanked" if handle in hub.yanked else "is not yanked"
            yield problem(f"{handle} {says}, and the index says otherwise", WARNING)
    for handle in listed.keys() - _recorded(hub):
        yield problem(f"it lists {handle}, which has no record")
