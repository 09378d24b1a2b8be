"""How the host's bookkeeping becomes a Python extension module.

Needs nothing but the standard library: `setup.py` reads this file too.
"""

import platform
from pathlib import Path

EXTENSION = "_kvcore.so"
"""The file name of the extension module."""

RUN_PATH = "$ORIGIN/../../modular/lib"
"""Where it looks for Mojo's runtime, from `kvcache/_mojo` in site-packages."""

_TARGETS = {"x86_64": "x86-64-v3"}
"""Processors that the module runs on, by machine; any where none is named."""


def build_arguments(package: Path, output: Path) -> list[str]:
    """Returns what `mojo` is to be told.

    Args:
        package: The folder of the Mojo sources, `kvcore`.
        output: The module to write.
    """
    target = _TARGETS.get(platform.machine())
    return [
        "build",
        "--emit=shared-lib",
        *([f"--target-cpu={target}"] if target else []),
        "-I",
        str(package.parent),
        str(package / "extension.mojo"),
        *("-Xlinker", "-rpath", "-Xlinker", RUN_PATH),
        "-o",
        str(output),
    ]


def forget_build_place(module: Path) -> None:
    """Takes the building environment's folder out of a module's run path.

    The compiler puts it in front of ours. The string that the loader reads
    ends at its first zero byte, so a shorter one takes its place.

    Args:
        module: The module, changed in place.

    Raises:
        ValueError: If our run path is not in the module.
    """
    content = module.read_bytes()
    own = RUN_PATH.encode() + b"\0"
    end = content.find(own)
    if end < 0:
        raise ValueError(
            f"wanted a run path {RUN_PATH} in {module}, found none"
        )
    begin = content.rfind(b"\0", 0, end) + 1
    whole = content[begin : end + len(own)]
    module.write_bytes(
        content[:begin]
        + own.ljust(len(whole), b"\0")
        + content[end + len(own) :]
    )
