/*
 * Follows the pages below quotes/: first what is there, then every change, by epoll, as a program with other things to do
 * would. Begins anew when the bus is replaced. Ends after COUNT deltas, if one is given.
 *
 *     subscriber [BUS [COUNT]]
 */
#include <mmsb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

static int failed(const char *what) {
  fprintf(stderr, "subscriber: %s: %s\n", what, mmsb_last_error());
  return 1;
}

static void print(const char *what, const uint8_t *bytes, size_t len, const char *from) {
  double numbers[2];
  uint64_t count;
  if (len < sizeof count + sizeof numbers) return;
  memcpy(&count, bytes, sizeof count);
  memcpy(numbers, bytes + sizeof count, sizeof numbers);
  printf("%s %llu: %.4f / %.4f %s\n", what, (unsigned long long)count, numbers[0], numbers[1], from);
  fflush(stdout);
}

int main(int argc, char **argv) {
  const char *name = argc > 1 ? argv[1] : "quotes";
  unsigned long long count = argc > 2 ? strtoull(argv[2], NULL, 10) : UINT64_MAX, deltas = 0;
  mmsb_bus bus;
  mmsb_subscription quotes;
  mmsb_subscribe_options options = MMSB_SUBSCRIBE_OPTIONS_INIT;
  mmsb_event event = MMSB_INIT(mmsb_event);
  struct epoll_event interest = {.events = EPOLLIN}, ready;
  int32_t fd;
  int poll = epoll_create1(EPOLL_CLOEXEC);

  if (mmsb_bus_attach(name, NULL, &bus)) return failed(name);
  options.prefix = "quotes/";
  options.from = MMSB_FROM_SNAPSHOT;
  if (mmsb_subscribe(bus, &options, &quotes) || mmsb_subscription_fd(quotes, &fd)) return failed("subscribe");
  if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, fd, &interest)) {
    perror("epoll");
    return 1;
  }
  while (deltas < count) {
    mmsb_status status = mmsb_subscription_next(quotes, 0, &event);
    if (status == MMSB_NOTHING) {
      if (mmsb_bus_check(bus) == MMSB_BUS_GONE) return failed("no more quotes");
      epoll_wait(poll, &ready, 1, 1000);
      continue;
    }
    if (status != MMSB_OK) return failed("next");
    switch (event.event) {
    case MMSB_EVENT_IMAGE:
      print("now ", event.bytes, event.len, "");
      break;
    case MMSB_EVENT_DELTA:
      deltas++;
      if (event.ranges_count) print("then", event.ranges[0].bytes, event.ranges[0].len, event.source_name);
      break;
    case MMSB_EVENT_GAP:
      /* Writers did not wait for us; images of the present follow. */
      printf("missed %llu\n", (unsigned long long)(event.gap_to - event.gap_from));
      break;
    default:
      break;
    }
  }
  if (mmsb_bus_close(bus)) return failed("close");
  return 0;
}
