/*
 * The first instructions of every Guest, its halt, and its interrupts.
 *
 * The Launcher enters _start as a multiboot loader would: 32-bit protected mode, flat segments, paging off,
 * interrupts off; EAX = 0x6C677374, EBX = the device page (the end of RAM), ESP = the same, to grow down from, ECX =
 * the arguments: how many in 32 bits, then each ended by a NUL.
 *
 * The danger with halting is the interrupt that comes between the last look at the rings and the `hlt`: if it is
 * taken there, the Guest sleeps with work to do. The danger with interrupts is the way back: IRET is not emulated by
 * every KVM, and `popf; ret` in its place leaves a gap, with interrupts on, in which each further interrupt eats stack.
 *
 * Both are answered by one rule: interrupts are on in halt() and nowhere else. All that an interrupt can then
 * mean is "stop halting", so its handler does not go back to where it was. It throws away what the processor pushed
 * (return address, CS, EFLAGS) and returns *from halt()*, with interrupts off, as the gate left them. Therefore:
 *
 *   - an interrupt raised before halt() stays pending until `sti`;
 *   - one that comes after `sti` and before `hlt` ends halt() all the same: the `hlt` is not reached. (The processor
 *     lets none in there, the shadow of `sti`, but nothing here depends on it.)
 *   - interrupts never nest, so the stack cannot grow, and no register needs saving: halt() is an ordinary call.
 *
 * Cost: two instructions per interrupt. What a Guest gives up: an interrupt while it computes.
 */

        .set    FIRST_IRQ_VECTOR, 32
        .set    VECTORS, 256
        .set    PORT_SHUTDOWN, 0x604
        .set    PORT_CRASH, 0x608
        .set    CODE_SELECTOR, 0x08

        .section .text.start, "ax"
        .globl  _start
_start:
        lgdt    gdt_pointer             /* a gate's selector is looked up in memory: the Guest needs a GDT of its own */
        lidt    idt_pointer
        pushl   %ecx
        pushl   %ebx
        call    guest_main              /* void guest_main(const struct device_desc *, const struct arguments *) */
        movl    $PORT_SHUTDOWN, %edx
        outl    %eax, %dx

/* An exception. Whatever was pushed stays: nothing comes after this. */
exception:
        movl    $exception_reason, %eax
        movl    $PORT_CRASH, %edx
        outl    %eax, %dx

/* void halt(void): sleep until an interrupt has come. */
        .globl  halt
halt:
        sti
        hlt
        jmp     halt                    /* woken by anything but an interrupt (real processors may) */

interrupt:
        addl    $12, %esp               /* return address, CS, EFLAGS */
        ret                             /* from halt() */

exception_reason:
        .asciz  "the Guest's code raised a processor exception"

/*
 * A gate holds its handler's address in two halves, which the assembler can only compute where it knows the address:
 * IMAGE is where guest.ld puts _start, and guest.ld asserts it.
 */
        .set    IMAGE, 0x100000

        .macro  gate handler
        .word   (\handler - _start + IMAGE) & 0xffff, CODE_SELECTOR
        .word   0x8e00, (\handler - _start + IMAGE) >> 16   /* present, ring 0, 32-bit interrupt gate */
        .endm

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      /* code: flat, accessed */
        .quad   0x00cf93000000ffff      /* data: flat, accessed */
gdt_end:

        .balign 8
idt:
        .rept   FIRST_IRQ_VECTOR
        gate    exception
        .endr
        .rept   VECTORS - FIRST_IRQ_VECTOR
        gate    interrupt
        .endr
idt_end:

gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt
idt_pointer:
        .word   idt_end - idt - 1
        .long   idt

        .section .note.GNU-stack, "", @progbits
