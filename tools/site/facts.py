"""What the pages may say: the records of a hub, gathered and checked, each fact in the form in which it is printed.

    hub = gather(records, publisher=catalog.publisher, collections=catalog.collections, base_url=url, tags=tags)
    hub.modules["hubpress/convnext_digits/1"].parameters        # "186,554"

Everything is gathered before the first page is made, so that siblings, collections and versions are complete by
construction. Nothing here is prose: the words are in `templates/`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

DASH = "\N{EN DASH}"  # an empty cell: nobody reported it, or nobody measured it
_OFTEN = ("handle", "publisher", "name", "version", "head", "task", "row", "measured", "archive", "published")
_PUBLISHER = re.compile(r"[a-z0-9-]+")
_SEGMENT = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]+")
_LINK = re.compile(r"https?://[^\s()<>\"']+")
_COLLECTION_SEGMENT = re.compile(r"(?!\.+$)[A-Za-z0-9_.&;-]+")


class PageError(ValueError):
    """A page cannot be made. The message names the record or the collection and ends with the fix."""


def thousands(value: int | None) -> str:
    """186554 -> "186,554"; None -> an en dash."""
    return DASH if value is None else f"{value:,}"


def millions(value: int | None) -> str:
    """A count in prose: 186554 -> "0.19 M", 28589128 -> "28.6 M", 350196968 -> "350 M"; None -> an en dash."""
    if value is None:
        return DASH
    if value < 10_000:
        return f"{value:,}"
    if value >= 10**9:
        return f"{value / 1e9:.2f} B"
    digits = 2 if value < 10**7 else 1 if value < 10**8 else 0
    return f"{value / 1e6:.{digits}f} M"


def decimal(value: float | None, *, significant: int | None = None) -> str:
    """A figure without exponent, of `significant` digits if given: 101.0 -> "101"; None -> an en dash."""
    if value is None:
        return DASH
    number = Decimal(repr(value))
    if significant is not None and number:
        number = number.quantize(Decimal(1).scaleb(min(number.adjusted() - significant + 1, 0)))
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float | None) -> str:
    """A percentage as written, with one decimal at least: 84.0 -> "84.0", 75.672 -> "75.672"; None -> an en dash."""
    text = decimal(value)
    return text if value is None or "." in text else f"{text}.0"


def measured_percent(value: float | None) -> str:
    """A measured percentage with two decimals at most: 98.61111 -> "98.61"; None -> an en dash."""
    return DASH if value is None else percent(round(value, 2))


def versions(packages: Mapping[str, str]) -> str:
    """{"tensorflow": "2.21.0", "python": "3.11"} -> "tensorflow 2.21.0, python 3.11"."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def rate(value: float | None) -> str:
    """Images per second in three digits: 31.2345 -> "31.2", 1234.5 -> "1,235"; None -> an en dash."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= 100 else decimal(value, significant=3)


def size(count: int | None) -> str:
    """Bytes in decimal units: 712345 -> "712 kB", 112345678 -> "112.3 MB"; None -> an en dash."""
    if count is None:
        return DASH
    if count < 1000:
        return f"{count} B"
    for unit, scale, digits in (("kB", 1e3, 0), ("MB", 1e6, 1)):
        if round(count / scale, digits) < 1000:
            return f"{count / scale:.{digits}f} {unit}"
    return f"{count / 1e9:.2f} GB"


def day(moment: str) -> str:
    """The date of an ISO 8601 time: "2026-11-20T10:30:00Z" -> "20 November 2026"."""
    date = datetime.fromisoformat(moment)
    months = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ]
    return f"{date.day} {months[date.month - 1]} {date.year}"


def one_line(text: str) -> str:
    """The text on one line, without blanks at its ends."""
    return " ".join(str(text).split())


def shape(dimensions: Iterable[int | None]) -> str:
    """A shape with names for what may vary: [None, None, None, 3] -> "[batch, height, width, 3]"."""
    dimensions = list(dimensions)
    names = ["batch", "height", "width", "channels"] if len(dimensions) == 4 else ["batch"]
    names += [f"d{i}" for i in range(len(names), len(dimensions))]
    return "[" + ", ".join(names[i] if d is None else str(d) for i, d in enumerate(dimensions)) + "]"


def span(limits: Iterable[float] | None) -> str:
    """A range of values: [0.0, 1.0] -> "0 to 1"; None -> an en dash."""
    if not limits:
        return DASH
    low, high = limits
    return f"{decimal(low)} to {decimal(high)}"


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of the published module, in per cent: on which images, when, and with which versions of the packages."""

    dataset: str
    split: str
    images: int
    top1: float
    top1_correct: int
    top5: float | None
    top5_correct: int | None
    date: str
    versions: Mapping[str, str]

    @classmethod
    def of_record(cls, top1: Mapping[str, Any], versions: Mapping[str, str]) -> "Evaluation":
        """What the checks before the publication measured."""
        figures = (top1["value"], top1["correct"], None, None)
        return cls(top1["dataset"], top1["split"], top1["images"], *figures, top1["date"], versions)

    @classmethod
    def of_note(cls, note: Mapping[str, Any]) -> "Evaluation":
        """What `tools/evaluate.py` measured later."""
        said = note["measurement"]
        top1, top5 = said["top1"], said.get("top5") or {}
        figures = (top1["value"], top1["correct"], top5.get("value"), top5.get("correct"))
        return cls(said["dataset"], said["split"], said["images"], *figures, note["date"], said["versions"])


@dataclass(frozen=True)
class Speed:
    """Images per second of the published module by batch size, on a processor, with so many threads."""

    cpu: str
    threads: int
    resolution: int
    images_per_second: Mapping[str, float]
    date: str
    versions: Mapping[str, str]

    @classmethod
    def of_note(cls, note: Mapping[str, Any]) -> "Speed":
        """What `tools/benchmark.py` measured."""
        said = note["measurement"]
        rates = said["images_per_second"]
        return cls(said["cpu"], said["threads"], said["resolution"], rates, note["date"], said["versions"])

    @property
    def batches(self) -> list[tuple[str, str]]:
        """(batch size, images per second) in the order of the sizes: [("1", "31.2"), ("8", "40.1")]."""
        return [(size, rate(self.images_per_second[size])) for size in sorted(self.images_per_second, key=int)]

    @property
    def machine(self) -> str:
        """ "AMD EPYC 7B13, 2 threads"."""
        return f"{one_line(self.cpu)}, {self.threads} thread{'s' if self.threads != 1 else ''}"


@dataclass(frozen=True, eq=False)
class ModulePage:
    """One published module as its pages see it: the record (`schema` 1) and what the hub knows around it.

    `sibling` is the other head of the same checkpoint, `versions` all versions of this name with the newest first
    (itself included), `collections` those that select it; `yanked` says why nobody should use it any more, or is None;
    `notes` are those of what was measured after the publication, in the order in which they were added.
    """

    record: Mapping[str, Any]
    base_url: str
    tags: Mapping[str, Any]
    yanked: str | None = None
    notes: tuple[Mapping[str, Any], ...] = ()
    around: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What is asked for most, where Python finds it at once.
        self.__dict__.update((key, self.record[key]) for key in _OFTEN if key in self.record)

    def __getattr__(self, key: str) -> Any:
        # The record's other keys, so that templates write `module.row.title`; a key that is missing stays an error.
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return self.record[key]
        except KeyError:
            raise AttributeError(f"record {self.record.get('handle')}: `{key}` is missing") from None

    sibling = property(lambda self: self.around.get("sibling"))
    versions = property(lambda self: self.around["versions"])
    collections = property(lambda self: self.around["collections"])

    @cached_property
    def newest(self) -> "ModulePage":
        """The version to use: the newest that is not yanked, or this one when all are."""
        return next((m for m in self.versions if m.yanked is None), self)

    @property
    def folder(self) -> str:
        """Where the page lies in the hub; the handle, too."""
        return self.record["handle"]

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
        """Where Colab opens `notebook`; None unless the publisher says where its notebooks are."""
        notebooks = self.around["notebooks"]
        return notebooks and f"{notebooks}/{self.notebook}"

    @property
    def is_classifier(self) -> bool:
        return self.record["head"] == "classifier"

    @property
    def has_labels(self) -> bool:
        return self.is_classifier and bool(self.record["row"]["labels"])

    @property
    def output(self) -> Mapping[str, Any]:
        return self.record["signature"]["outputs"][0]

    @property
    def width(self) -> int:
        """Classes or features: the last dimension of the output."""
        return self.output["shape"][-1]

    @property
    def takes_bytes(self) -> bool:
        return any(each["dtype"] == "uint8" for each in self.record["signature"]["inputs"])

    @property
    def pixel_range(self) -> tuple[float, float]:
        """What float32 pixels span."""
        ranges = [each["range"] for each in self.record["signature"]["inputs"] if each["dtype"] == "float32"]
        low, high = ranges[0] if ranges else self.record["row"]["pixel_range"]
        return low, high

    @property
    def precision(self) -> str:
        """What the network computes in; rows from before there was a choice do not say, and are float32."""
        return self.record["row"].get("precision", "float32")

    @property
    def change(self) -> float | None:
        """How far its golden output is from the same network's in float32, over max(1, largest magnitude)."""
        return self.record["verification"].get("precision_change")

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
        """What the source printed, raw. That was of the classifier: a feature extractor has no reported figures."""
        return {key: self._reported(key) for key in ("top1", "top5", "parameters", "gflops")}

    def _reported(self, key: str) -> Any:
        return self.record["row"][key] if self.is_classifier else None

    @cached_property
    def evaluations(self) -> tuple["Evaluation", ...]:
        """What was measured of its accuracy, the newest first; the last may be the one at its publication."""
        found = []
        first = self.record["measured"]["top1"]
        if first is not None:
            found.append(Evaluation.of_record(first, self.record["versions"]))
        found += [Evaluation.of_note(note) for note in self.notes if note["action"] == "evaluation"]
        return tuple(reversed(found))

    @cached_property
    def evaluation(self) -> "Evaluation | None":
        """The accuracy to show: the newest on the data that the module was trained for, or else the newest."""
        own = [each for each in self.evaluations if each.dataset in self.record["row"]["datasets"]]
        return next(iter(own or self.evaluations), None)

    @cached_property
    def speed(self) -> "Speed | None":
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
        """What people call a data set; one that the vocabulary does not know has its tag."""
        known = self.tags["dataset"].get(tag)
        return known.display_name if known else tag

    def images_per_second(self, column: str, machine: tuple[str, int] | None = None) -> float | None:
        """The speed at the batch size that the column `images_per_second_<batch>` names, if it was measured on `machine`."""
        if self.speed is None or machine not in (None, (self.speed.cpu, self.speed.threads)):
            return None
        return self.speed.images_per_second.get(column.removeprefix(SPEED))

    @property
    def from_mirror(self) -> bool:
        """Whether the checkpoint's file was taken from a mirror instead of from its own address."""
        return bool(self.record["checkpoint"].get("mirror"))

    @property
    def is_pinned(self) -> bool:
        """Whether the row said beforehand which digest the checkpoint has."""
        return bool(self.record["row"]["sha256"])

    @property
    def download(self) -> str:
        return size(self.record["archive"]["bytes"])

    @property
    def file_name(self) -> str:
        """A name for the downloaded archive that does not collide with that of another module."""
        return f"{self.record['name'].replace('/', '_')}_{self.record['version']}.tar.gz"

    @property
    def published_day(self) -> str:
        return day(self.record["published"])

    @property
    def licence(self) -> Any:
        return self.tags["license"][self.record["row"]["licence"]]

    @property
    def non_commercial(self) -> bool:
        return "-nc-" in f"{self.record['row']['licence']}-"

    @property
    def datasets(self) -> list[Any]:
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
        return bool(_LINK.fullmatch(self.record["checkpoint"]["url"]))

    @property
    def changes(self) -> str:
        """What this version corrects, as its row says it; empty where the row says nothing, as for a first version."""
        return self.record["row"].get("changes") or ""

    @property
    def maps(self) -> list[dict[str, Any]]:
        """The maps between the layers that `stages` gives: name, dtype, shape."""
        return self.record["signature"].get("maps", [])

    @property
    def arguments(self) -> dict[str, Any]:
        return self.record["signature"].get("arguments", {})

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
class CollectionPage:
    """A collection with at least one published module; `members` are the newest versions that are not yanked."""

    definition: Any  # tools.catalog.Collection
    publisher: str
    base_url: str
    members: tuple[ModulePage, ...]

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def handle(self) -> str:
        return f"{self.publisher}/{self.name}/1"

    @property
    def folder(self) -> str:
        return f"{self.publisher}/collections/{self.name}/1"

    @property
    def url(self) -> str:
        return f"{self.base_url}/{self.folder}"

    @property
    def classifiers(self) -> list[ModulePage]:
        return [m for m in self.members if m.is_classifier]

    @property
    def feature_extractors(self) -> list[ModulePage]:
        return [m for m in self.members if not m.is_classifier]

    @cached_property
    def tasks(self) -> list[str]:
        return sorted({m.task for m in self.members})

    @cached_property
    def architectures(self) -> list[str]:
        return sorted({m.row["network_architecture"] for m in self.members})

    @cached_property
    def datasets(self) -> list[str]:
        return sorted({name for m in self.members for name in m.row["datasets"]})

    @cached_property
    def papers(self) -> list[Mapping[str, Any]]:
        """The members' papers, each once, the oldest first."""
        found = {m.row["paper"]["key"]: m.row["paper"] for m in self.members}
        return sorted(found.values(), key=lambda paper: (paper["year"], paper["key"]))

    @cached_property
    def machine(self) -> tuple[str, int] | None:
        """The processor and threads on which most members' speed was measured: figures of others cannot stand beside them."""
        found = Counter((m.speed.cpu, m.speed.threads) for m in self.members if m.speed)
        return min(found, key=lambda each: (-found[each], each)) if found else None

    @cached_property
    def extra_columns(self) -> list[tuple[str, str]]:
        """(key, title) of the columns that exist as soon as one member has the figure: top-5, images per second."""
        columns = []
        for key, title in (("reported_top5", "Reported top-5 (%)"), ("measured_top5", "Measured top-5 (%)")):
            if any(raw(m, key) != "" for m in self.members):
                columns.append((key, title))
        sizes = {
            int(batch)
            for m in self.members
            if m.speed and (m.speed.cpu, m.speed.threads) == self.machine
            for batch in m.speed.images_per_second
        }
        columns += [(f"{SPEED}{batch}", f"Images/s (batch\u00a0{batch})") for batch in sorted(sizes)]
        return columns

    @property
    def parameters_span(self) -> str:
        """From the smallest to the largest member: "3.70 M to 350 M"."""
        counts = sorted(m.measured["parameters"] for m in self.members if m.measured["parameters"] is not None)
        if not counts:
            return DASH
        first, last = millions(counts[0]), millions(counts[-1])
        return first if first == last else f"{first} to {last}"


@dataclass(frozen=True)
class Hub:
    """All that is published, by handle, and how it belongs together."""

    publisher: Any  # tools.catalog.Publisher
    base_url: str
    modules: dict[str, ModulePage]
    collections: tuple[CollectionPage, ...]
    tags: Mapping[str, Any]
    has_benchmarks: bool = False  # whether there is a page of them to link

    @cached_property
    def names(self) -> list[ModulePage]:
        """One module per name, the version to use; the latest published first."""
        chosen = {m.newest.handle: m.newest for m in self.modules.values()}
        return sorted(chosen.values(), key=lambda m: (_descending(m.published), m.name))


def _descending(text: str) -> tuple[int, ...]:
    return tuple(-ord(character) for character in text)


def cell(module: ModulePage, column: str, machine: tuple[str, int] | None = None) -> str:
    """What a table says of a module in one of the columns of `tools.catalog` or of `CollectionPage.extra_columns`.

    A speed that was measured elsewhere than on `machine` (processor, threads) stays out.
    """
    if column in _CELLS:
        return _CELLS[column][0](module)
    return rate(module.images_per_second(column, machine))


def raw(module: ModulePage, column: str, machine: tuple[str, int] | None = None) -> Any:
    """The figure behind `cell`, for sorting and for programs; "" where there is none."""
    value = _CELLS[column][1](module) if column in _CELLS else module.images_per_second(column, machine)
    return "" if value is None else value


_CELLS: dict[str, tuple[Callable[[ModulePage], str], Callable[[ModulePage], Any]]] = {
    "reported_top1": (lambda m: m.reported_top1_text, lambda m: m.reported["top1"]),
    "measured_top1": (lambda m: m.measured_top1_text, lambda m: m.measured_top1),
    "reported_top5": (lambda m: m.reported_top5_text, lambda m: m.reported["top5"]),
    "measured_top5": (lambda m: m.measured_top5_text, lambda m: m.measured_top5),
    "parameters": (lambda m: m.parameters, lambda m: m.measured["parameters"]),
    "gflops": (lambda m: m.gflops, lambda m: m.measured["gflops"]),
    "resolution": (lambda m: str(m.row["resolution"]), lambda m: m.row["resolution"]),
    "download": (lambda m: m.download, lambda m: m.archive["bytes"]),
}
ACCURACIES = ("reported_top1", "measured_top1", "reported_top5", "measured_top5")
SPEED = "images_per_second_"


def trained(data: str) -> str:
    """A row's training data in brief, in the order of training: "21k_1k" -> "21k, then 1k"."""
    return data.replace("_", ", then ")


@dataclass(frozen=True)
class Crop:
    """The part of an image that a module sees, in pixels of the image."""

    x: float
    y: float
    width: float
    height: float


def crop_of(module: ModulePage, width: int, height: int) -> Crop:
    """What the module's preprocessing keeps of an image of this size: a centred square, or all of it when it is warped."""
    transform = module.preprocessing["transform"]
    if transform["resize"] != "short_side":
        return Crop(0, 0, width, height)
    side = round(min(width, height) * min(module.row["resolution"] / transform["size"], 1), 1)
    return Crop(round((width - side) / 2, 1), round((height - side) / 2, 1), side, side)


def gather(
    records: Iterable[Mapping[str, Any]],
    *,
    publisher: Any,
    collections: Iterable[Any],
    base_url: str,
    tags: Mapping[str, Any],
    yanked: Mapping[str, str] | None = None,
    measurements: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
) -> Hub:
    """Check the records against each other and the vocabularies, and connect them.

    `publisher` and `collections` are those of `tools.catalog.load()`, `tags` is `tools.catalog.vocabularies.load(...)`,
    `yanked` says why a handle was withdrawn, and `measurements` are the notes of what was measured later, by handle. Raises
    `PageError` with every problem of every record.
    """
    base_url = base_url.rstrip("/")
    yanked = dict(yanked or {})
    measurements = measurements or {}
    problems: list[str] = []
    modules: dict[str, ModulePage] = {}
    for record in records:
        handle = record.get("handle", "without a handle")
        found = _problems(record, publisher.name, tags)
        if handle in modules:
            found.append(f"record {handle}: there are two of them; keep the one that lies under its handle")
        problems += found
        if not found:
            why = (one_line(yanked[handle]) or "no reason was given") if handle in yanked else None
            modules[handle] = ModulePage(record, base_url, tags, why, tuple(measurements.get(handle, ())))
    if problems:
        raise PageError("\n".join(problems))
    modules = dict(sorted(modules.items(), key=lambda item: (item[1].name, item[1].version)))
    _connect(modules)
    found_collections = []
    for definition in sorted(collections, key=lambda each: each.name):
        if not all(_COLLECTION_SEGMENT.fullmatch(part) for part in definition.name.split("/")):
            raise PageError(f"collection {definition.name!r}: is no collection name; correct `name` in its file")
        members = {
            m.newest.handle: m.newest
            for m in modules.values()
            if m.newest.yanked is None and definition.selects(m.newest.row)
        }
        if members:
            ordered = tuple(sorted(members.values(), key=_by_size))
            found_collections.append(CollectionPage(definition, publisher.name, base_url, ordered))
    listed = [(collection, {m.handle for m in collection.members}) for collection in found_collections]
    for module in modules.values():
        module.around["notebooks"] = publisher.notebooks
        module.around["collections"] = [c for c, handles in listed if module.newest.handle in handles]
    return Hub(publisher, base_url, modules, tuple(found_collections), tags)


def _by_size(module: ModulePage) -> tuple:
    # As the papers' tables: by training data, then resolution, then size; heads of one row next to each other.
    count = module.measured["parameters"] or module.row["parameters"] or 0
    return (
        module.row["family"],
        len(module.row["datasets"]),
        module.row["data"],
        module.row["resolution"],
        count,
        module.name,
    )


def _connect(modules: dict[str, ModulePage]) -> None:
    versions: dict[str, list[ModulePage]] = {}
    for module in modules.values():
        versions.setdefault(module.name, []).insert(0, module)  # ascending in `modules`: the newest ends up first
    for module in modules.values():
        module.around["versions"] = versions[module.name]
        other = modules.get(module.record["sibling"] or "")
        if other is not None:
            # Both ways, even when the sibling was published later and only its record knows.
            module.around["sibling"] = other
            other.around.setdefault("sibling", module)


def _problems(record: Mapping[str, Any], publisher: str, tags: Mapping[str, Any]) -> list[str]:
    """What keeps a record from having a page, each with the fix."""
    handle = record.get("handle", "without a handle")
    again = "publish the module again under a new version"
    try:
        owner, name, version = record["publisher"], record["name"], record["version"]
        found = []
        if record["schema"] != 1:
            found.append(f"record {handle}: schema {record['schema']!r} is not 1; update hubpress")
        if owner != publisher:
            found.append(
                f"record {handle}: is of publisher {owner!r}, not {publisher!r}; "
                "use a hub of its own for each publisher"
            )
        well_formed = _PUBLISHER.fullmatch(owner) and all(_SEGMENT.fullmatch(part) for part in name.split("/"))
        if not well_formed or name.split("/")[0] == "collections" or type(version) is not int or version < 1:
            found.append(
                f"record {handle}: {name!r}, version {version!r}, is no module name; "
                f"correct the row's `stem`, and {again}"
            )
        elif handle != f"{owner}/{name}/{version}":
            found.append(f"record {handle}: the handle should be {owner}/{name}/{version}; {again}")
        row = record["row"]
        used = [
            ("license", row["licence"]),
            ("task", record["task"]),
            ("network_architecture", row["network_architecture"]),
        ]
        used += [("dataset", value) for value in row["datasets"]]
        for vocabulary, value in used:
            if value not in tags[vocabulary]:
                found.append(
                    f"record {handle}: {value!r} is not in modules/tags/{vocabulary}.yaml; "
                    "add it there, or correct the row"
                )
        for key, link in (("paper.url", row["paper"]["url"]), ("numbers", row["numbers"])):
            if link is not None and not _LINK.fullmatch(link):
                found.append(
                    f"record {handle}: `{key}` is {link!r}, which is no web address; correct the row, and {again}"
                )
    except (KeyError, TypeError, AttributeError) as error:
        return [f"record {handle}: is not of schema 1 ({type(error).__name__}: {error}); {again}"]
    return found
