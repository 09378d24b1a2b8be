import pytest

from kvcache import KVCacheMetrics


def test_hit_rate_is_the_share_of_prompt_tokens() -> None:
    metrics = KVCacheMetrics(input_tokens=30, cache_tokens=10)
    assert metrics.prompt_tokens == 40
    assert metrics.cache_hit_rate == pytest.approx(0.25)


def test_no_prompt_has_a_hit_rate_of_zero() -> None:
    assert KVCacheMetrics().cache_hit_rate == 0.0


def test_every_count_adds_up() -> None:
    total = KVCacheMetrics(1, 2, 3) + KVCacheMetrics(10, 20, 30)
    assert total == KVCacheMetrics(11, 22, 33)


def test_adding_anything_else_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        KVCacheMetrics() + 1  # type: ignore[operator]
