/* echo: sends back what it gets on the console, until an EOT (0x04): what came before it is still sent. */

#define GUEST "echo"
#include "words.h"

void guest_main(const struct device_desc *device_page)
{
    words_open(device_page);
    echo_open();
    for (;;) {
        echo_go_on();
        if (echo_is_over())
            shutdown();
        echo_want_interrupts();
        fence(); /* our wishes, then a last look: a buffer used before the host could see them brings no interrupt */
        if (!echo_has_news())
            halt();
    }
}
