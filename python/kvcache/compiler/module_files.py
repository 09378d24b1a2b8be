"""Files of generated code, named by what is in them."""

import os
from hashlib import sha256
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType

DIGITS = 24
"""Digits of a digest in a name: 96 bits, far more than flows there are."""


def digest(text: str) -> str:
    """Returns what stands for a text in names."""
    return sha256(text.encode()).hexdigest()[:DIGITS]


def module_file(folder: str | Path, text: str, suffix: str) -> Path:
    """Returns a file that holds a text, written if it does not yet.

    Equal texts share a file, so nothing piles up. A file that holds anything
    else, or is none, is replaced. A reader sees the old or the new content,
    never a part, and of several writers any may come first.

    Args:
        folder: Where the file is to be, with or without `~`; made if missing.
        text: Its content.
        suffix: The end of its name, behind what the content gives.

    Returns:
        The file's absolute path.

    Raises:
        OSError: If the file can be neither read nor written.
    """
    given = Path(folder).expanduser()
    place = Path(os.path.abspath(given))  # noqa: PTH100  (resolve follows links)
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"kvcache_{digest(text)}{suffix}"
    content = text.encode()
    if not _holds(path, content):
        _replace(path, content)
    return path


def _holds(path: Path, content: bytes) -> bool:
    """Whether a plain file has the content; a link is somebody else's."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        return path.read_bytes() == content
    except PermissionError:
        return False


def _replace(path: Path, content: bytes) -> None:
    with NamedTemporaryFile(
        dir=path.parent, prefix=".writing_", delete=False
    ) as file:
        written = Path(file.name)
        try:
            file.write(content)
            file.flush()
            written.chmod(0o644)
            written.replace(path)
        except BaseException:
            written.unlink(missing_ok=True)
            raise


class _TextLoader(SourceLoader):
    """Loads a module from a text in memory, and from nothing else.

    A file may change behind a check, and bytecode beside it may be anybody's.
    """

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path

    def get_filename(self, fullname: str) -> str:
        """Returns what tracebacks call the file."""
        del fullname
        return self._path

    def get_data(self, path: str | bytes) -> bytes:
        """Returns the text.

        Raises:
            OSError: If another file is asked for, such as bytecode.
        """
        if path != self._path:
            raise OSError(f"wanted {self._path}, got {path!r}")
        return self._text.encode()


def module_of(text: str, path: str | Path) -> ModuleType:
    """Returns a module made from a text.

    Args:
        text: Python source.
        path: The file that holds it too; for tracebacks, and for what reads
            sources back.
    """
    loader = _TextLoader(text, str(path))
    spec = spec_from_loader(Path(path).stem, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
