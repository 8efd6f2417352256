"""Select modules that a hub has published by the names that tools/publish.py takes."""

from collections.abc import Iterable

from tools.catalog.catalog import Catalog, UnknownNameError
from tools.common.problems import UsageError, with_fix
from tools.hub.records import HubSnapshot, Record


class SelectionError(UsageError, ValueError):
    """A name selects nothing that is published; the message ends with the fix."""


def select(names: Iterable[str], hub: HubSnapshot, catalog: Catalog) -> list[Record]:
    """Return the records that `names` mean, in the order of the hub, each once.

    A name is a handle (that version), `all`, or a row, module, family or collection, of which the newest versions that are not
    withdrawn are taken; what the catalogue no longer has is found by the module's name.

    Raises:
      SelectionError: nothing of a name is published, or the handle is withdrawn.
    """
    live = {record["handle"]: record for record in hub.records if record["handle"] not in hub.yanked}
    newest = {handle.rpartition("/")[0]: record for handle, record in live.items()}  # versions ascend
    chosen: set[str] = set()
    for name in (each.strip("/") for each in names):
        if name in hub.yanked:
            raise SelectionError(
                f"{name}: {with_fix(f'it is withdrawn: {hub.yanked[name]}', 'name a version that is not')}"
            )
        if name in live:
            chosen.add(name)
            continue
        hits = [newest[stem]["handle"] for stem in _stems(name, newest, catalog) if stem in newest]
        if not hits:
            fix = f"publish it first, or name what is there, like {next(iter(live))}" if live else "publish it first"
            raise SelectionError(f"{name}: {with_fix('nothing of that name is published in this hub', fix)}")
        chosen.update(hits)
    return [record for handle, record in live.items() if handle in chosen]


def _stems(name: str, newest: Iterable[str], catalog: Catalog) -> list[str]:
    """Return the handles without versions that a name which is no published handle stands for."""
    if name == "all":
        return list(newest)
    if name.count("/") > 1:
        return []  # a handle whose version is not there
    try:
        return [module.handle.rpartition("/")[0] for module in catalog.expand([name])]
    except UnknownNameError:
        return [stem for stem in newest if name in (stem, stem.rpartition("/")[2])]
