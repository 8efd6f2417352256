"""torch's zip format (torch >= 1.6, torch/serialization.py): ROOT/data.pkl and one stored member for each storage."""

import mmap

from builders.checkpoints.arrays import Array, array_at
from builders.checkpoints.errors import RESAVE, Refusal, listing, quoted
from builders.checkpoints.pickles import MAXIMUM_PICKLE_BYTES, TorchStorage, Unpickler
from builders.checkpoints.torch_state import resolve, state_dict
from builders.checkpoints.zips import ZipMember


def read_tensors(memory: mmap.mmap, members: dict[str, ZipMember], key: str | None) -> tuple[str, dict[str, Array]]:
    """Return the name of the network's entry and its tensors by name."""
    roots = [name.removesuffix("data.pkl") for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refusal(f"is a zip of other things ({listing(members)})", "check that this is the file of the weights")
    (root,) = roots
    if f"{root}constants.pkl" in members:
        raise Refusal("is a TorchScript program, not a checkpoint", RESAVE)
    for name, member in members.items():
        if member.compressed:
            raise Refusal(f"member {quoted(name)} is compressed; torch stores them plain", "write it uncompressed")
    order = members.get(f"{root}byteorder")
    if order is not None and memory[order.start : order.start + min(order.size, 16)] != b"little":
        raise Refusal("is not little-endian", RESAVE)
    program = members[f"{root}data.pkl"]
    if program.size > MAXIMUM_PICKLE_BYTES:
        raise Refusal(f"its data.pkl has {program.size} bytes, more than any real one", "check where it comes from")
    machine = Unpickler(memory[program.start : program.start + program.size])
    found, state = state_dict(machine.run(), key)

    def storage_of(storage: TorchStorage) -> Array:
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise Refusal(f"truncated or damaged: storage {quoted(storage.key)} is missing")
        count = storage.count if storage.root_count is None else storage.root_count
        if member.size != count * storage.dtype.itemsize:
            raise Refusal(
                f"storage {quoted(storage.key)} has {member.size} bytes instead of {count * storage.dtype.itemsize}"
            )
        return array_at(memory, member.start, count, storage.dtype)

    return found, resolve(state, storage_of)
