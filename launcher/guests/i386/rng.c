/* rng: asks for 32 random bytes, says them in hexadecimal on the console, and shuts down. */

#include "guest.h"

enum { INPUT, OUTPUT };
enum { WANTED = 32 };

static u8 bytes[WANTED];
static u8 text[2 * WANTED + 1];

void guest_main(const struct device_desc *device_page)
{
    static const char digits[] = "0123456789abcdef";
    struct device_desc *rng = find_device(device_page, DEVICE_RNG);
    struct device_desc *console = find_device(device_page, DEVICE_CONSOLE);
    struct queue asked, said;
    u32 have = 0, at = 0;

    if (!rng)
        crash("rng: entropy (run with --rng): not on the device page");
    if (!console)
        crash("rng: a console: not on the device page");
    queue_open(&asked, &queue_configs(rng)[0], device_start(rng));
    queue_open(&said, &queue_configs(console)[OUTPUT], device_start(console));

    while (have < WANTED) /* an answer may be shorter than what was asked for */
        have += queue_do(&asked, bytes + have, WANTED - have, DESC_WRITE);
    for (u32 b = 0; b < WANTED; b++) {
        text[at++] = digits[bytes[b] >> 4];
        text[at++] = digits[bytes[b] & 15];
    }
    text[at++] = '\n';
    queue_do(&said, text, at, 0);
    shutdown();
}
