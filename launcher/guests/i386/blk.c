/*
 * blk: fills a disk with a pattern, flushes, reads it back and compares every byte (blk [MIB|all|log|read] [NUMBER…]).
 *
 * The twin of ../blk.py, which tells what it does.
 */

#define GUEST "blk"
#include "disk.h"

enum { MIB_SECTORS = 2048, LOG_SECTORS = 32, LOG_AREA = 2048, ID_BYTES = 20 };
enum { PAGE_SECTORS = 8, MOST_READS = 32, DESCRIPTORS = 3 };

/* A read that is under way, in the three descriptors from three times its number on. */
static struct reading {
    struct header header;
    volatile u8 status;
    u32 page[PAGE_SECTORS * SECTOR / sizeof(u32)];
} readings[MOST_READS];

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

static void begin_reading(u16 n, u32 sector)
{
    struct reading *reading = &readings[n];

    reading->header.type = BLK_IN;
    reading->header.sector = sector;
    reading->status = 0xff;
    queue_fill(&disk, DESCRIPTORS * n, &reading->header, sizeof reading->header, DESC_NEXT);
    queue_fill(&disk, DESCRIPTORS * n + 1, reading->page, sizeof reading->page, DESC_NEXT | DESC_WRITE);
    queue_fill(&disk, DESCRIPTORS * n + 2, &reading->status, 1, DESC_WRITE);
    queue_post(&disk, DESCRIPTORS * n);
}

static void check_reading(const struct reading *reading)
{
    header = reading->header;
    status = reading->status;
    disk_check_status();
    in_order(); /* the status, then what came with it */
    if (reading->page[1] == reading->header.sector)
        return;
    put("blk: another page came at sector ");
    put_number(reading->header.sector);
    crash(text);
}

static u32 random_sector(u32 *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return ((u64)*seed * (disk_sectors / PAGE_SECTORS) >> 32) * PAGE_SECTORS;
}

static void read_pages(u32 depth, u32 count, u32 seed)
{
    u32 begun = 0, done = 0;

    if (!depth || depth > MOST_READS)
        crash("blk: it reads 1 to 32 pages at a time");
    put("blk: reads\n");
    say();
    while (done < count) {
        for (; begun < count && begun < depth; begun++)
            begin_reading(begun, random_sector(&seed));
        while (queue_has_news(&disk)) {
            u16 n = queue_reap(&disk, 0) / DESCRIPTORS;

            check_reading(&readings[n]);
            done++;
            if (begun < count) {
                begin_reading(n, random_sector(&seed));
                begun++;
            }
        }
        queue_kick(&disk);
        queue_want_interrupt(&disk, 1);
        fence(); /* our wish, then a last look */
        if (done < count && !queue_has_news(&disk))
            halt();
    }
    put("blk: read ");
    put_number(count);
    put(" pages, every one is right\n");
    say();
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
    u32 numbers[] = {1, 1, 1};
    const char *after = what;

    disk_open(device_page);
    words_open(device_page);
    for (u32 n = 1; n < arguments->count && n <= sizeof numbers / sizeof numbers[0]; n++) {
        while (*after++)
            ;
        numbers[n - 1] = number_from(after);
    }
    if (what[0] == 'l' && what[1] == 'o' && what[2] == 'g' && !what[3])
        write_log(numbers[0]);
    else if (what[0] == 'r' && what[1] == 'e' && what[2] == 'a' && what[3] == 'd' && !what[4])
        read_pages(numbers[0], numbers[1], numbers[2]);
    else if (what[0] == 'a' && what[1] == 'l' && what[2] == 'l' && !what[3])
        try_disk(disk_sectors, numbers[0]);
    else
        try_disk(number_from(what) * MIB_SECTORS, numbers[0]);
    shutdown();
}
