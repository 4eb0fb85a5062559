/*
 * Every function with every bad handle: null, invented, of another kind, closed, of a closed bus, of another thread, of the
 * parent of a fork; and with null where a result is to go. What fails leaves its results alone.
 *
 * `handles --names` prints the functions that are tried here; run.sh compares them with what the library exports.
 */
#include "check.h"

enum { BUS, PAGE, LOAN, VIEW, LEASE, BATCH, TRANSACTION, SUBSCRIPTION, LOG, STATE, LIST, KINDS, NONE };

/* One live handle of each kind, and what calls need beside. */
static uint64_t live[KINDS];
static mmsb_page_id live_id;
static char log_dir[300];

/* Where results go. */
static struct outs {
  mmsb_bus bus;
  mmsb_page page;
  mmsb_loan loan;
  mmsb_view view;
  mmsb_lease lease;
  mmsb_batch batch;
  mmsb_transaction transaction;
  mmsb_subscription subscription;
  mmsb_log log;
  mmsb_state state;
  mmsb_list list;
  mmsb_page_id id;
  mmsb_page_version version;
  mmsb_receipt receipt;
  mmsb_field field;
  mmsb_log_bounds bounds;
  mmsb_image image;
  mmsb_changed_range changed;
  mmsb_bus_info bus_info;
  mmsb_stats stats;
  mmsb_page_info page_info;
  mmsb_participant participant;
  mmsb_change change;
  mmsb_page_diff page_diff;
  mmsb_event event;
  mmsb_subscription_stats subscription_stats;
  mmsb_log_status log_status;
  mmsb_checkpoint_info checkpoint;
  mmsb_state_info state_info;
  mmsb_replayed replayed;
  uint64_t lsn;
  uint32_t number;
  int32_t fd;
  size_t size;
  double real;
  int64_t integer;
  uint64_t natural;
  uint8_t *data;
  const uint8_t *seen;
  const char *text, *more;
  uint8_t bytes[64];
  char chars[64];
} o;

static void prepare(void) {
  memset((void *)&o, 0xa5, sizeof o);
  o.bus_info.struct_size = sizeof o.bus_info;
  o.stats.struct_size = sizeof o.stats;
  o.page_info.struct_size = sizeof o.page_info;
  o.participant.struct_size = sizeof o.participant;
  o.change.struct_size = sizeof o.change;
  o.page_diff.struct_size = sizeof o.page_diff;
  o.event.struct_size = sizeof o.event;
  o.subscription_stats.struct_size = sizeof o.subscription_stats;
  o.log_status.struct_size = sizeof o.log_status;
  o.checkpoint.struct_size = sizeof o.checkpoint;
  o.state_info.struct_size = sizeof o.state_info;
  o.replayed.struct_size = sizeof o.replayed;
}

#define AS(type)                                                                                                       \
  static type as_##type(uint64_t handle) {                                                                             \
    type value;                                                                                                        \
    value.handle = handle;                                                                                             \
    return value;                                                                                                      \
  }
AS(mmsb_bus)
AS(mmsb_page)
AS(mmsb_loan)
AS(mmsb_view)
AS(mmsb_lease)
AS(mmsb_batch)
AS(mmsb_transaction)
AS(mmsb_subscription)
AS(mmsb_log)
AS(mmsb_state)
AS(mmsb_list)

#define bus_ as_mmsb_bus(h)
#define page_ as_mmsb_page(h)
#define live_page as_mmsb_page(live[PAGE])
#define end_ at_end()

static mmsb_at at_end(void) {
  mmsb_at at;
  memset(&at, 0, sizeof at);
  at.kind = MMSB_AT_END;
  return at;
}

static mmsb_page_options options_of(uint64_t size) { return page_of(NULL, size); }

static mmsb_range a_range(void) {
  mmsb_range range;
  range.offset = 0;
  range.bytes = bytes_of("abcd");
  range.len = 4;
  return range;
}

static const uint8_t data4[4] = {1, 2, 3, 4};
static mmsb_page_options new_page;
static mmsb_bus_options new_bus;
static mmsb_range range1;

/* The calls: with the handle that is asked about, and everything else as it should be. */
#define CALL(name, ...)                                                                                                \
  static mmsb_status call_##name(uint64_t h) {                                                                         \
    return name(__VA_ARGS__);                                                                                          \
  }
CALL(mmsb_bus_another, bus_, NULL, &o.bus)
CALL(mmsb_bus_release, bus_)
CALL(mmsb_bus_close, bus_)
CALL(mmsb_bus_get_info, bus_, &o.bus_info)
CALL(mmsb_bus_get_stats, bus_, &o.stats)
CALL(mmsb_bus_participants, bus_, &o.list)
CALL(mmsb_bus_counters, bus_, &o.list)
CALL(mmsb_bus_recover, bus_, &o.number)
CALL(mmsb_bus_check, bus_)
CALL(mmsb_bus_end_lsn, bus_, &o.lsn)
CALL(mmsb_bus_source_name, bus_, 1, o.chars, sizeof o.chars, &o.size)
CALL(mmsb_bus_set_durability, bus_, MMSB_VOLATILE, 0)
CALL(mmsb_bus_set_default_durability, bus_, MMSB_VOLATILE, 0)
CALL(mmsb_wait_durable, bus_, 0, 0)
CALL(mmsb_bus_log_status, bus_, &o.log_status)
CALL(mmsb_bus_checkpoint, bus_, log_dir, 1000000000, &o.checkpoint)
CALL(mmsb_bus_durable_lsn, bus_, &o.lsn)
CALL(mmsb_bus_pages, bus_, NULL, &o.list)
CALL(mmsb_bus_snapshot, bus_, &live_id, 1, &o.list)
CALL(mmsb_bus_snapshot_at, bus_, 0, 1000000000, &live_id, 1, &o.list)
CALL(mmsb_page_create, bus_, &new_page, &o.page)
CALL(mmsb_page_open, bus_, "page", &o.page)
CALL(mmsb_page_open_id, bus_, live_id, &o.page)
CALL(mmsb_page_open_or_create, bus_, &new_page, &o.page)
CALL(mmsb_batch_open, bus_, &o.batch)
CALL(mmsb_transaction_begin, bus_, &o.transaction)
CALL(mmsb_subscribe, bus_, NULL, &o.subscription)
CALL(mmsb_page_close, page_)
CALL(mmsb_page_destroy, page_)
CALL(mmsb_page_rename, page_, "page")
CALL(mmsb_page_set_schema, page_, "x:u64")
CALL(mmsb_page_set_meta, page_, NULL, NULL, 0)
CALL(mmsb_page_describe, page_, &o.list)
CALL(mmsb_page_get_id, page_, &o.id)
CALL(mmsb_page_get_size, page_, &o.size)
CALL(mmsb_page_get_version, page_, &o.version)
CALL(mmsb_page_read, page_, o.bytes, 8, &o.version)
CALL(mmsb_page_read_range, page_, 0, o.bytes, 8, &o.version)
CALL(mmsb_page_read_if_newer, page_, &o.version, o.bytes, 8)
CALL(mmsb_page_read_after, page_, 0, 0, o.bytes, 8, &o.version)
CALL(mmsb_page_write, page_, o.bytes, 8, &o.lsn)
CALL(mmsb_page_patch, page_, 0, data4, 4, &o.lsn)
CALL(mmsb_page_patch_caused, page_, 1, 0, data4, 4, &o.lsn)
CALL(mmsb_page_patch_many, page_, &range1, 1, &o.lsn)
CALL(mmsb_page_write_masked, page_, 0, data4, data4, 4, &o.lsn)
CALL(mmsb_page_find_field, page_, "x", &o.field)
CALL(mmsb_page_get_f64, page_, "x", &o.real)
CALL(mmsb_page_get_i64, page_, "x", &o.integer)
CALL(mmsb_page_get_u64, page_, "x", &o.natural)
CALL(mmsb_page_get_text, page_, "x", o.chars, sizeof o.chars, &o.size)
CALL(mmsb_page_set_text, page_, "x", "7", &o.lsn)
CALL(mmsb_loan_begin, page_, &o.loan, &o.data, &o.size)
CALL(mmsb_view_open, page_, &o.view, &o.seen, &o.size, &o.version)
CALL(mmsb_lease_open, page_, &o.lease)
CALL(mmsb_loan_publish, as_mmsb_loan(h), 0, &o.lsn)
CALL(mmsb_loan_abandon, as_mmsb_loan(h))
CALL(mmsb_view_close, as_mmsb_view(h))
CALL(mmsb_lease_close, as_mmsb_lease(h))
CALL(mmsb_batch_patch, as_mmsb_batch(h), live_page, 0, data4, 4)
CALL(mmsb_batch_patch_many, as_mmsb_batch(h), live_page, &range1, 1)
CALL(mmsb_batch_write_masked, as_mmsb_batch(h), live_page, 0, data4, data4, 4)
CALL(mmsb_batch_mark, as_mmsb_batch(h), data4, 4)
CALL(mmsb_batch_cause, as_mmsb_batch(h), 1)
CALL(mmsb_batch_commit, as_mmsb_batch(h), &o.receipt)
CALL(mmsb_batch_close, as_mmsb_batch(h))
CALL(mmsb_transaction_read, as_mmsb_transaction(h), live_page, 0, o.bytes, 8)
CALL(mmsb_transaction_patch, as_mmsb_transaction(h), live_page, 0, data4, 4)
CALL(mmsb_transaction_patch_many, as_mmsb_transaction(h), live_page, &range1, 1)
CALL(mmsb_transaction_write_masked, as_mmsb_transaction(h), live_page, 0, data4, data4, 4)
CALL(mmsb_transaction_mark, as_mmsb_transaction(h), data4, 4)
CALL(mmsb_transaction_cause, as_mmsb_transaction(h), 1)
CALL(mmsb_transaction_commit, as_mmsb_transaction(h), &o.receipt)
CALL(mmsb_transaction_abandon, as_mmsb_transaction(h))
CALL(mmsb_subscription_next, as_mmsb_subscription(h), 0, &o.event)
CALL(mmsb_subscription_fd, as_mmsb_subscription(h), &o.fd)
CALL(mmsb_subscription_get_stats, as_mmsb_subscription(h), &o.subscription_stats)
CALL(mmsb_subscription_close, as_mmsb_subscription(h))
CALL(mmsb_log_close, as_mmsb_log(h))
CALL(mmsb_log_get_bounds, as_mmsb_log(h), &o.bounds)
CALL(mmsb_log_state_at, as_mmsb_log(h), end_, &o.state)
CALL(mmsb_log_diff, as_mmsb_log(h), end_, end_, &o.list)
CALL(mmsb_log_history, as_mmsb_log(h), live_id, 0, UINT32_MAX, 0, UINT64_MAX, &o.list)
CALL(mmsb_log_provenance, as_mmsb_log(h), live_id, end_, 10, &o.list, &o.number)
CALL(mmsb_log_play, as_mmsb_log(h), as_mmsb_bus(live[BUS]), 0, 0, 0.0, NULL, &o.replayed)
CALL(mmsb_state_close, as_mmsb_state(h))
CALL(mmsb_state_get_info, as_mmsb_state(h), &o.state_info)
CALL(mmsb_state_pages, as_mmsb_state(h), &o.list)
CALL(mmsb_state_page, as_mmsb_state(h), "page", &o.image)
CALL(mmsb_state_page_by_id, as_mmsb_state(h), live_id, &o.image)
CALL(mmsb_state_create_bus, as_mmsb_state(h), "past", &new_bus, &o.bus)
CALL(mmsb_state_diff, as_mmsb_state(h), as_mmsb_state(live[STATE]), &o.list)
CALL(mmsb_list_len, as_mmsb_list(h), &o.size)
CALL(mmsb_list_close, as_mmsb_list(h))
CALL(mmsb_list_name, as_mmsb_list(h), 0, &o.text)
CALL(mmsb_list_page, as_mmsb_list(h), 0, &o.page_info)
CALL(mmsb_list_meta, as_mmsb_list(h), 0, 0, &o.text, &o.more)
CALL(mmsb_list_image, as_mmsb_list(h), 0, &o.image)
CALL(mmsb_list_participant, as_mmsb_list(h), 0, &o.participant)
CALL(mmsb_list_counter, as_mmsb_list(h), 0, &o.text, &o.lsn)
CALL(mmsb_list_change, as_mmsb_list(h), 0, &o.change)
CALL(mmsb_list_change_range, as_mmsb_list(h), 0, 0, &o.changed)
CALL(mmsb_list_diff, as_mmsb_list(h), 0, &o.page_diff)

/* Calls with two handles, the second of which is asked about. */
#define SECOND(name, which, ...)                                                                                       \
  static mmsb_status second_##which(uint64_t h) {                                                                      \
    return name(__VA_ARGS__);                                                                                          \
  }
SECOND(mmsb_batch_patch, batch_patch, as_mmsb_batch(live[BATCH]), page_, 0, data4, 4)
SECOND(mmsb_batch_patch_many, batch_patch_many, as_mmsb_batch(live[BATCH]), page_, &range1, 1)
SECOND(mmsb_batch_write_masked, batch_masked, as_mmsb_batch(live[BATCH]), page_, 0, data4, data4, 4)
SECOND(mmsb_transaction_read, tx_read, as_mmsb_transaction(live[TRANSACTION]), page_, 0, o.bytes, 8)
SECOND(mmsb_transaction_patch, tx_patch, as_mmsb_transaction(live[TRANSACTION]), page_, 0, data4, 4)
SECOND(mmsb_transaction_patch_many, tx_many, as_mmsb_transaction(live[TRANSACTION]), page_, &range1, 1)
SECOND(mmsb_transaction_write_masked, tx_masked, as_mmsb_transaction(live[TRANSACTION]), page_, 0, data4, data4, 4)
SECOND(mmsb_log_play, play, as_mmsb_log(live[LOG]), bus_, 0, 0, 0.0, NULL, &o.replayed)
SECOND(mmsb_state_diff, diff, as_mmsb_state(live[STATE]), as_mmsb_state(h), &o.list)

/* Calls with a good handle, and null where something must be. */
#define NULLS(name, ...)                                                                                               \
  static mmsb_status nulls_##name(uint64_t h) {                                                                        \
    (void)h;                                                                                                           \
    return name(__VA_ARGS__);                                                                                          \
  }
NULLS(mmsb_bus_create, "x", &new_bus, NULL)
NULLS(mmsb_bus_attach, "x", &new_bus, NULL)
NULLS(mmsb_bus_open_or_create, "x", &new_bus, NULL)
NULLS(mmsb_bus_observe, NULL, &new_bus, &o.bus)
NULLS(mmsb_bus_unlink, NULL, NULL)
NULLS(mmsb_bus_list, work_dir, NULL)
NULLS(mmsb_log_open, NULL, &o.log)
NULLS(mmsb_bus_another, bus_, NULL, NULL)
NULLS(mmsb_bus_get_info, bus_, NULL)
NULLS(mmsb_bus_get_stats, bus_, NULL)
NULLS(mmsb_bus_participants, bus_, NULL)
NULLS(mmsb_bus_counters, bus_, NULL)
NULLS(mmsb_bus_end_lsn, bus_, NULL)
NULLS(mmsb_bus_set_durability, bus_, 0, 0)
NULLS(mmsb_bus_set_default_durability, bus_, 99, 0)
NULLS(mmsb_bus_log_status, bus_, NULL)
NULLS(mmsb_bus_durable_lsn, bus_, NULL)
NULLS(mmsb_bus_pages, bus_, NULL, NULL)
NULLS(mmsb_bus_snapshot, bus_, NULL, 1, &o.list)
NULLS(mmsb_bus_snapshot_at, bus_, 0, 0, NULL, 1, &o.list)
NULLS(mmsb_page_create, bus_, &new_page, NULL)
NULLS(mmsb_page_open, bus_, NULL, &o.page)
NULLS(mmsb_page_open_id, bus_, live_id, NULL)
NULLS(mmsb_page_open_or_create, bus_, &new_page, NULL)
NULLS(mmsb_batch_open, bus_, NULL)
NULLS(mmsb_transaction_begin, bus_, NULL)
NULLS(mmsb_subscribe, bus_, NULL, NULL)
NULLS(mmsb_page_rename, page_, NULL)
NULLS(mmsb_page_set_schema, page_, NULL)
NULLS(mmsb_page_set_meta, page_, NULL, NULL, 1)
NULLS(mmsb_page_describe, page_, NULL)
NULLS(mmsb_page_get_id, page_, NULL)
NULLS(mmsb_page_get_size, page_, NULL)
NULLS(mmsb_page_get_version, page_, NULL)
NULLS(mmsb_page_read, page_, NULL, 8, &o.version)
NULLS(mmsb_page_read_range, page_, 0, NULL, 8, &o.version)
NULLS(mmsb_page_read_if_newer, page_, NULL, o.bytes, 8)
NULLS(mmsb_page_read_after, page_, 0, 0, NULL, 8, &o.version)
NULLS(mmsb_page_write, page_, NULL, 8, &o.lsn)
NULLS(mmsb_page_patch, page_, 0, NULL, 4, &o.lsn)
NULLS(mmsb_page_patch_caused, page_, 1, 0, NULL, 4, &o.lsn)
NULLS(mmsb_page_patch_many, page_, NULL, 1, &o.lsn)
NULLS(mmsb_page_write_masked, page_, 0, NULL, data4, 4, &o.lsn)
NULLS(mmsb_page_find_field, page_, "x", NULL)
NULLS(mmsb_page_get_f64, page_, NULL, &o.real)
NULLS(mmsb_page_get_i64, page_, "x", NULL)
NULLS(mmsb_page_get_u64, page_, "x", NULL)
NULLS(mmsb_page_get_text, page_, NULL, o.chars, sizeof o.chars, &o.size)
NULLS(mmsb_page_set_text, page_, "x", NULL, &o.lsn)
NULLS(mmsb_loan_begin, page_, NULL, &o.data, &o.size)
NULLS(mmsb_view_open, page_, &o.view, NULL, &o.size, &o.version)
NULLS(mmsb_lease_open, page_, NULL)
NULLS(mmsb_batch_patch, as_mmsb_batch(h), live_page, 0, NULL, 4)
NULLS(mmsb_batch_patch_many, as_mmsb_batch(h), live_page, NULL, 1)
NULLS(mmsb_batch_write_masked, as_mmsb_batch(h), live_page, 0, data4, NULL, 4)
NULLS(mmsb_batch_mark, as_mmsb_batch(h), NULL, 4)
NULLS(mmsb_transaction_read, as_mmsb_transaction(h), live_page, 0, NULL, 8)
NULLS(mmsb_transaction_patch, as_mmsb_transaction(h), live_page, 0, NULL, 4)
NULLS(mmsb_transaction_patch_many, as_mmsb_transaction(h), live_page, NULL, 1)
NULLS(mmsb_transaction_write_masked, as_mmsb_transaction(h), live_page, 0, NULL, data4, 4)
NULLS(mmsb_transaction_mark, as_mmsb_transaction(h), NULL, 4)
NULLS(mmsb_subscription_next, as_mmsb_subscription(h), 0, NULL)
NULLS(mmsb_subscription_fd, as_mmsb_subscription(h), NULL)
NULLS(mmsb_subscription_get_stats, as_mmsb_subscription(h), NULL)
NULLS(mmsb_log_get_bounds, as_mmsb_log(h), NULL)
NULLS(mmsb_log_state_at, as_mmsb_log(h), end_, NULL)
NULLS(mmsb_log_diff, as_mmsb_log(h), end_, end_, NULL)
NULLS(mmsb_log_history, as_mmsb_log(h), live_id, 0, UINT32_MAX, 0, UINT64_MAX, NULL)
NULLS(mmsb_log_provenance, as_mmsb_log(h), live_id, end_, 10, NULL, &o.number)
NULLS(mmsb_log_play, as_mmsb_log(h), as_mmsb_bus(live[BUS]), 0, 0, -1.0, NULL, &o.replayed)
NULLS(mmsb_state_get_info, as_mmsb_state(h), NULL)
NULLS(mmsb_state_pages, as_mmsb_state(h), NULL)
NULLS(mmsb_state_page, as_mmsb_state(h), NULL, &o.image)
NULLS(mmsb_state_page_by_id, as_mmsb_state(h), live_id, NULL)
NULLS(mmsb_state_create_bus, as_mmsb_state(h), "past", &new_bus, NULL)
NULLS(mmsb_state_diff, as_mmsb_state(h), as_mmsb_state(h), NULL)
NULLS(mmsb_list_len, as_mmsb_list(h), NULL)
NULLS(mmsb_list_name, as_mmsb_list(h), 0, NULL)
NULLS(mmsb_list_page, as_mmsb_list(h), 0, NULL)
NULLS(mmsb_list_meta, as_mmsb_list(h), 0, 0, &o.text, NULL)
NULLS(mmsb_list_image, as_mmsb_list(h), 0, NULL)
NULLS(mmsb_list_participant, as_mmsb_list(h), 0, NULL)
NULLS(mmsb_list_counter, as_mmsb_list(h), 0, NULL, &o.lsn)
NULLS(mmsb_list_change, as_mmsb_list(h), 0, NULL)
NULLS(mmsb_list_change_range, as_mmsb_list(h), 0, 0, NULL)
NULLS(mmsb_list_diff, as_mmsb_list(h), 0, NULL)

/* What a fork child gets from a handle of the parent's: refusal; or an answer, from memory that is its own copy. */
enum { REFUSED, ANSWERED };

struct row {
  const char *name;
  int kind;
  mmsb_status (*call)(uint64_t handle);
  mmsb_status (*nulls)(uint64_t handle);
  int in_child;
};

#define ROW(kind, name, in_child) {#name, kind, call_##name, nulls_##name, in_child}
#define BARE(kind, name, in_child) {#name, kind, call_##name, NULL, in_child}
#define AGAIN(kind, name, which, in_child) {#name, kind, second_##which, NULL, in_child}
#define FREE(name) {#name, NONE, NULL, nulls_##name, ANSWERED}
#define PLAIN(name) {#name, NONE, NULL, NULL, ANSWERED}

static const struct row rows[] = {
    PLAIN(mmsb_abi_version), PLAIN(mmsb_check_abi), PLAIN(mmsb_version), PLAIN(mmsb_last_error),
    PLAIN(mmsb_status_name), FREE(mmsb_bus_create), FREE(mmsb_bus_attach), FREE(mmsb_bus_open_or_create),
    FREE(mmsb_bus_observe), FREE(mmsb_bus_unlink), FREE(mmsb_bus_list), FREE(mmsb_log_open),
    ROW(BUS, mmsb_bus_another, REFUSED), BARE(BUS, mmsb_bus_release, ANSWERED), BARE(BUS, mmsb_bus_close, ANSWERED),
    ROW(BUS, mmsb_bus_get_info, REFUSED), ROW(BUS, mmsb_bus_get_stats, REFUSED),
    ROW(BUS, mmsb_bus_participants, REFUSED), ROW(BUS, mmsb_bus_counters, REFUSED),
    BARE(BUS, mmsb_bus_recover, REFUSED), BARE(BUS, mmsb_bus_check, REFUSED), ROW(BUS, mmsb_bus_end_lsn, REFUSED),
    BARE(BUS, mmsb_bus_source_name, REFUSED), ROW(BUS, mmsb_bus_set_durability, REFUSED),
    ROW(BUS, mmsb_bus_set_default_durability, REFUSED), BARE(BUS, mmsb_wait_durable, REFUSED),
    ROW(BUS, mmsb_bus_log_status, REFUSED), BARE(BUS, mmsb_bus_checkpoint, REFUSED),
    ROW(BUS, mmsb_bus_durable_lsn, REFUSED), ROW(BUS, mmsb_bus_pages, REFUSED), ROW(BUS, mmsb_bus_snapshot, REFUSED),
    ROW(BUS, mmsb_bus_snapshot_at, REFUSED), ROW(BUS, mmsb_page_create, REFUSED), ROW(BUS, mmsb_page_open, REFUSED),
    ROW(BUS, mmsb_page_open_id, REFUSED), ROW(BUS, mmsb_page_open_or_create, REFUSED),
    ROW(BUS, mmsb_batch_open, REFUSED), ROW(BUS, mmsb_transaction_begin, REFUSED), ROW(BUS, mmsb_subscribe, REFUSED),
    BARE(PAGE, mmsb_page_close, ANSWERED), BARE(PAGE, mmsb_page_destroy, REFUSED),
    ROW(PAGE, mmsb_page_rename, REFUSED), ROW(PAGE, mmsb_page_set_schema, REFUSED),
    ROW(PAGE, mmsb_page_set_meta, REFUSED), ROW(PAGE, mmsb_page_describe, REFUSED),
    ROW(PAGE, mmsb_page_get_id, ANSWERED), ROW(PAGE, mmsb_page_get_size, ANSWERED),
    ROW(PAGE, mmsb_page_get_version, REFUSED), ROW(PAGE, mmsb_page_read, REFUSED),
    ROW(PAGE, mmsb_page_read_range, REFUSED), ROW(PAGE, mmsb_page_read_if_newer, REFUSED),
    ROW(PAGE, mmsb_page_read_after, REFUSED), ROW(PAGE, mmsb_page_write, REFUSED), ROW(PAGE, mmsb_page_patch, REFUSED),
    ROW(PAGE, mmsb_page_patch_caused, REFUSED), ROW(PAGE, mmsb_page_patch_many, REFUSED),
    ROW(PAGE, mmsb_page_write_masked, REFUSED), ROW(PAGE, mmsb_page_find_field, REFUSED),
    ROW(PAGE, mmsb_page_get_f64, REFUSED), ROW(PAGE, mmsb_page_get_i64, REFUSED), ROW(PAGE, mmsb_page_get_u64, REFUSED),
    ROW(PAGE, mmsb_page_get_text, REFUSED), ROW(PAGE, mmsb_page_set_text, REFUSED), ROW(PAGE, mmsb_loan_begin, REFUSED),
    ROW(PAGE, mmsb_view_open, REFUSED), ROW(PAGE, mmsb_lease_open, REFUSED), BARE(LOAN, mmsb_loan_publish, REFUSED),
    BARE(LOAN, mmsb_loan_abandon, ANSWERED), BARE(VIEW, mmsb_view_close, ANSWERED),
    BARE(LEASE, mmsb_lease_close, ANSWERED), ROW(BATCH, mmsb_batch_patch, ANSWERED),
    AGAIN(PAGE, mmsb_batch_patch, batch_patch, ANSWERED), ROW(BATCH, mmsb_batch_patch_many, ANSWERED),
    AGAIN(PAGE, mmsb_batch_patch_many, batch_patch_many, ANSWERED), ROW(BATCH, mmsb_batch_write_masked, ANSWERED),
    AGAIN(PAGE, mmsb_batch_write_masked, batch_masked, ANSWERED), ROW(BATCH, mmsb_batch_mark, ANSWERED),
    BARE(BATCH, mmsb_batch_cause, ANSWERED), BARE(BATCH, mmsb_batch_commit, REFUSED),
    BARE(BATCH, mmsb_batch_close, ANSWERED), ROW(TRANSACTION, mmsb_transaction_read, REFUSED),
    AGAIN(PAGE, mmsb_transaction_read, tx_read, REFUSED), ROW(TRANSACTION, mmsb_transaction_patch, REFUSED),
    AGAIN(PAGE, mmsb_transaction_patch, tx_patch, REFUSED), ROW(TRANSACTION, mmsb_transaction_patch_many, REFUSED),
    AGAIN(PAGE, mmsb_transaction_patch_many, tx_many, REFUSED),
    ROW(TRANSACTION, mmsb_transaction_write_masked, REFUSED),
    AGAIN(PAGE, mmsb_transaction_write_masked, tx_masked, REFUSED), ROW(TRANSACTION, mmsb_transaction_mark, REFUSED),
    BARE(TRANSACTION, mmsb_transaction_cause, REFUSED), BARE(TRANSACTION, mmsb_transaction_commit, REFUSED),
    BARE(TRANSACTION, mmsb_transaction_abandon, ANSWERED), ROW(SUBSCRIPTION, mmsb_subscription_next, REFUSED),
    ROW(SUBSCRIPTION, mmsb_subscription_fd, REFUSED), ROW(SUBSCRIPTION, mmsb_subscription_get_stats, REFUSED),
    BARE(SUBSCRIPTION, mmsb_subscription_close, ANSWERED), BARE(LOG, mmsb_log_close, ANSWERED),
    ROW(LOG, mmsb_log_get_bounds, ANSWERED), ROW(LOG, mmsb_log_state_at, ANSWERED), ROW(LOG, mmsb_log_diff, ANSWERED),
    ROW(LOG, mmsb_log_history, ANSWERED), ROW(LOG, mmsb_log_provenance, ANSWERED), ROW(LOG, mmsb_log_play, REFUSED),
    AGAIN(BUS, mmsb_log_play, play, REFUSED), BARE(STATE, mmsb_state_close, ANSWERED),
    ROW(STATE, mmsb_state_get_info, ANSWERED), ROW(STATE, mmsb_state_pages, ANSWERED),
    ROW(STATE, mmsb_state_page, ANSWERED), ROW(STATE, mmsb_state_page_by_id, ANSWERED),
    ROW(STATE, mmsb_state_create_bus, ANSWERED), ROW(STATE, mmsb_state_diff, ANSWERED),
    AGAIN(STATE, mmsb_state_diff, diff, ANSWERED), ROW(LIST, mmsb_list_len, ANSWERED),
    BARE(LIST, mmsb_list_close, ANSWERED), ROW(LIST, mmsb_list_name, ANSWERED), ROW(LIST, mmsb_list_page, ANSWERED),
    ROW(LIST, mmsb_list_meta, ANSWERED), ROW(LIST, mmsb_list_image, ANSWERED),
    ROW(LIST, mmsb_list_participant, ANSWERED), ROW(LIST, mmsb_list_counter, ANSWERED),
    ROW(LIST, mmsb_list_change, ANSWERED), ROW(LIST, mmsb_list_change_range, ANSWERED),
    ROW(LIST, mmsb_list_diff, ANSWERED),
};
#define ROWS (sizeof rows / sizeof rows[0])

/* A call with a bad handle returns this, and leaves its results alone. */
static void refuses(const struct row *row, const char *why, int32_t expected, uint64_t handle) {
  struct outs before;
  prepare();
  memcpy((void *)&before, (const void *)&o, sizeof o);
  int32_t found = (int32_t)row->call(handle);
  if (found != expected) {
    failures++;
    printf("%s, %s: %s, not %s (%s)\n", row->name, why, mmsb_status_name(found), mmsb_status_name(expected),
           mmsb_last_error());
  } else if (expected < 0 && strlen(mmsb_last_error()) < 10) {
    failures++;
    printf("%s, %s: says nothing: %s\n", row->name, why, mmsb_last_error());
  }
  if (memcmp((const void *)&before, (const void *)&o, sizeof o) != 0) {
    failures++;
    printf("%s, %s: touched a result\n", row->name, why);
  }
}

/* Opens one of each kind. */
static void open_all(const char *name, uint64_t *all) {
  mmsb_bus_options options = in_work_dir();
  mmsb_bus bus;
  mmsb_page page, other;
  mmsb_page_options of = page_of("page", 0);
  of.schema = "x:u64";
  prepare();
  OK(mmsb_bus_open_or_create(name, &options, &bus));
  OK(mmsb_page_open_or_create(bus, &of, &page));
  all[BUS] = bus.handle;
  all[PAGE] = page.handle;
  OK(mmsb_page_get_id(page, &live_id));
  of = page_of("loaned", 64);
  OK(mmsb_page_open_or_create(bus, &of, &other));
  OK(mmsb_loan_begin(other, &o.loan, &o.data, NULL));
  memset(o.data, 1, 64);
  OK(mmsb_loan_publish(o.loan, 0, NULL));
  OK(mmsb_view_open(other, &o.view, &o.seen, NULL, NULL));
  all[VIEW] = o.view.handle;
  OK(mmsb_loan_begin(other, &o.loan, &o.data, &o.size));
  all[LOAN] = o.loan.handle;
  of = page_of("leased", 8);
  OK(mmsb_page_open_or_create(bus, &of, &other));
  OK(mmsb_lease_open(other, &o.lease));
  all[LEASE] = o.lease.handle;
  OK(mmsb_batch_open(bus, &o.batch));
  all[BATCH] = o.batch.handle;
  OK(mmsb_transaction_begin(bus, &o.transaction));
  all[TRANSACTION] = o.transaction.handle;
  OK(mmsb_subscribe(bus, NULL, &o.subscription));
  all[SUBSCRIPTION] = o.subscription.handle;
  OK(mmsb_log_open(log_dir, &o.log));
  all[LOG] = o.log.handle;
  OK(mmsb_log_get_bounds(o.log, &o.bounds));
  OK(mmsb_log_state_at(o.log, end_, &o.state));
  all[STATE] = o.state.handle;
  OK(mmsb_state_get_info(o.state, &o.state_info));
  OK(mmsb_bus_pages(bus, NULL, &o.list));
  all[LIST] = o.list.handle;
  OK(mmsb_list_len(o.list, &o.size));
}

static void close_all(const uint64_t *all) {
  OK(mmsb_list_close(as_mmsb_list(all[LIST])));
  OK(mmsb_state_close(as_mmsb_state(all[STATE])));
  OK(mmsb_log_close(as_mmsb_log(all[LOG])));
  OK(mmsb_bus_close(as_mmsb_bus(all[BUS])));
}

/* A log to look into. */
static void make_log(void) {
  mmsb_bus_options options = in_work_dir();
  mmsb_page_options of = page_of("page", 8);
  mmsb_bus bus;
  mmsb_page page;
  uint64_t lsn;
  snprintf(log_dir, sizeof log_dir, "%s/log", work_dir);
  options.log_dir = log_dir;
  OK(mmsb_bus_create("logged", &options, &bus));
  OK(mmsb_page_create(bus, &of, &page));
  OK(mmsb_page_patch(page, 0, data4, 4, &lsn));
  OK(mmsb_wait_durable(bus, lsn, 10000000000u));
  OK(mmsb_bus_close(bus));
}

static void null_and_invented_handles_are_none(void) {
  const uint64_t invented[] = {0,          1,          UINT64_MAX,        0xdeadbeef, 0xdeadbeefdeadbeefu, 1u << 24,
                               0x0b000000, 0x01000000, (uint64_t)1 << 63, 0xff000000, 0x00ffffff};
  for (size_t i = 0; i < ROWS; i++)
    for (size_t k = 0; rows[i].call && k < sizeof invented / sizeof *invented; k++)
      refuses(&rows[i], "an invented handle", MMSB_BAD_HANDLE, invented[k]);
}

static void handles_of_another_kind_are_none(void) {
  for (size_t i = 0; i < ROWS; i++)
    for (int kind = 0; rows[i].call && kind < KINDS; kind++)
      if (kind != rows[i].kind) refuses(&rows[i], "another kind", MMSB_BAD_HANDLE, live[kind]);
}

static void handles_of_a_closed_bus_are_stale(void) {
  uint64_t closed[KINDS];
  open_all("closed", closed);
  close_all(closed);
  for (size_t i = 0; i < ROWS; i++)
    if (rows[i].call) refuses(&rows[i], "of a closed bus", MMSB_STALE_HANDLE, closed[rows[i].kind]);
}

static void handles_that_were_closed_are_stale_also_when_their_place_is_taken(void) {
  uint64_t closed[KINDS], later[KINDS];
  open_all("one-by-one", closed);
  OK(mmsb_page_close(as_mmsb_page(closed[PAGE])));
  OK(mmsb_loan_abandon(as_mmsb_loan(closed[LOAN])));
  OK(mmsb_view_close(as_mmsb_view(closed[VIEW])));
  OK(mmsb_lease_close(as_mmsb_lease(closed[LEASE])));
  OK(mmsb_batch_close(as_mmsb_batch(closed[BATCH])));
  OK(mmsb_transaction_abandon(as_mmsb_transaction(closed[TRANSACTION])));
  OK(mmsb_subscription_close(as_mmsb_subscription(closed[SUBSCRIPTION])));
  close_all(closed);
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < ROWS; i++)
      if (rows[i].call) refuses(&rows[i], "closed", MMSB_STALE_HANDLE, closed[rows[i].kind]);
    /* Their places in the table are taken by others now. */
    if (round == 0) open_all("one-by-one", later);
  }
  close_all(later);
}

static void *from_elsewhere(void *unused) {
  for (size_t i = 0; i < ROWS; i++)
    if (rows[i].call) refuses(&rows[i], "another thread", MMSB_WRONG_THREAD, live[rows[i].kind]);
  return unused;
}

static void handles_of_a_living_thread_are_refused_elsewhere(void) { in_thread(from_elsewhere, NULL); }

static void nulls_are_refused(void) {
  for (size_t i = 0; i < ROWS; i++) {
    struct row row = rows[i];
    if (!row.nulls) continue;
    row.call = row.nulls;
    /* A source that there is, so that only the buffer is wrong. */
    refuses(&row, "null", MMSB_INVALID, row.kind == NONE ? 0 : live[row.kind]);
  }
}

static void ask_in_child(void) {
  for (size_t i = 0; i < ROWS; i++) {
    const struct row *row = &rows[i];
    /* Closing comes last, below; lists of pages hold no names and such. */
    if (!row->call || strstr(row->name, "_close") || strstr(row->name, "_abandon")) continue;
    prepare();
    int32_t found = (int32_t)row->call(live[row->kind]);
    if (row->in_child == REFUSED ? found != MMSB_FORKED : found == MMSB_FORKED) {
      failures++;
      printf("%s in a child: %s (%s)\n", row->name, mmsb_status_name(found), mmsb_last_error());
    }
  }
}

static void a_fork_child_may_not_use_what_the_parent_opened(void) { in_child(ask_in_child); }

static void close_in_child_one_by_one(void) {
  OK(mmsb_page_close(as_mmsb_page(live[PAGE])));
  OK(mmsb_loan_abandon(as_mmsb_loan(live[LOAN])));
  OK(mmsb_view_close(as_mmsb_view(live[VIEW])));
  OK(mmsb_lease_close(as_mmsb_lease(live[LEASE])));
  OK(mmsb_batch_close(as_mmsb_batch(live[BATCH])));
  OK(mmsb_transaction_abandon(as_mmsb_transaction(live[TRANSACTION])));
  OK(mmsb_subscription_close(as_mmsb_subscription(live[SUBSCRIPTION])));
  close_all(live);
  /* And one of its own. */
  open_all("of-the-child", live);
  prepare();
  OK(mmsb_page_read(as_mmsb_page(live[PAGE]), o.bytes, 8, NULL));
  close_all(live);
}

static void close_in_child_at_once(void) { close_all(live); }

static void a_fork_child_closes_its_copies_and_the_parent_notices_nothing(void) {
  in_child(close_in_child_one_by_one);
  in_child(close_in_child_at_once);
  prepare();
  OK(call_mmsb_page_patch(live[PAGE]));
  OK(call_mmsb_batch_commit(live[BATCH]));
  OK(call_mmsb_subscription_next(live[SUBSCRIPTION]));
  OK(call_mmsb_loan_publish(live[LOAN]));
  CHECK(mmsb_bus_check(as_mmsb_bus(live[BUS])) == MMSB_OK);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "--names") == 0) {
    for (size_t i = 0; i < ROWS; i++) printf("%s\n", rows[i].name);
    return 0;
  }
  begin_tests();
  new_bus = in_work_dir();
  new_page = options_of(8);
  range1 = a_range();
  make_log();
  open_all("live", live);
  RUN(null_and_invented_handles_are_none);
  RUN(handles_of_another_kind_are_none);
  RUN(nulls_are_refused);
  RUN(handles_of_a_closed_bus_are_stale);
  RUN(handles_that_were_closed_are_stale_also_when_their_place_is_taken);
  RUN(handles_of_a_living_thread_are_refused_elsewhere);
  RUN(a_fork_child_may_not_use_what_the_parent_opened);
  RUN(a_fork_child_closes_its_copies_and_the_parent_notices_nothing);
  close_all(live);
  return end_tests();
}
