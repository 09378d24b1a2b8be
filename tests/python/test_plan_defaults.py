"""Absent keys have the values that the transformers library gives them."""

from typing import Any

import pytest

from kvcache.planning import shape_from_config
from kvcache.planning.model_defaults import _DEFAULTS, NESTED_DEFAULTS

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peers

OURS_ALONE = {
    "attn_layer_offset",
    "attn_layer_period",
    "full_attention_interval",
    "max_window_layers",
    "no_rope_layer_interval",
    "sliding_window_pattern",
    "use_sliding_window",
}
"""What comes out as a list of layers there."""


def theirs(model_type: str, **said: Any) -> Any:
    """The library's config of a model of which no more was said."""
    return transformers.AutoConfig.for_model(model_type, **said)


@pytest.mark.parametrize("model_type", sorted({*_DEFAULTS, *NESTED_DEFAULTS}))
def test_values_are_those_of_the_library(model_type: str) -> None:
    ours = {
        **_DEFAULTS.get(model_type, {}),
        **NESTED_DEFAULTS.get(model_type, {}),
    }
    # Without it they drop the window that they would have.
    on = {"use_sliding_window": True} if "use_sliding_window" in ours else {}
    config = theirs(model_type, **on)
    wanted = {key: ours[key] for key in ours if key not in OURS_ALONE}
    assert wanted == {key: getattr(config, key) for key in wanted}


@pytest.mark.parametrize(
    "model_type",
    [
        "cohere2",
        "gemma2",
        "gemma3_text",
        "gpt_oss",
        "jamba",
        "llama4_text",
        "qwen2",
        "qwen3",
        "qwen3_next",
    ],
)
def test_layers_are_those_of_the_library(model_type: str) -> None:
    config = theirs(model_type)
    said = {
        "model_type": model_type,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "hidden_size": config.hidden_size,
    }
    shape = shape_from_config(said)
    kinds = list(config.layer_types)
    local = kinds.count("sliding_attention") + kinds.count("chunked_attention")
    assert shape.num_layers == local + kinds.count("full_attention")
    assert (shape.window.num_layers if shape.window else 0) == local
    recurrent = shape.state.num_layers if shape.state else 0
    assert recurrent == kinds.count("linear_attention")
    head_dim = getattr(config, "head_dim", None)
    assert shape.head_dim == (
        head_dim or config.hidden_size // config.num_attention_heads
    )
    assert shape.num_kv_heads == config.num_key_value_heads
