"""Compiled kernels, called as `kvcache.reference` is."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from max.driver import CPU, Buffer, Device
from max.engine import InferenceSession, Model
from max.engine.api import AssertLevel

from .batch import Batch, Indices, Pages
from .buffers import Array, to_array, to_buffer
from .configuration import Configuration, Rotation
from .rules import CAUSAL, Rules

if TYPE_CHECKING:
    from max.graph import Module

MEF_FOLDER = "KVCACHE_MEF_FOLDER"
"""Names the folder of compiled graphs, for a machine without a compiler."""

MEF_NAME = "kernels.mef"

WEIGHT_ERROR = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Half a unit in the last place of the numbers that are just above one."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The graphs of one configuration."""

    configuration: Configuration
    models: Mapping[str, Model] = field(repr=False)
    device: Device

    def store(
        self,
        pool: Buffer,
        keys: Array,
        values: Array,
        batch: Batch,
        pages: Pages,
    ) -> None:
        """Writes the new tokens, in place."""
        self.run(
            "store",
            *(pool, *self.tables(batch, pages)),
            *(self.elements(keys), self.elements(values)),
            self.indices(batch.input_row_offsets),
        )

    def store_to_layer(
        self,
        pool: Buffer,
        rows: Array,
        batch: Batch,
        pages: Pages,
        *,
        layer: int,
    ) -> None:
        """Writes the same rows as keys and values of a layer, in place."""
        self.models["store_to_layer"].execute(
            *(pool, *self.tables(batch, pages)),
            *(self.elements(rows), self.elements(rows)),
            self.indices(batch.input_row_offsets),
            to_buffer(np.array(layer, np.uint32), CPU()),
        )

    def rope_store(
        self,
        pool: Buffer,
        qkv: Array,
        freqs: Array,
        batch: Batch,
        pages: Pages,
        *,
        rotation: Rotation,
    ) -> Array:
        """Writes the new tokens, in place; returns the queries."""
        (queries,) = self.run(
            str(rotation),
            *(pool, *self.tables(batch, pages)),
            *(self.elements(qkv), to_buffer(freqs, self.device)),
            self.indices(batch.input_row_offsets),
        )
        return to_array(queries)

    def rope_shift(
        self,
        pool: Buffer,
        freqs: Array,
        shifts: Indices,
        *,
        rotation: Rotation,
    ) -> None:
        """Turns keys, in place."""
        self.run(
            f"shift_{rotation}",
            *(pool, to_buffer(freqs, self.device), self.indices(shifts)),
        )

    def gather(
        self,
        pool: Buffer,
        keys: Array,
        values: Array,
        batch: Batch,
        pages: Pages,
    ) -> tuple[Array, Array]:
        """Returns `keys` and `values` with the sequences' tokens in them."""
        outputs = self.elements(keys), self.elements(values)
        unused = np.full(len(batch.lengths), 2**32 - 1, np.uint32)
        _, *tables = self.tables(batch, pages)
        self.run(
            "gather",
            *(pool, self.indices(unused), *tables),
            *(*outputs, self.indices(batch.context_row_offsets)),
        )
        return to_array(outputs[0]), to_array(outputs[1])

    def copy_pages(self, pool: Buffer, pairs: Indices) -> None:
        """Copies pages, in place."""
        self.run("copy_pages", pool, self.indices(pairs))

    def attention(
        self,
        pool: Buffer,
        queries: Array,
        batch: Batch,
        pages: Pages,
        *,
        rules: Rules = CAUSAL,
        sinks: Array | None = None,
    ) -> Array:
        """Returns the weighted values."""
        (output,) = self.run(
            str(rules),
            *(pool, *self.tables(batch, pages)),
            *(self.elements(queries), self.indices(batch.input_row_offsets)),
            *([] if sinks is None else [to_buffer(sinks, self.device)]),
        )
        return to_array(output)

    def weight_error(self, batch: Batch) -> float:
        """Returns what part of itself a weight of the attention may err by.

        A GPU's prefill kernel rounds weights to the type that is multiplied,
        which for codes is float16; its decode kernel does so for codes only.
        """
        configuration = self.configuration
        if self.device.is_host or not configuration.has_prefill_kernel:
            return 0
        if configuration.kept is not None:
            return WEIGHT_ERROR["float16"]
        is_decode = int(batch.max_lengths[0, 0]) <= 1
        if is_decode and configuration.has_decode_kernel:
            return 0
        return WEIGHT_ERROR[configuration.dtype]

    def elements(self, array: Array) -> Buffer:
        """Copies numbers of the pool's type to the device."""
        return to_buffer(array, self.device, self.configuration.dtype)

    def indices(self, array: Indices) -> Buffer:
        """Copies indices to the device."""
        return to_buffer(array, self.device)

    def tables(self, batch: Batch, pages: Pages) -> list[Buffer]:
        """Returns the cache's inputs behind the pool."""
        return [
            self.indices(batch.cache_lengths),
            self.indices(pages.lookup_table),
            to_buffer(batch.max_lengths, CPU()),
        ]

    def run(self, op: str, *inputs: Buffer) -> list[Buffer]:
        """Runs the configuration's graph of an op."""
        return self.models[f"{self.configuration}_{op}"].execute(*inputs)


@dataclass(frozen=True, slots=True)
class CompiledKernels:
    """The graphs of many configurations, on one device."""

    models: Mapping[str, Model]
    device: Device

    def of(self, configuration: Configuration) -> Kernels:
        return Kernels(configuration, self.models, self.device)

    def increment(self, lengths: Indices, offsets: Indices) -> Array:
        """Returns the lengths with each sequence's new tokens added."""
        model = self.models["increment_cache_lengths"]
        (output,) = model.execute(
            to_buffer(lengths, self.device), to_buffer(offsets, self.device)
        )
        return to_array(output)


def kernels_on(
    device: Device, configurations: Iterable[Configuration]
) -> CompiledKernels:
    """Compiles the graphs, asserts on, or loads them where they are compiled.

    Args:
        device: Where they run.
        configurations: What to compile for; files have the covering list.
    """

    def build() -> "Module":
        from max.graph import DeviceRef

        from .build import module_of

        return module_of(configurations, DeviceRef.from_device(device))

    return loaded(device, MEF_NAME, build)


def loaded(
    device: Device,
    mef_name: str,
    build: "Callable[[], Module]",
    *,
    extensions: Callable[[], list[Path]] = list,
) -> CompiledKernels:
    """Compiles a module, asserts on, or loads what a file has of it.

    Args:
        device: Where its graphs run.
        mef_name: The file in the folder of compiled graphs, if there is one.
        build: Builds the module.
        extensions: Compiles what it needs beside the package.
    """
    session = InferenceSession(devices=[device])
    session.set_mojo_assert_level(AssertLevel.ALL)
    if folder := os.environ.get(MEF_FOLDER):
        models = session.load_all(Path(folder) / mef_name)
    else:
        from kvcache.ops import precompiled_package

        models = session.load_all(
            build(),
            custom_extensions=[precompiled_package(), *extensions()],
        )
    return CompiledKernels(models, device)
