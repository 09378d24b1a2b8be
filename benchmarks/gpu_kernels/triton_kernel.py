"""Triton's kernels: the peers' store, a plain read. Importing takes Triton.

Annotations are strings where they are not Triton's own: it reads the others as
values, and refuses those that are no constants.
"""

from typing import Any

import triton
import triton.language as tl


@triton.jit
def store(  # noqa: PLR0917  (a kernel's tensors, in their order)
    keys: "Any",
    values: "Any",
    pool: "Any",
    slots: "Any",
    layer_offset: "Any",
    values_offset: "Any",
    page_stride: "Any",
    page_size: tl.constexpr,
    row: tl.constexpr,
) -> None:
    """Moves one token's key and value to the token's slot."""
    token = tl.program_id(0)
    elements = tl.arange(0, row)
    slot = tl.load(slots + token)
    key = tl.load(keys + token * row + elements)
    value = tl.load(values + token * row + elements)
    target = (slot // page_size) * page_stride + layer_offset
    target += (slot % page_size) * row
    tl.store(pool + target + elements, key)
    tl.store(pool + target + values_offset + elements, value)


@triton.jit
def read(
    words: "Any", sums: "Any", per_program: tl.constexpr, block: tl.constexpr
) -> None:
    """Reads a stretch of words, and writes one sum."""
    program = tl.program_id(0)
    elements = tl.arange(0, block)
    total = tl.zeros([block], tl.int32)
    for start in range(0, per_program, block):
        total += tl.load(words + program * per_program + start + elements)
    tl.store(sums + program, tl.sum(total))
