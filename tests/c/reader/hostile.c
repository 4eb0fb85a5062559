/* Nothing in shared memory is trusted: whatever bytes stand there, the reader gives a value or an error in bounded
 * time. Build it with the sanitizers.
 *
 *     hostile MMSB DIR [VARIANTS [SEED]]     DIR is private, and empty; HOSTILE_TRACE=1 names each variant
 *
 * Copies a segment into a private object, changes words of it, and does with it all that a reader can do. First every
 * word of the header, the directories, the blocks and the ring in turn gets each of a list of nasty values; then come
 * VARIANTS (20000) random ones; then a process changes words while the reader is at it; then come objects of random
 * length. */
#include "check.h"

#include <signal.h>

#define PATIENCE_NS 50000u

static unsigned char *image; /* the segment as it was made */
static size_t image_bytes;
static unsigned char *writable; /* the object, mapped for writing */
static uint64_t state, variant;
static mmsb_reader sound; /* its geometry, as it was made */
static unsigned char *buffer, *page_buffer;
static uint64_t slowest_ns;
static int seen_names, seen_fields, seen_pages, seen_deltas;

#define PAGE_BUFFER (1u << 20)
#define FOLLOW_BUFFER (8191u * 64u)

static uint64_t random64(void)
{
    state += 0x9e3779b97f4a7c15u;
    return mmsb_rd_mix(state);
}

static uint64_t below(uint64_t n)
{
    return random64() % n;
}

static void too_long(int number)
{
    static const char text[] = "hostile: no end in sight\n";
    (void)number;
    if (write(2, text, sizeof text - 1) < 0) _exit(3);
    _exit(3);
}

static int look_at_name(void *context, const char *name, uint32_t index, uint32_t generation)
{
    const mmsb_reader *bus = (const mmsb_reader *)context;
    const unsigned char *key, *value;
    mmsb_reader_page page;
    mmsb_reader_info info;
    mmsb_reader_schema schema;
    mmsb_reader_field field;
    size_t at = 0, key_len, value_len;
    (void)mmsb_reader_find_id(bus, index, generation, &page);
    if (mmsb_reader_find(bus, name, &page) != MMSB_READER_OK) return 0;
    seen_names++;
    if (mmsb_reader_describe(bus, &page, buffer, MMSB_READER_DESCRIBE_BYTES, &info) != MMSB_READER_OK) return 0;
    while (mmsb_reader_meta_next(&info, &at, &key, &key_len, &value, &value_len) == MMSB_READER_OK)
        state += mmsb_rd_fnv(key, key_len) + mmsb_rd_fnv(value, value_len);
    if (mmsb_reader_schema_begin(info.schema, info.schema_len, &schema) == MMSB_READER_OK)
        while (mmsb_reader_schema_next(&schema, &field) == MMSB_READER_OK) {
            uint64_t u;
            seen_fields++;
            (void)mmsb_reader_read_field(bus, &page, &field, page_buffer, PAGE_BUFFER, NULL);
            (void)mmsb_reader_get_u64(bus, &page, &field, &u);
        }
    (void)mmsb_reader_field_of(bus, &page, "b[2]", &field);
    return 0;
}

static void look_at_pages(const mmsb_reader *bus)
{
    mmsb_reader_page pages[8];
    mmsb_reader_version versions[8];
    void *to[8];
    size_t found = 0;
    uint32_t i;
    for (i = 0; i < 8; i++) {
        mmsb_reader_version version = {1, 1};
        if (mmsb_reader_find_id(bus, i, 0, &pages[found]) != MMSB_READER_OK) continue;
        seen_pages++;
        if (pages[found].size <= PAGE_BUFFER / 8) {
            (void)mmsb_reader_read(bus, &pages[found], page_buffer, pages[found].size, &version);
            (void)mmsb_reader_read_newer(bus, &pages[found], page_buffer, pages[found].size, &version);
        }
        /* The very end, where a wrong size would lead out of the object. */
        (void)mmsb_reader_read_at(bus, &pages[found], pages[found].size - 1, page_buffer, 1, NULL);
        (void)mmsb_reader_read_at(bus, &pages[found], 3, page_buffer, 61, NULL);
        to[found] = page_buffer + found * (PAGE_BUFFER / 8);
        found += pages[found].size <= PAGE_BUFFER / 8;
    }
    (void)mmsb_reader_cut(bus, pages, found, to, versions);
}

static void look_at_ring(const mmsb_reader *bus)
{
    mmsb_reader_follower follower;
    mmsb_reader_delta delta;
    mmsb_reader_page page;
    mmsb_reader_version version = {0, 0};
    char name[MMSB_READER_SOURCE_NAME_BYTES + 1];
    int i, result;
    if (mmsb_reader_follow(bus, &follower, buffer, FOLLOW_BUFFER) != MMSB_READER_OK) return;
    (void)mmsb_reader_next(bus, &follower, &delta, 0);
    /* All that was written, from the first record on. */
    follower.position = bus->ring_slots;
    if (mmsb_reader_find_id(bus, 1, 0, &page) != MMSB_READER_OK) memset(&page, 0, sizeof page);
    for (i = 0; i < 1000; i++) {
        result = mmsb_reader_next(bus, &follower, &delta, 0);
        if (result != MMSB_READER_OK && result != MMSB_READER_GAP) break;
        if (result == MMSB_READER_GAP) continue;
        seen_deltas++;
        state += mmsb_rd_fnv(delta.bytes, delta.len) + mmsb_reader_delta_time_ns(bus, &delta);
        (void)mmsb_reader_source(bus, delta.source, name);
        if (page.size != 0 && page.size <= PAGE_BUFFER) {
            delta.index = page.index;
            delta.generation = page.generation;
            if (i % 8 == 0) version.lsn = 0;
            (void)mmsb_reader_apply(bus, &page, &delta, page_buffer, PAGE_BUFFER, &version);
        }
    }
    (void)mmsb_reader_next(bus, &follower, &delta, 1000);
}

/* All that a reader can do. */
static void exercise(void)
{
    mmsb_reader bus;
    const uint64_t begin = mmsb_rd_clock_ns();
    uint64_t took;
    if (getenv("HOSTILE_TRACE") != NULL) fprintf(stderr, "variant %llu\n", (unsigned long long)variant);
    variant++;
    alarm(20);
    if (mmsb_reader_open(&bus, bus_dir, "h") == MMSB_READER_OK) {
        bus.patience_ns = PATIENCE_NS;
        (void)mmsb_reader_list(&bus, look_at_name, &bus);
        (void)look_at_name(&bus, "rec", 0, 1);
        look_at_pages(&bus);
        look_at_ring(&bus);
        (void)mmsb_reader_is_there(&bus);
        mmsb_reader_close(&bus);
    }
    took = mmsb_rd_clock_ns() - begin;
    if (took > slowest_ns) slowest_ns = took;
}

static void put(size_t at, uint64_t value, size_t bytes)
{
    memcpy(writable + at, &value, bytes);
}

static void put_back(size_t at, size_t bytes)
{
    memcpy(writable + at, image + at, bytes);
}

static uint64_t nasty(uint64_t old)
{
    switch (below(10)) {
    case 0: return 0;
    case 1: return UINT64_MAX;
    case 2: return (uint64_t)1 << below(64);
    case 3: return old ^ (uint64_t)1 << below(64);
    case 4: return old + below(17) - 8;
    case 5: return old & ~(uint64_t)0xffffffff;
    case 6: return old | 0xffffffffu;
    case 7: return below(image_bytes);
    case 8: return old * 3;
    default: return random64();
    }
}

/* Somewhere that is read: word-aligned mostly. */
static size_t somewhere(void)
{
    static const uint64_t starts[] = {0, 1024, 1152, 1280, 1408};
    uint64_t at;
    switch (below(8)) {
    case 0: at = below(152); break;
    case 1: at = starts[below(5)] + below(16); break;
    case 2: at = sound.directory_at + below(8) * 8; break;
    case 3: at = sound.names_at + below(sound.names_slots) * 8; break;
    case 4: at = sound.sources_at + below(4) * 64 + below(64); break;
    case 5: at = sound.ring_at + below(sound.ring_slots) * 64 + below(4) * 8; break;
    case 6: at = sound.ring_at + below(sound.ring_slots * 64); break;
    default:
        /* A block of a page or of a cold record, through what leads to it. */
        at = mmsb_rd_u64(image + (below(2) ? sound.directory_at + below(8) * 8
                                           : sound.names_at + below(sound.names_slots) * 8));
        at = (at & (((uint64_t)1 << 36) - 1)) * 32 + below(160);
    }
    at = below(8) == 0 ? at : at & ~(uint64_t)7;
    return at + 8 <= image_bytes ? (size_t)at : 0;
}

static void every_word_with_every_nasty_value(void)
{
    static const uint64_t values[] = {0, 1, 7, 0x1f, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0xfffffffff,
                                      0x1000000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffe0,
                                      0xffffffffffffffff};
    const uint64_t from[] = {0, 1024, 1152, 1280, 1408, 1536};
    const uint64_t to[] = {152, 1040, 1160, 1288, 1424, 1544};
    size_t i, at, v;
    uint64_t entry, k;
    for (i = 0; i < 6; i++)
        for (at = from[i]; at < to[i]; at += 8)
            for (v = 0; v < sizeof values / sizeof *values; v++) {
                put(at, values[v], 8);
                exercise();
                /* Each half alone. */
                put_back(at, 8);
                put(at, values[v], 4);
                exercise();
                put_back(at, 8);
                put(at + 4, values[v], 4);
                exercise();
                put_back(at, 8);
            }
    for (i = 0; i < 8 + sound.names_slots; i++) {
        at = i < 8 ? sound.directory_at + i * 8 : sound.names_at + (i - 8) * 8;
        entry = mmsb_rd_u64(image + at);
        if (entry <= 1) continue;
        for (v = 0; v < sizeof values / sizeof *values; v++) {
            put(at, (entry & ~(((uint64_t)1 << 36) - 1)) | (values[v] & (((uint64_t)1 << 36) - 1)), 8);
            exercise();
            put(at, entry ^ (uint64_t)1 << (v * 4), 8);
            exercise();
        }
        /* Just short of the end. */
        for (k = 0; k < 4; k++) {
            put(at, (entry & ~(((uint64_t)1 << 36) - 1)) | (image_bytes / 32 - k), 8);
            exercise();
        }
        put_back(at, 8);
        entry = (entry & (((uint64_t)1 << 36) - 1)) * 32;
        for (at = entry; at < entry + 80; at += 4)
            for (v = 0; v < sizeof values / sizeof *values; v++) {
                put(at, values[v], 4);
                exercise();
                put(at, values[v], 8);
                exercise();
                put_back(at, 8);
            }
    }
    for (i = 0; i < 8; i++)
        for (at = sound.ring_at + i * 64; at < sound.ring_at + i * 64 + 48; at += 4)
            for (v = 0; v < sizeof values / sizeof *values; v++) {
                put(at, values[v], 4);
                exercise();
                put_back(at, 8);
            }
    CHECK(memcmp(writable, image, image_bytes) == 0);
}

static uint64_t variants = 20000;

static void random_words(void)
{
    uint64_t i, n, k;
    size_t at[6];
    for (i = 0; i < variants; i++) {
        n = 1 + below(6);
        for (k = 0; k < n; k++) {
            at[k] = somewhere();
            put(at[k], nasty(mmsb_rd_u64(image + at[k])), below(3) == 0 ? 4 : 8);
        }
        exercise();
        while (k != 0) put_back(at[--k], 8);
    }
    /* A name directory without an end, whose every word leads to a record. */
    for (i = 0; i < sound.names_slots && mmsb_rd_u64(image + sound.names_at + i * 8) <= 1; i++) {}
    for (k = 0; k < sound.names_slots; k++)
        put(sound.names_at + k * 8, mmsb_rd_u64(image + sound.names_at + i * 8), 8);
    exercise();
    put_back(sound.names_at, sound.names_slots * 8);
    /* A ring of nothing but padding, and one of claims. */
    for (n = 1; n <= 3; n += 2) {
        for (k = 0; k < sound.ring_slots; k++) put(sound.ring_at + k * 64, (uint64_t)1 << 32 | 1 << 19 | n, 8);
        exercise();
    }
    put_back(sound.ring_at, sound.ring_slots * 64);
}

static void objects_of_any_length(void)
{
    char path[2048];
    uint64_t i;
    snprintf(path, sizeof path, "%s", pages_path("h"));
    for (i = 0; i < 300; i++) {
        /* Never under a mapping: what is cut short while it is read raises SIGBUS, as the header says. */
        const size_t bytes = i < 100 ? below(image_bytes) : image_bytes - below(1 + image_bytes / (i + 1));
        const int fd = open(path, O_RDWR | O_TRUNC);
        CHECK(fd >= 0 && write(fd, image, bytes) == (ssize_t)bytes);
        if (i % 2 == 0 && bytes > 1032) {
            /* The header says so too. */
            const uint64_t len = bytes;
            CHECK(pwrite(fd, &len, 8, 1024) == 8);
        }
        close(fd);
        exercise();
    }
    i = (uint64_t)open(path, O_RDWR | O_TRUNC);
    CHECK(write((int)i, image, image_bytes) == (ssize_t)image_bytes);
    close((int)i);
}

static void scribble_for_ever(void)
{
    state = 7;
    for (;;) {
        const size_t at = somewhere() & ~(size_t)7;
        const uint64_t old = mmsb_rd_u64(image + at);
        const uint64_t value = below(3) == 0 ? old : nasty(old);
        __atomic_store_n((uint64_t *)(void *)(writable + at), value, __ATOMIC_RELAXED);
        if (below(64) == 0) memcpy(writable, image, image_bytes);
    }
}

/* Words change between any two looks of the reader. */
static void words_that_change_while_they_are_read(void)
{
    int status = 1, i;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) scribble_for_ever();
    for (i = 0; i < 1500; i++) exercise();
    CHECK(child > 0 && kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    memcpy(writable, image, image_bytes);
}

/* What the others do is worth something only if it gets everywhere while nothing is wrong. */
static void the_sound_segment_is_read_to_the_end(void)
{
    seen_names = seen_fields = seen_pages = seen_deltas = 0;
    exercise();
    CHECK_IS(seen_names, 5);
    CHECK_IS(seen_fields, 3 * 2 + 1 * 2);
    CHECK_IS(seen_pages, 4);
    CHECK(seen_deltas >= 18 + 4);
}

int main(int argc, char **argv)
{
    struct stat st;
    int fd, i;
    if (argc < 3) {
        fprintf(stderr, "usage: %s MMSB DIR [VARIANTS [SEED]]\n", argv[0]);
        return 2;
    }
    mmsb_command = argv[1];
    bus_dir = argv[2];
    if (argc > 3) variants = strtoull(argv[3], NULL, 10);
    if (argc > 4) state = strtoull(argv[4], NULL, 10);
    signal(SIGALRM, too_long);
    mmsb("create base --ring 16K --pages-max 64 --names-max 16 --sources-max 8 --size 16M --pages "
         "'rec::r{a:f64,b:u32[4],c:char[8]}' 'cell:64x4:u64[8]' plain:200 'other::u64[16]'");
    for (i = 0; i < 6; i++) {
        mmsb("write base rec 'a=%d,b=[1,2,3,4],c=text'", i);
        mmsb("write base cell --as u64 1,2,3,4,5,6,7,%d", i);
        mmsb("write base plain --as text '%0190d'", i);
    }
    copy_pages("base", "h", 1u << 30);
    fd = open(pages_path("h"), O_RDWR);
    if (fd < 0 || fstat(fd, &st) != 0 || mmsb_reader_open(&sound, bus_dir, "base") != MMSB_READER_OK) return 2;
    image_bytes = (size_t)st.st_size;
    image = (unsigned char *)malloc(image_bytes);
    buffer = (unsigned char *)malloc(FOLLOW_BUFFER);
    page_buffer = (unsigned char *)malloc(PAGE_BUFFER);
    writable = (unsigned char *)mmap(NULL, image_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (image == NULL || buffer == NULL || page_buffer == NULL || (void *)writable == MAP_FAILED ||
        pread(fd, image, image_bytes, 0) != (ssize_t)image_bytes)
        return 2;
    TEST(the_sound_segment_is_read_to_the_end);
    TEST(every_word_with_every_nasty_value);
    TEST(random_words);
    TEST(words_that_change_while_they_are_read);
    TEST(objects_of_any_length);
    printf("%llu variants, the slowest in %.1f ms\n", (unsigned long long)variant, (double)slowest_ns / 1e6);
    return report();
}
