/* No Waker: the Launcher looks at the pipe by itself. One hop, so nothing that wakes can be faster. */
#include "yardstick.h"

int main(int argc, char **argv)
{
    struct arm arm = arm_from(argc, argv);
    struct watched watched = {0};
    watch(&watched, arm.pipe);
    watch_idle_fds(&watched, &arm);

    say_ready();
    while (!is_done(&arm)) {
        fd_set ready = wait_ready(&watched);
        if (FD_ISSET(arm.pipe, &ready))
            take_rings(&arm);
    }
    say_done();
}
