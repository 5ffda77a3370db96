"""What many tests share."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from shared.breaker import KICK_SIGNAL
from shared.memory import GuestMemory

# --hypothesis-profile=many: what the state machines try by default is kept short.
settings.register_profile("many", max_examples=10_000)


def pytest_configure(config: pytest.Config) -> None:
    """Have what is started here start as from a terminal, however the suite was started itself."""
    # What nohup, or `&` in a script, has ignored stays ignored in all that is started; a handler does not stay. It does
    # nothing, so that a suite that was to go on without its terminal does.
    for signo in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(signo) is signal.SIG_IGN:
            signal.signal(signo, lambda signo, frame: None)
    # A thousand Launchers would each compile all that they import. What is kept is kept beside no source, for this run.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        kept = tempfile.TemporaryDirectory(prefix="bytecode-", ignore_cleanup_errors=True)
        config.add_cleanup(kept.cleanup)
        os.environ["PYTHONPYCACHEPREFIX"] = kept.name


def pytest_collection_finish() -> None:
    """Keep the thousands of collected tests out of each later collection: every one that asks for it took 0.2 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def kick_may_stay_blocked() -> None:
    """Ask for this where a file is closed under sigio: a copy of it may signal for ever, so that stays blocked then."""


@pytest.fixture(autouse=True)
def _no_kick_stays_blocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """See that whoever blocked the kick signal let it through again; the next test is none the worse if not."""
    yield
    is_blocked = KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if is_blocked:
        signal.sigtimedwait({KICK_SIGNAL}, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})
    given = getattr(request.node, "callspec", None)
    is_of_sigio = given is None or "sigio" in given.params.get("name", "")
    assert not is_blocked or ("kick_may_stay_blocked" in request.fixturenames and is_of_sigio)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Give 128 KiB of shared Guest memory."""
    with GuestMemory.create(0x20000) as memory:
        yield memory
