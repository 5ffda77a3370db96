/*
 * blk: fills a disk with a pattern, flushes, reads it back and compares every byte (blk [MIB|all|log] [SEED|COUNT]).
 *
 * The twin of ../blk.py, which tells what it does.
 */

#define GUEST "blk"
#include "disk.h"

enum { MIB_SECTORS = 2048, LOG_SECTORS = 32, LOG_AREA = 2048, ID_BYTES = 20 };

static u32 number_from(const char *from)
{
    u32 value = 0;
    const char *at = from;

    do {
        if (*at < '0' || *at > '9') {
            put("blk: '");
            put(from);
            put("' is not a number");
            crash(text);
        }
        value = value * 10 + (*at - '0');
    } while (*++at);
    return value;
}

static void write_log(u32 count)
{
    fill_base(1, LOG_SECTORS);
    for (u32 number = 1, sector = 0; number <= count; number++) {
        tag(number, sector, LOG_SECTORS);
        disk_must(BLK_OUT, sector, wanted, LOG_SECTORS * SECTOR);
        put_number(number);
        put("\n");
        say();
        sector += LOG_SECTORS;
        if (sector >= at_most(disk_sectors, LOG_AREA))
            sector -= at_most(disk_sectors, LOG_AREA);
    }
}

static void try_disk(u32 asked, u32 number)
{
    disk_must(BLK_GET_ID, 0, found, ID_BYTES);
    ((char *)found)[ID_BYTES] = 0;
    put("blk: ");
    put((char *)found);
    put(" has ");
    put_number(disk_sectors);
    put(" sectors\n");
    say();
    if (asked > disk_sectors) {
        put("blk: ");
        put_number(asked);
        put(" sectors are more than the disk has");
        crash(text);
    }
    fill_base(number, CHUNK_SECTORS);
    if (disk_is_read_only) {
        put("blk: it cannot be written\n");
    } else {
        for (u32 at = 0; at < asked; at += CHUNK_SECTORS) {
            u32 count = at_most(CHUNK_SECTORS, asked - at);

            tag(number, at, count);
            disk_must(BLK_OUT, at, wanted, count * SECTOR);
        }
        disk_must(BLK_FLUSH, 0, 0, 0);
        put("blk: wrote and flushed ");
        put_number(asked);
        put(" sectors\n");
    }
    say();
    for (u32 at = 0; at < asked; at += CHUNK_SECTORS) {
        u32 count = at_most(CHUNK_SECTORS, asked - at);

        tag(number, at, count);
        disk_must(BLK_IN, at, found, count * SECTOR);
        disk_check_bytes(at, count);
    }
    put("blk: read ");
    put_number(asked);
    put(" sectors, every byte is right\n");
    say();
    put("blk: past the end: status ");
    put_number(disk_request(BLK_IN, disk_sectors, found, SECTOR));
    put("\n");
    say();
}

void guest_main(const struct device_desc *device_page, const struct arguments *arguments)
{
    const char *what = arguments->count ? (const char *)arguments->text : "all";
    const char *after = what;
    u32 number = 1;

    disk_open(device_page);
    words_open(device_page);
    if (arguments->count > 1) {
        while (*after++)
            ;
        number = number_from(after);
    }
    if (what[0] == 'l' && what[1] == 'o' && what[2] == 'g' && !what[3])
        write_log(number);
    else if (what[0] == 'a' && what[1] == 'l' && what[2] == 'l' && !what[3])
        try_disk(disk_sectors, number);
    else
        try_disk(number_from(what) * MIB_SECTORS, number);
    shutdown();
}
