/* restart: says "up", then restarts, shuts down or crashes at the letter r, s or c; with an argument it restarts for
 * ever. It takes one letter at a time: what comes after an r is for the next life. */

#include "guest.h"

enum { INPUT, OUTPUT };
enum { EOT = 0x04 };

static u8 text[] = "up\n";
static u8 letter;

void guest_main(const struct device_desc *device_page, const struct arguments *arguments)
{
    struct device_desc *console = find_device(device_page, DEVICE_CONSOLE);
    const struct vq_config *configs;
    struct queue typed, said;
    bool event_idx;

    if (!console)
        crash("restart: a console: not on the device page");
    event_idx = device_start(console);
    configs = queue_configs(console);
    queue_open(&typed, &configs[INPUT], event_idx);
    queue_open(&said, &configs[OUTPUT], event_idx);
    queue_do(&said, text, sizeof(text) - 1, 0);
    if (arguments->count)
        restart();
    for (;;) {
        queue_do(&typed, &letter, 1, DESC_WRITE);
        switch (letter) {
        case 'r':
            restart();
        case 'c':
            crash("restart: was told to crash");
        case 's':
        case EOT:
            shutdown();
        }
    }
}
