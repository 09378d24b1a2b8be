"""Conversations of several turns, served together."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kvcache.serve.events import Event, RequestFinished
from kvcache.serve.loop import ServingLoop
from kvcache.serve.request import GenerationRequest, RequestRejectedError
from kvcache.serve.sampling import FinishReason, SamplingParams

_GREEDY = SamplingParams()


class ChatTokenizer(Protocol):
    """What a conversation asks of a `kvcache.model.Tokenizer`."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""

    def encode(self, text: str) -> list[int]:
        """Returns a text's token ids; special tokens are recognised."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids, special tokens included."""

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Returns what was said as text that ends where an answer starts."""


@dataclass(slots=True)
class Conversation:
    """Questions to be asked one after the other, and the answers so far."""

    questions: Sequence[str]
    """What the user says; each waits for the answer before it."""
    system: str | None = None
    """What the system says first."""
    name: str = ""
    """For whoever watches."""
    answers: list[str] = field(default_factory=list)
    """What the model said, without its stop tokens."""
    requests: list[GenerationRequest] = field(default_factory=list)
    """One request a turn, as far as they were submitted."""
    prompt: str = ""
    """The text of the last request's prompt."""
    error: str | None = None
    """Why it ended early, if it did."""

    @property
    def is_finished(self) -> bool:
        """Whether every question was answered, or it ended early."""
        return self.error is not None or len(self.answers) == len(
            self.questions
        )

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was said so far, and the next question if there is one."""
        said = [("system", self.system)] if self.system is not None else []
        for turn, question in enumerate(self.questions):
            if turn > len(self.answers):
                break
            said.append(("user", question))
            if turn < len(self.answers):
                said.append(("assistant", self.answers[turn]))
        return [
            {"role": role, "content": str(content)} for role, content in said
        ]


class ConversationLoop:
    """Submits each turn of many conversations when its turn has come.

    Args:
        loop: Serves the requests.
        tokenizer: Turns messages into tokens and back.
        max_new_tokens: How many tokens an answer may have.
        sampling: How answers are drawn; greedy unless given.
    """

    def __init__(
        self,
        loop: ServingLoop,
        tokenizer: ChatTokenizer,
        *,
        max_new_tokens: int,
        sampling: SamplingParams = _GREEDY,
    ) -> None:
        """Starts with no conversation."""
        self._loop = loop
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._by_request: dict[Hashable, Conversation] = {}

    def start(self, conversation: Conversation) -> None:
        """Submits a conversation's next question.

        Raises:
            ValueError: If every question was answered.
            RequestRejectedError: If the prompt can never fit.
        """
        if conversation.is_finished:
            raise ValueError(
                f"wanted a conversation with an open question, got "
                f"{conversation.name!r}, which has none"
            )
        text = self._tokenizer.apply_chat_template(conversation.messages)
        request = GenerationRequest(
            self._encode(conversation, text),
            max_new_tokens=self._max_new_tokens,
            stop_ids=self._tokenizer.eos_ids,
            sampling=self._sampling,
        )
        self._loop.submit(request)
        conversation.requests.append(request)
        conversation.prompt = text
        self._by_request[request.request_id] = conversation

    def cancel(self, conversation: Conversation) -> None:
        """Ends a conversation in the middle of its open turn.

        Raises:
            ValueError: If it was not started, or is finished.
        """
        if not conversation.requests or conversation.is_finished:
            raise ValueError(
                f"wanted a conversation with an open turn, got "
                f"{conversation.name!r}, which has none"
            )
        self._loop.cancel(conversation.requests[-1].request_id)
        conversation.error = "cancelled"

    def conversation_of(self, request: GenerationRequest) -> Conversation:
        """Returns the conversation that a request is a turn of.

        Raises:
            KeyError: If the request belongs to none that is being served.
        """
        return self._by_request[request.request_id]

    def step(self) -> list[Event]:
        """Computes one batch; then submits the turns whose time has come."""
        events = self._loop.step()
        for event in events:
            if isinstance(event, RequestFinished):
                self._finish_turn(event)
        return events

    def run(self) -> Iterator[Event]:
        """Steps until every conversation is finished; yields what happens."""
        while not self._loop.is_idle:
            yield from self.step()

    def _finish_turn(self, event: RequestFinished) -> None:
        conversation = self._by_request.get(event.request.request_id)
        if conversation is None:
            return  # not ours: the loop may serve others beside us
        if event.error is not None:
            conversation.error = event.error
            return
        answer = _without_stop(event.request)
        conversation.answers.append(self._tokenizer.decode(answer))
        if not conversation.is_finished:
            try:
                self.start(conversation)
            except RequestRejectedError as error:
                conversation.error = str(error)

    def _encode(self, conversation: Conversation, text: str) -> list[int]:
        """Returns the token ids of a conversation's next prompt.

        A later turn goes on from the very tokens of the one before it, so all
        its pages are prefix hits: an answer's text does not always encode into
        the tokens that the model chose. Where that would say anything else
        than `text`, as with a template that rewrites what was said, the whole
        is encoded anew.
        """
        encode, decode = self._tokenizer.encode, self._tokenizer.decode
        whole = encode(text)
        if not conversation.requests:
            return whole
        said = conversation.prompt + conversation.answers[-1]
        if not text.startswith(said):
            return whole
        last = conversation.requests[-1]
        rest = encode(text[len(said) :])
        for start in (0, 1):  # past a start token that `encode` put there
            ids = last.prompt_ids + _without_stop(last) + rest[start:]
            if decode(ids) == decode(whole):
                return ids
        return whole


def _without_stop(request: GenerationRequest) -> list[int]:
    """Returns the generated tokens without the stop token."""
    tokens = request.output_ids
    if request.finish_reason is FinishReason.STOP:
        tokens.pop()
    return tokens
