"""Where the Mojo package of the device side is.

The wheel carries the sources, since a precompiled package fits one compiler
only. A checkout has a link in the same place.
"""

import functools
import hashlib
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

from kvcache.cache_folder import cache_folder
from kvcache.errors import KVCacheError


class MojoCompileError(KVCacheError, RuntimeError):
    """The Mojo sources do not compile."""


def mojo_package() -> Path:
    """Returns the folder of the Mojo sources.

    Its name is `kvcache`, as that is how Mojo names a package; `mojo run -I`
    takes the folder above it.

    Returns:
        The folder's absolute path, links resolved.

    Raises:
        FileNotFoundError: If the folder or its `__init__.mojo` is absent.
    """
    package = Path(__file__).parent / "_mojo" / "kvcache"
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
    folder = cache_folder() / "mojo" / _digest(package)
    target = folder / "kvcache.mojoc"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _precompile(package, target)
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


def _precompile(package: Path, target: Path) -> None:
    """Compiles beside the target, then renames: no one sees half a file."""
    from mojo.run import subprocess_run_mojo

    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        # The compiler takes the package's name from the file's.
        staged = Path(temporary) / target.name
        run: subprocess.CompletedProcess[str] = subprocess_run_mojo(
            ["precompile", str(package), "-o", str(staged)],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise MojoCompileError(f"{package} does not compile: {run.stderr}")
        staged.replace(target)
