"""Compiles the kernels' graphs for a GPU that need not be there.

GPU code that does not build is seen on any machine; that it is right is for
`make test-gpu`. Without arguments it compiles a few configurations of our own
kernels and keeps nothing; MAX's attention over our views takes minutes. With a
folder it writes there what `tests/gpu` loads on a machine
without a compiler, from the folder that `KVCACHE_MEF_FOLDER` names.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from max.driver import (
    Accelerator,
    set_virtual_cpu_target,
    set_virtual_device_api,
    set_virtual_device_count,
    set_virtual_device_target_arch,
)
from max.engine import InferenceSession
from max.engine.api import AssertLevel
from max.graph import DeviceRef, Module
from tests.kernels import (
    flows,
    max_attention,
    programs,
    sparse_configuration,
)
from tests.kernels.build import (
    max_attention_module,
    module_of,
    sparse_module,
)
from tests.kernels.configuration import (
    LARGE_PAGES,
    ONNX_FLOAT32,
)
from tests.kernels.flow_configuration import ON_GPU as FLOWS_ON_GPU
from tests.kernels.flow_configuration import SHIPPED
from tests.kernels.latent_configuration import LATENTS, QUANTIZED_LATENTS
from tests.kernels.models import MEF_NAME
from tests.kernels.quantized_configuration import (
    DECODING_QUANTIZED,
    ON_GPU,
    QUANTIZED,
)
from tests.kernels.rules import CAUSAL, Rules

from kvcache.ops import precompiled_package

FEW_SPARSE = (
    sparse_configuration.CASES[0],
    sparse_configuration.CODES_OF_HEADS,
)
"""Attention to chosen blocks by each kernel, plain and over codes."""

FEW_FLOWS = SHIPPED[:1]
"""Code that a flow is compiled to, both sides."""

HOPPER = "sm_90a"
"""The architecture that all is compiled for."""

FEW = (
    replace(
        ONNX_FLOAT32,
        rules=(Rules(window=9, sink_tokens=4, has_sinks=True, softcap=5),),
        rotations=ONNX_FLOAT32.rotations[:1],
    ),
    replace(LARGE_PAGES, rules=(CAUSAL,)),
    replace(QUANTIZED[1], rules=(CAUSAL,)),
    replace(DECODING_QUANTIZED[-1], rules=DECODING_QUANTIZED[-1].rules[-1:]),
    replace(LATENTS[-1], rules=LATENTS[-1].rules[-1:], rotations=()),
    QUANTIZED_LATENTS[-1],
)
"""Every attention kernel, plain and over codes, with all rules or none; the
kernels over latents."""


def virtual_hopper() -> Accelerator:
    """Makes MAX believe in one H100; call before it makes any device."""
    set_virtual_device_api("cuda")
    set_virtual_device_target_arch(HOPPER)
    set_virtual_device_count(1)
    set_virtual_cpu_target("x86-64-v3")
    return Accelerator()


def compile_module(
    session: InferenceSession,
    module: Module,
    target: Path | None,
    extensions: Sequence[Path] = (),
) -> None:
    """Compiles every graph of a module, asserts on.

    Args:
        session: Compiles.
        module: The graphs.
        target: The file to write, if any.
        extensions: What it needs beside the package, compiled.
    """
    start = time.perf_counter()
    model = session.compile(
        module, custom_extensions=[precompiled_package(), *extensions]
    )
    print(f"{time.perf_counter() - start:.1f} s for the module")
    if target:
        model.export_mef(target)
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def compile_few(session: InferenceSession, device: DeviceRef) -> None:
    """Compiles a few configurations of each kernel, in one module."""
    module = module_of(FEW, device)
    sparse_module(FEW_SPARSE, device, module=module)
    flows.flow_module(FEW_FLOWS, device, module)
    compile_module(session, module, None, flows.extensions_of(FEW_FLOWS))


def write_all(
    session: InferenceSession, device: DeviceRef, folder: Path
) -> None:
    """Writes what `tests/gpu` loads to a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = {
        MEF_NAME: module_of(ON_GPU, device),
        sparse_configuration.MEF_NAME: sparse_module(
            sparse_configuration.ON_GPU, device
        ),
        max_attention.MEF_NAME: max_attention_module(
            max_attention.ON_GPU, device
        ),
    }
    for name, module in modules.items():
        compile_module(session, module, folder / name)
    compile_module(
        session,
        flows.flow_module(FLOWS_ON_GPU, device),
        folder / flows.MEF_NAME,
        flows.extensions_of(FLOWS_ON_GPU),
    )


def main() -> None:
    """Compiles, and writes where a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    folder: Path | None = parser.parse_args().folder
    device = DeviceRef.GPU()
    session = InferenceSession(devices=[virtual_hopper()])
    session.set_mojo_assert_level(AssertLevel.ALL)
    if folder:
        write_all(session, device, folder)
    else:
        compile_few(session, device)
    # MAX 26.7 aborts now and then where a session lives until Python's end.
    del session
    gc.collect()
    with tempfile.TemporaryDirectory() as temporary:
        for program in programs.PROGRAMS:
            where = folder or Path(temporary)
            print(programs.build(program, where, accelerator=HOPPER))


if __name__ == "__main__":
    main()
