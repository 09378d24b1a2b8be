"""The compiled operations of a flow, as graphs name them."""

from dataclasses import dataclass
from pathlib import Path

from kvcache.summaries import Summaries


@dataclass(frozen=True, slots=True)
class Scratch:
    """An array that a compiled operation hands from one kernel to the next."""

    rows: int
    """Rows of each tile."""
    columns: int
    """Columns of each tile."""
    is_per_block: bool = True
    """Whether each block and head has a tile, or each sequence and head."""


@dataclass(frozen=True, slots=True)
class FlowOps:
    """What a graph needs to keep summaries and to choose blocks by them.

    `summarise` is called in place, with the pools (pages, their scales if
    quantised, the fields of `summaries` in order), `input_row_offsets`,
    `cache_lengths`, `lookup_table` and `max_lengths`. It makes the summaries
    of all layers of the blocks that this step completes.

    `score` takes queries `[total_tokens, num_q_heads, head_dim]`, then the
    same, then the layer (uint32 scalar on the CPU). It gives scores float32
    `[batch_size, num_kv_heads, num_columns * blocks_per_page]` of the blocks
    that were complete before this step, for sequences of one new token.

    `store` and `rope_store` take what `kvcache.store` and `kvcache.rope_store`
    do, and the fields of `summaries` before `input_row_offsets`. Called for
    each layer of a step in turn, from layer 0 to the last one, they make what
    `summarise` makes. On a GPU the stores of later layers rely on that: they
    read the tables before the kernel before them is done.
    """

    extension: Path
    """The compiled module, for `custom_extensions`."""
    summarise: str
    """The operation that makes summaries."""
    score: str
    """The operation that scores blocks."""
    store: str
    """The operation that stores a layer, and keeps summaries up to date."""
    rope_store: str
    """The same with the rotation of queries and keys."""
    summaries: Summaries
    """What is kept of each block."""
    score_scratch: tuple[Scratch, ...] = ()
    """Results of `score` behind the scores; for its own use."""
    reserved_first: int = 1
    """The first blocks of a sequence, which are always chosen."""
    reserved_last: int = 1
    """The last blocks, which are always chosen; at least one."""
    top_k: int = 0
    """Blocks that are chosen by their scores beside these, at least."""
