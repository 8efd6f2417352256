"""Modules that are also kept unpacked, for clients that read a SavedModel where it lies instead of downloading it.

    store(storage, "publisher/name/1")     # the members of publisher/name/1.tar.gz, below publisher/name/1/

`TFHUB_MODEL_LOAD_FORMAT=UNCOMPRESSED` makes tensorflow_hub ask for `?tf-hub-format=uncompressed`; the server answers with the
module's gs:// address once `saved_model.pb` is there. It is written last and, like every member, only ever created, so whatever is
killed whenever, nobody is sent to half a module, and the same command goes on.
"""

import contextlib
import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.archive import reading
from tools.archive.contents import GRAPH, Hashing
from tools.archive.members import ArchiveError
from tools.catalog import layout
from tools.common.problems import with_fix
from tools.hub import records
from tools.hub.storage import AlreadyThere, Storage, StorageError

WRITERS = 8  # members that travel at the same time


def store(storage: Storage, handle: str) -> bool:
    """Unpack a published module beside its archive; returns False if that was done before.

    Raises:
      StorageError: it is not published, a member cannot be written, or other bytes lie in its place.
    """
    record = records.load(storage, handle)
    if record is None:
        raise StorageError(with_fix(f"{handle} is not published in {storage.url}", "publish it first"))
    graph = f"{handle}/{GRAPH}"
    if storage.exists(graph):
        return False
    with tempfile.TemporaryDirectory(prefix="hubpress-unpack-") as folder:
        unpacked = Path(folder) / "module"
        unpack(storage, handle, record["archive"]["sha256"], unpacked)
        files = [file for file in sorted(unpacked.rglob("*")) if file.is_file()]
        members = {f"{handle}/{file.relative_to(unpacked).as_posix()}": file for file in files}
        last = {graph: members.pop(graph)}
        for wave in (members, last):
            with ThreadPoolExecutor(1 if storage.is_local else WRITERS) as pool:
                list(pool.map(lambda item: _create(storage, *item), wave.items()))
    return True


def unpack(storage: Storage, handle: str, sha256: str, folder: Path) -> None:
    """Unpack a module's archive into an empty or new folder.

    Raises:
      StorageError: the archive is damaged, or not the one with this digest, which its record states.
    """
    path = layout.archive_path(handle)
    with storage.open(path) as stream:
        hashing = Hashing(stream, storage.url_for(path))
        with contextlib.suppress(ArchiveError):  # its digest says so, too
            reading.unpack(hashing, folder)
            if hashing.sha256.hexdigest() == sha256:
                return
    message = f"The archive of {handle} is damaged: {storage.url_for(path)} has not the SHA-256 that the record says, {sha256}"
    raise StorageError(with_fix(message, "check the whole hub with tools/audit.py, and restore the published archive"))


def _create(storage: Storage, path: str, file: Path) -> None:
    """Create a member; one that is there already must hold the same."""
    try:
        storage.create(path, file)
    except AlreadyThere:
        data = file.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        storage.verify(path, len(data), sha256, hashlib.md5(data, usedforsecurity=False).hexdigest())
