"""The closed vocabularies of the documents: licences, data sets, tasks, architectures (tfhub.dev's tag files).

vocabularies.load(Path("modules/tags"))["license"]["mit"].display_name        # "MIT"
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class Tag:
    """One permitted value: its id, the name that people read and, for licences, the address of the text."""

    id: str
    display_name: str
    url: str = ""


FOLDER = "modules/tags"
Vocabularies: TypeAlias = dict[str, dict[str, Tag]]  # by name of the vocabulary and id of the tag


@cache
def load(folder: Path) -> Vocabularies:
    """Read every `*.yaml` in `folder` as {vocabulary: {id: Tag}}; files that list no values give an empty vocabulary."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without libyaml, and is then slow
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        values = (yaml.load(path.read_text(encoding="utf-8"), loader) or {}).get("values", [])
        found[path.stem] = {v["id"]: Tag(v["id"], v.get("display_name", v["id"]), v.get("url", "")) for v in values}
    return found
