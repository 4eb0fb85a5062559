/* What mmsb_reader.h promises about following the deltas, on a bus written by the command `mmsb`, and on doctored
 * copies of it.
 *
 *     test_follow MMSB DIR     DIR is private, and empty */
#include "check.h"

#define SECOND ((uint64_t)1000000000)

static mmsb_reader bus;
static mmsb_reader_follower follower;
static void *buffer;

static void follow(const char *name)
{
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, name), MMSB_READER_OK);
    buffer = malloc(mmsb_reader_follow_bytes(&bus));
    CHECK_IS(mmsb_reader_follow(&bus, &follower, buffer, mmsb_reader_follow_bytes(&bus)), MMSB_READER_OK);
}

static void leave(void)
{
    mmsb_reader_close(&bus);
    free(buffer);
}

/* The next delta of `page`; those of sources are passed over. */
static int next_of(const mmsb_reader_page *page, mmsb_reader_delta *delta)
{
    int result;
    do {
        result = mmsb_reader_next(&bus, &follower, delta, SECOND / 5);
    } while (result == MMSB_READER_OK && !mmsb_reader_delta_is_of(delta, page));
    return result;
}

static void deltas_keep_a_copy_like_the_page(void)
{
    mmsb_reader_page page;
    mmsb_reader_delta delta;
    mmsb_reader_version version = {0, 0}, now;
    unsigned char copy[96], read[96];
    char name[MMSB_READER_SOURCE_NAME_BYTES + 1];
    uint64_t first, time_ns, now_ns;
    struct timespec real;
    int i;
    follow("t");
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, 0), MMSB_READER_TIMEOUT);
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, SECOND / 100), MMSB_READER_TIMEOUT);
    first = follower.position;
    CHECK(first == mmsb_reader_end_lsn(&bus) && mmsb_reader_published(&bus) <= first);
    CHECK_IS(mmsb_reader_durable(&bus), 0);
    CHECK_IS(mmsb_reader_find(&bus, "all", &page), MMSB_READER_OK);

    mmsb("write t all --field c 77 --cause 4711");
    CHECK_IS(next_of(&page, &delta), MMSB_READER_OK);
    CHECK(delta.kind == MMSB_READER_KIND_PATCH && delta.offset == 2 && delta.len == 2 && delta.bytes[0] == 77);
    CHECK(delta.cause == 4711 && !delta.transaction && delta.lsn >= first && delta.group_end > delta.lsn);
    CHECK_IS(mmsb_reader_source(&bus, delta.source, name), MMSB_READER_OK);
    CHECK(strncmp(name, "mmsb", 4) == 0);
    CHECK_IS(mmsb_reader_source(&bus, 60000, name), MMSB_READER_NO_SUCH_NAME);
    clock_gettime(CLOCK_REALTIME, &real);
    time_ns = mmsb_reader_delta_time_ns(&bus, &delta);
    now_ns = (uint64_t)real.tv_sec * SECOND;
    CHECK(time_ns <= now_ns + SECOND && time_ns + 600 * SECOND > now_ns);
    CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 95, &version), MMSB_READER_TOO_SMALL);
    CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_OK);
    CHECK(version.lsn == delta.lsn && copy[2] == 77);
    CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_UNCHANGED);

    /* From here on the copy is fed by deltas alone. */
    mmsb("write t all 'a=1,b=2,c=3,d=4,e=5,f=6,g=7,h=8,i=9,j=10,k=true,l=text,m=[1,2,3]'");
    mmsb("write t all --field 'm[1]' 0.5");
    mmsb("write t cell --as u64 1,2,3,4,5,6,7,8");
    mmsb("write t all --field l changed");
    for (i = 0; i < 3; i++) {
        CHECK_IS(next_of(&page, &delta), MMSB_READER_OK);
        CHECK_IS(delta.kind, i == 0 ? MMSB_READER_KIND_RANGES : MMSB_READER_KIND_PATCH);
        CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_OK);
    }
    CHECK_IS(mmsb_reader_read(&bus, &page, read, 96, &now), MMSB_READER_OK);
    CHECK(memcmp(copy, read, 96) == 0 && now.lsn == version.lsn && now.epoch == version.epoch);
    CHECK_IS(next_of(&page, &delta), MMSB_READER_TIMEOUT);
    CHECK_IS(follower.missed, 0);
    leave();
}

static void a_record_of_many_slots_arrives_whole(void)
{
    char from[2048];
    unsigned char bytes[1000], copy[1000];
    mmsb_reader_page page;
    mmsb_reader_delta delta;
    mmsb_reader_version version = {0, 0};
    FILE *file;
    size_t i;
    for (i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 13 + i / 251);
    snprintf(from, sizeof from, "%s/bytes", bus_dir);
    file = fopen(from, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, sizeof bytes, file) == sizeof bytes);
    if (file != NULL) fclose(file);
    follow("t");
    CHECK_IS(mmsb_reader_find(&bus, "plain", &page), MMSB_READER_OK);
    mmsb("write t plain --as raw --from '%s'", from);
    CHECK_IS(next_of(&page, &delta), MMSB_READER_OK);
    CHECK(delta.len == 1000 && delta.len == sizeof bytes && memcmp(delta.bytes, bytes, 1000) == 0);
    CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 1000, &version), MMSB_READER_OK);
    CHECK(memcmp(copy, bytes, 1000) == 0);
    leave();
}

static void who_was_overtaken_learns_what_was_missed(void)
{
    mmsb_reader_page page;
    mmsb_reader_delta delta;
    mmsb_reader_version version = {0, 0};
    unsigned char copy[512], read[512];
    uint64_t from;
    int i, result;
    mmsb("create tiny --size 256M --ring 4K --pages v:512");
    follow("tiny");
    CHECK_IS(mmsb_reader_find(&bus, "v", &page), MMSB_READER_OK);
    from = follower.position;
    for (i = 0; i < 16; i++) mmsb("write tiny v --as text '%0400d'", i);
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, SECOND), MMSB_READER_GAP);
    CHECK(follower.gap_from == from && follower.gap_to > from && follower.position == follower.gap_to);
    CHECK_IS(follower.missed, follower.gap_to - follower.gap_from);
    mmsb("write tiny v --as text 'now'");
    do {
        result = next_of(&page, &delta);
        if (result == MMSB_READER_OK) result = mmsb_reader_apply(&bus, &page, &delta, copy, 512, &version);
    } while (result >= 0 && result != MMSB_READER_TIMEOUT);
    CHECK_IS(result, MMSB_READER_TIMEOUT);
    CHECK_IS(mmsb_reader_read(&bus, &page, read, 512, NULL), MMSB_READER_OK);
    CHECK(memcmp(read, "now", 3) == 0 && memcmp(read, copy, 512) == 0);
    leave();
}

static void a_value_too_large_for_the_ring_comes_as_a_swap_and_is_patched_like_any(void)
{
    mmsb_reader_page page;
    mmsb_reader_delta delta;
    mmsb_reader_version version = {0, 0}, now;
    unsigned char copy[2000], read[2000];
    int i;
    mmsb("create swaps --size 256M --ring 4K --pages v:2000");
    follow("swaps");
    CHECK_IS(mmsb_reader_find(&bus, "v", &page), MMSB_READER_OK);
    for (i = 0; i < 4; i++) {
        if (i % 2 == 0) mmsb("write swaps v --as text '%01500d'", i);
        else mmsb("write swaps v --as text --offset 700 patched%d", i);
        CHECK_IS(next_of(&page, &delta), MMSB_READER_OK);
        CHECK_IS(delta.kind, i % 2 == 0 ? MMSB_READER_KIND_SWAP : MMSB_READER_KIND_PATCH);
        CHECK_IS(delta.len, i % 2 == 0 ? 0 : 8);
        CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 2000, &version), MMSB_READER_OK);
        CHECK_IS(mmsb_reader_read(&bus, &page, read, 2000, &now), MMSB_READER_OK);
        CHECK(memcmp(copy, read, 2000) == 0 && now.lsn == version.lsn && now.epoch == version.epoch);
    }
    CHECK(read[1499] == '2' && memcmp(read + 700, "patched3", 8) == 0 && page.retries == 0);
    leave();
}

static uint64_t slot_at(const mmsb_reader *of, uint64_t lsn)
{
    return of->ring_at + (lsn & (of->ring_slots - 1)) * 64;
}

static uint64_t stamp_of(const mmsb_reader *of, uint64_t lsn, uint64_t slots, uint64_t state)
{
    return lsn / of->ring_slots << 32 | slots << 19 | state;
}

static void an_unfinished_record_stalls_and_padding_is_passed(void)
{
    mmsb_reader_delta delta;
    uint64_t begin, at;
    copy_pages("t", "s", 1u << 30);
    follow("s");
    at = follower.position;
    doctor64("s", slot_at(&bus, at), stamp_of(&bus, at, 2, MMSB_READER_SLOT_CLAIMED));
    begin = mmsb_rd_clock_ns();
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, SECOND / 50), MMSB_READER_STALLED);
    CHECK(mmsb_rd_clock_ns() - begin >= SECOND / 50 && follower.position == at);
    CHECK_IS(mmsb_reader_end_lsn(&bus), at + 2);
    doctor64("s", slot_at(&bus, at), stamp_of(&bus, at, 2, MMSB_READER_SLOT_PADDING));
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, 0), MMSB_READER_TIMEOUT);
    CHECK_IS(follower.position, at + 2);
    /* Replaced by a rebuild. */
    doctor32("s", 32, MMSB_READER_STATE_ABANDONED);
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, SECOND), MMSB_READER_GONE);
    CHECK_IS(mmsb_reader_is_there(&bus), MMSB_READER_GONE);
    leave();
}

static void a_group_yields_its_records_one_by_one(void)
{
    mmsb_reader_delta delta;
    unsigned char record[64];
    uint64_t at, stamp;
    uint32_t i;
    copy_pages("t", "g", 1u << 30);
    follow("g");
    at = follower.position;
    for (i = 0; i < 3; i++) {
        memset(record, 0, sizeof record);
        stamp = stamp_of(&bus, at + i, i == 0 ? 3 : 1, i == 0 ? MMSB_READER_SLOT_READY : 5);
        memcpy(record, &stamp, 8);
        record[8] = (unsigned char)i;
        record[12] = 1;
        record[20] = 4;
        record[24] = MMSB_READER_KIND_PATCH;
        record[25] = MMSB_READER_FLAG_TRANSACTION;
        record[32] = (unsigned char)(100 + i);
        doctor("g", slot_at(&bus, at + i), record, sizeof record);
    }
    for (i = 0; i < 3; i++) {
        CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, 0), MMSB_READER_OK);
        CHECK(delta.lsn == at + i && delta.group_end == at + 3 && delta.index == i && delta.transaction);
        CHECK(delta.len == 4 && delta.bytes[0] == 100 + i);
    }
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, 0), MMSB_READER_TIMEOUT);
    /* A record that is longer than its group: it cannot go on. */
    stamp = stamp_of(&bus, at + 3, 1, MMSB_READER_SLOT_READY);
    memcpy(record, &stamp, 8);
    record[20] = 33;
    doctor("g", slot_at(&bus, at + 3), record, sizeof record);
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, 0), MMSB_READER_CORRUPT);
    CHECK_IS(mmsb_reader_next(&bus, &follower, &delta, 0), MMSB_READER_CORRUPT);
    leave();
}

static void ranges_and_masks_are_applied_or_refused_as_a_whole(void)
{
    static const unsigned char masked[] = {5, 0, 0, 0, 0, 0, 0, 0, 0x16, 10, 11, 12, 13, 14};
    /* Two bytes for 1, one for 0. */
    static const unsigned char ranges[] = {2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0,
                                           0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 8, 9};
    mmsb_reader_page page;
    mmsb_reader_delta delta;
    mmsb_reader_version version;
    unsigned char copy[96];
    uint32_t size;
    size_t i;
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "t"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "all", &page), MMSB_READER_OK);
    memset(&delta, 0, sizeof delta);
    delta.index = page.index;
    delta.generation = page.generation;
    delta.lsn = (uint64_t)1 << 40;
    for (i = 0; i < 2; i++) {
        delta.kind = i == 0 ? MMSB_READER_KIND_MASKED : MMSB_READER_KIND_RANGES;
        delta.bytes = i == 0 ? masked : ranges;
        delta.len = i == 0 ? sizeof masked : sizeof ranges;
        delta.offset = i == 0 ? 3 : 0;
        memset(copy, 0, sizeof copy);
        version.epoch = version.lsn = 1;
        CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_OK);
        CHECK(version.epoch == 2 && version.lsn == delta.lsn);
        if (i == 0) CHECK(memcmp(copy, "\0\0\0\0\13\14\0\16\0", 9) == 0);
        else CHECK(memcmp(copy, "\11\7\10\0\0", 5) == 0);
        /* A page too short, a payload too short. */
        for (size = 0; size < 10; size++) {
            const int wanted = size >= (i == 0 ? 8u : 3u) ? MMSB_READER_OK : MMSB_READER_RANGE;
            CHECK_IS(mmsb_reader_delta_ranges(&delta, size, mmsb_rd_no_range, NULL), wanted);
        }
        while (delta.len != 0) {
            unsigned char *part = (unsigned char *)malloc(--delta.len + 1);
            memcpy(part, delta.bytes, delta.len);
            delta.bytes = part;
            memset(copy, 0, sizeof copy);
            version.epoch = version.lsn = 1;
            CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_CORRUPT);
            CHECK(copy[0] == 0 && copy[1] == 0 && copy[4] == 0 && version.lsn == 0);
            free(part);
            delta.bytes = i == 0 ? masked : ranges;
        }
    }
    delta.kind = MMSB_READER_KIND_DESTROY;
    CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_PAGE_GONE);
    mmsb_reader_close(&bus);
}

static void a_swap_is_read_from_its_block_or_from_the_page(void)
{
    mmsb_reader_page page, other;
    mmsb_reader_delta delta;
    mmsb_reader_version version;
    unsigned char copy[96], read[96];
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "t"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "all", &page), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "cell", &other), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_read(&bus, &page, read, 96, &version), MMSB_READER_OK);
    memset(&delta, 0, sizeof delta);
    delta.index = page.index;
    delta.generation = page.generation;
    delta.kind = MMSB_READER_KIND_SWAP;
    delta.lsn = version.lsn;
    delta.block = page.entry;
    version.lsn--;
    memset(copy, 0, sizeof copy);
    CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_OK);
    CHECK(memcmp(copy, read, 96) == 0 && version.lsn == delta.lsn);
    /* The block is another page's by now, or no block at all: the page itself is at the delta, or past it. */
    delta.block = other.entry;
    version.lsn--;
    memset(copy, 0, sizeof copy);
    CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_OK);
    CHECK(memcmp(copy, read, 96) == 0 && version.lsn == delta.lsn);
    delta.block = ((uint64_t)1 << 36) - 1;
    version.lsn--;
    CHECK_IS(mmsb_reader_apply(&bus, &page, &delta, copy, 96, &version), MMSB_READER_OK);
    mmsb_reader_close(&bus);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s MMSB DIR\n", argv[0]);
        return 2;
    }
    mmsb_command = argv[1];
    bus_dir = argv[2];
    mmsb("create t --size 256M --ring 64K --pages 'all::rec{a:u8,b:i8,c:u16,d:i16,e:u32,f:i32,g:u64,h:i64,i:f32,j:f64,"
         "k:bool,l:char[16],m:f64[3]}' 'cell:64x4:u64[8]' plain:1000");
    TEST(deltas_keep_a_copy_like_the_page);
    TEST(a_record_of_many_slots_arrives_whole);
    TEST(who_was_overtaken_learns_what_was_missed);
    TEST(a_value_too_large_for_the_ring_comes_as_a_swap_and_is_patched_like_any);
    TEST(an_unfinished_record_stalls_and_padding_is_passed);
    TEST(a_group_yields_its_records_one_by_one);
    TEST(ranges_and_masks_are_applied_or_refused_as_a_whole);
    TEST(a_swap_is_read_from_its_block_or_from_the_page);
    return report();
}
