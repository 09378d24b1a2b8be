import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache.errors import KVCacheError
from kvcache.model import (
    DivisorScaling,
    LinearScaling,
    Llama3Scaling,
    LlamaConfig,
    ModelError,
    weight_shapes,
)
from models import small_config

LLAMA31 = Llama3Scaling(
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_seq_len=8192,
)


def test_a_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_config().num_layers = 3  # type: ignore[misc]


def test_equal_configs_are_equal_and_hash_alike() -> None:
    scaled = {"rope_scaling": DivisorScaling((1.0, 1.0, 2.0, 8.0))}
    assert small_config(**scaled) == small_config(**scaled)
    assert hash(small_config(**scaled)) == hash(small_config(**scaled))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "wanted a positive num_layers, got 0"),
        ({"hidden_size": -1}, "wanted a positive hidden_size, got -1"),
        ({"rope_theta": math.nan}, "wanted a positive rope_theta, got nan"),
        ({"rms_norm_eps": math.inf}, "wanted a positive rms_norm_eps, got inf"),
        (
            {"num_q_heads": 4, "num_kv_heads": 3},
            "wanted num_q_heads to be a multiple of num_kv_heads 3, got 4",
        ),
        ({"head_dim": 9}, "wanted an even head_dim, got 9"),
        (
            {"rope_scaling": DivisorScaling((1.0, 2.0))},
            "rope scaling: wanted 4 divisors, got 2",
        ),
    ],
)
def test_a_wrong_field_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ModelError) as raised:
        small_config(**changes)
    assert str(raised.value) == message


def test_a_model_error_is_a_value_error_and_ours() -> None:
    assert issubclass(ModelError, ValueError)
    assert issubclass(ModelError, KVCacheError)


def test_frequencies_fall_from_one_by_equal_ratios() -> None:
    config = small_config(head_dim=8, rope_theta=10_000.0)
    frequencies = config.rope_inverse_frequencies()
    assert frequencies.dtype == np.float64
    np.testing.assert_allclose(frequencies, [1.0, 0.1, 0.01, 0.001], rtol=1e-15)


def test_linear_scaling_divides_every_frequency() -> None:
    plain = small_config().rope_inverse_frequencies()
    scaled = small_config(rope_scaling=LinearScaling(4.0))
    np.testing.assert_array_equal(scaled.rope_inverse_frequencies(), plain / 4)


def published_llama3(frequency: float, scaling: Llama3Scaling) -> float:
    """Llama 3.1's rule as its authors wrote it, by wavelengths."""
    wavelength = 2 * math.pi / frequency
    longest = scaling.original_max_seq_len / scaling.low_freq_factor
    shortest = scaling.original_max_seq_len / scaling.high_freq_factor
    if wavelength < shortest:
        return frequency
    if wavelength > longest:
        return frequency / scaling.factor
    smooth = scaling.original_max_seq_len / wavelength - scaling.low_freq_factor
    smooth /= scaling.high_freq_factor - scaling.low_freq_factor
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def test_llama3_scaling_follows_the_published_rule() -> None:
    config = small_config(head_dim=128, rope_theta=500_000.0)
    plain = config.rope_inverse_frequencies()
    scaled = LLAMA31.scale(plain)
    wanted = [published_llama3(frequency, LLAMA31) for frequency in plain]
    np.testing.assert_allclose(scaled, wanted, rtol=1e-14)
    ratios = plain / scaled
    assert (ratios == 1).sum() > 20
    assert np.isclose(ratios, 8).sum() > 20
    assert ((ratios > 1.01) & (ratios < 7.99)).sum() > 3


@given(
    frequency=st.floats(1e-7, 1.0),
    factor=st.floats(1.0, 64.0),
    low=st.floats(0.5, 4.0),
    span=st.floats(0.5, 8.0),
)
def test_llama3_scaling_stays_between_whole_and_divided(
    frequency: float, factor: float, low: float, span: float
) -> None:
    scaling = Llama3Scaling(
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=low + span,
        original_max_seq_len=8192,
    )
    (scaled,) = scaling.scale(np.array([frequency]))
    wanted = published_llama3(frequency, scaling)
    assert scaled == pytest.approx(wanted, rel=1e-9)
    assert frequency / factor * (1 - 1e-12) <= scaled
    assert scaled <= frequency * (1 + 1e-12)


def test_divisors_say_the_same_as_the_rule_they_came_from() -> None:
    plain = small_config(head_dim=128).rope_inverse_frequencies()
    divisors = plain / LLAMA31.scale(plain)
    np.testing.assert_allclose(
        DivisorScaling(tuple(divisors.tolist())).scale(plain),
        LLAMA31.scale(plain),
        rtol=1e-15,
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearScaling(0.0),
        lambda: DivisorScaling((1.0, -1.0)),
        lambda: dataclasses.replace(LLAMA31, factor=math.inf),
        lambda: dataclasses.replace(LLAMA31, high_freq_factor=1.0),
    ],
)
def test_scaling_out_of_range_is_refused(make) -> None:
    with pytest.raises(ModelError, match="rope scaling: wanted"):
        make()


def test_shapes_name_every_tensor_once() -> None:
    shapes = weight_shapes(small_config(num_layers=3))
    assert len(shapes) == 3 * 9 + 3
    assert shapes["model.embed_tokens.weight"] == (300, 32)
    assert shapes["model.layers.2.self_attn.q_proj.weight"] == (32, 32)
    assert shapes["model.layers.2.self_attn.k_proj.weight"] == (16, 32)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (32, 48)
    assert shapes["lm_head.weight"] == (300, 32)


def test_tied_embeddings_need_no_output() -> None:
    assert "lm_head.weight" not in weight_shapes(
        small_config(tie_embeddings=True)
    )


def test_heads_may_be_wider_than_the_model() -> None:
    config: LlamaConfig = small_config(hidden_size=32, head_dim=16)
    assert (config.q_size, config.kv_size) == (64, 32)
    shapes = weight_shapes(config)
    assert shapes["model.layers.0.self_attn.o_proj.weight"] == (32, 64)
