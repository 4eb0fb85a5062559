/*
 * MMSB, the Memory-Mapped State Bus: the C ABI of libmmsb. Generated from libmmsb/capi: do not edit.
 *
 *     cc program.c $(pkg-config --cflags --libs mmsb)
 *
 * Every function returns a status: MMSB_OK (0), MMSB_NOTHING (1) or a negative number; mmsb_last_error() then says in
 * words what is wrong and what to do. Results come through pointers, and are not touched by a call that fails; but a
 * buffer of bytes may be, and the size needed is told with MMSB_TOO_SMALL.
 *
 * Handles are numbers in structs. A handle that is null, closed, of another kind or another thread's is an error, never a
 * crash. A bus and everything that came from it belongs to the thread that uses it first, until that thread ends; open
 * one for each thread with mmsb_bus_another, or pass MMSB_SERIALISED and let the threads take turns. What a call may be
 * made by is said at each function; none may be made by a signal handler. mmsb_bus_close closes everything that came from
 * the bus. There are no settings of the process as a whole: two libraries in one program can't get in each other's way.
 *
 * Structs that begin with struct_size: set it to sizeof, and the rest of options to 0 (or use MMSB_..._INIT); a library of
 * another version then knows what the program knows. Text is UTF-8 with a NUL at its end. Times are in nanoseconds.
 *
 * After fork the child may not use buses of the parent, nor what came from them (MMSB_FORKED): it opens its own.
 */

#ifndef MMSB_H
#define MMSB_H

#include <stddef.h>
#include <stdint.h>

/**
 * Version of the ABI. It changes when a program that was built against an older header could go wrong.
 */
#define MMSB_ABI_VERSION 1

/**
 * Kind of a delta: one range was overwritten.
 */
#define MMSB_KIND_PATCH 1

/**
 * Kind of a delta: several ranges were.
 */
#define MMSB_KIND_RANGES 2

/**
 * Kind of a delta: bytes under a mask were.
 */
#define MMSB_KIND_MASKED 3

/**
 * Kind of a delta: the whole content was replaced by a published loan.
 */
#define MMSB_KIND_SWAP 4

/**
 * Kind of a delta: the page was made.
 */
#define MMSB_KIND_CREATE 5

/**
 * Kind of a delta: the page was destroyed.
 */
#define MMSB_KIND_DESTROY 6

/**
 * Kind of a delta: its name, schema or metadata changed.
 */
#define MMSB_KIND_DESCRIBE 7

/**
 * Kind of a delta: a source got its number.
 */
#define MMSB_KIND_SOURCE 8

/**
 * Kind of a delta: a mark of the user in the order.
 */
#define MMSB_KIND_MARK 9

/**
 * Flag of `mmsb_bus_options`: calls come from any thread, one at a time. Two at once: the later one gets `MMSB_BUSY`.
 * A call that waits is a call all that time.
 */
#define MMSB_SERIALISED 1

/**
 * Flag of `mmsb_bus_options`: copying the bytes of a page that somebody has cut off the segment gives `MMSB_BUS_GONE`,
 * not a SIGBUS. (What is cut off ahead of the pages, the directory and the ring, can still cause one.) It installs a
 * handler for SIGBUS in this process, which calls the one that was there for whatever is not MMSB's.
 */
#define MMSB_SIGBUS_GUARD 2

/**
 * Flag of `mmsb_bus_options`: writers get `MMSB_BACKPRESSURE` at once when the ring is full, and do not wait.
 */
#define MMSB_FAIL_WHEN_FULL 4

/**
 * Durability: what the bus says by default.
 */
#define MMSB_DURABILITY_DEFAULT 0

/**
 * Durability: a write that returned survives every process, not a reboot.
 */
#define MMSB_VOLATILE 1

/**
 * Durability: a write is on its way to the disk within `flush_ns`.
 */
#define MMSB_BUFFERED 2

/**
 * Durability: a write that returned is on disk.
 */
#define MMSB_SYNCED 3

/**
 * Flag of `mmsb_subscribe_options`: writers wait for this subscriber; it misses nothing, and if it stops reading, they
 * come to a halt. Without it a subscriber that is overtaken gets `MMSB_EVENT_GAP`.
 */
#define MMSB_GATING 1

/**
 * Flag of `mmsb_subscribe_options`: images of all pages follow a gap (with `MMSB_FROM_SNAPSHOT` they do anyway).
 */
#define MMSB_RESYNC 2

/**
 * Flag of `mmsb_subscribe_options`: no images follow a gap.
 */
#define MMSB_NO_RESYNC 4

/**
 * Begin with the next delta.
 */
#define MMSB_FROM_NOW 0

/**
 * Begin with an image of each page, then every later delta.
 */
#define MMSB_FROM_SNAPSHOT 1

/**
 * Begin with the delta at `lsn` of `incarnation`, from the log in `log_dir` as far as it goes, then from the ring.
 */
#define MMSB_FROM_LSN 2

/**
 * Wait by polling for some 20 µs, then sleeping.
 */
#define MMSB_WAIT_DEFAULT 0

/**
 * Wait by polling without pause: lowest latency, one core.
 */
#define MMSB_WAIT_SPIN 1

/**
 * Wait by sleeping at once.
 */
#define MMSB_WAIT_PARK 2

/**
 * Event: a copy of a page, in `bytes`.
 */
#define MMSB_EVENT_IMAGE 1

/**
 * Event: a delta. Its bytes are in `ranges` (a mark's in `bytes`).
 */
#define MMSB_EVENT_DELTA 2

/**
 * Event: a page was made; `info` describes it.
 */
#define MMSB_EVENT_CREATED 3

/**
 * Event: a page got a name with the prefix; an image of it follows.
 */
#define MMSB_EVENT_ENTERED 4

/**
 * Event: name, schema or metadata of a page changed; `info` describes it.
 */
#define MMSB_EVENT_DESCRIBED 5

/**
 * Event: a page lost the name with the prefix; no more is heard of it.
 */
#define MMSB_EVENT_LEFT 6

/**
 * Event: a page was destroyed.
 */
#define MMSB_EVENT_DESTROYED 7

/**
 * Event: deltas from `gap_from` on and ahead of `gap_to` were missed; pages hold what they did.
 */
#define MMSB_EVENT_GAP 8

/**
 * State of a log: the bus has none.
 */
#define MMSB_LOG_NONE 0

/**
 * State of a log: a supervisor writes it, or did when it died.
 */
#define MMSB_LOG_RUNNING 1

/**
 * State of a log: a write or sync failed (`error`); nothing since is durable.
 */
#define MMSB_LOG_FAILED 2

/**
 * State of a log: it was closed in good order.
 */
#define MMSB_LOG_CLOSED 3

/**
 * State of a log: nothing is durable before its first checkpoint.
 */
#define MMSB_LOG_BEGINNING 4

/**
 * A moment: the state behind the delta at an LSN.
 */
#define MMSB_AT_LSN 0

/**
 * A moment: CLOCK_REALTIME in ns; deltas are stamped to about a millisecond.
 */
#define MMSB_AT_TIME 1

/**
 * A moment: the end of the log; the value is not looked at.
 */
#define MMSB_AT_END 2

/**
 * A chain ends here: nothing on the bus caused it.
 */
#define MMSB_CHAIN_OUTSIDE 0

/**
 * A chain ends here: retention removed the next cause.
 */
#define MMSB_CHAIN_GONE 1

/**
 * A chain ends here: there is no record where the next cause should be.
 */
#define MMSB_CHAIN_NO_RECORD 2

/**
 * A chain ends here: the cause named is not earlier than the record.
 */
#define MMSB_CHAIN_NOT_EARLIER 3

/**
 * A chain goes on, but was to be no longer.
 */
#define MMSB_CHAIN_TOO_LONG 4

/**
 * What a function returns. Numbers are never reused or renumbered; later versions may add some: treat an unknown
 * negative number as a failure. Unless a status says otherwise, nothing was changed.
 */
enum mmsb_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Done.
   */
  MMSB_OK = 0,
  /**
   * Not a failure: nothing to tell yet (no event in time, nothing newer).
   */
  MMSB_NOTHING = 1,
  /**
   * An argument is null, out of its range, or not UTF-8.
   */
  MMSB_INVALID = -1,
  /**
   * Null, no handle at all, or one of another kind.
   */
  MMSB_BAD_HANDLE = -2,
  /**
   * The handle, or its bus, was closed.
   */
  MMSB_STALE_HANDLE = -3,
  /**
   * The handle belongs to another thread, which has not ended.
   */
  MMSB_WRONG_THREAD = -4,
  /**
   * Another thread is inside a call with this serialised handle. Callers must take turns.
   */
  MMSB_BUSY = -5,
  /**
   * The bus was opened for observing only.
   */
  MMSB_READ_ONLY = -6,
  /**
   * The page belongs to another bus, or another attachment of it.
   */
  MMSB_OTHER_BUS = -7,
  /**
   * The program was built against an ABI or options that this library does not know.
   */
  MMSB_ABI_MISMATCH = -8,
  /**
   * The buffer is too small; the size needed is told.
   */
  MMSB_TOO_SMALL = -9,
  /**
   * A defect of the library: an internal error was caught. Please report its message.
   */
  MMSB_INTERNAL = -10,
  /**
   * There is no bus, page, field, log or directory of this name.
   */
  MMSB_MISSING = -20,
  /**
   * The page was destroyed.
   */
  MMSB_PAGE_GONE = -21,
  /**
   * The bus was removed or replaced: attach again.
   */
  MMSB_BUS_GONE = -22,
  /**
   * Something of this name exists already.
   */
  MMSB_EXISTS = -23,
  /**
   * A name that cannot be one.
   */
  MMSB_BAD_NAME = -24,
  /**
   * A value of the configuration is out of range.
   */
  MMSB_BAD_CONFIG = -25,
  /**
   * The kernel refused access, or the segment belongs to a user with no claim to trust.
   */
  MMSB_PERMISSION = -26,
  /**
   * The segment is not MMSB's, of another layout, or truncated.
   */
  MMSB_WRONG_LAYOUT = -27,
  /**
   * Bytes in shared memory that no correct participant writes. `mmsb doctor` looks into it.
   */
  MMSB_CORRUPT = -28,
  /**
   * No room: in the tmpfs, in the bus, or in one of its tables.
   */
  MMSB_FULL = -29,
  /**
   * Somebody is creating the bus right now: try again in a moment.
   */
  MMSB_INITIALISING = -30,
  /**
   * The handle was copied by fork: the child must attach for itself.
   */
  MMSB_FORKED = -31,
  /**
   * A range outside the page, ranges out of order, or lengths that do not match.
   */
  MMSB_OUT_OF_RANGE = -32,
  /**
   * The page's size, schema or field type is not the one asked for.
   */
  MMSB_WRONG_SCHEMA = -33,
  /**
   * Text that is no schema, or no value of the field.
   */
  MMSB_BAD_SCHEMA = -34,
  /**
   * The page has no schema.
   */
  MMSB_NO_SCHEMA = -35,
  /**
   * The delta does not fit the ring.
   */
  MMSB_TOO_LARGE = -36,
  /**
   * A living participant kept something for longer than the timeout. The same call may succeed later.
   */
  MMSB_TIMEOUT = -40,
  /**
   * The ring is full and somebody holds it. The same call may succeed later.
   */
  MMSB_BACKPRESSURE = -41,
  /**
   * As MMSB_BACKPRESSURE: the log holds it, and nobody supervises the bus.
   */
  MMSB_NO_SUPERVISOR = -42,
  /**
   * The delta IS committed and visible, and is not on disk. Do not write it again; wait for it with
   * mmsb_wait_durable.
   */
  MMSB_NOT_DURABLE = -43,
  /**
   * A page that the transaction read has changed; nothing was written. Begin again.
   */
  MMSB_CONFLICT = -44,
  /**
   * An observer found no quiet moment. Try again, or read as a participant.
   */
  MMSB_CONTENDED = -45,
  /**
   * Nothing moves behind an LSN, and an observer cannot repair it.
   */
  MMSB_STALLED = -46,
  /**
   * The page's content is no loaned block.
   */
  MMSB_NOT_LOANED = -47,
  /**
   * Too many loans, views or leases at once.
   */
  MMSB_TOO_MANY_HELD = -48,
  /**
   * Files of a log are damaged, foreign, or of a newer version.
   */
  MMSB_LOG = -60,
  /**
   * A checkpoint is damaged or foreign.
   */
  MMSB_CHECKPOINT = -61,
  /**
   * The log does not reach back, or not yet, to what was asked for.
   */
  MMSB_NOT_IN_LOG = -62,
  /**
   * An LSN of a past that was given up when the bus was rebuilt.
   */
  MMSB_DIVERGED = -63,
  /**
   * The supervisor of the bus reported a failure.
   */
  MMSB_SUPERVISOR = -64,
  /**
   * The kernel refused something else; the message says what.
   */
  MMSB_IO = -65,
  /**
   * Any other failure; the message says what.
   */
  MMSB_FAILED = -66,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum mmsb_status mmsb_status;
#else
typedef int32_t mmsb_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How to make or attach to a bus. Set `struct_size` and `abi`, and leave 0 what shall be as it is by default; or use
 * `MMSB_BUS_OPTIONS_INIT`.
 */
typedef struct mmsb_bus_options {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * `MMSB_ABI_VERSION`.
   */
  uint32_t abi;
  /**
   * `MMSB_SERIALISED` and others, or-ed.
   */
  uint32_t flags;
  /**
   * Of writes through this handle: `MMSB_SYNCED` and others.
   */
  uint32_t durability;
  /**
   * Directory of the segments; null: `$MMSB_DIR`, else `/dev/shm`.
   */
  const char *dir;
  /**
   * Name of this participant, of which 46 bytes are kept; its deltas carry it as their source. Null: `pid N`.
   */
  const char *source;
  /**
   * Directory of the log: the bus gets one, and this process supervises it unless another one does. Null: none.
   */
  const char *log_dir;
  /**
   * Longest wait for a living participant, or for room in the ring, in ns; 0: 5 s.
   */
  uint64_t timeout_ns;
  /**
   * With `MMSB_BUFFERED`: greatest age of a delta that is not on its way to the disk, in ns.
   */
  uint64_t flush_ns;
  /**
   * Only when the bus is made: greatest size in bytes, address space only until used.
   */
  uint64_t bytes_max;
  /**
   * Only when the bus is made: size of the delta ring in bytes.
   */
  uint64_t ring_bytes;
  /**
   * Only when the bus is made: most pages at one time.
   */
  uint32_t pages_max;
  /**
   * Only when the bus is made: most pages with a name, schema or metadata.
   */
  uint32_t names_max;
  /**
   * Only when the bus is made: most participants at one time.
   */
  uint32_t participants_max;
  /**
   * Only when the bus is made: most subscriptions of participants at one time.
   */
  uint32_t cursors_max;
  /**
   * Only when the bus is made: most source names.
   */
  uint32_t sources_max;
  /**
   * Only when the bus is made: permission bits for those who may observe, such as 0644.
   */
  uint32_t mode;
  /**
   * Only when the bus is made: permission bits for those who may write, such as 0660.
   */
  uint32_t ctl_mode;
  /**
   * 0.
   */
  uint32_t reserved;
} mmsb_bus_options;

/**
 * A bus: one participant, or an observer. `{0}` is none.
 *
 * It and everything that comes from it (pages, batches, subscriptions, …) belongs to the thread that uses it first,
 * until that thread ends; then to the next one. With `MMSB_SERIALISED` any thread may use it, one at a time.
 */
typedef struct mmsb_bus {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_bus;

/**
 * A result of many items, of one kind. It is a copy: it stays as it is whatever the bus does, and lives until
 * `mmsb_list_close`. Pointers that come out of it live as long. It belongs to the thread that uses it first, until
 * that ends; one of a serialised bus to any thread, one at a time. Asked for an item of another kind, it is
 * `MMSB_BAD_HANDLE`.
 */
typedef struct mmsb_list {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_list;

/**
 * What a bus is. Set `struct_size` before the call.
 */
typedef struct mmsb_bus_info {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * Permission bits of the pages.
   */
  uint32_t mode;
  /**
   * Random, the same for all who have this bus.
   */
  uint8_t bus_id[16];
  /**
   * Grows by one at each rebuild from a log; LSNs compare within one.
   */
  uint64_t incarnation;
  /**
   * CLOCK_REALTIME at creation, in ns.
   */
  uint64_t created_ns;
  /**
   * Greatest size, in bytes.
   */
  uint64_t bytes_max;
  /**
   * Size now, in bytes.
   */
  uint64_t len_bytes;
  /**
   * Memory that the kernel has given to it, in bytes.
   */
  uint64_t memory_bytes;
  /**
   * Size of the delta ring, in bytes.
   */
  uint64_t ring_bytes;
  /**
   * Most pages at one time.
   */
  uint32_t pages_max;
  /**
   * Most names at one time.
   */
  uint32_t names_max;
  /**
   * Most participants at one time; 0: an observer does not know.
   */
  uint32_t participants_max;
  /**
   * Most cursors at one time; 0: an observer does not know.
   */
  uint32_t cursors_max;
  /**
   * User that it belongs to.
   */
  uint32_t uid;
  /**
   * Group that it belongs to.
   */
  uint32_t gid;
} mmsb_bus_info;

/**
 * How a bus is: sums over its life, and what is in it now. Set `struct_size` before the call.
 */
typedef struct mmsb_stats {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Pages there are.
   */
  uint64_t pages;
  /**
   * Pages with a name.
   */
  uint64_t names;
  /**
   * Source names in use.
   */
  uint64_t sources;
  /**
   * Participants there are.
   */
  uint64_t participants;
  /**
   * Cursors in use.
   */
  uint64_t cursors;
  /**
   * Everything ahead of this LSN is published.
   */
  uint64_t published_lsn;
  /**
   * Next LSN to be given out.
   */
  uint64_t end_lsn;
  /**
   * Records ahead of this LSN may be overwritten.
   */
  uint64_t floor_lsn;
  /**
   * Deltas committed.
   */
  uint64_t deltas;
  /**
   * Bytes that they wrote.
   */
  uint64_t bytes;
  /**
   * Times that a writer waited.
   */
  uint64_t waits;
  /**
   * Reads and commits that were begun again.
   */
  uint64_t retries;
} mmsb_stats;

/**
 * Names one page for ever. Generations count from 1: all-zero names none.
 */
typedef struct mmsb_page_id {
  /**
   * Index into the page directory.
   */
  uint32_t index;
  /**
   * Which of the pages that had this index.
   */
  uint32_t generation;
} mmsb_page_id;

/**
 * State of a page: how often it was written, and by which delta last.
 */
typedef struct mmsb_page_version {
  /**
   * Deltas since the page was made.
   */
  uint64_t epoch;
  /**
   * LSN of the last one; 0: none.
   */
  uint64_t lsn;
} mmsb_page_version;

/**
 * What a page is. Set `struct_size` before the call.
 */
typedef struct mmsb_page_info {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * Bytes of the page.
   */
  uint32_t size;
  /**
   * Its id.
   */
  struct mmsb_page_id id;
  /**
   * Version slots: 1 for an ordinary page, more for a cell.
   */
  uint32_t versions;
  /**
   * 1: its content is a published loan.
   */
  uint32_t is_loaned;
  /**
   * As last seen.
   */
  struct mmsb_page_version version;
  /**
   * Its name; empty: none.
   */
  const char *name;
  /**
   * Its schema in the text form, such as `price:f64,bids:f64[10]`; empty: none.
   */
  const char *schema;
  /**
   * The encoded schema, as docs/layout.md has it.
   */
  const uint8_t *schema_bytes;
  /**
   * Bytes of that.
   */
  size_t schema_len;
  /**
   * Hash of the schema; 0: none.
   */
  uint64_t schema_hash;
  /**
   * Metadata entries: `mmsb_list_meta` reads them.
   */
  size_t meta_count;
} mmsb_page_info;

/**
 * A copy of a page.
 */
typedef struct mmsb_image {
  /**
   * Of which page.
   */
  struct mmsb_page_id id;
  /**
   * In which state.
   */
  struct mmsb_page_version version;
  /**
   * Its bytes.
   */
  const uint8_t *bytes;
  /**
   * How many.
   */
  size_t size;
} mmsb_image;

/**
 * A participant of a bus. Set `struct_size` before the call.
 */
typedef struct mmsb_participant {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * Its slot.
   */
  uint32_t index;
  /**
   * Its process, as numbered in its own PID namespace.
   */
  uint32_t pid;
  /**
   * 1: alive; 0: dead, and not recovered yet.
   */
  uint32_t is_alive;
  /**
   * Inode of its PID namespace.
   */
  uint64_t pid_namespace;
  /**
   * CLOCK_REALTIME when it joined, in ns.
   */
  uint64_t joined_ns;
  /**
   * LSN of its unfinished commit; 0: none.
   */
  uint64_t hold_lsn;
  /**
   * Deltas that it committed.
   */
  uint64_t deltas;
  /**
   * Bytes of those.
   */
  uint64_t bytes;
  /**
   * Times that it waited.
   */
  uint64_t waits;
  /**
   * Times that it began again.
   */
  uint64_t retries;
  /**
   * Its name.
   */
  const char *name;
} mmsb_participant;

/**
 * What changed a page, as its log tells, or a record of a chain of causes. Set `struct_size` before the call.
 */
typedef struct mmsb_change {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * `MMSB_KIND_PATCH` or another.
   */
  int32_t kind;
  /**
   * Its place in the order.
   */
  uint64_t lsn;
  /**
   * CLOCK_REALTIME, in ns, exact to about a millisecond.
   */
  uint64_t time_ns;
  /**
   * LSN of the delta that caused it; 0: none was named.
   */
  uint64_t cause;
  /**
   * Of which page.
   */
  struct mmsb_page_id page;
  /**
   * Number of its source.
   */
  uint32_t source;
  /**
   * 1: part of a transaction.
   */
  uint32_t in_transaction;
  /**
   * Name of its source; empty: unknown.
   */
  const char *source_name;
  /**
   * Name of the page; empty: none, or the list is about one page.
   */
  const char *page_name;
  /**
   * Ranges that it wrote: `mmsb_list_change_range` reads them.
   */
  size_t ranges;
} mmsb_change;

/**
 * Bytes before and after.
 */
typedef struct mmsb_changed_range {
  /**
   * First byte in the page.
   */
  uint32_t offset;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * What was there; null: unknown, or the page was not there.
   */
  const uint8_t *old_bytes;
  /**
   * How many.
   */
  size_t old_len;
  /**
   * What is there since; null: the page is gone.
   */
  const uint8_t *new_bytes;
  /**
   * How many.
   */
  size_t new_len;
} mmsb_changed_range;

/**
 * A page that is not the same at two moments. Set `struct_size` before the call.
 */
typedef struct mmsb_page_diff {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * 1: it was there at the earlier moment.
   */
  uint32_t is_before;
  /**
   * 1: it is there at the later one.
   */
  uint32_t is_after;
  /**
   * 1: its name, schema or metadata are others.
   */
  uint32_t is_redescribed;
  /**
   * Its id.
   */
  struct mmsb_page_id id;
  /**
   * Its state at the earlier moment.
   */
  struct mmsb_page_version before;
  /**
   * Its state at the later one.
   */
  struct mmsb_page_version after;
  /**
   * Ranges that differ: `mmsb_list_change_range` reads them.
   */
  size_t ranges;
} mmsb_page_diff;

/**
 * How to make a page. Set `struct_size`, and leave 0 what shall be as it is by default; or use
 * `MMSB_PAGE_OPTIONS_INIT`.
 */
typedef struct mmsb_page_options {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * Version slots: 0 or 1 an ordinary page, 4 to 64 a cell, for small values that are written and read all the time.
   */
  uint32_t versions;
  /**
   * Bytes of the page, at most 1 GiB; 0: as many as the schema describes.
   */
  uint64_t size;
  /**
   * Its name, at most 255 bytes; null: none.
   */
  const char *name;
  /**
   * Its schema in the text form, such as `price:f64,bids:f64[10]`; null: none.
   */
  const char *schema;
  /**
   * Keys of its metadata.
   */
  const char *const *meta_keys;
  /**
   * Values of its metadata.
   */
  const char *const *meta_values;
  /**
   * How many there are of each.
   */
  size_t meta_count;
} mmsb_page_options;

/**
 * A page of an open bus. `{0}` is none. It ends with its bus, and belongs to the same thread.
 */
typedef struct mmsb_page {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_page;

/**
 * Bytes of a page to overwrite.
 */
typedef struct mmsb_range {
  /**
   * First byte in the page.
   */
  size_t offset;
  /**
   * What to write there.
   */
  const uint8_t *bytes;
  /**
   * How many.
   */
  size_t len;
} mmsb_range;

/**
 * Where a field is in its page. It stays good as long as the page keeps its schema.
 */
typedef struct mmsb_field {
  /**
   * First byte.
   */
  uint32_t offset;
  /**
   * Bytes in all.
   */
  uint32_t size;
  /**
   * Elements; of text: bytes.
   */
  uint32_t count;
  /**
   * Type of an element: 1 u8, 2 i8, 3 u16, 4 i16, 5 u32, 6 i32, 7 u64, 8 i64, 9 f32, 10 f64, 11 bool, 12 char.
   */
  uint32_t element_type;
} mmsb_field;

/**
 * Several deltas to be published together: quicker than one by one, each complete in itself, in one piece in the
 * order. `{0}` is none. It ends with its bus, and belongs to the same thread.
 */
typedef struct mmsb_batch {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_batch;

/**
 * Where a commit is in the order of the bus.
 */
typedef struct mmsb_receipt {
  /**
   * LSN of its first delta.
   */
  uint64_t first;
  /**
   * LSN of its last delta; 0: it was empty.
   */
  uint64_t last;
  /**
   * LSN of whatever comes next.
   */
  uint64_t end;
} mmsb_receipt;

/**
 * Changes of several pages, all or nothing, for every reader at once. `{0}` is none. It ends with its commit, or with
 * its bus, and belongs to the same thread.
 *
 * It locks nothing before it commits: if another writer changed a page that it read, the commit returns
 * `MMSB_CONFLICT`, and the program begins again.
 */
typedef struct mmsb_transaction {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_transaction;

/**
 * A fresh block for the next content of a page, to be filled in place. `{0}` is none. It ends with its publication, or
 * with its bus, and belongs to the same thread.
 */
typedef struct mmsb_loan {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_loan;

/**
 * A published loan that is looked at in place. `{0}` is none. It ends with its bus, and belongs to the same thread.
 */
typedef struct mmsb_view {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_view;

/**
 * A page that is kept for many writes. `{0}` is none. It ends with its bus, and belongs to the same thread.
 */
typedef struct mmsb_lease {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_lease;

/**
 * What to follow, and how. All-zero but for `struct_size`: everything, from now on, lossy.
 */
typedef struct mmsb_subscribe_options {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * `MMSB_GATING` and others, or-ed.
   */
  uint32_t flags;
  /**
   * `MMSB_FROM_NOW` or another.
   */
  uint32_t from;
  /**
   * `MMSB_WAIT_DEFAULT` or another.
   */
  uint32_t wait;
  /**
   * Only pages whose name begins with it, those that come later too; null: no such limit.
   */
  const char *prefix;
  /**
   * Only these pages; not together with `prefix`.
   */
  const struct mmsb_page_id *pages;
  /**
   * How many.
   */
  size_t pages_count;
  /**
   * With `MMSB_FROM_LSN`: the first delta wanted.
   */
  uint64_t lsn;
  /**
   * With `MMSB_FROM_LSN`: incarnation that the LSN is of; 0: that of the bus now.
   */
  uint64_t incarnation;
  /**
   * With `MMSB_FROM_LSN`: directory of the log; null: this handle supervises the bus, and knows.
   */
  const char *log_dir;
} mmsb_subscribe_options;

/**
 * A place in the order of a bus, with a filter. `{0}` is none. It ends with its bus, and belongs to the same thread.
 */
typedef struct mmsb_subscription {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_subscription;

/**
 * What a subscription tells. Set `struct_size` before the call. Pointers live until the next call with the same
 * subscription.
 */
typedef struct mmsb_event {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * `MMSB_EVENT_DELTA` or another; treat an unknown one as nothing.
   */
  uint32_t event;
  /**
   * About which page; all-zero: none.
   */
  struct mmsb_page_id page;
  /**
   * Of an image: its state. Of a delta: its LSN (epoch 0).
   */
  struct mmsb_page_version version;
  /**
   * Of a delta: `MMSB_KIND_PATCH` or another.
   */
  int32_t kind;
  /**
   * Of a delta: number of its source.
   */
  uint32_t source;
  /**
   * Of a delta: CLOCK_REALTIME, in ns, exact to about a millisecond.
   */
  uint64_t time_ns;
  /**
   * Of a delta: LSN of the one that caused it; 0: none was named.
   */
  uint64_t cause;
  /**
   * Of a delta: 1 if it is part of a transaction.
   */
  uint32_t in_transaction;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Of a delta: what it wrote.
   */
  const struct mmsb_range *ranges;
  /**
   * How many ranges.
   */
  size_t ranges_count;
  /**
   * Of an image: the page; of a mark: its bytes.
   */
  const uint8_t *bytes;
  /**
   * How many bytes.
   */
  size_t len;
  /**
   * Of a delta: name of its source, empty if unknown.
   */
  const char *source_name;
  /**
   * Of a gap: first LSN that was missed.
   */
  uint64_t gap_from;
  /**
   * Of a gap: where it ends.
   */
  uint64_t gap_to;
  /**
   * Of MMSB_EVENT_CREATED, _ENTERED and _DESCRIBED: what the page is, without its metadata.
   */
  struct mmsb_page_info info;
} mmsb_event;

/**
 * How a subscription is. Set `struct_size` before the call.
 */
typedef struct mmsb_subscription_stats {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * 1: writers wait for it.
   */
  uint32_t is_gating;
  /**
   * Next LSN that it will look at.
   */
  uint64_t position;
  /**
   * LSNs that it missed.
   */
  uint64_t missed;
  /**
   * Ring slots between its position and the end; 0 for observers.
   */
  uint64_t lag;
  /**
   * Gaps; 0 for observers.
   */
  uint64_t gaps;
  /**
   * Deltas that it took; 0 for observers.
   */
  uint64_t deltas;
  /**
   * Images that it took; 0 for observers.
   */
  uint64_t images;
  /**
   * Images in the place of a loan that was gone already; 0 for observers.
   */
  uint64_t conflated;
  /**
   * With `MMSB_FROM_SNAPSHOT`, once all images are delivered: the greatest LSN of an image. Who has taken every
   * event to this LSN holds one consistent state of all pages. 0: not yet, or no images.
   */
  uint64_t consistent_lsn;
} mmsb_subscription_stats;

/**
 * How the log of a bus is. Set `struct_size` before the call.
 */
typedef struct mmsb_log_status {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * `MMSB_LOG_RUNNING` or another.
   */
  uint32_t state;
  /**
   * Error number of a failed log.
   */
  uint32_t error;
  /**
   * 1: somebody supervises the bus; 0: nobody; 2: an observer does not know.
   */
  uint32_t is_supervised;
  /**
   * Everything ahead of this LSN is on disk.
   */
  uint64_t durable_lsn;
  /**
   * Next LSN to be given out.
   */
  uint64_t end_lsn;
  /**
   * First LSN that the log still holds.
   */
  uint64_t from_lsn;
  /**
   * Incarnation of the bus.
   */
  uint64_t incarnation;
  /**
   * Where the incarnation begins.
   */
  uint64_t fork_lsn;
  /**
   * LSN that the newest checkpoint holds; 0: none.
   */
  uint64_t checkpoint_lsn;
  /**
   * CLOCK_REALTIME of the newest checkpoint, in ns.
   */
  uint64_t checkpoint_ns;
} mmsb_log_status;

/**
 * A checkpoint. Set `struct_size` before the call.
 */
typedef struct mmsb_checkpoint_info {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Replay begins here.
   */
  uint64_t begin_lsn;
  /**
   * It serves the states from here on.
   */
  uint64_t end_lsn;
  /**
   * CLOCK_REALTIME when it was done, in ns.
   */
  uint64_t time_ns;
  /**
   * Pages in it.
   */
  uint64_t pages;
  /**
   * Bytes of the pages.
   */
  uint64_t page_bytes;
  /**
   * Bytes of the file.
   */
  uint64_t file_bytes;
} mmsb_checkpoint_info;

/**
 * The log of a bus, as files: it needs no bus, and may be a copy. `{0}` is none. It belongs to the thread that uses it
 * first, until that ends.
 */
typedef struct mmsb_log {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_log;

/**
 * What a log covers.
 */
typedef struct mmsb_log_bounds {
  /**
   * LSN of the oldest record.
   */
  uint64_t first_lsn;
  /**
   * The oldest LSN of which the state can be rebuilt.
   */
  uint64_t oldest_state;
  /**
   * LSN behind the last record.
   */
  uint64_t end_lsn;
} mmsb_log_bounds;

/**
 * A moment in the past of a bus.
 */
typedef struct mmsb_at {
  /**
   * `MMSB_AT_LSN` or another.
   */
  uint32_t kind;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * LSN, or ns.
   */
  uint64_t value;
} mmsb_at;

/**
 * The pages of a bus at one moment, in memory of this process. `{0}` is none. It belongs to the thread that uses it
 * first, until that ends.
 */
typedef struct mmsb_state {
  /**
   * A number that means nothing outside this process.
   */
  uint64_t handle;
} mmsb_state;

/**
 * What a state is. Set `struct_size` before the call.
 */
typedef struct mmsb_state_info {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * LSN behind the last delta in it.
   */
  uint64_t lsn;
  /**
   * CLOCK_REALTIME of that, in ns.
   */
  uint64_t time_ns;
  /**
   * Incarnation that it is of.
   */
  uint64_t incarnation;
  /**
   * Pages in it.
   */
  uint64_t pages;
  /**
   * Hash of all of it: equal for equal states, on every machine.
   */
  uint8_t hash[16];
} mmsb_state_info;

/**
 * What a replay did. Set `struct_size` before the call.
 */
typedef struct mmsb_replayed {
  /**
   * `sizeof` this struct.
   */
  uint32_t struct_size;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Recorded LSN where it began.
   */
  uint64_t from_lsn;
  /**
   * Recorded LSN where it ended.
   */
  uint64_t to_lsn;
  /**
   * Records.
   */
  uint64_t records;
  /**
   * Bytes of pages that they wrote.
   */
  uint64_t bytes;
  /**
   * Pages made.
   */
  uint64_t created;
  /**
   * Records left out because nothing is known of their page.
   */
  uint64_t skipped;
} mmsb_replayed;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the ABI that this library speaks. Compare with `MMSB_ABI_VERSION` of the header.
 *
 * Any thread.
 */
uint32_t mmsb_abi_version(void);

/**
 * Whether a program built against ABI version `built_against` (its `MMSB_ABI_VERSION`) may use this library.
 *
 * Any thread. `MMSB_ABI_MISMATCH` if not.
 */
mmsb_status mmsb_check_abi(uint32_t built_against);

/**
 * Version of the library, such as `0.1.0`. Lives for ever.
 *
 * Any thread.
 */
const char *mmsb_version(void);

/**
 * What the last call of this thread that failed had to say, for people: in English, and what to do about it. Never
 * null; empty if nothing failed. It lives until the next failure in this thread.
 *
 * Any thread.
 */
const char *mmsb_last_error(void);

/**
 * Name of a status, such as `MMSB_TIMEOUT`; `MMSB_?` for a number that this library does not know. Never null, lives
 * for ever.
 *
 * Any thread.
 */
const char *mmsb_status_name(int32_t status);

/**
 * Makes a bus that does not exist, and attaches to it.
 *
 * Any thread. `MMSB_EXISTS`, `MMSB_BAD_NAME`, `MMSB_BAD_CONFIG`, `MMSB_FULL`, `MMSB_PERMISSION`, and what the log
 * says.
 */
mmsb_status mmsb_bus_create(const char *name, const struct mmsb_bus_options *options, struct mmsb_bus *bus);

/**
 * Attaches to a bus that exists, as a participant that may read and write.
 *
 * Any thread. `MMSB_MISSING`, `MMSB_INITIALISING`, `MMSB_PERMISSION`, `MMSB_WRONG_LAYOUT`, `MMSB_FULL` (all
 * participant slots are taken), `MMSB_BUS_GONE`, `MMSB_CORRUPT` (what a dead participant left: `mmsb doctor` helps),
 * `MMSB_TIMEOUT`.
 */
mmsb_status mmsb_bus_attach(const char *name, const struct mmsb_bus_options *options, struct mmsb_bus *bus);

/**
 * Attaches to a bus, or makes it, or brings it back from its log. Whoever else does the same at the same moment gets
 * the same bus.
 *
 * Any thread. As `mmsb_bus_create` and `mmsb_bus_attach`.
 */
mmsb_status mmsb_bus_open_or_create(const char *name, const struct mmsb_bus_options *options, struct mmsb_bus *bus);

/**
 * Opens a bus for reading only: needs no more than read permission, takes no participant's slot, can neither harm nor
 * delay anybody.
 *
 * Any thread. As `mmsb_bus_attach`.
 */
mmsb_status mmsb_bus_observe(const char *name, const struct mmsb_bus_options *options, struct mmsb_bus *bus);

/**
 * Joins a bus once more, for another thread, which may be the one that uses `other` first. `source` is its name, or
 * null for that of `bus`.
 *
 * The thread of `bus`. `MMSB_FULL`, `MMSB_READ_ONLY` (open an observer for each thread).
 */
mmsb_status mmsb_bus_another(struct mmsb_bus bus, const char *source, struct mmsb_bus *other);

/**
 * Lets the next thread that uses it have a bus and everything that came from it, while this one lives on: the program
 * says so to the other thread by means of its own. Nothing changes for a serialised bus.
 *
 * The thread of `bus`.
 */
mmsb_status mmsb_bus_release(struct mmsb_bus bus);

/**
 * Closes everything that came from the bus, but lists, and leaves it; ends its supervisor if no other handle of this
 * process has it: writes what is in the ring and seals the log. The handle is stale afterwards, also with
 * `MMSB_SUPERVISOR`. In a child of fork it frees memory and nothing else: the bus is the parent's.
 *
 * The thread of `bus`. `MMSB_SUPERVISOR`: the log could not be ended in good order.
 */
mmsb_status mmsb_bus_close(struct mmsb_bus bus);

/**
 * Removes a bus: its names go at once, its memory when the last one who has it mapped leaves. `dir` may be null.
 *
 * Any thread. `MMSB_MISSING`, `MMSB_PERMISSION`.
 */
mmsb_status mmsb_bus_unlink(const char *dir, const char *name);

/**
 * Lists the names of the buses in a directory (null: the default one). Read them with `mmsb_list_name`.
 *
 * Any thread. `MMSB_IO`.
 */
mmsb_status mmsb_bus_list(const char *dir, struct mmsb_list *list);

/**
 * What the bus is.
 *
 * The thread of `bus`.
 */
mmsb_status mmsb_bus_get_info(struct mmsb_bus bus, struct mmsb_bus_info *info);

/**
 * How the bus is. It walks all blocks: milliseconds on a large bus.
 *
 * The thread of `bus`. `MMSB_READ_ONLY`, `MMSB_CORRUPT`.
 */
mmsb_status mmsb_bus_get_stats(struct mmsb_bus bus, struct mmsb_stats *stats);

/**
 * Lists the participants of a bus. Read them with `mmsb_list_participant`.
 *
 * The thread of `bus`. `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_bus_participants(struct mmsb_bus bus, struct mmsb_list *list);

/**
 * Lists the event counters of a bus. Read them with `mmsb_list_counter`.
 *
 * The thread of `bus`.
 */
mmsb_status mmsb_bus_counters(struct mmsb_bus bus, struct mmsb_list *list);

/**
 * Finishes the work of participants that died. Nobody has to: whoever waits for them does it. `recovered` may be null.
 *
 * The thread of `bus`. `MMSB_READ_ONLY`, `MMSB_CORRUPT`.
 */
mmsb_status mmsb_bus_recover(struct mmsb_bus bus, uint32_t *recovered);

/**
 * Whether the name of the bus still leads here: `MMSB_OK`, or `MMSB_BUS_GONE` once it was removed or replaced.
 *
 * The thread of `bus`. `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_bus_check(struct mmsb_bus bus);

/**
 * Where the order of the bus ends now, unfinished deltas included: what follows from here is new. Cheap enough to ask
 * all the time.
 *
 * The thread of `bus`. `MMSB_FORKED`.
 */
mmsb_status mmsb_bus_end_lsn(struct mmsb_bus bus, uint64_t *lsn);

/**
 * Name of a source, from the number that deltas carry. `needed` (may be null) gets the bytes that it takes with its
 * NUL.
 *
 * The thread of `bus`. `MMSB_MISSING`, `MMSB_TOO_SMALL`.
 */
mmsb_status mmsb_bus_source_name(struct mmsb_bus bus, uint16_t source, char *buffer, size_t size, size_t *needed);

/**
 * How many items a list has.
 *
 * The thread of `list`.
 */
mmsb_status mmsb_list_len(struct mmsb_list list, size_t *len);

/**
 * Ends a list.
 *
 * The thread of `list`.
 */
mmsb_status mmsb_list_close(struct mmsb_list list);

/**
 * An item of a list of names.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_name(struct mmsb_list list, size_t index, const char **name);

/**
 * An item of a list of pages.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_page(struct mmsb_list list, size_t index, struct mmsb_page_info *info);

/**
 * Metadata entry `entry` of page `index` of a list of pages.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_meta(struct mmsb_list list, size_t index, size_t entry, const char **key, const char **value);

/**
 * An item of a list of page images.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_image(struct mmsb_list list, size_t index, struct mmsb_image *image);

/**
 * An item of a list of participants.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_participant(struct mmsb_list list, size_t index, struct mmsb_participant *participant);

/**
 * An item of a list of counters.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_counter(struct mmsb_list list, size_t index, const char **name, uint64_t *count);

/**
 * An item of a list of changes: a history, or a chain of causes.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_change(struct mmsb_list list, size_t index, struct mmsb_change *change);

/**
 * Range `range` of change `index`.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_change_range(struct mmsb_list list,
                                   size_t index,
                                   size_t range,
                                   struct mmsb_changed_range *changed);

/**
 * An item of a difference.
 *
 * The thread of `list`. `MMSB_OUT_OF_RANGE`.
 */
mmsb_status mmsb_list_diff(struct mmsb_list list, size_t index, struct mmsb_page_diff *page);

/**
 * Makes a page; all its bytes are 0.
 *
 * The thread of `bus`. `MMSB_EXISTS`, `MMSB_BAD_NAME`, `MMSB_BAD_CONFIG` (size), `MMSB_BAD_SCHEMA`,
 * `MMSB_OUT_OF_RANGE` (metadata too long), `MMSB_FULL`, `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_page_create(struct mmsb_bus bus, const struct mmsb_page_options *options, struct mmsb_page *page);

/**
 * Finds a page by its name.
 *
 * The thread of `bus`. `MMSB_MISSING`.
 */
mmsb_status mmsb_page_open(struct mmsb_bus bus, const char *name, struct mmsb_page *page);

/**
 * Finds a page by its id.
 *
 * The thread of `bus`. `MMSB_PAGE_GONE`.
 */
mmsb_status mmsb_page_open_id(struct mmsb_bus bus, struct mmsb_page_id id, struct mmsb_page *page);

/**
 * Finds a page by its name, or makes it. One that is there must have the size, and the schema if one is asked for.
 *
 * The thread of `bus`. `MMSB_WRONG_SCHEMA`; as `mmsb_page_create`.
 */
mmsb_status mmsb_page_open_or_create(struct mmsb_bus bus,
                                     const struct mmsb_page_options *options,
                                     struct mmsb_page *page);

/**
 * Ends a handle. The page stays. Not needed ahead of `mmsb_bus_close`.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_page_close(struct mmsb_page page);

/**
 * Destroys a page for everybody. The handle is stale afterwards if it worked.
 *
 * The thread of its bus. `MMSB_PAGE_GONE`, `MMSB_READ_ONLY`, `MMSB_TIMEOUT`.
 */
mmsb_status mmsb_page_destroy(struct mmsb_page page);

/**
 * Gives a page another name.
 *
 * The thread of its bus. `MMSB_EXISTS`, `MMSB_BAD_NAME`, `MMSB_PAGE_GONE`.
 */
mmsb_status mmsb_page_rename(struct mmsb_page page, const char *name);

/**
 * Gives a page another schema, in the text form.
 *
 * The thread of its bus. `MMSB_BAD_SCHEMA`, `MMSB_WRONG_SCHEMA` (the page is too small for it), `MMSB_PAGE_GONE`,
 * `MMSB_FULL`.
 */
mmsb_status mmsb_page_set_schema(struct mmsb_page page, const char *schema);

/**
 * Sets metadata of a page; other keys stay. An empty value removes its key.
 *
 * The thread of its bus. `MMSB_OUT_OF_RANGE` (too long), `MMSB_PAGE_GONE`, `MMSB_FULL`.
 */
mmsb_status mmsb_page_set_meta(struct mmsb_page page, const char *const *keys, const char *const *values, size_t count);

/**
 * Lists the pages whose name begins with `prefix`, by name; null: every page there is, those without a name too. Read
 * them with `mmsb_list_page`.
 *
 * The thread of `bus`.
 */
mmsb_status mmsb_bus_pages(struct mmsb_bus bus, const char *prefix, struct mmsb_list *list);

/**
 * What a page is, as a list of one. Read it with `mmsb_list_page`.
 *
 * The thread of its bus. `MMSB_PAGE_GONE`.
 */
mmsb_status mmsb_page_describe(struct mmsb_page page, struct mmsb_list *list);

/**
 * Id of a page.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_page_get_id(struct mmsb_page page, struct mmsb_page_id *id);

/**
 * Bytes of a page. They never change.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_page_get_size(struct mmsb_page page, size_t *size);

/**
 * State of a page now.
 *
 * The thread of its bus. `MMSB_PAGE_GONE`.
 */
mmsb_status mmsb_page_get_version(struct mmsb_page page, struct mmsb_page_version *version);

/**
 * Copies the first `len` bytes of a page: before a delta or after it, never between. `version` may be null.
 *
 * The thread of its bus. `MMSB_OUT_OF_RANGE`, `MMSB_PAGE_GONE`, `MMSB_TIMEOUT` (a writer is stopped inside),
 * observers: `MMSB_CONTENDED`.
 */
mmsb_status mmsb_page_read(struct mmsb_page page, uint8_t *buffer, size_t len, struct mmsb_page_version *version);

/**
 * Copies `len` bytes from `offset` on.
 *
 * The thread of its bus. As `mmsb_page_read`.
 */
mmsb_status mmsb_page_read_range(struct mmsb_page page,
                                 size_t offset,
                                 uint8_t *buffer,
                                 size_t len,
                                 struct mmsb_page_version *version);

/**
 * Copies the whole page into a buffer of its size if it was written since `known`, which then becomes what was read;
 * or returns `MMSB_NOTHING`.
 *
 * The thread of its bus. As `mmsb_page_read`.
 */
mmsb_status mmsb_page_read_if_newer(struct mmsb_page page,
                                    struct mmsb_page_version *known,
                                    uint8_t *buffer,
                                    size_t len);

/**
 * Waits until the delta at `lsn` is in the page (or the page has a later one), then copies the whole page into a
 * buffer of its size.
 *
 * The thread of its bus. `MMSB_TIMEOUT`, `MMSB_READ_ONLY`; as `mmsb_page_read`.
 */
mmsb_status mmsb_page_read_after(struct mmsb_page page,
                                 uint64_t lsn,
                                 uint64_t timeout_ns,
                                 uint8_t *buffer,
                                 size_t len,
                                 struct mmsb_page_version *version);

/**
 * Overwrites a whole page; `len` is its size. `lsn` (may be null) gets the delta's place in the order.
 *
 * The thread of its bus. `MMSB_WRONG_SCHEMA` (size), `MMSB_PAGE_GONE`, `MMSB_TIMEOUT`, `MMSB_BACKPRESSURE`,
 * `MMSB_NO_SUPERVISOR`, `MMSB_READ_ONLY`; with `MMSB_SYNCED` also `MMSB_NOT_DURABLE`.
 */
mmsb_status mmsb_page_write(struct mmsb_page page, const uint8_t *data, size_t len, uint64_t *lsn);

/**
 * Overwrites `len` bytes from `offset` on.
 *
 * The thread of its bus. `MMSB_OUT_OF_RANGE`, `MMSB_TOO_LARGE`; as `mmsb_page_write`.
 */
mmsb_status mmsb_page_patch(struct mmsb_page page, size_t offset, const uint8_t *data, size_t len, uint64_t *lsn);

/**
 * As `mmsb_page_patch`, on behalf of the earlier delta at LSN `cause`: provenance is read from it.
 *
 * The thread of its bus. As `mmsb_page_patch`.
 */
mmsb_status mmsb_page_patch_caused(struct mmsb_page page,
                                   uint64_t cause,
                                   size_t offset,
                                   const uint8_t *data,
                                   size_t len,
                                   uint64_t *lsn);

/**
 * Overwrites several ranges as one delta, in whatever order they are given.
 *
 * The thread of its bus. `MMSB_OUT_OF_RANGE` (also if they overlap), `MMSB_TOO_LARGE`; as `mmsb_page_write`.
 */
mmsb_status mmsb_page_patch_many(struct mmsb_page page, const struct mmsb_range *ranges, size_t count, uint64_t *lsn);

/**
 * Overwrites, from `offset` on, those of `len` bytes whose byte in `mask` (`len` bytes too) is not 0.
 *
 * The thread of its bus. As `mmsb_page_patch`.
 */
mmsb_status mmsb_page_write_masked(struct mmsb_page page,
                                   size_t offset,
                                   const uint8_t *mask,
                                   const uint8_t *data,
                                   size_t len,
                                   uint64_t *lsn);

/**
 * Finds a field by the page's schema: `price`, an element `bids[3]`; of an array page the empty path or `[3]`. Read it
 * with `mmsb_page_read_range`, write it with `mmsb_page_patch`.
 *
 * The thread of its bus. `MMSB_NO_SCHEMA`, `MMSB_MISSING`, `MMSB_BAD_SCHEMA`.
 */
mmsb_status mmsb_page_find_field(struct mmsb_page page, const char *path, struct mmsb_field *field);

/**
 * Value of a number field, as a double: exact up to 2^53.
 *
 * The thread of its bus. `MMSB_WRONG_SCHEMA`; as `mmsb_page_find_field` and `mmsb_page_read`.
 */
mmsb_status mmsb_page_get_f64(struct mmsb_page page, const char *path, double *value);

/**
 * Value of a field of whole numbers that an int64_t holds.
 *
 * The thread of its bus. As `mmsb_page_get_f64`.
 */
mmsb_status mmsb_page_get_i64(struct mmsb_page page, const char *path, int64_t *value);

/**
 * Value of a field of whole numbers that a uint64_t holds.
 *
 * The thread of its bus. As `mmsb_page_get_f64`.
 */
mmsb_status mmsb_page_get_u64(struct mmsb_page page, const char *path, uint64_t *value);

/**
 * Value of any field as text, such as `1.5` or `[1, 2]`; text fields bare. `needed` (may be null) gets the bytes that
 * it takes with its NUL.
 *
 * The thread of its bus. `MMSB_TOO_SMALL`; as `mmsb_page_get_f64`.
 */
mmsb_status mmsb_page_get_text(struct mmsb_page page, const char *path, char *buffer, size_t size, size_t *needed);

/**
 * Stores the value that `value` says in a field: `1.5`, `[1, 2, 3]`, plain text for a text field.
 *
 * The thread of its bus. `MMSB_BAD_SCHEMA` if it is no value of the field's type; as `mmsb_page_find_field` and
 * `mmsb_page_patch`.
 */
mmsb_status mmsb_page_set_text(struct mmsb_page page, const char *path, const char *value, uint64_t *lsn);

/**
 * Begins a batch.
 *
 * The thread of `bus`. `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_batch_open(struct mmsb_bus bus, struct mmsb_batch *batch);

/**
 * Adds a patch of one range. The bytes are copied.
 *
 * The thread of its bus. `MMSB_STALE_HANDLE` (of the page), `MMSB_OTHER_BUS`. Ranges are checked by the commit.
 */
mmsb_status mmsb_batch_patch(struct mmsb_batch batch,
                             struct mmsb_page page,
                             size_t offset,
                             const uint8_t *data,
                             size_t len);

/**
 * Adds a patch of several ranges of one page. The bytes are copied.
 *
 * The thread of its bus. As `mmsb_batch_patch`.
 */
mmsb_status mmsb_batch_patch_many(struct mmsb_batch batch,
                                  struct mmsb_page page,
                                  const struct mmsb_range *ranges,
                                  size_t count);

/**
 * Adds a masked write, as `mmsb_page_write_masked`. Mask and bytes are copied.
 *
 * The thread of its bus. As `mmsb_batch_patch`.
 */
mmsb_status mmsb_batch_write_masked(struct mmsb_batch batch,
                                    struct mmsb_page page,
                                    size_t offset,
                                    const uint8_t *mask,
                                    const uint8_t *data,
                                    size_t len);

/**
 * Adds a mark: bytes that belong to no page, at their place in the order.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_batch_mark(struct mmsb_batch batch, const uint8_t *data, size_t len);

/**
 * Names the earlier delta that the deltas of the next commit are caused by.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_batch_cause(struct mmsb_batch batch, uint64_t lsn);

/**
 * Publishes what was added, and empties the batch, also if it fails. `receipt` may be null.
 *
 * The thread of its bus. As `mmsb_page_patch`; `MMSB_STALE_HANDLE` if a page was closed since: nothing is published
 * then.
 */
mmsb_status mmsb_batch_commit(struct mmsb_batch batch, struct mmsb_receipt *receipt);

/**
 * Ends a batch; what was not committed never was.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_batch_close(struct mmsb_batch batch);

/**
 * Begins a transaction.
 *
 * The thread of `bus`. `MMSB_READ_ONLY`, `MMSB_FORKED`.
 */
mmsb_status mmsb_transaction_begin(struct mmsb_bus bus, struct mmsb_transaction *transaction);

/**
 * Copies `len` bytes of a page from `offset` on, with what this transaction changed. All reads of a page see one state
 * of it.
 *
 * The thread of its bus. `MMSB_CONFLICT` (begin again), `MMSB_OUT_OF_RANGE`, `MMSB_OTHER_BUS`; as `mmsb_page_read`.
 */
mmsb_status mmsb_transaction_read(struct mmsb_transaction transaction,
                                  struct mmsb_page page,
                                  size_t offset,
                                  uint8_t *buffer,
                                  size_t len);

/**
 * Changes `len` bytes of a page from `offset` on, once it commits. The bytes are copied.
 *
 * The thread of its bus. `MMSB_OUT_OF_RANGE`, `MMSB_PAGE_GONE`, `MMSB_OTHER_BUS`.
 */
mmsb_status mmsb_transaction_patch(struct mmsb_transaction transaction,
                                   struct mmsb_page page,
                                   size_t offset,
                                   const uint8_t *data,
                                   size_t len);

/**
 * Changes several ranges of a page, once it commits. The bytes are copied.
 *
 * The thread of its bus. As `mmsb_transaction_patch`.
 */
mmsb_status mmsb_transaction_patch_many(struct mmsb_transaction transaction,
                                        struct mmsb_page page,
                                        const struct mmsb_range *ranges,
                                        size_t count);

/**
 * Changes, once it commits, those of `len` bytes from `offset` on whose byte in `mask` is not 0. Mask and bytes are
 * copied.
 *
 * The thread of its bus. As `mmsb_transaction_patch`.
 */
mmsb_status mmsb_transaction_write_masked(struct mmsb_transaction transaction,
                                          struct mmsb_page page,
                                          size_t offset,
                                          const uint8_t *mask,
                                          const uint8_t *data,
                                          size_t len);

/**
 * Adds a mark: bytes that belong to no page, at their place in the order.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_transaction_mark(struct mmsb_transaction transaction, const uint8_t *data, size_t len);

/**
 * Names the earlier delta that this transaction is caused by.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_transaction_cause(struct mmsb_transaction transaction, uint64_t lsn);

/**
 * Commits a transaction. The handle is stale afterwards whatever is returned. `receipt` may be null.
 *
 * The thread of its bus. `MMSB_CONFLICT` (nothing was written: begin again), `MMSB_TOO_LARGE`; as `mmsb_page_write`.
 */
mmsb_status mmsb_transaction_commit(struct mmsb_transaction transaction, struct mmsb_receipt *receipt);

/**
 * Ends a transaction without a trace.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_transaction_abandon(struct mmsb_transaction transaction);

/**
 * Copies several pages as one consistent cut: no transaction is half in it. Read them with `mmsb_list_image`, in the
 * order of `ids`.
 *
 * The thread of `bus`. `MMSB_PAGE_GONE`, `MMSB_TIMEOUT`, observers: `MMSB_CONTENDED`.
 */
mmsb_status mmsb_bus_snapshot(struct mmsb_bus bus,
                              const struct mmsb_page_id *ids,
                              size_t count,
                              struct mmsb_list *list);

/**
 * As `mmsb_bus_snapshot`, but not before the delta at `lsn`, and everything ahead of it, is in its page.
 *
 * The thread of `bus`. `MMSB_TIMEOUT` if that takes longer than `timeout_ns`, `MMSB_READ_ONLY`; as
 * `mmsb_bus_snapshot`.
 */
mmsb_status mmsb_bus_snapshot_at(struct mmsb_bus bus,
                                 uint64_t lsn,
                                 uint64_t timeout_ns,
                                 const struct mmsb_page_id *ids,
                                 size_t count,
                                 struct mmsb_list *list);

/**
 * Begins a new content of a page: `data` gets a block of the page's size to fill, in shared memory, not yet visible to
 * anybody. Its bytes are undefined until they are written.
 *
 * The thread of its bus. `MMSB_FULL`, `MMSB_TOO_MANY_HELD`, `MMSB_READ_ONLY`, `MMSB_PAGE_GONE`.
 */
mmsb_status mmsb_loan_begin(struct mmsb_page page, struct mmsb_loan *loan, uint8_t **data, size_t *size);

/**
 * Makes the block the page's content, without a copy. The handle is stale afterwards whatever is returned, and the
 * block must not be written any more. `cause`: LSN of the delta that caused it, or 0. `lsn` may be null.
 *
 * The thread of its bus. `MMSB_PAGE_GONE`; as `mmsb_page_write`.
 */
mmsb_status mmsb_loan_publish(struct mmsb_loan loan, uint64_t cause, uint64_t *lsn);

/**
 * Gives the block back; the page stays as it is.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_loan_abandon(struct mmsb_loan loan);

/**
 * Looks at a page's published loan in place: `data` gets bytes that do not change until the view is closed, even if
 * the page moves on.
 *
 * The thread of its bus. `MMSB_NOT_LOANED` (copy it instead), `MMSB_TOO_MANY_HELD`, `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_view_open(struct mmsb_page page,
                           struct mmsb_view *view,
                           const uint8_t **data,
                           size_t *size,
                           struct mmsb_page_version *version);

/**
 * Ends a view; its bytes must not be read any more.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_view_close(struct mmsb_view view);

/**
 * Keeps a page for many writes of this participant, which are quicker as long as the lease is open. Another writer may
 * ask for the page; it is handed over between two writes, and taken again by the next one.
 *
 * The thread of its bus. `MMSB_TIMEOUT`, `MMSB_TOO_MANY_HELD`, `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_lease_open(struct mmsb_page page, struct mmsb_lease *lease);

/**
 * Ends a lease.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_lease_close(struct mmsb_lease lease);

/**
 * Begins to follow a bus. `options` may be null.
 *
 * The thread of `bus`. `MMSB_FULL` (cursors), `MMSB_PAGE_GONE`, `MMSB_TIMEOUT` (a stopped writer is in the way of a
 * snapshot), `MMSB_INVALID`, `MMSB_ABI_MISMATCH` (options); with `MMSB_FROM_LSN` `MMSB_DIVERGED`, `MMSB_NOT_IN_LOG`,
 * `MMSB_LOG`, `MMSB_MISSING` (the log); observers: `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_subscribe(struct mmsb_bus bus,
                           const struct mmsb_subscribe_options *options,
                           struct mmsb_subscription *subscription);

/**
 * The next event, waiting for it at most `timeout_ns` (0: not at all; UINT64_MAX: for ever): `MMSB_OK`, or
 * `MMSB_NOTHING` if there was none.
 *
 * The thread of its bus. `MMSB_TIMEOUT` (a living writer leaves a record unfinished), `MMSB_STALLED` (observers),
 * `MMSB_CORRUPT`, `MMSB_FORKED`; with `MMSB_FROM_LSN` what the log says. The same call may be made again.
 */
mmsb_status mmsb_subscription_next(struct mmsb_subscription subscription,
                                   uint64_t timeout_ns,
                                   struct mmsb_event *event);

/**
 * A descriptor that poll, select and epoll call readable when there may be an event: then call
 * `mmsb_subscription_next` until it returns `MMSB_NOTHING`. It belongs to the subscription: do not read or close it.
 * The first call starts a thread, one for the whole process.
 *
 * The thread of its bus. `MMSB_IO`, `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_subscription_fd(struct mmsb_subscription subscription, int32_t *fd);

/**
 * How a subscription is.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_subscription_get_stats(struct mmsb_subscription subscription, struct mmsb_subscription_stats *stats);

/**
 * Ends a subscription.
 *
 * The thread of its bus.
 */
mmsb_status mmsb_subscription_close(struct mmsb_subscription subscription);

/**
 * What the later writes through this handle promise when they return: `MMSB_VOLATILE`, `MMSB_BUFFERED` (on its way to
 * the disk within `flush_ns`; 0: 10 ms) or `MMSB_SYNCED`. To write one delta in another way, set it and set it back.
 *
 * The thread of `bus`. `MMSB_INVALID`, `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_bus_set_durability(struct mmsb_bus bus, uint32_t level, uint64_t flush_ns);

/**
 * What writers promise who say nothing themselves, of those who attach from now on, in whatever process.
 *
 * The thread of `bus`. `MMSB_INVALID`, `MMSB_READ_ONLY`, `MMSB_FORKED`.
 */
mmsb_status mmsb_bus_set_default_durability(struct mmsb_bus bus, uint32_t level, uint64_t flush_ns);

/**
 * Waits until the delta at `lsn`, and all ahead of it, are on disk.
 *
 * The thread of `bus`. `MMSB_NOT_DURABLE` (its message says what is in the way), `MMSB_READ_ONLY`, `MMSB_FORKED`.
 */
mmsb_status mmsb_wait_durable(struct mmsb_bus bus, uint64_t lsn, uint64_t timeout_ns);

/**
 * How the log of the bus is.
 *
 * The thread of `bus`.
 */
mmsb_status mmsb_bus_log_status(struct mmsb_bus bus, struct mmsb_log_status *status);

/**
 * Writes a checkpoint beside the log of the bus, while writers run: restarts replay only what is behind it. `log_dir`:
 * where the log is; null: this handle supervises the bus, and knows. `info` may be null.
 *
 * The thread of `bus`. `MMSB_LOG`, `MMSB_CHECKPOINT`, `MMSB_SUPERVISOR`, `MMSB_NOT_DURABLE` (the log does not get on
 * within `timeout_ns`), `MMSB_INVALID` (null, and no supervisor here), `MMSB_READ_ONLY`.
 */
mmsb_status mmsb_bus_checkpoint(struct mmsb_bus bus,
                                const char *log_dir,
                                uint64_t timeout_ns,
                                struct mmsb_checkpoint_info *info);

/**
 * Everything ahead of this LSN is on disk. Cheap enough to ask all the time.
 *
 * The thread of `bus`.
 */
mmsb_status mmsb_bus_durable_lsn(struct mmsb_bus bus, uint64_t *lsn);

/**
 * Opens the log in a directory. Nothing is changed there, and a supervisor may go on writing it.
 *
 * Any thread. `MMSB_MISSING`, `MMSB_LOG`, `MMSB_IO`.
 */
mmsb_status mmsb_log_open(const char *dir, struct mmsb_log *log);

/**
 * Ends a handle. Lists and states from it stay.
 *
 * The thread of `log`.
 */
mmsb_status mmsb_log_close(struct mmsb_log log);

/**
 * What the log covers.
 *
 * The thread of `log`. `MMSB_LOG`.
 */
mmsb_status mmsb_log_get_bounds(struct mmsb_log log, struct mmsb_log_bounds *bounds);

/**
 * Rebuilds all pages as they were at a moment: from the checkpoint before it, and the deltas since.
 *
 * The thread of `log`. `MMSB_NOT_IN_LOG`, `MMSB_LOG` (damage: the message says where), `MMSB_CHECKPOINT`.
 */
mmsb_status mmsb_log_state_at(struct mmsb_log log, struct mmsb_at moment, struct mmsb_state *state);

/**
 * Ends a state. Images from it must not be read any more.
 *
 * The thread of `state`.
 */
mmsb_status mmsb_state_close(struct mmsb_state state);

/**
 * What the state is. It hashes all pages.
 *
 * The thread of `state`.
 */
mmsb_status mmsb_state_get_info(struct mmsb_state state, struct mmsb_state_info *info);

/**
 * Lists the pages of a state. Read them with `mmsb_list_page`.
 *
 * The thread of `state`.
 */
mmsb_status mmsb_state_pages(struct mmsb_state state, struct mmsb_list *list);

/**
 * A page of a state, by its name then. The bytes live as long as the state.
 *
 * The thread of `state`. `MMSB_MISSING`.
 */
mmsb_status mmsb_state_page(struct mmsb_state state, const char *name, struct mmsb_image *page);

/**
 * A page of a state, by its id. The bytes live as long as the state.
 *
 * The thread of `state`. `MMSB_MISSING`.
 */
mmsb_status mmsb_state_page_by_id(struct mmsb_state state, struct mmsb_page_id id, struct mmsb_image *page);

/**
 * Makes a bus with the pages of a state, and attaches to it: the past, to be looked at with every tool. `options` must
 * not name a log.
 *
 * The thread of `state`. As `mmsb_bus_create`.
 */
mmsb_status mmsb_state_create_bus(struct mmsb_state state,
                                  const char *name,
                                  const struct mmsb_bus_options *options,
                                  struct mmsb_bus *bus);

/**
 * What is different between two moments. Read it with `mmsb_list_diff` and `mmsb_list_change_range`.
 *
 * The thread of `log`. As `mmsb_log_state_at`.
 */
mmsb_status mmsb_log_diff(struct mmsb_log log, struct mmsb_at from, struct mmsb_at to, struct mmsb_list *list);

/**
 * What is different between two states, which need not be of one log: from `from`, whose thread calls, to `to`.
 *
 * The thread of both. Read it as that of `mmsb_log_diff`.
 */
mmsb_status mmsb_state_diff(struct mmsb_state from, struct mmsb_state to, struct mmsb_list *list);

/**
 * Who wrote what to `len` bytes of a page from `offset` on (0, UINT32_MAX: all of it), from LSN `from` (0: the
 * beginning) to ahead of LSN `to` (UINT64_MAX: the end), oldest first. Read it with `mmsb_list_change` and
 * `mmsb_list_change_range`.
 *
 * The thread of `log`. `MMSB_LOG`, `MMSB_CHECKPOINT`.
 */
mmsb_status mmsb_log_history(struct mmsb_log log,
                             struct mmsb_page_id page,
                             uint32_t offset,
                             uint32_t len,
                             uint64_t from,
                             uint64_t to,
                             struct mmsb_list *list);

/**
 * The chain of causes of the last change of a page at a moment, or of the record at LSN `moment` if `page` is
 * all-zero: the record, what caused it, and so on, at most `longest` records. `end` (may be null) gets why it ends:
 * `MMSB_CHAIN_OUTSIDE` or another. Read it with `mmsb_list_change`.
 *
 * The thread of `log`. `MMSB_NOT_IN_LOG`, `MMSB_MISSING`, `MMSB_LOG`.
 */
mmsb_status mmsb_log_provenance(struct mmsb_log log,
                                struct mmsb_page_id page,
                                struct mmsb_at moment,
                                size_t longest,
                                struct mmsb_list *list,
                                uint32_t *end);

/**
 * Plays the records of a log into a living bus, as new deltas: from LSN `from` (0: the oldest that can be) to ahead of
 * LSN `to` (UINT64_MAX: the end); at `speed` times the recorded pace, or as fast as it goes (0). `prefix` (null: all)
 * limits it to pages. `replayed` may be null.
 *
 * The thread of `log` and `bus`. `MMSB_INVALID` (speed), what the log says, what writing to the bus says; everything
 * ahead is played then.
 */
mmsb_status mmsb_log_play(struct mmsb_log log,
                          struct mmsb_bus bus,
                          uint64_t from,
                          uint64_t to,
                          double speed,
                          const char *prefix,
                          struct mmsb_replayed *replayed);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus


/** Options as they are by default: mmsb_bus_options o = MMSB_BUS_OPTIONS_INIT; o.source = "feed"; */
#ifdef __cplusplus
#define MMSB_BUS_OPTIONS_INIT mmsb_detail::bus_options()
#define MMSB_INIT(type) mmsb_detail::sized<type>()
namespace mmsb_detail {
template <typename T> inline T sized() {
  T value = T();
  value.struct_size = static_cast<uint32_t>(sizeof(T));
  return value;
}
inline mmsb_bus_options bus_options() {
  mmsb_bus_options options = sized<mmsb_bus_options>();
  options.abi = MMSB_ABI_VERSION;
  return options;
}
} // namespace mmsb_detail
#else
#define MMSB_BUS_OPTIONS_INIT {.struct_size = sizeof(mmsb_bus_options), .abi = MMSB_ABI_VERSION}
/** Any other struct that begins with its size: mmsb_event event = MMSB_INIT(mmsb_event); */
#define MMSB_INIT(type) ((type){.struct_size = sizeof(type)})
#endif
#define MMSB_PAGE_OPTIONS_INIT MMSB_INIT(mmsb_page_options)
#define MMSB_SUBSCRIBE_OPTIONS_INIT MMSB_INIT(mmsb_subscribe_options)

#endif /* MMSB_H */
