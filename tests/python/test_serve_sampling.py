import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache.serve import FinishReason, GenerationRequest, SamplingParams
from kvcache.serve.sampling import reason_to_stop, token_seed

U64 = st.integers(0, 2**64 - 1)


def test_default_is_greedy() -> None:
    assert SamplingParams().is_greedy
    assert not SamplingParams(temperature=0.1).is_greedy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.5}, "at least 0, got -0.5"),
        ({"temperature": float("nan")}, "finite and at least 0, got nan"),
        ({"temperature": float("inf")}, "finite and at least 0, got inf"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"top_p": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"top_p": float("nan")}, "above 0 and at most 1, got nan"),
        ({"seed": -1}, "from 0 to 2\\*\\*64 - 1, got -1"),
        ({"seed": 2**64}, "got 18446744073709551616"),
    ],
)
def test_values_out_of_range_are_refused(
    values: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**values)


def test_token_seed_never_changes() -> None:
    # The streams are part of what a user sees: the same seed, the same text.
    assert token_seed(0, 0) == 0xA706DD2F4D197E6F
    # SplitMix64 from seed 0 begins with 0xE220A8397B1DCDAF; this is the first
    # number of the stream that begins there.
    assert token_seed(1, 0) != token_seed(0, 1)


@given(seed=U64, position=st.integers(0, 2**40))
def test_token_seed_is_64_bits_and_repeats(seed: int, position: int) -> None:
    value = token_seed(seed, position)
    assert 0 <= value < 2**64
    assert value == token_seed(seed, position)


def test_token_seeds_do_not_collide_on_neighbours() -> None:
    seeds = {token_seed(s, p) for s in range(200) for p in range(200)}
    assert len(seeds) == 200 * 200


@given(seed=U64, position=st.integers(0, 2**20), bit=st.integers(0, 63))
def test_one_bit_of_the_seed_changes_many_bits(
    seed: int, position: int, bit: int
) -> None:
    changed = token_seed(seed, position) ^ token_seed(seed ^ 1 << bit, position)
    assert 8 <= changed.bit_count() <= 56


def test_token_seeds_look_uniform() -> None:
    draws = np.array([token_seed(7, p) / 2**64 for p in range(20_000)])
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 50  # 19 degrees of freedom: above 50 once in 10_000


def test_a_stop_token_goes_before_the_length() -> None:
    stop = {"stop_ids": {2}}
    assert reason_to_stop(2, remaining=0, **stop) is FinishReason.STOP
    assert reason_to_stop(3, remaining=0, **stop) is FinishReason.LENGTH
    assert reason_to_stop(3, remaining=1, **stop) is None


def test_request_counts_down_to_the_nearer_limit() -> None:
    request = GenerationRequest([1, 2, 3], max_new_tokens=5)
    assert request.remaining(max_seq_len=100) == 5
    assert request.remaining(max_seq_len=7) == 4
    request.update(9)
    assert request.remaining(max_seq_len=100) == 4
    assert (request.prompt_ids, request.output_ids) == ([1, 2, 3], [9])


def test_request_without_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        GenerationRequest([1], max_new_tokens=0)
