/* Subscriptions: from now, from a snapshot, by page and prefix, gating and lapped, waiting and polled with epoll. */
#include "check.h"

#include <sys/epoll.h>
#include <time.h>

static mmsb_bus bus;

static void open_bus(const char *name, uint64_t ring_bytes) {
  mmsb_bus_options options = in_work_dir();
  options.source = "writer";
  options.ring_bytes = ring_bytes;
  options.timeout_ns = 50000000;
  OK(mmsb_bus_create(name, &options, &bus));
}

static mmsb_page make(const char *name, uint64_t size) {
  mmsb_page page;
  mmsb_page_options of = page_of(name, size);
  OK(mmsb_page_create(bus, &of, &page));
  return page;
}

static mmsb_page_id id_of(mmsb_page page) {
  mmsb_page_id id;
  OK(mmsb_page_get_id(page, &id));
  return id;
}

static int same(mmsb_page_id a, mmsb_page_id b) { return a.index == b.index && a.generation == b.generation; }

/* The next event is of this kind. */
static mmsb_event next(mmsb_subscription from, uint32_t kind) {
  mmsb_event event = MMSB_INIT(mmsb_event);
  OK(mmsb_subscription_next(from, 1000000000, &event));
  if (event.event != kind) {
    failures++;
    printf("event %u where %u was to come\n", event.event, kind);
  }
  return event;
}

static void nothing_comes(mmsb_subscription from) {
  mmsb_event event = MMSB_INIT(mmsb_event);
  IS(MMSB_NOTHING, mmsb_subscription_next(from, 0, &event));
}

static void options_are_checked(void) {
  mmsb_subscription none;
  mmsb_subscribe_options options = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_page_id id;
  open_bus("options", 0);
  id = id_of(make("p", 8));
  options.struct_size = 16;
  IS(MMSB_ABI_MISMATCH, mmsb_subscribe(bus, &options, &none));
  options.struct_size = sizeof options;
  options.flags = 64;
  IS(MMSB_ABI_MISMATCH, mmsb_subscribe(bus, &options, &none));
  options.flags = 0;
  options.from = 3;
  IS(MMSB_INVALID, mmsb_subscribe(bus, &options, &none));
  options.from = MMSB_FROM_LSN;
  IS(MMSB_INVALID, mmsb_subscribe(bus, &options, &none));
  options.log_dir = "/nowhere/at/all";
  CHECK(mmsb_subscribe(bus, &options, &none) < 0);
  options.from = 0;
  options.wait = 3;
  IS(MMSB_INVALID, mmsb_subscribe(bus, &options, &none));
  options.wait = 0;
  options.prefix = "x";
  options.pages = &id;
  options.pages_count = 1;
  IS(MMSB_INVALID, mmsb_subscribe(bus, &options, &none));
  options.prefix = NULL;
  options.pages = NULL;
  IS(MMSB_INVALID, mmsb_subscribe(bus, &options, &none));
  id.generation++;
  options.pages = &id;
  IS(MMSB_PAGE_GONE, mmsb_subscribe(bus, &options, &none));
  OK(mmsb_bus_close(bus));
}

static void everything_is_told_from_now_on(void) {
  mmsb_subscription all;
  mmsb_event event;
  uint64_t lsn, later;
  mmsb_range ranges[2];
  mmsb_batch batch;
  mmsb_transaction tx;
  open_bus("everything", 0);
  mmsb_page early = make("early", 8);
  OK(mmsb_page_patch(early, 0, bytes_of("unseen"), 6, NULL));
  OK(mmsb_subscribe(bus, NULL, &all));
  nothing_comes(all);
  OK(mmsb_page_patch(early, 2, bytes_of("abc"), 3, &lsn));
  event = next(all, MMSB_EVENT_DELTA);
  CHECK(same(event.page, id_of(early)) && event.version.lsn == lsn && event.kind == MMSB_KIND_PATCH);
  CHECK(event.ranges_count == 1 && event.ranges[0].offset == 2 && event.ranges[0].len == 3);
  CHECK(memcmp(event.ranges[0].bytes, "abc", 3) == 0 && strcmp(event.source_name, "writer") == 0);
  CHECK(event.time_ns > (uint64_t)1600000000 * 1000000000 && event.cause == 0 && !event.in_transaction);
  ranges[0].offset = 0, ranges[0].bytes = bytes_of("A"), ranges[0].len = 1;
  ranges[1].offset = 7, ranges[1].bytes = bytes_of("Z"), ranges[1].len = 1;
  OK(mmsb_page_patch_many(early, ranges, 2, NULL));
  event = next(all, MMSB_EVENT_DELTA);
  CHECK(event.kind == MMSB_KIND_RANGES && event.ranges_count == 2 && event.ranges[1].offset == 7);
  OK(mmsb_page_write_masked(early, 0, bytes_of("\1\0\1"), bytes_of("xyz"), 3, NULL));
  event = next(all, MMSB_EVENT_DELTA);
  CHECK(event.kind == MMSB_KIND_MASKED && event.ranges_count == 2);
  OK(mmsb_page_patch_caused(early, lsn, 0, bytes_of("c"), 1, &later));
  event = next(all, MMSB_EVENT_DELTA);
  CHECK(event.cause == lsn && event.version.lsn == later);
  OK(mmsb_batch_open(bus, &batch));
  OK(mmsb_batch_mark(batch, bytes_of("mark"), 4));
  OK(mmsb_batch_commit(batch, NULL));
  event = next(all, MMSB_EVENT_DELTA);
  CHECK(event.kind == MMSB_KIND_MARK && event.len == 4 && memcmp(event.bytes, "mark", 4) == 0);
  OK(mmsb_transaction_begin(bus, &tx));
  OK(mmsb_transaction_patch(tx, early, 0, bytes_of("t"), 1));
  OK(mmsb_transaction_commit(tx, NULL));
  CHECK(next(all, MMSB_EVENT_DELTA).in_transaction == 1);
  mmsb_page late = make("late", 16);
  event = next(all, MMSB_EVENT_CREATED);
  CHECK(strcmp(event.info.name, "late") == 0 && event.info.size == 16 && event.info.struct_size == sizeof event.info);
  OK(mmsb_page_rename(late, "later"));
  CHECK(strcmp(next(all, MMSB_EVENT_DESCRIBED).info.name, "later") == 0);
  uint8_t *block;
  mmsb_loan loan;
  OK(mmsb_loan_begin(late, &loan, &block, NULL));
  memset(block, 3, 16);
  OK(mmsb_loan_publish(loan, 0, NULL));
  event = next(all, MMSB_EVENT_DELTA);
  CHECK(event.kind == MMSB_KIND_SWAP && event.ranges_count == 1 && event.ranges[0].len == 16);
  CHECK(event.ranges[0].bytes[15] == 3);
  OK(mmsb_page_destroy(late));
  next(all, MMSB_EVENT_DESTROYED);
  nothing_comes(all);
  mmsb_subscription_stats stats = MMSB_INIT(mmsb_subscription_stats);
  OK(mmsb_subscription_get_stats(all, &stats));
  CHECK(!stats.is_gating && stats.missed == 0 && stats.gaps == 0 && stats.deltas == 7 && stats.lag == 0);
  OK(mmsb_subscription_close(all));
  OK(mmsb_bus_close(bus));
}

static void an_event_is_not_lost_to_a_struct_of_the_wrong_size(void) {
  mmsb_subscription all;
  mmsb_event event = MMSB_INIT(mmsb_event);
  open_bus("sizes", 0);
  mmsb_page page = make("p", 8);
  OK(mmsb_subscribe(bus, NULL, &all));
  OK(mmsb_page_patch(page, 0, bytes_of("kept"), 4, NULL));
  event.struct_size = 24;
  event.event = 99;
  IS(MMSB_ABI_MISMATCH, mmsb_subscription_next(all, 0, &event));
  CHECK(event.event == 99);
  CHECK(memcmp(next(all, MMSB_EVENT_DELTA).ranges[0].bytes, "kept", 4) == 0);
  OK(mmsb_bus_close(bus));
}

static void a_prefix_and_pages_limit_what_is_told(void) {
  mmsb_subscription arm, one;
  mmsb_subscribe_options options = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_page_id id;
  open_bus("limits", 0);
  mmsb_page in = make("arm/1", 8), out = make("leg/1", 8);
  options.prefix = "arm/";
  OK(mmsb_subscribe(bus, &options, &arm));
  options.prefix = NULL;
  id = id_of(out);
  options.pages = &id;
  options.pages_count = 1;
  OK(mmsb_subscribe(bus, &options, &one));
  OK(mmsb_page_patch(out, 0, bytes_of("o"), 1, NULL));
  OK(mmsb_page_patch(in, 0, bytes_of("i"), 1, NULL));
  CHECK(same(next(arm, MMSB_EVENT_DELTA).page, id_of(in)));
  CHECK(same(next(one, MMSB_EVENT_DELTA).page, id));
  nothing_comes(one);
  make("arm/2", 8);
  CHECK(strcmp(next(arm, MMSB_EVENT_CREATED).info.name, "arm/2") == 0);
  OK(mmsb_page_rename(out, "arm/3"));
  CHECK(strcmp(next(arm, MMSB_EVENT_ENTERED).info.name, "arm/3") == 0);
  next(one, MMSB_EVENT_DESCRIBED);
  OK(mmsb_page_rename(in, "tail"));
  CHECK(same(next(arm, MMSB_EVENT_LEFT).page, id_of(in)));
  nothing_comes(arm);
  OK(mmsb_bus_close(bus));
}

static void a_snapshot_comes_first_and_nothing_twice(void) {
  mmsb_subscription all;
  mmsb_subscribe_options options = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_event event;
  uint8_t copy[8], now[8];
  uint64_t lsn;
  mmsb_subscription_stats stats = MMSB_INIT(mmsb_subscription_stats);
  open_bus("snapshot", 0);
  mmsb_page page = make("p", 8);
  OK(mmsb_page_write(page, bytes_of("before--"), 8, &lsn));
  options.from = MMSB_FROM_SNAPSHOT;
  options.flags = MMSB_GATING;
  OK(mmsb_subscribe(bus, &options, &all));
  event = next(all, MMSB_EVENT_IMAGE);
  CHECK(event.len == 8 && event.version.lsn == lsn && event.version.epoch == 1);
  memcpy(copy, event.bytes, 8);
  nothing_comes(all);
  OK(mmsb_subscription_get_stats(all, &stats));
  CHECK(stats.consistent_lsn == lsn && stats.images == 1 && stats.is_gating);
  for (int i = 0; i < 100; i++) OK(mmsb_page_patch(page, (size_t)(i % 8), bytes_of("0123456789") + i % 10, 1, NULL));
  for (int i = 0; i < 100; i++) {
    event = next(all, MMSB_EVENT_DELTA);
    memcpy(copy + event.ranges[0].offset, event.ranges[0].bytes, event.ranges[0].len);
  }
  OK(mmsb_page_read(page, now, 8, NULL));
  CHECK(memcmp(copy, now, 8) == 0);
  nothing_comes(all);
  OK(mmsb_bus_close(bus));
}

static void who_is_overtaken_learns_of_the_gap(void) {
  mmsb_subscription lossy, fresh;
  mmsb_subscribe_options options = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_subscription_stats stats = MMSB_INIT(mmsb_subscription_stats);
  mmsb_event event;
  open_bus("gaps", 4096);
  mmsb_page page = make("p", 8);
  OK(mmsb_subscribe(bus, NULL, &lossy));
  options.flags = MMSB_RESYNC;
  OK(mmsb_subscribe(bus, &options, &fresh));
  for (int i = 0; i < 1000; i++) OK(mmsb_page_patch(page, 0, bytes_of("x"), 1, NULL));
  event = next(lossy, MMSB_EVENT_GAP);
  CHECK(event.gap_from < event.gap_to);
  OK(mmsb_subscription_get_stats(lossy, &stats));
  CHECK(stats.gaps == 1 && stats.missed == event.gap_to - event.gap_from);
  next(fresh, MMSB_EVENT_GAP);
  CHECK(next(fresh, MMSB_EVENT_IMAGE).bytes[0] == 'x');
  OK(mmsb_bus_close(bus));
}

static void writers_wait_for_a_gating_one(void) {
  mmsb_subscription slow;
  mmsb_subscribe_options options = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_event event = MMSB_INIT(mmsb_event);
  int32_t status = MMSB_OK;
  int written = 0, told = 0;
  open_bus("gating", 4096);
  mmsb_page page = make("p", 8);
  options.flags = MMSB_GATING;
  OK(mmsb_subscribe(bus, &options, &slow));
  while (written < 1000 && (status = (int32_t)mmsb_page_patch(page, 0, bytes_of("x"), 1, NULL)) == MMSB_OK) written++;
  CHECK(status == MMSB_BACKPRESSURE && written >= 30);
  while (mmsb_subscription_next(slow, 0, &event) == MMSB_OK) told += event.event == MMSB_EVENT_DELTA;
  CHECK(told == written);
  OK(mmsb_page_patch(page, 0, bytes_of("x"), 1, NULL));
  OK(mmsb_bus_close(bus));
}

static void waiting_ends_with_the_time_or_with_news(void) {
  mmsb_subscription all;
  mmsb_subscribe_options options = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_event event = MMSB_INIT(mmsb_event);
  struct timespec begin, end;
  open_bus("waiting", 0);
  make("p", 8);
  for (uint32_t wait = MMSB_WAIT_DEFAULT; wait <= MMSB_WAIT_PARK; wait++) {
    options.wait = wait;
    OK(mmsb_subscribe(bus, &options, &all));
    clock_gettime(CLOCK_MONOTONIC, &begin);
    IS(MMSB_NOTHING, mmsb_subscription_next(all, 20000000, &event));
    clock_gettime(CLOCK_MONOTONIC, &end);
    CHECK((end.tv_sec - begin.tv_sec) * 1000000000 + end.tv_nsec - begin.tv_nsec >= 20000000);
      pid_t pid = fork();
    if (pid == 0) {
      mmsb_bus_options attach = in_work_dir();
      mmsb_page page;
      usleep(20000);
      if (mmsb_bus_attach("waiting", &attach, &bus) || mmsb_page_open(bus, "p", &page)) _exit(1);
      _exit(mmsb_page_patch(page, 0, bytes_of("news"), 4, NULL) != MMSB_OK);
    }
    OK(mmsb_subscription_next(all, UINT64_MAX, &event));
    CHECK(event.event == MMSB_EVENT_DELTA);
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    OK(mmsb_subscription_close(all));
  }
  OK(mmsb_bus_close(bus));
}

static void epoll_says_when_to_look(void) {
  mmsb_subscription all;
  mmsb_event event = MMSB_INIT(mmsb_event);
  struct epoll_event ready, want;
  int32_t fd, again;
  open_bus("epoll", 0);
  mmsb_page page = make("p", 8);
  OK(mmsb_subscribe(bus, NULL, &all));
  OK(mmsb_subscription_fd(all, &fd));
  OK(mmsb_subscription_fd(all, &again));
  CHECK(fd >= 0 && fd == again);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  memset(&want, 0, sizeof want);
  want.events = EPOLLIN;
  CHECK(poll >= 0 && epoll_ctl(poll, EPOLL_CTL_ADD, fd, &want) == 0);
  for (int round = 0; round < 5; round++) {
    CHECK(epoll_wait(poll, &ready, 1, 0) == 0);
    OK(mmsb_page_patch(page, 0, bytes_of("now"), 3, NULL));
    CHECK(epoll_wait(poll, &ready, 1, 10000) == 1);
    OK(mmsb_subscription_next(all, 0, &event));
    IS(MMSB_NOTHING, mmsb_subscription_next(all, 0, &event));
  }
  close(poll);
  OK(mmsb_subscription_close(all));
  OK(mmsb_bus_close(bus));
}

static void observers_follow_too(void) {
  mmsb_bus observer;
  mmsb_bus_options options = in_work_dir();
  mmsb_subscribe_options how = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_subscription all, prefix, pages, none;
  mmsb_subscription_stats stats = MMSB_INIT(mmsb_subscription_stats);
  mmsb_event event;
  mmsb_page_id id;
  int32_t fd;
  open_bus("watched", 0);
  mmsb_page page = make("p/1", 8), other = make("q", 8);
  OK(mmsb_bus_observe("watched", &options, &observer));
  OK(mmsb_subscribe(observer, NULL, &all));
  how.prefix = "p/";
  OK(mmsb_subscribe(observer, &how, &prefix));
  how.prefix = NULL;
  id = id_of(other);
  how.pages = &id;
  how.pages_count = 1;
  OK(mmsb_subscribe(observer, &how, &pages));
  how.flags = MMSB_GATING;
  IS(MMSB_READ_ONLY, mmsb_subscribe(observer, &how, &none));
  how.flags = 0;
  how.from = MMSB_FROM_SNAPSHOT;
  IS(MMSB_READ_ONLY, mmsb_subscribe(observer, &how, &none));
  IS(MMSB_READ_ONLY, mmsb_subscription_fd(all, &fd));
  nothing_comes(all);
  OK(mmsb_page_patch(page, 0, bytes_of("1"), 1, NULL));
  OK(mmsb_page_patch(other, 0, bytes_of("2"), 1, NULL));
  event = next(all, MMSB_EVENT_DELTA);
  CHECK(strcmp(event.source_name, "writer") == 0);
  CHECK(same(next(all, MMSB_EVENT_DELTA).page, id));
  CHECK(same(next(prefix, MMSB_EVENT_DELTA).page, id_of(page)));
  CHECK(same(next(pages, MMSB_EVENT_DELTA).page, id));
  nothing_comes(pages);
  OK(mmsb_subscription_get_stats(all, &stats));
  CHECK(stats.position > 0 && stats.missed == 0);
  OK(mmsb_bus_close(observer));
  OK(mmsb_bus_close(bus));
}

static void cursors_run_out_and_come_back(void) {
  mmsb_bus_options options = in_work_dir();
  mmsb_subscription one, two, three;
  mmsb_subscribe_options how = MMSB_SUBSCRIBE_OPTIONS_INIT;
  how.flags = MMSB_GATING;
  options.cursors_max = 2;
  OK(mmsb_bus_create("cursors", &options, &bus));
  OK(mmsb_subscribe(bus, &how, &one));
  OK(mmsb_subscribe(bus, &how, &two));
  IS(MMSB_FULL, mmsb_subscribe(bus, &how, &three));
  OK(mmsb_subscription_close(one));
  OK(mmsb_subscribe(bus, &how, &three));
  OK(mmsb_bus_close(bus));
}

int main(void) {
  begin_tests();
  RUN(options_are_checked);
  RUN(everything_is_told_from_now_on);
  RUN(an_event_is_not_lost_to_a_struct_of_the_wrong_size);
  RUN(a_prefix_and_pages_limit_what_is_told);
  RUN(a_snapshot_comes_first_and_nothing_twice);
  RUN(who_is_overtaken_learns_of_the_gap);
  RUN(writers_wait_for_a_gating_one);
  RUN(waiting_ends_with_the_time_or_with_news);
  RUN(epoll_says_when_to_look);
  RUN(observers_follow_too);
  RUN(cursors_run_out_and_come_back);
  return end_tests();
}
