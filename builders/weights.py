"""Weights of models from checkpoints and back: one table of names for a family, used in both directions, strictly.

builders.restore(model, path)                        # the format is recognised
builders.write(model, "mine.safetensors", "timm")    # a model trained here, in an upstream format
"""

import collections
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from builders import checkpoints

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Grid = tuple[int, int]
Read = Callable[[Sequence[Array], Shape], Array]
Write = Callable[[Array], list[Array]]

_FOREIGN = 8  # tensors beside a common prefix that are left aside: a counter of an average, the weights of a loss
_PARTS, _PREFIXES = 12, 4  # parts of a name that a prefix may have, and prefixes that are tried
_PLAIN = re.compile(r"[\w.-]{1,200}", re.ASCII)  # a prefix, and a name that is left aside: a record says them
_TAKE = "take the checkpoint of this variant, or correct the row's architecture or classes"


class RestoreError(ValueError):
    """A checkpoint does not fit a model. The message lists the missing, unused, misshaped and non-finite tensors."""


class Misfit(Exception):
    """A reason why the arrays of a checkpoint are not for a layer, and the fix: raised by a kind's `adapt`."""

    def __init__(self, reason: str, fix: str = _TAKE):
        super().__init__(reason)
        self.reason, self.fix = reason, fix


class Restored(str):
    """Name of the format that a checkpoint was recognised to have, and which part of the file was taken.

    entry: the entry of a torch file that holds the network ("model_ema"), or the beginning of names that the caller gave; else "".
    prefix: what was before the names of all tensors ("module.") and was taken off.
    left_aside: the few tensors whose names do not begin with the prefix.
    shards: the number of files that an index named; 0 for a checkpoint in one file.
    """

    entry: str
    prefix: str
    left_aside: tuple[str, ...]
    shards: int

    def __new__(cls, format: str, entry: str, prefix: str, left_aside: Sequence[str], shards: int) -> Self:
        self = super().__new__(cls, format)
        self.entry, self.prefix, self.left_aside, self.shards = entry, prefix, tuple(left_aside), shards
        return self

    def taken(self) -> dict[str, Any]:
        """Return which part of the file was taken, as a record says it: nothing of a flat file that was taken whole."""
        said = {"entry": self.entry, "prefix": self.prefix, "left_aside": list(self.left_aside)}
        return {key: value for key, value in said.items() if value}


@dataclass(frozen=True)
class Sizing:
    """What a caller and a file say of other image sizes: `grid` is that of the file's positions, None where nobody says it."""

    resize: bool
    grid: Grid | None


@dataclass(frozen=True)
class Kind:
    """Layout of a variable in a checkpoint: the end of its key or keys, and the change of axes in both directions.

    `read(arrays, shape)` makes our array of `shape` from the checkpoint's; `write(array)` makes the checkpoint's arrays from ours.
    `adapt(arrays, layer, sizing)`, where a kind has it, first fits the checkpoint's arrays to a layer made for another image size,
    which has a `grid` of positions; it raises Misfit where that cannot be.
    """

    suffixes: tuple[str, ...]
    read: Read
    write: Write
    adapt: Callable[[Sequence[Array], Any, Sizing], Sequence[Array]] | None = None


def _transposed(axes: Shape, inverse: Shape) -> tuple[Read, Write]:
    return lambda arrays, shape: arrays[0].transpose(axes), lambda array: [array.transpose(inverse)]


_SAME: tuple[Read, Write] = (lambda arrays, shape: arrays[0], lambda array: [array])
_CONV = _transposed((2, 3, 1, 0), (3, 2, 0, 1))  # [outputs, inputs, rows, columns] <-> [rows, columns, inputs, outputs]
_DEPTHWISE = _transposed((2, 3, 0, 1), (2, 3, 0, 1))  # [channels, 1, rows, columns] <-> [rows, columns, channels, 1]
_LINEAR = _transposed((1, 0), (1, 0))
_POINTWISE: tuple[Read, Write] = (
    lambda arrays, shape: arrays[0][:, :, 0, 0].T,
    lambda array: [array.T[:, :, None, None]],
)
_COLUMN: tuple[Read, Write] = (lambda arrays, shape: arrays[0][:, 0, 0], lambda array: [array[:, None, None]])

# PyTorch's names. The kind of a layer gives the kind of each of its variables.
KINDS: dict[str, dict[str, Kind]] = {
    "conv": {"kernel": Kind((".weight",), *_CONV), "bias": Kind((".bias",), *_SAME)},
    "depthwise": {"kernel": Kind((".weight",), *_DEPTHWISE), "bias": Kind((".bias",), *_SAME)},
    "linear": {"kernel": Kind((".weight",), *_LINEAR), "bias": Kind((".bias",), *_SAME)},
    "pointwise": {"kernel": Kind((".weight",), *_POINTWISE), "bias": Kind((".bias",), *_SAME)},
    "norm": {"gamma": Kind((".weight",), *_SAME), "beta": Kind((".bias",), *_SAME)},
    "vector": {"gamma": Kind(("",), *_SAME)},
    "column": {"gamma": Kind(("",), *_COLUMN)},
}


@dataclass(frozen=True)
class Format:
    """Upstream format of a family.

    column: its column in the table of names.
    kinds: kinds that it stores differently, for all layers of a kind or for one named layer.
    ignored: patterns of keys that carry no weights.
    heads: patterns of keys of a classifier's hidden layer, which is not in the family: models without the top leave it aside.
    """

    column: str
    kinds: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Line of a family's table: pattern and template of our layers' names, their kind, the name in each column."""

    ours: re.Pattern[str]
    template: str
    kind: str
    columns: dict[str, str]


def table(text: str) -> tuple[Row, ...]:
    """Parse a family's table: a header line `ours kind FORMAT...`, then one line for each layer; `-` where a format has none."""
    header, *lines = (line.split() for line in text.strip().splitlines())
    rows = []
    for ours, kind, *names in lines:
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(ours))
        columns = {format: name for format, name in zip(header[2:], names, strict=True) if name != "-"}
        rows.append(Row(re.compile(pattern), ours, kind, columns))
    return tuple(rows)


@dataclass(frozen=True)
class Weight:
    """Variable of a model, and where it lies in a checkpoint."""

    variable: Any
    keys: tuple[str, ...]
    kind: Kind
    layer: Any = None

    def arrays(self, tensors: Mapping[str, Array], sizing: Sizing) -> Sequence[Array]:
        """Return the checkpoint's arrays for the variable, fitted to the layer's image size. Raises Misfit."""
        arrays = [tensors[key] for key in self.keys]
        return self.kind.adapt(arrays, self.layer, sizing) if self.kind.adapt else arrays

    def shapes(self) -> dict[str, Shape]:
        """Return `{key: shape}` of the arrays that the variable needs."""
        arrays = self.kind.write(np.broadcast_to(np.float32(0), self.variable.shape))
        return {key: array.shape for key, array in zip(self.keys, arrays, strict=True)}

    def shape_error(self, arrays: Sequence[Array]) -> str | None:
        """Return what is wrong with the shapes of the checkpoint's arrays, or None."""
        for array, (key, shape) in zip(arrays, self.shapes().items(), strict=True):
            if tuple(array.shape) != tuple(shape):
                return f"{key} is {list(array.shape)}, the model needs {list(shape)}"
        return None


def weights(model: Any, family: Any, format: str) -> list[Weight]:
    """Return every variable of `model` with its key or keys in `format`.

    Raises RestoreError for a layer that the family's table does not know, KeyError for a format that has nothing for a layer.
    """
    found = []
    style: Format = family.FORMATS[format]
    for layer in model.layers:
        if not layer.variables:
            continue
        row, numbers = _row(family.WEIGHTS, layer.name)
        kind = style.kinds.get(row.template, style.kinds.get(row.kind, row.kind))
        if style.column not in row.columns:
            raise KeyError(layer.name)
        prefix = row.columns[style.column].format_map(_numbers(numbers))
        for variable in layer.variables:
            spec = getattr(family, "KINDS", KINDS)[kind][variable.name]
            found.append(Weight(variable, tuple(prefix + suffix for suffix in spec.suffixes), spec, layer))
    return found


@dataclass(frozen=True)
class _Fit:
    """How a checkpoint's tensors fit a model in one format, without one prefix.

    tensors: under the names of the format.
    outside: names that do not begin with the prefix; is_crowded: these may be weights, or another network.
    """

    format: str
    prefix: str
    plan: Sequence[Weight]
    tensors: Mapping[str, Array]
    outside: Sequence[str]
    is_crowded: bool
    ignored: Sequence[str]
    sizing: Sizing

    @cached_property
    def missing(self) -> list[str]:
        return sorted({key for weight in self.plan for key in weight.keys if key not in self.tensors})

    @cached_property
    def unused(self) -> list[str]:
        used = {key for weight in self.plan for key in weight.keys}
        patterns = [re.compile(pattern) for pattern in self.ignored]
        return sorted(k for k in self.tensors if k not in used and not any(p.fullmatch(k) for p in patterns))

    @cached_property
    def present(self) -> list[Weight]:
        return [weight for weight in self.plan if all(key in self.tensors for key in weight.keys)]

    @cached_property
    def misshaped(self) -> dict[str, Misfit]:
        """What is wrong with the shapes, by the first key of each variable."""
        found = {}
        for weight in self.present:
            try:
                error = weight.shape_error(weight.arrays(self.tensors, self.sizing))
            except Misfit as misfit:
                found[weight.keys[0]] = Misfit(f"{weight.keys[0]} {misfit.reason}", misfit.fix)
            else:
                if error:
                    fix = "say with grid=(rows, columns) which grid it is for" if weight.kind.adapt else _TAKE
                    found[weight.keys[0]] = Misfit(error, fix)
        return found

    @property
    def is_whole(self) -> bool:
        """Whether everything under the prefix is the model's weights, and nothing is missing."""
        return not (self.missing or self.unused or self.misshaped)


def restore(
    model: Any,
    family: Any,
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    resize: bool = True,
    grid: Grid | None = None,
) -> Restored:
    """Set every variable of `model` from the checkpoint at `path`; return the recognised format, and what of the file was taken.

    Every tensor must be used exactly once, every variable set exactly once, shapes must agree and values be finite. Of a
    checkpoint with a head, a model without one leaves the head's tensors aside. A prefix that names have in common is taken off if
    what remains is the model's weights exactly; then up to eight other tensors, which are no weights of it, are left aside.
    Nothing else is, and nothing is assigned on failure.

    With `resize`, what belongs to another image size (a position embedding) is resized the upstream way; without, it is misshaped.
    `grid` is the rows and columns of the positions in the file. Files that `write` made say it themselves; in others, a number of
    positions that is a square is one, as upstream has it, and one that may as well be a grid like the model's is refused.

    A family may have `canonical(tensors)`, which brings equivalent layouts (wrappers, stacked layers) to one, and
    `check_format(model, format)`, which tells why a model computes another function than a format's weights are for.

    Args:
      key: which network of a file with several, as in `checkpoints.read`.

    Raises:
      RestoreError: with the lists of missing, unused, misshaped and non-finite tensors.
      checkpoints.CheckpointError: the file cannot be read, or holds several networks and no upstream's rule says which.
    """
    checkpoint = checkpoints.read(path, key=key)
    checkpoint.check_intact()
    fits = _fits(model, family, checkpoint.tensors, Sizing(resize, _grid(checkpoint, grid)))
    if not fits:
        some = ", ".join(list(checkpoint.tensors)[:5])
        raise RestoreError(
            f"{path}: no known format of this family ({', '.join(family.FORMATS)}) has keys like {some}. "
            "Fix: use a checkpoint of this family."
        )
    _require_one(model, checkpoint, fits)
    fit = next((fit for fit in fits if fit.is_whole), fits[0])
    _require_format(model, family, fit.format, path)
    if grid and not any(weight.kind.adapt for weight in fit.plan):
        raise RestoreError(f"{path}: the model {model.name} has no position embedding. Fix: leave grid out.")
    infinite = []
    for weight in fit.present:
        if weight.keys[0] not in fit.misshaped:
            infinite += [key for key in weight.keys if not checkpoints.all_finite(fit.tensors[key])]
        checkpoint.release()  # or what was looked at would fill the memory beside the model
    if not fit.is_whole or fit.is_crowded or infinite:
        unused = [*(fit.prefix + name for name in fit.unused), *(fit.outside if fit.is_crowded else ())]
        lists = {
            "missing": fit.missing,
            "unused": unused,
            "misshaped": [each.reason for each in fit.misshaped.values()],
        }
        lists["not finite"] = infinite
        after = f", after the prefix {fit.prefix!r}" if fit.prefix else ""
        lines = [f"{path} ({fit.format} format{after}) does not fit the model {model.name}:"]
        lines += [f"  {name} ({len(items)}): {_some(items)}" for name, items in lists.items()]
        lines.append(f"  {len(fit.present) - len(fit.misshaped)} of the model's {len(fit.plan)} variables fit.")
        lines.append(f"  Fix: {_fix(family, checkpoint, fit)}.")
        raise RestoreError("\n".join(lines))
    for weight in fit.plan:
        value = weight.kind.read(weight.arrays(fit.tensors, fit.sizing), tuple(weight.variable.shape))
        weight.variable.assign(np.ascontiguousarray(value, dtype=np.float32))
        checkpoint.release()  # so that memory holds the weights once
    return Restored(fit.format, checkpoint.key, fit.prefix, fit.outside, len(checkpoint.shards))


def write(model: Any, family: Any, path: str | os.PathLike[str], format: str) -> None:
    """Write every variable of `model` to `path` (`.safetensors` or `.npz`) under the names and layouts of `format`.

    The metadata of the file say the grid of a position embedding, which its shape does not.
    """
    try:
        plan = weights(model, family, format)
    except KeyError as error:
        formats = ", ".join(family.FORMATS)
        raise RestoreError(
            f"{path}: the format {format!r} has nothing for {error} of the model {model.name}. "
            f"Fix: choose another one of {formats}."
        ) from None
    _require_format(model, family, format, path)
    tensors, metadata = {}, {}
    for weight in plan:
        arrays = weight.kind.write(np.asarray(weight.variable))
        tensors.update({key: np.ascontiguousarray(a) for key, a in zip(weight.keys, arrays, strict=True)})
        if weight.kind.adapt:
            metadata["grid"] = "{}x{}".format(*weight.layer.grid)
    checkpoints.write(path, tensors, metadata)


def _fits(model: Any, family: Any, tensors: Mapping[str, Array], sizing: Sizing) -> list[_Fit]:
    """Return how `tensors` fit `model` in each format, the best first; without those that have no key in common."""
    plans: dict[str, list[Weight]] = {}
    for format in family.FORMATS:
        try:
            plans[format] = weights(model, family, format)
        except KeyError:
            continue
    names = {key for plan in plans.values() for weight in plan for key in weight.keys}
    has_top = any(layer.name == "head" for layer in model.layers)
    found = []
    for prefix in ["", *_prefixes(tensors, names)]:
        inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        inside = getattr(family, "canonical", dict)(inside)
        outside = [name for name in tensors if not name.startswith(prefix)]
        is_crowded = bool(outside) and not _may_be_left(outside, tensors, names, has_top)
        for format, plan in plans.items():
            ignored = (*family.FORMATS[format].ignored, *_top_patterns(model, family, format))
            found.append(_Fit(format, prefix, plan, inside, outside, is_crowded, ignored, sizing))
            if found[-1].is_whole and not prefix:
                return found[-1:]  # and nothing is left over, which might be another one
    found = [fit for fit in found if fit.present]
    return sorted(found, key=lambda fit: (-len(fit.present), len(fit.misshaped)))


def _may_be_left(outside: Sequence[str], tensors: Mapping[str, Array], names: set[str], has_top: bool) -> bool:
    """Tell whether the tensors `outside` of a prefix may be left aside: they are few, small, and not called like weights (`names`).

    For a model with the top, matrices may not: one of them may be the classifier that was trained.
    """
    found = [tensors[name] for name in outside]
    is_small = 2 * sum(tensor.size for tensor in found) < sum(tensor.size for tensor in tensors.values())
    is_classifier = has_top and any(tensor.ndim > 1 for tensor in found)
    is_plain = names.isdisjoint(outside) and all(map(_PLAIN.fullmatch, outside))
    return len(outside) <= _FOREIGN and is_small and is_plain and not is_classifier


def _prefixes(names: Iterable[str], wanted: set[str]) -> list[str]:
    """Return what stands, with a dot at its end, before names that are `wanted`: the commonest, and what is half as common."""
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        position = 0
        for _ in range(_PARTS):
            position = name.find(".", position) + 1
            if not position:
                break
            if name[position:] in wanted and _PLAIN.fullmatch(name[:position]):
                counts[name[:position]] += 1
    most = max(counts.values(), default=0)
    return [prefix for prefix, count in counts.most_common(_PREFIXES) if 2 * count >= most]


def _require_one(model: Any, checkpoint: checkpoints.Checkpoint, fits: Sequence[_Fit]) -> None:
    """Raise RestoreError if several networks of a flat file fit the model."""
    whole = list(dict.fromkeys(fit.prefix for fit in fits if fit.is_whole))
    if len(whole) > 1:
        keys = [_below(checkpoint, prefix) for prefix in whole]
        listed = " and ".join(map(repr, whole))
        raise RestoreError(
            f"{checkpoint.path}: holds more than one network that fits the model {model.name}: after the prefixes {listed}. "
            f"Fix: {checkpoints.choose(keys)}."
        )


def _fix(family: Any, checkpoint: checkpoints.Checkpoint, fit: _Fit) -> str:
    """Return what to do about a checkpoint that does not fit."""
    if fit.is_whole and fit.is_crowded:
        key = checkpoints.choose([_below(checkpoint, fit.prefix)])
        return (
            f"if the others are neither weights of this network nor an average of them, {key}, which leaves them aside"
        )
    head = {key: shape for weight in fit.plan if weight.layer.name == "head" for key, shape in weight.shapes().items()}
    hidden = [key for key in fit.unused if any(re.fullmatch(p, key) for p in family.FORMATS[fit.format].heads)]
    others = [
        *(set(fit.missing) - head.keys()),
        *(set(fit.unused) - set(hidden)),
        *(fit.misshaped.keys() - head.keys()),
    ]
    top = "include_top=False (for a row: data without `classes`)"
    if not others and hidden:
        layer = (
            f"the classifier of the file has a hidden layer ({_some(hidden)}), which those of this family do not have"
        )
        return f"create the model with {top}; {layer}"
    if not others and fit.missing:
        after = f" after the prefix {fit.prefix!r}" if fit.prefix else ""
        return f"create the model with {top}; there is no classifier{after}"
    if not others and fit.misshaped:
        ours, theirs = (
            min(shapes, key=len)[-1:] for shapes in (head.values(), [fit.tensors[key].shape for key in head])
        )
        if theirs and ours != theirs:
            own = "and put a classifier of your own on it"
            return f"create the model with num_classes={theirs[0]}, as the file has, or with {top} {own}"
    if not (fit.missing or fit.unused) and fit.misshaped:
        return next(iter(fit.misshaped.values())).fix
    if fit.missing and re.search(r"-\d{5}-of-\d{5}\.", str(checkpoint.path)):
        return "name the index of its shards (.index.json) and not one of them"
    return _TAKE


def _below(checkpoint: checkpoints.Checkpoint, prefix: str) -> str:
    """Return the key for what has `prefix` in a checkpoint."""
    return f"{checkpoint.key}/{prefix[:-1]}".removeprefix("/")


def _grid(checkpoint: checkpoints.Checkpoint, grid: Grid | None) -> Grid | None:
    """Return the grid of the file's positions that the caller or the file says. Raises RestoreError if they disagree."""
    said = checkpoint.metadata.get("grid")
    stated = (int(said.split("x")[0]), int(said.split("x")[1])) if said else None
    given: Grid | None = None if grid is None else (*grid,)
    if given and not (len(given) == 2 and all(isinstance(side, int) and side > 0 for side in given)):
        raise ValueError(f"grid={grid!r} are no rows and columns. Fix: pass two positive numbers.")
    if given and stated and given != stated:
        raise RestoreError(
            f"{checkpoint.path}: its positions are a grid of {said}, not of {given[0]}x{given[1]}. Fix: leave grid out."
        )
    return given or stated


def _require_format(model: Any, family: Any, format: str, path: str | os.PathLike[str]) -> None:
    """Raise RestoreError if the family tells that weights in `format` are for another function than `model` computes."""
    reason = getattr(family, "check_format", lambda model, format: None)(model, format)
    if reason:
        raise RestoreError(f"{path}: {reason}")


def _top_patterns(model: Any, family: Any, format: str) -> list[str]:
    """Return patterns of the keys of layers that a model without the top does not have."""
    names = {layer.name for layer in model.layers}
    column = family.FORMATS[format].column
    absent = [row for row in family.WEIGHTS if row.template in family.TOP and row.template not in names]
    heads = family.FORMATS[format].heads if absent else ()
    return [*heads, *(re.escape(row.columns[column]) + r"[./].*" for row in absent if column in row.columns)]


def _row(rows: Sequence[Row], layer_name: str) -> tuple[Row, dict[str, int]]:
    """Return the line of a family's table for a layer, and the counters in the layer's name."""
    for row in rows:
        match = row.ours.fullmatch(layer_name)
        if match:
            return row, {name: int(value) for name, value in match.groupdict().items()}
    raise RestoreError(f"the layer {layer_name} has weights, but no line in the family's table of names. Fix: add one.")


def _numbers(numbers: dict[str, int]) -> dict[str, int]:
    """Return the counters of a layer's name, and the numbers that formats derive from them: {s}, {s+1}, {s-1}, {2s}, {2s+1}."""
    derived = dict(numbers)
    for name, n in numbers.items():
        derived.update({f"{name}+1": n + 1, f"{name}-1": n - 1, f"2{name}": 2 * n, f"2{name}+1": 2 * n + 1})
    return derived


def _some(items: list[str]) -> str:
    """Return the first of `items`, and how many more there are."""
    return ", ".join(items[:8]) + (f", ... ({len(items) - 8} more)" if len(items) > 8 else "") if items else "none"
