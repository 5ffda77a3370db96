/*
 * The network as a Guest's driver has it: what comes is answered in the buffer in which it came.
 *
 * No frame is copied: the buffer in which one came goes, with the answer in it, to be sent, and then back to receive.
 * The twin of ../network.py. GUEST is the Guest's name.
 */

#ifndef NETWORK_H
#define NETWORK_H

#include "answers.h"
#include "words.h"

enum { RECEIVED, SENT, NETWORK_QUEUES };
enum { BUFFERS = 64 };
enum { NOT_YET = 0xffffffff }; /* as the length of an answer: it is sent by and by */

static struct buffer buffers[BUFFERS];
static struct queue received, sent;
static u16 in_received;
static const char *addr_text;

/* Read four numbers up to 255 with dots between them, and no zero before another digit. */
static inline bool parse_addr(const char *text, u8 *bytes)
{
    for (u32 part = 0; part < 4; part++) {
        u32 number = 0, digits = 0;

        for (; *text >= '0' && *text <= '9'; text++) {
            if (digits && !number)
                return 0;
            number = number * 10 + (*text - '0');
            if (++digits > 3 || number > 255)
                return 0;
        }
        if (!digits || *text++ != (part < 3 ? '.' : 0))
            return 0;
        bytes[part] = number;
    }
    return 1;
}

/* Find it, and our own address in the first argument, and start it; nothing is received yet. */
static inline void network_open(const struct device_desc *device_page, const struct arguments *arguments)
{
    struct device_desc *net = find_device(device_page, DEVICE_NET);
    const struct vq_config *configs;
    bool event_idx;

    if (!net || net->num_vq < NETWORK_QUEUES)
        crash(GUEST ": a network (run with --tunnet): not on the device page");
    if (!arguments->count || !parse_addr(arguments->text, (u8 *)&addr))
        crash(GUEST ": its first argument is to be its IPv4 address");
    addr_text = arguments->text;
    if (accept_feature(net, FEATURE_NET_MAC))
        for (u32 b = 0; b < sizeof mac; b++)
            ((u8 *)&mac)[b] = device_config(net)[b];
    accept_feature(net, FEATURE_ANY_LAYOUT);
    event_idx = device_start(net);
    configs = queue_configs(net);
    queue_open(&received, &configs[RECEIVED], event_idx);
    queue_open(&sent, &configs[SENT], event_idx);
}

/* Put both addresses into the text that is said next. */
static inline void put_addresses(void)
{
    for (u32 b = 0; b < sizeof mac; b++) {
        if (b)
            put(":");
        put_hex(((u8 *)&mac)[b]);
    }
    put(", ");
    put(addr_text);
}

static inline void network_give_back(u16 b)
{
    queue_fill(&received, b, &buffers[b], sizeof buffers[b], DESC_WRITE);
    queue_post(&received, b);
    in_received++;
}

/* Begin to receive, into so many buffers at most. */
static inline void network_receive(u32 most)
{
    u16 count = at_most(at_most(at_most(BUFFERS, most), received.mask + 1), sent.mask + 1);

    for (u16 b = 0; b < count; b++)
        network_give_back(b);
    queue_kick(&received);
}

/* Have the frame of this length in a buffer sent; network_go_on() takes the buffer back. */
static inline void network_send(u16 b, u32 length)
{
    buffers[b].offloads = 0;
    queue_fill(&sent, b, &buffers[b], HEADER_SIZE + length, 0);
    queue_post(&sent, b);
}

/* Have what came answered: `answer` makes the answer of a frame and returns its length, 0 for none, or NOT_YET. */
static inline void network_answer(u32 (*answer)(u16 b, u32 length))
{
    while (queue_has_news(&received)) {
        u32 written, length;
        u16 b = queue_reap(&received, &written);

        in_received--;
        length = written < HEADER_SIZE ? 0 : answer(b, written - HEADER_SIZE);
        if (!length)
            network_give_back(b);
        else if (length != NOT_YET)
            network_send(b, length);
    }
}

/* Tell the device what it was given, and take back what was sent. */
static inline void network_go_on(void)
{
    queue_kick(&sent);

    /* Mostly the host has sent it all by now, in queue_kick(). */
    while (queue_has_news(&sent))
        network_give_back(queue_reap(&sent, 0));
    queue_kick(&received);
}

/* Frames that are sent ask for an interrupt only where no other would come: when none is left to receive into. */
static inline void network_want_interrupts(void)
{
    queue_want_interrupt(&received, 1);
    if (in_received)
        queue_want_no_interrupt(&sent);
    else
        queue_want_interrupt(&sent, 1);
}

/* Whether there is something to do; only after the wishes and a fence. */
static inline bool network_has_news(void)
{
    return queue_has_news(&received) || queue_has_news(&sent);
}

#endif
