"""Graphs of a manager's symbols take what the manager hands out."""

import numpy as np

from kernels.models import CompiledKernels
from managers import REPLICAS, claimed, make, make_replicas


def test_a_graph_of_the_symbols_takes_the_inputs(
    compiled_kernels: CompiledKernels,
) -> None:
    manager = make()
    batch = [claimed(manager, 40), claimed(manager, range(100, 103))]
    for request in batch:
        assert manager.maybe_reserve(request, 3)
    (inputs,) = manager.fetch(batch, 3)
    model = compiled_kernels.models["inputs_of_one"]
    lengths, table, longest, null_page = model.execute(*inputs)
    assert lengths.to_numpy().tolist() == [0, 0]
    np.testing.assert_array_equal(
        table.to_numpy(), inputs.lookup_table.to_numpy()
    )
    assert longest.to_numpy() == 40
    assert null_page.to_numpy() == 0.0


def test_a_graph_of_all_symbols_takes_all_inputs(
    compiled_kernels: CompiledKernels,
) -> None:
    manager = make_replicas(*REPLICAS, num_pages=20)
    batch = [
        claimed(manager, range(start, start + length), on=on)
        for start, length, on in ((0, 40, 0), (100, 3, 0), (200, 17, 2))
    ]
    model = compiled_kernels.models["inputs_of_all"]
    fetched = manager.fetch(batch)
    outputs = model.execute(*(buffer for each in fetched for buffer in each))
    wanted = [buffer for each in fetched for buffer in each[1:]]
    for output, buffer in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(output.to_numpy(), buffer.to_numpy())
