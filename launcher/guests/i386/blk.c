/*
 * blk: fills a disk with a pattern, flushes, reads it back and compares every byte (blk [MIB|all|log] [SEED|COUNT]).
 *
 * The twin of ../blk.py, which tells what it does. What depends on the sector is two words of each, the rest is the
 * same in every chunk: so a chunk costs few instructions, and comparing it is one, however many bytes.
 */

#include "guest.h"

enum { INPUT, OUTPUT };
enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8 };
enum { SECTOR = 512, MIB_SECTORS = 2048, CHUNK_SECTORS = 128, LOG_SECTORS = 32, LOG_AREA = 2048, ID_BYTES = 20 };
enum { TEXT_SIZE = 256 };

struct header {
    u32 type, reserved;
    u64 sector;
};

static u32 wanted[CHUNK_SECTORS * SECTOR / sizeof(u32)];
static u32 found[CHUNK_SECTORS * SECTOR / sizeof(u32)];
static struct header header;
static volatile u8 status;
static struct queue disk, said;
static char text[TEXT_SIZE];
static u32 text_length;

/* ---- Words: a line is put together in `text`, then said, or crashed with ---- */

static void put(const char *more)
{
    while (*more && text_length < TEXT_SIZE - 1)
        text[text_length++] = *more++;
    text[text_length] = 0;
}

static void put_number(u32 value)
{
    char digits[11];
    u32 at = sizeof(digits) - 1;

    digits[at] = 0;
    do
        digits[--at] = '0' + value % 10;
    while (value /= 10);
    put(digits + at);
}

static void say(void)
{
    queue_do(&said, text, text_length, 0);
    text_length = 0;
}

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

/* ---- Requests ---- */

static u8 request(u32 type, u32 sector, void *addr, u32 length)
{
    u16 last = length ? 2 : 1;

    header.type = type;
    header.sector = sector;
    status = 0xff;
    queue_fill(&disk, 0, &header, sizeof(header), DESC_NEXT);
    if (length)
        queue_fill(&disk, 1, addr, length, DESC_NEXT | (type == BLK_OUT ? 0 : DESC_WRITE));
    queue_fill(&disk, last, &status, 1, DESC_WRITE);
    queue_do_chain(&disk);
    return status;
}

static void must(u32 type, u32 sector, void *addr, u32 length)
{
    u8 got = request(type, sector, addr, length);

    if (!got)
        return;
    put("blk: request ");
    put_number(type);
    put(" at sector ");
    put_number(sector);
    put(" failed with status ");
    put_number(got);
    crash(text);
}

/* ---- The pattern ---- */

static void fill_base(u32 value, u32 sectors)
{
    for (u32 *at = wanted; at < wanted + sectors * SECTOR / sizeof(u32); at++)
        *at = value = value * 1664525 + 1013904223;
}

static void tag(u32 number, u32 sector, u32 sectors)
{
    for (u32 *at = wanted; sectors--; at += SECTOR / sizeof(u32)) {
        at[0] = number;
        at[1] = sector++;
    }
}

static bool is_as_wanted(u32 sectors)
{
    const u32 *one = wanted, *other = found;
    u32 words = sectors * SECTOR / sizeof(u32);
    bool same;

    asm volatile("repe; cmpsl" : "+S"(one), "+D"(other), "+c"(words), "=@ccz"(same) : : "memory");
    return same;
}

static u32 at_most(u32 limit, u32 value)
{
    return value < limit ? value : limit;
}

/* ---- What it does ---- */

static void write_log(u32 sectors, u32 count)
{
    fill_base(1, LOG_SECTORS);
    for (u32 number = 1, sector = 0; number <= count; number++) {
        tag(number, sector, LOG_SECTORS);
        must(BLK_OUT, sector, wanted, LOG_SECTORS * SECTOR);
        put_number(number);
        put("\n");
        say();
        sector += LOG_SECTORS;
        if (sector >= at_most(sectors, LOG_AREA))
            sector -= at_most(sectors, LOG_AREA);
    }
}

static void try_disk(u32 sectors, u32 asked, u32 number, bool is_read_only)
{
    must(BLK_GET_ID, 0, found, ID_BYTES);
    ((char *)found)[ID_BYTES] = 0;
    put("blk: ");
    put((char *)found);
    put(" has ");
    put_number(sectors);
    put(" sectors\n");
    say();
    if (asked > sectors) {
        put("blk: ");
        put_number(asked);
        put(" sectors are more than the disk has");
        crash(text);
    }
    fill_base(number, CHUNK_SECTORS);
    if (is_read_only) {
        put("blk: it cannot be written\n");
    } else {
        for (u32 at = 0; at < asked; at += CHUNK_SECTORS) {
            u32 count = at_most(CHUNK_SECTORS, asked - at);

            tag(number, at, count);
            must(BLK_OUT, at, wanted, count * SECTOR);
        }
        must(BLK_FLUSH, 0, 0, 0);
        put("blk: wrote and flushed ");
        put_number(asked);
        put(" sectors\n");
    }
    say();
    for (u32 at = 0; at < asked; at += CHUNK_SECTORS) {
        u32 count = at_most(CHUNK_SECTORS, asked - at);

        tag(number, at, count);
        must(BLK_IN, at, found, count * SECTOR);
        if (!is_as_wanted(count)) {
            put("blk: wrong bytes in the ");
            put_number(count);
            put(" sectors from ");
            put_number(at);
            put(" on");
            crash(text);
        }
    }
    put("blk: read ");
    put_number(asked);
    put(" sectors, every byte is right\n");
    say();
    put("blk: past the end: status ");
    put_number(request(BLK_IN, sectors, found, SECTOR));
    put("\n");
    say();
}

void guest_main(const struct device_desc *device_page, const struct arguments *arguments)
{
    struct device_desc *block = find_device(device_page, DEVICE_BLOCK);
    struct device_desc *console = find_device(device_page, DEVICE_CONSOLE);
    const char *what = arguments->count ? (const char *)arguments->text : "all";
    const char *after = what;
    const u32 *capacity;
    bool is_read_only;
    u32 number = 1;

    if (!block)
        crash("blk: a disk (run with --block FILE): not on the device page");
    if (!console)
        crash("blk: a console: not on the device page");
    if (arguments->count > 1) {
        while (*after++)
            ;
        number = number_from(after);
    }
    capacity = (const u32 *)device_config(block);
    if (capacity[1])
        crash("blk: the disk has more sectors than 32 bits count");
    is_read_only = accept_feature(block, FEATURE_BLK_RO);
    accept_feature(block, FEATURE_BLK_FLUSH);
    queue_open(&disk, &queue_configs(block)[0], device_start(block));
    queue_open(&said, &queue_configs(console)[OUTPUT], device_start(console));

    if (what[0] == 'l' && what[1] == 'o' && what[2] == 'g' && !what[3])
        write_log(capacity[0], number);
    else if (what[0] == 'a' && what[1] == 'l' && what[2] == 'l' && !what[3])
        try_disk(capacity[0], capacity[0], number, is_read_only);
    else
        try_disk(capacity[0], number_from(what) * MIB_SECTORS, number, is_read_only);
    shutdown();
}
