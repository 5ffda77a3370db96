"""Interrupts reach a Guest of machine code: once each, in order, and only when it lets them in."""

from __future__ import annotations

import pytest

from launcher.api import Broken, Notify, Vcpu
from launcher.engines.hypercalls import FIRST_VECTOR, IRQS, PORT_NOTIFY
from shared.breaker import Breaker
from shared.memory import GuestMemory
from tests.kvm.conftest import BootCode, BootImage
from tests.support.machine_code import CLI, HLT, SPIN, STI, jmp_back_over, out, take_interrupts
from tests.support.threads import beside
from tests.support.until import until

INTERRUPTS_TAKEN = 0x1000


def run_until_taken(count: int, vcpu: Vcpu, memory: GuestMemory, breaker: Breaker) -> None:
    """Run the idle Guest until another thread has seen it count that many interrupts."""
    taken = memory.view(INTERRUPTS_TAKEN, 4).cast("I")

    def break_when_taken() -> None:
        try:
            until(lambda: taken[0] >= count, f"the Guest has not counted {count} interrupts")
        finally:
            breaker.break_out()

    with beside(break_when_taken):
        assert vcpu.run() == Broken()
    breaker.clear()
    assert taken[0] == count


def test_the_idle_guest_counts_its_interrupts(boot_image: BootImage, memory: GuestMemory, breaker: Breaker) -> None:
    vcpu = boot_image("idle")
    # The first one is raised before the Guest's first instruction: it is not lost on the way to the halt.
    for count in range(1, 101):
        vcpu.interrupt(count % IRQS)
        run_until_taken(count, vcpu, memory, breaker)


def test_many_irqs_at_once_are_all_taken(boot_image: BootImage, memory: GuestMemory, breaker: Breaker) -> None:
    vcpu = boot_image("idle")
    for irq in range(IRQS):
        vcpu.interrupt(irq)
    run_until_taken(IRQS, vcpu, memory, breaker)


def test_the_lowest_irq_comes_first_and_asking_twice_is_asking_once(
    boot_code: BootCode, memory: GuestMemory, breaker: Breaker
) -> None:
    halt = STI + HLT
    vcpu = boot_code(take_interrupts(memory, PORT_NOTIFY) + halt + jmp_back_over(halt))
    for irq in (200, 7, 31, 7, 0, IRQS - 1):
        vcpu.interrupt(irq)
    expected = [Notify(FIRST_VECTOR + irq) for irq in (0, 7, 31, 200, IRQS - 1)]
    assert [vcpu.run() for _ in expected] == expected
    with beside(breaker.break_out):
        assert vcpu.run() == Broken()


def test_an_interrupt_waits_until_the_guest_lets_it_in(boot_code: BootCode, memory: GuestMemory) -> None:
    closed = CLI + out(PORT_NOTIFY, 1) + out(PORT_NOTIFY, 2)
    vcpu = boot_code(take_interrupts(memory, PORT_NOTIFY) + closed + STI + SPIN)
    vcpu.interrupt(5)
    assert [vcpu.run() for _ in range(3)] == [Notify(1), Notify(2), Notify(FIRST_VECTOR + 5)]


def test_a_computing_guest_takes_an_interrupt_and_goes_on(
    boot_code: BootCode, memory: GuestMemory, breaker: Breaker
) -> None:
    vcpu = boot_code(take_interrupts(memory, PORT_NOTIFY) + STI + out(PORT_NOTIFY, 1) + SPIN)
    assert vcpu.run() == Notify(1)
    for irq in range(100):
        vcpu.interrupt(irq)
        assert vcpu.run() == Notify(FIRST_VECTOR + irq)
    breaker.break_out()
    assert vcpu.run() == Broken()


def test_an_interrupt_and_a_break_at_once_are_both_taken(
    boot_code: BootCode, memory: GuestMemory, breaker: Breaker
) -> None:
    halt = STI + HLT
    vcpu = boot_code(take_interrupts(memory, PORT_NOTIFY) + halt + jmp_back_over(halt))
    for irq in range(IRQS):
        vcpu.interrupt(irq)
        breaker.break_out()
        assert vcpu.run() == Broken()
        breaker.clear()
        assert vcpu.run() == Notify(FIRST_VECTOR + irq)


@pytest.mark.parametrize("irq", [-1, IRQS])
def test_an_irq_without_a_vector_is_refused(irq: int, boot_image: BootImage) -> None:
    with pytest.raises(ValueError, match=f"irq {irq} is not one of 0 to {IRQS - 1}"):
        boot_image("idle").interrupt(irq)
