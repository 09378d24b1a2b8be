"""What a viewer knows of each conversation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kvcache.model import TextStream, Tokenizer
from kvcache.serve import (
    Conversation,
    ConversationLoop,
    Event,
    GenerationRequest,
    RequestFinished,
    RequestPreempted,
    RequestStarted,
    TokenGenerated,
)


@dataclass(slots=True)
class Line:
    """One conversation as it stands."""

    conversation: Conversation
    """The conversation."""
    state: str = "waiting"
    """What happens to its open turn."""
    text: str = ""
    """The open answer so far."""
    num_tokens: int = 0
    """Tokens generated over all turns."""
    request: GenerationRequest | None = field(default=None, repr=False)
    """The open turn's request, once it was started."""
    stream: TextStream | None = field(default=None, repr=False)
    """Decodes the open answer."""

    @property
    def turn(self) -> int:
        """The open turn, from 1, or the last one."""
        said = self.conversation
        return min(len(said.answers) + 1, len(said.questions))


class Board:
    """Follows conversations by their events.

    Args:
        conversations: What is followed.
        loop: Says which request belongs to which of them.
        tokenizer: Turns tokens into text.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        loop: ConversationLoop,
        tokenizer: Tokenizer,
    ) -> None:
        """Starts with every conversation waiting."""
        self.lines = [Line(conversation) for conversation in conversations]
        self._loop = loop
        self._tokenizer = tokenizer

    def see(self, events: Iterable[Event]) -> list[tuple[Line, Event]]:
        """Takes events in; returns each with the conversation it is about."""
        seen = []
        for event in events:
            line = self._line(event)
            self._take(line, event)
            seen.append((line, event))
        return seen

    def _line(self, event: Event) -> Line:
        conversation = self._loop.conversation_of(event.request)
        return next(
            line for line in self.lines if line.conversation is conversation
        )

    def _take(self, line: Line, event: Event) -> None:
        match event:
            case RequestStarted(request) if line.request is not request:
                line.request, line.state, line.text = request, "reading", ""
                line.stream = self._tokenizer.stream(skip_special=True)
            case RequestStarted():
                line.state = "reading again"
            case RequestPreempted():
                line.state = "preempted"
            case TokenGenerated(_, token):
                line.state = "answering"
                line.num_tokens += 1
                if line.stream is not None:
                    line.text += line.stream.feed(token)
            case RequestFinished():
                done = line.conversation.is_finished
                line.state = "done" if done else "waiting"
                if line.conversation.error is not None:
                    line.state = "failed"
