"""Ways to write the keys and values of tokens into scattered slots."""

from collections.abc import Callable

import torch
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef

from kvcache import ops
from kvcache.graphs import store_graph
from kvcache.pools import KVPool

NUM_SLOTS = 1 << 17
NUM_HEADS, HEAD_DIM = 8, 128
DTYPE = torch.bfloat16
PAGE_SIZE = 16

Run = Callable[[], object]


def compile_store() -> Model:
    """Compiles the store kernel for one layer of pages."""
    types = ops.CacheInputTypes(
        dtype=DType.bfloat16,
        num_layers=1,
        page_size=PAGE_SIZE,
        num_kv_heads=NUM_HEADS,
        head_dim=HEAD_DIM,
        device=DeviceRef.CPU(),
    )
    return InferenceSession(devices=[CPU()]).load(store_graph(types))


class Writes:
    """The same rows, slots and pool for every way.

    Only the kernel, which takes pages, has a pool of its own.

    Args:
        store: The compiled kernel, which then is the only way.
    """

    def __init__(self, store: Model | None = None) -> None:
        """Makes the pools."""
        self._store = store
        sizes = (NUM_SLOTS - 1, 1, NUM_HEADS, HEAD_DIM)
        self._pool = KVPool(*sizes, device="cpu", dtype=DTYPE)
        shape = (NUM_SLOTS // PAGE_SIZE, 2, 1, PAGE_SIZE, NUM_HEADS, HEAD_DIM)
        self._blocks = torch.zeros(shape, dtype=DTYPE)

    def runs(self, num_tokens: int) -> dict[str, Run]:
        """Returns what writes so many tokens, by who does it."""
        draw = torch.Generator().manual_seed(num_tokens)
        order = torch.randperm(NUM_SLOTS - 1, generator=draw)
        slots = (order[:num_tokens] + 1).to(torch.int32)
        shape = (num_tokens, NUM_HEADS, HEAD_DIM)
        k, v = (torch.randn(shape, generator=draw).to(DTYPE) for _ in "kv")
        runs: dict[str, Run] = {
            "kvcache": lambda: self._pool.set_kv_buffer(0, slots, k, v),
            "torch index_put_": lambda: self._put(slots, k, v),
            "torch index_copy_": lambda: self._copy(slots, k, v),
            "torch index_copy_ of 16 bytes": lambda: self._wide(slots, k, v),
            "memcpy": lambda: self._straight(k, v),
        }
        if self._store:
            runs = {"kvcache store kernel": lambda: self._kernel(slots, k, v)}
        self._check(runs, slots, k, v)
        return runs

    def _torch(self) -> list[torch.Tensor]:
        buffers = self._pool.get_kv_buffer(0)
        return [each.view(NUM_SLOTS, -1) for each in buffers]

    def _put(self, slots: torch.Tensor, *given: torch.Tensor) -> None:
        for buffer, rows in zip(self._torch(), given, strict=True):
            buffer.index_put_((slots,), rows.view(len(slots), -1))

    def _copy(self, slots: torch.Tensor, *given: torch.Tensor) -> None:
        slots = slots.long()
        for buffer, rows in zip(self._torch(), given, strict=True):
            buffer.index_copy_(0, slots, rows.view(len(slots), -1))

    def _wide(self, slots: torch.Tensor, *given: torch.Tensor) -> None:
        slots, wide = slots.long(), torch.complex128
        for buffer, rows in zip(self._torch(), given, strict=True):
            words = rows.view(len(slots), -1).view(wide)
            buffer.view(wide).index_copy_(0, slots, words)

    def _straight(self, *given: torch.Tensor) -> None:
        for buffer, rows in zip(self._torch(), given, strict=True):
            buffer[: len(rows)].copy_(rows.view(len(rows), -1))

    def _kernel(self, slots: torch.Tensor, *given: torch.Tensor) -> None:
        """Writes each token as a sequence of its own, in one page."""
        unsigned, num_tokens = torch.uint32, len(slots)
        pages = torch.div(slots, PAGE_SIZE, rounding_mode="floor")
        inputs = (
            self._blocks,
            (slots % PAGE_SIZE).view(unsigned),
            pages.view(unsigned).unsqueeze(1),
            torch.tensor([[1, PAGE_SIZE]], dtype=unsigned),
            *given,
            torch.arange(num_tokens + 1, dtype=torch.int32).view(unsigned),
        )
        assert self._store
        self._store.execute(*map(Buffer.from_dlpack, inputs))

    def _check(
        self,
        runs: dict[str, Run],
        slots: torch.Tensor,
        *given: torch.Tensor,
    ) -> None:
        """Holds what every way wrote against the rows."""
        where = slots.long()
        for who, run in runs.items():
            for buffer in self._pool.get_kv_buffer(0):
                buffer[where] = 0
            if who == "memcpy":
                continue
            run()
            found = list(self._pool.get_kv_buffer(0))
            if who == "kvcache store kernel":
                pages = self._blocks.transpose(0, 1).squeeze(2)
                shape = (NUM_SLOTS, NUM_HEADS, HEAD_DIM)
                found = [each.reshape(shape) for each in pages]
            for buffer, rows in zip(found, given, strict=True):
                assert torch.equal(buffer[where], rows), who
