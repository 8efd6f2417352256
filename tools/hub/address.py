"""The public address of a hub, which handles, links and snippets begin with: one decision, for everybody who needs it.

    for_writing(storage, options.url, catalog.publisher.url)       # publish, yank, record a measurement, render
    for_reading(storage, options.url, catalog.publisher.url)       # mirror, describe

`index.json` says for which address the pages were made. Whoever reads may believe it. Whoever writes pages may not: who can write
that one file must not be able to redirect every page of a site, so it counts only where it names this machine (a hub to try things
out, like the quickstart's) or what `modules/publisher.toml` names as well.
"""

import ipaddress
import re
import urllib.parse

from tools.catalog import layout
from tools.common import json_text
from tools.common.problems import with_fix
from tools.hub.storage import NotThere, Storage, StorageError

# One host, a port and a path. No user, query or fragment: what follows a hub's address must be the handle. No character that means
# something in Markdown or HTML. `urllib.parse` takes `evil.example.net:[::1]` for the host `::1`, so the grammar is this strict.
_ADDRESS = re.compile(r"https?://(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[\w.~%+:@,=-]*)*")
_CONFIGURED_IN = "modules/publisher.toml: `url`"


class AddressError(StorageError):
    """Nobody can tell which address the pages of a hub are for."""


def for_reading(storage: Storage, option: str | None, configured: str) -> str:
    """Return the hub's address for those who change nothing: the option, else the index's, else the configured one.

    Args:
      option: what the command was told, `--url`; None or empty if nothing.
      configured: `url` of `modules/publisher.toml`.

    Raises:
      AddressError: the option or the configured one is no address.
      StorageError: the storage cannot be read.
    """
    if option:
        return _require(option, "--url")
    return of_index(storage) or _require(configured, _CONFIGURED_IN)


def for_writing(storage: Storage, option: str | None, configured: str) -> str:
    """Return the address to make pages for: the option, else the index's if it can be trusted, else the configured one.

    The index's address can be trusted if it is of this machine or the configured one. The configured one is taken only where there
    is no index. The arguments are those of `for_reading`.

    Raises:
      AddressError: there is an index, and it names another address or none; or the option or the configured one is no address.
      StorageError: the storage cannot be read.
    """
    if option:
        return _require(option, "--url")
    configured = _require(configured, _CONFIGURED_IN)
    try:
        index = storage.read(layout.INDEX)
    except NotThere:
        return configured
    found = parse_index(index)
    if found is None:
        raise AddressError(
            with_fix(
                f"{storage.url_for(layout.INDEX)}: it names no address that its pages are made for, and modules/publisher.toml "
                f"names {configured}",
                "say which address the pages are for, with --url",
            )
        )
    if found == configured or is_loopback(found):
        return found
    raise AddressError(
        with_fix(
            f"{storage.url_for(layout.INDEX)}: the pages are made for {found}, and modules/publisher.toml names {configured}",
            "say which address is right, with --url, or correct `url` in modules/publisher.toml",
        )
    )


def of_index(storage: Storage) -> str | None:
    """Return the address that the hub's pages were made for, as its index says; None without an index that names one.

    Raises:
      StorageError: the storage cannot be read.
    """
    try:
        return parse_index(storage.read(layout.INDEX))
    except NotThere:
        return None


def parse_index(data: bytes) -> str | None:
    """Return the address that an `index.json` names, without a final slash; None if it is no index or names none."""
    try:
        index = json_text.parse(data)
    except json_text.JsonError:
        return None
    found = index.get("url") if isinstance(index, dict) else None
    return found.rstrip("/") if isinstance(found, str) and _ADDRESS.fullmatch(found) else None


def _require(url: str, said_by: str) -> str:
    """Return an address without a final slash; raises AddressError, naming who says it, if it is none."""
    if _ADDRESS.fullmatch(url):
        return url.rstrip("/")
    fix = "write https:// or http://, a host, and at most a port and a path, such as https://models.example.org/hub"
    raise AddressError(with_fix(f"{said_by}: {url!r} is no public address", fix))


def is_loopback(url: str) -> bool:
    """Return whether an address is of this machine: 127.0.0.0/8, [::1] or localhost."""
    if not _ADDRESS.fullmatch(url):
        return False
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
