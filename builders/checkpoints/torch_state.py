"""State dict of a torch checkpoint: the entry of the file that holds the network, and its tensors as arrays.

Without a key the entry is taken that upstream's own loader takes:

    entries of the file                   taken                         by which loader
    state_dict_ema, and state_dict        state_dict_ema                timm, load_state_dict in models/_helpers.py
    model_ema, and model or state_dict    model_ema                     the same, for what DeiT, ConvNeXt and torchvision's
                                                                        references write with timm's or torch's averages
    model_state, and ema_state            the one of the lower error    pycls, load_checkpoint in core/checkpoint.py: model_state
                                                                        if they are equal; an error that is missing is 100
    state_dict, with current_model_state  state_dict                    Lightning, whose WeightAveraging puts the average there
    classy_state_dict                     its trunk and heads           ClassyVision and VISSL
    model, state_dict, model_state        that one                      all of them
    or module, alone

No loader's rule covers other averages (`ema`, `ema_state_dict`, `averaged_model`, `callbacks/EMA/ema_weights`, ...), two averages,
or a second network with the same names. Such a file is refused, and the message lists the keys that there are.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from builders.checkpoints.arrays import Array, naturals
from builders.checkpoints.errors import RESAVE, Refusal, choose, kind_of, listing, quoted
from builders.checkpoints.pickles import Opaque, TorchStorage, TorchTensor

_NETWORKS = ("model", "state_dict", "model_state", "module")
_AVERAGES = ("state_dict_ema", "model_ema")
_WORDS = {
    "ema",
    "swa",
    "avg",
    "average",
    "averages",
    "averaged",
    "averaging",
    "polyak",
    "shadow",
}  # in the name of an average
# Limits of the search for other networks, which no honest checkpoint comes near: items, depth, characters of a name.
_MAXIMUM_VISITS, _MAXIMUM_DEPTH, _SHOWN = 1_000_000, 8, 200


def state_dict(top: Any, key: str | None) -> tuple[str, dict[str, Any]]:
    """Return the entry of a torch checkpoint that holds the network: its name ("" for the file itself), and the entry."""
    if isinstance(top, Opaque):
        raise Refusal(f"holds a pickled object of {top!r}, which is a program and not data", RESAVE)
    if not isinstance(top, dict):
        raise Refusal(f"holds one {kind_of(top)} instead of named tensors", RESAVE)
    if key is not None:
        return key, _checked_state(_at(top, key), key)
    name, state, known = _entry(top)
    if rivals := list(_rivals(top, state, known)):
        keys = [name, *(path for path, is_named in rivals if is_named)]
        unnamed = [path for path, is_named in rivals if not is_named]
        also = f", and an average whose tensors have no names in {listing(unnamed)}" if unnamed else ""
        raise Refusal(
            f"holds more than one network ({listing(keys)}{also}): no upstream says which to take", choose(keys)
        )
    return name, state


def below(names: dict[str, Any], beginning: str) -> dict[str, Any]:
    """Return what has names of `beginning` and a dot or a slash, without these."""
    length = len(beginning) + 1
    return {
        name[length:]: value
        for name, value in names.items()
        if isinstance(name, str) and name.startswith(beginning) and name[length - 1 : length] in (".", "/")
    }


def _at(top: dict[Any, Any], key: str) -> Any:
    """Return the entry at `key`, whose last part may be the beginning of the names of a state dict."""
    value: Any = top
    for part in key.split("/"):
        found = value.get(part) if isinstance(value, dict) else None
        if found is None and isinstance(value, dict) and part:
            found = below(value, part) or None
        if found is None:
            entries = f"its top-level entries are {listing(top)}"
            raise Refusal(f"has no entry {quoted(key)}; {entries}", "name one that it has")
        value = found
    return value


def _entry(top: dict[Any, Any]) -> tuple[str, dict[str, Any], set[str]]:
    """Return the entry that upstream's loader takes, its name, and the names of those that its rule is about."""
    entries = f"its top-level entries are {listing(top)}"
    if isinstance(top.get("classy_state_dict"), dict):
        return "classy_state_dict", _classy(top), {"classy_state_dict/base_model"}
    raw = [name for name in _NETWORKS if _is_network(top.get(name))]
    averages = [name for name in _AVERAGES if _is_network(top.get(name))]
    if len(raw) > 1 or len(averages) > 1:
        raise Refusal(f"holds more than one possible network; {entries}", choose([*averages, *raw]))
    if averages:
        (name,) = averages
        if isinstance(top[name], Opaque) and raw:
            reason = f"its average {quoted(name)} is a pickled object of {top[name]!r}, a program and not data"
            raise Refusal(reason, f"{RESAVE}, or take the weights without averaging: {choose(raw)}")
        return name, _checked_state(top[name], name), {name, *raw}
    if raw:
        (name,) = known = raw
        if name == "model_state" and "ema_state" in top:
            known = ["model_state", "ema_state"]
            errors = [top.get(error, 100) for error in ("test_err", "ema_err")]
            if not all(isinstance(error, int | float) and not math.isnan(error) for error in errors):
                raise Refusal("test_err and ema_err are no plain numbers", choose(known))
            name = "model_state" if errors[0] <= errors[1] else "ema_state"
        elif name == "state_dict" and isinstance(top.get("averaging_state"), dict):
            known = ["state_dict", "current_model_state", "averaging_state"]
        return name, _checked_state(top[name], name), set(known)
    # Loose tensors are the network only if there is no other: training checkpoints keep a random generator's state.
    if any(isinstance(value, TorchTensor) for value in top.values()):
        return "", top, {""}
    paths = [path for path, value in _containers(top, set()) if isinstance(value, dict) and _is_network(value)]
    raise Refusal(f"holds no network that this reader knows; {entries}", choose(paths))


def _classy(top: dict[Any, Any]) -> dict[str, Any]:
    """Return the network of ClassyVision and VISSL, which write it as two dicts."""
    value: Any = top
    for part in ("classy_state_dict", "base_model", "model"):
        value = value.get(part) if isinstance(value, dict) else None
    parts = [value[part] for part in ("trunk", "heads") if part in value] if isinstance(value, dict) else []
    merged: dict[str, Any] = {}
    for entry in parts:
        state = _checked_state(entry, "classy_state_dict") if entry else {}
        if merged.keys() & state.keys():
            raise Refusal(f"trunk and heads both have {listing(merged.keys() & state.keys())}", RESAVE)
        merged.update(state)
    return _checked_state(merged, "classy_state_dict")


def _rivals(top: dict[Any, Any], state: dict[str, Any], known: set[str]) -> Iterator[tuple[str, bool]]:
    """Yield the path of every other network of the file, and whether its tensors have names.

    Another network is what is called an average and has at least a quarter of as many tensors as `state` (it may lack the buffers),
    or a dict that has half of the names of `state`, whatever is put before them.
    """
    if "" in known:  # the file itself: an entry of it that is no tensor is refused later
        return
    endings, average, visits = _endings(state), "", _Visits()
    unnamed: dict[str, None] = {}
    for path, value in _containers(top, known):
        if not (average and path.startswith(f"{average}/")):
            words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", path)
            is_average = bool(_WORDS & {word.lower() for word in words})
            average = path if is_average and 4 * _count(value, visits) >= len(state) else ""
            unnamed |= {average: None} if average else {}
        if not isinstance(value, dict) or not _is_network(value):
            continue
        if average:
            if 4 * sum(isinstance(item, TorchTensor) for item in value.values()) >= len(state):
                unnamed.pop(average, None)
                yield path, True
        elif 2 * max(len(_endings(value) & state.keys()), len(endings & value.keys())) >= len(state):
            yield path, True
    yield from ((path, False) for path in unnamed)


class _Visits:
    """Number of items of a file that were looked at; a file that would have more than any real one looked at is refused."""

    def __init__(self) -> None:
        self.number = 0

    def add(self, number: int) -> None:
        self.number += number
        if self.number > _MAXIMUM_VISITS:
            raise Refusal("has more entries than any real one", "check where the file comes from")


def _count(top: Any, visits: _Visits) -> int:
    """Return the number of tensors in a container and in all that are inside."""
    seen, stack, count = {id(top)}, [top], 0
    while stack:
        items = _items(stack.pop())
        visits.add(len(items))
        for item in items:
            if isinstance(item, dict | list | tuple | Opaque) and id(item) not in seen:
                seen.add(id(item))
                stack.append(item)
            count += isinstance(item, TorchTensor)
    return count


def _containers(top: Any, known: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield every container below `top` with its path, once; optimizers and what is `known` are not looked into."""
    seen, stack, visits = {id(top)}, [("", 0, top)], _Visits()
    while stack:
        path, depth, value = stack.pop()
        if path:
            yield path, value
        inner = []
        visits.add(len(_items(value)))
        for name, item in value.items() if isinstance(value, dict) else enumerate(_items(value)):
            if not isinstance(item, dict | list | tuple | Opaque) or id(item) in seen or depth == _MAXIMUM_DEPTH:
                continue
            seen.add(id(item))
            name = (name if isinstance(name, str) else str(name) if isinstance(name, int) else kind_of(name))[:_SHOWN]
            whole = f"{path}/{name}" if path else name
            if whole not in known and not name.lower().startswith("optim"):
                inner.append((whole, depth + 1, item))
        stack += reversed(inner)


def _items(value: Any) -> list[Any]:
    """Return what a container holds; of an `Opaque`, its arguments and its state."""
    if isinstance(value, Opaque):
        return [value.args, value.state]
    return list(value.values()) if isinstance(value, dict) else list(value)


def _endings(names: dict[Any, Any]) -> set[str]:
    """Return the names, and what is left of each without the parts before its first few dots."""
    found = set()
    for name in names:
        if isinstance(name, str) and len(name) <= _SHOWN:
            parts = name.split(".")
            found |= {".".join(parts[start:]) for start in range(min(len(parts), 6))}
    return found


def _is_network(value: Any) -> bool:
    """Tell whether an entry looks like a network; a pickled module does, and is refused later with the reason."""
    return isinstance(value, Opaque) or (
        isinstance(value, dict) and any(isinstance(item, TorchTensor) for item in value.values())
    )


def _checked_state(value: Any, key: str) -> dict[str, Any]:
    if isinstance(value, Opaque):
        raise Refusal(f"its entry {quoted(key)} is a pickled object of {value!r}, a program and not data", RESAVE)
    if not isinstance(value, dict):
        raise Refusal(f"its entry {quoted(key)} is a {kind_of(value)}, not a dict of tensors", "name another entry")
    if not any(isinstance(item, TorchTensor) for item in value.values()):
        raise Refusal(f"its entry {quoted(key)} has no tensors, only {listing(value)}", "name another entry")
    return value


def resolve(state: dict[str, Any], storage_of: Callable[[TorchStorage], Array]) -> dict[str, Array]:
    """Return arrays for the tensors of a state dict; raise Refusal naming what is no tensor."""
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise Refusal(f"the state dict has an entry of type {type(name).__name__} among its names", RESAVE)
        if not isinstance(value, TorchTensor):
            what = f"{value!r}" if isinstance(value, Opaque) else f"of type {type(value).__name__}"
            raise Refusal(f"{quoted(name)} is {what}, not a tensor", RESAVE)
        try:
            tensors[name] = _strided(value, storage_of(value.storage))
        except Refusal as refusal:
            raise Refusal(f"tensor {quoted(name)}: {refusal.reason}", refusal.fix) from None
    return tensors


def _strided(tensor: TorchTensor, root: Array) -> Array:
    """Return the tensor's view of its storage, after checking that every element of it lies inside."""
    size = naturals(tensor.size, "size")
    stride = naturals(tensor.stride, "stride")
    (offset,) = naturals((tensor.offset,), "storage offset")
    if len(size) != len(stride):
        raise Refusal("size and stride differ in length")
    storage = tensor.storage
    if storage.offset + storage.count > len(root):
        raise Refusal(f"its storage is a view that reaches out of storage {quoted(storage.key)}")
    values = root[storage.offset : storage.offset + storage.count]
    if tensor.dtype != values.dtype:
        if values.nbytes % tensor.dtype.itemsize:
            raise Refusal(f"its storage of {values.nbytes} bytes does not hold whole items of {tensor.dtype}")
        values = values.view(np.uint8).view(tensor.dtype)
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else offset
    if last >= len(values) + (count == 0):
        raise Refusal(f"reaches element {last} of a storage that has {len(values)}")
    if count > max(len(values), 1 << 20):
        raise Refusal(f"repeats a storage of {len(values)} elements until it has {count}", RESAVE)
    # Steps along axes of length 1 mean nothing, and torch leaves any number there.
    steps = tuple(step * values.itemsize if length > 1 else 0 for length, step in zip(size, stride, strict=True))
    values = values[offset:]
    if count == 0:
        return values[:0].reshape(size)
    return np.lib.stride_tricks.as_strided(values, size, steps, writeable=False)
