/*
 * The console as a Guest's driver has it: say something, hear whether the end was typed, or send all back.
 *
 * A line is put together in `text`, then said, or crashed with. The twin of ../words.py. GUEST is the Guest's name.
 */

#ifndef WORDS_H
#define WORDS_H

#include "guest.h"

enum { INPUT, OUTPUT, CONSOLE_QUEUES };
enum { TEXT_SIZE = 256, TYPED_BUFFERS = 8, TYPED_SIZE = 256 };
enum { EOT = 0x04 };

static struct queue typed, said;
static bool has_heard_eot;
static char text[TEXT_SIZE];
static u32 text_length;
static u8 typed_text[TYPED_BUFFERS][TYPED_SIZE];

static inline u32 at_most(u32 limit, u32 value)
{
    return value < limit ? value : limit;
}

static inline void words_open(const struct device_desc *device_page)
{
    struct device_desc *console = find_device(device_page, DEVICE_CONSOLE);
    const struct vq_config *configs;
    bool event_idx;

    if (!console || console->num_vq < CONSOLE_QUEUES)
        crash(GUEST ": a console: not on the device page");
    event_idx = device_start(console);
    configs = queue_configs(console);
    queue_open(&typed, &configs[INPUT], event_idx);
    queue_open(&said, &configs[OUTPUT], event_idx);
}

/* ---- To say ---- */

static inline void put(const char *more)
{
    while (*more && text_length < TEXT_SIZE - 1)
        text[text_length++] = *more++;
    text[text_length] = 0;
}

static inline void put_number(u32 value)
{
    char digits[11];
    u32 at = sizeof(digits) - 1;

    digits[at] = 0;
    do
        digits[--at] = '0' + value % 10;
    while (value /= 10);
    put(digits + at);
}

static inline void put_hex(u8 value)
{
    static const char digits[] = "0123456789abcdef";
    char both[] = {digits[value >> 4], digits[value & 15], 0};

    put(both);
}

static inline void say(void)
{
    queue_do(&said, text, text_length, 0);
    text_length = 0;
}

/* ---- To hear ---- */

/* Count the bytes before an EOT, or all: one instruction, however many bytes. */
static inline u32 length_before_eot(const u8 *bytes, u32 length)
{
    u32 left = length;
    bool found = 0;

    if (length)
        asm volatile("repne; scasb" : "+D"(bytes), "+c"(left), "=@ccz"(found) : "a"(EOT) : "memory");
    return found ? length - left - 1 : length;
}

static inline void listen_with(u16 b)
{
    queue_fill(&typed, b, typed_text[b], TYPED_SIZE, DESC_WRITE);
    queue_post(&typed, b);
}

/* Hear whether an EOT was typed; what else was is nobody's business. */
static inline void ear_open(void)
{
    listen_with(0);
    queue_kick(&typed);
}

static inline void ear_go_on(void)
{
    while (queue_has_news(&typed)) {
        u32 written;

        queue_reap(&typed, &written);
        has_heard_eot |= length_before_eot(typed_text[0], written) < written;
        listen_with(0);
        queue_kick(&typed);
    }
}

/* ---- To send back ----
 *
 * No byte is copied. A buffer that came filled out of the input queue goes, as it is, into the output queue, and
 * when the console is done with it back into the input queue. So bytes cannot be reordered, and when output is slow the
 * buffers are all over there and input waits at the host: nothing can be lost for want of room.
 */

static u16 echo_buffers; /* each of which is in one of the two queues */
static u16 in_said;
static u32 echoed;       /* bytes */

static inline void echo_open(void)
{
    echo_buffers = at_most(at_most(TYPED_BUFFERS, typed.mask + 1), said.mask + 1);
    for (u16 b = 0; b < echo_buffers; b++)
        listen_with(b);
}

static inline bool echo_is_over(void)
{
    return has_heard_eot && !in_said;
}

static inline void echo_go_on(void)
{
    while (!has_heard_eot && queue_has_news(&typed)) {
        u32 written, length;
        u16 b = queue_reap(&typed, &written);

        length = length_before_eot(typed_text[b], written);
        has_heard_eot = length < written;
        if (length) {
            queue_fill(&said, b, typed_text[b], length, 0);
            queue_post(&said, b);
            in_said++;
            echoed += length;
        } else {
            listen_with(b);
        }
    }
    queue_kick(&said);

    /* Mostly the console has written it all by now, in queue_kick(). */
    while (queue_has_news(&said)) {
        listen_with(queue_reap(&said, 0));
        in_said--;
    }
    if (!echo_is_over())
        queue_kick(&typed);
}

/*
 * An interrupt for input wakes us anyway, so output asks for one only where nothing else would come: when there is no
 * buffer left to take input, and when the last bytes are on their way.
 */
static inline void echo_want_interrupts(void)
{
    queue_want_interrupt(&typed, 1);
    if (has_heard_eot && in_said)
        queue_want_interrupt(&said, in_said);
    else if (in_said == echo_buffers)
        queue_want_interrupt(&said, 1);
    else
        queue_want_no_interrupt(&said);
}

/* Whether there is something to do; only after the wishes and a fence. */
static inline bool echo_has_news(void)
{
    return queue_has_news(&said) || (!has_heard_eot && queue_has_news(&typed));
}

#endif
