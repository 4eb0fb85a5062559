"""What is not a bus, what is damaged, what ends: clear errors in bounded time, and nobody is harmed by a reader."""
import os
import stat
import struct
import subprocess
import sys
import time
import unittest
from unittest import mock

from .support import Case, HERE, mmsb_reader, run_python


class Refusals(Case):
    def test_what_is_not_there(self):
        with self.assertRaises(mmsb_reader.BusMissing) as raised:
            self.observe("nobody")
        self.assertIsInstance(raised.exception, FileNotFoundError)
        self.assertIn(self.dir, str(raised.exception))
        self.assertRaises(mmsb_reader.BusMissing, mmsb_reader.observe, "a", self.dir + "/nowhere")
        for name in ("", "a/b", "..", ".a", "ü", "a" * 101, "a\0b", "a\n"):
            with self.assertRaises(mmsb_reader.BadName, msg=name):
                self.observe(name)

    def test_what_is_no_bus(self):
        for name, data, error in (
            ("empty", b"", mmsb_reader.Truncated), ("short", b"MMSBPAGE" * 10, mmsb_reader.Truncated),
            ("text", b"hello " * 2000, mmsb_reader.NotABus), ("zero", bytes(1 << 20), mmsb_reader.NotABus),
        ):
            with open(self.path(name), "wb") as file:
                file.write(data)
            self.assertRaises(error, self.observe, name)
        os.mkdir(self.path("dir"))
        os.mkfifo(self.path("fifo"))
        self.create("a:8")
        os.symlink(self.path(), self.path("link"))
        for name in "dir", "fifo", "link":
            self.assertRaises(mmsb_reader.NotABus, self.observe, name)

    def test_other_layouts_features_and_states(self):
        self.create("a:8")
        forge = self.forge()
        for at, format, value, error in ((8, "I", 2, mmsb_reader.WrongLayout), (24, "Q", 7, mmsb_reader.WrongLayout),
                                         (16, "Q", 4, mmsb_reader.Unsupported), (32, "I", 0, mmsb_reader.NotABus),
                                         (32, "I", 0x474F4E45, mmsb_reader.BusGone)):
            old, = forge.get(format, at)
            forge.put(format, at, value)
            with self.assertRaises(error) as raised:
                self.observe()
            if error is mmsb_reader.WrongLayout:
                self.assertIn(f"{mmsb_reader.LAYOUT_HASH:#x}", str(raised.exception))
            forge.put(format, at, old)
        forge.put("I", 12, 3)  # a later minor version adds, so its hash is another one
        forge.put("Q", 24, 7)
        self.assertEqual(self.observe().info.layout, (1, 3))

    def test_other_processors_are_refused(self):
        self.create("a:8")
        with mock.patch("platform.machine", return_value="aarch64"):
            with self.assertRaises(mmsb_reader.Unsupported) as raised:
                self.observe()
        self.assertIn("aarch64", str(raised.exception))
        with mock.patch("sys.byteorder", "big"):
            self.assertRaises(mmsb_reader.Unsupported, self.observe)

    def as_nobody(self, work):
        """Runs `work` in a child that is no superuser; True if it returned True."""
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setegid(65534)
                    os.seteuid(65534)
                os._exit(0 if work() is True else 1)
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(2)
        return os.waitpid(child, 0)[1] == 0

    def test_permission(self):
        self.create("a:8")
        os.chmod(self.dir, 0o755)
        if os.geteuid() != 0:
            os.chmod(self.path(), 0)

        def denied():
            try:
                self.observe()
            except mmsb_reader.AccessDenied as error:
                return isinstance(error, PermissionError)

        self.assertTrue(self.as_nobody(denied))

    @unittest.skipIf(os.geteuid() != 0, "skipped: needs root, to become somebody else")
    def test_an_observer_of_another_user_reads_and_can_not_write(self):
        self.mmsb("create", "plant", "--mode", "0644", "--pages", "a::u32")
        os.chmod(self.dir, 0o755)
        self.mmsb("write", "plant", "a", "5")

        def look():
            bus = self.observe()
            watch = bus.watch(start=bus.info.fork_lsn)
            try:
                os.open(self.path(), os.O_RDWR)
            except PermissionError:
                return bus["a"].value() == 5 and watch.poll() is not None

        self.assertTrue(self.as_nobody(look))


class Endings(Case):
    def setUp(self):
        super().setUp()
        self.create("a::u32[4]", "big:1M")

    def test_a_closed_bus(self):
        bus = self.observe()
        page, watch = bus["a"], bus.watch()
        bus.close()
        bus.close()
        for use in (page.read, page.value, watch.poll, lambda: bus["a"], lambda: bus.info, lambda: bus.removed,
                    lambda: len(bus), lambda: bus.snapshot([page]), lambda: page.name, lambda: watch.image(page)):
            self.assertRaises(mmsb_reader.Closed, use)
        self.assertIn("closed", repr(bus))

    def test_closing_while_a_view_is_out(self):
        bus = self.observe()
        view = memoryview(bus._mm)
        bus.close()
        self.assertEqual(bytes(view[:8]), b"MMSBPAGE")

    def test_no_descriptor_or_map_stays_behind(self):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            with self.observe() as bus:
                bus["a"].read()
            try:
                self.observe("nobody")
            except mmsb_reader.BusMissing:
                pass
            mmsb_reader.observe("plant", self.dir)["a"].read()  # closed by the collector
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before + 2)

    def test_a_truncated_bus(self):
        bus = self.observe()
        page, watch, big = bus["a"], bus.watch(), bus["big"]
        for length in (bus.info.len - 4096, 1 << 21, 4096, 0):
            os.truncate(self.path(), length)
            for use in (page.read, big.read, watch.poll, lambda: bus["a"], lambda: bus.info, lambda: list(bus),
                        lambda: bus.snapshot([page, big]), bus.pages, lambda: page.metadata, lambda: watch.image(page)):
                self.assertRaises(mmsb_reader.Truncated, use)
        self.assertRaises(mmsb_reader.MmsbError, self.observe)

    def test_a_removed_bus_and_one_of_the_same_name(self):
        self.mmsb("write", "plant", "a", "1,2,3,4")
        bus = self.observe()
        page = bus["a"]
        self.assertFalse(bus.removed)
        self.mmsb("rm", "plant")
        self.assertTrue(bus.removed)
        self.assertEqual(page.value(), [1, 2, 3, 4])
        self.create("a::u32")
        self.assertTrue(bus.removed)
        self.assertEqual(self.observe()["a"].value(), 0)
        self.assertEqual(page.value(), [1, 2, 3, 4])

    def test_a_bus_that_is_replaced_by_a_rebuild(self):
        bus = self.observe()
        page, watch = bus["a"], bus.watch()
        self.forge().put("I", 32, 0x474F4E45)
        for use in (page.read, watch.poll, lambda: bus["a"], lambda: bus.snapshot([page])):
            self.assertRaises(mmsb_reader.BusGone, use)

    def test_the_bus_outlives_its_readers(self):
        before = sorted(os.listdir(self.dir))
        code = ("import mmsb_reader, os, sys; bus = mmsb_reader.observe('plant', sys.argv[1]); print(bus['a'].value());"
                "w = bus.watch(); 'multiprocessing.shared_memory' in sys.modules and os._exit(9);")
        for end in ("", "bus.close()", "os._exit(3)", "os.abort()", "os.kill(os.getpid(), 9)", "raise SystemExit"):
            done = run_python(code + end, self.dir)
            self.assertIn("[0, 0, 0, 0]", done.stdout, done.stderr)
            self.assertEqual(sorted(os.listdir(self.dir)), before)
        self.mmsb("write", "plant", "a", "4,3,2,1")
        self.assertEqual(self.observe()["a"].value(), [4, 3, 2, 1])
        self.assertEqual(self.json("info", "plant")["participants"], 0)

    def test_reading_takes_no_memory_of_the_bus(self):
        before = os.stat(self.path()).st_blocks
        bus = self.observe()
        for page in bus.pages(unnamed=True):
            page.read()
        list(bus.watch(start=bus.info.fork_lsn, timeout=0))
        self.assertEqual(os.stat(self.path()).st_blocks, before)
        self.assertEqual(stat.S_IMODE(os.stat(self.path()).st_mode), 0o600)


class Hostile(Case):
    def test_damage_gives_errors_or_values_in_bounded_time(self):
        self.create("tank/1::r{a:f64,b:u16[3],t:char[5]}", "tank/2:16", "cell:24x4:u64[3]", "ü:64K",
                    options=("--pages-max", "32", "--names-max", "16", "--ring", "4K"))
        bus, forge = self.observe(), self.forge()
        id, pair = bus["tank/2"].id, struct.pack("<QQ", 4096, 0)
        forge.record(2, struct.pack("<6I", 2, 0, 0, 2, 9, 3) + b"abxyz", id)
        forge.record(3, struct.pack("<II", 11, 0) + b"\xcd\x05" + b"ABCDEFGHIJK", id, 2)
        forge.record(1, b"a" * 100, id, 0, 4, group=[(1, b"b", id, 1, 4), (9, b"m" * 33, (0, 0), 0, 4)])
        forge.record(4, pair, id, flags=2)
        forge.record(7, pair + forge.cold(id, b"tank/2", meta=[(b"k", b"v")]), id, flags=2)
        bus.close()
        forge.close()
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-X", "faulthandler", os.path.join(HERE, "hostile.py"), self.dir,
                               "plant", os.environ.get("MMSB_HOSTILE", "3000"), os.environ.get("MMSB_SEED", "1")],
                              capture_output=True, text=True, timeout=900)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("damaged", done.stdout)
        print(f"hostile: {done.stdout.strip()}, {time.monotonic() - began:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
