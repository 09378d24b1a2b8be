"""What a graph is fed with: buffers, and the types that they have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from max.driver import Buffer
from max.graph import BufferType, TensorType

if TYPE_CHECKING:
    from max.nn.kv_cache import KVCacheInputsPerDevice


class RaggedKVCacheInputs(NamedTuple):
    """One device's cache and how one step's batch lies in it.

    All but `blocks` are made anew by each `fetch` and never written again, so
    they stay valid and unchanged while steps run. What they say holds until
    the next `fetch`, `maybe_reserve`, `step` or `release` of one of the
    batch's requests; after that a page named here may belong to another.
    """

    blocks: Buffer
    """`[num_pages + 1, kv_dim, num_layers, page_size, num_kv_heads, head_dim]`.

    It lives as long as the manager; its last page is the null page. Pages may
    still be on their way into it when `maybe_reserve` returns: graphs and new
    views (`to_numpy`) wait for them, a view made before does not.
    """
    cache_lengths: Buffer
    """Tokens cached before this step, uint32 `[batch]`."""
    lookup_table: Buffer
    """Pages of each request, uint32 `[batch, columns]`; the rest is null."""
    max_lengths: Buffer
    """Longest new part and longest whole of each step left, on the host.

    uint32 `[num_steps, 2]`.
    """

    @property
    def summaries(self) -> tuple[Buffer, ...]:
        """What is kept of each block: a pool for each field of `Summaries`.

        `[num_pages + 1, num_layers, blocks_per_page, num_kv_heads, rows,
        columns]`, under the same page ids. They come last, behind the scales
        if the pages are quantised, and live as long as the manager. Only the
        blocks whose tokens are all cached have a summary; what lies in the
        place of another one means nothing.
        """
        return ()

    def per_device(self) -> "KVCacheInputsPerDevice[Buffer, Buffer]":
        """Returns the first step as graphs that MAX ships take it.

        It has the same buffers, and the dispatch metadata of MAX's kernels.
        These know pages only: whoever keeps summaries runs what makes them
        after such a graph, before the next step.

        Raises:
            NotOfferedError: If the pages hold latent vectors.
        """
        from kvcache.manager.max_inputs import per_device

        return per_device(self)


class RaggedKVCacheSymbols(NamedTuple):
    """The graph types of `RaggedKVCacheInputs`, in its order."""

    blocks: BufferType
    """The pool, which graphs write into."""
    cache_lengths: TensorType
    """Tokens cached before this step, uint32 `[batch_size]`."""
    lookup_table: TensorType
    """Pages of each request, uint32 `[batch_size, num_columns]`."""
    max_lengths: TensorType
    """Per step left, on the host, uint32 `[steps_remaining, 2]`."""

    @property
    def summaries(self) -> tuple[BufferType, ...]:
        """The pools of summaries, which graphs write into; they come last."""
        return ()


class HasRowOffsets(Protocol):
    """What a step was run with.

    With several replicas it also has `data_parallel_splits`, rows before each
    of them and, at last, all: int64 `[num_replicas + 1]` on the host.
    """

    @property
    def input_row_offsets(self) -> Buffer | Sequence[Buffer]:
        """Where each request's tokens start, uint32 `[batch + 1]`."""
