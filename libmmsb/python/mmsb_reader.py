"""Read MMSB buses from Python, in place, without a library and without writing a byte.

A bus is shared memory, described byte by byte in ``docs/layout.md``; this module is that page in Python. It maps
``mmsb.NAME.pages`` read-only: it can harm, block or delay nobody, and it registers nowhere.

    import mmsb_reader

    with mmsb_reader.observe("plant") as bus:
        tank = bus["tank/1"]
        print(tank.value())                       # decoded by the page's schema
        for event in bus.watch("tank/", timeout=10):
            print(event)

How it stays right beside writers
    A writer makes the page's ``seq`` odd, changes the bytes, and makes it even again. A reader loads ``seq``, copies,
    loads ``seq`` again, and believes the copy only if nothing moved. That needs two things. Words must be loaded whole:
    ``memoryview.cast('Q')`` loads eight bytes at once (``struct`` assembles bytes, and is used on private copies only).
    And the loads must happen in this order: CPython executes them in the order of the source, and x86-64 never lets a
    load overtake an earlier one. The copy, a slice of the ``mmap``, is a ``memcpy``: whatever vector loads it consists
    of, they are loads like others, and the later load of ``seq`` can't pass them. So no fence is needed, and this
    module refuses other processors, where one would be.

What is trusted
    Nothing. Every offset, length and count is checked against the mapped length before it is used, and loops have
    bounds: damage raises `Corrupt`. Only somebody who truncates the segment during a read can still hurt: the kernel
    answers with SIGBUS. A truncation that came before the read raises `Truncated`.

Threads may share a bus and its pages. After a fork, parent and child may both go on reading.
"""
from __future__ import annotations

import dataclasses
import errno
import functools
import keyword
import mmap
import os
import platform
import re
import stat
import struct
import sys
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, Iterable, Iterator, List, Literal, Mapping, NamedTuple, Optional, Set, Tuple, \
    Union

__version__ = "0.1.0"
__all__ = [
    "observe", "Bus", "BusInfo", "Page", "PageId", "Version", "Cut", "Watch", "Delta", "Gap", "Cold", "Schema", "Field",
    "MmsbError", "Unsupported", "BadName", "BusMissing", "AccessDenied", "NotABus", "WrongLayout", "BusGone", "Closed",
    "Truncated", "Corrupt", "PageMissing", "PageGone", "Busy", "NoSchema", "FieldMissing", "OutOfRange",
]

LAYOUT_MAJOR = 1
LAYOUT_MINOR = 2
LAYOUT_HASH = 0x26732604073A00EC

_MAGIC = b"MMSBPAGE"
_READY, _ABANDONED = 0x52454459, 0x474F4E45
_HEADER_LEN = 4096
_M32, _M64, _BLOCK = (1 << 32) - 1, (1 << 64) - 1, (1 << 36) - 1
# Word numbers (byte offset / 8) of what changes in the header.
_STATE_W, _LEN_W, _PUBLISHED_W, _TAIL_W, _FLOOR_W = 4, 128, 144, 160, 176
_HEADER_BYTES, _SLOT_BYTES, _COLD_BYTES, _CELL_BYTES, _VERSION_BYTES = 32, 64, 32, 32, 16
_PAGE_MAX, _SLAB = 1 << 30, 2 << 20
_FREE_TRIES = 32  # attempts at a disturbed read before it begins to sleep in between and to look at the clock
_ODD_COPY_MAX = 4096  # a longer copy isn't begun while a writer is inside: it could only be thrown away


class MmsbError(Exception):
    """Base of all errors of this module."""

    def __str__(self) -> str:  # KeyError would show the repr of its message
        return str(self.args[0]) if self.args else type(self).__name__


class Unsupported(MmsbError):
    """This machine or Python can't read words whole and in order, or the bus uses features unknown here."""


class BadName(MmsbError, ValueError):
    """No bus can have this name."""


class BusMissing(MmsbError, FileNotFoundError):
    """There is no bus of this name in the directory."""


class AccessDenied(MmsbError, PermissionError):
    """The segment exists, and its mode does not allow reading."""


class NotABus(MmsbError):
    """What is there under this name is no segment of a bus, or was never finished."""


class WrongLayout(MmsbError):
    """The bus has another layout than this module reads; the message has both."""


class BusGone(MmsbError):
    """The bus was removed, or replaced by a rebuild: observe it again."""


class Closed(MmsbError, ValueError):
    """The `Bus` object was closed."""


class Truncated(MmsbError):
    """Somebody cut the segment short."""


class Corrupt(MmsbError):
    """The segment has bytes that no correct participant writes. `what` says which, `offset` where."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(f"corrupt segment: {what}, at byte {offset}")
        self.what, self.offset = what, offset


class PageMissing(MmsbError, KeyError):
    """There is no page of this name or id."""


class PageGone(MmsbError):
    """The page was destroyed. One of the same name may exist: look it up again."""


class Busy(MmsbError, TimeoutError):
    """Writers disturbed every attempt for as long as the bus's `patience`, or one stopped or died inside; try again."""


class NoSchema(MmsbError, TypeError):
    """The page has no schema to decode its bytes by."""


class FieldMissing(MmsbError, KeyError):
    """The page's schema has no such field or element."""


class OutOfRange(MmsbError, ValueError):
    """The range is not inside the page."""


class PageId(NamedTuple):
    """Number of a page and which life of that number."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    generation: int

    def __str__(self) -> str:
        return f"{self.index}.{self.generation}"


class Version(NamedTuple):
    """A page's version: `epoch` counts its deltas, `lsn` is the last one's place in the order of the bus."""

    epoch: int
    lsn: int


class BusInfo(NamedTuple):
    """What the header says. LSNs are positions; sizes are bytes; times are ns of CLOCK_REALTIME."""

    name: str
    dir: str
    bus_id: str
    incarnation: int
    created_ns: int
    layout: Tuple[int, int]
    len: int
    len_max: int
    pages_max: int
    names_max: int
    sources_max: int
    ring_slots: int
    published: int
    tail_hint: int
    overwrite_floor: int
    durable_lsn: int
    log_state: str
    fork_lsn: int
    checkpoint_lsn: int
    checkpoint_ns: int


# --- schemas ---------------------------------------------------------------------------------------------------------

# number: (name, bytes, struct code, numpy code)
_TYPES = {
    1: ("u8", 1, "B", "<u1"), 2: ("i8", 1, "b", "<i1"), 3: ("u16", 2, "H", "<u2"), 4: ("i16", 2, "h", "<i2"),
    5: ("u32", 4, "I", "<u4"), 6: ("i32", 4, "i", "<i4"), 7: ("u64", 8, "Q", "<u8"), 8: ("i64", 8, "q", "<i8"),
    9: ("f32", 4, "f", "<f4"), 10: ("f64", 8, "d", "<f8"), 11: ("bool", 1, "?", "?"), 12: ("char", 1, "s", "S"),
}


def _fnv1a64(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & _M64
    return value


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _M64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _M64
    return x ^ x >> 31


class Field(NamedTuple):
    """One field of a record, or the elements of an array page (`name` is empty then). `offset` is in bytes."""

    name: str
    offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    type: str
    type_number: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * _TYPES[self.type_number][1]

    def decode(self, data: bytes) -> Any:
        """The value in `data`, which are the bytes of this field: a number, a bool, text, or a list."""
        if self.type == "char":
            return data.split(b"\0", 1)[0].decode("utf-8", "replace")
        values = struct.unpack(f"<{self.count}{_TYPES[self.type_number][2]}", data)
        return values[0] if self.count == 1 else list(values)

    def element(self, i: int) -> "Field":
        if self.type == "char" or not 0 <= i < self.count:
            raise FieldMissing(f"{self.name or 'the array'} has {self.count} of {self.type}, and no [{i}]")
        return Field(self.name, self.offset + i * _TYPES[self.type_number][1], 1, self.type, self.type_number)

    def numpy_format(self) -> Any:
        code = _TYPES[self.type_number][3]
        if self.type == "char":
            return f"S{self.count}"
        return code if self.count == 1 else (code, (self.count,))


class Schema:
    """What the bytes of a page mean: an array of one element type, or a record of named fields."""

    def __init__(self, raw: bytes) -> None:
        """Decodes the documented encoding. Raises `Unsupported` for another version, `Corrupt` for nonsense."""
        if len(raw) < 20 or raw[:4] != b"MSCH":
            raise Corrupt("not a schema", 0)
        version, kind, self.size, count, element, name_len = struct.unpack_from("<HHIIHH", raw, 4)
        if version != 1:
            raise Unsupported(f"schema of version {version}; this module decodes 1")
        self.hash = _fnv1a64(raw)
        self.is_record = kind == 2
        self.name = _text(raw, 20, name_len, "schema name")
        fields: List[Field] = []
        if kind == 1:
            fields.append(self._field("", 0, count, element))
        elif kind == 2 and count <= 4096:
            at = 20 + name_len
            for _ in range(count):
                if at + 12 > len(raw):
                    raise Corrupt("schema ends in a field", at)
                offset, number, element, length = struct.unpack_from("<IIHH", raw, at)
                fields.append(self._field(_text(raw, at + 12, length, "field name"), offset, number, element))
                at += 12 + length
        else:
            raise Corrupt(f"schema of kind {kind} with {count} fields", 6)
        self.fields: Tuple[Field, ...] = tuple(fields)
        self._by_name = {field.name: field for field in fields}
        if len(self._by_name) != len(fields) or self.size > _PAGE_MAX:
            raise Corrupt("schema with two fields of one name, or too long", 8)

    def _field(self, name: str, offset: int, count: int, element: int) -> Field:
        if element not in _TYPES or count == 0 or offset + count * _TYPES[element][1] > self.size:
            raise Corrupt(f"schema field {name!r}: {count} of type {element} at {offset}", 8)
        return Field(name, offset, count, _TYPES[element][0], element)

    def field(self, path: Union[str, int]) -> Field:
        """The field `path`: `price`, an element `bids[3]`; of an array page `[3]` or 3, or nothing for all of it."""
        if isinstance(path, int):
            path = f"[{path}]"
        if path in self._by_name:
            return self._by_name[path]
        match = re.fullmatch(r"(.*)\[([0-9]{1,10})\]", path, re.DOTALL)
        if match and match[1] in self._by_name:
            return self._by_name[match[1]].element(int(match[2]))
        raise FieldMissing(f"no field {path!r} in {self}")

    def decode(self, data: bytes) -> Any:
        """The value in the bytes of a page: scalar, list or text for an array, a dataclass for a record."""
        if len(data) < self.size:
            raise Corrupt(f"{len(data)} bytes are less than the {self.size} of the schema", 0)
        values = [f.decode(data[f.offset:f.offset + f.size]) for f in self.fields]
        return self.dataclass(*values) if self.is_record else values[0]

    @functools.cached_property
    def dataclass(self) -> Any:
        """A dataclass with the record's fields, in order. Names that Python can't have are bent: `class_`, `_1st`."""
        if not self.is_record:
            raise NoSchema(f"{self} is an array, not a record")
        names: List[str] = []
        for field in self.fields:
            name = _identifier(field.name)
            while name in names:
                name += "_"
            names.append(name)
        return dataclasses.make_dataclass(_identifier(self.name or "Record"), names)

    @functools.cached_property
    def dtype(self) -> Any:
        """The numpy dtype: structured for a record, with the offsets of the page, else that of an element."""
        import numpy  # type: ignore[import-not-found,unused-ignore]

        if not self.is_record:
            return numpy.dtype(self.fields[0].numpy_format() if self.fields[0].type == "char"
                               else _TYPES[self.fields[0].type_number][3])
        return numpy.dtype({
            "names": [f.name for f in self.fields], "formats": [f.numpy_format() for f in self.fields],
            "offsets": [f.offset for f in self.fields], "itemsize": self.size,
        })

    def __str__(self) -> str:
        def shown(f: Field) -> str:
            return f.type if f.count == 1 else f"{f.type}[{f.count}]"
        if not self.is_record:
            return shown(self.fields[0])
        return f"{self.name}{{{','.join(f'{f.name}:{shown(f)}' for f in self.fields)}}}"

    __repr__ = __str__


_schema = functools.lru_cache(maxsize=256)(Schema)  # so that pages of one schema share its dataclass and dtype


def _identifier(name: str) -> str:
    name = re.sub(r"\W", "_", name)
    if not name or not name.isidentifier() or name.startswith("__"):
        name = "_" + name.lstrip("_")
    return name + "_" if keyword.iskeyword(name) else name


def _text(raw: bytes, at: int, length: int, what: str) -> str:
    if length > 255 or at + length > len(raw):
        raise Corrupt(f"{what} of {length} bytes", at)
    return raw[at:at + length].decode("utf-8", "replace")


class Cold(NamedTuple):
    """What is said about a page beside its bytes."""

    id: PageId
    name: str
    schema_raw: bytes
    schema_hash: int
    metadata: Dict[str, str]

    @property
    def schema(self) -> Optional[Schema]:
        if not self.schema_raw:
            return None
        schema = _schema(self.schema_raw)
        if schema.hash != self.schema_hash:
            raise Corrupt(f"schema of page {self.id} does not have its hash", 0)
        return schema


def _cold(raw: bytes) -> Cold:
    """Decodes a cold payload, a private copy."""
    if len(raw) < _COLD_BYTES:
        raise Corrupt("cold record is cut short", 0)
    index, generation, schema_hash, name_len, schema_len, meta_len = struct.unpack_from("<IIQIII", raw)
    end = _COLD_BYTES + name_len + schema_len + meta_len
    if end > len(raw):
        raise Corrupt(f"cold record of {len(raw)} bytes says {end}", 0)
    name = _text(raw, _COLD_BYTES, name_len, "page name")
    at = _COLD_BYTES + name_len
    schema_raw = raw[at:at + schema_len]
    at += schema_len
    metadata: Dict[str, str] = {}
    while at < end:
        if at + 8 > end:
            raise Corrupt("metadata ends in a length", at)
        key_len, value_len = struct.unpack_from("<II", raw, at)
        if at + 8 + key_len + value_len > end:
            raise Corrupt("metadata is longer than its record", at)
        key = raw[at + 8:at + 8 + key_len].decode("utf-8", "replace")
        at += 8 + key_len + value_len
        metadata[key] = raw[at - value_len:at].decode("utf-8", "replace")
    return Cold(PageId(index, generation), name, schema_raw, schema_hash, metadata)


def _until_closed(method: Any) -> Any:
    """What goes wrong because another thread closes the bus is `Closed`, not what the map under it says."""
    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (ValueError, TypeError, OSError) as error:
            bus = getattr(self, "_bus", self)
            if bus._closed and not isinstance(error, MmsbError):
                raise Closed(f"bus {bus.name} was closed") from None
            raise
    return guarded


class _ColdPlace(NamedTuple):
    """Where a cold record was read: word number of its name entry, the entry, state and LSN of its block."""

    at: int
    entry: int
    state: int
    lsn: int


# --- the bus ---------------------------------------------------------------------------------------------------------

PageLike = Union["Page", str, Tuple[int, int]]


def observe(name: str, dir: Optional[str] = None, patience: float = 0.1) -> "Bus":
    """Maps the bus `name` read-only. `dir` is by default `$MMSB_DIR`, else `/dev/shm`.

    `patience` is the longest time in seconds that a read goes on when writers disturb it, or one has died or stopped in
    the middle of a write; then it raises `Busy`.
    """
    return Bus(name, dir, patience)


class Bus(Mapping[str, "Page"]):
    """A bus, mapped read-only: a mapping from names to pages. From `observe`; a context manager."""

    def __init__(self, name: str, dir: Optional[str] = None, patience: float = 0.1) -> None:
        self._fd = -1
        self._lock = threading.Lock()
        self._closed = False
        self._mm: Any = None  # the map, None once closed; here first, so that `close` works whatever fails below
        if platform.machine() not in ("x86_64", "AMD64") or sys.byteorder != "little" or sys.maxsize < 1 << 32:
            raise Unsupported(f"reading in place needs 64-bit x86-64, this is {platform.machine() or 'unknown'}: "
                              "elsewhere Python can't keep the order of loads")
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
            raise BadName(f"bad bus name {name!r}: 1 to 100 letters, digits, '-', '_' and '.', no dot first")
        self.name, self.dir, self.patience = name, dir or os.environ.get("MMSB_DIR") or "/dev/shm", patience
        self._cold_cache: Dict[PageId, Tuple[_ColdPlace, Cold]] = {}
        self._sources: Dict[int, str] = {}
        try:
            self._open(os.path.join(self.dir, f"mmsb.{name}.pages"))
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        try:
            # O_NONBLOCK: a FIFO put there instead would otherwise keep us waiting for its writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise BusMissing(f"no bus {self.name} in {self.dir}") from None
            if error.errno in (errno.EACCES, errno.EPERM):
                raise AccessDenied(f"bus {self.name}: may not read {path}") from None
            if error.errno == errno.ELOOP:
                raise NotABus(f"{path} is a symbolic link") from None
            raise NotABus(f"{path}: {error.strerror}") from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotABus(f"{path} is not a regular file")
        if status.st_size < _HEADER_LEN:
            raise Truncated(f"{path} has {status.st_size} bytes, less than a header")
        self._map(_HEADER_LEN)
        header = self._header()
        major, minor, features, layout = struct.unpack_from("<IIQQ", header, 8)
        if header[:8] != _MAGIC:
            raise NotABus(f"{path} does not begin with {_MAGIC.decode()}")
        if major != LAYOUT_MAJOR or (minor <= LAYOUT_MINOR and layout != LAYOUT_HASH):
            raise WrongLayout(f"bus {self.name} has layout {major}.{minor}, hash {layout:#x}; this module reads "
                              f"{LAYOUT_MAJOR}.{LAYOUT_MINOR}, hash {LAYOUT_HASH:#x}")
        if features:
            raise Unsupported(f"bus {self.name} uses features {features:#x}, unknown to this module")
        self._check()
        self._id = "{:016x}{:016x}".format(*struct.unpack_from("<QQ", header, 40))  # as the command `mmsb` shows it
        self._created_ns, self._len_max = struct.unpack_from("<QQ", header, 64)
        pages_max, names, sources, ring = struct.unpack_from("<IIII", header, 80)
        directory_at, names_at, sources_at, slabs_at, ring_at, arena_at = struct.unpack_from("<6Q", header, 96)
        slabs, = struct.unpack_from("<I", header, 144)
        for what, count in (("names_slots", names), ("ring_slots", ring)):
            if count == 0 or count & count - 1:
                raise Corrupt(f"{what} is {count}, no power of two", 80)
        if not 64 <= ring <= 1 << 24:
            raise Corrupt(f"ring_slots is {ring}", 92)
        length = self._words[_LEN_W]
        if self._len_max > 1 << 41 or self._len_max % _SLAB or slabs * _SLAB < self._len_max:
            raise Corrupt(f"len_max is {self._len_max}, with {slabs} slabs", 72)
        if arena_at % _SLAB or not 0 < arena_at <= min(length, self._len_max):
            raise Corrupt(f"the arena is at {arena_at}, in {length} bytes", 136)
        if arena_at > status.st_size:
            raise Truncated(f"{path} has {status.st_size} bytes and should have {length}")
        begin = _HEADER_LEN
        for what, at, count, each in (
            ("page directory", directory_at, pages_max, 8), ("name directory", names_at, names, 8),
            ("source table", sources_at, sources, 64), ("slab table", slabs_at, slabs, 8), ("ring", ring_at, ring, 64),
        ):
            if at < begin or at % 64 or count == 0 or at + count * each > arena_at:
                raise Corrupt(f"{what} of {count} entries at {at}, in {arena_at} bytes", 96)
            begin = at + count * each
        length = min(length, self._len_max)
        self._arena_at = arena_at
        self._pages_max, self._names_slots, self._sources_max, self._ring_slots = pages_max, names, sources, ring
        self._directory_w, self._names_w, self._sources_at, self._ring_at = \
            directory_at >> 3, names_at >> 3, sources_at, ring_at
        self._map(length)

    def _map(self, limit: int) -> None:
        """Maps what there is, up to `limit`. Python maps no byte past the object's end, so a bus that has grown is
        mapped again, from the start; pages that hold the earlier map keep it alive, and both show the same memory."""
        with self._lock:
            if self._closed:
                raise Closed(f"bus {self.name} was closed")
            length = min(limit, os.fstat(self._fd).st_size) & ~4095
            if self._mm is None or length > len(self._mm):
                try:
                    mapped = mmap.mmap(self._fd, length, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise MmsbError(f"bus {self.name}: can't map {length} bytes: {error}") from None
                self._words = memoryview(mapped).cast("Q")  # before `_mm`: who sees the new map sees its words
                self._mm = mapped

    def _header(self) -> bytes:
        self._check_size()
        return bytes(self._mm[:_HEADER_LEN])

    def _check_size(self) -> None:
        mm = self._mm
        if mm is None:
            raise Closed(f"bus {self.name} was closed")
        try:
            size, known = mm.size(), len(mm)
        except (OSError, ValueError):
            raise Closed(f"bus {self.name} was closed") from None
        if size < known:
            raise Truncated(f"bus {self.name} was cut from {known} to {size} bytes")

    @_until_closed
    def _check(self) -> None:
        """Raises if the bus can't be read any more."""
        self._check_size()
        state = self._words[_STATE_W] & _M32
        if state == _ABANDONED:
            raise BusGone(f"bus {self.name} was replaced by a rebuild: observe it again")
        if state != _READY:
            raise NotABus(f"bus {self.name} is not ready: state {state:#x}")

    def _reach(self, end: int) -> bool:
        """Makes the bytes ahead of `end` mapped, if the bus has them."""
        if end > len(self._mm):
            self._map(min(self._words[_LEN_W], self._len_max))
        return end <= len(self._mm)

    @property
    def removed(self) -> bool:
        """Whether the bus lost its name. Its memory stays readable here, with what was in it last."""
        self._check_size()
        with self._lock:
            if self._closed:
                raise Closed(f"bus {self.name} was closed")
            return os.fstat(self._fd).st_nlink == 0

    @property
    @_until_closed
    def info(self) -> BusInfo:
        """What the header says now."""
        self._check()
        header, words = self._header(), self._words
        durable_lsn = words[2048 >> 3]
        log_state = words[2056 >> 3] >> 32
        states = ("none", "running", "failed", "closed", "beginning")
        return BusInfo(
            header[248:504].split(b"\0", 1)[0].decode("utf-8", "replace"), self.dir, self._id, words[7],
            self._created_ns, struct.unpack_from("<II", header, 8), words[_LEN_W], self._len_max, self._pages_max,
            self._names_slots, self._sources_max, self._ring_slots, words[_PUBLISHED_W], words[_TAIL_W],
            words[_FLOOR_W], durable_lsn, states[log_state] if log_state < len(states) else str(log_state),
            words[2192 >> 3], words[2208 >> 3], words[2216 >> 3])

    # -- finding pages

    def __getitem__(self, name: str) -> "Page":
        page = self._find_name(name)
        if page is None:
            raise PageMissing(f"no page {name!r} on bus {self.name}")
        return page

    page = __getitem__

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find_name(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter([cold.name for cold in self._walk_names()])

    def __len__(self) -> int:
        return len(self._walk_names())

    def pages(self, prefix: str = "", unnamed: bool = False) -> List["Page"]:
        """The pages whose names start with `prefix`, by name; with `unnamed`, those without a name behind them."""
        named = sorted((c for c in self._walk_names() if c.name.startswith(prefix)), key=lambda c: c.name)
        ids = [cold.id for cold in named]
        if unnamed:
            known = {cold.id for cold in self._walk_names()}
            start = self._directory_w * 8
            for index, entry in enumerate(memoryview(self._mm[start:start + self._pages_max * 8]).cast("Q")):
                if entry & _BLOCK and (index, entry >> 36) not in known:
                    ids.append(PageId(index, entry >> 36))
        found = []
        for id in ids:
            try:
                found.append(Page(self, id))
            except PageGone:
                pass  # destroyed since
        return found

    def page_by_id(self, id: Tuple[int, int]) -> "Page":
        """The page of this (index, generation)."""
        try:
            return Page(self, PageId(*id))
        except PageGone as error:
            raise PageMissing(str(error)) from None

    def _as_page(self, page: PageLike) -> "Page":
        if isinstance(page, Page):
            if page._bus is not self:
                raise MmsbError(f"page {page.id} belongs to another bus")
            return page
        return self[page] if isinstance(page, str) else self.page_by_id(page)

    @_until_closed
    def _find_name(self, name: str) -> Optional["Page"]:
        self._check()
        hash = _mix(_fnv1a64(name.encode("utf-8", "surrogatepass")))
        gone = None
        while True:
            found = self._probe(hash, 0, lambda cold: cold.name == name)
            # Twice the same: its page was destroyed by one who died ahead of removing the name.
            if found is None or found[0] == gone:
                return None
            try:
                return Page(self, found[1].id)
            except PageGone:  # since; another one may have the name by now
                gone = found[0]

    @_until_closed
    def _cold_of(self, id: PageId) -> Optional[Cold]:
        """The cold record of a page. One that was seen is believed while its entry and its block are the same: blocks
        come back, under the very same entry."""
        seen = self._cold_cache.get(id)
        if seen and seen[0] == self._cold_place(seen[0].at, seen[0].entry):
            return seen[1]
        found = self._probe(_mix((id.generation << 32 | id.index) ^ 0x9E3779B97F4A7C15), 1, lambda cold: cold.id == id)
        if found:
            self._cold_cache[id] = found
            return found[1]
        self._cold_cache.pop(id, None)
        return None

    def _probe(self, hash: int, by_id: int, wanted: Any) -> Optional[Tuple[_ColdPlace, Cold]]:
        """The entry that is wanted. It is believed to be missing once three probes in turn have met the same words: one
        that is replaced may move to a place that a probe has passed, and words of small directories come back."""
        words, mask, want = self._words, self._names_slots - 1, by_id << 27 | hash >> 37
        last: Optional[List[int]] = None
        agreed, tries, deadline = 0, 0, 0.0
        while True:
            met: List[int] = []
            for i in range(hash & mask, (hash & mask) + self._names_slots):
                at = self._names_w + (i & mask)
                entry = words[at]
                met.append(entry)
                if entry == 0:
                    break
                if entry != 1 and entry >> 36 == want:
                    found = self._read_cold(at, entry)
                    if found is None:
                        met.append(-1)  # it changed meanwhile: these words prove nothing
                        break
                    if wanted(found[1]):
                        return found
            agreed = agreed + 1 if met == last and met[-1] >= 0 else 0
            if agreed == 2:
                return None
            last = met
            tries += 1
            deadline = self._again(tries, deadline, "the name directory")

    def _cold_place(self, at: int, entry: int) -> Optional[_ColdPlace]:
        """What says that a cold record is still the one that was read: its entry, and state and LSN of its block."""
        header = (entry & _BLOCK) * 32
        if header < self._arena_at or not self._reach(header + _HEADER_BYTES):
            return None
        words = self._words
        return _ColdPlace(at, words[at], words[(header >> 3) + 2], words[(header >> 3) + 1])

    def _read_cold(self, at: int, entry: int) -> Optional[Tuple[_ColdPlace, Cold]]:
        """The cold record behind the name entry `at`; None if it is another one by now."""
        header = (entry & _BLOCK) * 32
        place = self._cold_place(at, entry)
        size = self._words[header + 24 >> 3] & _M32 if place else 0
        fits = place is not None and size <= _PAGE_MAX and self._reach(header + _HEADER_BYTES + size)
        raw = self._mm[header + _HEADER_BYTES:header + _HEADER_BYTES + size] if fits else b""
        if self._words[at] == entry and place == self._cold_place(at, entry):  # validated: cold record, same block
            if not fits or place is None:
                raise Corrupt(f"cold record of {size} bytes in block {entry & _BLOCK}", at * 8)
            return place, _cold(raw)
        return None

    @_until_closed
    def _walk_names(self) -> List[Cold]:
        """All names. A page that is named or described anew meanwhile may move from what is still to be walked to what
        was: then it is walked again, and what one walk has seen and the next one has not is looked up."""
        self._check()
        found, steady = self._walk_once()
        for _ in range(8):
            if steady:
                break
            again, steady = self._walk_once()
            for name in found.keys() - again.keys():
                page = self._find_name(name)
                if page is not None and page.id == found[name].id:
                    again[name] = found[name]
            found = again
        return list(found.values())

    def _walk_once(self) -> Tuple[Dict[str, Cold], bool]:
        """The names, and whether nothing has moved meanwhile."""
        start, end = self._names_w * 8, (self._names_w + self._names_slots) * 8
        hints = self._mm[start:end]
        found: Dict[str, Cold] = {}
        # The private copy only says where to look: each entry is loaded again, whole.
        for i, hint in enumerate(memoryview(hints).cast("Q")):
            if hint > 1 and not hint >> 63:
                at = self._names_w + i
                for _ in range(64):
                    entry = self._words[at]
                    if entry < 2 or entry >> 63:
                        break
                    read = self._read_cold(at, entry)
                    if read is not None:
                        found[read[1].name] = read[1]
                        break
        return found, bool(self._mm[start:end] == hints)

    @_until_closed
    def _source(self, number: int) -> str:
        """The name of a source, or nothing."""
        name = self._sources.get(number)
        if name is None and number < self._sources_max:
            at = self._sources_at + number * 64
            length = self._words[at >> 3] & _M32
            if 0 < length <= 48:
                name = self._sources[number] = self._mm[at + 16:at + 16 + length].decode("utf-8", "replace")
        return name or ""

    # -- several pages, and changes

    @_until_closed
    def snapshot(self, pages: Iterable[PageLike]) -> "Cut":
        """Copies several pages, given as pages, names or ids, as of one instant: of a transaction, all or nothing.

        Raises `Busy` if writers disturb every attempt for as long as `patience`.
        """
        chosen = [self._as_page(page) for page in pages]
        tries, deadline = 0, 0.0
        while True:
            self._check()
            places = [page._place for page in chosen]
            before = [_marks(place) for place in places]
            odd = any(marks[2] & 1 for marks in before)
            stale = [page for page, place, marks in zip(chosen, places, before)
                     if (place.entry, place.shape) != marks[:2]]
            copies: List[Tuple[bytes, Version]] = []
            if not stale and not odd:
                for place in places:
                    slot, version = place.current()
                    copies.append((place.mm[slot:slot + place.size], version))
                if [_marks(place) for place in places] == before:  # validated: cut, no page moved
                    return Cut(chosen, copies)
            for page in stale:
                page._locate()
            tries += 1
            deadline = self._again(tries, deadline, "a cut of several pages")

    @_until_closed
    def watch(self, prefix: str = "", pages: Optional[Iterable[PageLike]] = None, poll: float = 0.001,
              timeout: Optional[float] = None, start: Optional[int] = None) -> "Watch":
        """Follows the deltas of the bus, from now on or from the LSN `start`, of the pages whose names start with
        `prefix`, or of `pages`. See `Watch`."""
        self._check()
        ids = None if pages is None else {self._as_page(page).id for page in pages}
        return Watch(self, prefix, ids, poll, timeout, start)

    def _again(self, tries: int, deadline: float, what: str) -> float:
        """Called after a disturbed attempt; sleeps from the 32nd on. Returns when to give up; raises `Busy` then."""
        if tries < _FREE_TRIES:
            return deadline
        now = time.monotonic()
        deadline = deadline or now + self.patience
        if now >= deadline:
            raise Busy(f"{what} on bus {self.name}: disturbed {tries} times in {self.patience} s")
        time.sleep(min(0.001, tries * 1e-6))
        return deadline

    def close(self) -> None:
        """Gives the memory back. Pages of this bus raise `Closed` afterwards. Closing twice is fine."""
        with self._lock:
            self._closed = True
            mm, self._mm = self._mm, None
            if mm is not None:
                try:
                    self._words.release()
                    mm.close()
                except BufferError:
                    pass  # another thread is inside a read: the memory goes with its last reference
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> "Bus":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mmsb_reader.Bus {self.name} in {self.dir}{', closed' if self._mm is None else ''}>"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


# --- pages -----------------------------------------------------------------------------------------------------------

class _Place(NamedTuple):
    """Where a page's content was found, in one tuple, so that threads see all of it or none. `_at` are word numbers."""

    entry: int
    shape: int  # word 3 of the block header: size and shape
    entry_at: int
    header_at: int
    mm: mmap.mmap
    words: memoryview
    start: int
    size: int
    versions: int
    stride: int

    def current(self) -> Tuple[int, Version]:
        """The byte offset of the content, and its version. To be validated by the caller."""
        words = self.words
        if self.versions < 2:
            return self.start, Version(words[self.header_at] >> 1, words[self.header_at + 1])
        slot = self.start + _CELL_BYTES + words[self.start >> 3] % self.versions * self.stride
        return slot + _VERSION_BYTES, Version(words[(slot >> 3) + 1], words[slot >> 3])


def _marks(place: _Place) -> Tuple[int, int, int, int]:
    """All that moves when a page does: entry, shape, seq, and a cell's head."""
    words = place.words
    return (words[place.entry_at], words[place.header_at + 3], words[place.header_at],
            words[place.start >> 3] if place.versions > 1 else 0)


class Page:
    """A page of a bus. Reads are validated copies: a version of the page as it was at one instant, never a mixture.

    Every read may raise `Busy`, `PageGone`, `BusGone`, `Closed`, `Truncated`, `Corrupt`.
    """

    __slots__ = ("_bus", "id", "_place", "retries")

    def __init__(self, bus: Bus, id: PageId) -> None:
        self._bus, self.id = bus, id
        self.retries = 0  # attempts that were disturbed, of all reads so far
        self._locate()

    @_until_closed
    def _locate(self) -> None:
        bus, (index, generation) = self._bus, self.id
        bus._check()
        if not 0 <= index < bus._pages_max:
            raise PageGone(f"bus {bus.name} has no page {self.id}")
        entry_at = bus._directory_w + index
        for _ in range(1000):
            entry = bus._words[entry_at]
            header = (entry & _BLOCK) * 32
            if header == 0 or entry >> 36 != generation:
                raise PageGone(f"bus {bus.name} has no page {self.id}")
            shape = end = 0
            if header >= bus._arena_at and bus._reach(header + _HEADER_BYTES):
                shape = bus._words[(header >> 3) + 3]
                size, versions = shape & _M32, shape >> 40 & 0xFF
                stride = _VERSION_BYTES + size + 63 & ~63
                end = header + _HEADER_BYTES + (size if versions < 2 else _CELL_BYTES + versions * stride)
                if 0 < size <= _PAGE_MAX and bus._reach(end):
                    mm, words = bus._mm, bus._words
                    self._place = _Place(entry, shape, entry_at, header >> 3, mm, words, header + _HEADER_BYTES, size,
                                         versions, stride)
                    return
            if bus._words[entry_at] == entry:
                raise Corrupt(f"page {self.id} of {shape & _M32} bytes in block {entry & _BLOCK}", entry_at * 8)
        raise Busy(f"page {self.id} on bus {bus.name} moves all the time")

    def _copy(self, offset: int, length: int) -> Tuple[bytes, int, int]:
        """`length` bytes from `offset` on (-1: to the end), of one version, with its epoch and LSN.

        The only way from shared memory to what the methods below return. The loads are in the order that the module's
        docstring asks for; what the acceptance line lets through was not moved or written during the copy. There the
        entry goes before `seq`: a page that is loaned again and again has two blocks that take turns, and a block gets
        its new `seq` when it has been filled, before the entry points to it. The other way round, a block that is being
        filled has its old `seq` still, and is the page's again when the entry is looked at.
        """
        tries, moves, deadline = 0, 0, 0.0
        while True:
            entry, shape, entry_at, header_at, mm, words, start, size, versions, stride = self._place
            count = length if length >= 0 else size - offset
            if offset < 0 or offset + count > size:
                raise OutOfRange(f"{count} bytes at {offset} of page {self.id}, which has {size}")
            try:
                # A system call, for 0.2 µs: touching a segment that was cut short would end this process.
                if mm.size() < len(mm) or words[_STATE_W] & _M32 != _READY:
                    self._bus._check()
                if words[entry_at] != entry or words[header_at + 3] != shape:
                    self._locate()  # the page moved since it was last read: that is no disturbed attempt
                    moves += 1
                    if moves & 63:
                        continue
                elif versions < 2:
                    seq = words[header_at]
                    if not (seq & 1 and count > _ODD_COPY_MAX):
                        lsn = words[header_at + 1]
                        begin = start + offset
                        data = mm[begin:begin + count]
                        if not seq & 1 and words[entry_at] == entry and words[header_at] == seq:  # validated: plain
                            return data, seq >> 1, lsn
                else:
                    head_at = start >> 3
                    head = words[head_at]
                    slot = start + 32 + head % versions * stride  # after a CellHeader
                    lsn, epoch = words[slot >> 3], words[(slot >> 3) + 1]
                    begin = slot + 16 + offset  # after a VersionHeader
                    data = mm[begin:begin + count]
                    if words[entry_at] == entry and words[head_at] - head & _M64 <= versions - 2:  # validated: cell
                        return data, epoch, lsn
            except (ValueError, OSError) as error:
                if self._bus._closed and not isinstance(error, MmsbError):
                    raise Closed(f"bus {self._bus.name} was closed") from None
                raise
            tries += 1
            self.retries += 1
            deadline = self._bus._again(tries, deadline, f"page {self.id}")

    # -- bytes

    def read(self) -> bytes:
        """The whole page."""
        return self._copy(0, -1)[0]

    def read_range(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; `OutOfRange` if the page has not got them."""
        return self._copy(offset, max(length, 0))[0]

    def read_versioned(self) -> Tuple[bytes, Version]:
        """The whole page, and which version of it this is."""
        data, epoch, lsn = self._copy(0, -1)
        return data, Version(epoch, lsn)

    def read_if_newer(self, version: Version) -> Optional[Tuple[bytes, Version]]:
        """As `read_versioned`, or None if the page is still at `version` (or, in a rebuilt bus, at an earlier one)."""
        data, epoch, lsn = self._copy(0, 0)
        if epoch <= version.epoch:
            return None
        return self.read_versioned()

    # -- values

    def value(self) -> Any:
        """The page decoded by its schema: a scalar, a list, text, or a dataclass with the record's fields."""
        schema = self._need_schema()
        return schema.decode(self._copy(0, schema.size)[0])

    def __getitem__(self, path: Union[str, int]) -> Any:
        """One field: `page["price"]`, `page["bids[3]"]`; of an array page `page[3]`. Only its bytes are read."""
        field = self._need_schema().field(path)
        return field.decode(self._copy(field.offset, field.size)[0])

    def array(self) -> Any:
        """A read-only numpy array over a validated copy: the elements; for a record a structured array without
        dimensions, so that `page.array()["price"]` is the field; for a page without schema, its bytes."""
        import numpy

        schema = self.schema
        if schema is None:
            return numpy.frombuffer(self.read(), numpy.uint8)
        data = numpy.frombuffer(self._copy(0, schema.size)[0], schema.dtype)
        return data.reshape(()) if schema.is_record or schema.fields[0].type == "char" else data

    def _need_schema(self) -> Schema:
        schema = self.schema
        if schema is None:
            raise NoSchema(f"page {self.id} on bus {self._bus.name} has no schema")
        return schema

    # -- about it

    @property
    def _about(self) -> Optional[Cold]:
        self._bus._check()
        return self._bus._cold_of(self.id)

    @property
    def name(self) -> str:
        """Its name now; empty if it has none."""
        cold = self._about
        return cold.name if cold else ""

    @property
    def schema(self) -> Optional[Schema]:
        cold = self._about
        return cold.schema if cold else None

    @property
    def metadata(self) -> Dict[str, str]:
        cold = self._about
        return dict(cold.metadata) if cold else {}

    @property
    def size(self) -> int:
        return self._place.size

    @property
    def versions(self) -> int:
        """Version slots: 1 for a plain page, more for a cell."""
        return max(1, self._place.versions)

    def version(self) -> Version:
        """Its version now."""
        return Version(*self._copy(0, 0)[1:])

    def __repr__(self) -> str:
        return f"<mmsb_reader.Page {self.id} of {self.size} bytes on {self._bus.name}>"


class Cut:
    """Several pages as of one instant. Index it with a page, a name or an id that was asked for."""

    def __init__(self, pages: List[Page], copies: List[Tuple[bytes, Version]]) -> None:
        self.pages, self._copies = pages, dict(zip((page.id for page in pages), copies))

    def _copy(self, page: PageLike) -> Tuple[bytes, Version]:
        if isinstance(page, str):
            page = next((known for known in self.pages if known.name == page), PageId(-1, -1))
        id = page.id if isinstance(page, Page) else PageId(*page)
        if id not in self._copies:
            raise PageMissing(f"page {id} was not asked for in this cut")
        return self._copies[id]

    def __getitem__(self, page: PageLike) -> bytes:
        return self._copy(page)[0]

    def version(self, page: PageLike) -> Version:
        return self._copy(page)[1]

    def value(self, page: PageLike) -> Any:
        """Decoded by the page's schema."""
        page = next(known for known in self.pages if self._copy(known) is self._copy(page))
        return page._need_schema().decode(self[page])

    @property
    def lsn(self) -> int:
        """The greatest LSN among the pages."""
        return max((version.lsn for _, version in self._copies.values()), default=0)


# --- following the ring ----------------------------------------------------------------------------------------------

_KINDS = {
    1: "patch", 2: "ranges", 3: "masked", 4: "swap", 5: "create", 6: "destroy", 7: "describe", 8: "source", 9: "mark",
}
_STAMP_READY, _STAMP_PADDING, _STAMP_INNER = 2, 3, 5
_CAUSE, _BLOCKS, _TRANSACTION = 1, 2, 4
_RETIRED = 3  # kind of a block that is no page's content any more, and not reused yet


class Gap(NamedTuple):
    """Deltas that were missed: those from `from_lsn` up to but not including `to_lsn`. Read the pages again.

    With `page`, one page's only: a whole new content whose block was reused before it could be copied.
    """

    from_lsn: int
    to_lsn: int
    page: Optional[PageId] = None
    name: Optional[str] = None


class Delta(NamedTuple):
    """One change. `kind` is patch, ranges, masked, swap (new content), create, destroy, describe, source or mark.

    `ranges` are the (offset, length) that `data` replaces, one behind the other; of a masked write only the bytes whose
    bit in `mask` is 1, low bit first. For source and mark, which belong to no page, `data` is the name or the user's
    bytes, and `page` is None. `about` is what create and describe say: name, schema, metadata. `cause` is the LSN of
    the delta that led to this one, or 0; `time_ns` is CLOCK_REALTIME, 1 ms coarse.
    """

    lsn: int
    page: Optional[PageId]
    name: Optional[str]
    kind: str
    offset: int
    data: bytes
    ranges: Tuple[Tuple[int, int], ...]
    mask: bytes
    source: str
    source_number: int
    cause: int
    time_ns: int
    transaction: bool
    about: Optional[Cold]
    size: Optional[int]

    def apply(self, content: bytearray) -> None:
        """Does to `content`, the bytes of the page before, what the delta did; `OutOfRange` if it does not fit."""
        if any(offset + length > len(content) for offset, length in self.ranges):
            raise OutOfRange(f"delta {self.lsn} does not fit in {len(content)} bytes")
        if self.kind in ("swap", "create") and self.size != len(content):
            raise OutOfRange(f"delta {self.lsn} is for {self.size} bytes, not {len(content)}")
        if self.kind == "create":
            content[:] = bytes(len(content))
        elif self.kind == "masked":
            for i, byte in enumerate(self.data):
                if self.mask[i >> 3] >> (i & 7) & 1:
                    content[self.offset + i] = byte
        else:
            at = 0
            for offset, length in self.ranges:
                content[offset:offset + length] = self.data[at:at + length]
                at += length


Event = Union[Delta, Gap]


class Watch:
    """Follows the deltas as a lossy subscriber: it delays nobody, and one that is overtaken gets a `Gap`.

    An iterator of `Delta` and `Gap`; the iteration ends when nothing came for `timeout` seconds (None: never), and may
    be taken up again. It begins at the moment the watch is made, so to keep a copy of a page: make the watch, take the
    page's `image`, then apply the deltas; after a gap, take an image again. With a filter, only deltas of those pages
    come; without one, sources and marks too.

    `position` is the LSN behind the last event; `stalled_at` the LSN of a record that was begun and is not finished (a
    writer is about it, stopped or dead; any participant's next step repairs a dead one), else None.
    Raises `BusGone` when the bus was removed and all was delivered; `Corrupt`, `Truncated`, `Closed`.
    """

    def __init__(self, bus: Bus, prefix: str, ids: Optional[Set[PageId]], poll: float, timeout: Optional[float],
                 start: Optional[int]) -> None:
        self._bus, self._prefix, self._ids, self._poll, self.timeout = bus, prefix, ids, poll, timeout
        self._names: Dict[PageId, str] = {}
        self._held: Dict[PageId, int] = {}  # what images hold
        self._raw: Deque[Tuple[int, bytes]] = deque()  # copied records, not yet decoded
        self._slots, self._ring_at, self._ring_w = bus._ring_slots, bus._ring_at, bus._ring_at >> 3
        self._batch = max(1, self._slots // 8)
        self.stalled_at: Optional[int] = None
        self._next = self.position = self._end() if start is None else start

    def _stamp(self, lsn: int) -> Tuple[int, int, int]:
        """(laps ahead of this position's lap, slots, state) of the stamp at `lsn`. Negative: still an earlier lap's."""
        stamp = self._bus._words[self._ring_w + (lsn % self._slots) * 8]
        laps = ((stamp >> 32) - lsn // self._slots) & _M32
        return laps - (1 << 32) if laps >> 31 else laps, stamp >> 19 & 0x1FFF, stamp & 7

    def _end(self) -> int:
        """The end of what is READY without a break: from `published`, which lags, from record to record. Not from
        `tail_hint`: ahead of that there may be claims, whose deltas would be missed."""
        words = self._bus._words
        lsn = words[_PUBLISHED_W]
        for _ in range(self._slots):
            laps, slots, state = self._stamp(lsn)
            if laps > 0:
                lsn = max(lsn, words[_PUBLISHED_W])  # overtaken on the way
            elif laps == 0 and state in (_STAMP_READY, _STAMP_PADDING) and slots:
                lsn += slots
            else:
                break
        return lsn

    def _gather(self) -> Optional[Gap]:
        """Copies the records that are READY, at most an eighth of the ring at once."""
        bus, first, lsn = self._bus, self._next, self._next
        bus._check()
        words, mm = bus._words, bus._mm
        spans: List[Tuple[int, int]] = []
        odd = None
        self.stalled_at = None
        while lsn - first < self._batch:
            laps, slots, state = self._stamp(lsn)
            if laps < 0 or laps == 0 and state < _STAMP_READY:
                self.stalled_at = lsn if laps == 0 and state == 1 else None
                break
            if laps > 0 or state > _STAMP_PADDING or not 1 <= slots <= self._slots - (lsn - first):
                odd = (lsn, laps, slots, state)  # overtaken, or damage: the floor tells
                break
            if state == _STAMP_READY:
                spans.append((lsn, slots))
            lsn += slots
        at, length = self._ring_at + first % self._slots * 64, (lsn - first) * 64
        ring_end = self._ring_at + self._slots * 64
        raw = mm[at:min(at + length, ring_end)]
        if at + length > ring_end:
            raw += mm[self._ring_at:self._ring_at + at + length - ring_end]
        if words[_FLOOR_W] <= first:  # validated: ring records, none overwritten
            if odd and odd[0] == first and odd[1] <= 0:
                raise Corrupt(f"stamp of {odd[2]} slots in state {odd[3]} at LSN {first}", at)
            if not odd or odd[0] != first:
                self._next = lsn
                for start, slots in spans:
                    self._split(start, raw[(start - first) * 64:(start - first + slots) * 64])
                return None
        target = self._end()
        if target <= first:
            raise Corrupt(f"overtaken at LSN {first}, but the ring ends at {target}", _PUBLISHED_W * 8)
        self._next = self.position = target
        self._names.clear()
        return Gap(first, target)

    def image(self, page: PageLike) -> Tuple[bytes, Version]:
        """Reads a page so that, with the deltas that follow, nothing is missing and nothing comes twice: those that the
        copy holds are not delivered any more. To begin with, and again after a `Gap`.

        A plain read is not quite enough for that: the ring leads the pages, and a delta ahead of `position` may be
        READY and not in the page yet. That can only be the page's latest one, as a writer owns the page until it has
        applied its delta; and none ahead of the floor, which never passes such a delta. So this waits until the page
        has its latest delta (`Busy`, if that takes longer than the bus's `patience`).
        """
        self._bus._check()
        page = self._bus._as_page(page)
        wanted = self._latest(page.id, page.version().lsn)
        deadline = time.monotonic() + self._bus.patience
        while True:
            data, version = page.read_versioned()
            if version.lsn >= wanted:
                self._held[page.id] = version.lsn
                return data, version
            if time.monotonic() >= deadline:
                raise Busy(f"page {page.id} has not got delta {wanted} yet: its writer is stopped or dead")
            time.sleep(0.0001)

    def _latest(self, id: PageId, above: int) -> int:
        """The LSN of the page's last record ahead of `position` and behind `above`; 0 if there is none in the ring."""
        words, mm, word = self._bus._words, self._bus._mm, id.generation << 32 | id.index
        end = self.position
        first = max(above, words[_FLOOR_W], end - self._slots)
        while end > first:
            begin = max(first, end - 1024, end // self._slots * self._slots if end % self._slots else end - self._slots)
            at = self._ring_at + begin % self._slots * 64
            ids = memoryview(mm[at:at + (end - begin) * 64]).cast("Q")[1::8].tolist()  # hints, from a private copy
            for i in range(len(ids) - 1, -1, -1):
                if ids[i] == word and self._is_record(begin + i):
                    return begin + i if words[_FLOOR_W] <= begin + i and begin + i > above else 0
            end = begin
        return 0

    def _is_record(self, lsn: int) -> bool:
        """Whether a record of a READY head begins at `lsn`: not a continuation, and not what a dead claim left."""
        laps, _, state = self._stamp(lsn)
        if laps != 0 or state not in (_STAMP_READY, _STAMP_INNER):
            return False
        for head in range(lsn, max(lsn - 0x2000, -1), -1):
            laps, slots, state = self._stamp(head)
            if laps != 0 or state in (_STAMP_READY, _STAMP_PADDING):
                return laps == 0 and state == _STAMP_READY and head + slots > lsn
        return False

    def _split(self, lsn: int, raw: bytes) -> None:
        """One record, or a group: several under the first one's stamp, one behind the other by their own sizes."""
        at = 0
        while at < len(raw):
            body = struct.unpack_from("<I", raw, at + 20)[0]
            end = at + 64 * (1 + max(0, (body - 32 + 55) // 56))
            if end > len(raw) or at and raw[at] & 7 != _STAMP_INNER:
                raise Corrupt(f"record of {body} bytes at LSN {lsn + at // 64}", self._ring_at)
            self._raw.append((lsn + at // 64, raw[at:end]))
            at = end

    def _event(self, lsn: int, raw: bytes) -> Union[Delta, Gap, None, Literal[False]]:
        """The event of a copied record; None if the filter says no; False if its page is not there yet."""
        _, index, generation, offset, body_len, kind, flags, source, units = struct.unpack_from("<QIIIIBBHI", raw)
        id = PageId(index, generation)
        if lsn <= self._held.get(id, -1) and kind < 8:
            return None
        if kind in (8, 9) and (self._prefix or self._ids is not None) or \
                kind < 8 and self._ids is not None and id not in self._ids:
            return None
        bus = self._bus
        body = b"".join([raw[32:64]] + [raw[i + 8:i + 64] for i in range(64, len(raw), 64)])[:body_len]
        cause = block = at = 0
        try:
            if flags & _CAUSE:
                cause, at = struct.unpack_from("<Q", body)[0], 8
            if flags & _BLOCKS:
                block, at = struct.unpack_from("<Q", body, at)[0], at + 16
            data, mask, about, size = body[at:], b"", None, None
            ranges: Tuple[Tuple[int, int], ...] = ((offset, len(body) - at),)
            if kind == 2:
                count = struct.unpack_from("<I", body, at)[0]
                numbers = struct.unpack_from(f"<{2 * count}I", body, at + 8) if count * 8 <= len(body) else (1, 1)
                ranges = tuple(zip(numbers[::2], numbers[1::2]))
                data = body[at + 8 + 8 * count:]
            elif kind == 3:
                length = struct.unpack_from("<I", body, at)[0]
                mask_end = at + 8 + (length + 7 >> 3)
                mask, data, ranges = body[at + 8:mask_end], body[mask_end:], ((offset, length),)
            elif kind in (4, 6, 9):
                ranges = ()
            elif kind == 5:
                size, _ = struct.unpack_from("<II", body, at)
                about, data, ranges = _cold(body[at + 8:]) if len(body) > at + 8 else None, b"", ()
            elif kind == 7:
                about, data, ranges = _cold(body[at:]) if len(body) > at else None, b"", ()
            elif kind == 8:
                number, _ = struct.unpack_from("<II", body, at)
                data, ranges = body[at + 8:], ()
                bus._sources[number] = data.decode("utf-8", "replace")
        except struct.error:
            raise Corrupt(f"record of kind {kind} and {body_len} bytes at LSN {lsn}", self._ring_at) from None
        if sum(length for _, length in ranges) != len(data) and ranges:
            raise Corrupt(f"record at LSN {lsn} has {len(data)} bytes for its ranges", self._ring_at)
        name = self._name(id, kind, about) if kind < 8 else None
        if self._prefix and not (name or "").startswith(self._prefix):
            return None
        if kind == 4:
            content = self._swapped(lsn, id, block)
            if content is None:
                return Gap(lsn, lsn + len(raw) // 64, id, name)
            if content is False:
                return False
            data, ranges, size = content, ((0, len(content)),), len(content)
        now = (time.time_ns() - bus._created_ns >> 20) + 1024  # some slack: its clock is coarse
        time_ns = bus._created_ns + (now - ((now - units) & _M32) << 20)
        return Delta(lsn, id if kind < 8 else None, name, _KINDS.get(kind, f"kind {kind}"), offset, data, ranges, mask,
                     bus._source(source), source, cause, time_ns, bool(flags & _TRANSACTION), about, size)

    def _name(self, id: PageId, kind: int, about: Optional[Cold]) -> Optional[str]:
        if kind in (5, 7):
            self._names[id] = about.name if about else ""
        name = self._names.get(id)
        if name is None:
            cold = self._bus._cold_of(id)
            if cold:
                name = self._names[id] = cold.name
        if kind == 6:
            self._names.pop(id, None)
            self._held.pop(id, None)
            self._bus._cold_cache.pop(id, None)
        return name or None

    def _swapped(self, lsn: int, id: PageId, block: int) -> Union[bytes, None, Literal[False]]:
        """The content that record `lsn` gave to the page: a copy of `block`, if it still is that. None: it was reused.
        False: the record is READY and not applied yet."""
        bus, header = self._bus, block * 32
        if id.index >= bus._pages_max or not bus._arena_at <= header <= _BLOCK * 32 \
                or not bus._reach(header + _HEADER_BYTES):
            raise Corrupt(f"record at LSN {lsn} swaps block {block} into page {id}", self._ring_at)
        words, header_at, entry_at = bus._words, header >> 3, bus._directory_w + id.index
        size = words[header_at + 3] & _M32
        fits = 0 < size <= _PAGE_MAX and bus._reach(header + _HEADER_BYTES + size)
        data = bus._mm[header + _HEADER_BYTES:header + _HEADER_BYTES + size] if fits else b""
        # A block that still is the page's, or retired, was not given away since; its next content has another LSN.
        ours = words[entry_at] == id.generation << 36 | block or words[header_at + 2] & 0xFF == _RETIRED
        if fits and ours and words[header_at + 1] == lsn:  # validated: swap, the block still has that content
            return data
        entry = words[entry_at]
        current = (entry & _BLOCK) * 32
        if entry >> 36 == id.generation and current and bus._reach(current + _HEADER_BYTES) \
                and bus._words[(current >> 3) + 1] < lsn:
            return False
        return None

    def poll(self) -> Optional[Event]:
        """The next event, or None if there is none yet. Never waits."""
        while True:
            while self._raw:
                lsn, raw = self._raw[0]
                event = self._event(lsn, raw)
                if event is False:
                    self.stalled_at = lsn
                    return None
                self._raw.popleft()
                self.position = self._raw[0][0] if self._raw else self._next
                if event is not None:
                    return event
            gap = self._gather()
            if gap is not None:
                return gap
            if not self._raw:
                self.position = self._next
                return None

    def next(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next event; None if none came within `timeout` seconds (None: waits for ever)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        tries, look = 0, time.monotonic() + 0.1
        while True:
            event = self.poll()
            if event is not None:
                return event
            now = time.monotonic()
            if now >= look:
                if self._bus.removed:
                    raise BusGone(f"bus {self._bus.name} was removed")
                look = now + 0.1
            if deadline is not None and now >= deadline:
                return None
            tries += 1
            if tries > 20:
                pause = self._poll if deadline is None else min(self._poll, deadline - now)
                time.sleep(pause)

    def __iter__(self) -> "Watch":
        return self

    def __next__(self) -> Event:
        event = self.next(self.timeout)
        if event is None:
            raise StopIteration
        return event
