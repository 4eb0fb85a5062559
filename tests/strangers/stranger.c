/* A stranger in C: knows a bus by mmsb_reader.h alone, and checks what it reads from a page whose writers are killed.
 *
 *     stranger --dir DIR --bus BUS --page NAME --reads N      reads the page N times
 *     stranger --dir DIR --bus BUS --page NAME --follow N     keeps a copy of it up to date through N deltas
 *
 * The page holds 64-bit words: word[0] = n, word[i] = n * (2i + 1) + i, and n only grows. A copy that breaks that, or
 * is older than the one before, was torn. Prints one line of JSON; exit status 0 if nothing was torn, 1 if something
 * was, 2 for usage and errors. */
#include "mmsb_reader.h"

#define BATCH 16

struct task {
    const char *dir, *bus, *page;
    uint64_t reads, deltas;
};

struct found {
    uint64_t done, refused, torn, gaps, busy_ns;
    uint64_t last_n, last_lsn;
};

static int fail(const char *what, int code)
{
    fprintf(stderr, "stranger: %s: %s%s%s\n", what, mmsb_reader_message(code), code == MMSB_READER_IO ? ": " : "",
            code == MMSB_READER_IO ? strerror(errno) : "");
    return 2;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_1ms(void)
{
    const struct timespec nap = {0, 1000000};
    nanosleep(&nap, NULL);
}

/* Whether the words are one value, no older than the last. */
static void check(struct found *found, const uint64_t *words, size_t count, mmsb_reader_version version)
{
    const uint64_t n = words[0];
    int good = n >= found->last_n && version.lsn >= found->last_lsn;
    size_t i;
    for (i = 1; i < count; i++) good &= words[i] == n * (2 * (uint64_t)i + 1) + i;
    if (!good) {
        found->torn++;
        return;
    }
    found->last_n = n;
    found->last_lsn = version.lsn;
}

/* In batches, so that the clock is looked at once for many reads and the time of the checks is left out. */
static int read_it(const mmsb_reader *bus, mmsb_reader_page *page, uint64_t reads, struct found *found)
{
    const size_t words = page->size / 8, batch = page->size <= 4096 ? BATCH : 1;
    uint64_t *copies = (uint64_t *)malloc(batch * words * 8);
    mmsb_reader_version versions[BATCH];
    if (copies == NULL) return fail("memory", MMSB_READER_IO);
    while (found->done < reads) {
        const uint64_t left = reads - found->done, begin = now_ns();
        const size_t wanted = left < batch ? (size_t)left : batch;
        size_t got = 0, i;
        int result = MMSB_READER_OK;
        while (got < wanted && result == MMSB_READER_OK) {
            result = mmsb_reader_read(bus, page, copies + got * words, words * 8, &versions[got]);
            got += result == MMSB_READER_OK;
        }
        /* A wait for the dead is no read. */
        if (result == MMSB_READER_OK) found->busy_ns += now_ns() - begin;
        for (i = 0; i < got; i++) check(found, copies + i * words, words, versions[i]);
        found->done += got;
        if (result == MMSB_READER_BUSY) {
            found->refused++;
            sleep_1ms();
        } else if (result != MMSB_READER_OK) {
            free(copies);
            return fail("read", result);
        }
    }
    free(copies);
    return 0;
}

static int follow_it(const mmsb_reader *bus, mmsb_reader_page *page, uint64_t deltas, struct found *found)
{
    const size_t buffer_bytes = mmsb_reader_follow_bytes(bus);
    void *buffer = malloc(buffer_bytes);
    uint64_t *copy = (uint64_t *)malloc(page->size);
    const uint64_t begin = now_ns();
    uint64_t heard = begin;
    mmsb_reader_version version = {0, 0};
    mmsb_reader_follower follower;
    int result = MMSB_READER_IO;
    if (buffer != NULL && copy != NULL) result = mmsb_reader_follow(bus, &follower, buffer, buffer_bytes);
    while (result == MMSB_READER_OK && found->done < deltas) {
        mmsb_reader_delta delta;
        result = mmsb_reader_next(bus, &follower, &delta, 100000000u);
        if (result == MMSB_READER_GAP) {
            found->gaps++;
            version.epoch = version.lsn = 0;
            result = MMSB_READER_OK;
            continue;
        }
        if (result == MMSB_READER_TIMEOUT || result == MMSB_READER_STALLED) {
            found->refused += result == MMSB_READER_STALLED;
            if (now_ns() - heard < 30000000000u) result = MMSB_READER_OK;
            continue;
        }
        heard = now_ns();
        if (result != MMSB_READER_OK || !mmsb_reader_delta_is_of(&delta, page)) continue;
        result = mmsb_reader_apply(bus, page, &delta, copy, page->size, &version);
        found->done++;
        if (result == MMSB_READER_OK) {
            check(found, copy, page->size / 8, version);
        } else if (result == MMSB_READER_BUSY) {
            found->refused++;
            sleep_1ms();
            result = MMSB_READER_OK;
        } else if (result == MMSB_READER_UNCHANGED) {
            result = MMSB_READER_OK;
        }
    }
    found->busy_ns = now_ns() - begin;
    free(buffer);
    free(copy);
    return result == MMSB_READER_OK ? 0 : fail("follow", result);
}

static int run(const struct task *task)
{
    struct found found = {0, 0, 0, 0, 0, 0, 0};
    mmsb_reader bus;
    mmsb_reader_page page;
    const uint64_t begin = now_ns();
    int status, result = mmsb_reader_open(&bus, task->dir, task->bus);
    if (result != MMSB_READER_OK) return fail(task->bus, result);
    result = mmsb_reader_find(&bus, task->page, &page);
    if (result != MMSB_READER_OK || page.size % 8 != 0) {
        mmsb_reader_close(&bus);
        return fail(task->page, result != MMSB_READER_OK ? result : MMSB_READER_TYPE);
    }
    if (task->deltas != 0)
        status = follow_it(&bus, &page, task->deltas, &found);
    else
        status = read_it(&bus, &page, task->reads, &found);
    if (status == 0) {
        printf("{\"language\":\"c\",\"page\":\"%s\",\"bytes\":%u,\"%s\":%llu,\"retries\":%llu,\"refused\":%llu,"
               "\"gaps\":%llu,\"torn\":%llu,\"seconds\":%.3f,\"ns_per_read\":%.1f}\n",
               task->page, page.size, task->deltas != 0 ? "deltas" : "reads", (unsigned long long)found.done,
               (unsigned long long)page.retries, (unsigned long long)found.refused, (unsigned long long)found.gaps,
               (unsigned long long)found.torn, (double)(now_ns() - begin) / 1e9,
               found.done != 0 ? (double)found.busy_ns / (double)found.done : 0.0);
        status = found.torn != 0;
    }
    mmsb_reader_close(&bus);
    return status;
}

static int usage(void)
{
    fputs("usage: stranger --dir DIR --bus BUS --page NAME (--reads N | --follow N)\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct task task = {NULL, NULL, NULL, 0, 0};
    int i;
    for (i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (value == NULL) return usage();
        if (strcmp(argv[i], "--dir") == 0) task.dir = value;
        else if (strcmp(argv[i], "--bus") == 0) task.bus = value;
        else if (strcmp(argv[i], "--page") == 0) task.page = value;
        else if (strcmp(argv[i], "--reads") == 0) task.reads = strtoull(value, NULL, 10);
        else if (strcmp(argv[i], "--follow") == 0) task.deltas = strtoull(value, NULL, 10);
        else return usage();
    }
    if (task.bus == NULL || task.page == NULL || (task.reads == 0) == (task.deltas == 0)) return usage();
    return run(&task);
}
