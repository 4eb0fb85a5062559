/*
 * Publishes a quote ten times a second, until it is stopped; `subscriber` follows it. Kill it with kill -9 and start it
 * again: it goes on with the count where it was.
 *
 *     publisher [BUS [COUNT [PAUSE_MS]]]
 */
#include <mmsb.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct quote {
  uint64_t count;
  double bid, ask;
};

static int failed(const char *what) {
  fprintf(stderr, "publisher: %s: %s\n", what, mmsb_last_error());
  return 1;
}

int main(int argc, char **argv) {
  const char *name = argc > 1 ? argv[1] : "quotes";
  uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : UINT64_MAX;
  useconds_t pause = 1000 * (argc > 3 ? (useconds_t)strtoul(argv[3], NULL, 10) : 100);
  mmsb_bus_options options = MMSB_BUS_OPTIONS_INIT;
  mmsb_page_options spec = MMSB_PAGE_OPTIONS_INIT;
  mmsb_bus bus;
  mmsb_page page;
  struct quote quote;

  if (mmsb_check_abi(MMSB_ABI_VERSION)) return failed("another library than this was built for");
  options.source = "publisher";
  if (mmsb_bus_open_or_create(name, &options, &bus)) return failed(name);
  spec.name = "quotes/eur-usd";
  spec.schema = "count:u64,bid:f64,ask:f64";
  if (mmsb_page_open_or_create(bus, &spec, &page)) return failed(spec.name);
  if (mmsb_page_read(page, (uint8_t *)&quote, sizeof quote, NULL)) return failed("read");
  for (uint64_t n = 0; n < count; n++) {
    quote.count++;
    quote.bid = 1.08 + (double)(quote.count * 7919 % 100) / 10000;
    quote.ask = quote.bid + 0.0002;
    /* One delta: whoever reads sees all three numbers of one quote, also if this process dies right here. */
    if (mmsb_page_write(page, (const uint8_t *)&quote, sizeof quote, NULL)) return failed("write");
    if (pause) usleep(pause);
  }
  if (mmsb_bus_close(bus)) return failed("close");
  return 0;
}
