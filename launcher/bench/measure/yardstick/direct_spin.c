/* The harness alone in C: look at the pipe until there is something in it, as `spin/direct` does (measure/runs.py).
 *
 * It never sleeps, so what `spin/direct` takes beyond this is Python, and in no way the kernel's wake-up.
 */
#include "yardstick.h"

int main(int argc, char **argv)
{
    struct arm arm = arm_from(argc, argv);

    say_ready();
    while (!is_done(&arm))
        if (poll(arm.pipes, arm.sources, 0) > 0)
            take_ready(&arm);
    say_done();
}
