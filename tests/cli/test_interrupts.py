"""Ctrl-C: code 130 and one line, at every moment of a command."""

import os
import signal
import subprocess
import sys

import pytest
from curvlang.cli import main as entry
from curvlang.cli.interrupts import INTERRUPTS

# A library that meets Ctrl-C while it is imported, and makes an error of its own of it.
LIBRARY = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except BaseException:
    raise RecursionError("half imported")
"""
START = "from curvlang.cli.interrupts import INTERRUPTS; INTERRUPTS.install()\n"
STOP = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"


def ended(code, folder):
    (folder / "library.py").write_text(LIBRARY)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        START + "import library",
        START + "with INTERRUPTS.working():\n    import library",
        START + "print('kept')\n" + STOP,
    ],
)
def test_before_work_and_inside_an_import_the_process_ends_at_once(code, tmp_path):
    found = ended(code, tmp_path)
    assert found.returncode == 130
    assert found.stderr == "\ninterrupted\n"
    assert found.stdout == ("kept\n" if "kept" in code else "")


def test_at_work_it_is_an_exception(tmp_path):
    code = START + "with INTERRUPTS.working():\n    try:\n        " + STOP
    code += "    except KeyboardInterrupt:\n        print('told', INTERRUPTS.asked)"
    found = ended(code, tmp_path)
    assert (found.returncode, found.stdout) == (0, "told True\n")


def test_a_process_started_to_ignore_it_goes_on(tmp_path):
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + START + STOP
    assert ended(code, tmp_path).returncode == 0


def test_what_a_library_makes_of_it_is_still_an_interruption(monkeypatch, capsys):
    def broken(name, rest):
        raise RuntimeError("from C++")

    monkeypatch.setattr(entry, "_invoke", broken)
    with pytest.raises(RuntimeError):
        entry.run(["list"])
    monkeypatch.setattr(INTERRUPTS, "asked", True)
    assert entry.run(["list"]) == 130
    assert capsys.readouterr().err.endswith("\ninterrupted\n")


def test_the_whole_command(tmp_path):
    code = "import os, signal, sys, threading\nfrom curvlang.cli.main import main\n"
    code += "sys.argv = ['curvlang', 'eval', 'ekfac', '--quick']\n"
    code += "threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\nmain()"
    found = ended(code, tmp_path)
    assert found.returncode == 130
    assert "interrupted" in found.stderr
    assert "Traceback" not in found.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
