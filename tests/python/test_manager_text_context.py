"""MAX's own request type goes through our manager as ours does."""

import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from kvcache import PagedKVCacheManager, RequestContext
from managers import make
from max_tokens import TOKEN_BUFFER
from page_oracle import PageOracle


@dataclass
class Context:
    """A request around MAX's own token buffer."""

    tokens: Any
    cache_salt: str | None
    max_length: int
    model_name: str
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def update(self, new_token: int) -> None:
        if self.tokens.actively_chunked:
            self.tokens.advance_chunk()
        else:
            self.tokens.advance_with_token(new_token)


@pytest.fixture(
    params=[
        pytest.param("TextContext", marks=pytest.mark.peers),
        "TokenBuffer",
    ]
)
def make_context(request: pytest.FixtureRequest) -> Any:
    kind: Any = Context
    if request.param == "TextContext":
        kind = pytest.importorskip(
            "max.pipelines.context",
            reason="wanted the extra `peers`",
            exc_type=ImportError,
        ).TextContext

    def make_one(num_tokens: int, salt: str | None = None) -> Any:
        return kind(
            tokens=TOKEN_BUFFER(np.arange(num_tokens, dtype=np.int64)),
            cache_salt=salt,
            max_length=256,
            model_name="m",
        )

    return make_one


def compute(
    manager: PagedKVCacheManager, oracle: PageOracle, context: Any
) -> None:
    (inputs,) = manager.fetch([context])
    oracle.run([context], inputs)
    context.update(7)
    manager.step([context])


def test_a_text_context_fulfils_the_protocol(make_context: Any) -> None:
    assert isinstance(make_context(4), RequestContext)


def test_text_contexts_share_pages_in_chunks(make_context: Any) -> None:
    manager = make(num_pages=20)
    oracle = PageOracle(16, manager.total_num_pages)
    first = make_context(100)
    manager.external_claim(first.request_id)
    while first.tokens.generated_length < 3:
        if first.tokens.active_length > 30:
            first.tokens.chunk(30)
        assert manager.maybe_reserve(first)
        compute(manager, oracle, first)
    for salt, hit in ((None, 96), ("other", 0)):
        context = make_context(120, salt)
        manager.external_claim(context.request_id)
        context.tokens.chunk(20)
        assert manager.maybe_reserve(context)
        assert context.tokens.processed_length == hit
        assert context.tokens.active_length == 20
        compute(manager, oracle, context)
        manager.release(context.request_id)
