"""What a cache manager must do to be measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.manager.streams import TokenIds
from benchmarks.manager.timing import Stopwatch

Table: TypeAlias = npt.NDArray[np.uint32]

NUM_LAYERS = 1
NUM_KV_HEADS = 1
HEAD_DIM = 1
DTYPE = "bfloat16"
BYTES_PER_TOKEN = 2 * NUM_LAYERS * NUM_KV_HEADS * HEAD_DIM * 2


@dataclass(frozen=True, slots=True)
class Pool:
    """What every side is given: pages of the smallest keys and values."""

    num_pages: int
    page_size: int
    max_batch_size: int
    max_seq_len: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What a side does with free pages; its hits under eviction follow."""

    blank_first: bool
    """Whether a page that holds nothing goes before one that is cached."""
    hits_first: bool
    """Whether a pass takes all its hits before it evicts anything."""


class Side(Protocol):
    """A manager and the requests that it serves at the moment.

    Some calls are timed. The others are what an engine does on its own:
    making requests, and telling them their next token.
    """

    who: str
    policy: Policy
    pool: Pool

    def open(self, prompts: Sequence[TokenIds]) -> None:
        """Makes requests; not timed."""

    def admit(self) -> None:
        """Claims the requests and takes their pages; timed."""

    def inputs(self) -> object:
        """Brings a step's inputs into buffers for the graph; timed."""

    def hits(self) -> int:
        """Returns the prompt tokens that were found at admission; not timed."""

    def update(self, tokens: TokenIds) -> None:
        """Tells each request the token after its prompt; not timed."""

    def commit(self) -> None:
        """Makes what was computed findable; timed."""

    def start(self, tokens: TokenIds) -> None:
        """Goes over to decoding, behind `inputs`; not timed."""

    def decode(self, tokens: TokenIds, watch: Stopwatch) -> None:
        """Decodes; the side itself times what counts.

        Args:
            tokens: What each request generates, `[num_steps, num_requests]`.
            watch: Runs during reservation, inputs and commit.
        """

    def tables(self) -> tuple[Table, Table]:
        """Returns what the next decode step's graph would read; not timed.

        Returns:
            `cache_lengths` `[num_requests]` and `lookup_table` `[num_requests,
            columns]`.
        """

    def leave(self) -> None:
        """Releases all requests; timed."""

    def reset(self) -> None:
        """Forgets what is cached; not timed."""


Factory: TypeAlias = Callable[[Pool], Side]
"""Makes a side with an empty pool."""
