"""Mojo programs that check a GPU, built on the spot or beforehand."""

import os
import subprocess
from pathlib import Path

from .models import MEF_FOLDER

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAMS = ("tma_tiles",)
"""The programs of `tests/gpu`; a test file runs each."""


def build(name: str, folder: Path, *, accelerator: str | None = None) -> Path:
    """Builds a program.

    Args:
        name: The file in `tests/gpu`, without its ending.
        folder: Where to.
        accelerator: The GPU's architecture; that of this machine by default.

    Returns:
        The executable.
    """
    from mojo.run import subprocess_run_mojo

    target = folder / name
    options = [f"--target-accelerator={accelerator}"] if accelerator else []
    subprocess_run_mojo(
        [
            *("build", "--Werror", *options, "-I", str(ROOT / "mojo")),
            *(str(ROOT / "tests" / "gpu" / f"{name}.mojo"), "-o", str(target)),
        ],
        check=True,
    )
    return target


def output_of(name: str, folder: Path) -> str:
    """Runs a program and returns what it prints.

    Args:
        name: The program.
        folder: Where to build it, where it is not built already.
    """
    built = os.environ.get(MEF_FOLDER)
    program = Path(built) / name if built else build(name, folder)
    run = subprocess.run(
        [program], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout
