/* Reads and commits by the library: one line `case nanoseconds` each. Arguments: directory, bus. */
#define _DEFAULT_SOURCE
#include <mmsb.h>
#include <stdio.h>
#include <time.h>

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int run(mmsb_bus bus, const char *name, size_t bytes, long n, const char *label, int write)
{
    static uint8_t data[1024];
    mmsb_page page;
    double begin = 0;
    long i;
    int e = mmsb_page_open(bus, name, &page);
    for (i = -n / 10; !e && i < n; i++) {
        if (i == 0) begin = now_ns();
        e = write ? mmsb_page_patch(page, 0, data, bytes, NULL) : mmsb_page_read(page, data, bytes, NULL);
    }
    if (!e) printf("%s %.3f\n", label, (now_ns() - begin) / (double)n);
    return e;
}

int main(int argc, char **argv)
{
    mmsb_bus_options options = MMSB_BUS_OPTIONS_INIT;
    mmsb_bus bus;
    int e;
    if (argc != 3) return 2;
    options.dir = argv[1];
    options.source = "c";
    e = mmsb_bus_attach(argv[2], &options, &bus);
    if (!e) e = run(bus, "read/64", 64, 2000000, "read_64", 0);
    if (!e) e = run(bus, "read/1024", 1024, 500000, "read_1024", 0);
    if (!e) e = run(bus, "commit/64", 64, 1000000, "commit_64", 1);
    if (e) fprintf(stderr, "%s\n", mmsb_last_error());
    mmsb_bus_close(bus);
    return e != 0;
}
