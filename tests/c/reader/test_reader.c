/* What mmsb_reader.h promises about opening, finding, reading and fields, on a bus made and written by the command
 * `mmsb`, and on doctored copies of it.
 *
 *     test_reader MMSB DIR     DIR is private, and empty */
#include "check.h"

#define RECORD "rec{a:u8,b:i8,c:u16,d:i16,e:u32,f:i32,g:u64,h:i64,i:f32,j:f64,k:bool,l:char[16],m:f64[3]}"

static void a_bus_that_cannot_be_read_is_refused_with_the_reason(void)
{
    char link_path[2048];
    struct stat st;
    mmsb_reader bus;
    expect_open("nothing", MMSB_READER_MISSING);
    expect_open("", MMSB_READER_ARGUMENT);
    expect_open(".hidden", MMSB_READER_ARGUMENT);
    expect_open("a/b", MMSB_READER_ARGUMENT);
    CHECK_IS(mmsb_reader_open(&bus, "/nowhere/at/all", "t"), MMSB_READER_MISSING);
    CHECK_IS(mmsb_reader_open(NULL, bus_dir, "t"), MMSB_READER_ARGUMENT);

    mkdir(pages_path("directory"), 0700);
    expect_open("directory", MMSB_READER_NOT_A_BUS);
    CHECK(mkfifo(pages_path("fifo"), 0600) == 0);
    expect_open("fifo", MMSB_READER_NOT_A_BUS);
    snprintf(link_path, sizeof link_path, "%s", pages_path("t"));
    CHECK(symlink(link_path, pages_path("link")) == 0);
    expect_open("link", MMSB_READER_NOT_A_BUS);

    copy_pages("t", "short", 100);
    expect_open("short", MMSB_READER_TRUNCATED);
    copy_pages("t", "short", 0);
    expect_open("short", MMSB_READER_TRUNCATED);
    copy_pages("t", "short", 4096);
    expect_open("short", MMSB_READER_TRUNCATED);
    CHECK(stat(pages_path("t"), &st) == 0);
    copy_pages("t", "short", (size_t)st.st_size);
    expect_open("short", MMSB_READER_OK);
    copy_pages("t", "short", (size_t)st.st_size - 1);
    expect_open("short", MMSB_READER_TRUNCATED);

    copy_pages("t", "d", 1u << 30);
    doctor64("d", offsetof(struct mmsb_rd_PagesHeader, len), (uint64_t)st.st_size + 8);
    expect_open("d", MMSB_READER_TRUNCATED);
    copy_pages("t", "d", 1u << 30);
    doctor32("d", 0, 1);
    expect_open("d", MMSB_READER_NOT_A_BUS);
    copy_pages("t", "d", 1u << 30);
    doctor32("d", 8, 2);
    expect_open("d", MMSB_READER_VERSION);
    doctor32("d", 8, 1);
    doctor64("d", 24, 7);
    expect_open("d", MMSB_READER_VERSION);
    /* A greater minor adds, and the hash is another: that is no reason to refuse it. A smaller one lacks something. */
    doctor32("d", 12, 3);
    expect_open("d", MMSB_READER_OK);
    doctor32("d", 12, 0);
    expect_open("d", MMSB_READER_VERSION);
    doctor32("d", 12, 3);
    doctor64("d", 16, (uint64_t)1 << 40);
    expect_open("d", MMSB_READER_FEATURES);
    doctor64("d", 16, 0);
    doctor32("d", 32, 0);
    expect_open("d", MMSB_READER_NOT_READY);
    doctor32("d", 32, MMSB_READER_STATE_ABANDONED);
    expect_open("d", MMSB_READER_GONE);
    doctor32("d", 32, 77);
    expect_open("d", MMSB_READER_CORRUPT);
}

static void a_bus_of_somebody_else_is_denied(void)
{
    pid_t child;
    int status = 1;
    copy_pages("t", "private", 1u << 30);
    CHECK(chmod(pages_path("private"), geteuid() == 0 ? 0600 : 0000) == 0 && chmod(bus_dir, 0755) == 0);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        mmsb_reader bus;
        /* Root may read everything: become somebody else. */
        if (geteuid() == 0 && setuid(65534) != 0) _exit(2);
        _exit(mmsb_reader_open(&bus, bus_dir, "private") == MMSB_READER_DENIED ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void geometry_that_leaves_the_object_is_refused(void)
{
    static const unsigned at[] = {72, 80, 84, 88, 92, 96, 104, 112, 120, 128, 136, 144};
    static const uint64_t values[] = {0, 1, 3, 63, 0xfff, 0x7fffffff, 0xffffffff};
    size_t i, j;
    for (i = 0; i < sizeof at / sizeof *at; i++) {
        for (j = 0; j < sizeof values / sizeof *values; j++) {
            mmsb_reader bus;
            int result;
            copy_pages("t", "d", 8192);
            CHECK(truncate(pages_path("d"), 4 << 20) == 0);
            if ((at[i] >= 80 && at[i] < 96) || at[i] == 144) {
                doctor32("d", at[i], (uint32_t)values[j]);
            } else {
                doctor64("d", at[i], values[j] << 32);
            }
            result = mmsb_reader_open(&bus, bus_dir, "d");
            /* Fewer pages, names or sources than there are is nothing that a reader could know. */
            CHECK(result == MMSB_READER_CORRUPT || result == MMSB_READER_TRUNCATED ||
                  (result == MMSB_READER_OK && values[j] != 0xffffffff));
            mmsb_reader_close(&bus);
        }
    }
}

struct listed {
    int count, all, again;
    const mmsb_reader *bus;
};

static int each_name(void *context, const char *name, uint32_t index, uint32_t generation)
{
    struct listed *listed = (struct listed *)context;
    mmsb_reader_page page;
    listed->count++;
    listed->all += strcmp(name, "all") == 0;
    if (mmsb_reader_find(listed->bus, name, &page) != MMSB_READER_OK) return 1;
    listed->again += page.index == index && page.generation == generation;
    return 0;
}

static int stop_at_once(void *context, const char *name, uint32_t index, uint32_t generation)
{
    (void)name, (void)index, (void)generation;
    ++*(int *)context;
    return 1;
}

static void pages_are_found_by_name_and_by_id_and_listed(void)
{
    mmsb_reader bus;
    mmsb_reader_page page, same;
    struct listed listed = {0, 0, 0, NULL};
    char long_name[300];
    int stopped = 0;
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "t"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "all", &page), MMSB_READER_OK);
    CHECK_IS(page.size, 96);
    CHECK_IS(page.versions, 1);
    CHECK_IS(mmsb_reader_find_id(&bus, page.index, page.generation, &same), MMSB_READER_OK);
    CHECK_IS(same.size, 96);
    CHECK_IS(mmsb_reader_find_id(&bus, page.index, 0, &same), MMSB_READER_OK);
    CHECK_IS(same.generation, page.generation);
    CHECK_IS(mmsb_reader_find_id(&bus, page.index, page.generation + 1, &same), MMSB_READER_PAGE_GONE);
    CHECK_IS(mmsb_reader_find_id(&bus, 60000, 0, &same), MMSB_READER_PAGE_GONE);
    CHECK_IS(mmsb_reader_find_id(&bus, UINT32_MAX, 1, &same), MMSB_READER_PAGE_GONE);
    CHECK_IS(mmsb_reader_find(&bus, "al", &page), MMSB_READER_NO_SUCH_NAME);
    CHECK_IS(mmsb_reader_find(&bus, "", &page), MMSB_READER_NO_SUCH_NAME);
    memset(long_name, 'x', sizeof long_name);
    long_name[299] = 0;
    CHECK_IS(mmsb_reader_find(&bus, long_name, &page), MMSB_READER_NO_SUCH_NAME);
    CHECK_IS(mmsb_reader_find(&bus, "cell", &page), MMSB_READER_OK);
    CHECK_IS(page.versions, 4);
    CHECK_IS(page.size, 64);
    listed.bus = &bus;
    CHECK_IS(mmsb_reader_list(&bus, each_name, &listed), MMSB_READER_OK);
    CHECK(listed.count == 4 && listed.all == 1 && listed.again == 4);
    CHECK_IS(mmsb_reader_list(&bus, stop_at_once, &stopped), MMSB_READER_OK);
    CHECK_IS(stopped, 1);
    mmsb_reader_close(&bus);
    mmsb_reader_close(&bus);
    CHECK_IS(mmsb_reader_find(&bus, "all", &same), MMSB_READER_ARGUMENT);
    CHECK_IS(mmsb_reader_read(&bus, &page, long_name, 8, NULL), MMSB_READER_ARGUMENT);
}

static void every_range_of_a_page_reads_as_it_was_written(void)
{
    static const char *names[] = {"plain", "cellp"};
    unsigned char bytes[1000], copy[1008], expected[1008];
    char from[2048];
    mmsb_reader bus;
    mmsb_reader_page page;
    mmsb_reader_version version, again;
    size_t i, at, n;
    FILE *file;
    for (i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 7 + i / 256);
    snprintf(from, sizeof from, "%s/bytes", bus_dir);
    file = fopen(from, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, sizeof bytes, file) == sizeof bytes);
    if (file != NULL) fclose(file);
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "t"), MMSB_READER_OK);
    mmsb("create c --size 256M --ring 64K --pages cellp:1000x5");
    for (i = 0; i < 2; i++) {
        const char *name = i == 0 ? "t" : "c";
        mmsb("write %s %s --as raw --from '%s'", name, names[i], from);
        mmsb_reader_close(&bus);
        CHECK_IS(mmsb_reader_open(&bus, bus_dir, name), MMSB_READER_OK);
        CHECK_IS(mmsb_reader_find(&bus, names[i], &page), MMSB_READER_OK);
        for (at = 0; at < 1000; at += 1 + at / 20) {
            for (n = 0; n <= 1000 - at; n += 1 + n / 40) {
                memset(copy, 0xee, sizeof copy);
                memset(expected, 0xee, sizeof expected);
                memcpy(expected, bytes + at, n);
                CHECK_IS(mmsb_reader_read_at(&bus, &page, at, copy, n, &version), MMSB_READER_OK);
                CHECK(memcmp(copy, expected, sizeof copy) == 0);
            }
        }
        CHECK(version.epoch == 1 && version.lsn >= bus.ring_slots);
        CHECK_IS(mmsb_reader_read(&bus, &page, copy, 1001, NULL), MMSB_READER_RANGE);
        CHECK_IS(mmsb_reader_read_at(&bus, &page, 1000, copy, 1, NULL), MMSB_READER_RANGE);
        CHECK_IS(mmsb_reader_read_at(&bus, &page, SIZE_MAX, copy, 2, NULL), MMSB_READER_RANGE);
        CHECK_IS(mmsb_reader_read_at(&bus, &page, 2, copy, SIZE_MAX, NULL), MMSB_READER_RANGE);
        CHECK_IS(mmsb_reader_read_at(&bus, &page, 1000, copy, 0, NULL), MMSB_READER_OK);
        again = version;
        CHECK_IS(mmsb_reader_read_newer(&bus, &page, copy, 1000, &again), MMSB_READER_UNCHANGED);
        mmsb("write %s %s --as hex --offset 3 abcd", name, names[i]);
        CHECK_IS(mmsb_reader_read_newer(&bus, &page, copy, 1000, &again), MMSB_READER_OK);
        CHECK(again.epoch == 2 && again.lsn > version.lsn && copy[2] == bytes[2] && copy[3] == 0xab);
        CHECK_IS(mmsb_reader_version_now(&bus, &page, &version), MMSB_READER_OK);
        CHECK(version.epoch == 2 && version.lsn == again.lsn);
        CHECK_IS(page.retries, 0);
    }
    mmsb_reader_close(&bus);
}

static void fields_of_every_type_are_decoded(void)
{
    mmsb_reader bus;
    mmsb_reader_page page;
    mmsb_reader_field f, element = {0, 0, 0, 0};
    mmsb_reader_version version;
    unsigned char copy[96], raw[24];
    static const struct {
        const char *path;
        uint64_t u;
        int64_t i;
        double d;
        int u_is, i_is, d_is;
    } wanted[] = {
        {"a", 200, 200, 200, 0, 0, 0},
        {"b", 0, -5, -5, MMSB_READER_TYPE, 0, 0},
        {"c", 60000, 60000, 60000, 0, 0, 0},
        {"d", 0, -300, -300, MMSB_READER_TYPE, 0, 0},
        {"e", 4000000000u, 4000000000, 4e9, 0, 0, 0},
        {"f", 0, -70000, -70000, MMSB_READER_TYPE, 0, 0},
        {"g", UINT64_MAX, 0, 0, 0, MMSB_READER_TYPE, MMSB_READER_TYPE},
        {"h", 0, -9000000000, -9e9, MMSB_READER_TYPE, 0, 0},
        {"i", 0, 0, 1.5, MMSB_READER_TYPE, MMSB_READER_TYPE, 0},
        {"j", 0, 0, 2.25, MMSB_READER_TYPE, MMSB_READER_TYPE, 0},
        {"k", 1, 1, 1, 0, 0, 0},
        {"l", 0, 0, 0, MMSB_READER_TYPE, MMSB_READER_TYPE, MMSB_READER_TYPE},
        {"m[2]", 0, 0, 3.5, MMSB_READER_TYPE, MMSB_READER_TYPE, 0},
        {"m", 0, 0, 0, MMSB_READER_TYPE, MMSB_READER_TYPE, MMSB_READER_TYPE},
    };
    size_t i;
    char text[17];
    mmsb("write t all 'a=200,b=-5,c=60000,d=-300,e=4000000000,f=-70000,g=18446744073709551615,h=-9000000000,i=1.5,"
         "j=2.25,k=true,l=hello,m=[1.5,2.5,3.5]'");
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "t"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "all", &page), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_read(&bus, &page, copy, sizeof copy, &version), MMSB_READER_OK);
    for (i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        uint64_t u = 0;
        int64_t s = 0;
        double d = 0;
        CHECK_IS(mmsb_reader_field_of(&bus, &page, wanted[i].path, &f), MMSB_READER_OK);
        CHECK_IS(mmsb_reader_field_u64(&f, copy, sizeof copy, &u), wanted[i].u_is);
        CHECK(wanted[i].u_is || u == wanted[i].u);
        CHECK_IS(mmsb_reader_field_i64(&f, copy, sizeof copy, &s), wanted[i].i_is);
        CHECK(wanted[i].i_is || s == wanted[i].i);
        CHECK_IS(mmsb_reader_field_f64(&f, copy, sizeof copy, &d), wanted[i].d_is);
        CHECK(wanted[i].d_is || d == wanted[i].d);
        CHECK_IS(mmsb_reader_get_u64(&bus, &page, &f, &u),
                 strcmp(wanted[i].path, "l") == 0 ? MMSB_READER_TYPE : wanted[i].u_is);
        CHECK_IS(mmsb_reader_get_i64(&bus, &page, &f, &s), wanted[i].i_is);
        CHECK_IS(mmsb_reader_get_f64(&bus, &page, &f, &d), wanted[i].d_is);
        CHECK(wanted[i].d_is || d == wanted[i].d);
    }
    CHECK_IS(mmsb_reader_field_of(&bus, &page, "l", &f), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_field_text(&f, copy, sizeof copy, text, sizeof text), MMSB_READER_OK);
    CHECK(strcmp(text, "hello") == 0);
    CHECK_IS(mmsb_reader_field_text(&f, copy, sizeof copy, text, 5), MMSB_READER_TOO_SMALL);
    CHECK_IS(mmsb_reader_field_text(&f, copy, 60, text, sizeof text), MMSB_READER_RANGE);
    CHECK_IS(mmsb_reader_field_of(&bus, &page, "m", &f), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_read_field(&bus, &page, &f, raw, sizeof raw, NULL), MMSB_READER_OK);
    CHECK(memcmp(raw, copy + 72, 24) == 0);
    CHECK_IS(mmsb_reader_read_field(&bus, &page, &f, raw, 23, NULL), MMSB_READER_TOO_SMALL);
    CHECK_IS(mmsb_reader_element(&f, 2, &element), MMSB_READER_OK);
    CHECK_IS(element.offset, 88);
    CHECK_IS(mmsb_reader_element(&f, 3, &element), MMSB_READER_NO_FIELD);
    for (i = 0; i < 8; i++) {
        static const char *bad[] = {"n", "", "m[3]", "m[", "m[]", "m[1", "m[-1]", "m[99999999999999999999]"};
        CHECK_IS(mmsb_reader_field_of(&bus, &page, bad[i], &f), MMSB_READER_NO_FIELD);
    }
    CHECK_IS(mmsb_reader_find(&bus, "cell", &page), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_field_of(&bus, &page, "", &f), MMSB_READER_OK);
    CHECK(f.count == 8 && f.type == MMSB_READER_TYPE_U64);
    CHECK_IS(mmsb_reader_field_of(&bus, &page, "[7]", &f), MMSB_READER_OK);
    CHECK_IS(f.offset, 56);
    CHECK_IS(mmsb_reader_find(&bus, "plain", &page), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_field_of(&bus, &page, "a", &f), MMSB_READER_NO_SCHEMA);
    mmsb_reader_close(&bus);
}

static void a_schema_cut_or_changed_anywhere_is_no_crash(void)
{
    unsigned char *buffer = (unsigned char *)malloc(MMSB_READER_DESCRIBE_BYTES);
    unsigned char small[40];
    mmsb_reader bus;
    mmsb_reader_page page;
    mmsb_reader_info info;
    mmsb_reader_schema schema;
    mmsb_reader_field f;
    size_t cut, i;
    int fields = 0;
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "t"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "all", &page), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_describe(&bus, &page, small, sizeof small, &info), MMSB_READER_TOO_SMALL);
    CHECK_IS(mmsb_reader_describe(&bus, &page, buffer, info.needed, &info), MMSB_READER_OK);
    CHECK(info.name_len == 3 && memcmp(info.name, "all", 3) == 0 && info.meta_len == 0);
    CHECK(info.schema_hash != 0 && info.schema_hash == mmsb_rd_fnv(info.schema, info.schema_len));
    CHECK_IS(mmsb_reader_schema_begin(info.schema, info.schema_len, &schema), MMSB_READER_OK);
    while (mmsb_reader_schema_next(&schema, &f) == MMSB_READER_OK)
        CHECK(schema.name_len == 1 && schema.name[0] == 'a' + fields++);
    CHECK_IS(fields, 13);
    for (cut = 0; cut < info.schema_len; cut++) {
        unsigned char *part = (unsigned char *)malloc(cut + 1);
        memcpy(part, info.schema, cut);
        CHECK_IS(mmsb_reader_schema_field(part, cut, "m", &f), cut == 0 ? MMSB_READER_NO_SCHEMA : MMSB_READER_CORRUPT);
        free(part);
    }
    for (i = 0; i < info.schema_len * 8; i++) {
        unsigned char *part = (unsigned char *)malloc(info.schema_len);
        int result;
        memcpy(part, info.schema, info.schema_len);
        part[i / 8] ^= (unsigned char)(1u << (i % 8));
        result = mmsb_reader_schema_field(part, info.schema_len, "m[1]", &f);
        CHECK(result != MMSB_READER_OK || (uint64_t)f.offset + f.element <= mmsb_rd_u32(part + 8));
        free(part);
    }
    free(buffer);
    mmsb_reader_close(&bus);
}

/* Offset of the cold block of a page, through the name directory. */
static uint64_t cold_block(const mmsb_reader *bus, const mmsb_reader_page *page)
{
    uint64_t i;
    for (i = 0; i < bus->names_slots; i++) {
        const uint64_t word = mmsb_rd_acquire64(bus->base + bus->names_at + i * 8);
        const uint64_t at = (word & (((uint64_t)1 << 36) - 1)) * 32;
        if (word > 1 && word >> 63 && mmsb_rd_u32(bus->base + at + 32) == page->index) return at;
    }
    return 0;
}

static void metadata_is_found_by_key(void)
{
    static const char meta[] = "\4\0\0\0\5\0\0\0unitmetre\1\0\0\0\0\0\0\0e";
    unsigned char *buffer = (unsigned char *)malloc(MMSB_READER_DESCRIBE_BYTES);
    const unsigned char *value = NULL;
    mmsb_reader bus;
    mmsb_reader_page page;
    mmsb_reader_info info;
    size_t len = 0;
    uint64_t cold;
    copy_pages("t", "m", 1u << 30);
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "m"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "plain", &page), MMSB_READER_OK);
    cold = cold_block(&bus, &page);
    CHECK(cold != 0);
    doctor("m", cold + 64 + 5, meta, sizeof meta - 1);
    doctor32("m", cold + 32 + 24, sizeof meta - 1);
    CHECK_IS(mmsb_reader_describe(&bus, &page, buffer, MMSB_READER_DESCRIBE_BYTES, &info), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_meta(&info, "unit", &value, &len), MMSB_READER_OK);
    CHECK(len == 5 && memcmp(value, "metre", 5) == 0);
    CHECK_IS(mmsb_reader_meta(&info, "e", &value, &len), MMSB_READER_OK);
    CHECK_IS(len, 0);
    CHECK_IS(mmsb_reader_meta(&info, "units", &value, &len), MMSB_READER_NO_SUCH_NAME);
    info.meta_len--;
    CHECK_IS(mmsb_reader_meta(&info, "x", &value, &len), MMSB_READER_CORRUPT);
    doctor32("m", cold + 32 + 24, UINT32_MAX);
    CHECK_IS(mmsb_reader_describe(&bus, &page, buffer, MMSB_READER_DESCRIBE_BYTES, &info), MMSB_READER_CORRUPT);
    CHECK_IS(mmsb_reader_find(&bus, "plain", &page), MMSB_READER_CORRUPT);
    free(buffer);
    mmsb_reader_close(&bus);
}

static void several_pages_are_read_as_one_cut(void)
{
    mmsb_reader bus;
    mmsb_reader_page pages[3];
    mmsb_reader_version versions[3], alone;
    unsigned char all[96], cell[64], plain[1000], again[1000];
    void *to[3];
    to[0] = all, to[1] = cell, to[2] = plain;
    mmsb("write t cell --as u64 1,2,3,4,5,6,7,8");
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "t"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "all", &pages[0]), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "cell", &pages[1]), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "plain", &pages[2]), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_cut(&bus, pages, 3, to, versions), MMSB_READER_OK);
    CHECK_IS(mmsb_rd_u64(cell + 24), 4);
    CHECK_IS(mmsb_reader_read(&bus, &pages[2], again, 1000, &alone), MMSB_READER_OK);
    CHECK(memcmp(plain, again, 1000) == 0 && alone.lsn == versions[2].lsn && alone.epoch == versions[2].epoch);
    CHECK_IS(mmsb_reader_read(&bus, &pages[1], again, 64, &alone), MMSB_READER_OK);
    CHECK(alone.lsn == versions[1].lsn && alone.epoch == versions[1].epoch && alone.epoch == 1);
    CHECK_IS(mmsb_reader_cut(&bus, pages, 0, NULL, NULL), MMSB_READER_OK);
    mmsb_reader_close(&bus);
    CHECK_IS(mmsb_reader_cut(&bus, pages, 3, to, versions), MMSB_READER_ARGUMENT);
}

static void a_page_that_went_is_gone_and_one_that_moved_is_followed(void)
{
    mmsb_reader bus;
    mmsb_reader_page page, other;
    mmsb_reader_version version = {0, 0};
    uint64_t entry;
    unsigned char copy[64];
    copy_pages("t", "p", 1u << 30);
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "p"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "cell", &page), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "all", &other), MMSB_READER_OK);
    entry = page.entry;
    /* Destroyed: no block, the generation stays. */
    doctor64("p", bus.directory_at + page.index * 8, entry >> 36 << 36);
    CHECK_IS(mmsb_reader_read(&bus, &page, copy, 64, &version), MMSB_READER_PAGE_GONE);
    CHECK_IS(mmsb_reader_find(&bus, "cell", &other), MMSB_READER_NO_SUCH_NAME);
    /* Another page has its number. */
    doctor64("p", bus.directory_at + page.index * 8, entry + ((uint64_t)1 << 36));
    CHECK_IS(mmsb_reader_read(&bus, &page, copy, 64, &version), MMSB_READER_PAGE_GONE);
    CHECK_IS(mmsb_reader_read_newer(&bus, &page, copy, 64, &version), MMSB_READER_PAGE_GONE);
    CHECK_IS(mmsb_reader_find_id(&bus, page.index, page.generation + 1, &other), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_read(&bus, &other, copy, 64, &version), MMSB_READER_OK);
    CHECK_IS(mmsb_rd_u64(copy), 1);
    /* It came back, with the block of a page of another size: nobody does that. */
    CHECK_IS(mmsb_reader_find(&bus, "all", &other), MMSB_READER_OK);
    doctor64("p", bus.directory_at + page.index * 8, other.entry);
    page.generation = (uint32_t)(other.entry >> 36);
    CHECK_IS(mmsb_reader_read(&bus, &page, copy, 64, &version), MMSB_READER_CORRUPT);
    doctor64("p", bus.directory_at + page.index * 8, entry);
    CHECK_IS(mmsb_reader_read(&bus, &page, copy, 64, &version), MMSB_READER_OK);
    mmsb_reader_close(&bus);
}

static void a_page_whose_writer_stopped_inside_is_busy_for_a_bounded_time(void)
{
    mmsb_reader bus;
    mmsb_reader_page page;
    mmsb_reader_version version;
    unsigned char copy[96];
    void *to = copy;
    uint64_t at, seq, begin;
    copy_pages("t", "o", 1u << 30);
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "o"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "all", &page), MMSB_READER_OK);
    at = (uint64_t)((const unsigned char *)(const void *)page.block - bus.base);
    seq = mmsb_rd_relaxed64(bus.base + at);
    doctor64("o", at, seq | 1);
    begin = mmsb_rd_clock_ns();
    CHECK_IS(mmsb_reader_read(&bus, &page, copy, 96, &version), MMSB_READER_BUSY);
    CHECK_IS(mmsb_reader_cut(&bus, &page, 1, &to, &version), MMSB_READER_BUSY);
    CHECK(page.retries > 0 && mmsb_rd_clock_ns() - begin >= 2 * bus.patience_ns);
    doctor64("o", at, seq + 2);
    CHECK_IS(mmsb_reader_read(&bus, &page, copy, 96, &version), MMSB_READER_OK);
    CHECK_IS(version.epoch, (seq >> 1) + 1);
    mmsb_reader_close(&bus);
}

static void a_removed_or_replaced_bus_is_told(void)
{
    mmsb_reader bus;
    mmsb_reader_page page;
    uint64_t value[8];
    CHECK_IS(mmsb_reader_is_there(NULL), MMSB_READER_ARGUMENT);
    mmsb("create r --size 256M --ring 64K --pages 'v::u64[8]'");
    mmsb("write r v --as u64 1,2,3,4,5,6,7,8");
    CHECK_IS(mmsb_reader_open(&bus, bus_dir, "r"), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_find(&bus, "v", &page), MMSB_READER_OK);
    CHECK_IS(mmsb_reader_is_there(&bus), MMSB_READER_OK);
    mmsb("rm r");
    CHECK_IS(mmsb_reader_is_there(&bus), MMSB_READER_GONE);
    /* What is mapped stays. */
    CHECK_IS(mmsb_reader_read(&bus, &page, value, 64, NULL), MMSB_READER_OK);
    CHECK_IS(value[7], 8);
    mmsb("create r --size 256M --ring 64K --pages 'v::u64[8]'");
    CHECK_IS(mmsb_reader_is_there(&bus), MMSB_READER_GONE);
    mmsb_reader_close(&bus);
    expect_open("r", MMSB_READER_OK);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s MMSB DIR\n", argv[0]);
        return 2;
    }
    mmsb_command = argv[1];
    bus_dir = argv[2];
    mmsb("create t --size 256M --ring 64K --pages 'all::" RECORD "' 'cell:64x4:u64[8]' plain:1000 'arr::f64[128]'");
    TEST(a_bus_that_cannot_be_read_is_refused_with_the_reason);
    TEST(a_bus_of_somebody_else_is_denied);
    TEST(geometry_that_leaves_the_object_is_refused);
    TEST(pages_are_found_by_name_and_by_id_and_listed);
    TEST(every_range_of_a_page_reads_as_it_was_written);
    TEST(fields_of_every_type_are_decoded);
    TEST(a_schema_cut_or_changed_anywhere_is_no_crash);
    TEST(metadata_is_found_by_key);
    TEST(several_pages_are_read_as_one_cut);
    TEST(a_page_that_went_is_gone_and_one_that_moved_is_followed);
    TEST(a_page_whose_writer_stopped_inside_is_busy_for_a_bounded_time);
    TEST(a_removed_or_replaced_bus_is_told);
    return report();
}
