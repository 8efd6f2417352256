"""Open a hub that must be there already."""

from tools.common.problems import with_fix
from tools.hub.storage import Storage, StorageError


def open_hub(url: str) -> Storage:
    """Return the storage of the hub at `url`.

    Raises:
      StorageError: there is none, or it cannot be reached.
    """
    storage = Storage(url)
    if not storage.is_there():
        fix = f"check the address, or publish into it: python tools/publish.py NAME --hub {url}"
        raise StorageError(f"{storage.url}: {with_fix('there is no hub here', fix)}")
    return storage
