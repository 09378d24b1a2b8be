"""Where the Mojo package of the device side is.

The wheel carries the sources, since a precompiled package fits one compiler
only. A checkout has a link in the same place.
"""

from pathlib import Path


def mojo_package() -> Path:
    """Returns the folder to give to a graph's `custom_extensions`.

    Its name is `kvcache`, as that is how Mojo names a package.

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
