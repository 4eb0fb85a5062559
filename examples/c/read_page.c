/* Prints the field `price` of the page `nyse/ibm` of the bus `prices`. Needs one header, and nothing to link:
 *
 *     cc -I libmmsb/include examples/c/read_page.c -o read_page */
#include <mmsb_reader.h>

int main(void)
{
    mmsb_reader bus;
    mmsb_reader_page page;
    mmsb_reader_field field;
    double price = 0;
    int e = mmsb_reader_open(&bus, NULL, "prices"); /* in $MMSB_DIR, or /dev/shm */
    if (!e) e = mmsb_reader_find(&bus, "nyse/ibm", &page);
    if (!e) e = mmsb_reader_field_of(&bus, &page, "price", &field);
    if (!e) e = mmsb_reader_get_f64(&bus, &page, &field, &price);
    if (e)
        fprintf(stderr, "read_page: %s\n", mmsb_reader_message(e));
    else
        printf("%g\n", price);
    mmsb_reader_close(&bus);
    return e != 0;
}
