/* A kernel that believes nothing: it looks at all it was promised, and crashes with the first thing that is not so. */

#include "guest.h"

enum { HEADER = 0x202, RAMDISK_IMAGE = 0x218, RAMDISK_SIZE = 0x21c, CMD_LINE_PTR = 0x228 };
enum { E820_ENTRIES = 0x1e8, E820_TABLE = 0x2d0, RAM = 1, RESERVED = 2 };
enum { LOW_END = 0xa0000, HIGH = 0x100000, RAM_END = 0x400000, DEVICE_AREA = 64 * PAGE_SIZE };

struct range {
    u64 addr, size;
    u32 type;
} __attribute__((packed));

__attribute__((section(".text.startup"), used, naked)) void _start(void)
{
    asm("pushl %esi; call look");
}

static u32 word(const u8 *zero_page, u32 offset)
{
    return *(const u32 *)(zero_page + offset);
}

static void expect(bool holds, const char *what)
{
    if (!holds)
        crash(what);
}

static bool is_range(const struct range *range, u32 start, u32 end, u32 type)
{
    return range->addr == start && range->size == end - start && range->type == type;
}

/* Skip what a string begins with; 0 when it does not. */
static const char *after(const char *text, const char *beginning)
{
    while (*beginning)
        if (*text++ != *beginning++)
            return 0;
    return text;
}

__attribute__((used)) void look(const u8 *zero_page)
{
    const struct range *map = (const struct range *)(zero_page + E820_TABLE);
    const u8 *disk = (const u8 *)word(zero_page, RAMDISK_IMAGE);
    const char *line = (const char *)word(zero_page, CMD_LINE_PTR);
    u32 size = word(zero_page, RAMDISK_SIZE), sum = 0, told = 0;

    expect(word(zero_page, HEADER) == 0x53726448, "no header in the zero page");
    expect(zero_page[E820_ENTRIES] == 3, "the map has not three ranges");
    expect(is_range(&map[0], 0, LOW_END, RAM), "low memory is not in the map");
    expect(is_range(&map[1], HIGH, RAM_END, RAM), "RAM is not in the map");
    expect(is_range(&map[2], RAM_END, RAM_END + DEVICE_AREA, RESERVED), "the device area is not reserved");
    expect(!((u32)disk % PAGE_SIZE) && (u32)disk + size <= RAM_END, "the initrd is not where it may be");
    line = after(line, "lguest.device_page=0x00400000 sum=");
    expect(!!line, "the command line begins with something else");
    while (*line >= '0' && *line <= '9')
        told = 10 * told + *line++ - '0';
    expect(!!after(line, " last"), "the command line ends with something else");
    for (u32 n = 0; n < size; n++)
        sum += disk[n];
    expect(size == 5000 && sum == told, "the initrd has other bytes");
    shutdown();
}
