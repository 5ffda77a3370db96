/*
 * all: uses console, rng, net and block at the same time (all ADDR), until an EOT (0x04).
 *
 * The twin of ../all.py, which tells what it does.
 */

#define GUEST "all"
#include "network.h"
#include "disk.h"

enum { MOST_SECTORS = 2048, TAG = 1, RANDOM_WORDS = 8 };

/* ---- The network ---- */

static u32 answered;

static u32 answer(u16 b, u32 length)
{
    if (!turn_round(&buffers[b], length))
        return 0;
    answered += buffers[b].ethernet.type == TYPE_IP;
    return length;
}

/* ---- The disk: a part of it is written and read again, in turns; a request at a time ---- */

static u32 checked_sectors, at_sector, asked_sectors;
static u32 asked_type;
static bool check_is_over;

static u32 first_type(void)
{
    return disk_is_read_only || !checked_sectors ? BLK_FLUSH : BLK_OUT;
}

/* Go on to what comes after the last request: writes, a flush, reads. Return whether a turn ends with it. */
static bool check_advance(void)
{
    at_sector += asked_sectors;
    if (asked_type != BLK_FLUSH && at_sector < checked_sectors)
        return 0;
    at_sector = 0;
    switch (asked_type) {
    case BLK_OUT:
        asked_type = BLK_FLUSH;
        return 0;
    case BLK_FLUSH:
        if (!checked_sectors)
            return 1;
        asked_type = BLK_IN;
        return 0;
    default:
        asked_type = first_type();
        return 1;
    }
}

static void check_begin(void)
{
    asked_sectors = asked_type == BLK_FLUSH ? 0 : at_most(CHUNK_SECTORS, checked_sectors - at_sector);
    if (asked_sectors)
        tag(TAG, at_sector, asked_sectors);
    disk_fill(asked_type, at_sector, asked_type == BLK_IN ? found : wanted, asked_sectors * SECTOR);
    queue_post(&disk, 0);
    queue_kick(&disk);
}

static void check_open(void)
{
    checked_sectors = at_most(MOST_SECTORS, disk_sectors);
    fill_base(TAG, CHUNK_SECTORS);
    asked_type = first_type();
    check_begin();
}

/* Judge what is done, and begin the next unless this turn was the last; return whether anything was done. */
static bool check_go_on(void)
{
    if (check_is_over || !queue_has_news(&disk))
        return 0;
    queue_reap(&disk, 0);
    disk_check_status();
    if (asked_type == BLK_IN)
        disk_check_bytes(at_sector, asked_sectors);
    if (check_advance() && has_heard_eot)
        check_is_over = 1;
    else
        check_begin();
    return 1;
}

/* ---- Entropy: asked for with each request to the disk, and looked at whether it is other than the last time ---- */

static struct queue asked;
static u32 random[RANDOM_WORDS], last_random[RANDOM_WORDS];
static u32 random_bytes, random_answers;
static bool is_asking;

static void ask(void)
{
    queue_fill(&asked, 0, (u8 *)random + random_bytes, sizeof random - random_bytes, DESC_WRITE);
    queue_post(&asked, 0);
    is_asking = 1;
    queue_kick(&asked);
}

static void entropy_open(const struct device_desc *device_page)
{
    struct device_desc *rng = find_device(device_page, DEVICE_RNG);

    if (!rng)
        crash("all: entropy (run with --rng): not on the device page");
    queue_open(&asked, &queue_configs(rng)[0], device_start(rng));
}

static void judge(void)
{
    bool is_other = !random_answers;

    in_order(); /* the news, then the bytes */
    for (u32 w = 0; w < RANDOM_WORDS; w++) {
        is_other |= random[w] != last_random[w];
        last_random[w] = random[w];
    }
    if (!is_other)
        crash("all: the same 32 random bytes came twice");
    random_answers++;
    random_bytes = 0;
}

static bool entropy_is_enough(void)
{
    return random_answers >= 2;
}

/* Take what came: an answer may be shorter than what was asked for. Ask anew when the disk has moved. */
static void entropy_go_on(bool has_moved)
{
    if (queue_has_news(&asked)) {
        u32 written;

        queue_reap(&asked, &written);
        is_asking = 0;
        random_bytes += written;
        if (random_bytes == sizeof random)
            judge();
    }
    if (!is_asking && (has_moved || random_bytes || !entropy_is_enough()))
        ask();
}

/* ---- All of it ---- */

static void say_what_there_is(void)
{
    put("all: console, it sends back\n");
    say();
    put("all: rng, it gives 32 bytes at a time\n");
    say();
    put("all: net, ");
    put_addresses();
    put("\n");
    say();
    put("all: block, ");
    put_number(disk_sectors);
    put(disk_is_read_only ? " sectors, read-only\n" : " sectors\n");
    say();
}

static void say_what_was_done(void)
{
    put("all: console, ");
    put_number(echoed);
    put(" bytes sent back\n");
    say();
    put("all: rng, no 32 bytes came twice\n");
    say();
    put("all: net, ");
    put_number(answered);
    put(" packets answered\n");
    say();
    put("all: block, ");
    put_number(checked_sectors);
    put(" sectors right\n");
    say();
}

void guest_main(const struct device_desc *device_page, const struct arguments *arguments)
{
    network_open(device_page, arguments);
    disk_open(device_page);
    entropy_open(device_page);
    words_open(device_page);
    say_what_there_is();
    echo_open();
    network_receive(BUFFERS);
    check_open();
    ask();
    for (;;) {
        network_answer(answer);
        network_go_on();
        echo_go_on();
        entropy_go_on(check_go_on());
        if (echo_is_over() && check_is_over && entropy_is_enough())
            break;
        network_want_interrupts();
        echo_want_interrupts();
        queue_want_interrupt(&disk, 1);
        queue_want_interrupt(&asked, 1);
        fence(); /* our wishes, then a last look: a buffer used before the host could see them brings no interrupt */
        if (!network_has_news() && !echo_has_news() && !queue_has_news(&disk) && !queue_has_news(&asked))
            halt();
    }
    say_what_was_done();
    shutdown();
}
