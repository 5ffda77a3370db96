"""One arm: a Launcher in a fresh process that serves what the stimulus rings.

    python -P launcher/bench/measure/arm.py TREE SPEC

It speaks the yardstick's protocol (yardstick/yardstick.h) on standard input and output, which are one socket: "r" when
its Waker watches, along with the fds that the stimulus needs, "d" when all is served; it stays until the input ends,
and then says in a line of JSON what it counted, closes everything, and leaves with 0. Exit code 77: it cannot run here;
4: what came back was wrong; the reason is on standard error. SIGUSR2 says that nobody believes in it any more: it gives
up where it is, and reports.

TREE is the tree that is measured, whatever is installed; this file and its neighbours are of the tree that measures.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

if __name__ == "__main__":  # two trees: the machine is of one, launcher.bench of the other
    from importlib import util

    sys.path.insert(0, sys.argv[1])
    _here = Path(__file__).resolve().parents[1]
    _found = util.spec_from_file_location(
        "launcher.bench", _here / "__init__.py", submodule_search_locations=[str(_here)]
    )
    assert _found is not None
    import launcher  # noqa: F401 - the package of that tree

    sys.modules["launcher.bench"] = util.module_from_spec(_found)

from launcher.bench.measure.files import TOO_MANY
from launcher.bench.measure.ledger import Ledger
from launcher.bench.measure.runs import DEVICES, GivenUp
from launcher.bench.measure.spec import GIVE_UP, STOPS, Spec
from shared.errors import EXIT_CANNOT_RUN_HERE, EXIT_ERROR, CannotRunError, LabError, SourceRefused, UsageError

_PR_SET_PDEATHSIG = 1


def main(spec: Spec) -> int:
    """Be the arm; return the exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # nobody is left to measure for
    signal.signal(GIVE_UP, _give_up)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for whoever measures, who ends us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # which waited while we were started
    sys.setswitchinterval(spec.switch_us / 1e6)
    with Ledger(spec.ledger) as ledger, socket.socket(fileno=os.dup(1)) as control:
        try:
            DEVICES[spec.device](spec, ledger, control)
        except (CannotRunError, SourceRefused, UsageError) as error:
            print(error, file=sys.stderr)
            return EXIT_CANNOT_RUN_HERE
        except LabError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        except OSError as error:
            is_of_files = error.errno in (errno.EMFILE, errno.ENFILE)
            what = ": ".join(filter(None, ["the system", error.filename, error.strerror or str(error)]))
            print(f"{what}; {TOO_MANY}" if is_of_files else what, file=sys.stderr)
            return EXIT_CANNOT_RUN_HERE if is_of_files else EXIT_ERROR
    return 0


def _give_up(_signo: int, _frame: FrameType | None) -> None:
    raise GivenUp


if __name__ == "__main__":
    sys.exit(main(Spec(**json.loads(sys.argv[2]))))
