/*
 * echo: sends back what the console takes in, until an EOT (0x04): what came before it is echoed, then it shuts down.
 *
 * No byte is copied. A buffer that came filled out of the input queue goes, as it is, into the output queue, and
 * when the console is done with it back into the input queue. So bytes cannot be reordered, and when output is slow the
 * buffers are all over there and input waits at the host: nothing can be lost for want of room.
 */

#include "guest.h"

enum { INPUT, OUTPUT, QUEUES };
enum { BUFFERS = 8, BUFFER_SIZE = 256 };
enum { EOT = 0x04 };

static u8 buffers[BUFFERS][BUFFER_SIZE];

static u16 at_most(u16 limit, u16 value)
{
    return value < limit ? value : limit;
}

/* Count the bytes before the first `stop`, or all: one instruction, however many bytes. */
static u32 length_before(u8 stop, const u8 *bytes, u32 length)
{
    u32 left = length;
    bool found = 0;

    if (length)
        asm volatile("repne; scasb" : "+D"(bytes), "+c"(left), "=@ccz"(found) : "a"(stop) : "memory");
    return found ? length - left - 1 : length;
}

void guest_main(const struct device_desc *device_page)
{
    struct device_desc *console = find_device(device_page, DEVICE_CONSOLE);
    const struct vq_config *configs;
    struct queue input, output;
    u16 count;          /* of buffers, each of which is in one of the two queues */
    u16 in_output = 0;
    bool event_idx, ended = 0;

    if (!console || console->num_vq < QUEUES)
        crash("echo: no console on the device page");
    event_idx = device_start(console);
    configs = queue_configs(console);
    queue_open(&input, &configs[INPUT], event_idx);
    queue_open(&output, &configs[OUTPUT], event_idx);

    count = at_most(at_most(BUFFERS, configs[INPUT].num), configs[OUTPUT].num);
    for (u16 b = 0; b < count; b++) {
        input.desc[b].addr = output.desc[b].addr = (u32)buffers[b];
        input.desc[b].len = BUFFER_SIZE;
        input.desc[b].flags = DESC_WRITE;
        queue_post(&input, b);
    }

    for (;;) {
        while (!ended && queue_has_news(&input)) {
            u32 written, length;
            u16 b = queue_reap(&input, &written);

            length = length_before(EOT, buffers[b], written);
            ended = length < written;
            if (length) {
                output.desc[b].len = length;
                queue_post(&output, b);
                in_output++;
            } else {
                queue_post(&input, b);
            }
        }
        queue_kick(&output);

        /* Mostly the console has written it all by now, in queue_kick(). */
        while (queue_has_news(&output)) {
            queue_post(&input, queue_reap(&output, 0));
            in_output--;
        }
        if (ended && !in_output)
            shutdown();
        queue_kick(&input);

        /*
         * An interrupt for input wakes us anyway, so output asks for one only where nothing else would come:
         * when there is no buffer left to take input, and when the last bytes are on their way.
         */
        queue_want_interrupt(&input, 1);
        if (ended)
            queue_want_interrupt(&output, in_output);
        else if (in_output == count)
            queue_want_interrupt(&output, 1);
        else
            queue_want_no_interrupt(&output);
        fence(); /* our wishes, then a last look: a buffer used before the host could see them brings no interrupt */
        if (!queue_has_news(&output) && (ended || !queue_has_news(&input)))
            halt();
    }
}
