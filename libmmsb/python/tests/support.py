"""What the tests share: buses made by the command `mmsb`, and a forge that writes into a segment by docs/layout.md."""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(HERE)
sys.path.insert(0, PACKAGE)
import mmsb_reader  # noqa: E402


def binary():
    """The command `mmsb`: $MMSB_BIN, else that of the repository, else that of the PATH."""
    built = os.path.join(PACKAGE, "..", "..", "target", "debug", "mmsb")
    found = os.environ.get("MMSB_BIN") or (built if os.path.exists(built) else shutil.which("mmsb"))
    if not found:
        raise RuntimeError("no mmsb command: build it, or set MMSB_BIN")
    return os.path.abspath(found)


class Case(unittest.TestCase):
    """A test with a directory of its own on tmpfs."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="mmsb-python.", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def mmsb(self, *args, input=None):
        done = subprocess.run([binary(), "--dir", self.dir, *args], input=input, capture_output=True, text=True,
                              timeout=60)
        self.assertEqual(done.returncode, 0, f"mmsb {args}: {done.stderr}")
        return done.stdout

    def json(self, *args):
        return json.loads(self.mmsb("--json", *args))

    def create(self, *pages, name="plant", options=("--pages-max", "64", "--names-max", "64", "--ring", "64K")):
        self.mmsb("create", name, *options, *(["--pages", *pages] if pages else []))

    def path(self, name="plant"):
        return os.path.join(self.dir, f"mmsb.{name}.pages")

    def observe(self, name="plant", **options):
        bus = mmsb_reader.observe(name, self.dir, **options)
        self.addCleanup(bus.close)
        return bus

    def forge(self, name="plant"):
        forge = Forge(self.path(name))
        self.addCleanup(forge.close)
        return forge


class Forge:
    """Plays a writer, by the layout's page alone: no lock, no care, one step at a time. For tests only."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR)
        self.ring_slots, = self.get("I", 92)
        self.directory_at, self.names_at, self.sources_at, _, self.ring_at = self.get("5Q", 96)
        self.names_slots, = self.get("I", 84)
        self.boundaries = []
        self.spare = self.get("Q", 1024)[0] - (64 << 10)  # the last blocks of the last slab, which nobody uses yet

    def close(self):
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def get(self, format, at):
        return struct.unpack("<" + format, os.pread(self.fd, struct.calcsize("<" + format), at))

    def put(self, format, at, *values):
        os.pwrite(self.fd, struct.pack("<" + format, *values), at)

    def write(self, at, data):
        os.pwrite(self.fd, data, at)

    def entry_at(self, page):
        return self.directory_at + page.id.index * 8

    def header(self, page):
        """Offset of the block header of a page."""
        return (self.get("Q", self.entry_at(page))[0] & (1 << 36) - 1) * 32

    def block(self, size, shape=0x100, lsn=0, state=2, content=b""):
        """Makes a block in unused memory; returns its number."""
        at = self.spare
        self.spare += (32 + max(size, len(content)) + 95) // 32 * 32
        self.put("QQQII", at, 0, lsn, state, size, shape)
        self.write(at + 32, content)
        return at // 32

    @staticmethod
    def cold(id, name=b"", schema=b"", meta=()):
        pairs = b"".join(struct.pack("<II", len(k), len(v)) + k + v for k, v in meta)
        return struct.pack("<IIQIIII", *id, mmsb_reader._fnv1a64(schema) if schema else 0, len(name), len(schema),
                           len(pairs), 0) + name + schema + pairs

    def describe(self, id, payload, name=b""):
        """Enters a cold record by id, and by name if it has one."""
        block = self.block(len(payload), state=4, content=payload)
        for by_id, hash in ((1, mmsb_reader._mix((id[1] << 32 | id[0]) ^ 0x9E3779B97F4A7C15)),
                            (0, mmsb_reader._mix(mmsb_reader._fnv1a64(name)))):
            if not by_id and not name:
                continue
            at = hash % self.names_slots
            while True:
                old, = self.get("Q", self.names_at + at * 8)
                if old < 2 or old >> 36 == by_id << 27 | hash >> 37:
                    break
                at = (at + 1) % self.names_slots
            self.put("Q", self.names_at + at * 8, by_id << 63 | hash >> 37 << 36 | block)
        return block

    def end(self):
        """Where the next record goes."""
        lsn, = self.get("Q", 1280)
        while True:
            stamp, = self.get("Q", self.ring_at + lsn % self.ring_slots * 64)
            if stamp >> 32 != lsn // self.ring_slots & 0xFFFFFFFF or stamp & 7 not in (2, 3):
                return lsn
            lsn += stamp >> 19 & 0x1FFF

    def slot(self, lsn, slots, state, rest=bytes(56)):
        lap = lsn // self.ring_slots & 0xFFFFFFFF
        self.write(self.ring_at + lsn % self.ring_slots * 64 + 8, rest)
        self.put("Q", self.ring_at + lsn % self.ring_slots * 64, lap << 32 | slots << 19 | state)

    def record(self, kind, body=b"", id=(0, 0), offset=0, flags=0, source=0, time=1, group=(), state=2):
        """Appends a record, or a group: `group` has (kind, body, id, offset, flags) of the others. Returns its LSN."""
        first = lsn = self.end()
        parts = []
        for kind, body, id, offset, flags in [(kind, body, id, offset, flags), *group]:
            fixed = struct.pack("<IIIIBBHI", *id, offset, len(body), kind, flags, source, time)
            parts.append([fixed + body[:32].ljust(32, b"\0")]
                         + [body[i:i + 56].ljust(56, b"\0") for i in range(32, len(body), 56)])
        total = sum(map(len, parts))
        late = None
        for number, slots in enumerate(parts):
            for i, rest in enumerate(slots):
                if number == 0 and i == 0:
                    late = (lsn, total, state, rest)
                else:
                    self.slot(lsn, 0, 5 if i == 0 else 4, rest)
                lsn += 1
        self.boundaries.append(first)
        floor, = self.get("Q", 1408)
        if lsn > floor + self.ring_slots:  # make room: what readers have not seen by now, they miss
            floor = next(boundary for boundary in self.boundaries if boundary >= lsn - self.ring_slots)
            for field in 1152, 1280, 1408:  # published, tail_hint, overwrite_floor
                self.put("Q", field, floor if field == 1408 else first)
        self.slot(*late)
        return first


def run_python(code, *args, **options):
    """Runs `code` in an interpreter of its own, with the module in its path."""
    return subprocess.run([sys.executable, "-X", "faulthandler", "-c", code, *args], capture_output=True, text=True,
                          timeout=300, env={**os.environ, "PYTHONPATH": PACKAGE}, **options)
