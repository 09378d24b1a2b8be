"""What is measured: models, batches and contexts."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tests.kernels.configuration import Configuration

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
POOL_BYTES = 1 << 30
"""About how much the pool holds: as many layers as fit, up to a model's."""
NUM_LAYERS = (32, 4, 1)
"""The pools that graphs are compiled for."""
TABLE_BYTES = 32 << 20
"""The keys and values of one store, gather or page copy."""


@dataclass(frozen=True, slots=True)
class Model:
    """The heads of a model's attention."""

    name: str
    num_q_heads: int
    num_kv_heads: int
    head_dim: int


MODELS = (Model("llama-3-8b", 32, 8, 128), Model("smollm2", 9, 3, 64))


@dataclass(frozen=True, slots=True)
class Setting:
    """What one set of graphs is compiled for."""

    model: Model
    dtype: str
    page_size: int
    num_layers: int

    def __str__(self) -> str:
        return (
            f"{self.model.name}_{self.dtype}_p{self.page_size}"
            f"_l{self.num_layers}"
        )

    @property
    def configuration(self) -> Configuration:
        """The same for the tests' drawing of pools."""
        heads = self.model.num_kv_heads
        return Configuration(
            dtype=self.dtype,
            page_size=self.page_size,
            heads=(heads, self.model.num_q_heads // heads),
            head_dim=self.model.head_dim,
            layers=(self.num_layers - 1, self.num_layers),
            rotations=(),
        )

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in one layer."""
        heads = 2 * self.model.num_kv_heads * self.model.head_dim
        return heads * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Decode:
    """One decode step: one new token of each sequence."""

    setting: Setting
    batch: int
    context: int

    def __str__(self) -> str:
        model, dtype = self.setting.model.name, self.setting.dtype
        return f"decode {model} {dtype} {self.batch}x{self.context}"

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values that one layer's attention reads."""
        return self.batch * self.context * self.setting.token_bytes


def settings(dtypes: list[str], page_sizes: list[int]) -> list[Setting]:
    """Returns what graphs are compiled for."""
    chosen = product(MODELS, dtypes, page_sizes, NUM_LAYERS)
    return [Setting(*each) for each in chosen]


def decodes(
    dtypes: list[str],
    page_sizes: list[int],
    batches: list[int],
    contexts: list[int],
) -> Iterator[Decode]:
    """Yields the decode steps, each with as many layers as memory allows."""
    shapes = product(MODELS, dtypes, page_sizes, batches, contexts)
    for model, dtype, page_size, batch, context in shapes:
        for num_layers in NUM_LAYERS:
            setting = Setting(model, dtype, page_size, num_layers)
            case = Decode(setting, batch, context)
            if num_layers * case.num_bytes <= POOL_BYTES or num_layers == 1:
                yield case
                break
