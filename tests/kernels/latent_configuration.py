"""What kernels on pages of latents are compiled for."""

from .configuration import Configuration, Kept, halves, neighbours
from .rules import CAUSAL, Rules

DEEPSEEK_FLOAT32 = Configuration(
    dtype="float32",
    page_size=128,
    heads=(1, 16),
    head_dim=576,
    value_dim=512,
    layers=(1, 2),
    rotations=(halves(64),),
)
"""DeepSeek's latents, under the query heads of one device of eight."""

LATENTS = (
    DEEPSEEK_FLOAT32,
    Configuration(
        dtype="bfloat16",
        page_size=16,
        heads=(1, 128),
        head_dim=576,
        value_dim=512,
        layers=(0, 1),
        rotations=(),
    ),
    Configuration(
        dtype="float16",
        page_size=16,
        heads=(1, 1),
        head_dim=24,
        value_dim=16,
        layers=(1, 3),
        rotations=(neighbours(8),),
        rules=(
            CAUSAL,
            Rules(window=20, sink_tokens=4, has_sinks=True, softcap=5),
        ),
    ),
)
"""Each element type; one query head, those of a block, and many blocks'."""

QUANTIZED_LATENTS = (
    Configuration(
        kept=Kept("float8_e4m3fn", "token", 64),
        dtype="bfloat16",
        page_size=16,
        heads=(1, 16),
        head_dim=576,
        value_dim=512,
        layers=(1, 2),
        rotations=(),
    ),
    Configuration(
        kept=Kept("int8", "token"),
        dtype="float32",
        page_size=128,
        heads=(1, 3),
        head_dim=24,
        value_dim=16,
        layers=(0, 2),
        rotations=(),
        rules=(Rules(window=130, sink_tokens=4),),
    ),
)
"""Groups of the length of the rotated part, and whole latents."""
