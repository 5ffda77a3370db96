/* rng: asks for 32 random bytes, says them in hexadecimal on the console, and shuts down. */

#define GUEST "rng"
#include "words.h"

enum { WANTED = 32 };

static u8 bytes[WANTED];

void guest_main(const struct device_desc *device_page)
{
    struct device_desc *rng = find_device(device_page, DEVICE_RNG);
    struct queue asked;
    u32 have = 0;

    if (!rng)
        crash("rng: entropy (run with --rng): not on the device page");
    queue_open(&asked, &queue_configs(rng)[0], device_start(rng));
    words_open(device_page);

    while (have < WANTED) /* an answer may be shorter than what was asked for */
        have += queue_do(&asked, bytes + have, WANTED - have, DESC_WRITE);
    for (u32 b = 0; b < WANTED; b++)
        put_hex(bytes[b]);
    put("\n");
    say();
    shutdown();
}
