/* No Waker: the Launcher looks at the pipe by itself. One hop, so nothing that wakes can be faster. */
#include "yardstick.h"

int main(int argc, char **argv)
{
    struct arm arm = arm_from(argc, argv);
    fd_set watched;
    FD_ZERO(&watched);
    FD_SET(arm.pipe, &watched);
    int highest = add_idle_fds(&arm, &watched, arm.pipe);

    say_ready();
    while (!is_done(&arm)) {
        fd_set ready = watched;
        must(select(highest + 1, &ready, NULL, NULL, NULL) >= 0, "select");
        if (FD_ISSET(arm.pipe, &ready))
            take_rings(&arm);
    }
    say_done();
}
