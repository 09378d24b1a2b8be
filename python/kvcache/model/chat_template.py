"""How a conversation becomes the text that a model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from kvcache.model.error import ModelError, require


class ChatTemplate:
    """A Jinja template out of a model's files, run in a sandbox.

    It sees what the transformers library shows to templates: `messages`,
    `add_generation_prompt`, `bos_token`, `eos_token`, `raise_exception`,
    `strftime_now`, and no tools or documents.

    Args:
        source: The template.
        bos_token: The spelling of the start token, empty if there is none.
        eos_token: The spelling of the end token, empty if there is none.
    """

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = ""
    ) -> None:
        self._source = source
        self._bos_token = bos_token
        self._eos_token = eos_token
        self._compiled: Any = None

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool,
    ) -> str:
        """Returns the conversation as text.

        Args:
            messages: Each with a `role` and its `content`, in order.
            add_generation_prompt: Whether the text ends where an answer starts.

        Raises:
            ModelError: If the template is broken or refuses the messages.
        """
        try:
            if self._compiled is None:
                self._compiled = _compile(self._source)
            text: str = self._compiled.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                bos_token=self._bos_token,
                eos_token=self._eos_token,
                tools=None,
                documents=None,
            )
        except ModelError:
            raise
        except Exception as error:  # the template's author may raise anything
            raise ModelError(
                f"chat template: wanted messages it can render, got {error}"
            ) from error
        return text


def _compile(source: str) -> Any:
    require("jinja2")
    sandbox = require("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _now
    return environment.from_string(source)


def _to_json(value: object, indent: int | None = None) -> str:
    """Writes plain JSON; Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise ModelError(f"chat template: {message}")


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
