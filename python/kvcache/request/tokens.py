"""Tokens, and the window of them that is computed next."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = npt.NDArray[np.int64]
"""Token ids, `[num_tokens]`."""


class TokenSequence(Protocol):
    """Tokens and the window of them that is computed next.

    MAX's `TokenBuffer` fulfils it, and so does `Tokens`:

        |-- processed --|-- active --|-- pending --|
        0        processed_length    |             len
                              current_position
    """

    def __len__(self) -> int:
        """Returns the number of tokens, prompt and generated."""

    @property
    def all(self) -> TokenIds:
        """Every token."""

    @property
    def active(self) -> TokenIds:
        """The tokens computed next."""

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""

    @property
    def generated_length(self) -> int:
        """Tokens after the prompt."""

    @property
    def processed_length(self) -> int:
        """Tokens whose keys and values exist."""

    @property
    def active_length(self) -> int:
        """Tokens computed next."""

    @property
    def current_position(self) -> int:
        """Where the active tokens end."""

    @property
    def actively_chunked(self) -> bool:
        """Whether pending tokens were cut off by `chunk`."""

    def skip_processing(self, n: int) -> None:
        """Takes the first `n` active tokens as processed; one must stay."""

    def rewind_processing(self, n: int) -> None:
        """Makes the last `n` processed tokens active again."""

    def chunk(self, chunk_size: int) -> None:
        """Keeps the first `chunk_size` active tokens, fewer than there are."""

    def advance_chunk(self) -> None:
        """Takes the chunk as processed and what follows as active."""

    def advance_with_token(self, token: int) -> None:
        """Takes the active tokens as processed and appends the next one."""


class Tokens:
    """A growing sequence of tokens and the window that is computed next.

    The members have the names and the meaning of MAX's `TokenBuffer`.

    Args:
        tokens: The prompt's token ids, `[num_tokens]`, copied; at least one.

    Raises:
        ValueError: If there is no token, or the ids are not a row of integers.

    Performance:
        Appending takes amortised constant time.
    """

    __slots__ = (
        "_address",
        "_array",
        "_is_chunked",
        "_num_tokens",
        "_prompt_length",
        "_window_end",
        "_window_start",
    )

    def __init__(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """Starts with every token active and none processed."""
        array = np.asarray(tokens)
        if array.ndim != 1 or array.size == 0:
            raise ValueError(
                f"wanted a row of at least one token, got shape {array.shape}"
            )
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"token ids must be integers, got {array.dtype}")
        self._array: TokenIds = np.array(array, np.int64, order="C")
        self._address = self._array.ctypes.data
        self._num_tokens = self._prompt_length = array.size
        self._window_start = 0
        self._window_end = array.size
        self._is_chunked = False

    def __len__(self) -> int:
        """Returns the number of tokens, prompt and generated."""
        return self._num_tokens

    def __repr__(self) -> str:
        """Returns the lengths, and no token."""
        return (
            f"Tokens(length={self._num_tokens}, prompt={self._prompt_length}, "
            f"processed={self._window_start}, active={self.active_length})"
        )

    def _view(self, start: int, stop: int) -> TokenIds:
        view = self._array[start:stop]
        view.flags.writeable = False
        return view

    @property
    def all(self) -> TokenIds:
        """Every token, as a read-only view."""
        return self._view(0, self._num_tokens)

    @property
    def prompt(self) -> TokenIds:
        """The tokens of the prompt, as a read-only view."""
        return self._view(0, self._prompt_length)

    @property
    def generated(self) -> TokenIds:
        """The tokens after the prompt, as a read-only view."""
        return self._view(self._prompt_length, self._num_tokens)

    @property
    def active(self) -> TokenIds:
        """The tokens computed next, as a read-only view."""
        return self._view(self._window_start, self._window_end)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return self._prompt_length

    @property
    def generated_length(self) -> int:
        """Tokens after the prompt."""
        return self._num_tokens - self._prompt_length

    @property
    def processed_length(self) -> int:
        """Tokens whose keys and values exist."""
        return self._window_start

    @property
    def active_length(self) -> int:
        """Tokens computed next; never zero."""
        return self._window_end - self._window_start

    @property
    def current_position(self) -> int:
        """Where the active tokens end."""
        return self._window_end

    @property
    def actively_chunked(self) -> bool:
        """Whether pending tokens were cut off by `chunk`."""
        return self._is_chunked

    def skip_processing(self, n: int) -> None:
        """Takes the first `n` active tokens as processed.

        Raises:
            ValueError: If `n` is negative or would leave no active token.
        """
        if not 0 <= n < self.active_length:
            raise ValueError(
                f"wanted to skip from 0 to {self.active_length - 1} of "
                f"{self.active_length} active tokens, got {n}"
            )
        self._window_start += n

    def rewind_processing(self, n: int) -> None:
        """Makes the last `n` processed tokens active again.

        Raises:
            ValueError: If `n` is negative or more than were processed.
        """
        if not 0 <= n <= self._window_start:
            raise ValueError(
                f"wanted to rewind from 0 to {self._window_start} processed "
                f"tokens, got {n}"
            )
        self._window_start -= n

    def chunk(self, chunk_size: int) -> None:
        """Keeps the first `chunk_size` active tokens; the others wait.

        Raises:
            ValueError: If it is not positive, or there are not more tokens.
        """
        if not 0 < chunk_size < self.active_length:
            raise ValueError(
                f"wanted a chunk of 1 to {self.active_length - 1} of "
                f"{self.active_length} active tokens, got {chunk_size}"
            )
        self._window_end = self._window_start + chunk_size
        self._is_chunked = True

    def advance_chunk(self) -> None:
        """Takes the chunk as processed and all that follows as active.

        Raises:
            ValueError: If there is no chunk.
        """
        if not self._is_chunked:
            raise ValueError("wanted a chunk to advance, got none")
        self._window_start, self._window_end = (
            self._window_end,
            self._num_tokens,
        )
        self._is_chunked = False

    def advance_with_token(self, token: int) -> None:
        """Takes the active tokens as processed and appends the next one.

        Raises:
            ValueError: If a chunk is active: pending tokens come first.
        """
        if self._is_chunked:
            raise ValueError("wanted no chunk to append a token to, got one")
        if self._num_tokens == self._array.size:
            grown = np.empty(2 * self._array.size, np.int64)
            grown[: self._num_tokens] = self._array
            self._array = grown
            self._address = grown.ctypes.data
        self._array[self._num_tokens] = token
        self._window_start = self._num_tokens
        self._num_tokens += 1
        self._window_end = self._num_tokens


# Of many `Tokens` at once the slots are read, which takes a fraction of the
# time of reading their properties.


def windows_of(
    tokens: Sequence[TokenSequence],
) -> tuple[list[int], list[int]]:
    """Returns where each sequence's active tokens begin and end."""
    own = cast("Sequence[Tokens]", tokens)
    try:
        ends = [each._window_end for each in own]  # noqa: SLF001  (slots of `Tokens`)
    except AttributeError:
        ends = [each.current_position for each in tokens]
    return starts_of(tokens), ends


def starts_of(tokens: Sequence[TokenSequence]) -> list[int]:
    """Returns where each sequence's active tokens begin."""
    own = cast("Sequence[Tokens]", tokens)
    try:
        return [each._window_start for each in own]  # noqa: SLF001  (slots of `Tokens`)
    except AttributeError:
        return [each.processed_length for each in tokens]


def lengths_of(tokens: Sequence[TokenSequence]) -> list[int]:
    """Returns each sequence's number of tokens."""
    own = cast("Sequence[Tokens]", tokens)
    try:
        return [each._num_tokens for each in own]  # noqa: SLF001  (slots of `Tokens`)
    except AttributeError:
        return [len(each) for each in tokens]


def places_of(
    tokens: Sequence[TokenSequence],
) -> list[tuple[int, int]] | None:
    """Returns where each sequence's ids are, and how many.

    Returns:
        Addresses of contiguous 64-bit ids, good until a token is appended, and
        their numbers; None unless all sequences are `Tokens`.
    """
    own = cast("Sequence[Tokens]", tokens)
    try:
        return [(each._address, each._num_tokens) for each in own]  # noqa: SLF001  (slots of `Tokens`)
    except AttributeError:
        return None


def chunked_of(tokens: Sequence[TokenSequence]) -> list[bool]:
    """Returns whether tokens are pending behind each window."""
    own = cast("Sequence[Tokens]", tokens)
    try:
        return [each._is_chunked for each in own]  # noqa: SLF001  (slots of `Tokens`)
    except AttributeError:
        return [each.actively_chunked for each in tokens]
