"""Mojo test files as pytest items, all of them in one program.

The compiler takes seconds before it looks at a file and a fraction of one
after, so the files of a run are modules of one program, which runs one of them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHOICE = "KVCACHE_MOJO_TEST"
"""Names the file that the program runs."""

_MAIN = """
from std.os import getenv
{imports}

def main() raises:
    var name = getenv("{choice}")
{cases}
    raise Error("wanted the name of a Mojo test file, got ", name)
"""


def mojo_command() -> str | None:
    """Returns the compiler of this Python's environment, else the PATH's."""
    beside = Path(sys.executable).parent / "mojo"
    return str(beside) if beside.exists() else shutil.which("mojo")


def mojo_environment() -> dict[str, str]:
    """Returns what the compiler is to see of this process's environment.

    Not what native code in this process told Python by `setenv`.
    """
    return {k: v for k, v in os.environ.items() if k[:6] != "PYTHON"}


class MojoProgram:
    """Test files that are compiled together, on first use.

    Asserts are on, and a warning is an error: of any file, to all of them.

    Args:
        files: Their names differ; the `main` of each runs a `TestSuite`.
    """

    def __init__(self, files: list[Path]) -> None:
        """Compiles nothing yet."""
        self._files = files
        self._folder = tempfile.TemporaryDirectory()
        self._build: subprocess.CompletedProcess[str] | None = None

    def run(self, name: str) -> str | None:
        """Runs the file of a name; returns what it says if it fails."""
        program = Path(self._folder.name) / "tests"
        if self._build is None:
            self._build = self._compile(program)
        run = self._build
        if run.returncode == 0:
            chosen = {**mojo_environment(), CHOICE: name}
            run = _run(str(program), environment=chosen)
        return None if run.returncode == 0 else run.stdout + run.stderr

    def _compile(self, program: Path) -> subprocess.CompletedProcess[str]:
        names = [file.stem for file in self._files]
        cases = (
            f'    if name == "{name}":\n        return {name}.main()'
            for name in names
        )
        source = program.with_suffix(".mojo")
        source.write_text(
            _MAIN.format(
                imports="\n".join(f"import {name}" for name in names),
                choice=CHOICE,
                cases="\n".join(cases),
            )
        )
        folders = [ROOT / "mojo", *{file.parent for file in self._files}]
        mojo = mojo_command()
        assert mojo is not None, "wanted the mojo compiler, found none"
        return _run(
            *(mojo, "build", "--Werror", "-D", "ASSERT=all"),
            *(word for folder in folders for word in ("-I", str(folder))),
            *(str(source), "-o", str(program)),
            environment=mojo_environment(),
        )


def _run(
    *command: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )


class MojoFile(pytest.File):
    """A Mojo file whose `main` runs a `TestSuite`."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yields the file as one item."""
        yield MojoItem.from_parent(self, name=self.path.stem)


class MojoItem(pytest.Item):
    """One run of a Mojo test file."""

    def runtest(self) -> None:
        """Fails with what the compiler or the suite printed."""
        failure = _program_of(self.session).run(self.name)
        if failure is not None:
            pytest.fail(failure, pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Returns what the report's heading says."""
        return self.path, None, f"mojo: {self.name}"


_PROGRAM = pytest.StashKey[MojoProgram]()


def _program_of(session: pytest.Session) -> MojoProgram:
    """Returns the program of a run's Mojo files."""
    if _PROGRAM not in session.stash:
        items = [item for item in session.items if isinstance(item, MojoItem)]
        session.stash[_PROGRAM] = MojoProgram([item.path for item in items])
    return session.stash[_PROGRAM]
