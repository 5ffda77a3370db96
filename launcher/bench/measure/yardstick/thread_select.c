/* The Waker of 2008 in C: a thread in select() breaks the halted Guest, and is held until it is released.
 *
 * The main thread is the Launcher. Its Guest halts for ever: "the vCPU" sleeps in read() of an eventfd. A byte down
 * the snap pipe is the release, as in waker/places/thread.py; its end of file tells the thread to go.
 */
#include "yardstick.h"

static struct arm arm;
static atomic_int is_broken; /* set before the kick, cleared before servicing */
static int kick;
static int snap[2];

static void *wake(void *unused)
{
    struct watched watched = {0};
    char byte;
    watch(&watched, snap[0]);
    watch_pipes(&watched, &arm);
    watch_idle_fds(&watched, arm.idle_fds);

    say_ready();
    for (;;) {
        fd_set ready = wait_ready(&watched);
        if (FD_ISSET(snap[0], &ready)) { /* changes first */
            if (read(snap[0], &byte, 1) <= 0)
                return unused;
            continue;
        }
        atomic_store(&is_broken, 1);
        must(eventfd_write(kick, 1) == 0, "eventfd_write");
        if (read(snap[0], &byte, 1) <= 0) /* held */
            return unused;
    }
}

static void run_guest(void)
{
    eventfd_t kicks;
    while (!atomic_load(&is_broken))
        must(eventfd_read(kick, &kicks) == 0, "eventfd_read");
}

int main(int argc, char **argv)
{
    pthread_t waker;
    arm = arm_from(argc, argv);
    kick = eventfd(0, EFD_CLOEXEC);
    must(kick >= 0 && pipe2(snap, O_CLOEXEC) == 0, "eventfd and pipe");
    must(pthread_create(&waker, NULL, wake, NULL) == 0, "pthread_create");

    while (!is_done(&arm)) {
        run_guest();
        atomic_store(&is_broken, 0);
        take_rings(&arm);
        must(write(snap[1], "!", 1) == 1, "release"); /* look again */
    }
    say_done();
    close(snap[1]);
    pthread_join(waker, NULL);
}
