"""What a token costs in the radix cache, however many are cached.

    python -m benchmarks.bench_radix --json benchmarks/results/radix.jsonl

The cache is filled with prompts of 1,000 tokens, of which each ten share the
first 200. Then rounds of prompts go through it: new ones are inserted, cached
ones matched, locked and unlocked, and as many tokens evicted as came in. Times
are nanoseconds per token of the prompt, or per token evicted; the median of all
rounds, and the spread between quartiles over it. Keys are Python lists and
values int32 tensors, as a serving loop has them; their conversion is part of
what is timed, making them is not. `who` is the core, `native` in Mojo or
`plain` in Python, measured where it is there in seconds; `tree` is a compressed
radix tree in plain Python, without locks, at page size 1.
"""

import argparse
import gc
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.plain_tree import PlainTree
from benchmarks.rows import Row, context, processor, write
from kvcache.pools import MambaRadixCache, RadixCache, RadixKey

PROMPT = 1000
SHARED = 200
ROUND = 4
"""Prompts in a round."""
PLAIN_PAGES = 100_000
"""Pages that the core in Python is asked to hold at most."""


@dataclass(slots=True)
class NoPool:
    """A pool whose slots are numbers: it takes them back and forgets them."""

    size: int
    page_size: int
    device: str = "cpu"
    num_freed: int = 0

    def free(self, indices: torch.Tensor) -> None:
        """Counts slots that come back."""
        self.num_freed += len(indices)

    def free_swa(self, indices: torch.Tensor) -> None:
        """Takes the windows' share back."""


@dataclass(slots=True)
class Prompts:
    """Prompts that are new, and slots that were never given."""

    page_size: int
    num_made: int = 0
    num_slots: int = 0
    kept: list[RadixKey] = field(default_factory=list)
    """Those that went into the cache, least recently used first."""

    def make(self) -> tuple[RadixKey, torch.Tensor]:
        """Returns a key and its slots."""
        group, own = self.num_made // 10, self.num_made
        tokens = [(group * 7919 + place) % 50000 for place in range(SHARED)]
        tokens[0] = group
        tokens += [(own * 104729 + place) % 50000 for place in range(800)]
        tokens[SHARED] = own
        first = self.num_slots + self.page_size
        self.num_made += 1
        self.num_slots += -(-PROMPT // self.page_size) * self.page_size
        value = torch.arange(first, first + PROMPT, dtype=torch.int32)
        return RadixKey(tokens), value


Samples = dict[str, list[float]]


def fill(cache: RadixCache | MambaRadixCache, num_tokens: int) -> Prompts:
    """Inserts prompts until so many tokens are cached."""
    prompts = Prompts(cache.page_size)
    while cache.total_size() < num_tokens:
        key, value = prompts.make()
        cache.insert(key, value)
        prompts.kept.append(key)
    return prompts


def clock(samples: Samples, name: str, tokens: int, run: Callable) -> object:
    begin = time.perf_counter_ns()
    answer = run()
    samples.setdefault(name, []).append(
        (time.perf_counter_ns() - begin) / tokens
    )
    return answer


def one_round(
    cache: RadixCache, prompts: Prompts, samples: Samples, number: int
) -> None:
    """Inserts, matches, locks, unlocks and evicts a round of prompts."""
    new = [prompts.make() for _ in range(ROUND)]
    tokens, before = ROUND * PROMPT, cache.total_size()
    clock(
        samples, "insert", tokens, lambda: [cache.insert(*item) for item in new]
    )
    recent = prompts.kept[-(before // PROMPT // 2) :]
    keys = random.Random(number).sample(recent, ROUND)
    hits = clock(
        samples, "match", tokens, lambda: [cache.match_prefix(k) for k in keys]
    )
    lengths = [hit.prefix_len for hit in hits]
    assert min(lengths) == PROMPT // cache.page_size * cache.page_size
    nodes = [hit.last_node for hit in hits]
    clock(samples, "lock", tokens, lambda: list(map(cache.inc_lock_ref, nodes)))
    clock(
        samples, "unlock", tokens, lambda: list(map(cache.dec_lock_ref, nodes))
    )
    excess = cache.total_size() - before
    result = clock(samples, "evict", excess, lambda: cache.evict(excess))
    assert result.full_evicted == excess
    idle = [key for key in prompts.kept if key not in keys]
    prompts.kept = idle + [key for key, _ in new] + keys


def measure(
    who: str,
    page_size: int,
    num_tokens: int,
    *,
    rounds: int,
    window: int | None,
) -> Iterator[Row]:
    """Yields a row for each call."""
    os.environ["KVCACHE_CORE"] = who
    size = num_tokens + 2 * ROUND * PROMPT
    cache = RadixCache(page_size, window, NoPool(size, page_size))
    prompts = fill(cache, num_tokens)
    samples: Samples = {}
    one_round(cache, prompts, {}, 0)
    gc.collect()
    gc.disable()
    for number in range(rounds):
        one_round(cache, prompts, samples, number)
    gc.enable()
    yield from rows_of(
        samples,
        who=who,
        page_size=page_size,
        window=window,
        tokens_cached=num_tokens,
    )


def measure_tree(num_tokens: int, *, rounds: int) -> Iterator[Row]:
    """Yields the rows of the tree in plain Python."""
    tree, prompts = PlainTree(NoPool(0, 1)), Prompts(1)
    while tree.total_size() < num_tokens:
        key, value = prompts.make()
        tree.insert(key.token_ids, value)
        prompts.kept.append(key)
    samples: Samples = {}
    gc.collect()
    gc.disable()
    for number in range(rounds):
        round_of_tree(tree, prompts, samples, number)
    gc.enable()
    yield from rows_of(
        samples, who="tree", page_size=1, window=None, tokens_cached=num_tokens
    )


def round_of_tree(
    tree: PlainTree, prompts: Prompts, samples: Samples, number: int
) -> None:
    """Inserts, matches and evicts a round of prompts, as `one_round` does."""
    new = [prompts.make() for _ in range(ROUND)]
    tokens, before = ROUND * PROMPT, tree.total_size()
    clock(
        samples,
        "insert",
        tokens,
        lambda: [tree.insert(key.token_ids, value) for key, value in new],
    )
    recent = prompts.kept[-(before // PROMPT // 2) :]
    keys = random.Random(number).sample(recent, ROUND)
    found = clock(
        samples,
        "match",
        tokens,
        lambda: [tree.match(key.token_ids) for key in keys],
    )
    assert min(map(len, found)) == PROMPT
    excess = tree.total_size() - before - PROMPT  # It frees whole nodes.
    begin = time.perf_counter_ns()
    freed = tree.evict(excess)
    elapsed = time.perf_counter_ns() - begin
    samples.setdefault("evict", []).append(elapsed / freed)
    idle = [key for key in prompts.kept if key not in keys]
    prompts.kept = idle + [key for key, _ in new] + keys


def rows_of(samples: Samples, **what: object) -> Iterator[Row]:
    """Yields a row for each call that was timed."""
    where = context("cpu")
    for case, times in samples.items():
        low, middle, high = statistics.quantiles(times, n=4)
        yield {
            "case": case,
            **what,
            "ns_per_token": round(middle, 1),
            "spread": round((high - low) / middle, 3),
            "machine": processor(),
            **where,
        }


def bench(rounds: int, *, is_quick: bool) -> Iterator[Row]:
    """Yields the rows of all page sizes and fillings."""
    sizes = (10_000,) if is_quick else (10_000, 100_000, 1_000_000)
    for page_size, window in ((1, None), (16, None), (16, 512)):
        for num_tokens in sizes:
            if page_size == 1:
                yield from measure_tree(num_tokens, rounds=rounds)
            for who in ("native", "plain"):
                pages = num_tokens // page_size
                if who == "plain" and pages > PLAIN_PAGES:
                    print(
                        f"not measured: plain with {pages} pages",
                        file=sys.stderr,
                    )
                    continue
                yield from measure(
                    who, page_size, num_tokens, rounds=rounds, window=window
                )


def main() -> None:
    """Measures, prints and keeps the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args()
    rounds = 3 if args.quick else args.rounds
    write(bench(rounds, is_quick=args.quick), args.json)


if __name__ == "__main__":
    main()
