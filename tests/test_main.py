"""How the process of the command line begins and ends."""

import subprocess
import sys
from pathlib import Path

EARLY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "imori.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop())
from imori.__main__ import run
sys.exit(run())
"""
LATE = """
import gc, sys
from imori.__main__ import run
assert run() == 0
print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 100)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_a_signal_before_the_command_line_is_there_is_no_traceback() -> None:
    done = python(EARLY, "models")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_nothing_is_left_to_the_garbage_collector() -> None:
    """With TensorFlow and PyTorch it took seconds after the last line."""
    done = python(LATE, "models")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nTrue True\n")


def test_the_console_runs_it() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert '\nimori = "imori.__main__:run"\n' in text
