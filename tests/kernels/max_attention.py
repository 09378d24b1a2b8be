"""MAX's attention kernels over our views, called as our own are."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from max.driver import Device

from .configuration import Configuration
from .models import CompiledKernels, loaded

if TYPE_CHECKING:
    from max.graph import Module

MEF_NAME = "attention_max.mef"


def configuration(
    dtype: str, page_size: int, heads: tuple[int, int], head_dim: int
) -> Configuration:
    """Returns one that has the second of three layers looked at."""
    return Configuration(
        dtype=dtype,
        page_size=page_size,
        heads=heads,
        head_dim=head_dim,
        layers=(1, 3),
        rotations=(),
    )


ON_CPU = (configuration("float32", 16, (2, 4), 40),)
ON_GPU = (
    configuration("bfloat16", 16, (2, 4), 128),
    configuration("bfloat16", 32, (2, 1), 64),
    configuration("bfloat16", 64, (1, 8), 128),
    configuration("bfloat16", 128, (2, 4), 128),
    configuration("bfloat16", 256, (2, 2), 256),
)


def max_attention_on(
    device: Device, configurations: Iterable[Configuration]
) -> CompiledKernels:
    """Compiles the graphs, asserts on, or loads them where they are compiled.

    Args:
        device: Where they run.
        configurations: What to compile for; files have `ON_GPU`.
    """

    def build() -> "Module":
        from max.graph import DeviceRef

        from .build import max_attention_module

        return max_attention_module(
            configurations, DeviceRef.from_device(device)
        )

    return loaded(device, MEF_NAME, build)
