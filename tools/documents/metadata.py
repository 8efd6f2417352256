"""The metadata of Hub documents: the keys of each kind, which may be repeated, and which vocabularies they use."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fields:
    """The metadata of a kind: what it must have, what it may have, and how its asset-path ends."""

    required: frozenset[str]
    optional: frozenset[str]
    asset_suffix: str = ""


def _fields(required: str, optional: str, asset_suffix: str = "") -> Fields:
    return Fields(frozenset(required.split()), frozenset(optional.split()), asset_suffix)


FIELDS = {
    "Module": _fields(
        "asset-path fine-tunable format task",
        "network-architecture colab dataset language license interactive-visualizer",
        ".tar.gz",
    ),
    "Placeholder": _fields("task", "dataset fine-tunable interactive-visualizer language license network-architecture"),
    "Lite": _fields("asset-path parent-model", "colab interactive-visualizer", ".tflite"),
    "Coral": _fields("asset-path parent-model", "colab interactive-visualizer", ".tflite"),
    "Tfjs": _fields("asset-path parent-model", "colab demo interactive-visualizer", ".tar.gz"),
    "Collection": _fields("task", "dataset language network-architecture"),
    "Publisher": _fields("", ""),
}
REPEATABLE = frozenset(("dataset", "language", "task", "network-architecture"))
VOCABULARIES = {
    "dataset": "dataset",
    "task": "task",
    "network-architecture": "network_architecture",
    "license": "license",
    "language": "language",
    "interactive-visualizer": "interactive_visualizer",
}
DOMAINS = ("image-", "text-", "audio-", "video-")
FORMATS = ("hub", "saved_model", "saved_model_2")
LEGACY = re.compile(r"legacy|internal|[@/].*")  # asset-paths from before archives had addresses
