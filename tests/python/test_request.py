from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache import Request, RequestContext
from kvcache.request import Tokens
from max_tokens import TOKEN_BUFFER


def state(tokens: Any) -> dict[str, Any]:
    return {
        "all": tokens.all.tolist(),
        "prompt": tokens.prompt.tolist(),
        "generated": tokens.generated.tolist(),
        "active": tokens.active.tolist(),
        "len": len(tokens),
        "prompt_length": tokens.prompt_length,
        "generated_length": tokens.generated_length,
        "processed_length": tokens.processed_length,
        "active_length": tokens.active_length,
        "current_position": tokens.current_position,
        "actively_chunked": tokens.actively_chunked,
    }


def test_a_prompt_is_active_as_a_whole() -> None:
    assert state(Tokens([5, 6, 7])) == {
        "all": [5, 6, 7],
        "prompt": [5, 6, 7],
        "generated": [],
        "active": [5, 6, 7],
        "len": 3,
        "prompt_length": 3,
        "generated_length": 0,
        "processed_length": 0,
        "active_length": 3,
        "current_position": 3,
        "actively_chunked": False,
    }


def test_chunks_then_a_token() -> None:
    request = Request([1, 2, 3, 4, 5])
    tokens = request.tokens
    tokens.chunk(2)
    assert (tokens.active.tolist(), tokens.current_position) == ([1, 2], 2)
    request.update(99)  # Ignored: token 3 is known.
    assert tokens.active.tolist() == [3, 4, 5]
    assert tokens.processed_length == 2
    request.update(6)
    assert tokens.all.tolist() == [1, 2, 3, 4, 5, 6]
    assert tokens.active.tolist() == [6]
    assert tokens.processed_length == 5


def test_appending_never_loses_a_token() -> None:
    tokens = Tokens([0])
    for token in range(1, 1000):
        tokens.advance_with_token(token)
    assert tokens.all.tolist() == list(range(1000))
    assert tokens.prompt_length == 1


def test_views_cannot_be_written() -> None:
    tokens = Tokens([1, 2, 3])
    for view in (tokens.all, tokens.active, tokens.prompt):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 7


def test_the_prompt_is_copied_and_may_be_strided_or_narrow() -> None:
    given = np.arange(10, dtype=np.int32)[::2]
    tokens = Tokens(given)
    given[:] = 0
    assert tokens.all.tolist() == [0, 2, 4, 6, 8]
    assert tokens.all.dtype == np.int64


@pytest.mark.parametrize("tokens", [[], [[1, 2]], [1.5], np.zeros(3), 7])
def test_what_is_no_row_of_token_ids_is_refused(tokens: Any) -> None:
    with pytest.raises(ValueError, match="token"):
        Tokens(tokens)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.skip_processing(-1),
        lambda t: t.skip_processing(2),
        lambda t: t.rewind_processing(-1),
        lambda t: t.rewind_processing(3),
        lambda t: t.chunk(0),
        lambda t: t.chunk(2),
        lambda t: t.advance_with_token(9),
    ],
)
def test_what_raises_has_changed_nothing(
    change: Callable[[Tokens], None],
) -> None:
    tokens = Tokens([1, 2, 3, 4, 5])
    tokens.skip_processing(2)
    tokens.chunk(2)
    before = state(tokens)
    with pytest.raises(ValueError, match="wanted"):
        change(tokens)
    assert state(tokens) == before


def test_advancing_wants_a_chunk() -> None:
    with pytest.raises(ValueError, match="wanted a chunk"):
        Tokens([1]).advance_chunk()


def test_a_request_fulfils_the_protocol() -> None:
    request = Request([1], request_id=7, cache_salt="s", model_name="m")
    assert isinstance(request, RequestContext)
    assert (request.request_id, request.cache_salt, request.model_name) == (
        7,
        "s",
        "m",
    )
    assert Request([1]).request_id != Request([1]).request_id


def test_what_is_printed_holds_no_token_and_no_salt() -> None:
    text = repr(Request([4321], request_id="r", cache_salt="secret"))
    assert "4321" not in text
    assert "secret" not in text
    assert "'r'" in text


NAMES = (
    "skip_processing",
    "rewind_processing",
    "chunk",
    "advance_with_token",
    "advance_chunk",
)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-1, 9)))


@given(prompt=st.lists(st.integers(0, 9), min_size=1), calls=CALLS)
def test_tokens_behave_as_those_of_max(
    prompt: list[int], calls: list[tuple[str, int]]
) -> None:
    ours, theirs = Tokens(prompt), TOKEN_BUFFER(np.array(prompt, np.int64))
    for name, number in calls:
        raised = []
        for tokens in (ours, theirs):
            arguments = () if name == "advance_chunk" else (number,)
            try:
                getattr(tokens, name)(*arguments)
                raised.append(False)
            except ValueError:
                raised.append(True)
        assert raised[0] == raised[1], name
        assert state(ours) == state(theirs), name
