"""All that tests of the kernels run on the CPU, in two modules.

A module costs seconds before the compiler looks at a graph. So what tests of
managers run is beside the kernels, and sparse attention, flows, what flows are
as classes, and MAX's attention are in one.
"""

from pathlib import Path
from typing import Any

from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession
from max.engine.api import AssertLevel
from max.graph import DeviceRef, Graph, Module

from kvcache import ops
from kvcache.graphs.attention import attention_graph
from kvcache.graphs.store import store_graph
from kvcache.summaries import Summaries, SummaryField
from managers import REPLICAS, make, make_replicas

from . import flows, indexers, max_attention, sparse_configuration, unfused
from .build import max_attention_module, module_of, sparse_module
from .flow_configuration import FLOWS, STORED_ON_CPU
from .models import MEF_NAME, CompiledKernels, loaded
from .quantized_configuration import COMPILED

SUMMARISED: dict[str, Any] = {
    "dtype": DType.float32,
    "num_layers": 3,
    "page_size": 32,
    "num_kv_heads": 2,
    "head_dim": 8,
    "device": DeviceRef.CPU(),
    "summaries": Summaries(
        16,
        (
            SummaryField("centroid", 1, 8, "float32"),
            SummaryField("envelope", 2, 8, "float16"),
        ),
    ),
}
"""A cache whose blocks have summaries, which kernels are to leave alone."""


def kernels_on_host() -> CompiledKernels:
    """Compiles all of it, asserts on."""
    return loaded(CPU(), MEF_NAME, host_module)


def sparse_kernels_on_host() -> CompiledKernels:
    """Compiles sparse attention, flows and MAX's attention, asserts on."""
    return loaded(
        CPU(),
        sparse_configuration.MEF_NAME,
        _module_with_classes,
        extensions=lambda: [
            *flows.extensions_of(FLOWS),
            *indexers.extensions_of_indexers(),
            *unfused.extensions_of_unfused(),
        ],
    )


def _module_with_classes() -> Module:
    module = _sparse_module()
    indexers.add_indexers(module, DeviceRef.CPU())
    unfused.add_unfused(module, DeviceRef.CPU())
    return module


def _sparse_module() -> Module:
    device = DeviceRef.CPU()
    module = sparse_module(sparse_configuration.CASES, device)
    flows.flow_module(FLOWS, device, module, stored=STORED_ON_CPU)
    return max_attention_module(max_attention.ON_CPU, device, module=module)


def write_kernels(folder: Path) -> None:
    """Writes what `loaded` reads where a folder is named."""
    session = InferenceSession(devices=[CPU()])
    session.set_mojo_assert_level(AssertLevel.ALL)
    compiled = session.compile(
        host_module(), custom_extensions=[ops.precompiled_package()]
    )
    compiled.export_mef(folder / MEF_NAME)


def host_module() -> Module:
    """Builds the graphs of all configurations, and the small ones."""
    module = module_of(COMPILED, DeviceRef.CPU())
    _add_one_manager(module)
    _add_replicas(module)
    cache = ops.CacheInputTypes(**SUMMARISED)
    store_graph(cache, layer=1, name="summarised_store", module=module)
    attention_graph(
        cache,
        num_q_heads=4,
        scale=0.3,
        layer=1,
        name="summarised_attention",
        module=module,
    )
    return module


def _add_one_manager(module: Module) -> None:
    """Adds a graph of a manager's symbols that reads each of them."""
    (symbols,) = make().input_symbols()
    with Graph(
        "inputs_of_one", input_types=list(symbols), module=module
    ) as graph:
        blocks, lengths, table, max_lengths = graph.inputs
        null_page = blocks.buffer[...][-1, 0, 0, 0, 0, 0]
        longest = max_lengths.tensor.to(DeviceRef.CPU())[0, 1]
        graph.output(lengths.tensor, table.tensor, longest, null_page)


def _add_replicas(module: Module) -> None:
    """Adds a graph of all symbols of replicas that gives back the tensors."""
    symbols = make_replicas(*REPLICAS, num_pages=20).input_symbols()
    types = [symbol for each in symbols for symbol in each]
    with Graph("inputs_of_all", input_types=types, module=module) as graph:
        graph.output(
            *(value.tensor for i, value in enumerate(graph.inputs) if i % 4)
        )
