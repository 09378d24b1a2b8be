"""The digests of a prompt's pages, ours beside MAX's."""

from collections.abc import Callable
from typing import TypeAlias

from benchmarks.manager.streams import TokenIds, draw
from benchmarks.manager.timing import Sample, Stopwatch, Timing, interleave

PROMPT_TOKENS = 65_536

HashPages: TypeAlias = Callable[[TokenIds, int], object]
"""Token ids and page size, to the digests of the whole pages."""


def time_hashing(
    hashes: dict[str, HashPages], page_size: int, *, repeats: int, rounds: int
) -> dict[str, Timing]:
    """Returns the time of one prompt of `PROMPT_TOKENS`, by who hashes it.

    Args:
        hashes: The functions, by name.
        page_size: Tokens per page.
        repeats: Repeats that count.
        rounds: Prompts per repeat; the same one, so it is in a cache.
    """
    tokens = draw(8, PROMPT_TOKENS)

    def run(hash_pages: HashPages) -> Sample:
        watch = Stopwatch()
        watch.start()
        for _ in range(rounds):
            hash_pages(tokens, page_size)
        watch.stop()
        return watch.per(rounds)

    runs = {who: _bound(run, function) for who, function in hashes.items()}
    return interleave(runs, repeats)


def _bound(
    run: Callable[[HashPages], Sample], function: HashPages
) -> Callable[[], Sample]:
    return lambda: run(function)
