#!/usr/bin/env python3
"""Reads a page, then follows a bus for some seconds.

    mmsb create plant --pages 'tank/1::tank{level:f64,valves:u8[4],state:char[8]}'
    mmsb write plant tank/1 'level=20.5,state=filling'
    python3 examples/python/quickstart.py plant tank/1          # and, meanwhile, write again
"""
import os
import sys

try:
    import mmsb_reader
except ImportError:  # not installed: it lies in the tree
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "libmmsb", "python"))
    import mmsb_reader


def main(bus_name="plant", page_name="tank/1", seconds="5"):
    with mmsb_reader.observe(bus_name) as bus:
        page = bus[page_name]
        print(f"{page_name}: {page.value() if page.schema else page.read()!r} at {page.version()}")
        watch = bus.watch(pages=[page], timeout=float(seconds))
        content, _ = watch.image(page)  # the deltas that follow continue exactly this
        content = bytearray(content)
        for event in watch:
            if isinstance(event, mmsb_reader.Gap):  # too slow, overtaken: begin anew
                content, _ = watch.image(page)
                content = bytearray(content)
            else:
                event.apply(content)
                print(f"LSN {event.lsn}: {event.source} changed {event.ranges}, cause {event.cause}")
        print("now:", page.schema.decode(bytes(content)) if page.schema else bytes(content))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except mmsb_reader.MmsbError as error:
        sys.exit(f"quickstart.py: {error}")
