/* Logs: synced writes, checkpoints, rebuilding after a reboot, past states, differences, histories, causes, replay. */
#include "check.h"

#include <time.h>

#define SECONDS_10 10000000000u

static mmsb_bus bus;
static mmsb_page page;
static char log_dir[300];
/* On a disk: segments are in memory, logs are not. */
static char disk_dir[256];

static mmsb_bus_options logged(const char *log) {
  mmsb_bus_options options = in_work_dir();
  snprintf(log_dir, sizeof log_dir, "%s/%s", disk_dir, log);
  options.log_dir = log_dir;
  options.source = "keeper";
  return options;
}

static mmsb_at at_lsn(uint64_t lsn) {
  mmsb_at at;
  at.kind = MMSB_AT_LSN;
  at.reserved = 0;
  at.value = lsn;
  return at;
}

static mmsb_at at_end(void) {
  mmsb_at at = at_lsn(0);
  at.kind = MMSB_AT_END;
  return at;
}

static uint64_t put(const char *eight) {
  uint64_t lsn = 0;
  OK(mmsb_page_write(page, bytes_of(eight), 8, &lsn));
  return lsn;
}

static void open_page(const char *name) {
  mmsb_bus_options options = logged(name);
  mmsb_page_options of = page_of("p", 8);
  OK(mmsb_bus_open_or_create(name, &options, &bus));
  OK(mmsb_page_open_or_create(bus, &of, &page));
}

static void a_bus_without_a_log_says_so(void) {
  mmsb_bus_options options = in_work_dir();
  mmsb_page_options of = page_of("p", 8);
  mmsb_log_status status = MMSB_INIT(mmsb_log_status);
  uint64_t lsn, durable = 1;
  OK(mmsb_bus_create("volatile", &options, &bus));
  OK(mmsb_page_create(bus, &of, &page));
  lsn = put("12345678");
  IS(MMSB_NOT_DURABLE, mmsb_wait_durable(bus, lsn, 0));
  OK(mmsb_bus_durable_lsn(bus, &durable));
  CHECK(durable == 0);
  OK(mmsb_bus_log_status(bus, &status));
  CHECK(status.state == MMSB_LOG_NONE && status.is_supervised == 0);
  IS(MMSB_INVALID, mmsb_bus_checkpoint(bus, NULL, SECONDS_10, NULL));
  CHECK(mmsb_bus_checkpoint(bus, "/nowhere/at/all", 1000000, NULL) < 0);
  OK(mmsb_bus_set_durability(bus, MMSB_SYNCED, 0));
  uint64_t none = 7;
  IS(MMSB_NOT_DURABLE, mmsb_page_write(page, bytes_of("in place"), 8, &none));
  CHECK(none == 7);
  uint8_t bytes[8];
  OK(mmsb_page_read(page, bytes, 8, NULL));
  CHECK(memcmp(bytes, "in place", 8) == 0);
  IS(MMSB_INVALID, mmsb_bus_set_durability(bus, MMSB_DURABILITY_DEFAULT, 0));
  IS(MMSB_INVALID, mmsb_bus_set_durability(bus, 17, 0));
  OK(mmsb_bus_close(bus));
}

static void synced_writes_survive_a_reboot(void) {
  mmsb_bus_options options = logged("kept"), other_log;
  mmsb_log_status status = MMSB_INIT(mmsb_log_status);
  mmsb_checkpoint_info checkpoint = MMSB_INIT(mmsb_checkpoint_info);
  mmsb_bus_info info = MMSB_INIT(mmsb_bus_info);
  mmsb_bus other;
  uint64_t lsn, durable;
  uint8_t bytes[8];
  open_page("kept");
  OK(mmsb_bus_set_durability(bus, MMSB_SYNCED, 0));
  lsn = put("on disk!");
  OK(mmsb_bus_durable_lsn(bus, &durable));
  CHECK(durable > lsn);
  OK(mmsb_bus_set_durability(bus, MMSB_BUFFERED, 1000000));
  put("buffered");
  OK(mmsb_bus_set_default_durability(bus, MMSB_BUFFERED, 0));
  OK(mmsb_bus_set_default_durability(bus, MMSB_VOLATILE, 0));
  OK(mmsb_bus_set_durability(bus, MMSB_VOLATILE, 0));
  lsn = put("waited..");
  OK(mmsb_wait_durable(bus, lsn, SECONDS_10));
  IS(MMSB_NOT_DURABLE, mmsb_wait_durable(bus, lsn + 100000, 1000000));
  OK(mmsb_bus_checkpoint(bus, NULL, SECONDS_10, &checkpoint));
  CHECK(checkpoint.pages == 1 && checkpoint.page_bytes >= 8 && checkpoint.file_bytes > 0 && checkpoint.time_ns > 0);
  OK(mmsb_bus_checkpoint(bus, NULL, SECONDS_10, NULL));
  checkpoint.struct_size = 8;
  IS(MMSB_ABI_MISMATCH, mmsb_bus_checkpoint(bus, NULL, SECONDS_10, &checkpoint));
  OK(mmsb_bus_log_status(bus, &status));
  CHECK(status.state == MMSB_LOG_RUNNING && status.is_supervised == 1 && status.durable_lsn > lsn);
  CHECK(status.checkpoint_lsn > 0 && status.incarnation == 1 && status.error == 0);
  /* Another participant, without a supervisor of its own, says where the log is. */
  options.log_dir = NULL;
  OK(mmsb_bus_attach("kept", &options, &other));
  checkpoint.struct_size = sizeof checkpoint;
  OK(mmsb_bus_checkpoint(other, log_dir, SECONDS_10, &checkpoint));
  IS(MMSB_INVALID, mmsb_bus_checkpoint(other, NULL, SECONDS_10, &checkpoint));
  OK(mmsb_bus_close(other));
  put("the last");
  OK(mmsb_bus_close(bus));

  options = logged("kept");
  int32_t refused = (int32_t)mmsb_bus_create("kept-anew", &options, &other);
  CHECK(refused == MMSB_LOG);
  OK(mmsb_bus_unlink(work_dir, "kept"));
  open_page("kept");
  OK(mmsb_page_read(page, bytes, 8, NULL));
  CHECK(memcmp(bytes, "the last", 8) == 0);
  /* LSNs of the first life are void behind its end. */
  mmsb_subscribe_options from = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_subscription none;
  from.from = MMSB_FROM_LSN;
  from.incarnation = 1;
  OK(mmsb_bus_end_lsn(bus, &from.lsn));
  from.lsn += 100;
  IS(MMSB_DIVERGED, mmsb_subscribe(bus, &from, &none));
  OK(mmsb_bus_get_info(bus, &info));
  CHECK(info.incarnation == 2);
  /* The log of another bus is not this one's. */
  other_log = in_work_dir();
  other_log.log_dir = log_dir;
  CHECK(mmsb_bus_open_or_create("stranger", &other_log, &other) < 0);
  OK(mmsb_bus_close(bus));
}

static void a_child_that_forks_leaves_the_supervisor_alone(void) {
  open_page("forked");
  pid_t pid = fork();
  if (pid == 0) {
    alarm(30);
    _exit(mmsb_bus_close(bus) != MMSB_OK);
  }
  int status = -1;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  OK(mmsb_wait_durable(bus, put("after it"), SECONDS_10));
  OK(mmsb_bus_close(bus));
}

static void the_past_is_looked_at(void) {
  mmsb_log log;
  mmsb_state before, after;
  mmsb_log_bounds bounds;
  mmsb_state_info info = MMSB_INIT(mmsb_state_info), later = MMSB_INIT(mmsb_state_info);
  mmsb_image image;
  mmsb_list list;
  mmsb_page_info described = MMSB_INIT(mmsb_page_info);
  mmsb_page_diff diff = MMSB_INIT(mmsb_page_diff);
  mmsb_change change = MMSB_INIT(mmsb_change);
  mmsb_changed_range range;
  mmsb_page_id id;
  uint64_t first, second, third;
  uint32_t end = 99;
  size_t count;
  struct timespec now;
  open_page("past");
  OK(mmsb_page_get_id(page, &id));
  first = put("one.....");
  second = put("two.....");
  OK(mmsb_page_patch_caused(page, second, 0, bytes_of("x"), 1, &third));
  OK(mmsb_wait_durable(bus, third, SECONDS_10));

  IS(MMSB_MISSING, mmsb_log_open("/nowhere/at/all", &log));
  IS(MMSB_MISSING, mmsb_log_open(work_dir, &log));
  OK(mmsb_log_open(log_dir, &log));
  OK(mmsb_log_get_bounds(log, &bounds));
  CHECK(bounds.first_lsn <= first && bounds.oldest_state <= first && bounds.end_lsn > third);
  OK(mmsb_log_state_at(log, at_lsn(first), &before));
  OK(mmsb_log_state_at(log, at_end(), &after));
  mmsb_state none;
  IS(MMSB_NOT_IN_LOG, mmsb_log_state_at(log, at_lsn(third + 1000000), &none));
  mmsb_at wrong = at_lsn(1);
  wrong.kind = 9;
  IS(MMSB_INVALID, mmsb_log_state_at(log, wrong, &none));
  clock_gettime(CLOCK_REALTIME, &now);
  mmsb_at moment = at_lsn((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
  moment.kind = MMSB_AT_TIME;
  int32_t at_time = (int32_t)mmsb_log_state_at(log, moment, &none);
  CHECK(at_time == MMSB_OK || at_time == MMSB_NOT_IN_LOG);
  if (at_time == MMSB_OK) OK(mmsb_state_close(none));
  OK(mmsb_state_get_info(before, &info));
  OK(mmsb_state_get_info(after, &later));
  CHECK(info.pages == 1 && info.lsn < later.lsn && memcmp(info.hash, later.hash, 16) != 0 && info.incarnation == 1);
  OK(mmsb_state_page(before, "p", &image));
  CHECK(image.size == 8 && memcmp(image.bytes, "one.....", 8) == 0 && image.version.lsn == first);
  OK(mmsb_state_page_by_id(after, id, &image));
  CHECK(memcmp(image.bytes, "xwo.....", 8) == 0);
  IS(MMSB_MISSING, mmsb_state_page(before, "q", &image));
  id.generation++;
  IS(MMSB_MISSING, mmsb_state_page_by_id(before, id, &image));
  id.generation--;
  OK(mmsb_state_pages(before, &list));
  OK(mmsb_list_page(list, 0, &described));
  CHECK(strcmp(described.name, "p") == 0 && described.size == 8);
  OK(mmsb_list_close(list));

  OK(mmsb_log_diff(log, at_lsn(first), at_end(), &list));
  OK(mmsb_list_len(list, &count));
  OK(mmsb_list_diff(list, 0, &diff));
  CHECK(count == 1 && diff.id.index == id.index && diff.is_before && diff.is_after && !diff.is_redescribed);
  CHECK(diff.before.lsn == first && diff.after.lsn == third && diff.ranges > 0);
  OK(mmsb_list_change_range(list, 0, 0, &range));
  CHECK(range.offset == 0 && range.old_bytes[0] == 'o' && range.new_bytes[0] == 'x');
  IS(MMSB_OUT_OF_RANGE, mmsb_list_change_range(list, 0, diff.ranges, &range));
  IS(MMSB_OUT_OF_RANGE, mmsb_list_diff(list, 1, &diff));
  OK(mmsb_list_close(list));
  OK(mmsb_state_diff(before, after, &list));
  OK(mmsb_list_len(list, &count));
  CHECK(count == 1);
  OK(mmsb_list_close(list));
  OK(mmsb_state_diff(after, after, &list));
  OK(mmsb_list_len(list, &count));
  CHECK(count == 0);
  OK(mmsb_list_close(list));

  OK(mmsb_log_history(log, id, 0, UINT32_MAX, 0, UINT64_MAX, &list));
  OK(mmsb_list_len(list, &count));
  OK(mmsb_list_change(list, count - 1, &change));
  CHECK(count >= 3 && change.lsn == third && change.cause == second && change.kind == MMSB_KIND_PATCH);
  CHECK(strcmp(change.source_name, "keeper") == 0 && change.ranges == 1 && !change.in_transaction);
  OK(mmsb_list_change_range(list, count - 1, 0, &range));
  CHECK(range.new_len == 1 && range.new_bytes[0] == 'x' && range.old_len == 1 && range.old_bytes[0] == 't');
  IS(MMSB_OUT_OF_RANGE, mmsb_list_change(list, count, &change));
  IS(MMSB_OUT_OF_RANGE, mmsb_list_change_range(list, count, 0, &range));
  OK(mmsb_list_close(list));
  OK(mmsb_log_history(log, id, 4, 4, 0, UINT64_MAX, &list));
  OK(mmsb_list_len(list, &count));
  OK(mmsb_list_close(list));
  OK(mmsb_log_provenance(log, id, at_end(), 10, &list, &end));
  OK(mmsb_list_len(list, &count));
  OK(mmsb_list_change(list, 1, &change));
  CHECK(count == 2 && end == MMSB_CHAIN_OUTSIDE && change.lsn == second && strcmp(change.page_name, "p") == 0);
  OK(mmsb_list_change_range(list, 1, 0, &range));
  CHECK(range.new_len == 8 && range.old_len == 0 && range.old_bytes == NULL);
  OK(mmsb_list_close(list));
  mmsb_page_id nowhere;
  memset(&nowhere, 0, sizeof nowhere);
  OK(mmsb_log_provenance(log, nowhere, at_lsn(third), 1, &list, &end));
  CHECK(end == MMSB_CHAIN_TOO_LONG);
  OK(mmsb_list_close(list));
  IS(MMSB_INVALID, mmsb_log_provenance(log, nowhere, at_end(), 1, &list, &end));
  IS(MMSB_NOT_IN_LOG, mmsb_log_provenance(log, nowhere, at_lsn(third + 1000000), 1, &list, NULL));
  nowhere.generation = 55;
  IS(MMSB_MISSING, mmsb_log_provenance(log, nowhere, at_end(), 1, &list, NULL));

  /* A bus of the past, and one into which it is played. */
  mmsb_bus past, target, observer;
  mmsb_page there;
  uint8_t bytes[8];
  mmsb_replayed replayed = MMSB_INIT(mmsb_replayed);
  mmsb_bus_options options = in_work_dir();
  OK(mmsb_state_create_bus(before, "as-it-was", &options, &past));
  IS(MMSB_EXISTS, mmsb_state_create_bus(before, "as-it-was", &options, &observer));
  OK(mmsb_page_open(past, "p", &there));
  OK(mmsb_page_read(there, bytes, 8, NULL));
  CHECK(memcmp(bytes, "one.....", 8) == 0);
  OK(mmsb_bus_create("target", &options, &target));
  OK(mmsb_log_play(log, target, 0, UINT64_MAX, 0, NULL, &replayed));
  CHECK(replayed.records >= 3 && replayed.created == 1 && replayed.bytes >= 17 && replayed.skipped == 0);
  CHECK(replayed.to_lsn > replayed.from_lsn);
  OK(mmsb_page_open(target, "p", &there));
  OK(mmsb_page_read(there, bytes, 8, NULL));
  CHECK(memcmp(bytes, "xwo.....", 8) == 0);
  OK(mmsb_log_play(log, target, 0, UINT64_MAX, 1000, "none/", NULL));
  double zero = 0;
  IS(MMSB_INVALID, mmsb_log_play(log, target, 0, UINT64_MAX, -1, NULL, NULL));
  IS(MMSB_INVALID, mmsb_log_play(log, target, 0, UINT64_MAX, zero / zero, NULL, NULL));
  replayed.struct_size = 8;
  IS(MMSB_ABI_MISMATCH, mmsb_log_play(log, target, 0, UINT64_MAX, 0, NULL, &replayed));
  OK(mmsb_bus_observe("target", &options, &observer));
  IS(MMSB_READ_ONLY, mmsb_log_play(log, observer, 0, UINT64_MAX, 0, NULL, NULL));
  OK(mmsb_bus_close(observer));
  OK(mmsb_bus_close(target));
  OK(mmsb_bus_close(past));
  OK(mmsb_log_close(log));
  /* States stay, and so do their bytes. */
  OK(mmsb_state_page(before, "p", &image));
  OK(mmsb_state_close(before));
  OK(mmsb_state_close(after));
  OK(mmsb_bus_close(bus));
}

static void a_subscription_begins_at_an_lsn(void) {
  mmsb_subscribe_options options = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_subscription from;
  mmsb_event event = MMSB_INIT(mmsb_event);
  uint64_t first, lsn = 0;
  open_page("from");
  first = put("number 1");
  for (int i = 0; i < 50; i++) lsn = put("the next");
  OK(mmsb_wait_durable(bus, lsn, SECONDS_10));
  options.from = MMSB_FROM_LSN;
  options.lsn = first;
  /* Its own supervisor knows where the log is; and one may say so. */
  for (int round = 0; round < 2; round++) {
    OK(mmsb_subscribe(bus, &options, &from));
    OK(mmsb_subscription_next(from, SECONDS_10, &event));
    CHECK(event.event == MMSB_EVENT_DELTA && event.version.lsn == first);
    CHECK(event.ranges_count == 1 && memcmp(event.ranges[0].bytes, "number 1", 8) == 0);
    int told = 0;
    while (mmsb_subscription_next(from, 0, &event) == MMSB_OK) told += event.event == MMSB_EVENT_DELTA;
    CHECK(told == 50);
    OK(mmsb_subscription_close(from));
    options.log_dir = log_dir;
  }
  options.incarnation = 77;
  IS(MMSB_INVALID, mmsb_subscribe(bus, &options, &from));
  options.incarnation = 0;
  options.lsn = 1;
  IS(MMSB_NOT_IN_LOG, mmsb_subscribe(bus, &options, &from));
  OK(mmsb_bus_close(bus));
}

static void damage_is_said(void) {
  mmsb_log log;
  mmsb_state state;
  mmsb_bus_options options;
  char command[700];
  open_page("damaged");
  for (int i = 0; i < 2000; i++) put("damaged?");
  OK(mmsb_bus_close(bus));
  /* Into the middle of every file of the log. */
  snprintf(command, sizeof command,
           "for f in '%s'/*.tlog; do printf 'XXXXXXXXXXXXXXXX' | dd of=$f bs=1 seek=20000 conv=notrunc status=none; done",
           log_dir);
  CHECK(system(command) == 0);
  OK(mmsb_log_open(log_dir, &log));
  IS(MMSB_LOG, mmsb_log_state_at(log, at_end(), &state));
  OK(mmsb_log_close(log));
  OK(mmsb_bus_unlink(work_dir, "damaged"));
  options = logged("damaged");
  IS(MMSB_LOG, mmsb_bus_open_or_create("damaged", &options, &bus));
}

int main(void) {
  char command[320];
  const char *disk = getenv("TMPDIR");
  begin_tests();
  snprintf(disk_dir, sizeof disk_dir, "%s/mmsb-abi.XXXXXX", disk && *disk ? disk : "/var/tmp");
  if (!mkdtemp(disk_dir)) {
    perror("mkdtemp");
    return 2;
  }
  RUN(a_bus_without_a_log_says_so);
  RUN(synced_writes_survive_a_reboot);
  RUN(a_child_that_forks_leaves_the_supervisor_alone);
  RUN(the_past_is_looked_at);
  RUN(a_subscription_begins_at_an_lsn);
  RUN(damage_is_said);
  snprintf(command, sizeof command, "rm -rf '%s'", disk_dir);
  CHECK(system(command) == 0);
  return end_tests();
}
