"""Damages a segment again and again and reads all of it: errors of this module or values, each in bounded time.

    hostile.py DIR BUS ROUNDS SEED

A process of its own, so that a crash is seen as one. Every round puts some bytes, reads, and puts the old bytes back.
"""
import os
import random
import struct
import sys
import time
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import mmsb_reader  # noqa: E402

NUMBERS = [0, 1, 2, 3, 7, 0x7F, 0xFF, 4095, 4096, 1 << 20, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
           1 << 35, (1 << 36) - 1, 1 << 36, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 64, (1 << 64) - 1]


def everything(dir, name, seen):
    """Uses the whole interface; errors of the module are counted, others are not caught."""
    def attempt(use):
        try:
            return use()
        except mmsb_reader.MmsbError as error:
            seen[type(error).__name__] += 1
            assert str(error)
            return None

    bus = attempt(lambda: mmsb_reader.observe(name, dir, patience=0.002))
    if bus is None:
        return
    with bus:
        for use in (lambda: bus.info, lambda: list(bus), lambda: bus.removed, lambda: bus["tank/1"],
                    lambda: "ü" in bus):
            attempt(use)
        pages = attempt(lambda: bus.pages(unnamed=True)) or []
        pages += [page for page in (attempt(lambda i=i: bus.page_by_id((i, 1))) for i in range(4)) if page]
        for page in pages[:40]:
            if page.size > 1 << 22:
                continue  # a copy of a gigabyte is bounded, but not quick
            for use in (page.read, page.value, page.version, lambda: page.metadata, lambda: page.name,
                        lambda: page["a"], lambda: page.read_range(0, 8)):
                attempt(use)
        attempt(lambda: bus.snapshot(pages[:3]))
        first = attempt(lambda: bus.info.overwrite_floor) or 64
        for start in (None, 64, first):
            watch = attempt(lambda: bus.watch(start=start))
            for _ in range(80):
                event = attempt(watch.poll) if watch else None
                if event is None:
                    break
                if isinstance(event, mmsb_reader.Delta):
                    attempt(lambda: event.apply(bytearray(16)))
                    attempt(lambda: event.about and event.about.schema)
            if watch and pages:
                attempt(lambda: watch.image(pages[0]))
        seen["values"] += 1


def main():
    dir, name, rounds, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    dice, seen = random.Random(seed), Counter()
    path = os.path.join(dir, f"mmsb.{name}.pages")
    fd = os.open(path, os.O_RDWR)
    whole = os.pread(fd, os.fstat(fd).st_size, 0)
    directory, names, sources, slabs, ring, arena = struct.unpack_from("<6Q", whole, 96)
    used = [at for at in range(0, len(whole), 8) if whole[at:at + 8] != bytes(8)]  # where damage is felt
    targets = [at for at in used if at < 4096] + [at for at in used if directory <= at < sources] + used
    slowest = 0.0
    targeted = [(at, number) for at in used if at < 2304 for number in NUMBERS]
    for round in range(rounds):
        damage = []
        if round < len(targeted):
            at, number = targeted[round]
            damage.append((at, struct.pack("<Q", number)))
        else:
            for _ in range(dice.choice((1, 1, 2, 4, 16))):
                at = dice.choice(targets) if dice.random() < 0.8 else dice.choice(used)
                kind = dice.random()
                if kind < 0.4:
                    damage.append((at, struct.pack("<Q", dice.choice(NUMBERS))))
                elif kind < 0.6:
                    damage.append((at + dice.choice((0, 4)), struct.pack("<I", dice.choice(NUMBERS) & 0xFFFFFFFF)))
                elif kind < 0.8:
                    damage.append((at + dice.randrange(8), bytes([dice.randrange(256)])))
                else:
                    damage.append((at, whole[(other := dice.choice(used)):other + 8]))
        cut = dice.randrange(len(whole)) if dice.random() < 0.05 and round >= len(targeted) else None
        for at, data in damage:
            os.pwrite(fd, data, at)
        if cut is not None:
            os.ftruncate(fd, cut)
        began = time.monotonic()
        try:
            everything(dir, name, seen)
        except BaseException:
            print(f"round {round}, seed {seed}: {damage} cut {cut}", file=sys.stderr)
            raise
        slowest = max(slowest, time.monotonic() - began)
        if cut is not None:
            os.ftruncate(fd, len(whole))
            os.pwrite(fd, whole[cut:], cut)
        for at, data in damage:
            os.pwrite(fd, whole[at:at + len(data)], at)
    print(f"damaged {rounds} times, slowest {slowest:.2f} s, {dict(seen)}")
    return 1 if slowest > 20 or seen["values"] == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
