"""A cache side on the seed's layout: its context, and arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from kvcache.compiler.cache.context import Context
from kvcache.compiler.flows.quest import GQAQuestSparseAttention
from kvcache.compiler.parents import PoolParent
from kvcache.compiler.recording import record_cache
from kvcache.compiler.runners import Requests, Runner, Settings

PAGE_SIZE, BLOCK_SIZE, HEADS, HEAD_DIM, PAGES = 32, 16, 2, 24, 4


def created(ctx: Any, folder: Path | None) -> Any:
    """Creates a context of the sizes above.

    Args:
        ctx: The context.
        folder: Where generated code goes; the user's cache folder if None.
    """
    parent = PoolParent(
        page_size=PAGE_SIZE,
        block_size=BLOCK_SIZE,
        num_pages=PAGES * HEADS,
        head_num=HEADS,
        head_dim=HEAD_DIM,
        group_size=2,
    )
    settings = Settings(
        max_prefill_tokens=1,
        vortex_dtype="float32",
        vortex_compilation_cache_dir=folder,
    )
    return ctx.create(parent, Runner(settings, Requests(1)))


def quest_cache(folder: Path | None) -> Context:
    """Returns the context of Quest's cache side, recorded."""
    made: Context = created(Context(), folder)
    record_cache(GQAQuestSparseAttention(), made)
    return made


def fields(rng: np.random.Generator) -> dict[str, Any]:
    """Draws keys; values are poison, and summaries nobody's."""
    rows = PAGES * HEADS * (PAGE_SIZE // BLOCK_SIZE)
    tokens = (rows, BLOCK_SIZE, HEAD_DIM)
    summary = (rows, 1, HEAD_DIM)
    return {
        "k": rng.standard_normal(tokens, np.float32),
        "v": np.full(tokens, np.nan, np.float32),
        "max": np.full(summary, -7, np.float32),
        "min": np.full(summary, -7, np.float32),
    }


def rows_of(slots: list[int]) -> list[int]:
    """Returns the rows of the blocks that slots complete, of each head."""
    return [
        (slot // PAGE_SIZE * HEADS + head) * (PAGE_SIZE // BLOCK_SIZE)
        + slot % PAGE_SIZE // BLOCK_SIZE
        for slot in slots
        if (slot + 1) % BLOCK_SIZE == 0
        for head in range(HEADS)
    ]
