"""Modules near a module: those that differ from it in one thing.

    family = Family(modules)                     # of one family, head and precision
    family.near(module)                          # [("Smaller", other, "15.6 M parameters, −1.30 % top-1"), ...]

Each list is looked up, not searched, so that a hub of thousands of modules is planned as fast as before.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tools.site.formatting import trained

if TYPE_CHECKING:
    from tools.site.published_module import PublishedModule

MINUS = "\N{MINUS SIGN}"


class Family:
    """The modules of one family, head and precision that are to be used, by what they differ in."""

    def __init__(self, members: Iterable["PublishedModule"] = ()) -> None:
        self._sizes: dict[tuple[Any, ...], list[tuple[int, str, PublishedModule]]] = defaultdict(list)
        self._resolutions: dict[tuple[Any, ...], dict[int, PublishedModule]] = defaultdict(dict)
        self._data: dict[tuple[Any, ...], dict[str, PublishedModule]] = defaultdict(dict)
        for module in sorted(members, key=lambda m: str(m.name)):
            row = module.row
            entry = (module.measured["parameters"] or 0, module.name, module)
            self._sizes[row["data"], row["resolution"], row.get("source_text")].append(entry)
            self._resolutions[row["data"], row["size"]].setdefault(row["resolution"], module)
            self._data[row["resolution"], row["size"]].setdefault(row["data"], module)
        for entries in self._sizes.values():
            entries.sort(key=lambda entry: entry[:2])

    def near(self, module: "PublishedModule") -> list[tuple[str, "PublishedModule", str]]:
        """Return what differs, the nearest module that differs so, and its figures."""
        row, size = module.row, module.measured["parameters"] or 0
        sizes = self._sizes.get((row["data"], row["resolution"], row.get("source_text")), [])
        first = bisect.bisect_left(sizes, size, key=lambda entry: entry[0])
        after = bisect.bisect_right(sizes, size, key=lambda entry: entry[0])
        resolutions = self._resolutions.get((row["data"], row["size"]), {})
        data = self._data.get((row["resolution"], row["size"]), {})
        found: list[tuple[str, PublishedModule]] = []
        if first > 0:
            found.append(("Smaller", sizes[first - 1][2]))
        if after < len(sizes):
            found.append(("Larger", sizes[after][2]))
        others = sorted((abs(value - row["resolution"]), value) for value in resolutions if value != row["resolution"])
        found += [("Other resolution", resolutions[value]) for _, value in others[:1]]
        found += [("Other data", data[value]) for value in sorted(data) if value != row["data"]][:1]
        return [(relation, other, _difference(relation, module, other)) for relation, other in found]


def _difference(relation: str, module: "PublishedModule", other: "PublishedModule") -> str:
    row = other.row
    facts = {"Other resolution": [f"{row['resolution']}x{row['resolution']}"], "Other data": [trained(row["data"])]}
    said = [*facts.get(relation, []), f"{other.parameters_short} parameters"]
    if other.top1 is not None and module.top1 is not None and row["datasets"][-1] == module.row["datasets"][-1]:
        change = other.top1 - module.top1
        said.append(f"{'+' if change >= 0 else MINUS}{abs(change):.2f} % top-1")
    return ", ".join(said)
