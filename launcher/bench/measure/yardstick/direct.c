/* No Waker: the Launcher looks at the pipes by itself. One hop, so nothing that wakes can be faster. */
#include "yardstick.h"

int main(int argc, char **argv)
{
    struct arm arm = arm_from(argc, argv);
    struct watched watched = {0};
    watch_pipes(&watched, &arm);
    watch_idle_fds(&watched, arm.idle_fds);

    say_ready();
    while (!is_done(&arm)) {
        fd_set ready = wait_ready(&watched);
        for (unsigned source = 0; source < arm.sources; source++)
            arm.pipes[source].revents = FD_ISSET(arm.pipes[source].fd, &ready);
        take_ready(&arm);
    }
    say_done();
}
