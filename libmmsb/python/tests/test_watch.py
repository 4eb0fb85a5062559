"""Following the ring: every kind of record, gaps, groups, swaps, stalls, and a copy kept beside killed writers."""
import os
import signal
import struct
import subprocess
import threading
import time
import unittest

from .support import Case, binary, mmsb_reader
from mmsb_reader import Delta, Gap, PageId


class Watching(Case):
    def setUp(self):
        super().setUp()
        self.create("tank/1::u32[4]", "tank/2:16", "valve:8x4")
        self.bus = self.observe()

    def drain(self, watch):
        watch.timeout = 0
        return list(watch)

    def test_deltas_of_other_processes(self):
        watch = self.bus.watch(timeout=5)
        self.assertIsNone(watch.poll())
        before = time.time_ns()
        self.mmsb("write", "plant", "tank/1", "--as", "u32", "--offset", "4", "7,8")
        self.mmsb("write", "plant", "valve", "--as", "hex", "--cause", "99", "0102")
        first, second = next(watch), next(watch)
        self.assertEqual((first.kind, first.name, first.page, first.offset, first.data, first.cause, first.transaction),
                         ("patch", "tank/1", self.bus["tank/1"].id, 4, struct.pack("<II", 7, 8), 0, False))
        self.assertEqual((second.name, second.data, second.cause), ("valve", b"\1\2", 99))
        self.assertEqual(first.lsn, self.bus["tank/1"].version().lsn)
        self.assertTrue(first.source)
        self.assertLess(abs(first.time_ns - before), 10e9)
        content = bytearray(16)
        first.apply(content)
        self.assertEqual(bytes(content), self.bus["tank/1"].read())

    def test_filters(self):
        by_prefix, by_page = self.bus.watch("tank/"), self.bus.watch(pages=["valve", self.bus["tank/2"]])
        by_id = self.bus.watch(pages=[self.bus["valve"].id])
        everything = self.bus.watch()
        for name in "tank/1", "tank/2", "valve":
            self.mmsb("write", "plant", name, "--as", "hex", "aa")
        self.mmsb("create", "plant", "--if-missing", "--pages", "tank/3:8")
        self.mmsb("write", "plant", "tank/3", "--as", "hex", "bb")
        self.assertEqual([(e.name, e.kind) for e in self.drain(by_prefix)],
                         [("tank/1", "patch"), ("tank/2", "patch"), ("tank/3", "create"), ("tank/3", "patch")])
        self.assertEqual([e.name for e in self.drain(by_page)], ["tank/2", "valve"])
        self.assertEqual([e.name for e in self.drain(by_id)], ["valve"])
        self.assertEqual([e.name for e in self.drain(everything) if e.page],
                         ["tank/1", "tank/2", "valve", "tank/3", "tank/3"])
        self.assertRaises(mmsb_reader.PageMissing, self.bus.watch, pages=["nobody"])

    def test_from_an_lsn(self):
        first = self.bus.info.fork_lsn
        whole = self.drain(self.bus.watch(start=first))
        creates = [event for event in whole if event.kind == "create"]
        self.assertEqual([(e.name, e.size, e.about.name) for e in creates],
                         [("tank/1", 16, "tank/1"), ("tank/2", 16, "tank/2"), ("valve", 8, "valve")])
        self.assertEqual(str(creates[0].about.schema), "u32[4]")
        again = self.drain(self.bus.watch(start=creates[1].lsn))
        self.assertEqual(again[0], creates[1])
        self.assertRaises(mmsb_reader.Corrupt, self.bus.watch(start=creates[1].lsn + 1).poll)  # inside a record
        self.assertIsNone(self.bus.watch(start=1 << 40).poll())
        self.assertIsInstance(self.bus.watch(start=0).poll(), Gap)

    def test_every_kind_of_record(self):
        forge, page = self.forge(), self.bus["tank/2"]
        id, watch = page.id, self.bus.watch()
        cause, pair = struct.pack("<Q", 77), struct.pack("<QQ", 1, 2)
        forge.record(1, b"abc", id, 3)
        forge.record(1, cause + pair + b"q" * 200, id, 0, flags=3)
        forge.record(2, struct.pack("<6I", 2, 0, 0, 2, 9, 3) + b"abxyz", id)
        forge.record(3, cause + struct.pack("<II", 11, 0) + b"\xcd\x05" + b"ABCDEFGHIJK", id, 2, flags=1)
        named = forge.cold((9, 4), b"new", meta=[(b"k", b"v")])
        forge.record(5, pair + struct.pack("<II", 24, 0x100) + named, (9, 4), flags=2)
        forge.record(7, pair + forge.cold((9, 4), b"renamed"), (9, 4), flags=2)
        forge.record(1, b"z", (9, 4))
        forge.record(6, pair, (9, 4), flags=2)
        forge.record(8, struct.pack("<II", 5, 0) + "kühler".encode(), source=5)
        forge.record(9, b"noted", source=5, time=3)
        forge.record(5, pair + struct.pack("<II", 16, 0x100), (9, 5), flags=2)
        forge.record(77, b"of a later version", id)
        got = self.drain(watch)
        self.assertEqual([e.kind for e in got], ["patch", "patch", "ranges", "masked", "create", "describe", "patch",
                                                 "destroy", "source", "mark", "create", "kind 77"])
        content = bytearray(b"." * 16)
        got[0].apply(content)
        self.assertEqual(content, b"...abc..........")
        self.assertRaises(mmsb_reader.OutOfRange, got[1].apply, content)
        self.assertEqual((got[1].data, got[1].cause), (b"q" * 200, 77))
        got[2].apply(content)
        self.assertEqual(content, b"ab.abc...xyz....")
        got[3].apply(content)
        self.assertEqual(content, b"abAaCD..GHIzK...")
        self.assertEqual((got[4].name, got[4].size, got[4].about.metadata), ("new", 24, {"k": "v"}))
        self.assertEqual([e.name for e in got[5:8]], ["renamed"] * 3)
        self.assertEqual((got[9].source, got[9].page, got[9].data), ("kühler", None, b"noted"))
        self.assertEqual(got[9].time_ns, self.bus.info.created_ns + (3 << 20))
        self.assertIsNone(got[10].about)
        zeroed = bytearray(b"x" * 16)
        got[10].apply(zeroed)
        self.assertEqual(zeroed, bytes(16))
        self.assertRaises(mmsb_reader.OutOfRange, got[4].apply, zeroed)

    def test_groups_come_as_their_records(self):
        forge, page = self.forge(), self.bus["tank/2"]
        watch = self.bus.watch()
        first = forge.record(1, b"a" * 100, page.id, 0, 4,
                             group=[(1, b"b", page.id, 1, 4), (9, b"m" * 33, (0, 0), 0, 4), (1, b"c", page.id, 2, 4)])
        got = self.drain(watch)
        self.assertEqual([(e.kind, e.lsn - first, len(e.data), e.transaction) for e in got],
                         [("patch", 0, 100, True), ("patch", 3, 1, True), ("mark", 4, 33, True), ("patch", 6, 1, True)])
        self.assertEqual(watch.position, first + 7)

    def test_a_ring_that_goes_round(self):
        forge, page = self.forge(), self.bus["tank/2"]
        watch = self.bus.watch(pages=[page])
        for i in range(500):  # of 1 to 9 slots: records that straddle the end of the ring too
            body = bytes([i & 255]) * (1 + i * 37 % 480)
            lsn = forge.record(1, body, page.id)
            got = watch.poll()
            self.assertEqual((got.lsn, got.data), (lsn, body))
        self.assertGreater(lsn, 2 * forge.ring_slots)

    def test_one_that_is_overtaken_gets_a_gap(self):
        self.create("a::u32", name="small", options=("--ring", "4K"))
        bus = self.observe("small")
        watch = bus.watch(pages=["a"])
        start = watch.position
        for i in range(70):
            self.mmsb("write", "small", "a", str(i))
        gap = watch.next(1)
        self.assertIsInstance(gap, Gap)
        self.assertEqual((gap.from_lsn, gap.page), (start, None))
        self.assertGreater(gap.to_lsn, start)
        content, version = watch.image("a")
        self.assertEqual(content, struct.pack("<I", 69))
        self.mmsb("write", "small", "a", "70")
        content = bytearray(content)
        for delta in self.drain(watch):
            self.assertIsInstance(delta, Delta)
            delta.apply(content)
        self.assertEqual(content, struct.pack("<I", 70))
        self.assertEqual(delta.lsn, bus["a"].version().lsn)

    def test_a_swapped_content_is_copied_or_is_a_gap(self):
        forge, page = self.forge(), self.bus["tank/2"]
        watch, entry = self.bus.watch(pages=[page]), forge.entry_at(page)

        def swap(block):
            return forge.record(4, struct.pack("<QQ", block, 0), page.id, flags=2)

        block = forge.block(16, 0x10000, content=b"whole new conten")
        lsn = swap(block)
        self.assertIsNone(watch.poll(), "READY, and not applied yet")
        self.assertEqual(watch.stalled_at, lsn)
        forge.put("QQ", block * 32, 2, lsn)
        forge.put("Q", entry, page.id.generation << 36 | block)
        delta = watch.poll()
        self.assertEqual((delta.kind, delta.data, delta.size), ("swap", b"whole new conten", 16))
        content = bytearray(16)
        delta.apply(content)
        self.assertEqual(content, b"whole new conten")
        self.assertRaises(mmsb_reader.OutOfRange, delta.apply, bytearray(15))
        # Two more at once: the first one's block is retired and whole, then reused.
        for kind, expected in ((3, Delta), (0, Gap)):
            blocks = [forge.block(16, 0x10000, content=bytes([i]) * 16) for i in (1, 2)]
            lsns = [swap(block) for block in blocks]
            for block, lsn in zip(blocks, lsns):
                forge.put("QQ", block * 32, 4, lsn)
                forge.put("Q", entry, page.id.generation << 36 | block)
            forge.put("Q", blocks[0] * 32 + 16, kind)
            first, second = self.drain(watch)
            self.assertIsInstance(first, expected)
            self.assertEqual(first.page, page.id)
            self.assertEqual(second.data, b"\2" * 16)

    def test_a_claim_that_is_not_finished_is_waited_for(self):
        forge, page = self.forge(), self.bus["tank/2"]
        watch = self.bus.watch()
        lsn = forge.record(1, b"x", page.id, state=1)
        self.assertIsNone(watch.next(0.02))
        self.assertEqual(watch.stalled_at, lsn)
        forge.slot(lsn, 1, 3)  # padding: the writer had died
        forge.record(1, b"y", page.id)
        self.assertEqual(watch.next(1).data, b"y")
        self.assertIsNone(watch.stalled_at)

    def test_an_image_waits_for_what_is_not_applied_yet(self):
        forge, page = self.forge(), self.bus["tank/2"]
        lsn = forge.record(1, b"x", page.id)
        forge.record(9, b"note")
        watch = self.bus.watch()
        self.bus.patience = 0.02
        self.assertRaises(mmsb_reader.Busy, watch.image, page)
        header = forge.header(page)

        def apply():
            time.sleep(0.05)
            forge.write(header + 32, b"x")
            forge.put("QQ", header, 2, lsn)

        self.bus.patience = 5
        thread = threading.Thread(target=apply)
        thread.start()
        content, version = watch.image("tank/2")
        thread.join()
        self.assertEqual((content[:1], version), (b"x", (1, lsn)))

    def test_many_watchers(self):
        watches = [self.bus.watch(pages=["tank/1"], timeout=5) for _ in range(20)]
        results = [[] for _ in watches]

        def follow(watch, result):
            for delta in watch:
                result.append(delta.data[0])
                if len(result) == 10:
                    break

        threads = [threading.Thread(target=follow, args=pair) for pair in zip(watches, results)]
        for thread in threads:
            thread.start()
        for i in range(10):
            self.mmsb("write", "plant", "tank/1", "--as", "u32", str(i))
        for thread in threads:
            thread.join()
        self.assertEqual(results, [list(range(10))] * 20)

    def test_timeouts_end_an_iteration_and_it_goes_on_later(self):
        watch = self.bus.watch(pages=["tank/1"], timeout=0.02)
        self.assertEqual(list(watch), [])
        self.mmsb("write", "plant", "tank/1", "--as", "u32", "1")
        self.assertEqual([delta.data[0] for delta in watch], [1])

    def test_the_end_of_the_bus_ends_a_watch(self):
        watch = self.bus.watch()
        self.mmsb("write", "plant", "tank/1", "--as", "u32", "1")
        self.mmsb("rm", "plant")
        self.assertRaises(mmsb_reader.BusGone, lambda: [event for event in watch])
        self.assertEqual(self.bus["tank/1"].value()[0], 1, "the memory stays while it is mapped")

    def test_ids_print_as_the_command_prints_them(self):
        self.assertEqual(str(PageId(3, 7)), "3.7")


class BesideKills(Case):
    def test_a_copy_kept_by_deltas_equals_the_page_while_writers_are_killed(self):
        demo = subprocess.Popen([binary(), "demo", "--dir", self.dir, "--bus", "live", "--seconds", "60", "--no-log",
                                 "--keep", "--plain"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                start_new_session=True)
        self.addCleanup(demo.wait)
        self.addCleanup(os.killpg, demo.pid, signal.SIGKILL)  # it, and its writers
        name, compared, gaps, deltas = "demo/shared", 0, 0, 0
        for _ in range(200):
            try:
                bus = self.observe("live")
                page = bus[name]
                break
            except (mmsb_reader.BusMissing, mmsb_reader.PageMissing):
                time.sleep(0.05)
        watch = bus.watch(pages=[page])
        content, start = None, time.monotonic()
        while (seconds := time.monotonic() - start) < 4 or seconds < 50 and (deltas < 50 or compared < 10):
            try:
                if content is None:
                    content, version = watch.image(page)
                    content, lsn = bytearray(content), version.lsn
                event = watch.next(0.1)
                if isinstance(event, Gap):
                    content, gaps = None, gaps + 1
                elif event is not None:
                    self.assertGreater(event.lsn, lsn)
                    event.apply(content)
                    lsn, deltas = event.lsn, deltas + 1
                data, version = page.read_versioned()
                if content is not None and version.lsn == lsn:
                    self.assertEqual(bytes(content), data, f"at LSN {lsn}")
                    compared += 1
            except mmsb_reader.Busy:
                pass
        self.assertGreaterEqual(deltas, 50)
        self.assertGreaterEqual(compared, 10)


if __name__ == "__main__":
    unittest.main()
