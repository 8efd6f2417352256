"""Weights of models from checkpoints and back: one table of names for a family, used in both directions, strictly.

builders.restore(model, path)                        # the format is recognised
builders.write(model, "mine.safetensors", "timm")    # a model trained here, in an upstream format
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from builders import checkpoints

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Read = Callable[[Sequence[Array], Shape], Array]
Write = Callable[[Array], list[Array]]


class RestoreError(ValueError):
    """A checkpoint does not fit a model. The message lists the missing, unused, misshaped and non-finite tensors."""


@dataclass(frozen=True)
class Kind:
    """Layout of a variable in a checkpoint: the end of its key or keys, and the change of axes in both directions.

    `read(arrays, shape)` makes our array of `shape` from the checkpoint's; `write(array)` makes the checkpoint's arrays from ours.
    `adapt(arrays, layer)`, where a kind has it, first fits the checkpoint's arrays to a layer made for another image size.
    """

    suffixes: tuple[str, ...]
    read: Read
    write: Write
    adapt: Callable[[Sequence[Array], Any], Sequence[Array]] | None = None


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
    """

    column: str
    kinds: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


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

    def arrays(self, tensors: Mapping[str, Array], resize: bool = True) -> Sequence[Array]:
        """Return the checkpoint's arrays for the variable, with `resize` fitted to the layer's image size."""
        arrays = [tensors[key] for key in self.keys]
        return self.kind.adapt(arrays, self.layer) if resize and self.kind.adapt else arrays

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


def restore(
    model: Any, family: Any, path: str | os.PathLike[str], *, key: str | None = None, resize: bool = True
) -> str:
    """Set every variable of `model` from the checkpoint at `path`; return the name of the recognised format.

    Every tensor must be used exactly once, every variable set exactly once, shapes must agree and values be finite. Of a
    checkpoint with a head, a model without one leaves the head's tensors aside; nothing else. Nothing is assigned on failure.
    With `resize`, what belongs to another image size (a position embedding) is resized the upstream way; without, it is misshaped.

    A family may have `canonical(tensors)`, which brings equivalent layouts (wrappers, stacked layers) to one, and
    `check_format(model, format)`, which tells why a model computes another function than a format's weights are for.

    Raises:
      RestoreError: with the lists of missing, unused, misshaped and non-finite tensors.
      checkpoints.CheckpointError: the file cannot be read.
    """
    checkpoint = checkpoints.read(path, key=key)
    checkpoint.check_intact()
    tensors = getattr(family, "canonical", dict)(checkpoint.tensors)
    format = recognise(model, family, tensors)
    if format is None:
        some = ", ".join(list(tensors)[:5])
        raise RestoreError(
            f"{path}: no known format of this family ({', '.join(family.FORMATS)}) has keys like {some}. "
            "Fix: use a checkpoint of this family."
        )
    _require_format(model, family, format, path)
    plan = weights(model, family, format)
    used = {key for weight in plan for key in weight.keys}
    ignored = [re.compile(p) for p in (*family.FORMATS[format].ignored, *_top_patterns(model, family, format))]
    missing = sorted(used - set(tensors))
    unused = sorted(k for k in tensors if k not in used and not any(p.fullmatch(k) for p in ignored))
    misshaped, infinite = [], []
    for weight in plan:
        if all(key in tensors for key in weight.keys):
            error = weight.shape_error(weight.arrays(tensors, resize))
            if error:
                misshaped.append(error)
            else:
                infinite += [key for key in weight.keys if not checkpoints.all_finite(tensors[key])]
            checkpoint.release()  # or what was looked at would fill the memory beside the model
    if missing or unused or misshaped or infinite:
        lists = {"missing": missing, "unused": unused, "misshaped": misshaped, "not finite": infinite}
        lines = [f"{path} ({format} format) does not fit the model {model.name}:"]
        lines += [f"  {name} ({len(items)}): {_some(items)}" for name, items in lists.items()]
        lines.append("  Fix: take the checkpoint of this variant, or correct the row's architecture or classes.")
        raise RestoreError("\n".join(lines))
    for weight in plan:
        value = weight.kind.read(weight.arrays(tensors, resize), tuple(weight.variable.shape))
        weight.variable.assign(np.ascontiguousarray(value, dtype=np.float32))
        checkpoint.release()  # so that memory holds the weights once
    return format


def write(model: Any, family: Any, path: str | os.PathLike[str], format: str) -> None:
    """Write every variable of `model` to `path` (`.safetensors` or `.npz`) under the names and layouts of `format`."""
    _require_format(model, family, format, path)
    try:
        plan = weights(model, family, format)
    except KeyError as error:
        formats = ", ".join(family.FORMATS)
        raise RestoreError(
            f"{path}: the format {format!r} has nothing for {error} of the model {model.name}. "
            f"Fix: choose another one of {formats}."
        ) from None
    tensors = {}
    for weight in plan:
        arrays = weight.kind.write(np.asarray(weight.variable))
        tensors.update({key: np.ascontiguousarray(a) for key, a in zip(weight.keys, arrays, strict=True)})
    checkpoints.write(path, tensors)


def recognise(model: Any, family: Any, tensors: Mapping[str, Array]) -> str | None:
    """Return the format whose keys, and then shapes, agree with most of `tensors`; None if none has a key in common."""

    def score(format: str) -> tuple[int, int]:
        try:
            plan = weights(model, family, format)
        except KeyError:
            return 0, 0
        present = [w for w in plan if all(key in tensors for key in w.keys)]
        return len(present), sum(w.shape_error(w.arrays(tensors)) is None for w in present)

    best: str = max(family.FORMATS, key=score)
    return best if score(best)[0] else None


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
    return [re.escape(row.columns[column]) + r"[./].*" for row in absent if column in row.columns]


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
