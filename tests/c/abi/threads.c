/* Threads, forks and processes: whose a handle is, who may have it next, and what a kill -9 leaves. */
#include "check.h"

#include <sched.h>
#include <signal.h>
#include <time.h>

static mmsb_bus bus;
static mmsb_page page;
static int32_t seen_status;

static void open_page(const char *name, uint32_t flags) {
  mmsb_bus_options options = in_work_dir();
  mmsb_page_options of = page_of("p", 64);
  options.flags = flags;
  OK(mmsb_bus_open_or_create(name, &options, &bus));
  OK(mmsb_page_open_or_create(bus, &of, &page));
}

static void *write_once(void *unused) {
  seen_status = (int32_t)mmsb_page_patch(page, 0, bytes_of("elsewhere"), 9, NULL);
  return unused;
}

static void *close_it(void *unused) {
  seen_status = (int32_t)mmsb_bus_close(bus);
  return unused;
}

static void a_bus_belongs_to_the_thread_that_uses_it(void) {
  open_page("owned", 0);
  in_thread(write_once, NULL);
  CHECK(seen_status == MMSB_WRONG_THREAD);
  in_thread(close_it, NULL);
  CHECK(seen_status == MMSB_WRONG_THREAD);
  OK(mmsb_page_patch(page, 0, bytes_of("x"), 1, NULL));
  OK(mmsb_bus_close(bus));
}

static void *open_and_leave(void *unused) {
  open_page("left", 0);
  OK(mmsb_page_patch(page, 0, bytes_of("first"), 5, NULL));
  return unused;
}

static void it_is_taken_over_when_that_thread_has_ended(void) {
  in_thread(open_and_leave, NULL);
  OK(mmsb_page_patch(page, 0, bytes_of("second"), 6, NULL));
  in_thread(write_once, NULL);
  CHECK(seen_status == MMSB_WRONG_THREAD);
  OK(mmsb_bus_close(bus));
}

static void it_can_be_opened_here_and_used_there(void) {
  mmsb_bus other;
  open_page("handed", 0);
  /* Nobody has used it yet. */
  OK(mmsb_bus_another(bus, "worker", &other));
  mmsb_bus own = bus;
  bus = other;
  in_thread(close_it, NULL);
  CHECK(seen_status == MMSB_OK);
  bus = own;
  /* And given up by a thread that lives on. */
  in_thread(write_once, NULL);
  CHECK(seen_status == MMSB_WRONG_THREAD);
  OK(mmsb_bus_release(bus));
  in_thread(write_once, NULL);
  CHECK(seen_status == MMSB_OK);
  OK(mmsb_bus_close(bus));
}

static int turns_taken, turns_missed;

static void *take_turns(void *counter) {
  uint8_t number[8];
  int taken = 0, missed = 0;
  for (int i = 0; i < 20000; i++) {
    /* Reads and writes: nobody else is between the two if both succeed in one turn each; the sums tell. */
    int32_t status = (int32_t)mmsb_page_write_masked(page, 0, bytes_of("\1"), bytes_of(counter), 1, NULL);
    if (status == MMSB_OK) taken++;
    else if (status == MMSB_BUSY) missed++, sched_yield();
    else IS(MMSB_OK, status);
    status = (int32_t)mmsb_page_read(page, number, 8, NULL);
    if (status != MMSB_OK && status != MMSB_BUSY) IS(MMSB_OK, status);
  }
  __atomic_fetch_add(&turns_taken, taken, __ATOMIC_RELAXED);
  __atomic_fetch_add(&turns_missed, missed, __ATOMIC_RELAXED);
  return NULL;
}

static void serialised_handles_serve_one_thread_at_a_time(void) {
  pthread_t threads[2];
  uint8_t marks[2] = {1, 2};
  mmsb_page_version version;
  mmsb_list list;
  open_page("serialised", MMSB_SERIALISED);
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, take_turns, &marks[i]) == 0);
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  OK(mmsb_page_get_version(page, &version));
  CHECK(turns_taken > 0 && version.epoch == (uint64_t)turns_taken);
  CHECK(turns_taken + turns_missed == 40000);
  in_thread(write_once, NULL);
  CHECK(seen_status == MMSB_OK);
  /* What comes from it is any thread's too. */
  OK(mmsb_bus_pages(bus, NULL, &list));
  OK(mmsb_bus_release(bus));
  in_thread(close_it, NULL);
  CHECK(seen_status == MMSB_OK);
  OK(mmsb_list_close(list));
}

static volatile int closing;

static void *use_while_it_is_closed(void *unused) {
  uint8_t number[8];
  while (!__atomic_load_n(&closing, __ATOMIC_ACQUIRE)) {
    int32_t status = (int32_t)mmsb_page_read(page, number, 8, NULL);
    if (status != MMSB_OK && status != MMSB_BUSY && status != MMSB_STALE_HANDLE) IS(MMSB_OK, status);
  }
  return unused;
}

static void closing_under_another_threads_feet_is_safe(void) {
  pthread_t threads[2];
  for (int round = 0; round < 20; round++) {
    open_page("feet", MMSB_SERIALISED);
    __atomic_store_n(&closing, 0, __ATOMIC_RELEASE);
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, use_while_it_is_closed, NULL) == 0);
    usleep(1000);
    int32_t status;
    while ((status = (int32_t)mmsb_bus_close(bus)) == MMSB_BUSY) sched_yield();
    IS(MMSB_OK, status);
    usleep(200);
    __atomic_store_n(&closing, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  }
}

static void use_serialised_in_child(void) {
  IS(MMSB_FORKED, mmsb_page_patch(page, 0, bytes_of("x"), 1, NULL));
  OK(mmsb_bus_close(bus));
  open_page("serialised-fork", MMSB_SERIALISED);
  OK(mmsb_page_patch(page, 0, bytes_of("child"), 5, NULL));
  OK(mmsb_bus_close(bus));
}

static void a_serialised_bus_is_not_inherited_either(void) {
  uint8_t bytes[5];
  open_page("serialised-fork", MMSB_SERIALISED);
  in_child(use_serialised_in_child);
  OK(mmsb_page_read(page, bytes, 5, NULL));
  CHECK(memcmp(bytes, "child", 5) == 0);
  OK(mmsb_bus_close(bus));
}

static void write_in_another_process(void) {
  uint64_t lsn;
  open_page("two", 0);
  uint8_t bytes[64] = {0};
  for (int i = 0; i < 1000; i++) OK(mmsb_page_write(page, bytes, 64, &lsn));
  OK(mmsb_bus_close(bus));
}

static void two_processes_write_one_page(void) {
  mmsb_page_version before, after;
  open_page("two", 0);
  OK(mmsb_page_get_version(page, &before));
  in_child(write_in_another_process);
  OK(mmsb_page_get_version(page, &after));
  CHECK(after.epoch == before.epoch + 1000);
  OK(mmsb_bus_close(bus));
}

/* A child that writes (n, n, n, …) until it is killed. */
static pid_t start_writer(void) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  open_page("killed", 0);
  for (uint64_t n = 1;; n++) {
    uint64_t words[8];
    for (int i = 0; i < 8; i++) words[i] = n;
    if (mmsb_page_write(page, bytes_of(words), 64, NULL) != MMSB_OK) _exit(3);
  }
}

static void a_killed_writer_leaves_whole_pages_and_the_others_go_on(void) {
  uint64_t words[8];
  mmsb_page_version version, last;
  open_page("killed", 0);
  memset(&last, 0, sizeof last);
  for (int round = 0; round < 20; round++) {
    pid_t pid = start_writer();
    CHECK(pid > 0);
    do OK(mmsb_page_get_version(page, &version));
    while (failures == 0 && version.epoch < last.epoch + 100);
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    OK(mmsb_page_read(page, (uint8_t *)words, 64, &version));
    for (int i = 1; i < 8; i++) CHECK(words[i] == words[0]);
    CHECK(version.epoch >= last.epoch + 100);
    memset(words, 0, sizeof words);
    OK(mmsb_page_write(page, bytes_of(words), 64, NULL));
    OK(mmsb_page_get_version(page, &last));
  }
  uint32_t recovered;
  OK(mmsb_bus_recover(bus, &recovered));
  mmsb_stats stats = MMSB_INIT(mmsb_stats);
  OK(mmsb_bus_get_stats(bus, &stats));
  CHECK(stats.participants == 1);
  OK(mmsb_bus_close(bus));
}

static void a_stopped_writer_is_an_error_that_names_it(void) {
  mmsb_bus_options options = in_work_dir();
  mmsb_bus patient;
  mmsb_page own;
  int32_t status = MMSB_OK;
  int stopped = 0;
  open_page("killed", 0);
  options.timeout_ns = 50000000;
  OK(mmsb_bus_attach("killed", &options, &patient));
  OK(mmsb_page_open(patient, "p", &own));
  /* It may be stopped outside of a commit, and then holds nobody up: try until it is inside. */
  for (int round = 0; round < 300 && !stopped; round++) {
    pid_t pid = start_writer();
    usleep(2000 + 37 * (unsigned)round);
    CHECK(kill(pid, SIGSTOP) == 0 && waitpid(pid, NULL, WUNTRACED) == pid);
    status = (int32_t)mmsb_page_patch(own, 0, bytes_of("x"), 1, NULL);
    stopped = status == MMSB_TIMEOUT || status == MMSB_BACKPRESSURE;
    if (!stopped) IS(MMSB_OK, status);
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    /* Dead now, and recovered by who comes. */
    OK(mmsb_page_patch(own, 0, bytes_of("x"), 1, NULL));
    if (failures) break;
  }
  CHECK(stopped);
  OK(mmsb_bus_close(patient));
  OK(mmsb_bus_close(bus));
}

int main(void) {
  begin_tests();
  RUN(a_bus_belongs_to_the_thread_that_uses_it);
  RUN(it_is_taken_over_when_that_thread_has_ended);
  RUN(it_can_be_opened_here_and_used_there);
  RUN(serialised_handles_serve_one_thread_at_a_time);
  RUN(closing_under_another_threads_feet_is_safe);
  RUN(a_serialised_bus_is_not_inherited_either);
  RUN(two_processes_write_one_page);
  RUN(a_killed_writer_leaves_whole_pages_and_the_others_go_on);
  RUN(a_stopped_writer_is_an_error_that_names_it);
  return end_tests();
}
