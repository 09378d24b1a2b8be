"""Generated Mojo packages: written once, compiled once, checked each time."""

import shutil
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from kvcache.compiler.module_files import digest
from kvcache.compiler.mojo_backend.graph_ops import NAME
from kvcache.mojo_sources import precompile, precompiled_package

CHECKSUM = ".sha256"
"""The end of the name of a file's checksum."""


def compiled_package(text: str, folder: Path) -> tuple[str, Path]:
    """Returns a generated package, compiled.

    It is compiled against the runtime as it is now, and again when that or
    the compiler changes. What lies in the folder and is not what was written
    there is made again.

    Args:
        text: Its source, with `NAME` where its name is to be.
        folder: Where generated packages are; made if missing.

    Returns:
        The package's name, and its `.mojoc` file.

    Raises:
        MojoCompileError: If it does not compile.
    """
    runtime = precompiled_package()
    # The folder of the runtime is named after its state and the compiler's.
    name = f"flow_{digest(text + runtime.parent.name)}"
    source = text.replace(NAME, name).encode()
    home = folder / name
    target = home / f"{name}.mojoc"
    checked = home / f"{name}.mojo"
    if _holds(checked, source) and is_whole(target):
        return name, target
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home) as temporary:
        staged = Path(temporary)
        package = staged / name
        package.mkdir()
        (package / "__init__.mojo").write_bytes(source)
        precompile(package, staged / target.name, include=runtime.parent)
        (staged / checked.name).write_bytes(source)
        seal(staged / target.name)
        for each in (f"{target.name}{CHECKSUM}", target.name, checked.name):
            _replace(staged / each, home / each)
    return name, target


def seal(file: Path) -> None:
    """Writes a file's checksum beside it."""
    _checksum_of(file).write_text(_digest(file), "ascii")


def is_whole(file: Path) -> bool:
    """Whether a plain file is what it was when it was sealed."""
    checksum = _checksum_of(file)
    if not (_is_plain(file) and _is_plain(checksum)):
        return False
    return checksum.read_bytes() == _digest(file).encode()


def _checksum_of(file: Path) -> Path:
    return file.with_name(file.name + CHECKSUM)


def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def _is_plain(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _holds(file: Path, content: bytes) -> bool:
    return _is_plain(file) and file.read_bytes() == content


def _replace(source: Path, target: Path) -> None:
    """Puts a file in the place of whatever is there."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    source.replace(target)
