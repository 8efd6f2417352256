"""Modules that are also kept unpacked, for clients that read a SavedModel where it lies instead of downloading it.

    keep(storage, "publisher/name/1")     # the members of publisher/name/1.tar.gz, below publisher/name/1/

`TFHUB_MODEL_LOAD_FORMAT=UNCOMPRESSED` makes tensorflow_hub ask for `?tf-hub-format=uncompressed`; the server answers with the
module's gs:// address once `saved_model.pb` is there. It is written last and, like every member, only ever created, so whatever is
killed whenever, nobody is sent to half a module, and the same command goes on.
"""

import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.archive import reading
from tools.hub import records
from tools.hub.storage import AlreadyThere, Storage, StorageError

WRITERS = 8  # members that travel at the same time
MARK = "saved_model.pb"


def store(storage: Storage, handle: str) -> bool:
    """Unpack a published module beside its archive; False if that was done before.

    Raises:
      StorageError: it is not published, a member cannot be written, or other bytes lie in its place.
    """
    record = records.load(storage, handle)
    if record is None:
        raise StorageError(f"{handle} is not published in {storage.url}. Publish it first.")
    if storage.exists(f"{handle}/{MARK}"):
        return False
    with tempfile.TemporaryDirectory(prefix="hubpress-unpack-") as folder:
        packed = Path(folder) / "module.tar.gz"
        digest = hashlib.sha256()
        with storage.open(records.paths(handle)["archive"]) as source, packed.open("wb") as target:
            while piece := source.read(4 << 20):
                digest.update(piece)
                target.write(piece)
        if digest.hexdigest() != record["archive"]["sha256"]:
            raise StorageError(f"The archive of {handle} is damaged. Look at the hub with tools/audit.py --thorough.")
        reading.unpack(packed, Path(folder) / "module")
        packed.unlink()
        files = [file for file in sorted((Path(folder) / "module").rglob("*")) if file.is_file()]
        paths = {f"{handle}/{file.relative_to(Path(folder) / 'module').as_posix()}": file for file in files}
        mark = {f"{handle}/{MARK}": paths.pop(f"{handle}/{MARK}")}
        for wave in (paths, mark):
            with ThreadPoolExecutor(1 if storage.is_local else WRITERS) as pool:
                list(pool.map(lambda path, wave=wave: _create(storage, path, wave[path]), wave))
    return True


def _create(storage: Storage, path: str, file: Path) -> None:
    """A member, once; one that is there already must hold the same."""
    try:
        storage.create(path, file)
    except AlreadyThere:
        data = file.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        storage.verify(path, len(data), sha256, hashlib.md5(data, usedforsecurity=False).hexdigest())
