"""Reads by the pure-Python module: one line `case nanoseconds` each. Arguments: directory, bus."""

import sys
import time

import mmsb_reader


def run(page, n, label):
    read = page.read
    for _ in range(n // 10):
        read()
    begin = time.perf_counter_ns()
    for _ in range(n):
        read()
    print(label, (time.perf_counter_ns() - begin) / n)


with mmsb_reader.observe(sys.argv[2], dir=sys.argv[1]) as bus:
    run(bus["read/64"], 50_000, "read_64")
    run(bus["read/1024"], 50_000, "read_1024")
