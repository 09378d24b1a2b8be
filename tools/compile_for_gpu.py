"""Compiles the kernels' graphs for a GPU that need not be there.

GPU code that does not build is seen on any machine; that it is right is for
`make test-gpu`. Without arguments it compiles a few configurations and keeps
nothing. With a folder it writes there what `tests/gpu` loads on a machine
without a compiler, from the folder that `KVCACHE_MEF_FOLDER` names.
"""

import argparse
import gc
import time
from pathlib import Path

from max.driver import (
    Accelerator,
    set_virtual_cpu_target,
    set_virtual_device_api,
    set_virtual_device_count,
    set_virtual_device_target_arch,
)
from max.engine import CompiledModel, InferenceSession
from max.engine.api import AssertLevel
from max.graph import DeviceRef
from tests.kernels.build import module_of
from tests.kernels.configuration import (
    LARGE_PAGES,
    ONNX_FLOAT32,
    Configuration,
)
from tests.kernels.models import MEF_NAME
from tests.kernels.quantized_configuration import COMPILED, QUANTIZED

from kvcache.ops import precompiled_package

FEW = (ONNX_FLOAT32, LARGE_PAGES, *QUANTIZED[:3])
"""Page sizes below and at a GPU block's threads, and each type of 8 bits."""


def virtual_hopper() -> Accelerator:
    """Makes MAX believe in one H100; call before it makes any device."""
    set_virtual_device_api("cuda")
    set_virtual_device_target_arch("sm_90a")
    set_virtual_device_count(1)
    set_virtual_cpu_target("x86-64-v3")
    return Accelerator()


def compiled(
    session: InferenceSession, configurations: tuple[Configuration, ...]
) -> CompiledModel:
    """Compiles every op for each configuration, asserts on."""
    session.set_mojo_assert_level(AssertLevel.ALL)
    return session.compile(
        module_of(configurations, DeviceRef.GPU()),
        custom_extensions=[precompiled_package()],
    )


def main() -> None:
    """Compiles, and writes where a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    folder: Path | None = parser.parse_args().folder
    configurations = COMPILED if folder else FEW
    session = InferenceSession(devices=[virtual_hopper()])
    start = time.perf_counter()
    kernels = compiled(session, configurations)
    print(f"{time.perf_counter() - start:.1f} s:", *configurations, sep="\n  ")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / MEF_NAME
        kernels.export_mef(path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    # MAX 26.7 aborts now and then where a session lives until Python's end.
    del kernels, session
    gc.collect()


if __name__ == "__main__":
    main()
