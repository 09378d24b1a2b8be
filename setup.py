"""Builds the host's bookkeeping into the wheel.

Where it cannot be built (no Mojo, no C compiler to link with) the wheel goes
without it, and kvcache builds it on the user's machine or does its bookkeeping
in plain Python.
"""

import runpy
import warnings
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
HOW = runpy.run_path(str(ROOT / "python/kvcache/extension_build.py"))


class BuildWithExtension(build_py):
    """Copies the package and builds the extension module beside it."""

    def run(self) -> None:
        """Builds."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "kvcache" / "_mojo"
        try:
            build(folder / HOW["EXTENSION"])
        except Exception as error:  # noqa: BLE001  (whatever the reason is)
            warnings.warn(f"the wheel goes without {error}", stacklevel=1)


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Returns the tag: the module needs no particular Python."""
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """A distribution that is not the same on every platform."""

    def has_ext_modules(self) -> bool:
        """Returns that there is a compiled module."""
        return True


def build(module: Path) -> None:
    """Builds the module."""
    from mojo.run import subprocess_run_mojo  # noqa: PLC0415  (may be absent)

    done = subprocess_run_mojo(
        HOW["build_arguments"](ROOT / "mojo" / "kvcore", module),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module.name}: {done.stderr}")
    HOW["forget_build_place"](module)


setup(
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildWithExtension, "bdist_wheel": PlatformWheel},
)
