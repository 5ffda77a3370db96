/*
 * pong: answers ARP, ICMP echo and UDP echo (any port) for the IPv4 address in its first argument, until an EOT (0x04).
 *
 * No frame is copied: the buffer in which one came goes, with the answer in it, to be sent, and then back to receive.
 * And none is summed up: a checksum does not depend on the order of what it sums, so it stays right when two addresses
 * or two ports change places, and where one word changes, it changes by as much (RFC 1624). What arrived damaged goes
 * back just as damaged, for its sender to see. So an answer takes some hundred instructions, however long it is.
 */

#include "guest.h"

enum { INPUT, OUTPUT };       /* of the console */
enum { RECEIVED, SENT, QUEUES }; /* of the network */
enum { BUFFERS = 64, HEADER_SIZE = 10, TYPED_SIZE = 256 };
enum { EOT = 0x04 };

/* A number as the network has it, the high byte first. */
#define NET16(number) ((number) >> 8 | ((number) & 0xff) << 8)

enum { TYPE_IP = NET16(0x0800), TYPE_ARP = NET16(0x0806) };
enum { ARP_REQUEST = NET16(1), ARP_REPLY = NET16(2), ARP_ETHERNET = NET16(1), ARP_LENGTHS = NET16(0x0604) };
enum { ICMP = 1, UDP = 17, ECHO = 8, ECHO_REPLY = 0, FRAGMENT = NET16(0x3fff), TTL = 64 };

struct mac {
    u16 first;
    u32 rest;
} __attribute__((packed));

struct arp {
    u16 hardware, protocol, lengths, operation;
    struct mac sender;
    u32 sender_addr;
    struct mac target;
    u32 target_addr;
} __attribute__((packed));

struct ip {
    u8 version_and_words, service;
    u16 total, id, fragment;
    u8 ttl, protocol;
    u16 checksum;
    u32 sender, target;
} __attribute__((packed));

struct icmp {
    u8 type, code;
    u16 checksum, id, number;
} __attribute__((packed));

struct udp {
    u16 from, to, length, checksum;
} __attribute__((packed));

struct ethernet {
    struct mac to, from;
    u16 type;
} __attribute__((packed));

/* A buffer: the device's header, and the largest frame with a VLAN tag. */
struct buffer {
    u16 offloads; /* flags and gso_type: none was agreed upon */
    u8 rest[HEADER_SIZE - sizeof(u16)];
    struct ethernet ethernet;
    union {
        struct arp arp;
        struct ip ip;
        u8 bytes[1536 - HEADER_SIZE - sizeof(struct ethernet)];
    };
} __attribute__((packed, aligned(4)));

static struct buffer buffers[BUFFERS];
static u8 typed_text[TYPED_SIZE];
static char said_text[64];
static struct mac mac;
static u32 addr;

static u16 at_most(u16 limit, u16 value)
{
    return value < limit ? value : limit;
}

/* Return a checksum to which is added, in ones' complement, what the words under it have lost: up to 65,535. */
static inline u16 changed(u32 checksum, u32 lost)
{
    u32 total = checksum + lost;

    return total + (total >> 16);
}

static inline bool answer_arp(struct arp *arp, u32 length)
{
    if (length < sizeof(struct ethernet) + sizeof *arp || arp->hardware != ARP_ETHERNET || arp->protocol != TYPE_IP ||
        arp->lengths != ARP_LENGTHS || arp->operation != ARP_REQUEST || arp->target_addr != addr)
        return 0;
    arp->operation = ARP_REPLY;
    arp->target = arp->sender;
    arp->target_addr = arp->sender_addr;
    arp->sender = mac;
    arp->sender_addr = addr;
    return 1;
}

static inline bool answer_ip(struct ip *ip, u32 length)
{
    u32 header_size = (ip->version_and_words & 15) * 4, total;

    if (length < sizeof(struct ethernet) + sizeof *ip || ip->version_and_words >> 4 != 4 || header_size < sizeof *ip ||
        ip->fragment & FRAGMENT)
        return 0;
    /* No answer to ourselves, to nobody (0), to a group or to all (224 and above). */
    if (ip->target != addr || ip->sender == addr || (u8)((u8)ip->sender - 1) >= 223)
        return 0;
    total = NET16((u32)ip->total);
    if (total < header_size + sizeof(struct udp) || length < sizeof(struct ethernet) + total)
        return 0;
    if (ip->protocol == ICMP) {
        struct icmp *icmp = (void *)((u8 *)ip + header_size);

        if (icmp->type != ECHO || icmp->code != 0)
            return 0;
        icmp->type = ECHO_REPLY;
        icmp->checksum = changed(icmp->checksum, ECHO - ECHO_REPLY);
    } else if (ip->protocol == UDP) {
        struct udp *udp = (void *)((u8 *)ip + header_size);
        u16 from = udp->from;

        udp->from = udp->to;
        udp->to = from;
    } else {
        return 0;
    }
    ip->target = ip->sender;
    ip->sender = addr;
    if (ip->ttl != TTL) {
        ip->checksum = changed(ip->checksum, ip->ttl < TTL ? ip->ttl - TTL + 0xffff : ip->ttl - TTL);
        ip->ttl = TTL;
    }
    return 1;
}

/* Make of a frame the answer to it; 0, and nothing is changed, when there is none for us to give. */
static inline bool turn_round(struct buffer *buffer, u32 length)
{
    struct ethernet *ethernet = &buffer->ethernet;

    if (length < sizeof *ethernet)
        return 0;
    if (ethernet->type == TYPE_IP) {
        if (ethernet->to.rest != mac.rest || ethernet->to.first != mac.first || !answer_ip(&buffer->ip, length))
            return 0;
    } else if (ethernet->type != TYPE_ARP || !answer_arp(&buffer->arp, length)) {
        return 0;
    }
    ethernet->to = ethernet->from;
    ethernet->from = mac;
    return 1;
}

/* Read four numbers up to 255 with dots between them, and no zero before another digit. */
static bool parse_addr(const char *text, u8 *bytes)
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

static char *say_text(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    return at;
}

static char *say_mac(char *at, const u8 *bytes)
{
    static const char digits[] = "0123456789abcdef";

    for (u32 b = 0; b < sizeof(struct mac); b++) {
        if (b)
            *at++ = ':';
        *at++ = digits[bytes[b] >> 4];
        *at++ = digits[bytes[b] & 15];
    }
    return at;
}

static bool has_eot(u32 length)
{
    for (u32 b = 0; b < length; b++)
        if (typed_text[b] == EOT)
            return 1;
    return 0;
}

void guest_main(const struct device_desc *device_page, const struct arguments *arguments)
{
    struct device_desc *net = find_device(device_page, DEVICE_NET);
    struct device_desc *console = find_device(device_page, DEVICE_CONSOLE);
    const struct vq_config *configs;
    struct queue typed, said, received, sent;
    u16 count;       /* of buffers, each of which is in one of the network's queues */
    u16 in_sent = 0;
    bool event_idx;
    char *at;

    if (!net || net->num_vq < QUEUES)
        crash("pong: a network (run with --tunnet): not on the device page");
    if (!console)
        crash("pong: a console: not on the device page");
    if (!arguments->count || !parse_addr(arguments->text, (u8 *)&addr))
        crash("pong: its first argument is to be its IPv4 address");
    if (accept_feature(net, FEATURE_NET_MAC))
        for (u32 b = 0; b < sizeof mac; b++)
            ((u8 *)&mac)[b] = device_config(net)[b];
    accept_feature(net, FEATURE_ANY_LAYOUT);
    event_idx = device_start(net);
    configs = queue_configs(net);
    queue_open(&received, &configs[RECEIVED], event_idx);
    queue_open(&sent, &configs[SENT], event_idx);
    count = at_most(at_most(BUFFERS, configs[RECEIVED].num), configs[SENT].num);
    event_idx = device_start(console);
    queue_open(&typed, &queue_configs(console)[INPUT], event_idx);
    queue_open(&said, &queue_configs(console)[OUTPUT], event_idx);

    at = say_text(said_text, "pong: ");
    at = say_mac(at, (u8 *)&mac);
    at = say_text(at, ", ");
    at = say_text(at, arguments->text);
    *at++ = '\n';
    queue_do(&said, said_text, at - said_text, 0);

    typed.desc[0].addr = (u32)typed_text;
    typed.desc[0].len = TYPED_SIZE;
    typed.desc[0].flags = DESC_WRITE;
    queue_post(&typed, 0);
    queue_kick(&typed);
    for (u16 b = 0; b < count; b++) {
        received.desc[b].addr = sent.desc[b].addr = (u32)&buffers[b];
        received.desc[b].len = sizeof buffers[b];
        received.desc[b].flags = DESC_WRITE;
        queue_post(&received, b);
    }

    for (;;) {
        while (queue_has_news(&received)) {
            u32 written;
            u16 b = queue_reap(&received, &written);

            if (written >= HEADER_SIZE && turn_round(&buffers[b], written - HEADER_SIZE)) {
                buffers[b].offloads = 0;
                sent.desc[b].len = written;
                queue_post(&sent, b);
                in_sent++;
            } else {
                queue_post(&received, b);
            }
        }
        queue_kick(&sent);

        /* Mostly the host has sent it all by now, in queue_kick(). */
        while (queue_has_news(&sent)) {
            queue_post(&received, queue_reap(&sent, 0));
            in_sent--;
        }
        queue_kick(&received);

        if (queue_has_news(&typed)) {
            u32 written;

            queue_reap(&typed, &written);
            if (has_eot(written))
                shutdown();
            queue_post(&typed, 0);
            queue_kick(&typed);
        }

        /* Frames that are sent ask for an interrupt only where no other would come: when none is left to receive into. */
        queue_want_interrupt(&received, 1);
        queue_want_interrupt(&typed, 1);
        if (in_sent == count)
            queue_want_interrupt(&sent, 1);
        else
            queue_want_no_interrupt(&sent);
        fence(); /* our wishes, then a last look: a buffer used before the host could see them brings no interrupt */
        if (!queue_has_news(&received) && !queue_has_news(&typed) && !queue_has_news(&sent))
            halt();
    }
}
