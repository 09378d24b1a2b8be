"""Ragged batches: drawn ones, and those at the edges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from .configuration import Configuration

Indices = npt.NDArray[np.uint32]

NO_PAGE = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch's lengths, and how its pages lie in the pool.

    Pages are permuted. What no kernel may look at is poison: a table's entries
    before and after those in use, memory that is nobody's, and the null page.
    """

    lengths: Sequence[tuple[int, int]]
    """Cached and new tokens of each sequence."""
    page_size: int
    seed: int = 0
    spare_pages: int = 0
    spare_columns: int = 0
    shared_columns: int = 0
    """Leading pages of the first sequence that the others have as well."""
    stray_is_null: bool = False
    """Whether an unused entry is the null page's id; else no page's at all."""
    poison: float = np.nan

    @property
    def cache_lengths(self) -> Indices:
        return np.array([cached for cached, _ in self.lengths], np.uint32)

    @property
    def context_lengths(self) -> Indices:
        return np.array([sum(pair) for pair in self.lengths], np.uint32)

    @property
    def input_row_offsets(self) -> Indices:
        return row_offsets([new for _, new in self.lengths])

    @property
    def context_row_offsets(self) -> Indices:
        return row_offsets([sum(pair) for pair in self.lengths])

    @property
    def num_rows(self) -> int:
        return sum(new for _, new in self.lengths)

    @property
    def max_lengths(self) -> Indices:
        """The longest new part and the longest context, one step."""
        new = max((new for _, new in self.lengths), default=0)
        context = max((sum(pair) for pair in self.lengths), default=0)
        return np.array([[new, context]], np.uint32)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def stray_page(self, num_pages: int) -> int:
        """Returns what stands in a table's unused entries."""
        return num_pages if self.stray_is_null else NO_PAGE

    def written(self) -> "Pages":
        """Lays out the pages of the new tokens only; none is shared."""
        return self._pages([cached for cached, _ in self.lengths], shared=0)

    def read(self) -> "Pages":
        """Lays out the pages of all tokens."""
        begins = [0] * len(self.lengths)
        return self._pages(begins, shared=self.shared_columns)

    def _pages(self, begins: list[int], *, shared: int) -> "Pages":
        spans = [
            (begin // self.page_size, -(-sum(pair) // self.page_size))
            for begin, pair in zip(begins, self.lengths, strict=True)
            if begin < sum(pair)
        ]
        seqs = [
            seq
            for seq, begin in enumerate(begins)
            if begin < sum(self.lengths[seq])
        ]
        num_used = sum(last - first for first, last in spans)
        num_pages = num_used + self.spare_pages
        columns = max((last for _, last in spans), default=0)
        shape = (len(self.lengths), columns + self.spare_columns)
        table = np.full(shape, self.stray_page(num_pages), np.uint32)
        order = self.rng().permutation(num_pages).astype(np.uint32)
        taken = 0
        for seq, (first, last) in zip(seqs, spans, strict=True):
            table[seq, first:last] = order[taken : taken + last - first]
            taken += last - first
        for seq, (_, last) in zip(seqs[1:], spans[1:], strict=True):
            common = min(shared, last, spans[0][1])
            table[seq, :common] = table[seqs[0], :common]
        return Pages(table, num_pages)


@dataclass(frozen=True, slots=True)
class Pages:
    """Which pages the sequences have."""

    lookup_table: Indices
    num_pages: int
    """Pages in the pool, the null page not counted."""


def row_offsets(lengths: Sequence[int]) -> Indices:
    """Returns where each sequence starts in a ragged tensor."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)


def beyond_the_caches(configuration: Configuration) -> Batch:
    """Returns what the CPU's kernels write past the caches: 8 MiB and more."""
    itemsize = 4 if configuration.dtype == "float32" else 2
    rows = 8 * 2**20 // (itemsize * int(np.prod(configuration.row)))
    page_size = configuration.page_size
    lengths = [(5, rows), (page_size, 3), (0, 0), (page_size - 1, 700)]
    return Batch(lengths=lengths, page_size=page_size)


def regimes(page_size: int) -> dict[str, Batch]:
    """Returns the batches that no drawing may miss."""
    page = page_size
    lengths = {
        "no_sequence": [],
        "no_token": [(0, 0), (page, 0)],
        "one_token": [(0, 1)],
        "page_edge": [
            *((page - 1, 1), (page, 1), (page + 1, 1)),
            *((page - 1, 2), (0, page), (2 * page, 0)),
        ],
        "one_past_a_page": [(0, page + 1)],
        "decode": [(3 * page - 1, 1), (300, 1), (7, 1)],
        "mixed": [(0, 0), (0, 20), (page + 5, 1), (3, 0), (2 * page, 17)],
        "long_tail": [(700 + page // 2, 3)],
    }
    batches = {
        name: Batch(lengths=value, page_size=page, spare_pages=1)
        for name, value in lengths.items()
    }
    full = [(0, page), (page, page), (2 * page - 1, 1)]
    batches["full_pool"] = Batch(lengths=full, page_size=page)
    return batches


REGIMES = tuple(regimes(16))


def batches(
    configuration: Configuration, *, longest_new: int, far: bool = False
) -> st.SearchStrategy[Batch]:
    """Draws batches.

    Args:
        configuration: For its page size.
        longest_new: The most new tokens of a sequence.
        far: Whether thousands of tokens may be cached.
    """
    page = configuration.page_size
    edges = [0, 1, page - 1, page, page + 1, 2 * page, 3 * page - 1]
    near = st.sampled_from(edges) | st.integers(0, 3 * page)
    cached = near | st.integers(0, 50 * page) if far else near
    new = st.sampled_from([0, 1, *edges]) | st.integers(0, 2 * page)
    new = new.map(lambda length: min(length, longest_new))
    ending_at_an_edge = st.tuples(
        st.sampled_from(edges[2:]), st.integers(0, min(page, longest_new))
    ).map(lambda pair: (max(0, pair[0] - pair[1]), min(pair)))
    return st.builds(
        Batch,
        lengths=st.lists(
            st.tuples(cached, new) | ending_at_an_edge, max_size=5
        ),
        page_size=st.just(page),
        seed=st.integers(0, 2**32 - 1),
        spare_pages=st.integers(0, 3),
        spare_columns=st.integers(0, 9),
        shared_columns=st.integers(0, 3),
        stray_is_null=st.booleans(),
        poison=st.sampled_from([np.nan, np.inf]),
    )


def chunked(configuration: Configuration) -> st.SearchStrategy[Batch]:
    """Draws prompts and their parts, longer than a GPU's tile of rows.

    Among them may be sequences with a single new token, or none.
    """
    page = configuration.page_size
    lengths = st.integers(0, 200)
    ends = st.sampled_from([63, 64, 65, 127, 128, 129, page, 2 * page])
    chunk = st.tuples(lengths, lengths | ends)
    ending_at_an_edge = st.tuples(ends, lengths).map(
        lambda pair: (max(0, pair[0] - pair[1]), min(pair))
    )
    single = st.tuples(lengths, st.integers(0, 1))
    return st.builds(
        Batch,
        lengths=st.lists(
            chunk | ending_at_an_edge | single, min_size=1, max_size=4
        ),
        page_size=st.just(page),
        seed=st.integers(0, 2**32 - 1),
        spare_pages=st.integers(0, 3),
        spare_columns=st.integers(0, 9),
        shared_columns=st.integers(0, 3),
        stray_is_null=st.booleans(),
        poison=st.sampled_from([np.nan, np.inf]),
    )


@st.composite
def page_pairs(draw: st.DrawFn) -> Indices:
    """Draws source and target pages; no target is a source or comes twice."""
    order = draw(st.permutations(range(draw(st.integers(1, 7)))))
    targets = order[draw(st.integers(1, len(order))) :]
    sources = order[: len(order) - len(targets)]
    pairs = [(draw(st.sampled_from(sources)), page) for page in targets]
    return np.array(pairs, np.uint32).reshape(-1, 2)
