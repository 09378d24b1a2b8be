"""Why pages hit and miss, said before it happens."""

from typing import Any

import numpy as np
import pytest

from byte_loop import ByteLoop
from kvcache import PagedKVCacheManager, Request
from kvcache.manager import PageOutcome, PageReport
from kvcache.manager.claims import NAMESPACES
from managers import claimed, make, make_replicas, pages

pytestmark = pytest.mark.usefixtures("either_core")

HIT, PARTIAL = PageOutcome.HIT, PageOutcome.PARTIAL
LAST_TOKEN, TAIL = PageOutcome.LAST_TOKEN, PageOutcome.TAIL
NEVER_SEEN, BEHIND = PageOutcome.NEVER_SEEN, PageOutcome.BEHIND_A_MISS


def outcomes(
    manager: PagedKVCacheManager, tokens: Any, **fields: Any
) -> list[PageOutcome]:
    ids = range(tokens) if isinstance(tokens, int) else tokens
    request = Request(np.array(ids), **fields)
    reports = manager.explain(request)
    assert [report.column for report in reports] == list(range(len(reports)))
    hit = sum(report.num_hit for report in reports)
    free = manager.num_free_blocks
    manager.external_claim(request.request_id)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == hit
    manager.release(request.request_id)
    assert manager.num_free_blocks == free
    return [report.outcome for report in reports]


def test_pages_are_hits_up_to_what_was_never_seen() -> None:
    manager = make(num_pages=20)
    ByteLoop(manager).serve(40)
    assert outcomes(manager, 40) == [HIT, HIT, TAIL]
    assert outcomes(manager, 32) == [HIT, LAST_TOKEN]
    assert outcomes(manager, 33) == [HIT, HIT, TAIL]
    assert outcomes(manager, 70) == [HIT, HIT, NEVER_SEEN, BEHIND, TAIL]
    assert outcomes(manager, [9] * 40) == [NEVER_SEEN, BEHIND, TAIL]
    assert outcomes(manager, 3) == [TAIL]


def test_parts_of_pages_are_told_with_their_tokens() -> None:
    manager = make(num_pages=20, min_partial_hit=5)
    ByteLoop(manager).serve(40)
    prompt = [*range(21), *[9] * 20]
    assert outcomes(manager, prompt) == [HIT, PARTIAL, TAIL]
    assert manager.explain(Request(prompt))[1] == PageReport(1, PARTIAL, 5)
    assert outcomes(manager, [*range(20), *[9] * 20]) == [HIT, NEVER_SEEN, TAIL]
    assert outcomes(manager, 22) == [HIT, PARTIAL]
    assert outcomes(manager, 21) == [HIT, TAIL]  # Four, and the last token.
    assert outcomes(manager, 32) == [HIT, LAST_TOKEN]
    assert manager.explain(Request(range(32)))[1].num_hit == 15


def test_what_was_evicted_says_when() -> None:
    now = [100.0]
    manager = make(num_pages=4, clock=lambda: now[0])
    loop = ByteLoop(manager)
    loop.leave(loop.serve(40))
    now[0] = 250.0
    loop.leave(loop.serve(range(500, 548)))
    reports = manager.explain(Request(range(40)))
    assert reports[0].outcome is HIT
    assert reports[1] == PageReport(1, PageOutcome.EVICTED, evicted_at=250.0)
    assert reports[2].outcome is TAIL


def test_other_salts_and_models_are_told_but_not_which() -> None:
    manager = make(num_pages=20)
    loop = ByteLoop(manager)
    other = PageOutcome.OTHER_SALT
    loop.serve(20, cache_salt="a")
    assert outcomes(manager, 40) == [other, BEHIND, TAIL]
    assert outcomes(manager, 40, cache_salt="b") == [other, BEHIND, TAIL]
    assert outcomes(manager, 40, cache_salt="a") == [HIT, NEVER_SEEN, TAIL]
    assert "'a'" not in repr(manager.explain(Request(range(40))))


def test_rows_of_batches_have_namespaces_too() -> None:
    manager = make()
    batch = manager.open_batch()
    batch.admit([np.arange(20)], model_name="other")
    batch.commit()
    assert outcomes(manager, 20) == [PageOutcome.OTHER_SALT, TAIL]


def test_only_so_many_namespaces_are_remembered() -> None:
    manager = make()
    loop = ByteLoop(manager)
    loop.serve(20, cache_salt="a")
    for salt in range(NAMESPACES):
        request = claimed(manager, 3, cache_salt=str(salt))
        assert manager.maybe_reserve(request)
        manager.release(request.request_id)
    assert outcomes(manager, 20) == [NEVER_SEEN, TAIL]
    assert len(manager._replicas.members[0].claims.namespaces) == NAMESPACES


def test_what_another_request_did_not_commit_is_told() -> None:
    manager = make(num_pages=20)
    loop = ByteLoop(manager)
    running = claimed(manager, 40)
    assert outcomes(manager, 40) == [NEVER_SEEN, BEHIND, TAIL]
    assert manager.maybe_reserve(running)
    wait = PageOutcome.NOT_COMMITTED
    assert outcomes(manager, 70) == [wait, wait, BEHIND, BEHIND, TAIL]
    assert outcomes(manager, [*range(20), *[9] * 20]) == [wait, BEHIND, TAIL]
    assert outcomes(manager, 40, cache_salt="a") == [NEVER_SEEN, BEHIND, TAIL]
    assert [r.outcome for r in manager.explain(running)] == [
        NEVER_SEEN,  # But for itself.
        BEHIND,
        TAIL,
    ]
    loop.step(running)
    assert outcomes(manager, 40) == [HIT, HIT, TAIL]


def test_pages_that_a_fork_shares_are_not_committed_either() -> None:
    manager = make(num_pages=20)
    loop = ByteLoop(manager)
    parent = claimed(manager, 20)
    loop.run(parent)
    parent.update(7)
    branch = Request([*range(20), 9])
    manager.fork(parent, branch)
    manager.release(parent.request_id)
    assert outcomes(manager, 20) == [PageOutcome.NOT_COMMITTED, TAIL]


def test_without_caching_nothing_is_shared() -> None:
    manager = make(caching=False)
    off = PageOutcome.CACHING_OFF
    assert outcomes(manager, 40) == [off, off, off]


def test_a_replica_speaks_for_itself() -> None:
    manager = make_replicas(2, copy_prefixes_across_replicas=False)
    first = claimed(manager, 40, on=1)
    manager.fetch([first])
    first.update(7)
    manager.step([first])
    seen = claimed(manager, 40, on=1)
    blind = claimed(manager, 40, on=0)
    assert [r.outcome for r in manager.explain(seen)] == [HIT, HIT, TAIL]
    assert manager.explain(blind)[0].outcome is NEVER_SEEN
    assert manager.explain(Request(range(40)))[0].outcome is HIT


def test_explaining_changes_nothing() -> None:
    manager = make(num_pages=4)
    loop = ByteLoop(manager)
    loop.leave(loop.serve(40))
    request = claimed(manager, 40)
    core = manager._replicas.members[0].core
    before = core.eviction_order(), manager.metrics
    manager.explain(request)
    assert pages(manager, request) == []
    assert manager._replicas.members[0].claims[request.request_id].seq == -1
    assert (core.eviction_order(), manager.metrics) == before
