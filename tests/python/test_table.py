import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvcache.core.table import PageTable
from kvcache.errors import PageStateError

SEQS = st.integers(0, 2)
PAGES = st.lists(st.integers(0, 2**32 - 1), max_size=20)


def indices(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_a_lookup_table_is_filled_row_by_row() -> None:
    table = PageTable(3)
    table.extend(0, [4, 5, 6])
    table.extend(2, [1])
    lookup_table = np.full((2, 4), 9, np.uint32)
    table.fill(indices(2, 0), indices(1, 2), lookup_table)
    assert lookup_table.tolist() == [[1, 9, 9, 9], [4, 5, 9, 9]]


def test_replacing_keeps_what_follows() -> None:
    table = PageTable(1)
    table.extend(0, [1, 2, 3, 4])
    table.replace(0, 1, [8, 9])
    assert table.pages(0).tolist() == [1, 8, 9, 4]
    table.clear(0)
    assert table.pages(0).tolist() == []


def test_pages_cannot_be_written() -> None:
    table = PageTable(1)
    table.extend(0, [1])
    with pytest.raises(ValueError, match="read-only"):
        table.pages(0)[0] = 2


@pytest.mark.parametrize(
    ("num_pages", "columns", "message"),
    [(3, 4, "wanted 3 pages of sequence 0, it holds 2"), (2, 1, "2 columns")],
)
def test_a_table_that_cannot_be_filled_stays_as_it_is(
    num_pages: int, columns: int, message: str
) -> None:
    table = PageTable(1)
    table.extend(0, [1, 2])
    lookup_table = np.full((1, columns), 9, np.uint32)
    with pytest.raises(PageStateError, match=message):
        table.fill(indices(0), indices(num_pages), lookup_table)
    assert (lookup_table == 9).all()


@pytest.mark.parametrize("column", [-1, 1, 2])
def test_replacing_wants_held_columns(column: int) -> None:
    table = PageTable(1)
    table.extend(0, [1, 2])
    with pytest.raises(PageStateError, match="2 pages held"):
        table.replace(0, column, [7, 8])
    assert table.pages(0).tolist() == [1, 2]


class TableMachine(RuleBasedStateMachine):
    """Against lists of pages."""

    def __init__(self) -> None:
        super().__init__()
        self.table = PageTable(3)
        self.model: list[list[int]] = [[], [], []]

    @rule(seq=SEQS, pages=PAGES)
    def extend(self, seq: int, pages: list[int]) -> None:
        self.table.extend(seq, pages)
        self.model[seq] += pages

    @rule(seq=SEQS, column=st.integers(0, 20), pages=PAGES)
    def replace(self, seq: int, column: int, pages: list[int]) -> None:
        end = column + len(pages)
        if end <= len(self.model[seq]):
            self.table.replace(seq, column, pages)
            self.model[seq][column:end] = pages
        else:
            with pytest.raises(PageStateError):
                self.table.replace(seq, column, pages)

    @rule(seq=SEQS, num_pages=st.integers(0, 20))
    def truncate(self, seq: int, num_pages: int) -> None:
        self.table.truncate(seq, num_pages)
        del self.model[seq][num_pages:]

    @rule(seq=SEQS)
    def clear(self, seq: int) -> None:
        self.table.clear(seq)
        self.model[seq] = []

    @rule(seqs=st.permutations(range(3)), spare=st.integers(0, 3))
    def fill(self, seqs: list[int], spare: int) -> None:
        counts = [max(0, len(self.model[seq]) - spare) for seq in seqs]
        filler = 2**32 - 2
        lookup_table = np.full((3, max(counts) + 2), filler, np.uint32)
        self.table.fill(indices(*seqs), indices(*counts), lookup_table)
        for line, seq, count in zip(lookup_table, seqs, counts, strict=True):
            assert line[:count].tolist() == self.model[seq][:count]
            assert (line[count:] == filler).all()

    @invariant()
    def agrees(self) -> None:
        held = self.table.num_pages(indices(0, 1, 2)).tolist()
        assert held == [len(pages) for pages in self.model]
        for seq, pages in enumerate(self.model):
            assert self.table.pages(seq).tolist() == pages


TestTableMachine = TableMachine.TestCase
