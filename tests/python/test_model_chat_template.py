from pathlib import Path

import pytest

from kvcache.model import ChatTemplate, ModelError, load_model
from models import small_llama, write_folder, write_json, write_small_llama

HI = [{"role": "user", "content": "hi"}]


def render(source: str, **tokens: str) -> str:
    template = ChatTemplate(source, **tokens)
    return template.render(HI, add_generation_prompt=True)


def test_a_template_sees_messages_and_tokens() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
        "{{ eos_token }}{% endfor %}"
    )
    assert render(source, bos_token="<s>", eos_token="</s>") == (
        "<s>[user] hi</s>"
    )


def test_blocks_leave_no_blank_lines() -> None:
    source = "  {% for m in messages %}\n  {{ m.content }}\n  {% endfor %}\n!"
    assert render(source) == "  hi\n!"


def test_the_generation_prompt_can_be_left_out() -> None:
    template = ChatTemplate("{% if add_generation_prompt %}>{% endif %}")
    assert template.render(HI, add_generation_prompt=True) == ">"
    assert template.render(HI, add_generation_prompt=False) == ""


def test_tools_and_documents_are_there_and_none() -> None:
    assert render("{{ tools is none and documents is none }}") == "True"


def test_json_is_plain() -> None:
    assert render("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'


def test_loops_can_be_left_early() -> None:
    assert render("{% for x in [1, 2] %}{{ x }}{% break %}{% endfor %}") == "1"


def test_a_template_can_ask_for_the_date() -> None:
    assert render("{{ strftime_now('%Y') }}").startswith("2")


def test_a_template_can_refuse_messages() -> None:
    with pytest.raises(ModelError, match=r"^chat template: no users here$"):
        render("{{ raise_exception('no users here') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",  # broken
        "{{ messages[0]['role'] + 1 }}",
        "{{ nothing.attribute }}",
        "{{ 1 // 0 }}",
        "{{ messages.append(1) }}",  # the sandbox keeps hands off
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_a_broken_template_is_a_model_error(source: str) -> None:
    with pytest.raises(ModelError, match=r"^chat template: wanted .*, got"):
        render(source)


def test_a_long_complaint_is_put_on_one_line() -> None:
    with pytest.raises(ModelError) as raised:
        render("a\n{% for %}")
    assert "\n" not in str(raised.value)


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    folder = write_small_llama(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    tokenizer = load_model(folder).tokenizer
    assert tokenizer is not None
    assert not tokenizer.has_chat_template
    with pytest.raises(ModelError, match="got one without"):
        tokenizer.apply_chat_template(HI)


def test_a_folder_s_template_is_found_in_all_its_places(
    tmp_path: Path,
) -> None:
    folder = write_small_llama(tmp_path)

    def said() -> str:
        tokenizer = load_model(folder).tokenizer
        assert tokenizer is not None
        return tokenizer.apply_chat_template(HI, add_generation_prompt=False)

    assert said() == "<|im_start|>user\nhi<|im_end|>\n"
    named = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "default {{ bos_token }}"},
    ]
    settings = {"bos_token": "<|im_start|>", "chat_template": named}
    write_json(folder / "tokenizer_config.json", settings)
    assert said() == "default <|im_start|>"
    (folder / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert said() == "file"


def test_templates_without_a_default_are_none(tmp_path: Path) -> None:
    folder = write_small_llama(tmp_path)
    named = [{"name": "tool_use", "template": "tools"}]
    write_json(folder / "tokenizer_config.json", {"chat_template": named})
    tokenizer = load_model(folder).tokenizer
    assert tokenizer is not None
    assert not tokenizer.has_chat_template


def test_a_model_in_memory_needs_no_tokenizer(tmp_path: Path) -> None:
    model = small_llama()
    write_folder(tmp_path, model.config, model.weights)
    assert load_model(tmp_path).tokenizer is None
