"""What a run is made of is checked once, before anything is opened."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

import waker
from launcher import guests
from launcher.config import DEFAULT_WAKER, MAX_MEMORY_MIB, MIN_MEMORY_MIB, RunConfig
from shared.errors import UsageError


@pytest.mark.parametrize("memory_mib", [-1, 0, MAX_MEMORY_MIB + 1, 1 << 70])
def test_memory_that_no_machine_can_be_made_of_is_refused_with_what_can(memory_mib: int) -> None:
    with pytest.raises(UsageError, match=rf"^memory of {memory_mib} MiB cannot be made; give --memory 1 to 3072$"):
        RunConfig(memory_mib=memory_mib)


@pytest.mark.parametrize("memory_mib", [MIN_MEMORY_MIB, MAX_MEMORY_MIB])
def test_the_limits_themselves_are_fine(memory_mib: int) -> None:
    assert RunConfig(memory_mib=memory_mib).memory_mib == memory_mib


def test_the_defaults_name_things_that_exist() -> None:
    config = RunConfig()
    assert config.image in guests.names()
    assert config.waker == DEFAULT_WAKER
    assert config.waker in waker.names()


def test_a_config_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        RunConfig().engine = "kvm"  # type: ignore[misc]


def test_an_initrd_without_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^initrd '' is no name; give the file of an initrd$"):
        RunConfig(initrd="")
