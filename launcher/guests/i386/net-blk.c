/*
 * net-blk: serves its disk by UDP port 2007: each datagram is a request (net-blk ADDR), until an EOT (0x04).
 *
 * The twin of ../net_blk.py, which tells what a datagram holds. Buffer b's request is the four descriptors from 4b on:
 * the header, what is to be written, what is read, and the status, all of them in the frame.
 */

#define GUEST "net-blk"
#include "network.h"
#include "disk.h"

enum { PORT = NET16(2007), MOST = 2 * SECTOR, DESCRIPTORS = 4 };

struct request {
    struct header header; /* in which `reserved` is the tag */
    u32 room;
    u8 status, nothing[3];
    u8 data[];
} __attribute__((packed));

static struct udp *under_way[BUFFERS];

static struct request *request_of(u16 b)
{
    return (void *)(under_way[b] + 1);
}

/* Make the answer, without bytes when it failed; return the frame's length. */
static u32 conclude(u16 b)
{
    struct request *request = request_of(b);

    return resize_datagram(&buffers[b], under_way[b], sizeof *request + (request->status ? 0 : request->room));
}

static u32 answer(u16 b, u32 length)
{
    struct request *request;
    u16 first = b * DESCRIPTORS, at = first;
    u32 size;

    if (!turn_round(&buffers[b], length))
        return 0;
    under_way[b] = find_datagram(&buffers[b], PORT);
    if (!under_way[b])
        return length;
    size = datagram_size(&buffers[b], under_way[b]);
    request = request_of(b);
    if (size < sizeof *request)
        return 0;
    if (request->room > MOST) {
        request->status = BLK_IOERR;
        return conclude(b);
    }
    queue_fill(&disk, at++, request, sizeof request->header, DESC_NEXT);
    if (size > sizeof *request)
        queue_fill(&disk, at++, request->data, size - sizeof *request, DESC_NEXT);
    if (request->room)
        queue_fill(&disk, at++, request->data, request->room, DESC_NEXT | DESC_WRITE);
    queue_fill(&disk, at, &request->status, 1, DESC_WRITE);
    queue_post(&disk, first);
    return NOT_YET;
}

void guest_main(const struct device_desc *device_page, const struct arguments *arguments)
{
    network_open(device_page, arguments);
    disk_open(device_page);
    words_open(device_page);
    put("net-blk: ");
    put_addresses();
    put(", ");
    put_number(disk_sectors);
    put(" sectors\n");
    say();
    ear_open();
    network_receive((disk.mask + 1) / DESCRIPTORS);
    while (!has_heard_eot) {
        network_answer(answer);
        queue_kick(&disk);
        while (queue_has_news(&disk)) {
            u16 b = queue_reap(&disk, 0) / DESCRIPTORS;

            network_send(b, conclude(b));
        }
        network_go_on();
        ear_go_on();
        network_want_interrupts();
        queue_want_interrupt(&disk, 1);
        queue_want_interrupt(&typed, 1);
        fence(); /* our wishes, then a last look: a buffer used before the host could see them brings no interrupt */
        if (!has_heard_eot && !network_has_news() && !queue_has_news(&disk) && !queue_has_news(&typed))
            halt();
    }
    shutdown();
}
