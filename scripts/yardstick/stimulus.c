/* Rings a pipe at random times, and never waits for an answer: the same stimulus for every arm.
 *
 * Gaps are uniform from half to one and a half of the mean, from a seed. A ring carries the time at which it was meant
 * to be sent and the time at which it was, taken immediately before the write. The next time counts from the intended
 * one, not from when the last ring was read: an arm that is slow gets no fewer rings for it (no coordinated omission).
 *
 * Between rings the stimulus sleeps. A busy wait would be on time to the nanosecond, but would hold a processor, and
 * where there are two, Launcher and Waker (or a spinning Guest and its Waker) would have to share the other: it
 * would measure the scheduler. What sleeping costs is being late by a timer's wake-up, and the second stamp takes that
 * out of the latency. "busy" is there to try it.
 */
#include "yardstick.h"

static uint64_t state;

static uint64_t next_random(void) /* splitmix64 */
{
    uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

static void wait_until(uint64_t until_ns, int is_busy)
{
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    if (is_busy)
        while (now_ns() < until_ns)
            ;
    else
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
            ;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: %s PIPE_FD COUNT MEAN_GAP_US SEED sleep|busy\n", argv[0]);
        return 2;
    }
    int pipe = atoi(argv[1]);
    unsigned long count = strtoul(argv[2], NULL, 10);
    uint64_t mean_ns = strtoull(argv[3], NULL, 10) * 1000;
    state = strtoull(argv[4], NULL, 10);
    int is_busy = strcmp(argv[5], "busy") == 0;

    prctl(PR_SET_TIMERSLACK, 1);
    struct ring ring = {.intended_ns = now_ns() + 1000000};
    while (count--) {
        ring.intended_ns += mean_ns / 2 + next_random() % (mean_ns + 1);
        wait_until(ring.intended_ns, is_busy);
        ring.sent_ns = now_ns();
        must(write(pipe, &ring, sizeof(ring)) == sizeof(ring), "write to the pipe");
    }
}
