/* Buses, options, observers, a full ring: what works, and each error that can be made. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

static mmsb_bus bus;

static void open_bus(const char *name) {
  mmsb_bus_options options = in_work_dir();
  options.source = "tester";
  OK(mmsb_bus_create(name, &options, &bus));
}

static void versions_and_names(void) {
  CHECK(mmsb_abi_version() == MMSB_ABI_VERSION);
  OK(mmsb_check_abi(MMSB_ABI_VERSION));
  IS(MMSB_ABI_MISMATCH, mmsb_check_abi(0));
  IS(MMSB_ABI_MISMATCH, mmsb_check_abi(MMSB_ABI_VERSION + 1));
  CHECK(strchr(mmsb_version(), '.') != NULL);
  CHECK(strcmp(mmsb_status_name(MMSB_OK), "MMSB_OK") == 0);
  CHECK(strcmp(mmsb_status_name(MMSB_BACKPRESSURE), "MMSB_BACKPRESSURE") == 0);
  CHECK(strcmp(mmsb_status_name(12345), "MMSB_?") == 0);
  CHECK(strstr(mmsb_last_error(), "ABI") != NULL);
}

static void *fresh_message(void *unused) {
  CHECK(strcmp(mmsb_last_error(), "") == 0);
  return unused;
}

static void messages_are_of_the_thread_that_failed(void) {
  IS(MMSB_ABI_MISMATCH, mmsb_check_abi(0));
  in_thread(fresh_message, NULL);
  CHECK(strlen(mmsb_last_error()) > 0);
}

static void options_of_another_size_or_with_unknown_bits_are_refused(void) {
  mmsb_bus other;
  mmsb_bus_options options = in_work_dir();
  const uint32_t wrong[] = {0, 1, 4, 8, 20, (uint32_t)sizeof options - 8, (uint32_t)sizeof options + 4, 5000, UINT32_MAX};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    options.struct_size = wrong[i];
    IS(MMSB_ABI_MISMATCH, mmsb_bus_open_or_create("options", &options, &other));
  }
  options = in_work_dir();
  options.abi = 0;
  IS(MMSB_ABI_MISMATCH, mmsb_bus_open_or_create("options", &options, &other));
  options.abi = MMSB_ABI_VERSION + 1;
  IS(MMSB_ABI_MISMATCH, mmsb_bus_open_or_create("options", &options, &other));
  options = in_work_dir();
  options.flags = 1u << 31;
  IS(MMSB_ABI_MISMATCH, mmsb_bus_open_or_create("options", &options, &other));
  options = in_work_dir();
  options.reserved = 1;
  IS(MMSB_ABI_MISMATCH, mmsb_bus_open_or_create("options", &options, &other));
  options = in_work_dir();
  options.durability = 9;
  IS(MMSB_INVALID, mmsb_bus_open_or_create("options", &options, &other));
  options = in_work_dir();
  options.dir = "\xff\xfe";
  IS(MMSB_INVALID, mmsb_bus_open_or_create("options", &options, &other));
  /* A later version of the struct: fine as long as what this library does not know is 0. */
  struct later {
    mmsb_bus_options now;
    uint64_t more[4];
  } later;
  memset((void *)&later, 0, sizeof later);
  later.now = in_work_dir();
  later.now.struct_size = sizeof later;
  OK(mmsb_bus_open_or_create("options", &later.now, &other));
  OK(mmsb_bus_close(other));
  later.more[3] = 1;
  IS(MMSB_ABI_MISMATCH, mmsb_bus_open_or_create("options", &later.now, &other));
  /* And of a result: the rest becomes 0. */
  struct {
    mmsb_bus_info now;
    uint64_t more;
  } info;
  options = in_work_dir();
  OK(mmsb_bus_attach("options", &options, &other));
  memset((void *)&info, 0xff, sizeof info);
  info.now.struct_size = sizeof info;
  OK(mmsb_bus_get_info(other, &info.now));
  CHECK(info.more == 0 && info.now.struct_size == sizeof info && info.now.pages_max > 0);
  info.now.struct_size = 12;
  info.now.pages_max = 77;
  IS(MMSB_ABI_MISMATCH, mmsb_bus_get_info(other, &info.now));
  CHECK(info.now.pages_max == 77);
  OK(mmsb_bus_close(other));
}

static void buses_are_made_attached_observed_listed_and_removed(void) {
  mmsb_bus made, attached, observed, other;
  mmsb_bus_options options = in_work_dir();
  mmsb_list names;
  const char *name;
  size_t count, listed = 0;
  IS(MMSB_MISSING, mmsb_bus_attach("life", &options, &made));
  IS(MMSB_MISSING, mmsb_bus_observe("life", &options, &made));
  IS(MMSB_MISSING, mmsb_bus_unlink(work_dir, "life"));
  IS(MMSB_BAD_NAME, mmsb_bus_create("a/b", &options, &made));
  IS(MMSB_BAD_NAME, mmsb_bus_create("", &options, &made));
  options.ring_bytes = UINT64_MAX;
  IS(MMSB_BAD_CONFIG, mmsb_bus_create("life", &options, &made));
  options = in_work_dir();
  options.mode = 0644;
  options.pages_max = 100;
  options.names_max = 50;
  options.participants_max = 3;
  options.cursors_max = 5;
  options.sources_max = 7;
  options.ring_bytes = 1 << 16;
  OK(mmsb_bus_create("life", &options, &made));
  IS(MMSB_EXISTS, mmsb_bus_create("life", &options, &other));
  OK(mmsb_bus_attach("life", &options, &attached));
  OK(mmsb_bus_observe("life", &options, &observed));
  mmsb_bus_info info = MMSB_INIT(mmsb_bus_info), seen = MMSB_INIT(mmsb_bus_info);
  OK(mmsb_bus_get_info(made, &info));
  CHECK(info.mode == 0644 && info.pages_max == 100 && info.participants_max == 3 && info.cursors_max == 5);
  CHECK(info.ring_bytes == 1 << 16 && info.uid == getuid() && info.gid == getgid() && info.incarnation == 1);
  CHECK(info.bytes_max >= info.len_bytes && info.len_bytes > 0 && info.memory_bytes > 0 && info.created_ns > 0);
  OK(mmsb_bus_get_info(observed, &seen));
  CHECK(memcmp(seen.bus_id, info.bus_id, 16) == 0 && seen.participants_max == 0);
  OK(mmsb_bus_another(made, "again", &other));
  mmsb_bus many;
  IS(MMSB_FULL, mmsb_bus_another(made, NULL, &many));
  IS(MMSB_FULL, mmsb_bus_attach("life", &options, &many));
  OK(mmsb_bus_close(other));
  OK(mmsb_bus_list(work_dir, &names));
  OK(mmsb_list_len(names, &count));
  for (size_t i = 0; i < count; i++) {
    OK(mmsb_list_name(names, i, &name));
    listed += strcmp(name, "life") == 0;
  }
  CHECK(listed == 1);
  IS(MMSB_OUT_OF_RANGE, mmsb_list_name(names, count, &name));
  OK(mmsb_list_close(names));
  IS(MMSB_IO, mmsb_bus_list("/nowhere/at/all", &names));
  OK(mmsb_bus_check(made));
  OK(mmsb_bus_unlink(work_dir, "life"));
  IS(MMSB_BUS_GONE, mmsb_bus_check(made));
  OK(mmsb_bus_close(made));
  IS(MMSB_STALE_HANDLE, mmsb_bus_close(made));
  OK(mmsb_bus_close(attached));
  OK(mmsb_bus_close(observed));
}

static void what_is_no_bus_is_not_attached(void) {
  mmsb_bus other;
  mmsb_bus_options options = in_work_dir();
  char path[400];
  snprintf(path, sizeof path, "%s/mmsb.junk.pages", work_dir);
  FILE *file = fopen(path, "w");
  CHECK(file && fputs("this is no segment", file) >= 0 && fclose(file) == 0 && chmod(path, 0600) == 0);
  snprintf(path, sizeof path, "%s/mmsb.junk.ctl", work_dir);
  file = fopen(path, "w");
  CHECK(file && fclose(file) == 0);
  int32_t found = (int32_t)mmsb_bus_observe("junk", &options, &other);
  CHECK(found == MMSB_WRONG_LAYOUT || found == MMSB_INITIALISING);
  OK(mmsb_bus_create("other-magic", &options, &other));
  OK(mmsb_bus_close(other));
  snprintf(path, sizeof path, "%s/mmsb.other-magic.pages", work_dir);
  int fd = open(path, O_RDWR);
  CHECK(fd >= 0 && pwrite(fd, "WHATEVER", 8, 0) == 8 && close(fd) == 0);
  IS(MMSB_WRONG_LAYOUT, mmsb_bus_observe("other-magic", &options, &other));
  IS(MMSB_WRONG_LAYOUT, mmsb_bus_attach("other-magic", &options, &other));
  if (getuid() != 0) {
    CHECK(chmod(path, 0) == 0);
    IS(MMSB_PERMISSION, mmsb_bus_observe("other-magic", &options, &other));
  }
  OK(mmsb_bus_unlink(work_dir, "other-magic"));
}

static void a_page_that_is_cut_off_is_gone_and_not_a_signal(void) {
  mmsb_bus other;
  mmsb_page page;
  mmsb_bus_options options = in_work_dir();
  mmsb_page_options of = page_of("p", 4 << 20);
  static uint8_t buffer[4 << 20];
  struct stat about;
  char path[400];
  OK(mmsb_bus_create("cut", &options, &other));
  OK(mmsb_page_create(other, &of, &page));
  OK(mmsb_bus_close(other));
  options.flags = MMSB_SIGBUS_GUARD;
  OK(mmsb_bus_observe("cut", &options, &other));
  OK(mmsb_page_open(other, "p", &page));
  OK(mmsb_page_read(page, buffer, sizeof buffer, NULL));
  snprintf(path, sizeof path, "%s/mmsb.cut.pages", work_dir);
  CHECK(stat(path, &about) == 0);
  /* From the end on, until it meets the page. */
  int32_t status = MMSB_OK;
  for (off_t len = about.st_size; status == MMSB_OK && len > 0; len -= 1 << 20) {
    CHECK(truncate(path, len) == 0);
    status = (int32_t)mmsb_page_read(page, buffer, sizeof buffer, NULL);
  }
  CHECK(status == MMSB_BUS_GONE);
  OK(mmsb_bus_close(other));
}

static void a_bus_tells_how_it_is(void) {
  mmsb_page page;
  mmsb_page_options of = page_of("p", 8);
  mmsb_stats stats = MMSB_INIT(mmsb_stats);
  mmsb_list list;
  mmsb_participant participant = MMSB_INIT(mmsb_participant);
  const char *name;
  char source[64];
  uint64_t number;
  uint32_t recovered = 9;
  size_t count, needed;
  int found = 0;
  open_bus("stats");
  OK(mmsb_page_create(bus, &of, &page));
  for (int i = 0; i < 10; i++) OK(mmsb_page_patch(page, 0, bytes_of("x"), 1, NULL));
  OK(mmsb_bus_get_stats(bus, &stats));
  CHECK(stats.pages == 1 && stats.names == 1 && stats.participants == 1 && stats.deltas >= 10 && stats.bytes >= 10);
  CHECK(stats.published_lsn <= stats.end_lsn && stats.floor_lsn <= stats.published_lsn && stats.cursors == 0);
  OK(mmsb_bus_end_lsn(bus, &number));
  CHECK(number == stats.end_lsn);
  OK(mmsb_bus_participants(bus, &list));
  OK(mmsb_list_len(list, &count));
  OK(mmsb_list_participant(list, 0, &participant));
  CHECK(count == 1 && participant.pid == (uint32_t)getpid() && participant.is_alive && participant.deltas >= 10);
  CHECK(strcmp(participant.name, "tester") == 0 && participant.hold_lsn == 0 && participant.joined_ns > 0);
  IS(MMSB_OUT_OF_RANGE, mmsb_list_participant(list, 1, &participant));
  OK(mmsb_list_close(list));
  OK(mmsb_bus_counters(bus, &list));
  OK(mmsb_list_len(list, &count));
  CHECK(count > 0);
  for (size_t i = 0; i < count; i++) {
    OK(mmsb_list_counter(list, i, &name, &number));
    CHECK(strlen(name) > 0);
  }
  IS(MMSB_OUT_OF_RANGE, mmsb_list_counter(list, count, &name, &number));
  OK(mmsb_list_close(list));
  OK(mmsb_bus_recover(bus, &recovered));
  CHECK(recovered == 0);
  OK(mmsb_bus_recover(bus, NULL));
  for (uint16_t n = 0; n < 8; n++) {
    if (mmsb_bus_source_name(bus, n, source, sizeof source, &needed) != MMSB_OK || strcmp(source, "tester")) continue;
    found++;
    CHECK(needed == 7);
    IS(MMSB_TOO_SMALL, mmsb_bus_source_name(bus, n, source, 6, &needed));
    IS(MMSB_INVALID, mmsb_bus_source_name(bus, n, NULL, 64, NULL));
  }
  CHECK(found == 1);
  IS(MMSB_MISSING, mmsb_bus_source_name(bus, 1000, source, sizeof source, &needed));
  OK(mmsb_bus_close(bus));
}

static void observers_read_and_change_nothing(void) {
  mmsb_bus observer, none;
  mmsb_bus_options options = in_work_dir();
  mmsb_page_options of = page_of("seen", 0);
  mmsb_page own, page, no_page;
  mmsb_page_id id;
  mmsb_list list;
  uint8_t buffer[8];
  uint64_t lsn, end;
  size_t count;
  double real;
  mmsb_page_version version;
  mmsb_log_status log = MMSB_INIT(mmsb_log_status);
  open_bus("observed");
  of.schema = "x:f64";
  OK(mmsb_page_create(bus, &of, &own));
  OK(mmsb_page_set_text(own, "x", "2.5", &lsn));
  OK(mmsb_bus_observe("observed", &options, &observer));
  OK(mmsb_page_open(observer, "seen", &page));
  OK(mmsb_page_read(page, buffer, 8, &version));
  CHECK(version.lsn == lsn);
  OK(mmsb_page_get_f64(page, "x", &real));
  CHECK(real == 2.5);
  IS(MMSB_NOTHING, mmsb_page_read_if_newer(page, &version, buffer, 8));
  OK(mmsb_page_get_id(page, &id));
  OK(mmsb_page_close(page));
  OK(mmsb_page_open_id(observer, id, &page));
  OK(mmsb_page_get_version(page, &version));
  OK(mmsb_bus_snapshot(observer, &id, 1, &list));
  OK(mmsb_list_close(list));
  OK(mmsb_bus_pages(observer, "", &list));
  OK(mmsb_list_len(list, &count));
  CHECK(count == 1);
  OK(mmsb_list_close(list));
  OK(mmsb_bus_pages(observer, NULL, &list));
  OK(mmsb_list_close(list));
  OK(mmsb_page_describe(page, &list));
  OK(mmsb_list_close(list));
  OK(mmsb_bus_counters(observer, &list));
  OK(mmsb_list_close(list));
  OK(mmsb_bus_end_lsn(observer, &end));
  CHECK(end > lsn);
  OK(mmsb_bus_durable_lsn(observer, &end));
  OK(mmsb_bus_log_status(observer, &log));
  CHECK(log.state == MMSB_LOG_NONE && log.is_supervised == 2 && end == 0);

  mmsb_stats stats = MMSB_INIT(mmsb_stats);
  mmsb_batch batch;
  mmsb_transaction tx;
  mmsb_loan loan;
  mmsb_view view;
  mmsb_lease lease;
  uint8_t *block;
  const uint8_t *seen;
  IS(MMSB_READ_ONLY, mmsb_page_write(page, buffer, 8, NULL));
  IS(MMSB_READ_ONLY, mmsb_page_patch(page, 0, buffer, 8, NULL));
  IS(MMSB_READ_ONLY, mmsb_page_patch_caused(page, 1, 0, buffer, 8, NULL));
  IS(MMSB_READ_ONLY, mmsb_page_patch_many(page, NULL, 0, NULL));
  IS(MMSB_READ_ONLY, mmsb_page_write_masked(page, 0, buffer, buffer, 8, NULL));
  IS(MMSB_READ_ONLY, mmsb_page_set_text(page, "x", "1", NULL));
  IS(MMSB_READ_ONLY, mmsb_page_read_after(page, lsn, 0, buffer, 8, NULL));
  IS(MMSB_READ_ONLY, mmsb_page_rename(page, "y"));
  IS(MMSB_READ_ONLY, mmsb_page_set_schema(page, "u8"));
  IS(MMSB_READ_ONLY, mmsb_page_set_meta(page, NULL, NULL, 0));
  IS(MMSB_READ_ONLY, mmsb_page_destroy(page));
  IS(MMSB_READ_ONLY, mmsb_loan_begin(page, &loan, &block, NULL));
  IS(MMSB_READ_ONLY, mmsb_view_open(page, &view, &seen, NULL, NULL));
  IS(MMSB_READ_ONLY, mmsb_lease_open(page, &lease));
  IS(MMSB_READ_ONLY, mmsb_page_create(observer, &of, &no_page));
  IS(MMSB_READ_ONLY, mmsb_page_open_or_create(observer, &of, &no_page));
  IS(MMSB_READ_ONLY, mmsb_bus_another(observer, NULL, &none));
  IS(MMSB_READ_ONLY, mmsb_bus_get_stats(observer, &stats));
  IS(MMSB_READ_ONLY, mmsb_bus_participants(observer, &list));
  IS(MMSB_READ_ONLY, mmsb_bus_recover(observer, NULL));
  IS(MMSB_READ_ONLY, mmsb_bus_check(observer));
  IS(MMSB_READ_ONLY, mmsb_bus_set_durability(observer, MMSB_VOLATILE, 0));
  IS(MMSB_READ_ONLY, mmsb_bus_set_default_durability(observer, MMSB_VOLATILE, 0));
  IS(MMSB_READ_ONLY, mmsb_wait_durable(observer, 0, 0));
  IS(MMSB_READ_ONLY, mmsb_bus_checkpoint(observer, work_dir, 0, NULL));
  IS(MMSB_READ_ONLY, mmsb_bus_snapshot_at(observer, 0, 0, &id, 1, &list));
  IS(MMSB_READ_ONLY, mmsb_batch_open(observer, &batch));
  IS(MMSB_READ_ONLY, mmsb_transaction_begin(observer, &tx));
  OK(mmsb_bus_close(observer));
  OK(mmsb_bus_close(bus));
}

static void a_full_ring_is_said(void) {
  mmsb_bus other;
  mmsb_bus_options options = in_work_dir();
  mmsb_page page;
  mmsb_page_options of = page_of("p", 8192);
  mmsb_subscribe_options gating = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_subscription slow;
  mmsb_batch batch;
  static uint8_t bytes[8192];
  int32_t found = MMSB_OK;
  options.ring_bytes = 4096;
  options.flags = MMSB_FAIL_WHEN_FULL;
  options.timeout_ns = 20000000;
  OK(mmsb_bus_create("full", &options, &other));
  OK(mmsb_page_create(other, &of, &page));
  OK(mmsb_batch_open(other, &batch));
  for (int i = 0; i < 100; i++) OK(mmsb_batch_patch(batch, page, 0, bytes, 64));
  IS(MMSB_TOO_LARGE, mmsb_batch_commit(batch, NULL));
  gating.flags = MMSB_GATING;
  OK(mmsb_subscribe(other, &gating, &slow));
  for (int i = 0; i < 1000 && found == MMSB_OK; i++) found = (int32_t)mmsb_page_patch(page, 0, bytes, 100, NULL);
  CHECK(found == MMSB_BACKPRESSURE);
  CHECK(strlen(mmsb_last_error()) > 20);
  OK(mmsb_subscription_close(slow));
  OK(mmsb_page_patch(page, 0, bytes, 100, NULL));
  OK(mmsb_bus_close(other));
}

int main(void) {
  begin_tests();
  RUN(versions_and_names);
  RUN(messages_are_of_the_thread_that_failed);
  RUN(options_of_another_size_or_with_unknown_bits_are_refused);
  RUN(buses_are_made_attached_observed_listed_and_removed);
  RUN(what_is_no_bus_is_not_attached);
  RUN(a_page_that_is_cut_off_is_gone_and_not_a_signal);
  RUN(a_bus_tells_how_it_is);
  RUN(observers_read_and_change_nothing);
  RUN(a_full_ring_is_said);
  return end_tests();
}
