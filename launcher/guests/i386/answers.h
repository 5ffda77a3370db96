/*
 * What Guests answer: ARP, ICMP echo and UDP echo, in IPv4 over Ethernet, by turning a frame round where it lies.
 *
 * No packet is summed up: a checksum does not depend on the order of what it sums, so it stays right when two addresses
 * or two ports change places, and where one word changes, it changes by as much (RFC 1624). What arrived damaged goes
 * back just as damaged, for its sender to see. So an answer takes some hundred instructions, however long it is. The
 * twin of ../answers.py.
 */

#ifndef ANSWERS_H
#define ANSWERS_H

#include "guest.h"

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

enum { HEADER_SIZE = 10 };

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

static struct mac mac;
static u32 addr;

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

/* Return the UDP datagram to this port (as the network has it) in a frame that was turned round; 0 for all others. */
static inline struct udp *find_datagram(struct buffer *buffer, u16 port)
{
    struct ip *ip = &buffer->ip;
    struct udp *udp = (void *)((u8 *)ip + (ip->version_and_words & 15) * 4);

    return buffer->ethernet.type == TYPE_IP && ip->protocol == UDP && udp->from == port ? udp : 0;
}

/* Return how many bytes of data there are, at most, in a datagram; 0, too, when it says less than its own header. */
static inline u32 datagram_size(const struct buffer *buffer, const struct udp *udp)
{
    u32 end = NET16((u32)buffer->ip.total) - ((u8 *)(udp + 1) - (u8 *)&buffer->ip);
    u32 length = NET16((u32)udp->length);

    if (length < sizeof *udp)
        return 0;
    length -= sizeof *udp;
    return length < end ? length : end;
}

/*
 * Have a datagram hold so many bytes, whatever they are; return the frame's length. It goes without a checksum of its
 * own, as one may in IPv4.
 */
static inline u32 resize_datagram(struct buffer *buffer, struct udp *udp, u32 size)
{
    struct ip *ip = &buffer->ip;
    u32 total = (u8 *)(udp + 1) + size - (u8 *)ip, length = sizeof *udp + size;
    u16 before = ip->total;

    ip->total = NET16(total);
    ip->checksum = changed(ip->checksum, before < ip->total ? before - ip->total + 0xffff : before - ip->total);
    udp->length = NET16(length);
    udp->checksum = 0;
    return sizeof(struct ethernet) + total;
}

#endif
