"""What a loop of one's own tells a context about itself."""

from dataclasses import dataclass
from os import PathLike


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a server; see `protocols.ServerArgs`."""

    max_prefill_tokens: int
    """Tokens of the longest prefill."""
    vortex_dtype: str = "bfloat16"
    """Element type of tensors between operators."""
    vortex_compilation_cache_dir: str | PathLike[str] | None = None
    """The folder of generated modules; None for the default one."""
    vortex_topk_val: int = 0
    """Blocks that are chosen by their scores, at least."""
    vortex_topk_ratio: float = 0.0
    """The share of a request's blocks that is chosen, at least."""
    vortex_block_reserved_bos: int = 1
    """The first blocks of a request, which are always chosen."""
    vortex_block_reserved_eos: int = 1
    """The last blocks of a request, which are always chosen."""
    vortex_max_seq_lens: int = -1
    """Tokens of the longest request; -1 for all of the pool."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Where requests have their rows."""

    size: int
    """Requests that run at once, at most."""


@dataclass(frozen=True, slots=True)
class Runner:
    """What runs the model; see `protocols.ModelRunner`."""

    server_args: Settings
    """Its settings."""
    req_to_token_pool: Requests
    """Where its requests have their rows."""
    num_sms: int | None = None
    """Streaming multiprocessors of its device; None to look."""
