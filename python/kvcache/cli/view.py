"""Shows conversations while they run: live on a terminal, else as lines."""

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kvcache.cli.board import Board, Line
from kvcache.cli.units import format_size
from kvcache.serve import (
    Event,
    RequestFinished,
    RequestPreempted,
    RequestStarted,
    ServingStats,
)

_STYLES = {
    "waiting": "dim",
    "reading": "yellow",
    "reading again": "yellow",
    "preempted": "red",
    "answering": "green",
    "done": "bold",
    "failed": "bold red",
}
_SECONDS_BETWEEN_LINES = 2.0


class View(Protocol):
    """Follows the demo while it runs."""

    def __enter__(self) -> Self:
        """Begins to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the terminal as it was."""

    def see(self, events: Iterable[Event]) -> None:
        """Shows what a step did."""


def make_view(console: Console, board: Board, stats: ServingStats) -> View:
    """Returns the view that suits the console."""
    if console.is_terminal:
        return LiveView(console, board, stats)
    return PlainView(console, board, stats)


def status_line(stats: ServingStats) -> str:
    """Returns the numbers of a running loop in one line."""
    return (
        f"{stats.generated_tokens} tokens, "
        f"{stats.tokens_per_second:.1f} tokens/s, "
        f"{stats.pages_used} of {stats.shape.num_pages} pages, "
        f"prefix hits {stats.hit_rate:.0%}, "
        f"{stats.num_preemptions} preemptions"
    )


class LiveView:
    """A table that is redrawn in place.

    Args:
        console: The terminal.
        board: What the conversations say.
        stats: What the loop did.
    """

    def __init__(
        self, console: Console, board: Board, stats: ServingStats
    ) -> None:
        """Prepares the table."""
        self._console = console
        self._board = board
        self._stats = stats
        self._live = Live(
            self._draw(),
            console=console,
            refresh_per_second=8,
            transient=True,
        )

    def __enter__(self) -> Self:
        """Begins to draw."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Takes the table away and gives the cursor back."""
        self._live.stop()

    def see(self, events: Iterable[Event]) -> None:
        """Draws the table anew."""
        self._board.see(events)
        self._live.update(self._draw())

    def _draw(self) -> Group:
        table = Table(expand=True, box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        table.add_column("turn", no_wrap=True)
        table.add_column("", no_wrap=True, min_width=9)
        table.add_column("tokens", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, ratio=1)
        for line in self._board.lines:
            table.add_row(*self._row(line))
        stats = self._stats
        pages = ProgressBar(
            total=stats.shape.num_pages, completed=stats.pages_used, width=32
        )
        held = stats.pages_used * stats.shape.bytes_per_page
        return Group(
            table,
            Text(),
            pages,
            Text(f"{status_line(stats)}, {format_size(held)}"),
        )

    def _row(self, line: Line) -> tuple[Text, Text, Text, Text, Text]:
        said = line.conversation
        tail = " ".join(line.text.split())
        room = max(self._console.width - 40, 20)
        if len(tail) > room:
            tail = "\N{HORIZONTAL ELLIPSIS}" + tail[-room:]
        return (
            Text(said.name, style="bold"),
            Text(f"{line.turn}/{len(said.questions)}"),
            Text(line.state, style=_STYLES[line.state]),
            Text(str(line.num_tokens)),
            Text(tail),
        )


class PlainView:
    """Lines, one after the other, for files and pipes.

    Args:
        console: Where they go.
        board: What the conversations say.
        stats: What the loop did.
    """

    def __init__(
        self, console: Console, board: Board, stats: ServingStats
    ) -> None:
        """Starts with nothing shown."""
        self._console = console
        self._board = board
        self._stats = stats
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        """Does nothing: lines need no preparation."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Does nothing: lines stay."""

    def see(self, events: Iterable[Event]) -> None:
        """Prints who began, lost its pages or ended, and now and then more."""
        for line, event in self._board.see(events):
            if (text := _sentence(event)) is not None:
                self._print(f"{line.conversation.name}: {text}")
        if self._stats.seconds - self._shown_at >= _SECONDS_BETWEEN_LINES:
            self._shown_at = self._stats.seconds
            self._print(f"{self._stats.seconds:.1f} s: ", end="")
            self._print(status_line(self._stats))

    def _print(self, text: str, end: str = "\n") -> None:
        self._console.print(
            text, end=end, markup=False, highlight=False, soft_wrap=True
        )


def _sentence(event: Event) -> str | None:
    """Returns what an event is in words, or None for a mere token."""
    match event:
        case RequestStarted(request, hit_tokens):
            length = len(request.tokens)
            return f"reads {length} tokens, {hit_tokens} of them cached"
        case RequestPreempted():
            return "lost its pages to an older conversation and waits"
        case RequestFinished(request, reason, error):
            said = f"answered in {len(request.output_ids)} tokens ({reason})"
            return error or said
        case _:
            return None
