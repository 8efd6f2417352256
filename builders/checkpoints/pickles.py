"""Interpreter for the pickles inside torch's formats: it builds plain containers, describes tensors, and runs nothing.

Written here because the standard library's unpickler imports and calls what a pickle names, torch's restricted one needs PyTorch,
and neither tells where in the file a tensor's bytes lie.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from builders.checkpoints.arrays import naturals
from builders.checkpoints.errors import RESAVE, Refusal, kind_of, printable

# Limits that no honest checkpoint comes near; they bound the time and the memory that a hostile one can take.
MAXIMUM_PICKLE_BYTES = 64 << 20
_MAXIMUM_STEPS = 4_000_000
_MAXIMUM_INTEGER_BITS = 1024

DTYPES = {
    "bool": np.dtype(np.bool_),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}
_STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}


@dataclass(slots=True, eq=False, repr=False)
class Opaque:
    """A class or function that a pickle names (`args` is None) or would call (with `args`); never imported nor called.

    `state` is what the pickle would restore the instance with.
    """

    KIND: ClassVar[str] = "pickled object"
    module: str
    name: str
    args: Any = None
    state: Any = None

    def __repr__(self) -> str:
        return f"<{printable(self.module)}.{printable(self.name)}>"


@dataclass(slots=True, eq=False)
class TorchStorage:
    """`count` items of `dtype`, beginning `offset` items into what the file keeps under `key`."""

    KIND: ClassVar[str] = "storage"
    key: str
    dtype: np.dtype[Any]
    count: int
    offset: int = 0
    root_count: int | None = None  # of the storage that a view belongs to; None: the file tells


@dataclass(slots=True, eq=False)
class TorchTensor:
    """A tensor as the pickle describes it; nothing is checked until somebody asks for its values."""

    KIND: ClassVar[str] = "tensor"
    storage: TorchStorage
    dtype: np.dtype[Any]
    offset: Any
    size: Any
    stride: Any


class Unpickler:
    """Interpreter of one pickle as data: it builds plain containers, describes tensors, and names everything else.

    `run` returns the value; then `length` is the number of bytes used and `storages` holds every storage it named. The
    opcodes are those that Python's pickler emits for protocols 2 to 5 (the standard library's pickletools lists them);
    INST, OBJ, DUP, EXT*, text opcodes and out-of-band buffers never occur in a torch file and are refused.
    """

    def __init__(self, data: bytes):
        self.data = data
        self.length = 0
        self.storages: list[TorchStorage] = []
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def run(self) -> Any:
        stream = io.BytesIO(self.data)
        for opcode, argument, _ in pickletools.genops(stream):
            self._spend(1)
            if opcode.name == "STOP":
                break
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise Refusal(f"its pickle has the opcode {opcode.name}, which torch never writes", RESAVE)
            action(self, argument)
        self.length, self.data = stream.tell(), b""
        if len(self.stack) != 1 or self.marks:
            raise Refusal("damaged: its pickle ends in the middle of a value")
        return self.stack.pop()

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MAXIMUM_STEPS:
            raise Refusal("its pickle takes more steps than any real one", "check where the file comes from")

    def _pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refusal("damaged: its pickle takes a value from an empty stack")
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise Refusal("damaged: its pickle closes a group that it did not open")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        self._spend(len(items))
        return items

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _push_integer(self, value: int) -> None:
        if value.bit_length() > _MAXIMUM_INTEGER_BITS:
            raise Refusal("its pickle has an absurdly large integer", "check where the file comes from")
        self.stack.append(value)

    def _mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def _pop_one(self, _: None) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._pop()

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise Refusal("damaged: its pickle refers to a value that it did not store")
        self.stack.append(self.memo[index])

    def _put(self, index: int) -> None:
        value = self._pop()
        self.stack.append(value)
        self.memo[index] = value

    def _tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        target = self._top(list)
        if isinstance(target, list):
            target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise Refusal("damaged: its pickle has a dict entry without a value")
        target = self._top(dict)
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value

    def _add_items(self, items: list[Any]) -> None:
        target = self._top(set)
        if isinstance(target, set):
            target.update(map(_key, items))

    def _top(self, kind: type) -> Any:
        """Return the value that items are added to, which stays on the stack. An Opaque takes anything and keeps nothing."""
        value = self._pop()
        self.stack.append(value)
        if not isinstance(value, kind | Opaque):
            raise Refusal(f"damaged: its pickle adds items to a {kind_of(value)}")
        return value

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refusal("damaged: its pickle names a class by something else than text")
        self.stack.append(Opaque(module, name))

    def _global_line(self, argument: str) -> None:
        # pickletools joins the two lines with a blank, and neither module nor class names contain one.
        module, _, name = argument.partition(" ")
        self._global(module, name)

    def _global_stack(self, _: None) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Opaque) or not isinstance(arguments, tuple):
            raise Refusal(f"damaged: its pickle calls a {kind_of(function)}")
        known = _KNOWN_CALLS.get((function.module, function.name)) if function.args is None else None
        value = known(self, *arguments) if known else NotImplemented
        self.stack.append(Opaque(function.module, function.name, arguments) if value is NotImplemented else value)

    def _new(self, arguments_count: int) -> None:
        arguments = [self._pop() for _ in range(arguments_count)]
        function = self._pop()
        if not isinstance(function, Opaque):
            raise Refusal(f"damaged: its pickle makes an instance of a {kind_of(function)}")
        self.stack.append(Opaque(function.module, function.name, tuple(reversed(arguments))))

    def _build(self, _: None) -> None:
        state = self._pop()
        target = self._pop()
        self.stack.append(target)
        if isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict gets its `_metadata`, which holds versions of layers
            raise Refusal(f"damaged: its pickle sets the state of a {kind_of(target)}")

    def _persistent(self, _: None) -> None:
        """Push a storage, which torch keeps outside the pickle: ("storage", class, key, location, count[, view])."""
        identity = self._pop()
        if isinstance(identity, tuple) and len(identity) >= 2 and identity[0] == "module":
            self.stack.append(identity[1])  # the legacy format wraps classes with their source text
            return
        if not (isinstance(identity, tuple) and len(identity) in (5, 6) and identity[0] == "storage"):
            raise Refusal("damaged: its pickle has a persistent value that is no storage")
        kind, key, count = identity[1], identity[2], identity[4]
        dtype_name = None
        if isinstance(kind, Opaque) and kind.module in ("torch", "torch.cuda", "torch.storage"):
            dtype_name = _STORAGES.get(kind.name)
        if dtype_name is None:
            self.stack.append(kind if isinstance(kind, Opaque) else Opaque("torch", "unknown storage"))
            return
        key = str(key) if type(key) is int else key
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise Refusal("damaged: its pickle has a storage without a proper key and size")
        storage = TorchStorage(key, DTYPES[dtype_name], count)
        if len(identity) == 6 and identity[5] is not None:
            view = identity[5]
            if not isinstance(view, tuple) or len(view) != 3:
                raise Refusal("damaged: its pickle has a view of a storage that makes no sense")
            offset, length = naturals(view[1:], "view of a storage")
            storage.root_count, storage.offset, storage.count = count, offset, length
        self.storages.append(storage)
        self.stack.append(storage)

    # The calls that are carried out, because they build data. They return NotImplemented for arguments that torch never writes.

    def _ordered_dict(self, items: Any = ()) -> Any:
        if not isinstance(items, list | tuple):
            return NotImplemented
        self._spend(len(items))
        if not all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
            return NotImplemented
        return {_key(key): value for key, value in items}

    def _set(self, items: Any = ()) -> Any:
        if not isinstance(items, list | tuple):
            return NotImplemented
        self._spend(len(items))
        return {_key(item) for item in items}

    def _bytes(self, text: Any = "", encoding: Any = "latin1") -> Any:
        # Protocol 2 has no bytes: Python 3 writes them as a call of _codecs.encode.
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            return NotImplemented
        self._spend(len(text) // 16)
        return text.encode("latin1")

    def _size(self, items: Any = ()) -> Any:
        return items if isinstance(items, tuple) else NotImplemented

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        metadata = rest[2] if len(rest) > 2 else None  # after requires_grad and backward_hooks: conjugate, negative
        if not isinstance(storage, TorchStorage) or metadata:
            return NotImplemented
        return TorchTensor(storage, storage.dtype, offset, size, stride)

    def _tensor_with_dtype(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        dtype = rest[2] if len(rest) > 2 else None
        if not (isinstance(dtype, Opaque) and dtype.module == "torch" and dtype.name in DTYPES):
            return NotImplemented
        if not isinstance(storage, TorchStorage):
            return NotImplemented
        return TorchTensor(storage, DTYPES[dtype.name], offset, size, stride)

    def _parameter(self, tensor: Any, *_: Any) -> Any:
        return tensor if isinstance(tensor, TorchTensor) else NotImplemented

    def _tensor_of_type(self, function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
        known = (
            isinstance(function, Opaque)
            and isinstance(kind, Opaque)
            and isinstance(arguments, tuple)
            and (kind.module, kind.name) in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter"))
            and _KNOWN_CALLS.get((function.module, function.name)) in _TENSOR_CALLS
        )
        return _KNOWN_CALLS[function.module, function.name](self, *arguments) if known else NotImplemented


_KNOWN_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): Unpickler._ordered_dict,
    ("builtins", "set"): Unpickler._set,
    ("__builtin__", "set"): Unpickler._set,
    ("_codecs", "encode"): Unpickler._bytes,
    ("torch", "Size"): Unpickler._size,
    ("torch._utils", "_rebuild_tensor"): Unpickler._tensor,
    ("torch._utils", "_rebuild_tensor_v2"): Unpickler._tensor,
    ("torch._utils", "_rebuild_tensor_v3"): Unpickler._tensor_with_dtype,
    ("torch._utils", "_rebuild_parameter"): Unpickler._parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): Unpickler._parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): Unpickler._tensor_of_type,
}

_TENSOR_CALLS = (Unpickler._tensor, Unpickler._tensor_with_dtype, Unpickler._parameter)

_ACTIONS: dict[str, Callable[[Unpickler, Any], object]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "NONE": lambda machine, argument: machine._push(None),
    "NEWTRUE": lambda machine, argument: machine._push(True),
    "NEWFALSE": lambda machine, argument: machine._push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), Unpickler._push_integer),
    **dict.fromkeys(
        (
            *("BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        Unpickler._push,
    ),
    "EMPTY_DICT": lambda machine, argument: machine._push({}),
    "EMPTY_LIST": lambda machine, argument: machine._push([]),
    "EMPTY_SET": lambda machine, argument: machine._push(set()),
    "EMPTY_TUPLE": lambda machine, argument: machine._push(()),
    "TUPLE": lambda machine, argument: machine._push(tuple(machine._pop_to_mark())),
    "TUPLE1": lambda machine, argument: machine._tuple_of(1),
    "TUPLE2": lambda machine, argument: machine._tuple_of(2),
    "TUPLE3": lambda machine, argument: machine._tuple_of(3),
    "FROZENSET": lambda machine, argument: machine._push(frozenset(map(_key, machine._pop_to_mark()))),
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop_one,
    "POP_MARK": lambda machine, argument: machine._pop_to_mark() and None,
    "APPEND": lambda machine, argument: machine._append([machine._pop()]),
    "APPENDS": lambda machine, argument: machine._append(machine._pop_to_mark()),
    "SETITEM": lambda machine, argument: machine._set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, argument: machine._set_items(machine._pop_to_mark()),
    "ADDITEMS": lambda machine, argument: machine._add_items(machine._pop_to_mark()),
    "BINGET": Unpickler._get,
    "LONG_BINGET": Unpickler._get,
    "BINPUT": Unpickler._put,
    "LONG_BINPUT": Unpickler._put,
    "MEMOIZE": lambda machine, argument: machine._put(len(machine.memo)),
    "GLOBAL": Unpickler._global_line,
    "STACK_GLOBAL": Unpickler._global_stack,
    "REDUCE": Unpickler._call,
    "NEWOBJ": lambda machine, argument: machine._new(1),
    "NEWOBJ_EX": lambda machine, argument: machine._new(2),
    "BUILD": Unpickler._build,
    "BINPERSID": Unpickler._persistent,
}


def _key(value: Any) -> Any:
    """Return `value` as the key of a dict: scalars and short tuples of them.

    Python hashes nested tuples by recursion in C without a limit, and integers above 2**61 can be made to collide.
    """
    if isinstance(value, tuple) and len(value) <= 8:
        for item in value:
            if isinstance(item, tuple):
                raise Refusal("its pickle has a dict with nested tuples as keys", RESAVE)
            _key(item)
        return value
    small = isinstance(value, int) and abs(value) < 1 << 60
    if small or value is None or isinstance(value, str | bytes | float | Opaque):
        return value
    raise Refusal(f"its pickle has a dict with a {kind_of(value)} as a key", RESAVE)
