import errno

import pytest
import torch

from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.errors import UserError


def ended(error, capsys):
    """(exit code, what was said) of a command that raises this."""

    def command():
        raise error

    with pytest.raises(SystemExit) as end:
        exit_cleanly(command)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("give a corpus"), 2, "sdlm: give a corpus"),
        (KeyError("x"), 1, "unforeseen KeyError: 'x' (SDLM_DEBUG=1 shows where)"),
        (MemoryError(), 2, "--batch-tokens"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "crop"),
        (OSError(errno.ENOSPC, "No space left", "run/samples.txt"), 2, "run/samples.txt: No space"),
        (OSError(errno.EACCES, "Permission denied", "x"), 1, "unforeseen PermissionError"),
    ],
)  # fmt: skip
def test_the_last_line(error, code, words, capsys):
    found, said = ended(error, capsys)
    assert found == code
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_a_traceback_is_there_for_who_asks(capsys, monkeypatch):
    monkeypatch.setenv("SDLM_DEBUG", "1")
    code, said = ended(KeyError("x"), capsys)
    assert code == 1
    assert "Traceback" in said
    assert said.strip().splitlines()[-1].startswith("sdlm: unforeseen KeyError")
