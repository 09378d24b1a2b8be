"""Loops over the real manager with the model that sees every mistake."""

from dataclasses import dataclass, field

from max.driver import CPU

from fake_model import FakeRunner
from kvcache import KVCacheParams, PagedKVCacheManager
from kvcache.serve import ScheduleLimits, ServingLoop

VOCAB = 11
LAYERS, HEADS, HEAD_DIM = 2, 1, 8
BYTES_PER_TOKEN = 2 * LAYERS * HEADS * HEAD_DIM * 4


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A cache and what one step may compute."""

    num_pages: int = 64
    page_size: int = 16
    max_batch_size: int = 4
    max_seq_len: int = 512
    prefix_cache: bool = True
    vocab_size: int = VOCAB
    limits: ScheduleLimits = field(default_factory=ScheduleLimits)


def make(setting: Setting) -> tuple[ServingLoop, FakeRunner]:
    params = KVCacheParams(
        "float32",
        HEADS,
        HEAD_DIM,
        enable_prefix_caching=setting.prefix_cache,
        page_size=setting.page_size,
    )
    manager = PagedKVCacheManager(
        params,
        max_batch_size=setting.max_batch_size,
        max_seq_len=setting.max_seq_len,
        num_layers=LAYERS,
        devices=[CPU()],
        session=None,
        available_cache_memory=(
            setting.num_pages * setting.page_size * BYTES_PER_TOKEN
        ),
        page_size=setting.page_size,
        enable_runtime_checks=True,
    )
    assert manager.total_num_pages == setting.num_pages
    runner = FakeRunner(
        num_pages=setting.num_pages,
        page_size=setting.page_size,
        vocab_size=setting.vocab_size,
    )
    return ServingLoop(manager, runner, limits=setting.limits), runner


def assert_nothing_is_held(loop: ServingLoop) -> None:
    assert loop.is_idle
    assert loop.stats.pages_used == 0
    assert loop.manager.num_free_blocks == loop.manager.total_num_pages
