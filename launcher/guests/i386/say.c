/* say: says its arguments on the console, one a line, and shuts down. */

#include "guest.h"

enum { INPUT, OUTPUT };

static u8 text[PAGE_SIZE];

void guest_main(const struct device_desc *device_page, const struct arguments *arguments)
{
    struct device_desc *console = find_device(device_page, DEVICE_CONSOLE);
    struct queue said;
    u32 length = 0;

    if (!console)
        crash("say: a console: not on the device page");
    queue_open(&said, &queue_configs(console)[OUTPUT], device_start(console));
    for (u32 left = arguments->count; left; length++) {
        text[length] = arguments->text[length];
        if (!text[length]) {
            text[length] = '\n';
            left--;
        }
    }
    if (length)
        queue_do(&said, text, length, 0);
    shutdown();
}
