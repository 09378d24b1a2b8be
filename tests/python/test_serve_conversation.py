"""Conversations over the real manager, with letters for tokens."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

import pytest

from fake_model import straight_line
from fake_serving import Setting, assert_nothing_is_held, make
from kvcache.serve import (
    Conversation,
    ConversationLoop,
    FinishReason,
    GenerationRequest,
)

LETTERS = ".abcdefghijklmnopqrstuvwxyz"
END = 0
PAIR = len(LETTERS)
"""Another spelling of `ab`: the model may choose it, `encode` never does."""


class Letters:
    """Token 0 is `.` and ends an answer, tokens 1 to 26 are letters."""

    eos_ids = frozenset({END})

    def __init__(self, *, starts: bool = False, reverses: bool = False) -> None:
        self._starts = starts
        self._reverses = reverses

    def encode(self, text: str) -> list[int]:
        ids = [LETTERS.index(letter) for letter in text]
        return [LETTERS.index("z"), *ids] if self._starts else ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join("ab" if i == PAIR else LETTERS[i] for i in ids)

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        text = ""
        for message in messages:
            content = message["content"]
            if self._reverses and message["role"] == "assistant":
                content = content[::-1]
            text += f"{message['role'][0]}{content}."
        return f"{text}a"


def talk(
    tokenizer: Letters,
    conversations: list[Conversation],
    *,
    max_seq_len: int = 512,
    max_new_tokens: int = 12,
) -> None:
    setting = Setting(max_seq_len=max_seq_len, vocab_size=PAIR + 1)
    loop, _ = make(setting)
    talks = ConversationLoop(loop, tokenizer, max_new_tokens=max_new_tokens)
    for conversation in conversations:
        talks.start(conversation)
    for _ in talks.run():
        pass
    assert_nothing_is_held(loop)


def with_first_answer(
    tokenizer: Letters, wanted: Callable[[list[int]], bool]
) -> Conversation:
    """Looks for a question whose answer is as wanted."""
    for letters in product(LETTERS[1:], repeat=2):
        question = "".join(letters)
        ids = straight_line(
            tokenizer.encode(f"u{question}.a"),
            max_new_tokens=12,
            vocab_size=PAIR + 1,
            stop_ids=[END],
        )
        if wanted(ids):
            return Conversation([question, "why"])
    raise AssertionError("wanted a question with such an answer, found none")


def has_pair(ids: list[int]) -> bool:
    return PAIR in ids and END not in ids and ids[::-1] != ids


def test_second_turn_goes_on_from_the_tokens_of_the_first() -> None:
    tokenizer = Letters()
    conversation = with_first_answer(tokenizer, has_pair)
    talk(tokenizer, [conversation])
    first, second = conversation.requests
    assert PAIR in first.output_ids
    assert second.prompt_ids == (
        first.prompt_ids + first.output_ids + tokenizer.encode(".uwhy.a")
    )
    assert conversation.answers[0] == tokenizer.decode(first.output_ids)
    assert conversation.is_finished
    assert conversation.messages == [
        {"role": "user", "content": conversation.questions[0]},
        {"role": "assistant", "content": conversation.answers[0]},
        {"role": "user", "content": "why"},
        {"role": "assistant", "content": conversation.answers[1]},
    ]


def test_start_token_is_not_repeated_in_the_second_turn() -> None:
    tokenizer = Letters(starts=True)
    conversation = with_first_answer(tokenizer, has_pair)
    talk(tokenizer, [conversation])
    first, second = conversation.requests
    assert second.prompt_ids == (
        first.prompt_ids + first.output_ids + Letters().encode(".uwhy.a")
    )


def test_stop_token_is_no_part_of_the_answer() -> None:
    tokenizer = Letters()
    conversation = with_first_answer(
        tokenizer, lambda ids: PAIR in ids and ids[-1] == END
    )
    talk(tokenizer, [conversation])
    first, second = conversation.requests
    assert first.finish_reason is FinishReason.STOP
    said = first.output_ids[:-1]
    assert conversation.answers[0] == tokenizer.decode(said)
    assert second.prompt_ids == (
        first.prompt_ids + said + tokenizer.encode(".uwhy.a")
    )


def test_template_that_rewrites_an_answer_is_encoded_anew() -> None:
    tokenizer = Letters(reverses=True)
    conversation = with_first_answer(tokenizer, has_pair)
    talk(tokenizer, [conversation])
    question, answer = conversation.questions[0], conversation.answers[0]
    assert conversation.requests[1].prompt_ids == tokenizer.encode(
        f"u{question}.a{answer[::-1]}.uwhy.a"
    )


def test_conversations_share_their_system_prompt() -> None:
    system = "be" * 20  # 42 tokens with its marks: two pages of 16
    conversations = [
        Conversation([letter, "why"], system=system) for letter in "abcde"
    ]
    talk(Letters(), conversations)
    hits = [c.requests[0].hit_tokens for c in conversations]
    assert hits == [0, 32, 32, 32, 32]
    for conversation in conversations:
        first, second = conversation.requests
        cached = len(first.tokens) - 1
        # The second turn differs from the first in the stop token at most.
        assert second.hit_tokens == cached // 16 * 16
        for request in conversation.requests:
            assert request.output_ids == straight_line(
                request.prompt_ids,
                max_new_tokens=12,
                vocab_size=PAIR + 1,
                stop_ids=[END],
            )


def test_turn_that_does_not_fit_ends_its_conversation_alone() -> None:
    long = Conversation(["how", "why" * 10])
    short = Conversation(["how", "why"])
    talk(Letters(), [long, short], max_seq_len=40)
    assert long.error is not None
    assert "at most 39 tokens" in long.error
    assert long.is_finished
    assert len(long.answers) == 1
    assert short.error is None
    assert len(short.answers) == 2


def test_cancelled_conversation_is_finished() -> None:
    loop, _ = make(Setting(vocab_size=PAIR + 1))
    talks = ConversationLoop(loop, Letters(), max_new_tokens=12)
    conversation = Conversation(["how", "why"])
    talks.start(conversation)
    other = GenerationRequest([1, 2], max_new_tokens=3)
    loop.submit(other)
    talks.cancel(conversation)
    assert conversation.error == "cancelled"
    for _ in talks.run():
        pass
    assert other.finish_reason is FinishReason.LENGTH
    assert_nothing_is_held(loop)


def test_finished_conversation_cannot_go_on() -> None:
    loop, _ = make(Setting())
    talks = ConversationLoop(loop, Letters(), max_new_tokens=12)
    with pytest.raises(ValueError, match="'Ada', which has none"):
        talks.start(Conversation([], name="Ada"))
