"""Finding, reading and decoding pages of buses made by the command."""
import os
import struct
import sys
import threading
import unittest

from .support import Case, mmsb_reader

try:
    import numpy
except ImportError:
    numpy = None

ALL = "u8:u8,i8:i8,u16:u16,i16:i16,u32:u32,i32:i32,u64:u64,i64:i64,f32:f32,f64:f64,flag:bool,text:char[8],list:u16[3]"
ALL_TEXT = ("u8=255,i8=-128,u16=65535,i16=-32768,u32=4294967295,i32=-2147483648,u64=18446744073709551615,"
            "i64=-9223372036854775808,f32=1.5,f64=-2.25,flag=true,text=grün,list[0]=1,list[2]=3")
ALL_VALUES = (255, -128, 65535, -32768, 4294967295, -2147483648, 18446744073709551615, -9223372036854775808, 1.5, -2.25,
              True, "grün", [1, 0, 3])


def array_schema(count):
    """The encoding of `u8[count]`."""
    return struct.pack("<4sHHIIHH", b"MSCH", 1, 1, count, count, 1, 0)


class Finding(Case):
    def test_a_bus_is_a_mapping_from_names_to_pages(self):
        self.create("tank/1::f64[2]", "tank/2:16", "valve:1Kx4")
        with self.observe() as bus:
            self.assertEqual(sorted(bus), ["tank/1", "tank/2", "valve"])
            self.assertEqual(len(bus), 3)
            self.assertIn("valve", bus)
            self.assertNotIn("valv", bus)
            self.assertNotIn(7, bus)
            self.assertEqual([page.name for page in bus.pages("tank/")], ["tank/1", "tank/2"])
            page = bus.page("valve")
            self.assertEqual((page.size, page.versions), (1024, 4))
            self.assertEqual(bus.page_by_id(page.id).name, "valve")
            self.assertEqual(bus["tank/1"].versions, 1)
            self.assertIsNone(bus["tank/2"].schema)
            self.assertIn("plant", repr(bus))
            self.assertIn("16 bytes", repr(bus["tank/2"]))
            for missing in (lambda: bus["nobody"], lambda: bus.page_by_id((0, 77)), lambda: bus.page_by_id((-1, 1)),
                            lambda: bus.page_by_id((1 << 40, 1))):
                with self.assertRaises(mmsb_reader.PageMissing) as raised:
                    missing()
                self.assertIsInstance(raised.exception, KeyError)
                self.assertIn("plant", str(raised.exception))

    def test_info_is_what_the_command_says(self):
        self.create("a:8")
        info, said = self.observe().info, self.json("info", "plant")
        bus = said["bus"]
        self.assertEqual((info.name, info.bus_id, info.incarnation, info.created_ns, info.len, info.len_max),
                         ("plant", bus["id"], bus["incarnation"], bus["created_ns"], bus["len_bytes"],
                          bus["bytes_max"]))
        self.assertEqual((info.ring_slots, info.pages_max), (bus["ring_slots"], bus["pages_max"]))
        self.assertEqual((info.log_state, info.fork_lsn), ("none", said["log"]["fork_lsn"]))

    def test_names_of_any_script_and_of_full_length(self):
        names = ["ü/straße", "温度/一", "e" * 255, "a b", "🜁"]
        self.create(*(f"{name}:8" for name in names))
        bus = self.observe()
        self.assertEqual(sorted(bus), sorted(names))
        for name in names:
            self.assertEqual(bus[name].name, name)

    def test_a_name_directory_that_is_nearly_full(self):
        names = [f"p{i}" for i in range(60)]
        self.create(*(f"{name}:8" for name in names))
        bus = self.observe()
        self.assertEqual({bus[name].name for name in names}, set(names))
        self.assertNotIn("p60", bus)

    def test_the_directory_comes_from_the_environment(self):
        self.create("a:8")
        old = os.environ.get("MMSB_DIR")
        os.environ["MMSB_DIR"] = self.dir
        self.addCleanup(lambda: os.environ.pop("MMSB_DIR") if old is None else os.environ.update(MMSB_DIR=old))
        with mmsb_reader.observe("plant") as bus:
            self.assertEqual(bus.dir, self.dir)

    def test_a_bus_that_grows_after_it_was_mapped(self):
        self.create("a:8")
        bus = self.observe()
        first, old, length = bus["a"], bus._mm, bus.info.len
        held = memoryview(old)[:8]  # a view of the earlier map, as another thread may have one
        for i in range(4):
            self.mmsb("create", "plant", "--if-missing", "--pages", f"big{i}:3M")
            self.mmsb("write", "plant", f"big{i}", "--as", "u8", "--offset", "3145727", str(i + 1))
            self.assertEqual(bus[f"big{i}"].read()[-1], i + 1)
        self.mmsb("write", "plant", "a", "--as", "u8", "9")
        self.assertEqual(first.read()[0], 9)
        self.assertGreater(bus.info.len, length)
        self.assertIsNot(bus._mm, old)
        self.assertEqual(bytes(held), b"MMSBPAGE")

    def test_pages_without_a_name(self):
        self.create("a:8")
        bus, forge = self.observe(), self.forge()
        forge.put("Q", forge.directory_at + 5 * 8, 3 << 36 | forge.block(16, content=b"no name at all.."))
        page = bus.pages(unnamed=True)[1]
        self.assertEqual((page.id, page.name, page.schema, page.metadata), ((5, 3), "", None, {}))
        self.assertEqual(page.read(), b"no name at all..")
        self.assertEqual(len(bus.pages()), 1)

    def test_metadata_and_a_page_that_is_described_anew(self):
        self.create("a:8")
        bus, forge = self.observe(), self.forge()
        page = bus["a"]
        self.assertEqual(page.metadata, {})
        forge.describe(page.id, forge.cold(page.id, b"b", meta=[(b"unit", b"mm"), ("größe".encode(), b"")]), b"b")
        self.assertEqual((page.name, page.metadata), ("b", {"unit": "mm", "größe": ""}))
        self.assertEqual(bus["b"].id, page.id)

    def test_a_page_that_is_destroyed_and_created_again(self):
        self.create("a:8")
        bus, forge = self.observe(), self.forge()
        page = bus["a"]
        entry, = forge.get("Q", forge.entry_at(page))
        forge.put("Q", forge.entry_at(page), entry >> 36 << 36)
        for gone in (page.read, page.version, lambda: page.read_if_newer(mmsb_reader.Version(0, 0)),
                     lambda: bus.snapshot([page])):
            self.assertRaises(mmsb_reader.PageGone, gone)
        self.assertNotIn("a", bus)
        self.assertEqual(bus.pages(), [])
        id = (page.id.index, page.id.generation + 1)
        forge.put("Q", forge.entry_at(page), id[1] << 36 | forge.block(4, content=b"anew"))
        forge.describe(id, forge.cold(id, b"a"), b"a")
        self.assertRaises(mmsb_reader.PageGone, page.read)
        self.assertEqual(bus["a"].read(), b"anew")
        self.assertEqual(bus["a"].id, id)


class Reading(Case):
    def test_bytes_ranges_and_versions(self):
        self.create("a:16", "c:16x4")
        bus = self.observe()
        for name in "a", "c":
            page = bus[name]
            self.assertEqual(page.read(), bytes(16))
            before = page.version()
            self.assertEqual(before.epoch, 0)
            self.assertIsNone(page.read_if_newer(before))
            for i in range(1, 9):  # a cell's slots go round
                self.mmsb("write", "plant", name, "--as", "hex", "--offset", "4", f"de ad be {i:02x}")
                expected = b"\0\0\0\0\xde\xad\xbe" + bytes([i]) + bytes(8)
                self.assertEqual(page.read(), expected)
                self.assertEqual(page.read_range(5, 3), expected[5:8])
                data, version = page.read_versioned()
                self.assertEqual((data, version.epoch), (expected, i))
                self.assertEqual(page.read_if_newer(before), (expected, version))
                self.assertIsNone(page.read_if_newer(version))
                before = version
            self.assertEqual(self.json("read", "plant", name)["lsn"], version.lsn)
            self.assertEqual(page.read_range(16, 0), b"")
            for offset, length in ((0, 17), (16, 1), (-1, 2), (1 << 70, 1), (4, 1 << 70)):
                self.assertRaises(mmsb_reader.OutOfRange, page.read_range, offset, length)

    def test_pages_of_many_sizes(self):
        sizes = [1, 7, 8, 31, 63, 64, 65, 1000, 4096, 65536, 1 << 20]
        self.create(*(f"p{size}:{size}" for size in sizes), *(f"c{size}:{size}x5" for size in sizes[:-1]))
        bus = self.observe()
        for page in bus.pages():
            last = page.size - 1
            self.mmsb("write", "plant", page.name, "--as", "u8", "--offset", str(last), "171")
            self.assertEqual(page.read(), bytes(last) + b"\xab")

    def test_a_writer_inside_for_too_long_is_busy(self):
        self.create("a:64", "big:64K")
        bus, forge = self.observe(patience=0.02), self.forge()
        for name in "a", "big":
            page = bus[name]
            forge.put("Q", forge.header(page), 1)
            with self.assertRaises(mmsb_reader.Busy) as raised:
                page.read()
            self.assertIsInstance(raised.exception, TimeoutError)
            self.assertGreater(page.retries, 32)
            self.assertRaises(mmsb_reader.Busy, bus.snapshot, [name])
            forge.put("Q", forge.header(page), 2)
            self.assertEqual(page.version().epoch, 1)

    def test_a_page_whose_content_is_swapped(self):
        self.create("a:8")
        bus, forge = self.observe(), self.forge()
        page = bus["a"]
        for i in range(3):
            block = forge.block(8, shape=0x10000, lsn=5000 + i, content=bytes([i]) * 8)
            forge.put("Q", block * 32, (i + 1) << 1)
            forge.put("Q", forge.entry_at(page), page.id.generation << 36 | block)
            self.assertEqual(page.read_versioned(), (bytes([i]) * 8, (i + 1, 5000 + i)))
            self.assertEqual(page.read_if_newer(mmsb_reader.Version(i, 0))[0], bytes([i]) * 8)

    def test_a_cut_of_several_pages(self):
        self.create("a::u32", "b::u32[2]", "c:4x4:u32")
        self.mmsb("write", "plant", "a", "7")
        self.mmsb("write", "plant", "c", "8")
        bus = self.observe()
        cut = bus.snapshot(["a", bus["b"], bus["c"].id])
        self.assertEqual((cut["a"], cut[bus["b"]], cut[bus["c"].id]), (b"\7\0\0\0", bytes(8), b"\x08\0\0\0"))
        self.assertEqual((cut.value("a"), cut.value("b"), cut.value(bus["c"])), (7, [0, 0], 8))
        self.assertEqual(cut.lsn, bus["c"].version().lsn)
        self.assertEqual(cut.version("a"), bus["a"].version())
        self.assertRaises(mmsb_reader.PageMissing, lambda: cut["d"])
        self.assertRaises(mmsb_reader.PageMissing, bus.snapshot, ["a", "nobody"])
        self.assertEqual(bus.snapshot([]).lsn, 0)
        self.create("a:8", name="other")
        self.assertRaises(mmsb_reader.MmsbError, bus.snapshot, [self.observe("other")["a"]])

    def test_threads_share_a_page(self):
        self.create("a::u64[8]")
        page, failed = self.observe()["a"], []

        def reader():
            try:
                for _ in range(3000):
                    page.value()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=reader) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(10):
            self.mmsb("write", "plant", "a", str(i))
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])

    def test_parent_and_child_go_on_after_a_fork(self):
        self.create("a::u8")
        page = self.observe()["a"]
        child = os.fork()
        if child == 0:
            os._exit(0 if page.value() == 0 else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.mmsb("write", "plant", "a", "3")
        self.assertEqual(page.value(), 3)


class Decoding(Case):
    def test_every_type_in_a_record(self):
        self.create(f"all::everything{{{ALL}}}")
        self.mmsb("write", "plant", "all", "--as", "fields", ALL_TEXT)
        page = self.observe()["all"]
        value = page.value()
        self.assertEqual(type(value).__name__, "everything")
        self.assertEqual(tuple(vars(value).values()), ALL_VALUES)
        self.assertEqual(value, page.schema.dataclass(*ALL_VALUES))
        for field, expected in zip(page.schema.fields, ALL_VALUES):
            self.assertEqual(page[field.name], expected)
        self.assertEqual(page["list[2]"], 3)
        self.assertEqual(str(page.schema), f"everything{{{ALL}}}")
        for path in ("list[3]", "nobody", "u8[1]", "text[0]", "list[", "", "list[99999999999999]"):
            with self.assertRaises(mmsb_reader.FieldMissing, msg=path):
                page[path]

    def test_every_type_as_an_array(self):
        values = {"u8": [0, 255], "i8": [-128, 127], "u16": [0, 65535], "i16": [-32768, 5], "u32": [1, 4294967295],
                  "i32": [-1, 2], "u64": [18446744073709551615, 0], "i64": [-9223372036854775808, 1],
                  "f32": [0.5, -1.0], "f64": [1e300, -0.25], "bool": [True, False]}
        self.create(*(f"{name}::{name}[2]" for name in values), "char::char[5]", "one::f64")
        bus = self.observe()
        for name, expected in values.items():
            text = ",".join(str(value).lower() for value in expected)
            self.mmsb("write", "plant", name, "--as", name, "--", text)
            self.assertEqual(bus[name].value(), expected, name)
            self.assertEqual(bus[name][1], expected[1])
            self.assertEqual(bus[name]["[0]"], expected[0])
        self.mmsb("write", "plant", "char", "--as", "text", "ab")
        self.assertEqual(bus["char"].value(), "ab")
        self.assertEqual(bus["one"].value(), 0.0)
        self.assertRaises(mmsb_reader.FieldMissing, lambda: bus["u8"][2])
        self.assertRaises(mmsb_reader.FieldMissing, lambda: bus["u8"][-1])
        self.assertRaises(mmsb_reader.NoSchema, lambda: bus["u8"].schema.dataclass)

    def test_names_that_python_can_not_have(self):
        self.create("a::class{class:u8,1st:u8,größe:u8,_1st:u8}")
        value = self.observe()["a"].value()
        self.assertEqual(list(vars(value)), ["class_", "_1st", "größe", "_1st_"])
        self.assertEqual(type(value).__name__, "class_")

    def test_a_page_without_schema_has_no_value(self):
        self.create("a:8")
        page = self.observe()["a"]
        self.assertRaises(mmsb_reader.NoSchema, page.value)
        self.assertRaises(mmsb_reader.NoSchema, lambda: page["x"])

    def test_a_page_that_is_longer_than_its_schema(self):
        self.create("a:100:u16[2]")
        self.assertEqual(self.observe()["a"].value(), [0, 0])

    def test_damaged_schemas_are_corrupt(self):
        good = struct.pack("<4sHHIIHH", b"MSCH", 1, 2, 8, 1, 0, 1) + b"r" + struct.pack("<IIHH", 0, 1, 7, 1) + b"x"
        self.assertEqual(str(mmsb_reader.Schema(good)), "r{x:u64}")
        for at in range(len(good)):
            for value in (0, 1, 2, 0x7F, 0xFF):
                damaged = good[:at] + bytes([value]) + good[at + 1:]
                try:
                    mmsb_reader.Schema(damaged).decode(bytes(8))
                except (mmsb_reader.Corrupt, mmsb_reader.Unsupported):
                    pass
            with self.assertRaises((mmsb_reader.Corrupt, mmsb_reader.Unsupported)):
                mmsb_reader.Schema(good[:at])
        self.create("a:8")
        bus, forge = self.observe(), self.forge()
        page = bus["a"]
        payload = bytearray(forge.cold(page.id, b"a", good))
        payload[8] ^= 1  # the hash
        forge.describe(page.id, bytes(payload), b"a")
        self.assertRaises(mmsb_reader.Corrupt, page.value)

    def test_a_block_that_comes_back_under_the_same_entry_is_read_anew(self):
        self.create("a:8")
        bus, forge = self.observe(), self.forge()
        page = bus["a"]
        block = forge.describe(page.id, forge.cold(page.id, b"a", array_schema(5)), b"a")
        self.assertEqual(page.schema.size, 5)
        # Freed, filled and linked again: only the block tells, by its LSN.
        forge.write(block * 32 + 32, forge.cold(page.id, b"a", array_schema(7)))
        forge.put("Q", block * 32 + 8, 1 << 40)
        self.assertEqual(page.schema.size, 7)

    @unittest.skipIf(numpy is None and os.environ.get("MMSB_REQUIRE_FOREIGN", "0") in ("", "0"), "skipped: no numpy")
    def test_numpy_arrays(self):
        self.create(f"all::everything{{{ALL}}}", "a::f32[4]", "raw:3", "text::char[4]")
        self.mmsb("write", "plant", "all", "--as", "fields", ALL_TEXT)
        self.mmsb("write", "plant", "a", "1.5,2.5,3.5,4.5")
        bus = self.observe()
        record = bus["all"].array()
        for field, expected in zip(bus["all"].schema.fields, ALL_VALUES):
            got = record[field.name].tolist()
            self.assertEqual(got.decode() if field.type == "char" else got, expected)
        self.assertEqual(bus["a"].array().tolist(), [1.5, 2.5, 3.5, 4.5])
        self.assertEqual(bus["a"].array().dtype, numpy.dtype("<f4"))
        self.assertFalse(bus["a"].array().flags.writeable)
        self.assertEqual(bus["raw"].array().tolist(), [0, 0, 0])
        self.assertEqual(bus["text"].array().tolist(), b"")
        before = bus["a"].array()
        self.mmsb("write", "plant", "a", "9,9,9,9")
        self.assertEqual(before.tolist(), [1.5, 2.5, 3.5, 4.5], "a view of a copy, not of the bus")


if __name__ == "__main__":
    sys.exit(unittest.main())
