"""The closed vocabularies of the documents: licences, data sets, tasks, architectures (tfhub.dev's tag files).

vocabularies.load(Path("modules/tags"))["license"]["mit"].display_name        # "MIT"
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Tag:
    """One permitted value: its id, the name that people read and, for licences, where the text is."""

    id: str
    display_name: str
    url: str = ""


@cache
def load(folder: Path) -> dict[str, dict[str, Tag]]:
    """Read every `*.yaml` in `folder` as {vocabulary: {id: Tag}}; files that list no values give an empty vocabulary."""
    import yaml

    found = {}
    for path in sorted(folder.glob("*.yaml")):
        values = (yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}).get(
            "values", []
        )
        found[path.stem] = {v["id"]: Tag(v["id"], v.get("display_name", v["id"]), v.get("url", "")) for v in values}
    return found
