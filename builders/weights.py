"""Checkpoints into models and back: one table of names for a family, run in both directions, every tensor accounted for.

restore(model, path)                        # the format is recognised
write(model, "mine.safetensors", "timm")    # a model trained here, in an upstream format
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from builders import checkpoints


class RestoreError(ValueError):
    """A checkpoint and a model do not belong together; the message has the four lists."""


@dataclass(frozen=True)
class Kind:
    """How one of our variables lies in a checkpoint: the end of its key(s), and the change of layout in both directions.

    `read(arrays, shape)` makes our array of `shape` from the checkpoint's, `write(array)` the checkpoint's list from ours.
    `adapt(arrays, layer)`, where a kind has it, first fits the checkpoint's arrays to a layer made for another image size.
    """

    suffixes: tuple[str, ...]
    read: Callable
    write: Callable
    adapt: Callable | None = None


def _transposed(axes, inverse):
    return lambda arrays, shape: arrays[0].transpose(axes), lambda array: [array.transpose(inverse)]


_SAME = (lambda arrays, shape: arrays[0], lambda array: [array])
_CONV = _transposed((2, 3, 1, 0), (3, 2, 0, 1))  # [outputs, inputs, rows, columns] <-> [rows, columns, inputs, outputs]
_DEPTHWISE = _transposed((2, 3, 0, 1), (2, 3, 0, 1))  # [channels, 1, rows, columns] <-> [rows, columns, channels, 1]
_LINEAR = _transposed((1, 0), (1, 0))
_POINTWISE = (lambda arrays, shape: arrays[0][:, :, 0, 0].T, lambda array: [array.T[:, :, None, None]])
_COLUMN = (lambda arrays, shape: arrays[0][:, 0, 0], lambda array: [array[:, None, None]])

# PyTorch's spellings. A layer's kind gives the kind of each of its variables.
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
    """One upstream format of a family: its column in the table, kinds that it stores differently (for all layers of a kind, or
    for one named layer), and keys that carry no weights."""

    column: str
    kinds: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of a family's table."""

    ours: re.Pattern
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
    """One variable of a model and where it lies in a checkpoint."""

    variable: object
    keys: tuple[str, ...]
    kind: Kind
    layer: object = None

    def arrays(self, tensors, resize: bool = True) -> list[np.ndarray]:
        """What the checkpoint has for the variable, with `resize` fitted to the layer's image size."""
        arrays = [tensors[key] for key in self.keys]
        return self.kind.adapt(arrays, self.layer) if resize and self.kind.adapt else arrays

    def shape_error(self, arrays) -> str | None:
        """What is wrong with the checkpoint's shapes, or None."""
        expected = [a.shape for a in self.kind.write(np.broadcast_to(np.float32(0), self.variable.shape))]
        for key, array, shape in zip(self.keys, arrays, expected, strict=True):
            if tuple(array.shape) != tuple(shape):
                return f"{key} is {list(array.shape)}, the model needs {list(shape)}"
        return None


def weights(model, family, format: str) -> list[Weight]:
    """Every variable of `model` with its key(s) in `format`; raises RestoreError for a layer that the table does not know."""
    found = []
    style = family.FORMATS[format]
    for layer in model.layers:
        if not layer.variables:
            continue
        row, numbers = _row(family.WEIGHTS, layer.name)
        kind = style.kinds.get(row.template, style.kinds.get(row.kind, row.kind))
        if style.column not in row.columns:
            raise KeyError(layer.name)  # a format that cannot hold this model
        prefix = row.columns[style.column].format_map(_numbers(numbers))
        for variable in layer.variables:
            spec = getattr(family, "KINDS", KINDS)[kind][variable.name]
            found.append(Weight(variable, tuple(prefix + suffix for suffix in spec.suffixes), spec, layer))
    return found


def restore(model, family, path, *, key: str | None = None, resize: bool = True) -> str:
    """Set every variable of `model` from the checkpoint at `path`; returns the name of the recognised format.

    Every tensor must be used exactly once, every variable set exactly once, shapes must agree and values be finite. Of a
    checkpoint with a head, a model without one leaves the head's tensors aside; nothing else. Nothing is assigned on failure.
    With `resize`, what belongs to another image size (a position embedding) is resized the upstream way; without, it is misshaped.

    A family may have `canonical(tensors)`, which undoes spellings that say the same (wrappers, stacked layers), and
    `check_format(model, format)`, which says why a model computes another function than a format's weights are for.

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
        raise RestoreError(f"{path}: no known format of this family ({', '.join(family.FORMATS)}) has keys like {some}")
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
        lines.append("  Is it the checkpoint of this variant? Check the row's architecture, classes and checkpoint.")
        raise RestoreError("\n".join(lines))
    for weight in plan:
        value = weight.kind.read(weight.arrays(tensors, resize), tuple(weight.variable.shape))
        weight.variable.assign(np.ascontiguousarray(value, dtype=np.float32))
        checkpoint.release()  # so that memory holds the weights once
    return format


def write(model, family, path, format: str) -> None:
    """Write every variable of `model` to `path` (`.safetensors` or `.npz`) under the names and layouts of `format`."""
    _require_format(model, family, format, path)
    try:
        plan = weights(model, family, format)
    except KeyError as error:
        fits = ", ".join(family.FORMATS)
        raise RestoreError(
            f"{path}: the format {format!r} has nothing for {error} of {model.name}; formats: {fits}"
        ) from None
    tensors = {}
    for weight in plan:
        arrays = weight.kind.write(np.asarray(weight.variable))
        tensors.update({key: np.ascontiguousarray(a) for key, a in zip(weight.keys, arrays, strict=True)})
    checkpoints.write(path, tensors)


def recognise(model, family, tensors) -> str | None:
    """The format whose keys, and then shapes, agree with most of `tensors`; None if none has a key in common."""

    def score(format):
        try:
            plan = weights(model, family, format)
        except KeyError:
            return 0, 0
        present = [w for w in plan if all(key in tensors for key in w.keys)]
        return len(present), sum(w.shape_error(w.arrays(tensors)) is None for w in present)

    best = max(family.FORMATS, key=score)
    return best if score(best)[0] else None


def _require_format(model, family, format, path):
    """Raise RestoreError where weights in `format` would mean another function than `model` computes, as its family knows."""
    reason = getattr(family, "check_format", lambda model, format: None)(model, format)
    if reason:
        raise RestoreError(f"{path}: {reason}")


def _top_patterns(model, family, format) -> list[str]:
    """Patterns of the keys of layers that a model without the top does not have."""
    names = {layer.name for layer in model.layers}
    column = family.FORMATS[format].column
    absent = [row for row in family.WEIGHTS if row.template in family.TOP and row.template not in names]
    return [re.escape(row.columns[column]) + r"[./].*" for row in absent if column in row.columns]


def _row(rows, layer_name):
    for row in rows:
        match = row.ours.fullmatch(layer_name)
        if match:
            return row, {name: int(value) for name, value in match.groupdict().items()}
    raise RestoreError(f"the layer {layer_name} has weights, but no line in the family's table of names; add one")


def _numbers(numbers: dict[str, int]) -> dict[str, int]:
    """The counters of a layer's name, and what formats make of them: {s}, {s+1}, {s-1}, {2s}, {2s+1}."""
    derived = dict(numbers)
    for name, n in numbers.items():
        derived.update({f"{name}+1": n + 1, f"{name}-1": n - 1, f"2{name}": 2 * n, f"2{name}+1": 2 * n + 1})
    return derived


def _some(items: list[str]) -> str:
    return ", ".join(items[:8]) + (f", ... ({len(items) - 8} more)" if len(items) > 8 else "") if items else "none"
