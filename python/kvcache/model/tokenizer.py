"""Text to token ids and back."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from kvcache.model.chat_template import ChatTemplate
from kvcache.model.error import ModelError

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """A model's vocabulary, with its special tokens and its chat template.

    Args:
        backend: Splits text into tokens.
        token_bytes: Gives the bytes that a token's spelling stands for.
        vocab_size: Rows of the model's embedding; ids past the vocabulary but
            under this are padding and decode to nothing.
        bos_id: The token that starts a sequence, or None.
        add_bos: Whether `encode` starts with it.
        eos_ids: The tokens that end an answer.
        strip_space: Whether a text's first space was put there by `encode`.
        chat_template: How a conversation becomes text, or None.

    Raises:
        ModelError: If there are more tokens than rows, or a special token's id
            is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        token_bytes: Callable[[str], bytes],
        vocab_size: int,
        bos_id: int | None = None,
        add_bos: bool = False,
        eos_ids: Iterable[int] = (),
        strip_space: bool = False,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self.bos_id = bos_id
        self.eos_ids = frozenset(eos_ids)
        self.vocab_size = vocab_size
        self._backend = backend
        self._token_bytes = token_bytes
        self._add_bos = add_bos and bos_id is not None
        self.strips_space = strip_space
        self._chat_template = chat_template
        self._bytes: dict[int, bytes] = {}
        self._special = frozenset(
            token
            for token, added in backend.get_added_tokens_decoder().items()
            if added.special
        )
        self._check_sizes()

    def _check_sizes(self) -> None:
        size = self._backend.get_vocab_size(with_added_tokens=True)
        if size > self.vocab_size:
            raise ModelError(
                f"tokenizer: wanted at most {self.vocab_size} tokens, the "
                f"rows of the embedding, got {size}"
            )
        named = self.eos_ids | {self.bos_id} - {None}
        for token in named:
            if token is None or not 0 <= token < self.vocab_size:
                raise ModelError(
                    "tokenizer: wanted a special token's id in "
                    f"[0, {self.vocab_size}), got {token}"
                )

    @property
    def special_ids(self) -> frozenset[int]:
        """The tokens that are marks and no text, such as `<|im_end|>`."""
        return self._special

    @property
    def has_chat_template(self) -> bool:
        """Whether `apply_chat_template` can be called."""
        return self._chat_template is not None

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text.

        A special token's spelling in the text becomes that token. The start
        token comes first where the model was trained so, and never twice.

        Raises:
            ModelError: If the text holds half a surrogate pair.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ModelError(
                "wanted text that UTF-8 can hold, got the code point "
                f"{ord(text[error.start]):#x} at {error.start}"
            ) from error
        ids = self._backend.encode(text, add_special_tokens=False).ids
        if self._add_bos and self.bos_id is not None:
            return ids if ids[:1] == [self.bos_id] else [self.bos_id, *ids]
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Returns the text of token ids.

        Args:
            ids: The tokens.
            skip_special: Whether to leave out special tokens.

        Returns:
            The text; bytes that are no UTF-8 become U+FFFD.

        Raises:
            ModelError: If an id is not in `[0, vocab_size)`.
        """
        stream = self.stream(skip_special=skip_special)
        pieces = [stream.feed(token) for token in ids]
        return "".join(pieces) + stream.finish()

    def stream(self, *, skip_special: bool = False) -> TextStream:
        """Returns a decoder that takes one token at a time.

        Args:
            skip_special: Whether to leave out special tokens.
        """
        return TextStream(self, skip_special=skip_special)

    def bytes_of(self, token: int) -> bytes:
        """Returns the bytes of text that a token stands for.

        Raises:
            ModelError: If the id is not in `[0, vocab_size)`.
        """
        token = int(token)
        if (known := self._bytes.get(token)) is not None:
            return known
        if not 0 <= token < self.vocab_size:
            raise ModelError(
                f"wanted a token id in [0, {self.vocab_size}), got {token}"
            )
        spelling = self._backend.id_to_token(token)
        raw = b"" if spelling is None else self._token_bytes(spelling)
        self._bytes[token] = raw
        return raw

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = True,
    ) -> str:
        """Returns a conversation as the text that the model was trained on.

        Args:
            messages: Each with a `role` and its `content`, in order.
            add_generation_prompt: Whether the text ends where an answer starts.

        Returns:
            The text, for `encode`.

        Raises:
            ModelError: If the model has no chat template, or it refuses the
                messages.
        """
        if self._chat_template is None:
            raise ModelError(
                "wanted a model with a chat template, got one without"
            )
        return self._chat_template.render(
            messages, add_generation_prompt=add_generation_prompt
        )


class TextStream:
    """Turns tokens into text as they come, whole characters only.

    What `feed` and `finish` return, joined, is what `decode` returns.

    Args:
        tokenizer: Whose tokens come.
        skip_special: Whether to leave out special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_space = tokenizer.strips_space

    def feed(self, token: int) -> str:
        """Returns the text that this token completes, maybe none.

        Raises:
            ModelError: If the id is not in `[0, vocab_size)`.
        """
        raw = self._tokenizer.bytes_of(token)
        if token in self._skipped or not raw:
            return ""
        if self._strip_space:
            raw = raw.removeprefix(b" ")
            self._strip_space = False
        return self._utf8.decode(raw)

    def finish(self) -> str:
        """Ends the text: returns U+FFFD if a character stayed incomplete."""
        return self._utf8.decode(b"", final=True)
