"""State dict of a torch checkpoint: the entry of the file that holds the network, and its tensors as arrays."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from builders.checkpoints.arrays import Array, naturals
from builders.checkpoints.errors import RESAVE, Refusal, kind_of, listing, quoted
from builders.checkpoints.pickles import Opaque, TorchStorage, TorchTensor


def state_dict(top: Any, key: str | None) -> tuple[str, dict[str, Any]]:
    """Return the entry of a torch checkpoint that holds the network: its name ("" for the file itself), and the entry."""
    if isinstance(top, Opaque):
        raise Refusal(f"holds a pickled object of {top!r}, which is a program and not data", RESAVE)
    if not isinstance(top, dict):
        raise Refusal(f"holds one {kind_of(top)} instead of named tensors", RESAVE)
    entries = f"its top-level entries are {listing(top)}"
    if key is not None:
        value: Any = top
        for part in key.split("/"):
            if not isinstance(value, dict) or part not in value:
                raise Refusal(f"has no entry {quoted(key)}; {entries}", "name one that it has")
            value = value[part]
        return key, _checked_state(value, key)
    if isinstance(top.get("classy_state_dict"), dict):  # ClassyVision and VISSL: two dicts of one network
        value = top
        for part in ("classy_state_dict", "base_model", "model"):
            value = value.get(part) if isinstance(value, dict) else None
        parts = [value[part] for part in ("trunk", "heads") if part in value] if isinstance(value, dict) else []
        merged: dict[str, Any] = {}
        for entry in parts:
            state = _checked_state(entry, "classy_state_dict") if entry else {}
            if merged.keys() & state.keys():
                raise Refusal(f"trunk and heads both have {listing(merged.keys() & state.keys())}", RESAVE)
            merged.update(state)
        return "classy_state_dict", _checked_state(merged, "classy_state_dict")
    candidates = [name for name in ("model", "state_dict", "model_state", "module") if _is_network(top.get(name))]
    if len(candidates) > 1:
        raise Refusal(f"holds more than one possible network; {entries}", "say which with key=...")
    if not candidates:
        # Loose tensors are the network only if there is no other: training checkpoints keep a random generator's state.
        if any(isinstance(value, TorchTensor) for value in top.values()):
            return "", top
        raise Refusal(f"holds no network that this reader knows; {entries}", "name the entry with key=...")
    (name,) = candidates
    if name == "model_state" and "ema_state" in top:  # pycls writes both and keeps the better one for its model zoo
        average_error, error = top.get("ema_err"), top.get("test_err")
        if isinstance(average_error, int | float) and isinstance(error, int | float):
            name = "ema_state" if average_error < error else "model_state"
        elif average_error is not None and error is not None:
            raise Refusal("ema_err and test_err are no plain numbers", "say key='model_state' or key='ema_state'")
    return name, _checked_state(top[name], name)


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
