/* No Waker, and a Guest that computes: the pipe itself signals the vCPU's thread (O_ASYNC). One hop, so nothing that
 * gets a Guest out of this machine's KVM can be faster.
 */
#include "yardstick.h"

#include "spinning_guest.h"
#include <sys/syscall.h>

static struct vcpu vcpu;

static void note(int signo)
{
    (void)signo;
    vcpu.run->immediate_exit = 1; /* it came before the entry, or on the way out */
}

int main(int argc, char **argv)
{
    struct arm arm = arm_from(argc, argv);
    vcpu = open_spinning_guest();
    must(signal(SIGUSR1, note) != SIG_ERR, "signal");
    struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = syscall(SYS_gettid)};
    for (unsigned source = 0; source < arm.sources; source++) {
        int pipe = arm.pipes[source].fd;
        must(fcntl(pipe, F_SETSIG, SIGUSR1) == 0 && fcntl(pipe, F_SETOWN_EX, &owner) == 0, "F_SETSIG");
        must(fcntl(pipe, F_SETFL, fcntl(pipe, F_GETFL) | O_ASYNC) == 0, "O_ASYNC");
    }

    say_ready();
    while (!is_done(&arm)) {
        run_guest(&vcpu);
        while (take_rings(&arm))
            ; /* all that is there: it signals once for each change, not for what is left */
    }
    say_done();
}
