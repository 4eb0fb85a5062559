/* Reads by the header alone: one line `case nanoseconds` each. Arguments: directory, bus. */
#include "mmsb_reader.h"

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int run(const mmsb_reader *bus, const char *name, size_t bytes, long n, const char *label)
{
    static unsigned char to[1024];
    mmsb_reader_page page;
    mmsb_reader_version version;
    double begin = 0;
    long i;
    int e = mmsb_reader_find(bus, name, &page);
    for (i = -n / 10; !e && i < n; i++) {
        if (i == 0) begin = now_ns();
        e = mmsb_reader_read(bus, &page, to, bytes, &version);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
    if (!e) printf("%s %.3f\n", label, (now_ns() - begin) / (double)n);
    return e;
}

int main(int argc, char **argv)
{
    mmsb_reader bus;
    int e;
    if (argc != 3) return 2;
    e = mmsb_reader_open(&bus, argv[1], argv[2]);
    if (!e) e = run(&bus, "read/64", 64, 2000000, "read_64");
    if (!e) e = run(&bus, "read/1024", 1024, 500000, "read_1024");
    if (e) fprintf(stderr, "%s\n", mmsb_reader_message(e));
    return e != 0;
}
