"""The Mojo sources, and what is compiled of them on a user's machine.

The wheel carries the sources, since a precompiled package fits one compiler
only. A checkout has links in the same place.
"""

import functools
import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from kvcache.cache_folder import cache_folder
from kvcache.errors import KVCacheError
from kvcache.extension_build import EXTENSION, build_arguments


class MojoCompileError(KVCacheError, RuntimeError):
    """The Mojo sources do not compile."""


def mojo_package(name: str = "kvcache") -> Path:
    """Returns a folder of Mojo sources.

    Mojo names a package as its folder; `mojo run -I` takes the one above.

    Args:
        name: `kvcache`, the device side, or `kvcore`, the host's bookkeeping.

    Returns:
        The folder's absolute path, links resolved.

    Raises:
        FileNotFoundError: If the folder or its `__init__.mojo` is absent.
    """
    package = Path(__file__).parent / "_mojo" / name
    if not (package / "__init__.mojo").is_file():
        message = f"wanted the Mojo sources in {package}, found none"
        raise FileNotFoundError(message)
    return package.resolve()


@functools.cache
def precompiled_package() -> Path:
    """Returns the precompiled package, to give to `custom_extensions`.

    MAX would precompile the sources again for every graph. This does it once
    for each state of the sources and keeps the result in `cache_folder`.

    Returns:
        The `.mojoc` file.

    Raises:
        FileNotFoundError: If the sources are absent.
        MojoCompileError: If they do not compile.
    """
    package = mojo_package()
    return _compiled(package, "kvcache.mojoc", _precompile_arguments)


def _precompile_arguments(package: Path, output: Path) -> list[str]:
    return ["precompile", str(package), "-o", str(output)]


def core_extension() -> Path:
    """Returns the host's bookkeeping as a Python extension module.

    A wheel brings it built for its sources. Elsewhere it is built once for
    each state of the sources and kept in `cache_folder`, which takes a C
    compiler to link.

    Returns:
        The shared library.

    Raises:
        FileNotFoundError: If the sources are absent.
        MojoCompileError: If they do not compile, or there is no C compiler.
    """
    built = Path(__file__).parent / "_mojo" / EXTENSION
    if built.is_file():
        return built
    return _compiled(mojo_package("kvcore"), EXTENSION, build_arguments)


def _compiled(
    package: Path, name: str, arguments: Callable[[Path, Path], list[str]]
) -> Path:
    """Returns what the compiler makes of a package, made once."""
    folder = cache_folder() / "mojo" / _digest(package)
    target = folder / name
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _compile(package, target, arguments)
    return target


def _digest(package: Path) -> str:
    """Returns what names a state of the sources and of the compiler."""
    digest = hashlib.sha256(version("mojo-compiler").encode())
    digest.update(version("max").encode())
    for source in sorted(package.rglob("*.mojo")):
        name = source.relative_to(package).as_posix()
        content = source.read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _compile(
    package: Path, target: Path, arguments: Callable[[Path, Path], list[str]]
) -> None:
    """Compiles beside the target, then renames: no one sees half a file."""
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        # The compiler takes the package's name from the file's.
        staged = Path(temporary) / target.name
        _run(package, arguments(package, staged))
        staged.replace(target)


def precompile(package: Path, target: Path, *, include: Path) -> None:
    """Precompiles a package that imports another one.

    Args:
        package: The folder of its sources.
        target: The `.mojoc` file to write, of the package's name.
        include: The folder of what it imports, precompiled.

    Raises:
        MojoCompileError: If it does not compile.
    """
    arguments = _precompile_arguments(package, target)
    _run(package, [*arguments, "-I", str(include)])


def _run(package: Path, arguments: list[str]) -> None:
    from mojo.run import subprocess_run_mojo

    run: subprocess.CompletedProcess[str] = subprocess_run_mojo(
        arguments, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise MojoCompileError(f"{package} does not compile: {run.stderr}")
