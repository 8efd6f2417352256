"""The catalogue: publisher, rows, modules and collections as records, and modules by name.

catalog = load()
for module in catalog.modules: print(module.handle)

`tools.catalog.reading` makes them from `modules/*.toml` and `collections/*.toml`.
"""

import collections
import difflib
import urllib.parse
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.catalog import vocabularies
from tools.catalog.layout import FORMAT_FILES, module_handle
from tools.catalog.preprocessing import PreprocessingRows
from tools.common.problems import Problem, UsageError, with_fix

HEADS = ("classifier", "feature_extractor")
# The types that a network may compute in, and how its name ends then; the first is the default.
PRECISIONS = {"float32": "", "bfloat16": "_bf16"}
# The formats of files for other runtimes; those that every row has by default, and those of a network above so many parameters.
FORMATS = tuple(FORMAT_FILES)
LARGE_FORMATS, LARGE_PARAMETERS = ("onnx", "int8"), 100_000_000
# The columns of a collection's table, and their headings.
COLUMNS = {
    "reported_top1": "Reported top-1 (%)",
    "measured_top1": "Measured top-1 (%)",
    "parameters": "Parameters",
    "gflops": "GFLOPs",
    "resolution": "Resolution",
    "download": "Download",
}
COLAB = "https://colab.research.google.com/"
_ABBREVIATED = 4  # letters that the beginning of a row's name needs to stand for it


@dataclass(frozen=True)
class Publisher:
    """The publisher of a hub: names and texts of its page.

    `url` is the base of the handles, without a slash at the end; `notebooks` is where Colab finds the folder `notebooks/`, or
    None if nowhere; `formats` are those of families that name none, or None for the default (see `FORMATS`). `headline` says on the
    first page what one gets here, `example` is the name of the module whose use it shows; without them the page has the
    description and the newest module.
    """

    name: str
    title: str
    description: str
    about: str
    url: str
    notebooks: str | None = None
    formats: dict[str, dict[str, float]] | None = None
    headline: str | None = None
    example: str | None = None


@dataclass(frozen=True)
class Variant:
    """One row: an upstream checkpoint, its architecture and preprocessing, and the figures that its source reports.

    `top1` and `top5` are per cent and `gflops` is 10^9 multiply-adds, as `numbers` (a URL) printed them; None where the source
    has no figure. `pixel_range` is the least and the largest float32 pixel; mean and standard deviation apply to [0, 1].
    `checkpoint` is a URL, or a path inside the repository. `evaluation` is an `.npz` of labelled images, or None; `changes`
    says what a later version corrects. `classes` is None for a checkpoint without a head. `precision` is the type that the network
    computes in (a key of `PRECISIONS`); its variables, inputs and outputs are float32 all the same. `checkpoint_key` names the
    network of a file with several, as `builders.restore(key=...)` takes it; None for the one that upstream's own loader takes.
    `formats` are those of the files for other runtimes, each with its limits: `top1_at_least`, per cent, or nothing.
    """

    file: str
    stem: str
    version: int
    family: str
    title: str
    size: str
    data: str
    data_text: str
    datasets: tuple[str, ...]
    network_architecture: str
    architecture: dict[str, Any]
    resolution: int
    classes: int | None
    labels: str | None
    transform: str
    normalization: str
    pixel_range: tuple[float, float]
    precision: str
    checkpoint: str
    checkpoint_key: str | None
    format: str
    sha256: str | None
    licence: str
    source_text: str
    numbers: str | None
    parameters: int | None
    gflops: float | None
    top1: float | None
    top5: float | None
    paper: dict[str, Any]
    fine_tunable: bool
    evaluation: str | None
    changes: str | None
    names: dict[str, str]
    formats: dict[str, dict[str, float]]

    @property
    def file_name(self) -> str:
        """The name of the checkpoint's file, as it lies in a folder of checkpoints."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.checkpoint).path).rpartition("/")[2]

    def facts(self) -> dict[str, Any]:
        """Return the row as plain data, for the process that builds it and for the record; without a key that it does not have.

        Files of other formats have records of their own: which ones are published is no fact of the module.
        """
        found = {key: value for key, value in asdict(self).items() if key != "checkpoint_key" or value is not None}
        del found["formats"]
        return found


@dataclass(frozen=True)
class Module:
    """A module, as a consumer loads it: one head of one variant, at one version."""

    publisher: str
    variant: Variant
    head: str

    @property
    def name(self) -> str:
        """The name of this head, as the row's patterns compose it."""
        return self.variant.names[self.head]

    @property
    def handle(self) -> str:
        """Publisher, name and version, joined."""
        return module_handle(self.publisher, self.name, self.variant.version)


@dataclass(frozen=True)
class Collection:
    """A page about modules that belong together: those whose row has one of the selected values for every key of `select`."""

    name: str
    title: str
    description: str
    about: str
    columns: tuple[str, ...]
    select: dict[str, tuple[Any, ...]]

    def selects(self, facts: dict[str, Any]) -> bool:
        """Return whether a row's facts (or a record's `row`) satisfy every condition."""
        facts = {"precision": "float32", **facts}  # records from before there was another precision do not say
        return all(facts.get(key) in values for key, values in self.select.items())


class UnknownNameError(UsageError, LookupError):
    """A name that is no module, family or collection. The message suggests the nearest ones."""


@dataclass(frozen=True)
class Catalog:
    """Everything that can be published, in the order of the files.

    `problems` are those of files whose rows or collections are left out (see `reading.load_usable`). `own` is a folder with further
    `modules/` and `collections/`, outside of the repository at `root`.
    """

    publisher: Publisher
    variants: tuple[Variant, ...]
    collections: tuple[Collection, ...]
    preprocessing: PreprocessingRows
    root: Path
    problems: tuple[Problem, ...] = ()
    own: Path | None = None

    def path(self, file: str) -> Path:
        """Return where a file of the catalogue lies: in the folder of one's own rows if it is there, or in the repository."""
        return self.own / file if self.own and (self.own / file).exists() else self.root / file

    @property
    def warnings(self) -> list[str]:
        """A sentence for each file with problems."""
        counts = collections.Counter(problem.file for problem in self.problems)
        return [
            with_fix(
                f"{file}: it has {count} problem{'' if count == 1 else 's'}, and what depends on it is left out",
                "run `python tools/publish.py --dry-run`, which lists them",
            )
            for file, count in counts.items()
        ]

    @property
    def tags(self) -> vocabularies.Vocabularies:
        """The vocabularies of the documents' metadata."""
        return vocabularies.load(self.root / vocabularies.FOLDER)

    @property
    def modules(self) -> list[Module]:
        """Every head of every row, in the order of the files."""
        return [Module(self.publisher.name, v, head) for v in self.variants for head in HEADS if head in v.names]

    def is_named_alone(self, variant: Variant) -> bool:
        """Return whether no other upstream file has the name of a row's checkpoint, so that the name says which file it is."""
        others = [each for each in self.variants if "://" in each.checkpoint and each.checkpoint != variant.checkpoint]
        return all(each.file_name != variant.file_name for each in others)

    def find(self, name: str) -> Module:
        """Return the module of a name or handle; raises `UnknownNameError`."""
        return self.expand([name], kinds=())[0]

    def expand(self, names: Iterable[str], kinds: tuple[str, ...] = ("row", "family", "collection")) -> list[Module]:
        """Return the modules of rows, modules (by name or handle), families, collections, or unique beginnings of a row's name.

        Raises `UnknownNameError` with every name that is none, each with suggestions.
        """
        modules = self.modules
        by_name = {m.name: m for m in modules}
        by_handle = {m.handle: m for m in modules}
        by_row: dict[str, list[Module]] = {}
        for module in modules:
            by_row.setdefault(module.variant.stem, []).append(module)
        selections = {c.name: c for c in self.collections}
        families = {v.family for v in self.variants}
        found: dict[str, Module] = {}
        unknown = []
        for name in names:
            if name in by_handle:
                hits = [by_handle[name]]
            elif "row" in kinds and name in by_row:
                hits = by_row[name]
            elif name in by_name:
                hits = [by_name[name]]
            elif "collection" in kinds and name in selections:
                hits = [m for m in modules if selections[name].selects(m.variant.facts())]
            elif "family" in kinds and name in families:
                hits = [m for m in modules if m.variant.family == name]
            else:
                begun = [
                    stem for stem in by_row if "row" in kinds and stem.startswith(name) and len(name) >= _ABBREVIATED
                ]
                hits = by_row[begun[0]] if len(begun) == 1 else []
            if not hits:
                known = dict.fromkeys([*by_name, *by_row, *selections, *families])
                close = difflib.get_close_matches(name, known, n=4, cutoff=0.5) or [k for k in known if name in k][:4]
                hint = (
                    f"did you mean {', '.join(close)}?" if close else "see `tools/publish.py --dry-run` for all names"
                )
                unknown.append(with_fix(f"no module, family or collection is called {name!r}", hint))
            found.update((m.handle, m) for m in hits)
        if unknown:
            raise UnknownNameError("\n".join(unknown))
        return [m for m in modules if m.handle in found]


def compose(stem: str, pattern: str, *, precision: str = "float32", **parts: Any) -> str:
    """Return a module's name: `pattern` over the row's parts and its `stem`. No name is spelled anywhere else.

    >>> compose("convnext_{size}_{data}_{resolution}", "{stem}_fe", size="tiny", data="1k", resolution=224)
    'convnext_tiny_1k_224_fe'
    >>> compose("vit_{size}", "{stem}_fe", size="s16", precision="bfloat16")
    'vit_s16_bf16_fe'
    """
    return pattern.format(stem=stem.format(**parts) + PRECISIONS[precision], **parts)
