"""What runs a Guest. Engines know memory, a breaker and how to start; never devices or Wakers.

`auto` takes kvm where /dev/kvm really runs a Guest, else unicorn where that is installed, else python, and the caller
says which and why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import NamedTuple

from launcher import guests, image
from launcher.api import Boot, Payload, Vcpu
from launcher.engines import kvm, python, unicorn
from shared.breaker import Breaker, ExitFlag
from shared.errors import CannotRunError, UsageError
from shared.memory import GuestMemory

AUTO = "auto"

MakeBreaker = Callable[[ExitFlag | None], Breaker]


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: what it is, what stops it (the default first), why it cannot run here, and how to make a vCPU."""

    name: str
    description: str
    breakers: tuple[str, ...]
    why_not: Callable[[], str | None]
    open: Callable[[Payload, GuestMemory, int, MakeBreaker], Vcpu]
    """Given what the Guest is made of, its memory, the address of the device page, and what makes its breaker.

    The maker is given the byte that ends the vCPU's next run, for an engine that has one outside the control page.
    """


class Choice(NamedTuple):
    """An engine, and why it was taken where `auto` was asked for."""

    engine: Engine
    reason: str


def names() -> list[str]:
    """Return the names of all engines, in the order in which `auto` prefers them."""
    return list(_ENGINES)


def get(name: str) -> Engine:
    """Return the engine of this name; raise `UsageError`, listing what there is, when there is none."""
    if name not in _ENGINES:
        raise UsageError(f"engine '{name}' is not known; there are {AUTO}, {', '.join(_ENGINES)}")
    return _ENGINES[name]


def of_breaker(kind: str) -> list[Engine]:
    """Return the engines that a breaker of this kind can stop."""
    return [engine for engine in _ENGINES.values() if kind in engine.breakers]


def refuse_breaker(kind: str, engine: Engine) -> str:
    """Return the sentence that says why this breaker is not for this engine, and what is."""
    others = " or ".join(other.name for other in of_breaker(kind))
    return (
        f"breaker '{kind}' cannot stop engine {engine.name}; take one that can ({', '.join(engine.breakers)}), "
        f"or engine {others}"
    )


def choose(name: str, guest: str, breaker: str | None = None) -> Choice:
    """Return the engine asked for, or for `auto` the best one that runs this Guest here and stops for this breaker.

    Raises `UsageError` for an unknown engine, `CannotRunError` for one that cannot run here or when `auto` finds none.
    """
    if name != AUTO:
        engine = get(name)
        reason = engine.why_not()
        if reason is not None:
            raise CannotRunError(f"engine '{name}' cannot run here: {reason}; try --engine {AUTO}")
        return Choice(engine, "asked for")
    if image.is_python(guest):
        return Choice(_ENGINES["python"], "the Guest is written in Python")
    return _choose_by_itself(guest, breaker)


def _choose_by_itself(guest: str, breaker: str | None) -> Choice:
    reasons = {name: _why_not_for(breaker, _ENGINES[name]) for name in ("kvm", "unicorn")}
    refusals = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    if reasons["kvm"] is None:
        return Choice(_ENGINES["kvm"], "/dev/kvm runs a Guest here")
    if reasons["unicorn"] is None:
        return Choice(_ENGINES["unicorn"], f"kvm: {reasons['kvm']}")
    if guest in guests.names():
        if breaker is None or breaker in python.BREAKERS:
            return Choice(_ENGINES["python"], refusals)
        raise CannotRunError(f"breaker '{breaker}' stops engine kvm alone, and that cannot run here: {kvm.why_not()}")
    image.check(guest)
    raise CannotRunError(f"image '{guest}' is machine code, and no engine here runs that: {refusals}")


def _why_not_for(breaker: str | None, engine: Engine) -> str | None:
    if breaker is not None and breaker not in engine.breakers:
        return f"its Guest is not stopped by {breaker}"
    return engine.why_not()


def load_machine_code(payload: Payload, memory: GuestMemory, device_page: int) -> Boot:
    """Put a Guest of machine code into memory, for any engine that runs such; return how it is started.

    Raises `UsageError` for what is no such Guest; memory is then untouched.
    """
    guest = payload.guest
    if image.is_python(guest):
        raise UsageError(f"image '{guest}' is a Guest written in Python; run it with --engine python")
    if guest in guests.names():
        if payload.initrd is not None:
            raise UsageError(f"image '{guest}' is no Linux kernel and takes no initrd; leave out --initrd")
        return image.load(guests.image_path(guest), memory, device_page)
    return image.load(guest, memory, device_page, payload.args, payload.initrd, payload.warn)


def _open_kvm(payload: Payload, memory: GuestMemory, device_page: int, make_breaker: MakeBreaker) -> Vcpu:
    boot = load_machine_code(payload, memory, device_page)
    with ExitStack() as opened:
        vm = opened.enter_context(kvm.Vm(memory, boot))
        breaker = make_breaker(vm.exit_flag())
        opened.callback(breaker.close)
        vcpu = kvm.KvmVcpu(memory, boot, breaker, vm)
        opened.pop_all()
        return vcpu


def _open_unicorn(payload: Payload, memory: GuestMemory, device_page: int, make_breaker: MakeBreaker) -> Vcpu:
    boot = load_machine_code(payload, memory, device_page)
    with ExitStack() as opened:
        breaker = make_breaker(None)
        opened.callback(breaker.close)
        vcpu = unicorn.UnicornVcpu(memory, boot, breaker)
        opened.pop_all()
        return vcpu


def _open_python(payload: Payload, memory: GuestMemory, device_page: int, make_breaker: MakeBreaker) -> Vcpu:
    program = _load_program(payload.guest)
    if payload.initrd is not None:
        raise UsageError(f"image '{payload.guest}' is written in Python and takes no initrd; leave out --initrd")
    return python.PythonVcpu(memory, program, Boot(device_page), make_breaker(None))


def _load_program(guest: str) -> python.Program:
    if guest in guests.names():
        module = import_module(guests.module(guest))
    elif image.is_python(guest):
        if not Path(guest).is_file():
            raise UsageError(f"image '{guest}': no such file")
        spec = util.spec_from_file_location("guest", guest)
        assert spec is not None
        assert spec.loader is not None  # it ends in .py
        module = util.module_from_spec(spec)
        sys.modules[spec.name] = module  # a dataclass looks its module up there
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise UsageError(f"image '{guest}' cannot be imported: {type(error).__name__}: {error}") from error
    else:
        image.check(guest)
        raise UsageError(
            f"image '{guest}' is machine code; engine python runs Guests written in Python "
            f"({', '.join(guests.names())}, or a .py file), so give --engine kvm or unicorn"
        )
    program: python.Program | None = getattr(module, "run", None)
    if not callable(program):
        raise UsageError(f"image '{guest}' has no function run(cpu), which is where a Guest in Python begins")
    return program


def _always() -> None:
    return None


_ENGINES = {
    "kvm": Engine("kvm", "machine code on /dev/kvm, one vCPU, 32-bit", kvm.BREAKERS, kvm.why_not, _open_kvm),
    "unicorn": Engine(
        "unicorn", "machine code on an emulated i386, any processor", unicorn.BREAKERS, unicorn.why_not, _open_unicorn
    ),
    "python": Engine("python", "a Guest written in Python, no privileges", python.BREAKERS, _always, _open_python),
}
