"""What a command prints reaches a pipe, a log or a terminal of any encoding."""

from __future__ import annotations

import io
import sys

import pytest
from curvlang.cli.characters import write_any_character
from curvlang.cli.main import run


@pytest.fixture
def output(monkeypatch):
    """Standard output in an encoding, and what has been written to it."""

    def made(encoding):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        write_any_character()
        return lambda: (sys.stdout.flush(), raw.getvalue().decode(encoding))[1]

    return made


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1/(N·T) Σₙₜ a[n,i′]²", "1/(N.T) sum_nt a[n,i']^2"),
        ("∇m_qᵀ C⁻¹ ∇ℓ_n", "grad m_q^T C^-1 grad l_n"),
        ("(C + λI)⁻¹ … é 猫", "(C + lambdaI)^-1 ... e ?"),
        ("curvature", "curvature"),
    ],
)
def test_characters_that_are_not_there_are_written_in_others(output, text, plain):
    written = output("ascii")
    print(text)
    assert written() == plain + "\n"


def test_those_that_are_there_stay(output):
    written = output("latin-1")
    print("é ² · Σ")
    assert written() == "é ² · sum\n"
    written = output("utf-8")
    print("Σₙ")
    assert written() == "Σₙ\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("command", [["list", "kfac"], ["explain", "E0207"], ["--help"]])
def test_commands_write_to_any_encoding(output, encoding, command):
    written = output(encoding)
    assert run(command) == 0
    assert len(written()) > 100
