/* What the test programs of the C reader share: checks, the command `mmsb`, and segments doctored in a private copy. */
#ifndef CHECK_H
#define CHECK_H

#include "mmsb_reader.h"

#include <stdarg.h>
#include <sys/wait.h>

/* Of all that is in here no program uses everything. */
#define MAYBE_UNUSED __attribute__((unused))

static int passed, failed, failed_here;
static const char *mmsb_command, *bus_dir;

/* Says what is wrong and goes on with the test. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("  %s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                           \
            failed_here++;                                                                                             \
        }                                                                                                              \
    } while (0)

#define CHECK_IS(expression, wanted)                                                                                   \
    do {                                                                                                               \
        const long long found_ = (long long)(expression), wanted_ = (long long)(wanted);                               \
        if (found_ != wanted_) {                                                                                       \
            printf("  %s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #expression, found_, wanted_);               \
            failed_here++;                                                                                             \
        }                                                                                                              \
    } while (0)

static void run_test(const char *name, void (*test)(void))
{
    failed_here = 0;
    test();
    printf("test %s ... %s\n", name, failed_here ? "FAILED" : "ok");
    fflush(stdout);
    if (failed_here) failed++;
    else passed++;
}

#define TEST(name) run_test(#name, name)

static int report(void)
{
    printf("test result: %s. %d passed; %d failed;\n", failed ? "FAILED" : "ok", passed, failed);
    return failed != 0;
}

/* Runs `mmsb` with these arguments, in the directory of the tests. */
MAYBE_UNUSED static void mmsb(const char *format, ...)
{
    char command[4096];
    va_list args;
    int n = snprintf(command, sizeof command, "MMSB_DIR='%s' '%s' ", bus_dir, mmsb_command);
    va_start(args, format);
    n += vsnprintf(command + n, sizeof command - (size_t)n, format, args);
    va_end(args);
    snprintf(command + n, sizeof command - (size_t)n, " >'%s/out' 2>&1", bus_dir);
    if (system(command) != 0) {
        printf("  failed: %s\n", command);
        failed_here++;
    }
}

static const char *pages_path(const char *bus)
{
    static char path[2048];
    snprintf(path, sizeof path, "%s/mmsb.%s.pages", bus_dir, bus);
    return path;
}

/* Copies the first `bytes` bytes of a bus's pages to those of another name: an object without writers. */
MAYBE_UNUSED static void copy_pages(const char *from, const char *to, size_t bytes)
{
    struct stat st;
    char *content;
    FILE *file = fopen(pages_path(from), "rb");
    CHECK(file != NULL && fstat(fileno(file), &st) == 0);
    if (file == NULL) return;
    if (bytes > (size_t)st.st_size) bytes = (size_t)st.st_size;
    content = (char *)malloc(bytes + 1);
    CHECK(content != NULL && fread(content, 1, bytes, file) == bytes);
    fclose(file);
    unlink(pages_path(to));
    file = fopen(pages_path(to), "wb");
    CHECK(file != NULL && fwrite(content, 1, bytes, file) == bytes);
    if (file != NULL) fclose(file);
    free(content);
}

/* Changes bytes of a bus's pages, behind the backs of all who have it open. */
MAYBE_UNUSED static void doctor(const char *bus, uint64_t at, const void *bytes, size_t count)
{
    const int fd = open(pages_path(bus), O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, bytes, count, (off_t)at) == (ssize_t)count);
    if (fd >= 0) close(fd);
}

MAYBE_UNUSED static void doctor32(const char *bus, uint64_t at, uint32_t value)
{
    doctor(bus, at, &value, 4);
}

MAYBE_UNUSED static void doctor64(const char *bus, uint64_t at, uint64_t value)
{
    doctor(bus, at, &value, 8);
}

/* Opens a bus of the tests' directory and expects `wanted`. */
MAYBE_UNUSED static void expect_open(const char *name, int wanted)
{
    mmsb_reader bus;
    const int found = mmsb_reader_open(&bus, bus_dir, name);
    if (found != wanted) {
        printf("  open %s: %s, not: %s\n", name, mmsb_reader_message(found), mmsb_reader_message(wanted));
        failed_here++;
    }
    mmsb_reader_close(&bus);
}

#endif
