/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * mmsb_reader.h: reads a bus of MMSB, the Memory-Mapped State Bus, without any library.
 *
 * One header for C11 and C++17 (gcc, clang), nothing to link. The bus is mapped read-only: a reader registers nowhere,
 * stores nothing, delays no writer and cannot harm one. The bytes are described in docs/layout.md; a test of mmsb-shm
 * compares every number in this file with the Rust structs.
 *
 *     mmsb_reader bus;
 *     mmsb_reader_page page;
 *     mmsb_reader_field price;
 *     double value;
 *     int e = mmsb_reader_open(&bus, NULL, "prices");                        // in $MMSB_DIR, else /dev/shm
 *     if (!e) e = mmsb_reader_find(&bus, "nyse/ibm", &page);
 *     if (!e) e = mmsb_reader_field_of(&bus, &page, "price", &price);
 *     if (!e) e = mmsb_reader_get_f64(&bus, &page, &price, &value);
 *     if (e) fprintf(stderr, "%s\n", mmsb_reader_message(e));
 *
 * Results. Every function that can fail returns an int: 0 done, negative an error, positive an outcome that is no error
 * (nothing newer, a gap, a timeout). mmsb_reader_message gives the sentence; errno is set where the kernel refused
 * (MMSB_READER_IO).
 *
 * Bounds. Nothing waits for a writer longer than mmsb_reader.patience_ns (100 ms unless you set it): a read beside a
 * writer that never pauses, or behind one that died or was stopped inside the page, then gives MMSB_READER_BUSY, and a
 * later one may go through. Any participant that comes across a dead writer repairs the page; a reader cannot. Every
 * offset, length and count found in shared memory is checked before it is used, against the length of the object as
 * fstat gives it: wrong bytes give MMSB_READER_CORRUPT. One thing no check can catch: somebody with write permission
 * who cuts the object short while it is read raises SIGBUS here.
 *
 * Threads. A mmsb_reader is not changed between open and close and may be shared; a mmsb_reader_page and a
 * mmsb_reader_follower belong to one thread at a time. None of them is used after its bus was closed. After fork all of
 * it goes on working in parent and child.
 *
 * With gcc or clang as they are, or as C++, any order of includes will do. With -std=c11 include this header first, or
 * define _DEFAULT_SOURCE: otherwise the system headers hide what is needed here.
 *
 * Names that begin with mmsb_rd_ or MMSB_RD_ are of no use to callers and may change. A line that decides whether a
 * copy is good ends in a comment `validated:`; tests replace its condition, and expect to see torn copies.
 */
#ifndef MMSB_READER_H
#define MMSB_READER_H

#if !defined(_GNU_SOURCE) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if !defined(O_NOFOLLOW) || !defined(O_CLOEXEC) || !defined(CLOCK_MONOTONIC)
#error "include mmsb_reader.h ahead of the system headers, or define _DEFAULT_SOURCE"
#endif
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || UINTPTR_MAX != 0xffffffffffffffffu
#error "mmsb_reader.h is for 64-bit little-endian machines"
#endif

#ifdef __cplusplus
#define MMSB_RD_ASSERT(condition, message) static_assert(condition, message)
#else
#include <stdatomic.h>
#define MMSB_RD_ASSERT(condition, message) _Static_assert(condition, message)
MMSB_RD_ASSERT(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit loads are atomic by themselves");
#endif

/* The slow paths stay out of line, so that a read costs a few instructions where it is used. */
#define MMSB_RD_COLD static __attribute__((noinline, cold, unused))
#define MMSB_RD_HOT static inline __attribute__((always_inline, unused))

/* ---- Results ---------------------------------------------------------------------------------------------------- */

#define MMSB_READER_OK 0
/* Outcomes. */
#define MMSB_READER_UNCHANGED 1 /* nothing newer, or a delta that does not concern this copy */
#define MMSB_READER_TIMEOUT 2   /* no delta within the timeout */
#define MMSB_READER_GAP 3       /* overtaken: gap_from and gap_to say what was missed; read the pages again */
#define MMSB_READER_STALLED 4   /* no delta within the timeout, and a writer stands inside the record at position */
#define MMSB_READER_END 5       /* no more fields or entries */
/* Errors. */
#define MMSB_READER_MISSING (-1)      /* there is no such bus */
#define MMSB_READER_DENIED (-2)       /* no permission to read it */
#define MMSB_READER_IO (-3)           /* the kernel refused something else; errno says what */
#define MMSB_READER_NOT_A_BUS (-4)    /* the object is something else: a link, a directory, other bytes */
#define MMSB_READER_VERSION (-5)      /* another layout than this header knows */
#define MMSB_READER_FEATURES (-6)     /* the layout has features that this header does not know */
#define MMSB_READER_NOT_READY (-7)    /* not ready yet: try again */
#define MMSB_READER_GONE (-8)         /* removed, or replaced by a rebuild: close, and open again by name */
#define MMSB_READER_TRUNCATED (-9)    /* the object is shorter than it says */
#define MMSB_READER_CORRUPT (-10)     /* bytes that no writer makes */
#define MMSB_READER_ARGUMENT (-11)    /* a bad argument: a closed bus, a page of another bus, a name that is none */
#define MMSB_READER_NO_SUCH_NAME (-12) /* no page has this name; no metadata has this key */
#define MMSB_READER_PAGE_GONE (-13)   /* the page was destroyed; its name may lead to another one by now */
#define MMSB_READER_BUSY (-14)        /* a writer was in the way for all of patience_ns: try again */
#define MMSB_READER_RANGE (-15)       /* outside the page, or outside the bytes given */
#define MMSB_READER_TOO_SMALL (-16)   /* the buffer is too small */
#define MMSB_READER_NO_SCHEMA (-17)   /* the page has no schema */
#define MMSB_READER_NO_FIELD (-18)    /* the schema has no such field or element */
#define MMSB_READER_TYPE (-19)        /* the field holds another type, several values, or a value that does not fit */

static inline const char *mmsb_reader_message(int code)
{
    switch (code) {
    case MMSB_READER_OK: return "done";
    case MMSB_READER_UNCHANGED: return "nothing newer";
    case MMSB_READER_TIMEOUT: return "no delta within the timeout";
    case MMSB_READER_GAP: return "overtaken by the writers: read the pages again";
    case MMSB_READER_STALLED: return "a writer stands inside the next record: it is dead, stopped or slow";
    case MMSB_READER_END: return "no more";
    case MMSB_READER_MISSING: return "no such bus (is MMSB_DIR set as for the writers?)";
    case MMSB_READER_DENIED: return "no permission to read the bus (its owner may create it with --mode)";
    case MMSB_READER_IO: return "the kernel refused; errno says why";
    case MMSB_READER_NOT_A_BUS: return "the object is not a bus";
    case MMSB_READER_VERSION: return "the bus has another layout than this reader knows";
    case MMSB_READER_FEATURES: return "the bus has features that this reader does not know";
    case MMSB_READER_NOT_READY: return "the bus is not ready yet";
    case MMSB_READER_GONE: return "the bus was removed or replaced: open it again";
    case MMSB_READER_TRUNCATED: return "the object of the bus is shorter than its header says";
    case MMSB_READER_CORRUPT: return "the bus holds bytes that no writer makes";
    case MMSB_READER_ARGUMENT: return "bad argument";
    case MMSB_READER_NO_SUCH_NAME: return "no such name";
    case MMSB_READER_PAGE_GONE: return "the page was destroyed";
    case MMSB_READER_BUSY: return "a writer was in the way for too long: try again";
    case MMSB_READER_RANGE: return "outside the page";
    case MMSB_READER_TOO_SMALL: return "the buffer is too small";
    case MMSB_READER_NO_SCHEMA: return "the page has no schema";
    case MMSB_READER_NO_FIELD: return "the schema has no such field";
    case MMSB_READER_TYPE: return "the field does not hold one value of this type";
    default: return "unknown result";
    }
}

/* ---- The layout: docs/layout.md in C, compared with the Rust structs by mmsb-shm/tests/reader_header.rs ---------- */

#define MMSB_READER_PAGES_MAGIC 0x4547415042534d4du
#define MMSB_READER_LAYOUT_MAJOR 1u
#define MMSB_READER_LAYOUT_MINOR 2u
#define MMSB_READER_LAYOUT_HASH 0x26732604073a00ecu
#define MMSB_READER_STATE_READY 0x52454459u
#define MMSB_READER_STATE_ABANDONED 0x474f4e45u
#define MMSB_READER_SLAB_BYTES 0x200000u
#define MMSB_READER_BLOCK_UNIT 32u
#define MMSB_READER_REF_BITS 36u
#define MMSB_READER_BYTES_MAX 0x20000000000u
#define MMSB_READER_PAGE_BYTES_MAX 0x40000000u
#define MMSB_READER_VERSIONS_MAX 64u
#define MMSB_READER_SHAPE_LOANED 0x10000u
#define MMSB_READER_BUS_NAME_MAX 100u
#define MMSB_READER_NAME_BYTES_MAX 255u
#define MMSB_READER_COLD_BYTES_MAX 65536u
#define MMSB_READER_SOURCE_NAME_BYTES 48u
#define MMSB_READER_RING_SLOTS_MIN 64u
#define MMSB_READER_RING_SLOTS_MAX 0x1000000u
#define MMSB_READER_RECORD_SLOTS_MAX 8191u
#define MMSB_READER_SLOT_BYTES 64u
#define MMSB_READER_RECORD_HEADER 32u
#define MMSB_READER_FIRST_BYTES 32u
#define MMSB_READER_CONTINUATION_BYTES 56u
#define MMSB_READER_SLOT_CLAIMED 1u
#define MMSB_READER_SLOT_READY 2u
#define MMSB_READER_SLOT_PADDING 3u
#define MMSB_READER_FLAG_CAUSE 1u
#define MMSB_READER_FLAG_BLOCK 2u
#define MMSB_READER_FLAG_TRANSACTION 4u
#define MMSB_READER_FLAG_ALL 7u
#define MMSB_READER_TIME_SHIFT 20u
#define MMSB_READER_SCHEMA_MAGIC 0x4843534du
#define MMSB_READER_SCHEMA_VERSION 1u
#define MMSB_READER_SCHEMA_FIELDS_MAX 4096u

/* Kinds of deltas. */
#define MMSB_READER_KIND_PATCH 1u    /* bytes for `offset` */
#define MMSB_READER_KIND_RANGES 2u   /* several ranges */
#define MMSB_READER_KIND_MASKED 3u   /* single bytes of a range */
#define MMSB_READER_KIND_SWAP 4u     /* the whole page, published as another block */
#define MMSB_READER_KIND_CREATE 5u   /* a page came into being */
#define MMSB_READER_KIND_DESTROY 6u  /* a page went */
#define MMSB_READER_KIND_DESCRIBE 7u /* its name, schema or metadata changed */
#define MMSB_READER_KIND_SOURCE 8u   /* a source got its number */
#define MMSB_READER_KIND_MARK 9u     /* a mark of a user */

/* Element types of fields. */
#define MMSB_READER_TYPE_U8 1u
#define MMSB_READER_TYPE_I8 2u
#define MMSB_READER_TYPE_U16 3u
#define MMSB_READER_TYPE_I16 4u
#define MMSB_READER_TYPE_U32 5u
#define MMSB_READER_TYPE_I32 6u
#define MMSB_READER_TYPE_U64 7u
#define MMSB_READER_TYPE_I64 8u
#define MMSB_READER_TYPE_F32 9u
#define MMSB_READER_TYPE_F64 10u
#define MMSB_READER_TYPE_BOOL 11u
#define MMSB_READER_TYPE_CHAR 12u

struct mmsb_rd_PagesHeader {
    uint64_t magic;
    uint32_t layout_major, layout_minor;
    uint64_t features, layout_hash;
    uint32_t state, reserved0;
    uint64_t bus_id[2];
    uint64_t incarnation, created_ns, len_max;
    uint32_t pages_max, names_slots, sources_max, ring_slots;
    uint64_t directory_at, names_at, sources_at, slabs_at, ring_at, arena_at;
    uint32_t slabs_max, reserved1[25];
    uint64_t name[32], reserved2[65];
    uint64_t len;
    uint64_t reserved3[15];
    uint64_t published, reserved4[15];
    uint64_t tail_hint, reserved5[15];
    uint64_t overwrite_floor, claim_limit, reserved6[14];
    uint32_t doorbell, reserved7[31];
    uint64_t counters[32], reserved8[16];
    uint64_t durable_lsn;
    uint64_t reserved9[255];
};
struct mmsb_rd_BlockHeader {
    uint64_t seq, lsn, state;
    uint32_t size, shape;
};
struct mmsb_rd_CellHeader {
    uint64_t head, reserved[3];
};
struct mmsb_rd_VersionHeader {
    uint64_t lsn, epoch;
};
struct mmsb_rd_ColdHeader {
    uint32_t index, generation;
    uint64_t schema_hash;
    uint32_t name_len, schema_len, meta_len, reserved;
};
struct mmsb_rd_SourceEntry {
    uint32_t len, reserved;
    uint64_t since_ns, name[6];
};
struct mmsb_rd_Slot {
    uint64_t stamp, body[7];
};

#define MMSB_READER_FIELD(type, field, offset, bytes)                                                                  \
    MMSB_RD_ASSERT(offsetof(struct mmsb_rd_##type, field) == (offset) &&                                               \
                       sizeof(((struct mmsb_rd_##type *)0)->field) == (bytes), #type "." #field)
#define MMSB_READER_SIZE(type, bytes) MMSB_RD_ASSERT(sizeof(struct mmsb_rd_##type) == (bytes), #type)

MMSB_READER_FIELD(PagesHeader, magic, 0, 8);
MMSB_READER_FIELD(PagesHeader, layout_major, 8, 4);
MMSB_READER_FIELD(PagesHeader, layout_minor, 12, 4);
MMSB_READER_FIELD(PagesHeader, features, 16, 8);
MMSB_READER_FIELD(PagesHeader, layout_hash, 24, 8);
MMSB_READER_FIELD(PagesHeader, state, 32, 4);
MMSB_READER_FIELD(PagesHeader, bus_id, 40, 16);
MMSB_READER_FIELD(PagesHeader, incarnation, 56, 8);
MMSB_READER_FIELD(PagesHeader, created_ns, 64, 8);
MMSB_READER_FIELD(PagesHeader, len_max, 72, 8);
MMSB_READER_FIELD(PagesHeader, pages_max, 80, 4);
MMSB_READER_FIELD(PagesHeader, names_slots, 84, 4);
MMSB_READER_FIELD(PagesHeader, sources_max, 88, 4);
MMSB_READER_FIELD(PagesHeader, ring_slots, 92, 4);
MMSB_READER_FIELD(PagesHeader, directory_at, 96, 8);
MMSB_READER_FIELD(PagesHeader, names_at, 104, 8);
MMSB_READER_FIELD(PagesHeader, sources_at, 112, 8);
MMSB_READER_FIELD(PagesHeader, slabs_at, 120, 8);
MMSB_READER_FIELD(PagesHeader, ring_at, 128, 8);
MMSB_READER_FIELD(PagesHeader, arena_at, 136, 8);
MMSB_READER_FIELD(PagesHeader, slabs_max, 144, 4);
MMSB_READER_FIELD(PagesHeader, len, 1024, 8);
MMSB_READER_FIELD(PagesHeader, published, 1152, 8);
MMSB_READER_FIELD(PagesHeader, overwrite_floor, 1408, 8);
MMSB_READER_FIELD(PagesHeader, durable_lsn, 2048, 8);
MMSB_READER_SIZE(PagesHeader, 4096);
MMSB_READER_FIELD(BlockHeader, seq, 0, 8);
MMSB_READER_FIELD(BlockHeader, lsn, 8, 8);
MMSB_READER_FIELD(BlockHeader, state, 16, 8);
MMSB_READER_FIELD(BlockHeader, size, 24, 4);
MMSB_READER_FIELD(BlockHeader, shape, 28, 4);
MMSB_READER_SIZE(BlockHeader, 32);
MMSB_READER_FIELD(CellHeader, head, 0, 8);
MMSB_READER_SIZE(CellHeader, 32);
MMSB_READER_FIELD(VersionHeader, lsn, 0, 8);
MMSB_READER_FIELD(VersionHeader, epoch, 8, 8);
MMSB_READER_SIZE(VersionHeader, 16);
MMSB_READER_FIELD(ColdHeader, index, 0, 4);
MMSB_READER_FIELD(ColdHeader, generation, 4, 4);
MMSB_READER_FIELD(ColdHeader, schema_hash, 8, 8);
MMSB_READER_FIELD(ColdHeader, name_len, 16, 4);
MMSB_READER_FIELD(ColdHeader, schema_len, 20, 4);
MMSB_READER_FIELD(ColdHeader, meta_len, 24, 4);
MMSB_READER_SIZE(ColdHeader, 32);
MMSB_READER_FIELD(SourceEntry, len, 0, 4);
MMSB_READER_FIELD(SourceEntry, since_ns, 8, 8);
MMSB_READER_FIELD(SourceEntry, name, 16, 48);
MMSB_READER_SIZE(SourceEntry, 64);
MMSB_READER_FIELD(Slot, stamp, 0, 8);
MMSB_READER_FIELD(Slot, body, 8, 56);
MMSB_READER_SIZE(Slot, 64);

/* ---- Loads and copies ------------------------------------------------------------------------------------------- */

/* Everything shared is read by the functions of this section. The pointers lead into a read-only mapping, are aligned
 * and inside the object: whoever makes them has checked that. */

MMSB_RD_HOT uint64_t mmsb_rd_acquire64(const void *at)
{
#ifdef __cplusplus
    return __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE);
#else
    return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_acquire);
#endif
}

MMSB_RD_HOT uint64_t mmsb_rd_relaxed64(const void *at)
{
#ifdef __cplusplus
    return __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED);
#else
    return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_relaxed);
#endif
}

MMSB_RD_HOT uint32_t mmsb_rd_acquire32(const void *at)
{
#ifdef __cplusplus
    return __atomic_load_n((const uint32_t *)at, __ATOMIC_ACQUIRE);
#else
    return atomic_load_explicit((const _Atomic uint32_t *)at, memory_order_acquire);
#endif
}

/* Whatever was loaded ahead of it was loaded before whatever is loaded behind it. */
MMSB_RD_HOT void mmsb_rd_fence(void)
{
#ifdef __cplusplus
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#else
    atomic_thread_fence(memory_order_acquire);
#endif
}

MMSB_RD_HOT void mmsb_rd_relax(void)
{
#if defined(__x86_64__)
    __asm__ __volatile__("pause");
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* The sanitizers know nothing of what assembly does to memory: under them every copy goes by words. */
#if defined(__x86_64__) && !defined(MMSB_READER_BY_WORDS) && !defined(__SANITIZE_ADDRESS__) &&                         \
    !defined(__SANITIZE_THREAD__)
#define MMSB_RD_VECTORS 1
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#undef MMSB_RD_VECTORS
#endif
#endif
#endif

#ifdef MMSB_RD_VECTORS
/* 64 bytes by four vectors. A copy may race with a writer, and a plain or intrinsic load would then be undefined: the
 * compiler may read twice, or not at all. Of assembly it can assume nothing, and the machine says what happens: some
 * mix of old and new bytes, in pieces of at least 8, never ahead of an earlier load. The checks that follow reject
 * mixes. */
MMSB_RD_HOT void mmsb_rd_copy64(unsigned char *to, const unsigned char *from)
{
    __asm__ __volatile__("movups (%1), %%xmm0\n\t"
                         "movups 16(%1), %%xmm1\n\t"
                         "movups 32(%1), %%xmm2\n\t"
                         "movups 48(%1), %%xmm3\n\t"
                         "movups %%xmm0, (%0)\n\t"
                         "movups %%xmm1, 16(%0)\n\t"
                         "movups %%xmm2, 32(%0)\n\t"
                         "movups %%xmm3, 48(%0)"
                         :
                         : "r"(to), "r"(from)
                         : "xmm0", "xmm1", "xmm2", "xmm3", "memory");
}
#endif

/* Copies from shared memory by relaxed 8-byte loads. Reads no word but those that hold one of the bytes. */
MMSB_RD_HOT void mmsb_rd_copy_words(unsigned char *to, const unsigned char *from, size_t bytes)
{
    const size_t skip = (uintptr_t)from & 7u;
    uint64_t word;
    if (skip != 0 && bytes != 0) {
        const size_t part = 8 - skip < bytes ? 8 - skip : bytes;
        word = mmsb_rd_relaxed64(from - skip) >> (8 * skip);
        memcpy(to, &word, part);
        to += part;
        from += part;
        bytes -= part;
    }
    for (; bytes >= 8; to += 8, from += 8, bytes -= 8) {
        word = mmsb_rd_relaxed64(from);
        memcpy(to, &word, 8);
    }
    if (bytes != 0) {
        word = mmsb_rd_relaxed64(from);
        memcpy(to, &word, bytes);
    }
}

/* Copies from shared memory. What it gets from beside a writer may be torn; the caller's check tells. */
MMSB_RD_HOT void mmsb_rd_copy(void *to, const unsigned char *from, size_t bytes)
{
    unsigned char *out = (unsigned char *)to;
#ifdef MMSB_RD_VECTORS
    if (bytes >= 64) {
        size_t at = 0;
        for (; bytes - at >= 64; at += 64) mmsb_rd_copy64(out + at, from + at);
        /* The rest by a vector that overlaps what is there already. */
        if (at < bytes) mmsb_rd_copy64(out + bytes - 64, from + bytes - 64);
        return;
    }
#endif
    mmsb_rd_copy_words(out, from, bytes);
}

static inline uint64_t mmsb_rd_clock_ns(void)
{
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void mmsb_rd_sleep_ns(uint64_t ns)
{
    struct timespec nap;
    nap.tv_sec = (time_t)(ns / 1000000000u);
    nap.tv_nsec = (long)(ns % 1000000000u);
    nanosleep(&nap, NULL);
}

static inline uint32_t mmsb_rd_u32(const void *at)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static inline uint64_t mmsb_rd_u64(const void *at)
{
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

/* ---- The bus ---------------------------------------------------------------------------------------------------- */

/* An open bus. Read what you like, change patience_ns only. */
typedef struct mmsb_reader {
    const unsigned char *base; /* NULL: not open */
    uint64_t patience_ns;      /* longest wait for a writer in the way */
    uint64_t len_max;          /* bytes mapped; those past the object's length must not be touched */
    uint64_t directory_at, names_at, sources_at, ring_at, arena_at;
    uint32_t pages_max, names_slots, sources_max, ring_slots;
    uint32_t layout_minor;
    uint32_t ring_shift;   /* log2 of ring_slots */
    uint64_t created_ns;   /* CLOCK_REALTIME */
    uint64_t incarnation;  /* LSNs compare within one; +1 at each rebuild from a log */
    uint64_t bus_id[2];    /* random: tells a bus from a later one of the same name */
    int fd;
    char path[1024];
} mmsb_reader;

/* Which state of a page a read saw. */
typedef struct mmsb_reader_version {
    uint64_t epoch; /* deltas applied to the page since it was created */
    uint64_t lsn;   /* the last of them; 0: none known */
} mmsb_reader_version;

/* A page that was found. Small, copied at will; cheap to read from, as it remembers where the block is. */
typedef struct mmsb_reader_page {
    uint32_t index, generation; /* the id */
    uint32_t size;              /* bytes */
    uint32_t versions;          /* 1, or the version slots of a cell */
    uint64_t retries;           /* attempts that met a writer, since the page was found; of a cut: its first page's */
    /* Private: where it was last, checked against the directory by each read. */
    const unsigned char *base, *word;
    const struct mmsb_rd_BlockHeader *block;
    uint64_t entry, len, begin, head;
} mmsb_reader_page;

static inline const struct mmsb_rd_PagesHeader *mmsb_rd_header(const mmsb_reader *bus)
{
    return (const struct mmsb_rd_PagesHeader *)(const void *)bus->base;
}

MMSB_RD_COLD int mmsb_rd_errno(int error)
{
    if (error == ENOENT || error == ENOTDIR) return MMSB_READER_MISSING;
    if (error == EACCES || error == EPERM) return MMSB_READER_DENIED;
    if (error == ELOOP || error == ENXIO || error == EISDIR) return MMSB_READER_NOT_A_BUS;
    return MMSB_READER_IO;
}

/* Bytes of the object that may be touched now: what the header says, at most what is there. */
MMSB_RD_COLD int mmsb_rd_length(const mmsb_reader *bus, uint64_t *len)
{
    struct stat st;
    uint64_t said = mmsb_rd_acquire64(&mmsb_rd_header(bus)->len);
    *len = 0;
    if (fstat(bus->fd, &st) != 0) return MMSB_READER_IO;
    if (said > bus->len_max) said = bus->len_max;
    *len = (uint64_t)st.st_size < said ? (uint64_t)st.st_size : said;
    return *len < said ? MMSB_READER_TRUNCATED : MMSB_READER_OK;
}

/* Whether `bytes` bytes at `at` lie in page memory. `known` remembers a length of the object; both sums stay below
 * 2^43. */
static inline int mmsb_rd_room(const mmsb_reader *bus, uint64_t *known, uint64_t at, uint64_t bytes)
{
    int truncated = MMSB_READER_OK;
    if (at < bus->arena_at) return MMSB_READER_CORRUPT;
    if (at + bytes > *known) {
        uint64_t len;
        truncated = mmsb_rd_length(bus, &len);
        if (len > *known) *known = len;
    }
    if (at + bytes <= *known) return MMSB_READER_OK;
    return truncated != MMSB_READER_OK ? truncated : MMSB_READER_CORRUPT;
}

/* Checks the header at `h` against an object of `len` bytes and takes the geometry over into private memory. */
MMSB_RD_COLD int mmsb_rd_geometry(mmsb_reader *bus, const struct mmsb_rd_PagesHeader *h, uint64_t len)
{
    uint64_t end = sizeof *h, at[5], bytes[5], slabs_max, said;
    uint32_t state;
    int i;
    if (mmsb_rd_acquire64(&h->magic) != MMSB_READER_PAGES_MAGIC) return MMSB_READER_NOT_A_BUS;
    bus->layout_minor = mmsb_rd_acquire32(&h->layout_minor);
    if (mmsb_rd_acquire32(&h->layout_major) != MMSB_READER_LAYOUT_MAJOR) return MMSB_READER_VERSION;
    if (mmsb_rd_acquire64(&h->features) != 0) return MMSB_READER_FEATURES;
    /* The hash covers structs that a greater minor may extend: it says something about this minor only. */
    if (bus->layout_minor < MMSB_READER_LAYOUT_MINOR) return MMSB_READER_VERSION;
    if (bus->layout_minor == MMSB_READER_LAYOUT_MINOR &&
        mmsb_rd_acquire64(&h->layout_hash) != MMSB_READER_LAYOUT_HASH)
        return MMSB_READER_VERSION;
    /* Acquire: stored last by the creator, so everything below is there. */
    state = mmsb_rd_acquire32(&h->state);
    if (state == 0) return MMSB_READER_NOT_READY;
    if (state == MMSB_READER_STATE_ABANDONED) return MMSB_READER_GONE;
    if (state != MMSB_READER_STATE_READY) return MMSB_READER_CORRUPT;

    bus->bus_id[0] = mmsb_rd_relaxed64(&h->bus_id[0]);
    bus->bus_id[1] = mmsb_rd_relaxed64(&h->bus_id[1]);
    bus->incarnation = mmsb_rd_relaxed64(&h->incarnation);
    bus->created_ns = mmsb_rd_relaxed64(&h->created_ns);
    bus->len_max = mmsb_rd_relaxed64(&h->len_max);
    bus->pages_max = mmsb_rd_acquire32(&h->pages_max);
    bus->names_slots = mmsb_rd_acquire32(&h->names_slots);
    bus->sources_max = mmsb_rd_acquire32(&h->sources_max);
    bus->ring_slots = mmsb_rd_acquire32(&h->ring_slots);
    slabs_max = mmsb_rd_acquire32(&h->slabs_max);
    bus->directory_at = at[0] = mmsb_rd_relaxed64(&h->directory_at);
    bus->names_at = at[1] = mmsb_rd_relaxed64(&h->names_at);
    bus->sources_at = at[2] = mmsb_rd_relaxed64(&h->sources_at);
    at[3] = mmsb_rd_relaxed64(&h->slabs_at);
    bus->ring_at = at[4] = mmsb_rd_relaxed64(&h->ring_at);
    bus->arena_at = mmsb_rd_relaxed64(&h->arena_at);
    said = mmsb_rd_acquire64(&h->len);

    if (bus->len_max > MMSB_READER_BYTES_MAX || bus->len_max % MMSB_READER_SLAB_BYTES != 0 ||
        bus->arena_at % MMSB_READER_SLAB_BYTES != 0 || bus->arena_at > bus->len_max)
        return MMSB_READER_CORRUPT;
    if (bus->arena_at > len || said > len) return MMSB_READER_TRUNCATED;
    if (said < bus->arena_at) return MMSB_READER_CORRUPT;
    if (bus->ring_slots < MMSB_READER_RING_SLOTS_MIN || bus->ring_slots > MMSB_READER_RING_SLOTS_MAX ||
        (bus->ring_slots & (bus->ring_slots - 1)) != 0 || bus->names_slots == 0 ||
        (bus->names_slots & (bus->names_slots - 1)) != 0 || bus->pages_max == 0 || bus->sources_max == 0 ||
        slabs_max * MMSB_READER_SLAB_BYTES < bus->len_max)
        return MMSB_READER_CORRUPT;
    bytes[0] = (uint64_t)bus->pages_max * 8;
    bytes[1] = (uint64_t)bus->names_slots * 8;
    bytes[2] = (uint64_t)bus->sources_max * sizeof(struct mmsb_rd_SourceEntry);
    bytes[3] = slabs_max * 8;
    bytes[4] = (uint64_t)bus->ring_slots * MMSB_READER_SLOT_BYTES;
    for (i = 0; i < 5; i++) {
        if (at[i] % 64 != 0 || at[i] < end || at[i] > bus->arena_at || bytes[i] > bus->arena_at - at[i])
            return MMSB_READER_CORRUPT;
        end = at[i] + bytes[i];
    }
    for (bus->ring_shift = 0; (1u << bus->ring_shift) < bus->ring_slots; bus->ring_shift++) {}
    return MMSB_READER_OK;
}

MMSB_RD_COLD int mmsb_rd_map(mmsb_reader *bus)
{
    struct stat st;
    void *map;
    int result;
    if (fstat(bus->fd, &st) != 0) return MMSB_READER_IO;
    if (!S_ISREG(st.st_mode)) return MMSB_READER_NOT_A_BUS;
    if ((uint64_t)st.st_size < sizeof(struct mmsb_rd_PagesHeader)) return MMSB_READER_TRUNCATED;
    map = mmap(NULL, sizeof(struct mmsb_rd_PagesHeader), PROT_READ, MAP_SHARED, bus->fd, 0);
    if (map == MAP_FAILED) return MMSB_READER_IO;
    /* Asked again by the length: the bus may have grown since, and the object does so ahead of its header. */
    result = fstat(bus->fd, &st) != 0
                 ? MMSB_READER_IO
                 : mmsb_rd_geometry(bus, (const struct mmsb_rd_PagesHeader *)map, (uint64_t)st.st_size);
    munmap(map, sizeof(struct mmsb_rd_PagesHeader));
    if (result != MMSB_READER_OK) return result;
    /* All that the bus may ever have, so that addresses stay while it grows: address space only. */
    map = mmap(NULL, (size_t)bus->len_max, PROT_READ, MAP_SHARED, bus->fd, 0);
    if (map == MAP_FAILED) return MMSB_READER_IO;
    bus->base = (const unsigned char *)map;
    return MMSB_READER_OK;
}

/* Opens the bus `name` in the directory `dir`, best an absolute one; NULL: $MMSB_DIR, else /dev/shm. Errors: MISSING,
 * DENIED, NOT_A_BUS, VERSION, FEATURES, NOT_READY, GONE, TRUNCATED, CORRUPT, ARGUMENT for what can be no bus name, IO. */
static inline int mmsb_reader_open(mmsb_reader *bus, const char *dir, const char *name)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    size_t name_len;
    int written, result;
    if (bus == NULL || name == NULL) return MMSB_READER_ARGUMENT;
    memset(bus, 0, sizeof *bus);
    bus->fd = -1;
    bus->patience_ns = 100000000u;
    name_len = strlen(name);
    if (name_len == 0 || name_len > MMSB_READER_BUS_NAME_MAX || name[0] == '.' || strspn(name, letters) != name_len)
        return MMSB_READER_ARGUMENT;
    if (dir == NULL) dir = getenv("MMSB_DIR");
    if (dir == NULL || dir[0] == 0) dir = "/dev/shm";
    written = snprintf(bus->path, sizeof bus->path, "%s/mmsb.%s.pages", dir, name);
    if (written < 0 || (size_t)written >= sizeof bus->path) return MMSB_READER_ARGUMENT;
    /* Without waiting: a FIFO of that name would keep us here for ever. */
    do {
        bus->fd = open(bus->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    } while (bus->fd < 0 && errno == EINTR);
    if (bus->fd < 0) return mmsb_rd_errno(errno);
    result = mmsb_rd_map(bus);
    if (result != MMSB_READER_OK) {
        const int error = errno;
        close(bus->fd);
        bus->fd = -1;
        errno = error;
    }
    return result;
}

/* Unmaps the bus. Pages and followers of it are refused from here on. Twice is harmless. */
static inline void mmsb_reader_close(mmsb_reader *bus)
{
    if (bus == NULL || bus->base == NULL) return;
    munmap((void *)(uintptr_t)bus->base, (size_t)bus->len_max);
    close(bus->fd);
    bus->base = NULL;
    bus->fd = -1;
}

/* Whether the name still leads to the bus that is open here. GONE: removed, or replaced by another one; what is mapped
 * stays readable and does not change any more. A few microseconds: ask now and then, not with each read. */
static inline int mmsb_reader_is_there(const mmsb_reader *bus)
{
    struct stat here, named;
    if (bus == NULL || bus->base == NULL) return MMSB_READER_ARGUMENT;
    if (mmsb_rd_acquire32(&mmsb_rd_header(bus)->state) != MMSB_READER_STATE_READY) return MMSB_READER_GONE;
    if (fstat(bus->fd, &here) != 0) return MMSB_READER_IO;
    if (lstat(bus->path, &named) != 0) return errno == ENOENT ? MMSB_READER_GONE : MMSB_READER_IO;
    return here.st_dev == named.st_dev && here.st_ino == named.st_ino ? MMSB_READER_OK : MMSB_READER_GONE;
}

/* A writer is in the way: one step of waiting for it. */
typedef struct mmsb_rd_patience {
    uint64_t work, began_ns;
} mmsb_rd_patience;

/* `stuck`: a writer was met inside, so a thread that is not running may be what is waited for. `bytes`: what the attempt
 * copied; the clock is looked at after 64 small ones, and after each large one. */
MMSB_RD_COLD int mmsb_rd_wait(const mmsb_reader *bus, mmsb_rd_patience *p, int stuck, uint64_t bytes)
{
    uint64_t now;
    p->work += 1 + bytes / 4096;
    if (p->work < 64) {
        mmsb_rd_relax();
        return MMSB_READER_OK;
    }
    p->work = 0;
    now = mmsb_rd_clock_ns();
    if (p->began_ns == 0) p->began_ns = now;
    if (now - p->began_ns >= bus->patience_ns) return MMSB_READER_BUSY;
    if (stuck && now - p->began_ns > 200000u) mmsb_rd_sleep_ns(50000u);
    return MMSB_READER_OK;
}

/* ---- Pages ------------------------------------------------------------------------------------------------------ */

static inline uint64_t mmsb_rd_stride(uint32_t size)
{
    return ((uint64_t)size + sizeof(struct mmsb_rd_VersionHeader) + 63) & ~(uint64_t)63;
}

/* Brings `page` up to its directory entry, with every bound checked. */
MMSB_RD_COLD int mmsb_rd_resolve(const mmsb_reader *bus, mmsb_reader_page *page)
{
    mmsb_rd_patience patience = {0, 0};
    int result;
    do {
        const uint64_t entry = mmsb_rd_acquire64(page->word);
        const uint64_t at = (entry & (((uint64_t)1 << MMSB_READER_REF_BITS) - 1)) * MMSB_READER_BLOCK_UNIT;
        const struct mmsb_rd_BlockHeader *block;
        uint64_t word, need;
        uint32_t size, versions;
        if (entry >> MMSB_READER_REF_BITS != page->generation || at == 0) return MMSB_READER_PAGE_GONE;
        result = mmsb_rd_room(bus, &page->len, at, sizeof *block);
        if (result != MMSB_READER_OK) return result;
        block = (const struct mmsb_rd_BlockHeader *)(const void *)(bus->base + at);
        word = mmsb_rd_relaxed64(&block->size);
        mmsb_rd_fence();
        /* The block may have left the page meanwhile: then these are another page's. */
        if (mmsb_rd_acquire64(page->word) != entry) continue;
        size = (uint32_t)word;
        versions = (uint32_t)(word >> 40) & 0xffu;
        if (versions == 0) versions = 1;
        /* A page keeps its size: ranges were checked against the one that is known. */
        if (size == 0 || size > MMSB_READER_PAGE_BYTES_MAX || versions == 2 || versions == 3 ||
            versions > MMSB_READER_VERSIONS_MAX ||
            (page->size != 0 && (page->size != size || page->versions != versions)))
            return MMSB_READER_CORRUPT;
        need = versions == 1 ? size : sizeof(struct mmsb_rd_CellHeader) + versions * mmsb_rd_stride(size);
        /* Whole words: copies load them. Blocks are multiples of 32 bytes. */
        need = (need + 7) & ~(uint64_t)7;
        result = mmsb_rd_room(bus, &page->len, at, sizeof *block + need);
        if (result != MMSB_READER_OK) return result;
        page->entry = entry;
        page->block = block;
        page->size = size;
        page->versions = versions;
        return MMSB_READER_OK;
    } while (mmsb_rd_wait(bus, &patience, 0, 0) == MMSB_READER_OK);
    return MMSB_READER_BUSY;
}

/* The page with this id; generation 0: whichever has this index now. Errors: PAGE_GONE. */
static inline int mmsb_reader_find_id(const mmsb_reader *bus, uint32_t index, uint32_t generation,
                                      mmsb_reader_page *page)
{
    if (page == NULL) return MMSB_READER_ARGUMENT;
    memset(page, 0, sizeof *page);
    if (bus == NULL || bus->base == NULL) return MMSB_READER_ARGUMENT;
    if (index >= bus->pages_max) return MMSB_READER_PAGE_GONE;
    page->index = index;
    page->base = bus->base;
    page->word = bus->base + bus->directory_at + (uint64_t)index * 8;
    page->generation = generation;
    if (generation == 0) page->generation = (uint32_t)(mmsb_rd_acquire64(page->word) >> MMSB_READER_REF_BITS);
    return mmsb_rd_resolve(bus, page);
}

#define MMSB_RD_DONE 0
#define MMSB_RD_MOVED 1   /* the page has another block than the handle knows */
#define MMSB_RD_INSIDE 2  /* a writer is inside */
#define MMSB_RD_CHANGED 3 /* the page changed during the copy */

/* Whether a copy out of a page in place, a loaned block or a page of a cut is good. The entry ahead of the sequence
 * word: a block that was filled again may come back to its page under the same entry, and whoever sees that entry then
 * sees the sequence word that goes with it. */
MMSB_RD_HOT int mmsb_rd_same_seq(const mmsb_reader_page *page, uint64_t entry, uint64_t seq)
{
    int good;
    mmsb_rd_fence();
    good = mmsb_rd_acquire64(page->word) == entry && mmsb_rd_relaxed64(&page->block->seq) == seq; /* validated: seq */
    return good;
}

/* Whether a copy of version `head` of a cell is good: the writer has not begun to fill that version slot again. */
MMSB_RD_HOT int mmsb_rd_same_version(const mmsb_reader_page *page, uint64_t entry, const void *head_at, uint64_t head)
{
    const uint64_t most = page->versions - 2;
    int good;
    mmsb_rd_fence();
    good = mmsb_rd_acquire64(page->word) == entry && mmsb_rd_relaxed64(head_at) - head <= most; /* validated: cell */
    return good;
}

MMSB_RD_HOT const unsigned char *mmsb_rd_payload(const mmsb_reader_page *page)
{
    return (const unsigned char *)(const void *)page->block + sizeof(struct mmsb_rd_BlockHeader);
}

MMSB_RD_HOT const struct mmsb_rd_VersionHeader *mmsb_rd_version_at(const mmsb_reader_page *page, uint64_t head)
{
    const unsigned char *slots = mmsb_rd_payload(page) + sizeof(struct mmsb_rd_CellHeader);
    const uint64_t at = head % page->versions * mmsb_rd_stride(page->size);
    return (const struct mmsb_rd_VersionHeader *)(const void *)(slots + at);
}

/* One attempt to copy a range that lies in the page, through the block that the handle knows. */
MMSB_RD_HOT int mmsb_rd_attempt(const mmsb_reader_page *page, size_t offset, void *to, size_t bytes,
                                mmsb_reader_version *version)
{
    const uint64_t entry = page->entry;
    mmsb_reader_version seen;
    if (mmsb_rd_acquire64(page->word) != entry) return MMSB_RD_MOVED;
    if (page->versions == 1) {
        const uint64_t seq = mmsb_rd_acquire64(&page->block->seq);
        if (seq & 1) return MMSB_RD_INSIDE;
        mmsb_rd_copy(to, mmsb_rd_payload(page) + offset, bytes);
        seen.epoch = seq >> 1;
        seen.lsn = mmsb_rd_relaxed64(&page->block->lsn);
        if (!mmsb_rd_same_seq(page, entry, seq)) return MMSB_RD_CHANGED;
    } else {
        const unsigned char *head_at = mmsb_rd_payload(page);
        const uint64_t head = mmsb_rd_acquire64(head_at);
        const struct mmsb_rd_VersionHeader *v = mmsb_rd_version_at(page, head);
        mmsb_rd_copy(to, (const unsigned char *)(const void *)(v + 1) + offset, bytes);
        seen.epoch = mmsb_rd_relaxed64(&v->epoch);
        seen.lsn = mmsb_rd_relaxed64(&v->lsn);
        if (!mmsb_rd_same_version(page, entry, head_at, head)) return MMSB_RD_CHANGED;
    }
    if (version != NULL) *version = seen;
    return MMSB_RD_DONE;
}

MMSB_RD_COLD int mmsb_rd_read_slow(const mmsb_reader *bus, mmsb_reader_page *page, size_t offset, void *to,
                                   size_t bytes, mmsb_reader_version *version)
{
    mmsb_rd_patience patience = {0, 0};
    if (bus->base == NULL || page->base != bus->base || page->block == NULL) return MMSB_READER_ARGUMENT;
    if (bytes > page->size || offset > page->size - bytes) return MMSB_READER_RANGE;
    for (;;) {
        const int seen = mmsb_rd_attempt(page, offset, to, bytes, version);
        int result = MMSB_READER_OK;
        if (seen == MMSB_RD_DONE) return MMSB_READER_OK;
        if (seen == MMSB_RD_MOVED) {
            result = mmsb_rd_resolve(bus, page);
            if (result != MMSB_READER_OK) return result;
        } else {
            page->retries++;
        }
        if (seen == MMSB_RD_INSIDE) {
            /* The best moment to read is right behind the writer's last store. */
            int i;
            for (i = 0; i < 200 && (mmsb_rd_acquire64(&page->block->seq) & 1); i++) mmsb_rd_relax();
        }
        result = mmsb_rd_wait(bus, &patience, seen == MMSB_RD_INSIDE, bytes);
        if (result != MMSB_READER_OK) return result;
    }
}

/* Copies `bytes` bytes from `offset` of the page: one state of it, never a mix. `version` says which, if not NULL. On
 * an error `to` may hold anything. Errors: RANGE, PAGE_GONE, BUSY, CORRUPT, TRUNCATED. */
MMSB_RD_HOT int mmsb_reader_read_at(const mmsb_reader *bus, mmsb_reader_page *page, size_t offset, void *to,
                                    size_t bytes, mmsb_reader_version *version)
{
    /* What nearly every read is. A closed bus has no base, a page that was not found no size; 0 bytes are a rarity. */
    if (__builtin_expect(page->base == bus->base && bytes - 1 < page->size && offset <= page->size - bytes, 1)) {
        const int seen = mmsb_rd_attempt(page, offset, to, bytes, version);
        if (__builtin_expect(seen == MMSB_RD_DONE, 1)) return MMSB_READER_OK;
        page->retries += seen != MMSB_RD_MOVED;
    }
    return mmsb_rd_read_slow(bus, page, offset, to, bytes, version);
}

/* Copies the first `bytes` bytes of the page. */
MMSB_RD_HOT int mmsb_reader_read(const mmsb_reader *bus, mmsb_reader_page *page, void *to, size_t bytes,
                                 mmsb_reader_version *version)
{
    return mmsb_reader_read_at(bus, page, 0, to, bytes, version);
}

/* The page's version now, nothing of its content. */
static inline int mmsb_reader_version_now(const mmsb_reader *bus, mmsb_reader_page *page, mmsb_reader_version *version)
{
    unsigned char nothing;
    return mmsb_reader_read_at(bus, page, 0, &nothing, 0, version);
}

/* Copies the page if it is not in the state `version` any more, and puts the new one there; UNCHANGED if it is, after
 * one look at one line. Begin with a version of zeros. */
static inline int mmsb_reader_read_newer(const mmsb_reader *bus, mmsb_reader_page *page, void *to, size_t bytes,
                                         mmsb_reader_version *version)
{
    if (bus == NULL || page == NULL || version == NULL) return MMSB_READER_ARGUMENT;
    /* A hint: whatever is read after it is checked. LSN 0 is no delta's. */
    if (version->lsn != 0 && page->base == bus->base && page->block != NULL &&
        mmsb_rd_acquire64(page->word) == page->entry) {
        uint64_t seq;
        if (page->versions == 1)
            seq = mmsb_rd_relaxed64(&page->block->seq);
        else
            seq = mmsb_rd_relaxed64(&mmsb_rd_version_at(page, mmsb_rd_acquire64(mmsb_rd_payload(page)))->epoch) << 1;
        if (seq == version->epoch << 1) return MMSB_READER_UNCHANGED;
    }
    return mmsb_reader_read(bus, page, to, bytes, version);
}

/* One attempt at a cut of pages whose handles are good. */
MMSB_RD_COLD int mmsb_rd_cut_once(mmsb_reader_page *pages, size_t count, void *const *to, mmsb_reader_version *versions)
{
    size_t i;
    for (i = 0; i < count; i++) {
        mmsb_reader_page *page = &pages[i];
        if (mmsb_rd_acquire64(page->word) != page->entry) return MMSB_RD_MOVED;
        page->begin = mmsb_rd_acquire64(&page->block->seq);
        if (page->begin & 1) return MMSB_RD_INSIDE;
        if (page->versions != 1) page->head = mmsb_rd_acquire64(mmsb_rd_payload(page));
    }
    for (i = 0; i < count; i++) {
        mmsb_reader_page *page = &pages[i];
        mmsb_reader_version seen;
        if (page->versions == 1) {
            mmsb_rd_copy(to[i], mmsb_rd_payload(page), page->size);
            seen.epoch = page->begin >> 1;
            seen.lsn = mmsb_rd_relaxed64(&page->block->lsn);
        } else {
            const struct mmsb_rd_VersionHeader *v = mmsb_rd_version_at(page, page->head);
            mmsb_rd_copy(to[i], (const unsigned char *)(const void *)(v + 1), page->size);
            seen.epoch = mmsb_rd_relaxed64(&v->epoch);
            seen.lsn = mmsb_rd_relaxed64(&v->lsn);
        }
        if (versions != NULL) versions[i] = seen;
    }
    for (i = 0; i < count; i++) {
        const mmsb_reader_page *page = &pages[i];
        if (!mmsb_rd_same_seq(page, page->entry, page->begin)) return MMSB_RD_CHANGED;
        /* A cell's version changes ahead of its sequence word. */
        if (page->versions != 1 && mmsb_rd_relaxed64(mmsb_rd_payload(page)) != page->head) return MMSB_RD_CHANGED;
    }
    return MMSB_RD_DONE;
}

/* Copies `count` whole pages as one cut, an instant at which all of them looked like this, no transaction halved. to[i]
 * has room for pages[i].size bytes; `versions` may be NULL. BUSY more easily than single reads: all pages must be
 * quiet. */
static inline int mmsb_reader_cut(const mmsb_reader *bus, mmsb_reader_page *pages, size_t count, void *const *to,
                                  mmsb_reader_version *versions)
{
    mmsb_rd_patience patience = {0, 0};
    uint64_t bytes = 0;
    size_t i;
    if (bus == NULL || bus->base == NULL || (count != 0 && (pages == NULL || to == NULL))) return MMSB_READER_ARGUMENT;
    for (i = 0; i < count; i++) {
        if (pages[i].base != bus->base || pages[i].block == NULL || to[i] == NULL) return MMSB_READER_ARGUMENT;
        bytes += pages[i].size;
    }
    for (;;) {
        const int seen = mmsb_rd_cut_once(pages, count, to, versions);
        int result = MMSB_READER_OK;
        if (seen == MMSB_RD_DONE) return MMSB_READER_OK;
        pages[0].retries += seen != MMSB_RD_MOVED;
        for (i = 0; i < count && result == MMSB_READER_OK; i++)
            if (mmsb_rd_acquire64(pages[i].word) != pages[i].entry) result = mmsb_rd_resolve(bus, &pages[i]);
        if (result == MMSB_READER_OK) result = mmsb_rd_wait(bus, &patience, seen == MMSB_RD_INSIDE, bytes);
        if (result != MMSB_READER_OK) return result;
    }
}

/* ---- Names, schema, metadata ------------------------------------------------------------------------------------ */

/* Room for all that mmsb_reader_describe can deliver. */
#define MMSB_READER_DESCRIBE_BYTES (32u + MMSB_READER_NAME_BYTES_MAX + MMSB_READER_COLD_BYTES_MAX)

/* What is known about a page beside its bytes. The pointers lead into the caller's buffer. */
typedef struct mmsb_reader_info {
    uint32_t index, generation;
    uint64_t schema_hash; /* 0: no schema */
    const unsigned char *name, *schema, *meta; /* not NUL-terminated */
    size_t name_len, schema_len, meta_len;
    size_t needed; /* bytes of buffer that all of it takes */
} mmsb_reader_info;

static inline uint64_t mmsb_rd_fnv(const void *bytes, size_t count)
{
    const unsigned char *at = (const unsigned char *)bytes;
    uint64_t hash = 0xcbf29ce484222325u;
    for (; count != 0; count--) hash = (hash ^ *at++) * 0x100000001b3u;
    return hash;
}

static inline uint64_t mmsb_rd_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Copies as much as fits of the cold record that the name directory's word at `word_at`, seen as `word`, leads to.
 * `good`: the word, and the block's life, were the same afterwards. A record that is malformed and good is corrupt. */
MMSB_RD_COLD int mmsb_rd_cold(const mmsb_reader *bus, uint64_t *known, const unsigned char *word_at, uint64_t word,
                              unsigned char *buffer, size_t capacity, mmsb_reader_info *info, int *good)
{
    const uint64_t at = (word & (((uint64_t)1 << MMSB_READER_REF_BITS) - 1)) * MMSB_READER_BLOCK_UNIT;
    const struct mmsb_rd_BlockHeader *block;
    const unsigned char *payload;
    unsigned char head[sizeof(struct mmsb_rd_ColdHeader)];
    uint64_t state, lsn, total;
    int result = mmsb_rd_room(bus, known, at, sizeof *block + sizeof head);
    *good = 1;
    if (result != MMSB_READER_OK) {
        /* A word that was torn by nobody: loads are whole. But it may have changed since. */
        *good = mmsb_rd_acquire64(word_at) == word;
        return result;
    }
    block = (const struct mmsb_rd_BlockHeader *)(const void *)(bus->base + at);
    payload = bus->base + at + sizeof *block;
    /* A block may be freed, filled and linked again under the very same word; then its lsn is another. Acquire, the
     * state first: it is stored behind the lsn. */
    state = mmsb_rd_acquire64(&block->state);
    lsn = mmsb_rd_relaxed64(&block->lsn);
    mmsb_rd_copy(head, payload, sizeof head);
    memset(info, 0, sizeof *info);
    info->index = mmsb_rd_u32(head);
    info->generation = mmsb_rd_u32(head + 4);
    info->schema_hash = mmsb_rd_u64(head + 8);
    info->name_len = mmsb_rd_u32(head + 16);
    info->schema_len = mmsb_rd_u32(head + 20);
    info->meta_len = mmsb_rd_u32(head + 24);
    total = sizeof head + (uint64_t)info->name_len + info->schema_len + info->meta_len;
    info->needed = (size_t)total;
    if (info->name_len > MMSB_READER_NAME_BYTES_MAX || total > MMSB_READER_DESCRIBE_BYTES)
        result = MMSB_READER_CORRUPT;
    else
        result = mmsb_rd_room(bus, known, at, sizeof *block + ((total + 7) & ~(uint64_t)7));
    if (result == MMSB_READER_OK) {
        const size_t part = total < capacity ? (size_t)total : capacity;
        mmsb_rd_copy(buffer, payload, part);
        /* The lengths as copied the second time may be others; the check below then fails, but they are used before. */
        info->name = buffer + sizeof head;
        info->schema = info->name + info->name_len;
        info->meta = info->schema + info->schema_len;
    }
    mmsb_rd_fence();
    *good = mmsb_rd_acquire64(&block->state) == state && mmsb_rd_relaxed64(&block->lsn) == lsn &&
            mmsb_rd_relaxed64(word_at) == word;
    return result;
}

/* Looks a cold record up: by `name`, or by the id if `name` is NULL. Copies what fits into the buffer, which has room
 * for the header and a name at least. */
MMSB_RD_COLD int mmsb_rd_look_up(const mmsb_reader *bus, const char *name, size_t name_len, uint32_t index,
                                 uint32_t generation, unsigned char *buffer, size_t capacity, mmsb_reader_info *info)
{
    const uint64_t id = (uint64_t)generation << 32 | index;
    const uint64_t hash = mmsb_rd_mix(name != NULL ? mmsb_rd_fnv(name, name_len) : id ^ 0x9e3779b97f4a7c15u);
    const uint64_t key = (uint64_t)(name == NULL) << 27 | hash >> 37;
    const uint64_t began_ns = mmsb_rd_clock_ns();
    uint64_t known = 0, missed = 0;
    int was_missed = 0;
    for (;;) {
        uint64_t words = 0, i;
        int moved = 0;
        for (i = 0; i < bus->names_slots; i++) {
            const unsigned char *word_at = bus->base + bus->names_at + ((hash + i) & (bus->names_slots - 1)) * 8;
            const uint64_t word = mmsb_rd_acquire64(word_at);
            int good, result;
            words = mmsb_rd_mix((words << 1 | words >> 63) ^ word);
            if (word == 0) break;
            if (i % 1024 == 1023 && mmsb_rd_clock_ns() - began_ns > bus->patience_ns) return MMSB_READER_BUSY;
            if (word == 1 || word >> MMSB_READER_REF_BITS != key) continue;
            result = mmsb_rd_cold(bus, &known, word_at, word, buffer, capacity, info, &good);
            if (!good) {
                moved = 1;
                continue;
            }
            if (result != MMSB_READER_OK) return result;
            if (name == NULL ? info->index == index && info->generation == generation
                             : info->name_len == name_len && memcmp(info->name, name, name_len) == 0)
                return MMSB_READER_OK;
        }
        /* An entry that is replaced may move to a place that the probe has passed. So what is missing is looked for
         * twice, and the words of the probe were the same. */
        if (!moved && was_missed && missed == words) return MMSB_READER_NO_SUCH_NAME;
        was_missed = !moved;
        missed = words;
        if (mmsb_rd_clock_ns() - began_ns > bus->patience_ns) return MMSB_READER_BUSY;
    }
}

/* The page with this name. Errors: NO_SUCH_NAME, BUSY, CORRUPT, TRUNCATED. */
static inline int mmsb_reader_find(const mmsb_reader *bus, const char *name, mmsb_reader_page *page)
{
    unsigned char buffer[sizeof(struct mmsb_rd_ColdHeader) + MMSB_READER_NAME_BYTES_MAX];
    mmsb_reader_info info;
    uint64_t began_ns;
    size_t name_len;
    int result;
    if (page == NULL) return MMSB_READER_ARGUMENT;
    memset(page, 0, sizeof *page);
    if (bus == NULL || name == NULL || bus->base == NULL) return MMSB_READER_ARGUMENT;
    name_len = strlen(name);
    if (name_len == 0 || name_len > MMSB_READER_NAME_BYTES_MAX) return MMSB_READER_NO_SUCH_NAME;
    /* Again if the page went between the two looks: its name may be another's already. It stays so for a while if who
     * destroys it is stopped half-way. */
    began_ns = mmsb_rd_clock_ns();
    do {
        result = mmsb_rd_look_up(bus, name, name_len, 0, 0, buffer, sizeof buffer, &info);
        if (result != MMSB_READER_OK) return result;
        result = mmsb_reader_find_id(bus, info.index, info.generation, page);
    } while (result == MMSB_READER_PAGE_GONE && mmsb_rd_clock_ns() - began_ns < bus->patience_ns / 16);
    return result == MMSB_READER_PAGE_GONE ? MMSB_READER_NO_SUCH_NAME : result;
}

/* Calls `each` with every named page, in no order, until it returns other than 0. A page that is renamed or
 * described anew meanwhile may come twice, under both names, or be missed. */
static inline int mmsb_reader_list(const mmsb_reader *bus,
                                   int (*each)(void *context, const char *name, uint32_t index, uint32_t generation),
                                   void *context)
{
    unsigned char buffer[sizeof(struct mmsb_rd_ColdHeader) + MMSB_READER_NAME_BYTES_MAX];
    char name[MMSB_READER_NAME_BYTES_MAX + 1];
    mmsb_reader_info info;
    uint64_t known = 0, i;
    if (bus == NULL || each == NULL || bus->base == NULL) return MMSB_READER_ARGUMENT;
    for (i = 0; i < bus->names_slots; i++) {
        const unsigned char *word_at = bus->base + bus->names_at + i * 8;
        int tries;
        for (tries = 0; tries < 1000; tries++) {
            const uint64_t word = mmsb_rd_acquire64(word_at);
            int good, result;
            /* Empty, removed, or an entry by id. */
            if (word <= 1 || word >> 63 != 0) break;
            result = mmsb_rd_cold(bus, &known, word_at, word, buffer, sizeof buffer, &info, &good);
            if (!good) continue;
            if (result != MMSB_READER_OK) return result;
            memcpy(name, info.name, info.name_len);
            name[info.name_len] = 0;
            if (each(context, name, info.index, info.generation) != 0) return MMSB_READER_OK;
            break;
        }
    }
    return MMSB_READER_OK;
}

/* Name, schema and metadata of a page, copied to `buffer`, for which MMSB_READER_DESCRIBE_BYTES always suffice. A page
 * that has none of them gives an info of zeros. TOO_SMALL: info->needed says how much it takes. */
static inline int mmsb_reader_describe(const mmsb_reader *bus, const mmsb_reader_page *page, void *buffer,
                                       size_t capacity, mmsb_reader_info *info)
{
    int result;
    if (bus == NULL || page == NULL || info == NULL || buffer == NULL || bus->base == NULL || page->base != bus->base)
        return MMSB_READER_ARGUMENT;
    memset(info, 0, sizeof *info);
    result = mmsb_rd_look_up(bus, NULL, 0, page->index, page->generation, (unsigned char *)buffer, capacity, info);
    if (result == MMSB_READER_OK && info->needed > capacity) {
        info->name = info->schema = info->meta = NULL;
        return MMSB_READER_TOO_SMALL;
    }
    if (result != MMSB_READER_NO_SUCH_NAME) return result;
    memset(info, 0, sizeof *info);
    info->index = page->index;
    info->generation = page->generation;
    return mmsb_rd_acquire64(page->word) >> MMSB_READER_REF_BITS == page->generation ? MMSB_READER_OK
                                                                                     : MMSB_READER_PAGE_GONE;
}

/* The metadata one by one: *at begins with 0. END after the last. Keys and values are UTF-8, not NUL-terminated. */
static inline int mmsb_reader_meta_next(const mmsb_reader_info *info, size_t *at, const unsigned char **key,
                                        size_t *key_len, const unsigned char **value, size_t *value_len)
{
    const unsigned char *entry;
    size_t left;
    if (*at >= info->meta_len) return MMSB_READER_END;
    entry = info->meta + *at;
    left = info->meta_len - *at;
    if (left < 8) return MMSB_READER_CORRUPT;
    *key_len = mmsb_rd_u32(entry);
    *value_len = mmsb_rd_u32(entry + 4);
    if ((uint64_t)*key_len + *value_len > left - 8) return MMSB_READER_CORRUPT;
    *key = entry + 8;
    *value = *key + *key_len;
    *at += 8 + *key_len + *value_len;
    return MMSB_READER_OK;
}

/* The value of one key of the metadata. NO_SUCH_NAME: it is not there. */
static inline int mmsb_reader_meta(const mmsb_reader_info *info, const char *key, const unsigned char **value,
                                   size_t *value_len)
{
    const unsigned char *found;
    size_t at = 0, found_len;
    int result;
    while ((result = mmsb_reader_meta_next(info, &at, &found, &found_len, value, value_len)) == MMSB_READER_OK)
        if (found_len == strlen(key) && memcmp(found, key, found_len) == 0) return MMSB_READER_OK;
    return result == MMSB_READER_END ? MMSB_READER_NO_SUCH_NAME : result;
}

/* ---- Fields ----------------------------------------------------------------------------------------------------- */

/* A field of a page: `count` elements of one type, one after the other from `offset`. */
typedef struct mmsb_reader_field {
    uint32_t offset;  /* first byte in the page */
    uint32_t count;   /* elements; for TYPE_CHAR the bytes of text */
    uint32_t type;    /* MMSB_READER_TYPE_... */
    uint32_t element; /* bytes of an element */
} mmsb_reader_field;

/* Walks over the fields of a schema; see mmsb_reader_schema_next. */
typedef struct mmsb_reader_schema {
    const unsigned char *bytes, *name; /* name of the field that was delivered last, not NUL-terminated */
    size_t len, at, name_len;
    uint32_t size, left, is_array, type;
} mmsb_reader_schema;

static inline uint32_t mmsb_rd_element(uint32_t type)
{
    static const unsigned char sizes[] = {0, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 1, 1};
    return type < sizeof sizes ? sizes[type] : 0;
}

/* Begins a walk over an encoded schema, as mmsb_reader_describe delivers it. NO_SCHEMA for no bytes. */
static inline int mmsb_reader_schema_begin(const void *bytes, size_t len, mmsb_reader_schema *schema)
{
    const unsigned char *b = (const unsigned char *)bytes;
    uint32_t kind;
    memset(schema, 0, sizeof *schema);
    if (len == 0 || b == NULL) return MMSB_READER_NO_SCHEMA;
    if (len < 20 || mmsb_rd_u32(b) != MMSB_READER_SCHEMA_MAGIC) return MMSB_READER_CORRUPT;
    if ((mmsb_rd_u32(b + 4) & 0xffffu) != MMSB_READER_SCHEMA_VERSION) return MMSB_READER_VERSION;
    kind = mmsb_rd_u32(b + 4) >> 16;
    schema->bytes = b;
    schema->len = len;
    schema->size = mmsb_rd_u32(b + 8);
    schema->left = mmsb_rd_u32(b + 12);
    schema->type = mmsb_rd_u32(b + 16) & 0xffffu;
    schema->at = 20 + (mmsb_rd_u32(b + 16) >> 16);
    schema->is_array = kind == 1;
    if (schema->size > MMSB_READER_PAGE_BYTES_MAX || schema->left == 0) return MMSB_READER_CORRUPT;
    if (schema->is_array) {
        const uint64_t element = mmsb_rd_element(schema->type);
        const int whole = element != 0 && len == 20 && schema->at == 20 && element * schema->left == schema->size;
        return whole ? MMSB_READER_OK : MMSB_READER_CORRUPT;
    }
    return kind == 2 && schema->type == 0 && schema->left <= MMSB_READER_SCHEMA_FIELDS_MAX && schema->at <= len
               ? MMSB_READER_OK
               : MMSB_READER_CORRUPT;
}

/* The next field, END after the last; of an array one field without a name. Every field lies inside schema->size. */
static inline int mmsb_reader_schema_next(mmsb_reader_schema *schema, mmsb_reader_field *field)
{
    const unsigned char *at = schema->bytes + schema->at;
    if (schema->left == 0) return schema->is_array || schema->at == schema->len ? MMSB_READER_END : MMSB_READER_CORRUPT;
    if (schema->is_array) {
        field->offset = 0;
        field->count = schema->left;
        field->type = schema->type;
        field->element = mmsb_rd_element(field->type);
        schema->name = at;
        schema->name_len = 0;
        schema->left = 0;
        return MMSB_READER_OK;
    }
    if (schema->len - schema->at < 12) return MMSB_READER_CORRUPT;
    field->offset = mmsb_rd_u32(at);
    field->count = mmsb_rd_u32(at + 4);
    field->type = mmsb_rd_u32(at + 8) & 0xffffu;
    field->element = mmsb_rd_element(field->type);
    schema->name = at + 12;
    schema->name_len = mmsb_rd_u32(at + 8) >> 16;
    schema->at += 12;
    if (schema->name_len == 0 || schema->name_len > schema->len - schema->at || field->element == 0 ||
        field->count == 0 || field->offset + (uint64_t)field->count * field->element > schema->size)
        return MMSB_READER_CORRUPT;
    schema->at += schema->name_len;
    schema->left--;
    return MMSB_READER_OK;
}

/* Element `i` of a field, as a field of its own. */
static inline int mmsb_reader_element(const mmsb_reader_field *field, uint32_t i, mmsb_reader_field *element)
{
    if (i >= field->count) return MMSB_READER_NO_FIELD;
    *element = *field;
    element->offset += i * field->element;
    element->count = 1;
    return MMSB_READER_OK;
}

/* Finds what `path` names in an encoded schema: `price`, `bids`, one element `bids[3]`; of an array the whole of it by
 * "", one element by `[3]`. Errors: NO_SCHEMA, NO_FIELD, CORRUPT, VERSION. */
static inline int mmsb_reader_schema_field(const void *bytes, size_t len, const char *path, mmsb_reader_field *field)
{
    const char *bracket = strchr(path, '[');
    const size_t name_len = bracket != NULL ? (size_t)(bracket - path) : strlen(path);
    mmsb_reader_schema schema;
    mmsb_reader_field next;
    int found = 0, result = mmsb_reader_schema_begin(bytes, len, &schema);
    memset(field, 0, sizeof *field);
    if (result != MMSB_READER_OK) return result;
    /* To the end, found or not: a schema that is damaged anywhere is not believed. */
    while ((result = mmsb_reader_schema_next(&schema, &next)) == MMSB_READER_OK) {
        if (!found && schema.name_len == name_len && memcmp(schema.name, path, name_len) == 0) {
            *field = next;
            found = 1;
        }
    }
    if (result != MMSB_READER_END) return result;
    if (found && bracket != NULL) {
        uint64_t i = 0;
        const char *digit = bracket + 1;
        for (; *digit >= '0' && *digit <= '9' && i <= UINT32_MAX; digit++) i = i * 10 + (uint64_t)(*digit - '0');
        if (digit == bracket + 1 || digit[0] != ']' || digit[1] != 0 || i > UINT32_MAX) return MMSB_READER_NO_FIELD;
        return mmsb_reader_element(field, (uint32_t)i, field);
    }
    return found ? MMSB_READER_OK : MMSB_READER_NO_FIELD;
}

/* Finds a field of a page by its schema, as mmsb_reader_schema_field; needs 64 KiB of stack. RANGE: the schema
 * describes more than the page has. The field stays right until somebody gives the page another schema. */
MMSB_RD_COLD int mmsb_reader_field_of(const mmsb_reader *bus, const mmsb_reader_page *page, const char *path,
                                      mmsb_reader_field *field)
{
    unsigned char buffer[MMSB_READER_DESCRIBE_BYTES];
    mmsb_reader_info info;
    int result = path == NULL || field == NULL ? MMSB_READER_ARGUMENT
                                               : mmsb_reader_describe(bus, page, buffer, sizeof buffer, &info);
    if (result == MMSB_READER_OK) result = mmsb_reader_schema_field(info.schema, info.schema_len, path, field);
    if (result == MMSB_READER_OK && field->offset + (uint64_t)field->count * field->element > page->size)
        return MMSB_READER_RANGE;
    return result;
}

/* The bits of the one element of a field in `copy`, which holds the page from its first byte on. */
static inline int mmsb_rd_bits(const mmsb_reader_field *field, const void *copy, size_t bytes, uint64_t *bits)
{
    *bits = 0;
    if (field->count != 1 || field->element == 0 || field->element > 8) return MMSB_READER_TYPE;
    if (field->offset > bytes || field->element > bytes - field->offset) return MMSB_READER_RANGE;
    memcpy(bits, (const unsigned char *)copy + field->offset, field->element);
    return MMSB_READER_OK;
}

static inline int64_t mmsb_rd_signed(uint64_t bits, uint32_t element)
{
    const uint64_t sign = (uint64_t)1 << (element * 8 - 1);
    const uint64_t wide = (bits ^ sign) - sign;
    int64_t value;
    memcpy(&value, &wide, 8);
    return value;
}

static inline int mmsb_rd_u64_of(const mmsb_reader_field *field, uint64_t bits, uint64_t *value)
{
    *value = bits;
    switch (field->type) {
    case MMSB_READER_TYPE_U8:
    case MMSB_READER_TYPE_U16:
    case MMSB_READER_TYPE_U32:
    case MMSB_READER_TYPE_U64: return MMSB_READER_OK;
    case MMSB_READER_TYPE_BOOL: *value = bits != 0; return MMSB_READER_OK;
    case MMSB_READER_TYPE_I8:
    case MMSB_READER_TYPE_I16:
    case MMSB_READER_TYPE_I32:
    case MMSB_READER_TYPE_I64: return bits >> (field->element * 8 - 1) ? MMSB_READER_TYPE : MMSB_READER_OK;
    default: return MMSB_READER_TYPE;
    }
}

static inline int mmsb_rd_i64_of(const mmsb_reader_field *field, uint64_t bits, int64_t *value)
{
    uint64_t u;
    switch (field->type) {
    case MMSB_READER_TYPE_I8:
    case MMSB_READER_TYPE_I16:
    case MMSB_READER_TYPE_I32:
    case MMSB_READER_TYPE_I64: *value = mmsb_rd_signed(bits, field->element); return MMSB_READER_OK;
    default:
        if (mmsb_rd_u64_of(field, bits, &u) != MMSB_READER_OK || u > INT64_MAX) return MMSB_READER_TYPE;
        *value = (int64_t)u;
        return MMSB_READER_OK;
    }
}

static inline int mmsb_rd_f64_of(const mmsb_reader_field *field, uint64_t bits, double *value)
{
    const int64_t exact = (int64_t)1 << 53;
    float single;
    int64_t i;
    switch (field->type) {
    case MMSB_READER_TYPE_F64: memcpy(value, &bits, 8); return MMSB_READER_OK;
    case MMSB_READER_TYPE_F32:
        memcpy(&single, &bits, 4);
        *value = (double)single;
        return MMSB_READER_OK;
    default:
        if (mmsb_rd_i64_of(field, bits, &i) != MMSB_READER_OK || i > exact || i < -exact) return MMSB_READER_TYPE;
        *value = (double)i;
        return MMSB_READER_OK;
    }
}

/* The value of a field in a copy of the page's first `bytes` bytes. Any type that holds the value without loss will do
 * (a u8 as a double, not 2^60); mmsb_reader_element takes a field of several elements apart. Errors: RANGE, TYPE. */
static inline int mmsb_reader_field_u64(const mmsb_reader_field *field, const void *copy, size_t bytes, uint64_t *value)
{
    uint64_t bits;
    const int result = mmsb_rd_bits(field, copy, bytes, &bits);
    return result != MMSB_READER_OK ? result : mmsb_rd_u64_of(field, bits, value);
}

static inline int mmsb_reader_field_i64(const mmsb_reader_field *field, const void *copy, size_t bytes, int64_t *value)
{
    uint64_t bits;
    const int result = mmsb_rd_bits(field, copy, bytes, &bits);
    return result != MMSB_READER_OK ? result : mmsb_rd_i64_of(field, bits, value);
}

static inline int mmsb_reader_field_f64(const mmsb_reader_field *field, const void *copy, size_t bytes, double *value)
{
    uint64_t bits;
    const int result = mmsb_rd_bits(field, copy, bytes, &bits);
    return result != MMSB_READER_OK ? result : mmsb_rd_f64_of(field, bits, value);
}

/* The text of a field up to its first NUL, NUL-terminated. TOO_SMALL: `capacity` is not more than its bytes. */
static inline int mmsb_reader_field_text(const mmsb_reader_field *field, const void *copy, size_t bytes, char *text,
                                         size_t capacity)
{
    const char *from = (const char *)copy + field->offset;
    size_t len = 0;
    if (field->type != MMSB_READER_TYPE_CHAR) return MMSB_READER_TYPE;
    if (field->offset > bytes || field->count > bytes - field->offset) return MMSB_READER_RANGE;
    while (len < field->count && from[len] != 0) len++;
    if (len >= capacity) return MMSB_READER_TOO_SMALL;
    memcpy(text, from, len);
    text[len] = 0;
    return MMSB_READER_OK;
}

/* Copies the bytes of one field, all its elements, from the page: a validated read of that range. */
static inline int mmsb_reader_read_field(const mmsb_reader *bus, mmsb_reader_page *page, const mmsb_reader_field *field,
                                         void *to, size_t capacity, mmsb_reader_version *version)
{
    const uint64_t bytes = (uint64_t)field->count * field->element;
    if (bytes > capacity) return MMSB_READER_TOO_SMALL;
    return mmsb_reader_read_at(bus, page, field->offset, to, (size_t)bytes, version);
}

MMSB_RD_HOT int mmsb_rd_get(const mmsb_reader *bus, mmsb_reader_page *page, const mmsb_reader_field *field,
                            uint64_t *bits)
{
    *bits = 0;
    if (field->count != 1) return MMSB_READER_TYPE;
    return mmsb_reader_read_field(bus, page, field, bits, sizeof *bits, NULL);
}

/* One value straight from the page. */
static inline int mmsb_reader_get_u64(const mmsb_reader *bus, mmsb_reader_page *page, const mmsb_reader_field *field,
                                      uint64_t *value)
{
    uint64_t bits;
    const int result = mmsb_rd_get(bus, page, field, &bits);
    return result != MMSB_READER_OK ? result : mmsb_rd_u64_of(field, bits, value);
}

static inline int mmsb_reader_get_i64(const mmsb_reader *bus, mmsb_reader_page *page, const mmsb_reader_field *field,
                                      int64_t *value)
{
    uint64_t bits;
    const int result = mmsb_rd_get(bus, page, field, &bits);
    return result != MMSB_READER_OK ? result : mmsb_rd_i64_of(field, bits, value);
}

static inline int mmsb_reader_get_f64(const mmsb_reader *bus, mmsb_reader_page *page, const mmsb_reader_field *field,
                                      double *value)
{
    uint64_t bits;
    const int result = mmsb_rd_get(bus, page, field, &bits);
    return result != MMSB_READER_OK ? result : mmsb_rd_f64_of(field, bits, value);
}

/* Name of a source by its number, NUL-terminated; `name` has MMSB_READER_SOURCE_NAME_BYTES + 1 bytes. */
static inline int mmsb_reader_source(const mmsb_reader *bus, uint32_t number, char *name)
{
    const struct mmsb_rd_SourceEntry *entry;
    uint32_t len;
    if (bus == NULL || bus->base == NULL || name == NULL) return MMSB_READER_ARGUMENT;
    if (number >= bus->sources_max) return MMSB_READER_NO_SUCH_NAME;
    entry = (const struct mmsb_rd_SourceEntry *)(const void *)(bus->base + bus->sources_at) + number;
    len = mmsb_rd_acquire32(&entry->len);
    if (len == 0) return MMSB_READER_NO_SUCH_NAME;
    if (len > MMSB_READER_SOURCE_NAME_BYTES) return MMSB_READER_CORRUPT;
    mmsb_rd_copy_words((unsigned char *)name, (const unsigned char *)(const void *)entry->name, len);
    name[len] = 0;
    return MMSB_READER_OK;
}

/* ---- Following the deltas --------------------------------------------------------------------------------------- */

/* Greatest LSN that is believed: sums of positions and lengths cannot overflow. */
#define MMSB_RD_LSN_MAX ((uint64_t)1 << 62)

/* A lossy follower of the ring: writers do not wait for it, and it learns when they overtook it. */
typedef struct mmsb_reader_follower {
    uint64_t position;        /* LSN that it looks at next */
    uint64_t gap_from, gap_to; /* after GAP: the LSNs from the first to short of the second were missed */
    uint64_t missed;          /* LSNs missed in all */
    /* Private: the group in hand. */
    unsigned char *buffer;
    size_t at, end;
    uint64_t lsn;
    int broken;
} mmsb_reader_follower;

/* A delta. `bytes` leads into the follower's buffer and stays until the next call. */
typedef struct mmsb_reader_delta {
    uint64_t lsn;       /* its place in the order */
    uint64_t group_end; /* LSN of whatever comes behind its group */
    uint32_t index, generation; /* the page; 0 and 0 for sources and marks */
    uint32_t kind;      /* MMSB_READER_KIND_... */
    uint32_t source;    /* who made it: see mmsb_reader_source */
    uint32_t offset;    /* first byte of the page that it concerns */
    uint32_t time;      /* see mmsb_reader_delta_time_ns */
    uint64_t cause;     /* LSN of the delta that led to it, 0: outside input */
    int transaction;    /* part of one: its group is on the pages whole or not at all */
    const unsigned char *bytes; /* as recorded: see docs/layout.md, and mmsb_reader_apply */
    size_t len;
    uint64_t block;     /* private: of a swap */
} mmsb_reader_delta;

/* Bytes of buffer that a follower needs: the longest group that fits the ring. At most 512 KiB. */
static inline size_t mmsb_reader_follow_bytes(const mmsb_reader *bus)
{
    size_t slots = bus->ring_slots / 4;
    if (slots > MMSB_READER_RECORD_SLOTS_MAX) slots = MMSB_READER_RECORD_SLOTS_MAX;
    return slots * MMSB_READER_SLOT_BYTES;
}

static inline const unsigned char *mmsb_rd_slot(const mmsb_reader *bus, uint64_t lsn)
{
    return bus->base + bus->ring_at + (lsn & (bus->ring_slots - 1)) * MMSB_READER_SLOT_BYTES;
}

#define MMSB_RD_NOTHING 0
#define MMSB_RD_CLAIMED 1
#define MMSB_RD_READY 2
#define MMSB_RD_PADDING 3
#define MMSB_RD_LAPPED 4
#define MMSB_RD_BAD 5

/* What stands at an LSN that is a record boundary, and how many slots it takes. */
static inline int mmsb_rd_look(const mmsb_reader *bus, uint64_t lsn, uint64_t *slots)
{
    const uint64_t stamp = mmsb_rd_acquire64(mmsb_rd_slot(bus, lsn));
    const uint32_t ahead = (uint32_t)(stamp >> 32) - (uint32_t)(lsn >> bus->ring_shift);
    *slots = stamp >> 19 & 0x1fffu;
    if (ahead >> 31 != 0) return MMSB_RD_NOTHING;
    if (ahead != 0) return MMSB_RD_LAPPED;
    /* The length keeps the walk inside this lap. */
    if (*slots == 0 || *slots > bus->ring_slots - (lsn & (bus->ring_slots - 1))) return MMSB_RD_BAD;
    switch (stamp & 7) {
    case MMSB_READER_SLOT_CLAIMED: return MMSB_RD_CLAIMED;
    case MMSB_READER_SLOT_READY: return MMSB_RD_READY;
    case MMSB_READER_SLOT_PADDING: return MMSB_RD_PADDING;
    default: return MMSB_RD_BAD;
    }
}

/* Whether what was copied from the ring at `lsn` and behind may be believed: nothing of it was overwritten. */
static inline int mmsb_rd_intact(const mmsb_reader *bus, uint64_t lsn)
{
    int good;
    mmsb_rd_fence();
    good = mmsb_rd_relaxed64(&mmsb_rd_header(bus)->overwrite_floor) <= lsn; /* validated: floor */
    return good;
}

/* A record boundary not far from the end of the ring. */
static inline uint64_t mmsb_reader_published(const mmsb_reader *bus)
{
    const uint64_t lsn = mmsb_rd_acquire64(&mmsb_rd_header(bus)->published);
    return lsn < MMSB_RD_LSN_MAX ? lsn : MMSB_RD_LSN_MAX;
}

/* Where the ring ends now: the LSN that the next claim will get. */
static inline uint64_t mmsb_reader_end_lsn(const mmsb_reader *bus)
{
    uint64_t at = mmsb_reader_published(bus), slots;
    uint32_t i;
    for (i = 0; i <= bus->ring_slots; i++) {
        const int seen = mmsb_rd_look(bus, at, &slots);
        if (seen == MMSB_RD_CLAIMED || seen == MMSB_RD_READY || seen == MMSB_RD_PADDING) {
            at += slots;
        } else if (seen == MMSB_RD_LAPPED) {
            const uint64_t published = mmsb_reader_published(bus);
            if (published > at) at = published;
        } else {
            break;
        }
    }
    return at;
}

/* Everything ahead of this LSN is on disk; 0: the bus has no log. */
static inline uint64_t mmsb_reader_durable(const mmsb_reader *bus)
{
    return mmsb_rd_acquire64(&mmsb_rd_header(bus)->durable_lsn);
}

/* Begins to follow with whatever comes next. The buffer belongs to the follower for as long as it is used, and has
 * mmsb_reader_follow_bytes bytes; else TOO_SMALL. */
static inline int mmsb_reader_follow(const mmsb_reader *bus, mmsb_reader_follower *f, void *buffer, size_t capacity)
{
    if (bus == NULL || f == NULL || buffer == NULL || bus->base == NULL) return MMSB_READER_ARGUMENT;
    memset(f, 0, sizeof *f);
    if (capacity < mmsb_reader_follow_bytes(bus)) return MMSB_READER_TOO_SMALL;
    f->buffer = (unsigned char *)buffer;
    f->position = mmsb_reader_end_lsn(bus);
    return MMSB_READER_OK;
}

/* Takes the next record off the group in hand. */
static inline int mmsb_rd_take(mmsb_reader_follower *f, mmsb_reader_delta *delta)
{
    unsigned char *record = f->buffer + f->at;
    unsigned char *body = record + MMSB_READER_RECORD_HEADER;
    uint64_t len = mmsb_rd_u32(record + 20), slots = 1, i;
    const uint32_t flags = record[25];
    f->broken = 1;
    if (len > MMSB_READER_FIRST_BYTES)
        slots += (len - MMSB_READER_FIRST_BYTES + MMSB_READER_CONTINUATION_BYTES - 1) / MMSB_READER_CONTINUATION_BYTES;
    if (slots * MMSB_READER_SLOT_BYTES > f->end - f->at) return MMSB_READER_CORRUPT;
    /* Joins the body, by moving it over the stamps of the further slots. */
    for (i = 1; i < slots; i++)
        memmove(record + MMSB_READER_SLOT_BYTES + (i - 1) * MMSB_READER_CONTINUATION_BYTES,
                record + i * MMSB_READER_SLOT_BYTES + 8, MMSB_READER_CONTINUATION_BYTES);
    memset(delta, 0, sizeof *delta);
    delta->lsn = f->lsn;
    delta->group_end = f->position;
    delta->index = mmsb_rd_u32(record + 8);
    delta->generation = mmsb_rd_u32(record + 12);
    delta->offset = mmsb_rd_u32(record + 16);
    delta->kind = record[24];
    delta->source = mmsb_rd_u32(record + 24) >> 16;
    delta->time = mmsb_rd_u32(record + 28);
    delta->transaction = (flags & MMSB_READER_FLAG_TRANSACTION) != 0;
    if ((flags & ~MMSB_READER_FLAG_ALL) != 0 || delta->kind < MMSB_READER_KIND_PATCH ||
        delta->kind > MMSB_READER_KIND_MARK)
        return MMSB_READER_CORRUPT;
    if (flags & MMSB_READER_FLAG_CAUSE) {
        if (len < 8) return MMSB_READER_CORRUPT;
        delta->cause = mmsb_rd_u64(body);
        body += 8;
        len -= 8;
    }
    if (flags & MMSB_READER_FLAG_BLOCK) {
        if (len < 16) return MMSB_READER_CORRUPT;
        delta->block = mmsb_rd_u64(body);
        body += 16;
        len -= 16;
    }
    delta->bytes = body;
    delta->len = (size_t)len;
    f->at += (size_t)slots * MMSB_READER_SLOT_BYTES;
    f->lsn += slots;
    f->broken = 0;
    return MMSB_READER_OK;
}

/* Overtaken: goes on at what is published. */
static inline int mmsb_rd_lapped(const mmsb_reader *bus, mmsb_reader_follower *f)
{
    uint64_t to;
    /* Acquire: with the floor comes the `published` that allowed it, which is no less. */
    (void)mmsb_rd_acquire64(&mmsb_rd_header(bus)->overwrite_floor);
    to = mmsb_reader_published(bus);
    if (to <= f->position) {
        /* Nothing is overwritten ahead of being published. */
        f->broken = 1;
        return MMSB_READER_CORRUPT;
    }
    f->gap_from = f->position;
    f->gap_to = to;
    f->missed += to - f->position;
    f->position = to;
    return MMSB_READER_GAP;
}

/* One look at the ring. TIMEOUT: nothing there; STALLED: a claim that is not finished. */
static inline int mmsb_rd_poll(const mmsb_reader *bus, mmsb_reader_follower *f, mmsb_reader_delta *delta)
{
    uint32_t hops;
    for (hops = 0; hops <= bus->ring_slots; hops++) {
        const uint64_t lsn = f->position;
        uint64_t slots;
        const int seen = mmsb_rd_look(bus, lsn, &slots);
        const size_t bytes = (size_t)slots * MMSB_READER_SLOT_BYTES;
        const int whole = seen == MMSB_RD_READY && bytes <= mmsb_reader_follow_bytes(bus);
        if (seen == MMSB_RD_NOTHING) return MMSB_READER_TIMEOUT;
        if (seen == MMSB_RD_CLAIMED) return MMSB_READER_STALLED;
        if (seen == MMSB_RD_LAPPED) return mmsb_rd_lapped(bus, f);
        if (whole) mmsb_rd_copy(f->buffer, mmsb_rd_slot(bus, lsn), bytes);
        /* Padding and bad stamps too are believed only if they are of this lap. */
        if (!mmsb_rd_intact(bus, lsn)) return mmsb_rd_lapped(bus, f);
        if (!whole && seen != MMSB_RD_PADDING) {
            f->broken = 1;
            return MMSB_READER_CORRUPT;
        }
        f->position = lsn + slots;
        if (whole) {
            f->at = 0;
            f->end = bytes;
            f->lsn = lsn;
            return mmsb_rd_take(f, delta);
        }
    }
    return MMSB_READER_TIMEOUT;
}

/* The next delta, waited for at most `timeout_ns` (0: not at all): looks for 20 us without a pause, then in naps of 50
 * us to 2 ms, as a reader cannot ask to be woken. OK, or TIMEOUT; STALLED: the timeout passed before a record that its
 * writer claimed and did not finish (any participant's next move repairs that if it died); GAP: overtaken, go on after
 * having read the pages anew; GONE: the bus was replaced; CORRUPT: it cannot go on. */
static inline int mmsb_reader_next(const mmsb_reader *bus, mmsb_reader_follower *f, mmsb_reader_delta *delta,
                                   uint64_t timeout_ns)
{
    uint64_t began_ns = 0, nap_ns = 50000u;
    if (bus == NULL || f == NULL || delta == NULL || bus->base == NULL || f->buffer == NULL)
        return MMSB_READER_ARGUMENT;
    if (f->broken) return MMSB_READER_CORRUPT;
    if (f->at < f->end) return mmsb_rd_take(f, delta);
    for (;;) {
        uint64_t waited_ns;
        int i;
        const int seen = mmsb_rd_poll(bus, f, delta);
        if ((seen != MMSB_READER_TIMEOUT && seen != MMSB_READER_STALLED) || timeout_ns == 0) return seen;
        if (began_ns == 0) began_ns = mmsb_rd_clock_ns();
        waited_ns = mmsb_rd_clock_ns() - began_ns;
        if (waited_ns >= timeout_ns) return seen;
        if (waited_ns < 20000u) {
            for (i = 0; i < 10; i++) mmsb_rd_relax();
            continue;
        }
        if (mmsb_rd_acquire32(&mmsb_rd_header(bus)->state) != MMSB_READER_STATE_READY) return MMSB_READER_GONE;
        mmsb_rd_sleep_ns(nap_ns < timeout_ns - waited_ns ? nap_ns : timeout_ns - waited_ns);
        if (nap_ns < 2000000u) nap_ns *= 2;
    }
}

/* When a delta was committed: CLOCK_REALTIME in ns, in steps of a millisecond. Right within 26 days of the commit. */
static inline uint64_t mmsb_reader_delta_time_ns(const mmsb_reader *bus, const mmsb_reader_delta *delta)
{
    struct timespec spec = {0, 0};
    uint64_t real, now, units;
    clock_gettime(CLOCK_REALTIME, &spec);
    real = (uint64_t)spec.tv_sec * 1000000000u + (uint64_t)spec.tv_nsec;
    now = real > bus->created_ns ? (real - bus->created_ns) >> MMSB_READER_TIME_SHIFT : 0;
    /* The record has the low 32 bits; the rest follows from now. */
    units = (now & ~(uint64_t)0xffffffffu) | delta->time;
    if (units > now + 0x80000000u && units >= (uint64_t)1 << 32) units -= (uint64_t)1 << 32;
    return bus->created_ns + (units << MMSB_READER_TIME_SHIFT);
}

static inline int mmsb_reader_delta_is_of(const mmsb_reader_delta *delta, const mmsb_reader_page *page)
{
    return delta->index == page->index && delta->generation == page->generation;
}

/* Calls `each` for every range of the page that a delta overwrites, in order. RANGE: one reaches past `size`, CORRUPT:
 * the payload is malformed; some may have been delivered then. UNCHANGED: no delta of this kind has ranges. */
static inline int mmsb_reader_delta_ranges(const mmsb_reader_delta *delta, uint32_t size,
                                           void (*each)(void *context, uint32_t offset, const unsigned char *bytes,
                                                        uint32_t len),
                                           void *context)
{
    const unsigned char *b = delta->bytes;
    uint64_t i, count, table, at = 8;
    if (delta->kind == MMSB_READER_KIND_PATCH) {
        if (delta->len > size || delta->offset > size - delta->len) return MMSB_READER_RANGE;
        each(context, delta->offset, b, (uint32_t)delta->len);
        return MMSB_READER_OK;
    }
    if (delta->kind != MMSB_READER_KIND_RANGES && delta->kind != MMSB_READER_KIND_MASKED) return MMSB_READER_UNCHANGED;
    if (delta->len < 8) return MMSB_READER_CORRUPT;
    count = mmsb_rd_u32(b);
    if (delta->kind == MMSB_READER_KIND_RANGES) {
        at += count * 8;
        if (at > delta->len) return MMSB_READER_CORRUPT;
        for (table = 8; count != 0; count--, table += 8) {
            const uint32_t offset = mmsb_rd_u32(b + table), len = mmsb_rd_u32(b + table + 4);
            if (len > delta->len - at) return MMSB_READER_CORRUPT;
            if (len > size || offset > size - len) return MMSB_READER_RANGE;
            each(context, offset, b + at, len);
            at += len;
        }
        return at == delta->len ? MMSB_READER_OK : MMSB_READER_CORRUPT;
    }
    table = at;
    at += (count + 7) / 8;
    if (at + count != delta->len) return MMSB_READER_CORRUPT;
    if (count > size || delta->offset > size - count) return MMSB_READER_RANGE;
    for (i = 0; i < count; i++) {
        uint64_t run = i;
        while (run < count && (b[table + run / 8] >> (run % 8) & 1)) run++;
        if (run > i) each(context, delta->offset + (uint32_t)i, b + at + i, (uint32_t)(run - i));
        if (run > i) i = run;
    }
    return MMSB_READER_OK;
}

static inline void mmsb_rd_no_range(void *context, uint32_t offset, const unsigned char *bytes, uint32_t len)
{
    (void)context, (void)offset, (void)bytes, (void)len;
}

static inline void mmsb_rd_put_range(void *context, uint32_t offset, const unsigned char *bytes, uint32_t len)
{
    memcpy((unsigned char *)context + offset, bytes, len);
}

/* Copies what a swap made the page's content out of its block, if that still holds it: UNCHANGED if not. */
MMSB_RD_COLD int mmsb_rd_swapped(const mmsb_reader *bus, mmsb_reader_page *page, const mmsb_reader_delta *delta,
                                 void *copy)
{
    const uint64_t words = ((uint64_t)page->size + 7) & ~(uint64_t)7;
    const uint64_t at = (delta->block & (((uint64_t)1 << MMSB_READER_REF_BITS) - 1)) * MMSB_READER_BLOCK_UNIT;
    const struct mmsb_rd_BlockHeader *block;
    int good;
    if (mmsb_rd_room(bus, &page->len, at, sizeof *block + words) != MMSB_READER_OK) return MMSB_READER_UNCHANGED;
    block = (const struct mmsb_rd_BlockHeader *)(const void *)(bus->base + at);
    if (mmsb_rd_acquire64(&block->lsn) != delta->lsn || (uint32_t)mmsb_rd_relaxed64(&block->size) != page->size)
        return MMSB_READER_UNCHANGED;
    mmsb_rd_copy(copy, bus->base + at + sizeof *block, page->size);
    /* Whoever takes the block for something else changes its lsn ahead of the first byte. */
    mmsb_rd_fence();
    good = mmsb_rd_relaxed64(&block->lsn) == delta->lsn; /* validated: swapped block */
    return good ? MMSB_READER_OK : MMSB_READER_UNCHANGED;
}

/* Keeps a private copy of a page up to date: call it with every delta that mmsb_reader_next delivers. `copy` has room
 * for page->size bytes, and `version` says what it holds. Set it to zeros at the start and after each gap: the copy is
 * then read from the page when the first delta of that page comes. (Not before: a delta that was committed ahead of the
 * follower's start may be on its way to the page still. Once the page's next one is committed, it is there.)
 *
 * OK: the copy changed. UNCHANGED: the delta is of another page, is in the copy already, or changes no byte. PAGE_GONE:
 * the page was destroyed. BUSY and other errors of reads: version is zeros again, and the next delta tries anew. */
static inline int mmsb_reader_apply(const mmsb_reader *bus, mmsb_reader_page *page, const mmsb_reader_delta *delta,
                                    void *copy, size_t capacity, mmsb_reader_version *version)
{
    int result;
    if (bus == NULL || page == NULL || delta == NULL || copy == NULL || version == NULL || page->base != bus->base ||
        page->block == NULL)
        return MMSB_READER_ARGUMENT;
    if (capacity < page->size) return MMSB_READER_TOO_SMALL;
    if (!mmsb_reader_delta_is_of(delta, page)) return MMSB_READER_UNCHANGED;
    if (delta->kind == MMSB_READER_KIND_DESTROY) return MMSB_READER_PAGE_GONE;
    if (delta->kind > MMSB_READER_KIND_SWAP) return MMSB_READER_UNCHANGED;
    if (version->lsn != 0 && version->lsn >= delta->lsn) return MMSB_READER_UNCHANGED;
    result = MMSB_READER_OK;
    if (version->lsn == 0) result = mmsb_reader_read(bus, page, copy, page->size, version);
    if (result == MMSB_READER_OK && version->lsn < delta->lsn) {
        if (delta->kind == MMSB_READER_KIND_SWAP) {
            result = mmsb_rd_swapped(bus, page, delta, copy);
            if (result == MMSB_READER_UNCHANGED) {
                /* The block was used again since: so the page is at this delta, or past it. */
                result = mmsb_reader_read(bus, page, copy, page->size, version);
                if (result == MMSB_READER_OK && version->lsn >= delta->lsn) return MMSB_READER_OK;
                if (result == MMSB_READER_OK) result = MMSB_READER_BUSY;
            }
        } else {
            result = mmsb_reader_delta_ranges(delta, page->size, mmsb_rd_no_range, NULL);
            if (result == MMSB_READER_OK) mmsb_reader_delta_ranges(delta, page->size, mmsb_rd_put_range, copy);
            if (result == MMSB_READER_RANGE) result = MMSB_READER_CORRUPT;
        }
        version->epoch++;
        version->lsn = delta->lsn;
    }
    if (result != MMSB_READER_OK) version->epoch = version->lsn = 0;
    return result;
}

#endif
