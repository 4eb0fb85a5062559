#!/usr/bin/env python3
"""A stranger: reads a live page with nothing but mmsb_reader.py, and counts what is wrong.

    stranger.py --dir DIR --bus BUS --page NAME --reads N      N validated reads
    stranger.py --dir DIR --bus BUS --page NAME --follow N     a copy of the page, kept by N deltas from the ring

The page carries an invariant over its W 64-bit words: word[0] = n, word[i] = n * (2 * i + 1) + i modulo 2^64 for
i >= 1, or nothing but zeros before the first write; n and the LSN never go backwards. Prints one line of JSON. Exit
status 0 if nothing was torn, 1 if something was, 2 for errors. The module is that in $MMSB_READER_DIR, else in the tree.
"""
import argparse
import json
import os
import struct
import sys
import time

sys.path.insert(0, os.environ.get("MMSB_READER_DIR") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "..", "libmmsb", "python"))
import mmsb_reader  # noqa: E402

MASK = (1 << 64) - 1


class Judge:
    """Knows the invariant, and the greatest n and LSN so far."""

    def __init__(self, size):
        self.words = struct.Struct(f"<{size // 8}Q")
        self.odd = range(3, 2 * (size // 8), 2)
        self.n = self.lsn = self.torn = 0

    def whole(self, data):
        n, *rest = self.words.unpack(data)
        if n == 0 and not any(rest):
            return 0
        i = 0
        for word, factor in zip(rest, self.odd):
            i += 1
            if word != n * factor + i & MASK:
                return None
        return n

    def judge(self, data, lsn):
        n = self.whole(data)
        if n is None or n < self.n or lsn < self.lsn:
            self.torn += 1
        else:
            self.n, self.lsn = n, lsn


def read(page, judge, count):
    refused = nanoseconds = done = 0
    clock = time.perf_counter_ns
    while done < count:
        before = clock()
        try:
            data, version = page.read_versioned()
        except mmsb_reader.Busy:  # its writer is dead or stopped; somebody will repair it
            refused += 1
            time.sleep(0.001)
            continue
        nanoseconds += clock() - before
        done += 1
        judge.judge(data, version.lsn)
    return {"reads": done, "refused": refused, "ns_per_read": round(nanoseconds / max(done, 1), 1)}


def follow(bus, page, judge, count, seconds):
    watch = bus.watch(pages=[page], poll=0.0002)
    deltas = gaps = refused = 0
    content = None
    give_up = time.monotonic() + seconds
    began = time.perf_counter_ns()
    while deltas < count:
        if time.monotonic() > give_up:
            raise mmsb_reader.MmsbError(f"only {deltas} of {count} deltas and {gaps} gaps in {seconds} s")
        if content is None:  # at the beginning, and after each gap
            try:
                data, version = watch.image(page)
            except mmsb_reader.Busy:
                refused += 1
                time.sleep(0.001)
                continue
            content = bytearray(data)
            judge.judge(data, version.lsn)
        event = watch.next(1.0)
        if isinstance(event, mmsb_reader.Gap):
            gaps += 1
            content = None
        elif event is not None:
            event.apply(content)
            judge.judge(content, event.lsn)
            deltas += 1
    return {"deltas": deltas, "gaps": gaps, "refused": refused,
            "ns_per_delta": round((time.perf_counter_ns() - began) / max(deltas, 1), 1)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--bus", required=True)
    parser.add_argument("--page", required=True)
    parser.add_argument("--seconds", type=float, default=120.0, help="longest time for --follow")
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--reads", type=int)
    work.add_argument("--follow", type=int)
    args = parser.parse_args()
    try:
        with mmsb_reader.observe(args.bus, args.dir) as bus:
            page = bus[args.page]
            judge = Judge(page.size)
            began = time.perf_counter()
            if args.reads is not None:
                counted = read(page, judge, args.reads)
            else:
                counted = follow(bus, page, judge, args.follow, args.seconds)
            result = {"language": "python", "page": args.page, "bytes": page.size, **counted, "retries": page.retries,
                      "torn": judge.torn, "seconds": round(time.perf_counter() - began, 6)}
    except mmsb_reader.MmsbError as error:
        print(f"stranger.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 1 if judge.torn else 0


if __name__ == "__main__":
    sys.exit(main())
