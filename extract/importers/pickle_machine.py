"""Follow the opcodes of a feature pickle without unpickling it.

Unpickling runs what the file asks for, and even a restricted unpickler keeps the whole file in
memory, because its memo holds every array's bytes to the end. A feature pickle is dicts and lists
of text, numbers and numpy arrays, so its opcodes are followed here instead: nothing is imported
and nothing is called. A global is a name, compared with the few that numpy writes, and an array is
a place in the file, whose values are never touched.

Opcodes and their arguments: `pickletools` of the standard library, which is all that is imported
here. Protocols 2 to 5.
"""

from __future__ import annotations

import codecs
import mmap
import pickle
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

_NDARRAY = ("numpy", "ndarray")
_DTYPE = ("numpy", "dtype")
_ENCODE = ("_codecs", "encode")
_RECONSTRUCT = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
_SCALAR = {(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")}
_FROM_BUFFER = {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
ALLOWED = {_NDARRAY, _DTYPE, _ENCODE} | _RECONSTRUCT | _SCALAR | _FROM_BUFFER
"""Modules and names that a pickle of numpy arrays needs; no other is admitted."""

_PUBLIC = {"posix": "os", "nt": "os", "__builtin__": "builtins"}  # pickles name the inner module
_MAX_TEXT = 1 << 20
_BLOCK = 1 << 20
_STRUCT_OF = {
    "f2": "e", "f4": "f", "f8": "d", "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip


class RefusedError(Exception):
    """The pickle is damaged, or holds what no feature file needs; the message says what."""


@dataclass(frozen=True)
class _Global:
    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Bytes:
    """Bytes that stay in the pickle (file 0) or the scratch file (file 1)."""

    file: int
    offset: int
    length: int


@dataclass(frozen=True)
class LongText:
    """Text that is too long for a transcript: the bytes of an array, written as text."""

    offset: int
    length: int


@dataclass
class Dtype:
    """A type of values as numpy writes it: `f4` and `<`."""

    code: str
    order: str = "|"

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return int(self.code[1:]) * (4 if self.code[0] == "U" else 1)


@dataclass
class Array:
    """An array: where its values are, or for text objects the list of them."""

    dtype: Dtype | None = None
    shape: tuple[int, ...] = ()
    order: str = "C"
    content: Bytes | list[Any] | None = None


class Machine:
    """Follows the opcodes of one pickle, with placeholders for everything that is no plain value.

    Args:
        data: The pickle.
        scratch: Takes the bytes of arrays that are not in the pickle as they are.
    """

    def __init__(self, data: mmap.mmap | bytes, scratch: BinaryIO) -> None:
        self._data = data
        self._scratch = scratch
        self._position = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the pickled value.

        Raises:
            RefusedError: it is not made of arrays and plain containers, or is damaged.
        """
        while True:
            opcode = self._take(1)
            if opcode == pickle.STOP:
                return self._stack.pop()
            step = _STEPS.get(opcode)
            if step is None:
                self._unknown(opcode)
            step(self)

    def _unknown(self, opcode: bytes) -> NoReturn:
        for known in pickletools.opcodes:
            if known.code.encode("latin-1") == opcode:
                raise RefusedError(f"uses the opcode {known.name}, which no pickle of arrays needs")
        raise RefusedError("is no pickle, or a damaged one")

    # --- reading

    def _skip(self, length: int) -> int:
        """Move behind the next bytes; return where they begin."""
        begin, left = self._position, len(self._data) - self._position
        if not 0 <= length <= left:
            raise RefusedError(f"claims {length:,} bytes where only {left:,} are left")
        self._position += length
        return begin

    def _take(self, length: int) -> bytes:
        begin = self._skip(length)
        return self._data[begin : begin + length]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self._position, self._position + _MAX_TEXT)
        if end < 0:
            raise RefusedError("is no pickle, or a damaged one")
        return self._take(end + 1 - self._position)[:-1].decode()

    # --- opcodes

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_number(self, layout: str) -> None:
        self._push(self._number(layout))

    def _push_long(self) -> None:
        """Put an integer of up to 255 bytes on the stack."""
        self._push(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def _push_text(self, layout: str) -> None:
        length = self._number(layout)
        if length > _MAX_TEXT:
            self._push(LongText(self._skip(length), length))
        else:
            self._push(self._take(length).decode("utf-8", "surrogatepass"))

    def _push_bytes(self, layout: str) -> None:
        length = self._number(layout)
        self._push(Bytes(0, self._skip(length), length))

    def _pass_over(self, length: int) -> None:
        self._skip(length)

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self) -> Any:
        return self._stack.pop()

    def _pop_group(self) -> list[Any]:
        group, self._stack = self._stack, self._below.pop()
        return group

    def _pop_last(self, count: int) -> tuple[Any, ...]:
        return tuple(self._stack.pop() for _ in range(count))[::-1]

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise RefusedError("adds items to something that is no list")
        target.extend(values)

    def _set_items(self, flat: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise RefusedError("sets keys of something that is no dict")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, str):
                raise RefusedError("has a key that is no text")
            target[key] = value

    def _remember(self, slot: int) -> None:
        self._memo[slot] = self._stack[-1]

    def _memoize(self) -> None:
        self._remember(len(self._memo))

    def _remember_at(self, layout: str) -> None:
        self._remember(self._number(layout))

    def _recall(self, layout: str) -> None:
        self._push(self._memo[self._number(layout)])

    def _push_global(self, module: str, name: str) -> None:
        if (module, name) not in ALLOWED:
            raise RefusedError(f"asks for {_PUBLIC.get(module, module)}.{name}")
        self._push(_Global(module, name))

    def _read_global(self) -> None:
        module = self._line()
        self._push_global(module, self._line())

    def _stacked_global(self) -> None:
        module, name = self._pop_last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError("asks for something whose name is no text")
        self._push_global(module, name)

    def _reduce(self) -> None:
        """Note what numpy's own function would make."""
        function, arguments = self._pop_last(2)
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise RefusedError("calls something that is no function")
        self._push(self._made(function, arguments))

    def _build(self) -> None:
        """Fill in the state of an array or a dtype."""
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, Dtype) and isinstance(state, tuple):
            if state[3] is not None or state[2] is not None:
                raise RefusedError("holds an array of records; only plain values are read")
            target.order = state[1]
        elif isinstance(target, Array) and isinstance(state, tuple):
            _, target.shape, target.dtype, fortran, target.content = state
            target.order = "F" if fortran else "C"
        else:
            raise RefusedError("sets the state of something that is no array")

    # --- what numpy's functions make

    def _made(self, function: _Global, arguments: tuple[Any, ...]) -> Any:
        name = (function.module, function.name)
        if name == _DTYPE:
            return _dtype(arguments[0])
        if name in _RECONSTRUCT:
            if arguments[0] != _Global(*_NDARRAY):
                raise RefusedError("reconstructs something that is no array")
            return Array()
        if name in _SCALAR:
            return self._scalar(*arguments)
        if name in _FROM_BUFFER:
            content, dtype, shape, order = arguments[:4]
            return Array(dtype, shape, order, content)
        if name == _ENCODE:
            return self._encoded(*arguments)
        raise RefusedError(f"calls {function}")

    def _scalar(self, dtype: Dtype, content: Bytes) -> float | int | bool | str:
        if content.length != dtype.itemsize or content.length > _MAX_TEXT:
            raise RefusedError("holds a number of another size than its type's")
        if content.file:
            self._scratch.seek(content.offset)
            raw = self._scratch.read(content.length)
            self._scratch.seek(0, 2)
        else:
            raw = self._data[content.offset : content.offset + content.length]
        if dtype.code[0] == "U":
            return raw.decode("utf-32-be" if dtype.order == ">" else "utf-32-le").rstrip("\0")
        order = dtype.order if dtype.order in "<>" else "="
        value: float | int | bool = struct.unpack(order + _STRUCT_OF[dtype.code], raw)[0]
        return value

    def _encoded(self, text: str | LongText, encoding: str) -> Bytes:
        """Write bytes to the scratch file that the pickle holds as text."""
        if encoding != "latin1":
            raise RefusedError(f"encodes as {encoding!r:.40}")
        begin = self._scratch.tell()
        if isinstance(text, str):
            self._scratch.write(text.encode("latin-1"))
        else:
            decoder = codecs.getincrementaldecoder("utf-8")()
            for first in range(text.offset, text.offset + text.length, _BLOCK):
                block = self._data[first : min(first + _BLOCK, text.offset + text.length)]
                self._scratch.write(decoder.decode(block).encode("latin-1"))
        return Bytes(1, begin, self._scratch.tell() - begin)


def _dtype(code: str) -> Dtype:
    if not isinstance(code, str) or code[:1] not in "fiubUO" or not code[1:].isdecimal():
        raise RefusedError(f"holds an array of type {code!r:.40}; only numbers and text are read")
    return Dtype(code)


_STEPS: dict[bytes, Callable[[Machine], None]] = {
    pickle.PROTO: lambda m: m._pass_over(1),
    pickle.FRAME: lambda m: m._pass_over(8),
    pickle.NONE: lambda m: m._push(None),
    pickle.NEWTRUE: lambda m: m._push(True),
    pickle.NEWFALSE: lambda m: m._push(False),
    pickle.BININT: lambda m: m._push_number("<i"),
    pickle.BININT1: lambda m: m._push_number("<B"),
    pickle.BININT2: lambda m: m._push_number("<H"),
    pickle.BINFLOAT: lambda m: m._push_number(">d"),
    pickle.LONG1: Machine._push_long,
    pickle.SHORT_BINUNICODE: lambda m: m._push_text("<B"),
    pickle.BINUNICODE: lambda m: m._push_text("<I"),
    pickle.BINUNICODE8: lambda m: m._push_text("<Q"),
    pickle.SHORT_BINBYTES: lambda m: m._push_bytes("<B"),
    pickle.BINBYTES: lambda m: m._push_bytes("<I"),
    pickle.BINBYTES8: lambda m: m._push_bytes("<Q"),
    pickle.BYTEARRAY8: lambda m: m._push_bytes("<Q"),
    pickle.EMPTY_LIST: lambda m: m._push([]),
    pickle.EMPTY_DICT: lambda m: m._push({}),
    pickle.EMPTY_TUPLE: lambda m: m._push(()),
    pickle.MARK: Machine._mark,
    pickle.TUPLE: lambda m: m._push(tuple(m._pop_group())),
    pickle.TUPLE1: lambda m: m._push(m._pop_last(1)),
    pickle.TUPLE2: lambda m: m._push(m._pop_last(2)),
    pickle.TUPLE3: lambda m: m._push(m._pop_last(3)),
    pickle.APPEND: lambda m: m._append([m._pop()]),
    pickle.APPENDS: lambda m: m._append(m._pop_group()),
    pickle.SETITEM: lambda m: m._set_items(list(m._pop_last(2))),
    pickle.SETITEMS: lambda m: m._set_items(m._pop_group()),
    pickle.MEMOIZE: Machine._memoize,
    pickle.BINPUT: lambda m: m._remember_at("<B"),
    pickle.LONG_BINPUT: lambda m: m._remember_at("<I"),
    pickle.BINGET: lambda m: m._recall("<B"),
    pickle.LONG_BINGET: lambda m: m._recall("<I"),
    pickle.GLOBAL: Machine._read_global,
    pickle.STACK_GLOBAL: Machine._stacked_global,
    pickle.REDUCE: Machine._reduce,
    pickle.BUILD: Machine._build,
}
