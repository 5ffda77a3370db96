/* idle: halts; counts the interrupts that it takes at guest-physical 0x1000, where a test can see them arrive. */

#include "guest.h"

extern volatile u32 interrupts_taken;

void guest_main(const struct device_desc *device_page)
{
    (void)device_page;
    for (;;) {
        halt();
        interrupts_taken++;
    }
}
