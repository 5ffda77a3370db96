"""What the suite hands down to the programs that it starts, however it was started itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AS_FROM_A_TERMINAL = "test_a_program_starts_as_from_a_terminal_and_keeps_its_bytecode"
SCRIPT = """
import signal, sys
asked = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
print(sys.dont_write_bytecode, [signo.name for signo in asked if signal.getsignal(signo) is signal.SIG_IGN])
"""


def test_a_program_starts_as_from_a_terminal_and_keeps_its_bytecode() -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert said == "False []\n"


def test_the_same_holds_under_nohup_and_where_none_may_be_kept_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    def as_nohup_does() -> None:
        for signo in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signo, signal.SIG_IGN)

    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::{AS_FROM_A_TERMINAL}"]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=env, preexec_fn=as_nohup_does, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    assert list(tmp_path.glob("bytecode-*")) == []
