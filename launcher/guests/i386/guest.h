/*
 * What a Guest in C needs: the device page, the driver's half of a virtqueue, hypercalls, halt.
 *
 * An emulated processor takes about a microsecond for an instruction, so everything here is short and inlined, and
 * a buffer is its descriptor: buffer b of a Guest is descriptor b of every queue it is put into, so no descriptor
 * is ever searched for or given back.
 *
 * Sources: VirtIO 1.3, 2.7 (split rings), 3.1.1 (start-up) and linux/lguest_launcher.h of 2.6.26 (device page).
 */

#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef _Bool bool;

/* start.S: sleep until an interrupt has come. Interrupts are off before, after, and everywhere else. */
void halt(void);

/* ---- Hypercalls ---- */

enum { PORT_NOTIFY = 0x600, PORT_SHUTDOWN = 0x604, PORT_CRASH = 0x608, PORT_RESTART = 0x60c };

static inline void hypercall(u16 port, u32 value)
{
    asm volatile("outl %0, %1" : : "a"(value), "d"(port) : "memory");
}

static inline void notify(const volatile void *what)
{
    hypercall(PORT_NOTIFY, (u32)what);
}

static inline __attribute__((noreturn)) void shutdown(void)
{
    hypercall(PORT_SHUTDOWN, 0);
    __builtin_unreachable();
}

/* Begin anew: the next thing that runs is _start, in memory as a fresh machine has it. */
static inline __attribute__((noreturn)) void restart(void)
{
    hypercall(PORT_RESTART, 0);
    __builtin_unreachable();
}

static inline __attribute__((noreturn)) void crash(const char *reason)
{
    hypercall(PORT_CRASH, (u32)reason);
    __builtin_unreachable();
}

/* ---- Memory order, as the host sees it ---- */

/* x86 keeps stores in order among themselves, and loads too: only the compiler has to be told. */
static inline void in_order(void)
{
    asm volatile("" : : : "memory");
}

/* A store before a load of another word is the one thing x86 turns round. The i386 has no mfence. */
static inline void fence(void)
{
    asm volatile("lock; orl $0, (%%esp)" : : : "memory", "cc");
}

/* ---- The device page ---- */

struct device_desc {
    u8 type, num_vq, feature_len, config_len;
    volatile u8 status;
} __attribute__((packed));

struct vq_config {
    u16 num, irq;
    u32 pfn;
} __attribute__((packed));

enum { PAGE_SIZE = 4096 };
enum { DEVICE_END = 0, DEVICE_NET = 1, DEVICE_BLOCK = 2, DEVICE_CONSOLE = 3, DEVICE_RNG = 4 };
enum { STATUS_ACKNOWLEDGE = 1, STATUS_DRIVER = 2, STATUS_DRIVER_OK = 4 };
enum { FEATURE_EVENT_IDX = 29 };
enum { FEATURE_NET_MAC = 5, FEATURE_ANY_LAYOUT = 27 };
enum { FEATURE_BLK_RO = 5, FEATURE_BLK_FLUSH = 9 };

static inline const struct vq_config *queue_configs(const struct device_desc *device)
{
    return (const struct vq_config *)(device + 1);
}

static inline u8 *offered_features(struct device_desc *device)
{
    return (u8 *)(queue_configs(device) + device->num_vq);
}

static inline const u8 *device_config(struct device_desc *device)
{
    return offered_features(device) + 2 * device->feature_len;
}

/* Find the first device of a type; 0 when there is none. */
static inline struct device_desc *find_device(const struct device_desc *device_page, u8 type)
{
    const u8 *at = (const u8 *)device_page;
    const u8 *end = at + PAGE_SIZE;

    while (at + sizeof(struct device_desc) <= end) {
        struct device_desc *device = (struct device_desc *)at;

        if (device->type == DEVICE_END)
            break;
        if (device->type == type)
            return device;
        at = offered_features(device) + 2 * device->feature_len + device->config_len;
    }
    return 0;
}

/* Acknowledge one feature if the host offers it, and say whether it did. */
static inline bool accept_feature(struct device_desc *device, u8 bit)
{
    u8 *offered = offered_features(device) + bit / 8;
    u8 mask = 1 << bit % 8;

    if (bit / 8 >= device->feature_len || !(*offered & mask))
        return 0;
    offered[device->feature_len] |= mask;
    return 1;
}

/* Say that the driver is there and ready (VirtIO 1.3, 3.1.1); return whether EVENT_IDX was agreed upon. */
static inline bool device_start(struct device_desc *device)
{
    bool event_idx;

    device->status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    event_idx = accept_feature(device, FEATURE_EVENT_IDX);
    device->status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK;
    notify(device);
    return event_idx;
}

/* ---- What came after the image on the command line ---- */

struct arguments {
    u32 count;
    char text[]; /* one after the other, each ended by a NUL */
};

/* ---- The driver's half of a virtqueue ---- */

struct vring_desc {
    u64 addr;
    u32 len;
    u16 flags, next;
};

struct vring_avail {
    u16 flags, idx;
    u16 ring[];
};

struct vring_used_elem {
    u32 id, len;
};

struct vring_used {
    u16 flags, idx;
    struct vring_used_elem ring[];
};

enum { DESC_NEXT = 1, DESC_WRITE = 2 };
enum { AVAIL_NO_INTERRUPT = 1 };
enum { USED_NO_NOTIFY = 1 };

struct queue {
    volatile struct vring_desc *desc;
    volatile struct vring_avail *avail;
    volatile struct vring_used *used;
    u16 mask;       /* entries - 1; their number is a power of two */
    u16 posted;     /* avail->idx: ours, so never read back */
    u16 notified;   /* avail->idx when the device was last asked whether it wants to know */
    u16 reaped;     /* how far the used ring was read */
    bool event_idx;
};

/* Lay a queue over a ring that the host has zeroed (vring_init() with pages of 4096). */
static inline void queue_open(struct queue *queue, const struct vq_config *config, bool event_idx)
{
    u32 ring = config->pfn * PAGE_SIZE;
    u32 avail = ring + config->num * sizeof(struct vring_desc);
    u32 avail_end = avail + sizeof(struct vring_avail) + (config->num + 1) * sizeof(u16);

    queue->desc = (void *)ring;
    queue->avail = (void *)avail;
    queue->used = (void *)((avail_end + PAGE_SIZE - 1) & -PAGE_SIZE);
    queue->mask = config->num - 1;
    queue->posted = queue->notified = queue->reaped = 0;
    queue->event_idx = event_idx;
}

/* Give descriptor `head`, which is filled in, to the device. */
static inline void queue_post(struct queue *queue, u16 head)
{
    queue->avail->ring[queue->posted & queue->mask] = head;
    in_order(); /* the entry before the index that covers it: VirtIO 1.3, 2.7.13.3.1 */
    queue->avail->idx = ++queue->posted;
}

/* Notify the device of what was posted since the last call, if it wants to know (2.7.10). */
static inline void queue_kick(struct queue *queue)
{
    u16 before = queue->notified, after = queue->posted;
    bool wanted;

    if (before == after)
        return;
    queue->notified = after;
    fence(); /* our index, then its wish: or both sides may wait for each other */
    if (queue->event_idx) {
        u16 event = *(volatile u16 *)&queue->used->ring[queue->mask + 1];
        wanted = (u16)(after - event - 1) < (u16)(after - before);
    } else {
        wanted = !(queue->used->flags & USED_NO_NOTIFY);
    }
    if (wanted)
        notify(queue->desc);
}

static inline bool queue_has_news(const struct queue *queue)
{
    return queue->used->idx != queue->reaped;
}

/* Take the oldest buffer that the device is done with; only after queue_has_news(). */
static inline u16 queue_reap(struct queue *queue, u32 *written)
{
    volatile struct vring_used_elem *used = &queue->used->ring[queue->reaped++ & queue->mask];

    if (written)
        *written = used->len;
    return used->id;
}

/* Ask for an interrupt when `more` further buffers are used (without EVENT_IDX: at the next one). Look again after. */
static inline void queue_want_interrupt(struct queue *queue, u16 more)
{
    if (queue->event_idx)
        queue->avail->ring[queue->mask + 1] = queue->reaped + more - 1; /* used_event: 2.7.7.1 */
    else
        queue->avail->flags = 0;
}

/* Fill in one descriptor; with DESC_NEXT, the one after it goes on with the chain. */
static inline void queue_fill(struct queue *queue, u16 at, const volatile void *addr, u32 length, u16 flags)
{
    queue->desc[at].addr = (u32)addr;
    queue->desc[at].len = length;
    queue->desc[at].flags = flags;
    queue->desc[at].next = at + 1;
}

/* Post the chain that begins at descriptor 0, alone, and sleep until the device is done; return what it wrote. */
static inline u32 queue_do_chain(struct queue *queue)
{
    u32 written;

    queue_post(queue, 0);
    queue_kick(queue);
    for (;;) {
        queue_want_interrupt(queue, 1);
        fence(); /* our wish, then a last look */
        if (queue_has_news(queue))
            break;
        halt();
    }
    queue_reap(queue, &written);
    return written;
}

/* Put one buffer into a queue and sleep until the device is done with it; return how many bytes it wrote. */
static inline u32 queue_do(struct queue *queue, void *addr, u32 length, u16 flags)
{
    queue_fill(queue, 0, addr, length, flags);
    return queue_do_chain(queue);
}

static inline void queue_want_no_interrupt(struct queue *queue)
{
    if (queue->event_idx)
        queue->avail->ring[queue->mask + 1] = queue->reaped - 1; /* 65,536 buffers away */
    else
        queue->avail->flags = AVAIL_NO_INTERRUPT;
}

#endif
