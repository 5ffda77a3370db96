/* The harness alone in C: look at the pipe until there is something in it, as `spin/direct` does (measure/arm.py).
 *
 * It never sleeps, so what `spin/direct` takes beyond this is Python, and in no way the kernel's wake-up.
 */
#include "yardstick.h"

#include <poll.h>

int main(int argc, char **argv)
{
    struct arm arm = arm_from(argc, argv);
    struct pollfd watched = {.fd = arm.pipe, .events = POLLIN};

    say_ready();
    while (!is_done(&arm))
        if (poll(&watched, 1, 0) > 0)
            take_rings(&arm);
    say_done();
}
