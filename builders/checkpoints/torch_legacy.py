"""torch's format before torch 1.6: five pickles, then the storages one after the other."""

import mmap
from typing import Any

import numpy as np

from builders.checkpoints.arrays import Array, array_at
from builders.checkpoints.errors import RESAVE, Refusal, quoted
from builders.checkpoints.pickles import MAXIMUM_PICKLE_BYTES, TorchStorage, Unpickler
from builders.checkpoints.torch_state import resolve, state_dict


def read_tensors(memory: mmap.mmap, key: str | None) -> tuple[str, dict[str, Array]]:
    """Return the name of the network's entry and its tensors by name."""
    position, parts, storages = 0, [], []
    # Magic number, protocol, system, the object itself, the keys of its storages.
    for number, limit in enumerate((256, 256, 4096, MAXIMUM_PICKLE_BYTES, MAXIMUM_PICKLE_BYTES)):
        part = Unpickler(memory[position : position + limit])
        parts.append(part.run())
        position += part.length
        if number == 0 and parts[0] != 0x1950A86A20F9469CFC6C:
            raise Refusal("is a pickle, but not one that torch.save wrote", RESAVE)
        if number == 1 and parts[1] != 1001:
            raise Refusal("has an unknown version of torch's legacy format", RESAVE)
        if number == 2 and not (isinstance(parts[2], dict) and parts[2].get("little_endian") is True):
            raise Refusal("is not little-endian", RESAVE)
        if number == 3:
            storages = part.storages
    keys = parts[4]
    if not isinstance(keys, list) or not all(isinstance(name, str) for name in keys) or len(set(keys)) != len(keys):
        raise Refusal("damaged: its list of storages is none")
    dtypes: dict[str, np.dtype[Any]] = {}
    for storage in storages:
        if dtypes.setdefault(storage.key, storage.dtype) != storage.dtype:
            raise Refusal(f"storage {quoted(storage.key)} is used with two dtypes", RESAVE)
    places: dict[str, tuple[int, int]] = {}
    for name in keys:
        if name not in dtypes:
            raise Refusal(f"damaged: nothing uses storage {quoted(name)}, so its size is unknown")
        count = int.from_bytes(memory[position : position + 8], "little")
        end = position + 8 + count * dtypes[name].itemsize
        if end > len(memory):
            raise Refusal(f"truncated: storage {quoted(name)} reaches past the end of the file")
        places[name] = (position + 8, count)
        position = end
    if position != len(memory):
        raise Refusal(f"{len(memory) - position} bytes follow the last storage")
    found, state = state_dict(parts[3], key)

    def storage_of(storage: TorchStorage) -> Array:
        if storage.key not in places:
            raise Refusal(f"truncated or damaged: storage {quoted(storage.key)} is missing")
        start, count = places[storage.key]
        if count != (storage.count if storage.root_count is None else storage.root_count):
            raise Refusal(f"storage {quoted(storage.key)} has {count} items instead of {storage.count}")
        return array_at(memory, start, count, storage.dtype)

    return found, resolve(state, storage_of)
