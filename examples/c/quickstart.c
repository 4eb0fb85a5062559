/*
 * A bus, a page, a value written and read.
 *
 *     cc quickstart.c $(pkg-config --cflags --libs mmsb) -o quickstart && ./quickstart
 */
#include <mmsb.h>
#include <stdio.h>

int main(void) {
  mmsb_bus bus;
  mmsb_page page;
  mmsb_page_options options = MMSB_PAGE_OPTIONS_INIT;
  double price = 1.0871, seen[2] = {0, 0};

  options.name = "eur/usd";
  options.schema = "bid:f64,ask:f64";
  if (mmsb_bus_open_or_create("quickstart-c", NULL, &bus) || mmsb_page_open_or_create(bus, &options, &page) ||
      mmsb_page_patch(page, 0, (const uint8_t *)&price, sizeof price, NULL) || /* just the bytes that change */
      mmsb_page_set_text(page, "ask", "1.0873", NULL) ||                       /* or a field by its name */
      mmsb_page_read(page, (uint8_t *)seen, sizeof seen, NULL)) {              /* both, as of one moment */
    fprintf(stderr, "%s\n", mmsb_last_error());
    return 1;
  }
  printf("eur/usd: %.4f / %.4f\n", seen[0], seen[1]);
  mmsb_bus_close(bus);
  return 0;
}
