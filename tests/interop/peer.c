/* The other side of a ring, as a C program with the kernel's own header would be: it knows nothing of our code.
 *
 *   peer layout BASE ALIGN                      prints where vring_init() puts each size of ring
 *   peer driver|device MEMFD KICK CALL NUM DESC AVAIL USED ALIGN EVENT_IDX COUNT
 *
 * MEMFD, KICK (driver to device) and CALL (device to driver) are inherited fds; the addresses are guest-physical;
 * ALIGN 0 means three separate areas. COUNT chains go over the ring: each asks with a few bytes and is answered
 * with as many, every bit of 0x5a flipped. A notification that is not needed is not sent, and nobody looks twice
 * without one: one that is lost leaves both sides asleep. Exit code 0, or a sentence on stderr and 1.
 */
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATA 0x20000 /* driver: a slot per two descriptors */
#define SLOT 1024
#define ANSWER 256
#define TABLE 512
#define FLIP 0x5a

static char *mem;
static size_t mem_size;
static struct vring ring;
static int kick_fd, call_fd, event_idx;
static unsigned count;

#define DIE(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))
#define LOAD(word) __atomic_load_n(&(word), __ATOMIC_ACQUIRE)
#define STORE(word, value) __atomic_store_n(&(word), (value), __ATOMIC_RELEASE)
#define FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static void notify(int fd)
{
	__u64 one = 1;

	if (write(fd, &one, 8) != 8)
		DIE("peer: cannot notify");
}

static void sleep_until_notified(int fd)
{
	__u64 news;

	if (read(fd, &news, 8) != 8)
		DIE("peer: cannot wait");
}

static unsigned request_length(unsigned i)
{
	return 1 + i % 199;
}

static __u8 request_byte(unsigned i, unsigned at)
{
	return i * 31 + at * 7 + 1;
}

/* The driver */

static void offer(unsigned i, unsigned slot, __u16 idx)
{
	__u64 data = DATA + (__u64)slot * SLOT;
	unsigned head = 2 * slot, length = request_length(i);
	struct vring_desc request = { data, length, VRING_DESC_F_NEXT, head + 1 };
	struct vring_desc answer = { data + ANSWER, length + i % 3, VRING_DESC_F_WRITE, 0 };

	for (unsigned at = 0; at < length; at++)
		mem[data + at] = request_byte(i, at);
	memset(mem + data + ANSWER, 0, TABLE - ANSWER);
	if (i % 3 == 0) {
		struct vring_desc *table = (void *)(mem + data + TABLE);
		struct vring_desc indirect = { data + TABLE, 32, VRING_DESC_F_INDIRECT, 0 };

		request.next = 1;
		table[0] = request;
		table[1] = answer;
		ring.desc[head] = indirect;
	} else {
		ring.desc[head] = request;
		ring.desc[head + 1] = answer;
	}
	ring.avail->ring[idx % ring.num] = head;
}

static void verify(unsigned i, unsigned slot, unsigned written)
{
	char *answer = mem + DATA + slot * SLOT + ANSWER;

	if (written != request_length(i))
		DIE("peer: chain %u came back with %u bytes, not %u", i, written, request_length(i));
	for (unsigned at = 0; at < written; at++)
		if ((__u8)answer[at] != (request_byte(i, at) ^ FLIP))
			DIE("peer: chain %u came back wrong at byte %u", i, at);
	if (answer[written])
		DIE("peer: chain %u was written past its end", i);
}

static void drive(void)
{
	unsigned slots = ring.num / 2, sent = 0, done = 0, free_count = 0;
	unsigned *free_slots = calloc(slots, sizeof(*free_slots)), *sent_in = calloc(slots, sizeof(*sent_in));
	__u16 idx = 0, last_used = 0;

	for (unsigned slot = 0; slot < slots; slot++)
		free_slots[free_count++] = slot;
	while (done < count) {
		/* Now a few in flight, so that both sides often fall asleep, and now all that there is room for. */
		unsigned window = done / 512 % 4 ? 1 + done % 6 : slots;
		__u16 old = idx, seen;

		while (sent < count && free_count && sent - done < window) {
			unsigned slot = free_slots[--free_count];

			sent_in[slot] = sent;
			offer(sent++, slot, idx++);
		}
		if (idx != old) {
			STORE(ring.avail->idx, idx);
			FENCE();
			if (event_idx ? vring_need_event(LOAD(vring_avail_event(&ring)), idx, old)
				      : !(LOAD(ring.used->flags) & VRING_USED_F_NO_NOTIFY))
				notify(kick_fd);
		}
		if (!event_idx)
			STORE(ring.avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
		seen = LOAD(ring.used->idx);
		if (seen == last_used) {
			if (event_idx)
				STORE(vring_used_event(&ring), last_used);
			else
				STORE(ring.avail->flags, 0);
			FENCE();
			if (LOAD(ring.used->idx) == last_used)
				sleep_until_notified(call_fd);
			continue;
		}
		for (; last_used != seen; last_used++, done++) {
			struct vring_used_elem used = ring.used->ring[last_used % ring.num];
			unsigned slot = used.id / 2;

			if (used.id % 2 || slot >= slots)
				DIE("peer: head %u came back, which was never offered", used.id);
			verify(sent_in[slot], slot, used.len);
			free_slots[free_count++] = slot;
		}
	}
}

/* The device */

static void *at(__u64 addr, __u32 length)
{
	if (addr > mem_size || length > mem_size - addr)
		DIE("peer: a buffer ends past memory");
	return mem + addr;
}

static unsigned answer(__u16 head)
{
	struct vring_desc *table = ring.desc, desc = table[head];
	__u8 request[4096];
	unsigned length = 0, written = 0;

	if (desc.flags & VRING_DESC_F_INDIRECT) {
		table = at(desc.addr, desc.len);
		desc = table[0];
	}
	for (;;) {
		__u8 *data = at(desc.addr, desc.len);

		if (!(desc.flags & VRING_DESC_F_WRITE)) {
			if (length + desc.len > sizeof(request))
				DIE("peer: the request is too long");
			memcpy(request + length, data, desc.len);
			length += desc.len;
		} else {
			for (unsigned i = 0; i < desc.len && written < length; i++)
				data[i] = request[written++] ^ FLIP;
		}
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return written;
		desc = table[desc.next];
	}
}

static void serve(void)
{
	__u16 last_avail = 0, used = 0;

	for (unsigned done = 0; done < count;) {
		__u16 seen = LOAD(ring.avail->idx);

		if (seen == last_avail) {
			if (event_idx)
				STORE(vring_avail_event(&ring), last_avail);
			else
				STORE(ring.used->flags, 0);
			FENCE();
			if (LOAD(ring.avail->idx) == last_avail)
				sleep_until_notified(kick_fd);
			if (!event_idx)
				STORE(ring.used->flags, VRING_USED_F_NO_NOTIFY);
			continue;
		}
		for (; last_avail != seen; last_avail++, done++) {
			__u16 head = ring.avail->ring[last_avail % ring.num], old = used++;
			struct vring_used_elem element = { head, answer(head) };

			ring.used->ring[old % ring.num] = element;
			STORE(ring.used->idx, used);
			FENCE();
			if (event_idx ? vring_need_event(LOAD(vring_used_event(&ring)), used, old)
				      : !(LOAD(ring.avail->flags) & VRING_AVAIL_F_NO_INTERRUPT))
				notify(call_fd);
		}
	}
}

static void print_layouts(char *base, unsigned long align)
{
	struct vring vr;

	for (unsigned num = 1; num <= 32768; num *= 2) {
		vring_init(&vr, num, base, align);
		printf("%u %lu %lu %lu %lu %u\n", num, (unsigned long)vr.avail, (unsigned long)vr.used,
		       (unsigned long)&vring_used_event(&vr), (unsigned long)&vring_avail_event(&vr),
		       vring_size(num, align));
	}
}

int main(int argc, char **argv)
{
	unsigned long numbers[12] = { 0 };
	struct stat stat;

	for (int i = 2; i < argc && i < 12; i++)
		numbers[i] = strtoul(argv[i], NULL, 0);
	if (argc == 4 && !strcmp(argv[1], "layout")) {
		print_layouts((char *)numbers[2], numbers[3]);
		return 0;
	}
	if (argc != 12)
		DIE("peer: see the top of peer.c");
	if (fstat(numbers[2], &stat))
		DIE("peer: no memory");
	mem_size = stat.st_size;
	mem = mmap(NULL, mem_size, PROT_READ | PROT_WRITE, MAP_SHARED, numbers[2], 0);
	if (mem == MAP_FAILED)
		DIE("peer: cannot map the memory");
	kick_fd = numbers[3];
	call_fd = numbers[4];
	if (numbers[9]) {
		vring_init(&ring, numbers[5], mem + numbers[6], numbers[9]);
		if ((char *)ring.avail != mem + numbers[7] || (char *)ring.used != mem + numbers[8])
			DIE("peer: vring_init() puts the ring elsewhere");
	} else {
		ring.num = numbers[5];
		ring.desc = (void *)(mem + numbers[6]);
		ring.avail = (void *)(mem + numbers[7]);
		ring.used = (void *)(mem + numbers[8]);
	}
	event_idx = numbers[10];
	count = numbers[11];
	if (!strcmp(argv[1], "driver"))
		drive();
	else
		serve();
	return 0;
}
