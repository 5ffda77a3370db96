/* The Waker as a stranger, in C: a fresh process in select(), which is passed all it needs over a Unix socket.
 *
 * As in waker/places/process.py: the control page, the eventfd that kicks the vCPU and the watched pipes come with a
 * message or more (SCM_RIGHTS); a packet on the same socket is the release, its end of file tells the process to go.
 */
#include "yardstick.h"

enum { PAGE_FD, KICK_FD, PIPE_FDS };
enum { AT_MOST = 253 }; /* fds in a message (unix(7)) */

struct page {
    atomic_int is_broken; /* set before the kick, cleared before servicing */
};

static struct page *map_page(int fd)
{
    struct page *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(page != MAP_FAILED, "mmap");
    return page;
}

struct hello {
    unsigned idle_fds, fds;
};

/* A message, in either direction: the hello is its byte content, fds go along with it. */
struct message {
    struct msghdr header;
    struct iovec body;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(AT_MOST * sizeof(int))];
    } rights;
};

static struct message *message_of(struct message *message, struct hello *hello, unsigned fds)
{
    memset(message, 0, sizeof(*message));
    message->body = (struct iovec){hello, sizeof(*hello)};
    message->header = (struct msghdr){
        .msg_iov = &message->body,
        .msg_iovlen = 1,
        .msg_control = message->rights.bytes,
        .msg_controllen = CMSG_SPACE(fds * sizeof(int)),
    };
    message->rights.header = (struct cmsghdr){CMSG_LEN(fds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    return message;
}

/* Messages of so many fds, until all have gone. */
static void pass_fds(int waker, struct hello hello, const int *fds)
{
    struct message message;
    for (unsigned at = 0; at < hello.fds; at += AT_MOST) {
        unsigned count = hello.fds - at < AT_MOST ? hello.fds - at : AT_MOST;
        message_of(&message, &hello, count);
        memcpy(CMSG_DATA(&message.rights.header), fds + at, count * sizeof(*fds));
        if (sendmsg(waker, &message.header, MSG_NOSIGNAL) > 0)
            continue;
        must(errno == EPIPE, "sendmsg");
        for (;;)
            pause(); /* it has gone, and end_with_waker says why */
    }
}

static int *receive_fds(int launcher, struct hello *hello)
{
    struct message message;
    int *fds = NULL;
    unsigned at = 0;
    do {
        must(recvmsg(launcher, &message_of(&message, hello, AT_MOST)->header, MSG_CMSG_CLOEXEC) > 0, "recvmsg");
        errno = EMFILE; /* what it is for: the limit of this process */
        must(!(message.header.msg_flags & MSG_CTRUNC), "fds were cut off");
        size_t size = message.rights.header.cmsg_len - CMSG_LEN(0);
        fds = fds ? fds : room_for(hello->fds, sizeof(*fds));
        memcpy(fds + at, CMSG_DATA(&message.rights.header), size);
        at += size / sizeof(*fds);
    } while (at < hello->fds);
    return fds;
}

/* The other process' whole life. */
static int wake(int launcher)
{
    struct hello hello;
    uint64_t upto;
    int *fds = receive_fds(launcher, &hello);
    struct page *page = map_page(fds[PAGE_FD]);
    struct watched watched = {0};
    watch(&watched, launcher);
    for (unsigned at = PIPE_FDS; at < hello.fds; at++)
        watch(&watched, fds[at]);
    watch_idle_fds(&watched, hello.idle_fds);

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
    struct hello hello = {arm->idle_fds, PIPE_FDS + arm->sources};
    int pair[2], *fds = room_for(hello.fds, sizeof(*fds));
    char number[12];

    fds[PAGE_FD] = page_fd;
    fds[KICK_FD] = kick;
    for (unsigned source = 0; source < arm->sources; source++)
        fds[PIPE_FDS + source] = arm->pipes[source].fd;
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    snprintf(number, sizeof(number), "%d", pair[1]);
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        fcntl(pair[1], F_SETFD, 0);
        for (unsigned source = 0; source < arm->sources; source++)
            close(arm->pipes[source].fd); /* as a stranger would: it has no file but those that are passed */
        execl("/proc/self/exe", "process_select", "waker", number, (char *)NULL);
        die("execl");
    }
    close(pair[1]);
    pass_fds(pair[0], hello, fds);
    free(fds);
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
