/*
 * A disk as a Guest's driver has it: one request after the other, and a pattern to know its sectors by.
 *
 * Each sector begins with its tag and its own number, so one that is in the wrong place, or of another run, shows. What
 * depends on the sector is two words of each, the rest is the same in every chunk: so a chunk costs few instructions,
 * and comparing it is one, however many bytes. The twin of ../disk.py. GUEST is the Guest's name.
 */

#ifndef DISK_H
#define DISK_H

#include "words.h"

enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8 };
enum { BLK_OK = 0, BLK_IOERR = 1 };
enum { SECTOR = 512, CHUNK_SECTORS = 128 };

struct header {
    u32 type, reserved;
    u64 sector;
};

static struct queue disk;
static u32 disk_sectors;
static bool disk_is_read_only;
static u32 wanted[CHUNK_SECTORS * SECTOR / sizeof(u32)];
static u32 found[CHUNK_SECTORS * SECTOR / sizeof(u32)];
static struct header header;
static volatile u8 status;

static inline void disk_open(const struct device_desc *device_page)
{
    struct device_desc *block = find_device(device_page, DEVICE_BLOCK);
    const u32 *capacity;

    if (!block)
        crash(GUEST ": a disk (run with --block FILE): not on the device page");
    capacity = (const u32 *)device_config(block);
    if (capacity[1])
        crash(GUEST ": the disk has more sectors than 32 bits count");
    disk_sectors = capacity[0];
    disk_is_read_only = accept_feature(block, FEATURE_BLK_RO);
    accept_feature(block, FEATURE_BLK_FLUSH);
    queue_open(&disk, &queue_configs(block)[0], device_start(block));
}

/* ---- Requests ---- */

/* Fill in one request, from descriptor 0 on, with a buffer to be written by the device unless it is a write. */
static inline void disk_fill(u32 type, u32 sector, void *addr, u32 length)
{
    u16 last = length ? 2 : 1;

    header.type = type;
    header.sector = sector;
    status = 0xff;
    queue_fill(&disk, 0, &header, sizeof(header), DESC_NEXT);
    if (length)
        queue_fill(&disk, 1, addr, length, DESC_NEXT | (type == BLK_OUT ? 0 : DESC_WRITE));
    queue_fill(&disk, last, &status, 1, DESC_WRITE);
}

/* Have one request done; return its status. */
static inline u8 disk_request(u32 type, u32 sector, void *addr, u32 length)
{
    disk_fill(type, sector, addr, length);
    queue_do_chain(&disk);
    return status;
}

/* Crash unless the last request succeeded. */
static inline void disk_check_status(void)
{
    if (status == BLK_OK)
        return;
    put(GUEST ": request ");
    put_number(header.type);
    put(" at sector ");
    put_number(header.sector);
    put(" failed with status ");
    put_number(status);
    crash(text);
}

/* Have one request done that is to succeed. */
static inline void disk_must(u32 type, u32 sector, void *addr, u32 length)
{
    disk_request(type, sector, addr, length);
    disk_check_status();
}

/* ---- The pattern ---- */

static inline void fill_base(u32 value, u32 sectors)
{
    for (u32 *at = wanted; at < wanted + sectors * SECTOR / sizeof(u32); at++)
        *at = value = value * 1664525 + 1013904223;
}

static inline void tag(u32 number, u32 sector, u32 sectors)
{
    for (u32 *at = wanted; sectors--; at += SECTOR / sizeof(u32)) {
        at[0] = number;
        at[1] = sector++;
    }
}

static inline bool is_as_wanted(u32 sectors)
{
    const u32 *one = wanted, *other = found;
    u32 words = sectors * SECTOR / sizeof(u32);
    bool same;

    asm volatile("repe; cmpsl" : "+S"(one), "+D"(other), "+c"(words), "=@ccz"(same) : : "memory");
    return same;
}

/* Crash unless what was read is what is wanted. */
static inline void disk_check_bytes(u32 sector, u32 sectors)
{
    if (is_as_wanted(sectors))
        return;
    put(GUEST ": wrong bytes in the ");
    put_number(sectors);
    put(" sectors from ");
    put_number(sector);
    put(" on");
    crash(text);
}

#endif
