/* The Waker of 2008 in C, and a Guest that computes: a thread in select() signals the vCPU's thread out of KVM_RUN.
 *
 * As thread_select.c, with the vCPU in the place of the eventfd. What it takes here beyond that is what this machine's
 * KVM takes to leave a Guest, in any language.
 */
#include "yardstick.h"

#include "spinning_guest.h"
#include <sys/syscall.h>

static struct arm arm;
static struct vcpu vcpu;
static pid_t launcher;
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
        vcpu.run->immediate_exit = 1;
        must(syscall(SYS_tgkill, getpid(), launcher, SIGUSR1) == 0, "tgkill");
        if (read(snap[0], &byte, 1) <= 0) /* held */
            return unused;
    }
}

int main(int argc, char **argv)
{
    pthread_t waker;
    arm = arm_from(argc, argv);
    vcpu = open_spinning_guest();
    launcher = syscall(SYS_gettid);
    must(pipe2(snap, O_CLOEXEC) == 0, "pipe");
    must(pthread_create(&waker, NULL, wake, NULL) == 0, "pthread_create");

    while (!is_done(&arm)) {
        run_guest(&vcpu);
        take_rings(&arm);
        must(write(snap[1], "!", 1) == 1, "release"); /* look again */
    }
    say_done();
    close(snap[1]);
    pthread_join(waker, NULL);
}
