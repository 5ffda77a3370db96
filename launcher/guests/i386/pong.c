/* pong: answers ARP, ICMP echo and UDP echo (any port) for the IPv4 address in its argument, until an EOT (0x04). */

#define GUEST "pong"
#include "network.h"

static u32 answer(u16 b, u32 length)
{
    return turn_round(&buffers[b], length) ? length : 0;
}

void guest_main(const struct device_desc *device_page, const struct arguments *arguments)
{
    network_open(device_page, arguments);
    words_open(device_page);
    put("pong: ");
    put_addresses();
    put("\n");
    say();
    ear_open();
    network_receive(BUFFERS);
    while (!has_heard_eot) {
        network_answer(answer);
        network_go_on();
        ear_go_on();
        network_want_interrupts();
        queue_want_interrupt(&typed, 1);
        fence(); /* our wishes, then a last look: a buffer used before the host could see them brings no interrupt */
        if (!has_heard_eot && !network_has_news() && !queue_has_news(&typed))
            halt();
    }
    shutdown();
}
