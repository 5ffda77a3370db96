/* spin: computes for ever and never leaves by itself, with interrupts off. Only a break stops it. */

#include "guest.h"

void guest_main(const struct device_desc *device_page)
{
    (void)device_page;
    for (;;)
        asm volatile("");
}
