from collections.abc import Iterator

import pytest

from fake_serving import Setting, make
from kvcache.cli.board import Board
from kvcache.model import Tokenizer, load_model
from kvcache.serve import (
    Conversation,
    ConversationLoop,
    Event,
    RequestFinished,
    RequestPreempted,
)
from models import write_small_llama


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("model") / "small"
    tokenizer = load_model(write_small_llama(folder)).tokenizer
    assert tokenizer is not None
    return tokenizer


def follow(
    tokenizer: Tokenizer, conversations: list[Conversation], num_pages: int
) -> Iterator[tuple[Board, list[Event]]]:
    setting = Setting(
        num_pages=num_pages, vocab_size=tokenizer.vocab_size, max_seq_len=300
    )
    talks = ConversationLoop(make(setting)[0], tokenizer, max_new_tokens=30)
    board = Board(conversations, talks, tokenizer)
    for conversation in conversations:
        talks.start(conversation)
    yield board, []
    while not all(c.is_finished for c in conversations):
        events = talks.step()
        board.see(events)
        yield board, events


def test_lines_have_the_open_answer(tokenizer: Tokenizer) -> None:
    talk = Conversation(["why?", "how?"], name="Ada")
    boards = follow(tokenizer, [talk], 40)
    board, _ = next(boards)
    line = board.lines[0]
    assert (line.state, line.turn, line.text) == ("waiting", 1, "")
    states = set()
    for _, events in boards:
        states.add((line.state, line.turn))
        answer = tokenizer.decode(
            talk.requests[len(talk.answers) - 1].output_ids, skip_special=True
        )
        if any(isinstance(event, RequestFinished) for event in events):
            assert answer.rstrip("\ufffd") == line.text.rstrip("\ufffd")
            assert line.text
    assert states == {
        ("answering", 1),
        ("waiting", 2),
        ("answering", 2),
        ("done", 2),
    }
    assert line.num_tokens == sum(len(r.output_ids) for r in talk.requests)


def test_preempted_answer_goes_on_where_it_was(tokenizer: Tokenizer) -> None:
    talks = [Conversation([question]) for question in ("why?", "how?")]
    preempted = set()
    for board, events in follow(tokenizer, talks, 7):
        for line in board.lines:
            if any(isinstance(event, RequestPreempted) for event in events):
                preempted.add(line.state)
    assert "preempted" in preempted
    for line, talk in zip(board.lines, talks, strict=True):
        answer = tokenizer.decode(
            talk.requests[0].output_ids, skip_special=True
        )
        assert answer.rstrip("\ufffd") == line.text.rstrip("\ufffd")


def test_failed_conversation_is_marked(tokenizer: Tokenizer) -> None:
    talk = Conversation(["why?", "how?"])
    for board, _ in follow(tokenizer, [talk], 4):
        line = board.lines[0]
    assert talk.error is not None
    assert line.state == "failed"
