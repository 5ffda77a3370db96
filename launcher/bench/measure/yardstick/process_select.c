/* The Waker as a stranger, in C: a fresh process in select(), which is passed all it needs over a Unix socket.
 *
 * As in waker/places/process.py: the control page, the eventfd that kicks the vCPU and the watched pipe come with one
 * message (SCM_RIGHTS); a packet on the same socket is the release, its end of file tells the process to go.
 */
#include "yardstick.h"

enum { PAGE_FD, KICK_FD, PIPE_FD, PASSED };

struct page {
    atomic_int is_broken; /* set before the kick, cleared before servicing */
};

static struct page *map_page(int fd)
{
    struct page *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(page != MAP_FAILED, "mmap");
    return page;
}

/* Both directions of one message: `idle_fds` as its only byte content, PASSED fds along with it. */
struct hello {
    struct msghdr message;
    struct iovec body;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(PASSED * sizeof(int))];
    } rights;
};

static struct hello *hello_of(struct hello *hello, unsigned *idle_fds)
{
    memset(hello, 0, sizeof(*hello));
    hello->body = (struct iovec){idle_fds, sizeof(*idle_fds)};
    hello->message = (struct msghdr){
        .msg_iov = &hello->body,
        .msg_iovlen = 1,
        .msg_control = hello->rights.bytes,
        .msg_controllen = sizeof(hello->rights.bytes),
    };
    hello->rights.header = (struct cmsghdr){CMSG_LEN(PASSED * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    return hello;
}

/* The other process' whole life. */
static int wake(int launcher)
{
    struct arm arm = {0};
    struct hello hello;
    int fds[PASSED];
    uint64_t upto;

    must(recvmsg(launcher, &hello_of(&hello, &arm.idle_fds)->message, MSG_CMSG_CLOEXEC) > 0, "recvmsg");
    memcpy(fds, CMSG_DATA(&hello.rights.header), sizeof(fds));
    struct page *page = map_page(fds[PAGE_FD]);
    struct watched watched = {0};
    watch(&watched, launcher);
    watch(&watched, fds[PIPE_FD]);
    watch_idle_fds(&watched, &arm);

    say_ready();
    for (;;) {
        fd_set ready = wait_ready(&watched);
        if (FD_ISSET(launcher, &ready)) { /* changes first */
            if (recv(launcher, &upto, sizeof(upto), 0) <= 0)
                return 0;
            continue;
        }
        atomic_store(&page->is_broken, 1);
        must(eventfd_write(fds[KICK_FD], 1) == 0, "eventfd_write");
        if (recv(launcher, &upto, sizeof(upto), 0) <= 0) /* held */
            return 0;
    }
}

static int start_waker(const struct arm *arm, int page_fd, int kick)
{
    int pair[2], fds[PASSED] = {[PAGE_FD] = page_fd, [KICK_FD] = kick, [PIPE_FD] = arm->pipe};
    char number[12];
    unsigned idle_fds = arm->idle_fds;
    struct hello hello;

    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    snprintf(number, sizeof(number), "%d", pair[1]);
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        fcntl(pair[1], F_SETFD, 0);
        close(arm->pipe); /* as a stranger would: it has no file but those that are passed */
        execl("/proc/self/exe", "process_select", "waker", number, (char *)NULL);
        die("execl");
    }
    close(pair[1]);
    hello_of(&hello, &idle_fds);
    memcpy(CMSG_DATA(&hello.rights.header), fds, sizeof(fds));
    must(sendmsg(pair[0], &hello.message, 0) > 0, "sendmsg");
    return pair[0];
}

/* The end of a Waker is the end of its Launcher, too: nobody else would ever break the Guest. One that was refused what
 * it needs has said why, and so has one that failed; only the first is no failure.
 */
static void end_with_waker(int unused)
{
    static const char killed[] = "process_select: its Waker was killed\n";
    int status;
    (void)unused;
    if (waitpid(-1, &status, WNOHANG) <= 0)
        return; /* it was only stopped, or goes on */
    if (WIFSIGNALED(status) && write(STDERR_FILENO, killed, sizeof(killed) - 1) < 0)
        _exit(1);
    _exit(WIFEXITED(status) && WEXITSTATUS(status) == CANNOT_RUN ? CANNOT_RUN : 1);
}

static void run_guest(struct page *page, int kick)
{
    eventfd_t kicks;
    while (!atomic_load(&page->is_broken))
        must(eventfd_read(kick, &kicks) == 0, "eventfd_read");
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "waker") == 0)
        return wake(atoi(argv[2]));

    struct arm arm = arm_from(argc, argv);
    int kick = eventfd(0, EFD_CLOEXEC), page_fd = memfd_create("control-page", MFD_CLOEXEC);
    must(kick >= 0 && page_fd >= 0 && ftruncate(page_fd, 4096) == 0, "eventfd and memfd");
    struct page *page = map_page(page_fd);
    signal(SIGCHLD, end_with_waker);
    int waker = start_waker(&arm, page_fd, kick);

    for (uint64_t breaks = 1; !is_done(&arm); breaks++) {
        run_guest(page, kick);
        atomic_store(&page->is_broken, 0);
        take_rings(&arm);
        must(send(waker, &breaks, sizeof(breaks), MSG_NOSIGNAL) > 0, "release"); /* look again */
    }
    say_done();
    signal(SIGCHLD, SIG_DFL);
    close(waker);
    wait(NULL);
}
