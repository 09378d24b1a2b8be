"""The errors that the Mojo core's answers stand for."""

from enum import IntEnum
from typing import NoReturn

from kvcache.core.native_rows import RowMemory
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    PageStateError,
    RequestStateError,
    SequenceTooLongError,
    UnknownRequestError,
)


class Status(IntEnum):
    """What a call answers, as `status.mojo` has it."""

    OK = 0
    INSUFFICIENT_PAGES = 1
    UNKNOWN_SEQUENCE = 2
    BEHIND_COMMITTED = 3
    BEYOND_PAGES = 4
    BEYOND_TOKENS = 5
    TOKEN_OUT_OF_RANGE = 6
    NO_SEQUENCE_LEFT = 7
    OTHER_CONTENT = 8
    TOO_FEW_COLUMNS = 9
    TOO_MANY_ROWS = 10
    SHARED_WINDOW = 11
    UNREADABLE = 12


_STATE = {
    Status.BEHIND_COMMITTED: "wanted at least the {0} tokens that were "
    "committed to be processed, got {1}",
    Status.BEYOND_PAGES: "wanted from 0 to the {0} tokens that the sequence's "
    "pages take, got {1}",
    Status.BEYOND_TOKENS: "wanted at most {0} tokens to be processed, got {1}",
    Status.TOKEN_OUT_OF_RANGE: "wanted token ids that fit 32 bits",
    Status.OTHER_CONTENT: "wanted the tokens that the page in column {0} is "
    "known by, got others",
    Status.SHARED_WINDOW: "wanted pages of the sequence's own in its window, "
    "others may read the one in column {0}: truncate the sequence first",
}


def raise_for(
    status: int, rows: RowMemory, *, is_table: bool = False
) -> NoReturn:
    """Raises the error of an answer.

    Args:
        status: The answer, not `OK`.
        rows: Has the numbers that go with it.
        is_table: Whether a lookup table was to be filled.
    """
    kind, first, second = Status(status), rows.detail(0), rows.detail(1)
    if kind is Status.INSUFFICIENT_PAGES:
        raise InsufficientPagesError(wanted=first, free=second)
    if kind is Status.UNKNOWN_SEQUENCE:
        raise UnknownRequestError(
            f"wanted a claimed sequence, got {first}, which is not"
        )
    if kind is Status.NO_SEQUENCE_LEFT:
        raise ClaimError(f"wanted {first} free sequences, {second} are left")
    if kind is Status.TOO_MANY_ROWS:
        raise ClaimError(f"wanted at most {second} rows, got {first}")
    if kind is Status.TOO_FEW_COLUMNS and not is_table:
        raise SequenceTooLongError(
            f"wanted at most {second} pages in a sequence, got {first}"
        )
    if is_table:
        raise PageStateError(_of_table(kind, first, second))
    raise RequestStateError(_STATE[kind].format(first, second))


def _of_table(kind: Status, first: int, second: int) -> str:
    if kind is Status.BEYOND_PAGES:
        return f"wanted more pages in row {first} than the {second} it holds"
    return f"wanted at least {first} columns, got {second}"
