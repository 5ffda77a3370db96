/* What the programs here share: rings, what is written down about them, and how an arm begins and ends.
 *
 * An arm is started with the read ends of pipes, which a stimulus rings with a byte each, and the ledger: a row for each
 * ring, in which it notes when it read it. Whoever measures counts there what was lost, also when the arm hangs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct row { /* launcher/bench/measure/ledger.py; times are CLOCK_MONOTONIC */
    uint64_t intended_ns, sent_ns; /* the stimulus' */
    uint64_t served_ns;            /* ours, taken immediately after the read */
    uint64_t wake;                 /* ours: which of our looks that was */
    uint64_t source;
    uint64_t in_vain; /* a Python Launcher's */
};

struct ledger {
    uint64_t published;
    uint64_t served;
    uint64_t wakes;
    uint64_t spare[5];
    struct row rows[];
};

enum {
    AT_ONCE = 4096,  /* so many rings at most are read at once */
    CANNOT_RUN = 77, /* the exit code of what is no failure, but cannot be here: shared/errors.py */
};

struct arm {
    unsigned sources, rings, idle_fds;
    struct pollfd *pipes; /* one for each source; all are ready until somebody has looked */
    struct ledger *ledger;
    unsigned *next;  /* of each source, the row of its next ring; `rings` when there is none */
    unsigned *after; /* of each row, the next one of the same source */
};

/* Too few files are not the program's failure. */
static inline void die(const char *what)
{
    int code = errno == EMFILE || errno == ENFILE ? CANNOT_RUN : 1;
    perror(what);
    exit(code);
}

static inline void must(int ok, const char *what)
{
    if (!ok)
        die(what);
}

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static inline void *room_for(size_t count, size_t size)
{
    void *room = calloc(count, size);
    must(room != NULL, "calloc");
    return room;
}

/* Find out which rows are whose, before anything is rung: each byte in a pipe is its source's next row. */
static inline void link_rows(struct arm *arm)
{
    arm->next = room_for(arm->sources, sizeof(*arm->next));
    arm->after = room_for(arm->rings, sizeof(*arm->after));
    for (unsigned source = 0; source < arm->sources; source++)
        arm->next[source] = arm->rings;
    for (unsigned row = arm->rings; row-- > 0;) {
        uint64_t source = arm->ledger->rows[row].source;
        errno = ERANGE;
        must(source < arm->sources, "a source in the ledger");
        arm->after[row] = arm->next[source];
        arm->next[source] = row;
    }
}

/* PROGRAM PIPE_FD[,PIPE_FD...] LEDGER_FD RINGS IDLE_FDS: the last is how many files at which nothing ever happens are
 * watched besides the pipes. */
static inline struct arm arm_from(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: %s PIPE_FD[,...] LEDGER_FD RINGS IDLE_FDS; launcher bench starts this\n", argv[0]);
        exit(2);
    }
    struct arm arm = {.sources = 1, .rings = atoi(argv[3]), .idle_fds = atoi(argv[4])};
    must(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "prctl"); /* nobody is left to measure for */
    for (char *at = argv[1]; (at = strchr(at, ',')) != NULL; at++)
        arm.sources++;
    arm.pipes = room_for(arm.sources, sizeof(*arm.pipes));
    char *at = argv[1];
    for (unsigned source = 0; source < arm.sources; source++, at++)
        arm.pipes[source] = (struct pollfd){strtol(at, &at, 10), POLLIN, POLLIN};
    size_t size = sizeof(struct ledger) + arm.rings * sizeof(struct row);
    arm.ledger = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
    must(arm.ledger != MAP_FAILED, "mmap");
    link_rows(&arm);
    return arm;
}

static inline int is_done(const struct arm *arm)
{
    return arm->ledger->served >= arm->rings;
}

/* Serve one device: read what was rung, and note when; return how many. A late or mistaken wake finds nothing. */
static inline ssize_t take_from(const struct arm *arm, unsigned source, uint64_t wake)
{
    char rings[AT_ONCE];
    ssize_t got = read(arm->pipes[source].fd, rings, sizeof(rings));
    if (got <= 0) {
        must(got == 0 || errno == EAGAIN, "read of the pipe");
        return 0;
    }
    uint64_t now = now_ns();
    unsigned *next = &arm->next[source];
    for (ssize_t left = got; left > 0 && *next < arm->rings; left--) {
        struct row *row = &arm->ledger->rows[*next];
        row->served_ns = now;
        row->wake = wake;
        *next = arm->after[*next];
        arm->ledger->served++;
    }
    return got;
}

/* Serve what is ready, as `revents` has it; return whether more may be left there. */
static inline int take_ready(const struct arm *arm)
{
    uint64_t wake = arm->ledger->wakes + 1;
    int is_left = 0;
    for (unsigned source = 0; source < arm->sources; source++) {
        ssize_t got = arm->pipes[source].revents ? take_from(arm, source, wake) : 0;
        if (got > 0)
            arm->ledger->wakes = wake;
        is_left |= got == AT_ONCE;
    }
    return is_left;
}

/* The same, of whatever was rung: a Launcher that was woken looks which it was, if there are several. */
static inline int take_rings(const struct arm *arm)
{
    must(arm->sources == 1 || poll(arm->pipes, arm->sources, 0) >= 0 || errno == EINTR, "poll");
    return take_ready(arm);
}

/* What select() is given. All zero is none. */
struct watched {
    fd_set fds;
    int end;
};

static inline void watch(struct watched *watched, int fd)
{
    if (fd >= FD_SETSIZE) { /* FD_SET would write past the set */
        fprintf(stderr, "select cannot watch fd %d, its sets end at FD_SETSIZE (%d)\n", fd, FD_SETSIZE);
        exit(CANNOT_RUN);
    }
    FD_SET(fd, &watched->fds);
    watched->end = fd >= watched->end ? fd + 1 : watched->end;
}

static inline void watch_pipes(struct watched *watched, const struct arm *arm)
{
    for (unsigned source = 0; source < arm->sources; source++)
        watch(watched, arm->pipes[source].fd);
}

/* Whoever waits opens the idle files. */
static inline void watch_idle_fds(struct watched *watched, unsigned count)
{
    while (count-- > 0) {
        int fd = eventfd(0, EFD_CLOEXEC);
        must(fd >= 0, "eventfd");
        watch(watched, fd);
    }
}

/* Wait; return what is ready of it. */
static inline fd_set wait_ready(const struct watched *watched)
{
    fd_set ready = watched->fds;
    must(select(watched->end, &ready, NULL, NULL, NULL) > 0, "select");
    return ready;
}

/* Let whoever measures start the stimulus. */
static inline void say_ready(void)
{
    must(write(STDOUT_FILENO, "r", 1) == 1, "write");
}

/* Stay until whoever measures has read our CPU time. */
static inline void say_done(void)
{
    char byte;
    must(write(STDOUT_FILENO, "d", 1) == 1, "write");
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}
