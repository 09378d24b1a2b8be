"""A host tier through whatever a loop may do, with copies that fail."""

from typing import Any

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from flaky_pools import FlakyCopies
from kvcache.core.interface import Move
from replicas_machine import ReplicasMachine, collide

RATES = [
    {},
    {},
    {},
    {"host_load_gbps": 1e-9, "prefill_tokens_per_second": 1e9},
]
"""Now and then, it is never worth loading."""


ORDERS = st.lists(st.booleans(), max_size=8)


class HostMachine(ReplicasMachine):
    """Small devices over small hosts; requests come back to what was lost."""

    @initialize(
        replicas=st.sampled_from([1, 1, 1, 2]),
        shards=st.integers(1, 2),
        num_pages=st.integers(3, 7),
        host_pages=st.integers(1, 9) | st.just(60),
        page_size=st.integers(1, 4),
        digest=st.sampled_from([None, None, collide]),
        copies=st.booleans(),
        rates=st.sampled_from(RATES),
        is_flaky=st.booleans(),
    )
    def start(  # type: ignore[override]
        self, replicas, host_pages, rates, is_flaky, **sizes
    ) -> None:
        self.num_host_pages = replicas * host_pages
        self.rates = rates
        self.is_flaky = is_flaky
        super().start(replicas=replicas, caching=True, **sizes)
        assert self.manager.total_num_host_pages == self.num_host_pages
        self.flaky = FlakyCopies(self.manager)

    def snapshot(self) -> Any:
        if not self.is_flaky:
            return super().snapshot()
        return [
            (
                r.tokens.all.tolist(),
                r.tokens.processed_length,
                r.tokens.active_length,
                r.tokens.actively_chunked,
                len(self.manager.get_req_blocks(r.request_id)),
            )
            for r in self.requests
        ]

    @rule(orders=st.lists(st.booleans(), min_size=1, max_size=8))
    def break_copies(self, orders) -> None:
        if self.is_flaky:
            self.flaky.orders = orders

    @rule(
        length=st.integers(6, 16),
        others=st.integers(1, 2),
        adopts=st.booleans(),
        both=st.booleans(),
        data=st.data(),
        breaks=st.sampled_from([None, None, Move.ONLOAD, Move.OFFLOAD]),
    )
    def come_back(self, length, others, adopts, both, data, breaks) -> None:
        """Serves a prompt once more after others took its pages."""
        for request in list(self.requests):
            self.release(request)
        for salt in [None, "a", "b"][: others + 1]:
            self.serve([0] * length, salt, data, False)
        self.flaky.breaks = breaks if self.is_flaky else None
        if both:
            self.together([length, length - 2], 0, data, [])
            self.flaky.breaks = None
            return
        self.claim([0] * length, None, data)
        if adopts:
            self.adopt_one(self.requests[-1])
        else:
            self.reserve_one(self.requests[-1], 1)
        self.flaky.breaks = None
        self.compute(self.requests[-1:], 1, [0], True)

    @rule(
        lengths=st.lists(st.integers(1, 16), min_size=2, max_size=2),
        prefix=st.integers(0, 16),
        data=st.data(),
        orders=ORDERS,
    )
    def together(self, lengths, prefix, data, orders) -> None:
        """Reserves two prompts that begin alike in one call."""
        for other, length in enumerate(lengths):
            tokens = [int(i >= prefix > 0) * other for i in range(length)]
            self.claim(tokens, None, data)
        batch = self.requests[-2:]
        for request in list(self.requests[:-2]):
            self.release(request)
        if self.is_flaky:
            self.flaky.orders = orders
        before = [r.tokens.processed_length for r in batch]
        findable = [self.findable(r, copies=False) for r in batch]
        state = self.snapshot()
        if any(self.too_much([r], 1) for r in batch):
            return
        if not self.manager.reserve_batch(batch):
            assert self.snapshot() == state
            event("a batch was short")
            return
        for row in zip(batch, before, findable, strict=True):
            self.saw_hit(*row)
        self.compute(batch, 1, [0], True)

    @invariant()
    def counts_add_up(self) -> None:
        super().counts_add_up()
        metrics = self.manager.metrics
        for name in ("h2d_blocks_copied", "failed_loads", "failed_offloads"):
            if getattr(metrics, name):
                event(name)
        if not self.is_flaky:
            assert metrics.failed_loads == metrics.failed_offloads == 0
            cores = [m.core for m in self.manager._replicas.members]
            num_loaded = sum(core.num_onloaded for core in cores)
            num_kept = sum(core.num_offloaded for core in cores)
            assert metrics.h2d_blocks_copied == num_loaded
            assert metrics.d2h_blocks_copied == num_kept
        if self.rates:
            assert metrics.h2d_blocks_copied == 0

    def teardown(self) -> None:
        """No page stays anywhere once nobody wants one."""
        if not hasattr(self, "flaky"):
            return
        for request in list(self.requests):
            self.release(request)
        manager = self.manager
        manager.reset_prefix_cache()
        assert manager.num_free_blocks == manager.total_num_pages
        assert manager.host_committed_block_pct == 0.0
        assert all(m.core.num_cached == 0 for m in manager._replicas.members)


HostMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40
)
TestHostMachine = HostMachine.TestCase
