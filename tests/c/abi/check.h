/*
 * What the tests of the C ABI share: claims that are counted, a directory that is removed, threads and children.
 * Everything here and in the tests is C11 and C++17 alike.
 */
#ifndef MMSB_TESTS_CHECK_H
#define MMSB_TESTS_CHECK_H

#include <mmsb.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;
static int tests_passed, tests_failed;
static char work_dir[256];

/* A claim; a false one is told and counted, and the test goes on. */
#define CHECK(claim)                                                                                                   \
  do {                                                                                                                 \
    if (!(claim)) {                                                                                                    \
      failures++;                                                                                                      \
      printf("%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #claim, mmsb_last_error());                               \
    }                                                                                                                  \
  } while (0)

/* A call returns this status. */
#define IS(expected, call) is_status(__FILE__, __LINE__, #call, (int32_t)(expected), (int32_t)(call))
#define OK(call) IS(MMSB_OK, call)

static inline int is_status(const char *file, int line, const char *text, int32_t expected, int32_t found) {
  if (expected == found) return 1;
  failures++;
  printf("%s:%d: %s: %s, not %s (%s)\n", file, line, text, mmsb_status_name(found), mmsb_status_name(expected),
         mmsb_last_error());
  return 0;
}

static inline void run_test(const char *name, void (*test)(void)) {
  int before = failures;
  alarm(120); /* One that hangs is ended, and says where. */
  printf("test %s ... ", name);
  test();
  printf("%s\n", failures == before ? "ok" : "FAILED");
  if (failures == before) tests_passed++;
  else tests_failed++;
}

#define RUN(name) run_test(#name, name)

/* A fresh directory in shared memory, for this program alone. */
static inline void begin_tests(void) {
  /* Whatever happens to a test, what was said is seen, and a child does not say it again. */
  setvbuf(stdout, NULL, _IONBF, 0);
  snprintf(work_dir, sizeof work_dir, "/dev/shm/mmsb-abi.XXXXXX");
  if (!mkdtemp(work_dir)) {
    perror("mkdtemp");
    exit(2);
  }
}

static inline int end_tests(void) {
  char command[320];
  snprintf(command, sizeof command, "rm -rf '%s'", work_dir);
  if (system(command) != 0) failures++;
  printf("result: %d passed; %d failed;\n", tests_passed, tests_failed + (tests_failed == 0 && failures != 0));
  return failures != 0;
}

static inline mmsb_bus_options in_work_dir(void) {
  mmsb_bus_options options = MMSB_BUS_OPTIONS_INIT;
  options.dir = work_dir;
  options.bytes_max = 256u << 20;
  return options;
}

static inline mmsb_page_options page_of(const char *name, uint64_t size) {
  mmsb_page_options options = MMSB_PAGE_OPTIONS_INIT;
  options.name = name;
  options.size = size;
  return options;
}

static inline const uint8_t *bytes_of(const void *data) { return (const uint8_t *)data; }

/* Runs a function in a thread of its own, to its end. */
static inline void in_thread(void *(*function)(void *), void *argument) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, function, argument) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
}

/* A child of fork; its failures are this program's. It must not fall out of `body`. */
static inline void in_child(void (*body)(void)) {
  pid_t pid = fork();
  if (pid == 0) {
    failures = 0;
    alarm(60);
    body();
      _exit(failures ? 1 : 0);
  }
  int status = -1;
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif
