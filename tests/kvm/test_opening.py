"""The kvm engine opens, refuses in one sentence, and gives everything back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.api import Boot
from launcher.engines.kvm import BREAKERS, KvmVcpu, why_not
from launcher.engines.kvm.vm import Vm
from shared import breaker as breakers
from shared.breaker import Breaker
from shared.errors import UsageError
from shared.memory import GuestMemory
from shared.page import Page
from tests.kvm.conftest import BootCode, BootImage
from tests.support.fds import no_new_fds
from tests.support.machine_code import SPIN

pytestmark = [pytest.mark.kvm, pytest.mark.parametrize("engine", ["kvm"])]

BOOT = Boot(device_page=0x1000)


def test_kvm_that_runs_an_instruction_has_nothing_against_it() -> None:
    assert why_not() is None


def test_asking_leaves_nothing_open(tmp_path: Path) -> None:
    with no_new_fds():
        for device in ("/dev/kvm", "/dev/null", str(tmp_path / "none")):
            why_not(device)


def test_a_closed_vcpu_has_given_every_fd_back(boot_image: BootImage) -> None:
    with no_new_fds():
        for _ in range(500):
            boot_image("idle").close()


def test_memory_can_be_closed_after_its_vcpu(breaker: Breaker) -> None:
    with GuestMemory.create(0x10000) as memory:
        vcpu = KvmVcpu(memory, BOOT, breaker)
        vcpu.close()
        vcpu.close()
    with pytest.raises(ValueError, match="released"):
        memory.view(0, 1)


def test_private_memory_runs_a_guest_too(breaker: Breaker) -> None:
    memory = GuestMemory.private(0x10000)
    memory.view(0, len(SPIN))[:] = SPIN
    vcpu = KvmVcpu(memory, BOOT, breaker)
    breaker.break_out()
    vcpu.run()
    vcpu.close()
    memory.close()


def test_a_breaker_that_cannot_stop_a_computing_guest_is_refused(memory: GuestMemory, page: Page) -> None:
    eventfd = breakers.create("eventfd", page)
    with pytest.raises(UsageError, match=r"^engine kvm: breaker 'eventfd' cannot stop .*; use signal, immediate$"):
        KvmVcpu(memory, BOOT, eventfd)
    eventfd.close()
    assert BREAKERS == ("signal", "immediate")


def test_memory_that_reaches_kvms_own_pages_is_refused_and_leaks_nothing() -> None:
    with no_new_fds(), GuestMemory.create(0xFFFC0000) as memory:
        with pytest.raises(UsageError, match=r"with --memory$"):
            Vm(memory, BOOT)


def test_what_is_no_kvm_says_what_it_is(tmp_path: Path) -> None:
    assert why_not("/dev/null") == (
        "cannot run a Guest on /dev/null: KVM_GET_API_VERSION: Inappropriate ioctl for device"
    )
    missing = str(tmp_path / "kvm")
    assert why_not(missing) == f"no {missing}: this kernel has no KVM, or its module is not loaded"
    assert why_not(str(tmp_path)) == f"cannot open {tmp_path}: Is a directory"


def test_a_device_that_is_not_ours_to_open_names_the_group(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch(mode=0)
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)  # root may open anything
    try:
        reason = why_not(str(device))
    finally:
        os.seteuid(uid)
    assert reason == f"not allowed: open {device}: Permission denied; add yourself to group kvm"


def test_a_second_vcpu_does_not_disturb_the_first(boot_code: BootCode, breaker: Breaker) -> None:
    first, second = boot_code(SPIN), boot_code(SPIN)
    for vcpu in (first, second, first):
        breaker.break_out()
        vcpu.run()
        breaker.clear()
    second.close()
    breaker.break_out()
    first.run()
