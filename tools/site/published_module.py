"""A published module as its pages see it: the facts of its record, each in the form in which it is printed.

    hub.modules["hubpress/convnext_digits/1"].parameters        # "186,554"

Nothing here is prose: the words are in `templates/`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from tools.catalog import layout
from tools.catalog.vocabularies import Tag
from tools.hub.notes import Note
from tools.hub.records import Record
from tools.hub.signatures import Claim
from tools.site.formatting import day, decimal, measured_percent, millions, one_line, percent, size, thousands
from tools.site.measurements import Evaluation, Speed
from tools.site.neighbours import Family
from tools.site.published_formats import PublishedFormat

if TYPE_CHECKING:
    from tools.site.published_collection import PublishedCollection

SPEED = "images_per_second_"  # what the column of a speed begins with; the batch size follows
WEB_ADDRESS = re.compile(r"https?://[^\s()<>\"']+")
_OFTEN = ("handle", "publisher", "name", "version", "head", "task", "row", "measured", "archive", "published")


@dataclass(eq=False)
class PublishedModule:
    """One published module: its record (`schema` 1), whose keys are attributes, too, and what the hub says about it.

    `yanked` says why nobody should use it any more, or is None; `notes` are those of what was measured after the publication,
    in the order in which they were added; `notebooks` is the address of the publisher's notebooks, `signer` whom the signature of
    its record names, and `formats` are its files for other runtimes. What `gather` connects comes later: `sibling` is the other
    head of the same checkpoint, `versions` all versions of this name with the newest first (itself included), `collections` those
    that select it, `family` those that it can be compared with. `digest` is of the record; `description` is kept by `describe`.
    """

    record: Record
    base_url: str
    tags: Mapping[str, Mapping[str, Tag]]
    yanked: str | None = None
    notes: tuple[Note, ...] = ()
    notebooks: str | None = None
    signer: Claim | None = None
    formats: tuple[PublishedFormat, ...] = ()
    sibling: "PublishedModule | None" = None
    versions: "list[PublishedModule]" = field(default_factory=list)
    collections: "list[PublishedCollection]" = field(default_factory=list)
    family: Family = field(default_factory=Family)
    digest: bytes = b""
    description: str = ""

    def __post_init__(self) -> None:
        # What is asked for most, where Python finds it at once.
        self.__dict__.update((key, value) for key, value in self.record.items() if key in _OFTEN)

    def __getattr__(self, key: str) -> Any:
        # The record's other keys, so that templates write `module.row.title`; a key that is missing stays an error.
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return cast(Mapping[str, Any], self.record)[key]
        except KeyError:
            raise AttributeError(f"record {self.record.get('handle')}: `{key}` is missing") from None

    @cached_property
    def neighbours(self) -> list[tuple[str, "PublishedModule", str]]:
        """The modules that differ in one thing, the nearest of each kind: what differs, the module, and its figures."""
        return self.family.near(self)

    @cached_property
    def newest(self) -> "PublishedModule":
        """The version to use: the newest that is not yanked, or this one when all are."""
        return next((m for m in self.versions if m.yanked is None), self)

    @property
    def folder(self) -> str:
        """The folder of the page in the hub, which is the handle, too."""
        return str(self.record["handle"])

    @property
    def url(self) -> str:
        return f"{self.base_url}/{self.record['handle']}"

    @property
    def archive_url(self) -> str:
        return f"{self.base_url}/{self.record['archive']['path']}"

    @property
    def notebook(self) -> str:
        """The file of `notebooks/` to start with."""
        if self.is_classifier:
            return "classification.ipynb"
        return "fine_tuning.ipynb" if self.record["row"]["fine_tunable"] else "features.ipynb"

    @property
    def colab(self) -> str | None:
        """The address at which Colab opens `notebook`; None unless the publisher says where its notebooks are."""
        return f"{self.notebooks}/{self.notebook}" if self.notebooks else None

    @property
    def is_classifier(self) -> bool:
        return bool(self.record["head"] == "classifier")

    @property
    def has_labels(self) -> bool:
        return self.is_classifier and bool(self.record["row"]["labels"])

    @property
    def output(self) -> Mapping[str, Any]:
        output: Mapping[str, Any] = self.record["signature"]["outputs"][0]
        return output

    @property
    def width(self) -> int:
        """Classes or features: the last dimension of the output."""
        return int(self.output["shape"][-1])

    @property
    def takes_bytes(self) -> bool:
        return any(each["dtype"] == "uint8" for each in self.record["signature"]["inputs"])

    @property
    def pixel_range(self) -> tuple[float, float]:
        """The range of float32 pixels."""
        ranges = [each["range"] for each in self.record["signature"]["inputs"] if each["dtype"] == "float32"]
        low, high = ranges[0] if ranges else self.record["row"]["pixel_range"]
        return low, high

    @property
    def precision(self) -> str:
        """The type that the network computes in; rows from before there was a choice do not say, and are float32."""
        return str(self.record["row"].get("precision", "float32"))

    @property
    def change(self) -> float | None:
        """The distance of its output from the golden one, of the same network in float64, over max(1, largest magnitude)."""
        change: float | None = self.record["verification"].get("precision_change")
        return change

    @property
    def parameters(self) -> str:
        return thousands(self.record["measured"]["parameters"])

    @property
    def parameters_short(self) -> str:
        """The measured count in prose, or the reported one of a classifier that nobody counted."""
        return millions(self.record["measured"]["parameters"] or self._reported("parameters"))

    @property
    def gflops(self) -> str:
        return decimal(self.record["measured"]["gflops"], significant=4)

    @cached_property
    def reported(self) -> dict[str, Any]:
        """The figures that the source printed, raw. They are the classifier's: a feature extractor has none."""
        return {key: self._reported(key) for key in ("top1", "top5", "parameters", "gflops")}

    def _reported(self, key: str) -> Any:
        return self.record["row"][key] if self.is_classifier else None

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Measured accuracies, the newest first; the last may be the one at its publication."""
        found = []
        first = self.record["measured"]["top1"]
        if first is not None:
            found.append(Evaluation.of_record(first, self.record["versions"]))
        found += [Evaluation.of_note(note) for note in self.notes if note["action"] == "evaluation"]
        return tuple(reversed(found))

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """The accuracy to show: the newest on the data that the module was trained for, or else the newest."""
        own = [each for each in self.evaluations if each.dataset in self.record["row"]["datasets"]]
        return next(iter(own or self.evaluations), None)

    @cached_property
    def speed(self) -> Speed | None:
        """The newest measurement of images per second."""
        found = [Speed.of_note(note) for note in self.notes if note["action"] == "speed"]
        return found[-1] if found else None

    @property
    def measured_top1(self) -> float | None:
        return self.evaluation.top1 if self.evaluation else None

    @property
    def measured_top5(self) -> float | None:
        return self.evaluation.top5 if self.evaluation else None

    @property
    def top1(self) -> float | None:
        """The top-1 accuracy of the classifier of this checkpoint, in per cent: measured, or else reported by the source."""
        head = self if self.is_classifier else self.sibling
        if head is not None and head.measured_top1 is not None:
            return head.measured_top1
        reported: float | None = self.record["row"]["top1"]
        return reported

    @property
    def top1_is_measured(self) -> bool:
        """True if `top1` was measured on the published classifier."""
        head = self if self.is_classifier else self.sibling
        return head is not None and head.measured_top1 is not None

    @property
    def reported_top1_text(self) -> str:
        return percent(self.reported["top1"])

    @property
    def reported_top5_text(self) -> str:
        return percent(self.reported["top5"])

    @property
    def measured_top1_text(self) -> str:
        return measured_percent(self.measured_top1)

    @property
    def measured_top5_text(self) -> str:
        return measured_percent(self.measured_top5)

    def dataset_name(self, tag: str) -> str:
        """Return the name of a data set; one that the vocabulary does not know has its tag."""
        known = self.tags["dataset"].get(tag)
        return known.display_name if known else tag

    def images_per_second(self, column: str, machine: tuple[str, int] | None = None) -> float | None:
        """Return the speed at the batch size that the column `images_per_second_BATCH` names, if it was measured on `machine`."""
        if self.speed is None or machine not in (None, (self.speed.cpu, self.speed.threads)):
            return None
        return self.speed.images_per_second.get(column.removeprefix(SPEED))

    @property
    def from_mirror(self) -> bool:
        """True if the checkpoint's file was taken from a mirror instead of from its own address."""
        return bool(self.record["checkpoint"].get("mirror"))

    @property
    def is_pinned(self) -> bool:
        """True if the row said beforehand which digest the checkpoint has."""
        return bool(self.record["row"]["sha256"])

    @property
    def download(self) -> str:
        return size(self.record["archive"]["bytes"])

    @property
    def file_name(self) -> str:
        """A name for the downloaded archive that no other module has."""
        return layout.archive_path(f"{self.record['name'].replace('/', '_')}_{self.record['version']}")

    @property
    def published_day(self) -> str:
        return day(self.record["published"])

    @property
    def lite(self) -> "PublishedFormat | None":
        """The LiteRT file to start with: the one in float32, or else the largest."""
        return next((each for each in self.formats if each.is_lite), None)

    @property
    def onnx(self) -> "PublishedFormat | None":
        return next((each for each in self.formats if not each.is_lite), None)

    @property
    def licence(self) -> Tag:
        return self.tags["license"][self.record["row"]["licence"]]

    @property
    def non_commercial(self) -> bool:
        return "-nc-" in f"{self.record['row']['licence']}-"

    @property
    def datasets(self) -> list[Tag]:
        return [self.tags["dataset"][name] for name in self.record["row"]["datasets"]]

    @property
    def task_name(self) -> str:
        return self.tags["task"][self.record["task"]].display_name

    @property
    def architecture(self) -> list[tuple[str, str]]:
        """The variant's own figures: [("depths", "3, 3, 9, 3"), ("dims", "96, 192, 384, 768")]."""
        found = []
        for key, value in self.record["row"]["architecture"].items():
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            found.append((key.replace("_", " "), text))
        return found

    @property
    def checkpoint_is_link(self) -> bool:
        return bool(WEB_ADDRESS.fullmatch(self.record["checkpoint"]["url"]))

    @property
    def taken(self) -> list[tuple[str, str]]:
        """What of the checkpoint's file was taken, where it was not all: [("entry", "model_ema"), ("prefix", "module.")]."""
        checkpoint = self.record["checkpoint"]
        said = {"entry": checkpoint.get("entry"), "prefix": checkpoint.get("prefix")}
        said["left aside"] = ", ".join(checkpoint.get("left_aside", []))
        return [(name, value) for name, value in said.items() if value]

    @property
    def changes(self) -> str:
        """The corrections of this version, as its row says them; empty where the row says nothing, as for a first version."""
        return self.record["row"].get("changes") or ""

    @property
    def maps(self) -> list[dict[str, Any]]:
        """The maps between the layers that `stages` gives: name, dtype, shape."""
        maps: list[dict[str, Any]] = self.record["signature"].get("maps", [])
        return maps

    @property
    def arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = self.record["signature"].get("arguments", {})
        return arguments

    @property
    def bibliography(self) -> dict[str, str]:
        """The paper as BibTeX fields, in order; `kind` and `key` first."""
        paper = self.record["row"]["paper"]
        meeting = re.search(r"(?i)\b(conference|proceedings|workshop|symposium)\b", paper["venue"])
        fields = {
            "title": "{" + _tex(paper["title"]) + "}",
            "author": _tex(" and ".join(paper["authors"].split(", "))),
            "booktitle" if meeting else "journal": _tex(paper["venue"]),
            "year": str(paper["year"]),
            "url": paper["url"],
        }
        return {"kind": "inproceedings" if meeting else "article", "key": paper["key"], **fields}


def _tex(text: str) -> str:
    return re.sub(r"([&%#$_])", r"\\\1", one_line(text))


@dataclass(frozen=True)
class Crop:
    """The part of an image that a module sees, in pixels of the image."""

    x: float
    y: float
    width: float
    height: float


def crop_of(module: PublishedModule, width: int, height: int) -> Crop:
    """Return what preprocessing keeps of an image of this size: a centred square, or all of it when it is warped."""
    transform = module.preprocessing["transform"]
    if transform["resize"] != "short_side":
        return Crop(0, 0, width, height)
    side = round(min(width, height) * min(module.row["resolution"] / transform["size"], 1), 1)
    return Crop(round((width - side) / 2, 1), round((height - side) / 2, 1), side, side)
