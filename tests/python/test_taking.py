"""Pages taken from the books where copies within the device fail."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from core_twins import batch_of
from kvcache.core.interface import Move
from kvcache.core.plain import PlainCore
from kvcache.errors import PageStateError
from kvcache.manager.moving import Run, carry_out
from kvcache.manager.taking import PageTaker


def no_copy(kind: Move, chosen: Sequence[Run]) -> None:
    assert kind is Move.COPY, f"{kind} of {chosen}"
    raise RuntimeError("no copy")


@pytest.fixture
def core() -> PlainCore:
    return PlainCore(8, 4, 4, enable_prefix_caching=True)


@pytest.fixture
def taker(core: PlainCore) -> PageTaker:
    return PageTaker(core, partial(carry_out, copy=no_copy))


def computed(core: PlainCore, tokens: list[int]) -> int:
    seq = core.claim(b"")
    core.reserve(batch_of((seq, 0, len(tokens), tokens)), num_steps=1)
    core.commit(batch_of((seq, len(tokens), 1, tokens)))
    return seq


def test_a_part_of_a_page_that_is_not_copied_is_no_hit(core, taker) -> None:
    computed(core, [1, 2, 3, 4, 5, 6, 7, 8])
    seq = core.claim(b"")
    batch = batch_of((seq, 0, 9, [1, 2, 3, 4, 5, 6, 9, 9, 9]))
    assert taker.reserve(batch, num_steps=1, min_partial=1).tolist() == [4]
    assert len(core.pages(seq)) == 3
    core.check()
    core.commit(batch_of((seq, 9, 1, batch.tokens[0].tolist())))


def test_a_begun_page_that_is_not_copied_is_an_error(core, taker) -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7]
    twin = core.fork(computed(core, tokens), 6)
    other = core.claim(b"")
    batch = batch_of((other, 0, 5, tokens[:5]), (twin, 6, 1, tokens))
    with pytest.raises(PageStateError, match="wanted a copy of the page"):
        taker.reserve(batch, num_steps=1)
    assert core.pages(other).tolist() == []
    core.check()


def test_nothing_is_asked_of_the_pools_without_moves(core, taker) -> None:
    assert taker.carry_out(np.empty((0, 3), np.uint32)) == set()
    seq = core.claim(b"")
    taker.reserve(batch_of((seq, 0, 5, [1, 2, 3, 4, 5])), num_steps=1)
    assert taker.adopt(batch_of((seq, 0, 5, [1, 2, 3, 4, 5]))).tolist() == [0]
