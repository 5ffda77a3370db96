/* What the programs here share: rings, what is written down about them, and how an arm begins and ends.
 *
 * An arm is started with the read end of a pipe, which a stimulus rings with a byte, and the ledger: a row for each ring,
 * in which it notes when it read it. Whoever measures counts there what was lost, also when the arm hangs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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
    uint64_t wake;                 /* ours: which of our reads that was */
    uint64_t source;
};

struct ledger {
    uint64_t published;
    uint64_t served;
    uint64_t wakes;
    uint64_t spare[5];
    struct row rows[];
};

enum { AT_ONCE = 4096 }; /* so many rings at most are read at once */
enum { CANNOT_RUN = 77 }; /* shared/errors.py: the exit code of what is no failure, but cannot be here */

struct arm {
    int pipe;
    unsigned rings, idle_fds;
    struct ledger *ledger;
};

static inline void die(const char *what)
{
    perror(what);
    exit(1);
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

/* PROGRAM PIPE_FD LEDGER_FD RINGS IDLE_FDS: the last is how many files at which nothing ever happens are watched
 * besides the pipe. */
static inline struct arm arm_from(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: %s PIPE_FD LEDGER_FD RINGS IDLE_FDS; launcher bench starts this\n", argv[0]);
        exit(2);
    }
    struct arm arm = {.pipe = atoi(argv[1]), .rings = atoi(argv[3]), .idle_fds = atoi(argv[4])};
    must(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "prctl"); /* nobody is left to measure for */
    size_t size = sizeof(struct ledger) + arm.rings * sizeof(struct row);
    arm.ledger = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, atoi(argv[2]), 0);
    must(arm.ledger != MAP_FAILED, "mmap");
    return arm;
}

static inline int is_done(const struct arm *arm)
{
    return arm->ledger->served >= arm->rings;
}

/* Serve the device: read what was rung, and note when; return how many. A late or mistaken wake finds nothing. */
static inline ssize_t take_rings(const struct arm *arm)
{
    char rings[AT_ONCE];
    ssize_t got = read(arm->pipe, rings, sizeof(rings));
    uint64_t now = now_ns();
    must(got >= 0 || errno == EAGAIN, "read of the pipe");
    if (got > 0)
        arm->ledger->wakes++;
    for (ssize_t left = got; left > 0 && !is_done(arm); left--) {
        struct row *row = &arm->ledger->rows[arm->ledger->served];
        row->served_ns = now;
        row->wake = arm->ledger->wakes;
        arm->ledger->served++;
    }
    return got;
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

/* Whoever waits opens the idle files. */
static inline void watch_idle_fds(struct watched *watched, const struct arm *arm)
{
    for (unsigned at = 0; at < arm->idle_fds; at++) {
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
