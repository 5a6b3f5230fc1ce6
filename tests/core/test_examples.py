"""Examples: which tokens of a chat, a completion and a text are trained on, and what is cut."""

from __future__ import annotations

from typing import Any

import pytest

from featherweight.core.errors import DataError
from featherweight.core.examples import Example, encode
from featherweight.core.samples import Sample
from featherweight.testing.tiny import tiny_tokenizer

FORGETFUL = (  # earlier answers lose what they thought, as with some reasoning models
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{{ message['content'] if loop.last else message['content'].split('=')[-1] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
REWRITING = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
STRICT = "{{ raise_exception('roles must alternate') }}"


def chat(*turns: str) -> Sample:
    """Turns of user and assistant by turns."""
    roles = ("user", "assistant")
    return Sample("here", messages=tuple({"role": roles[n % 2], "content": each} for n, each in enumerate(turns)))


def tokenizer(template: str | None = "") -> Any:
    import copy

    found = copy.deepcopy(tiny_tokenizer())
    if template != "":
        found.chat_template = template
    return found


def trained(example: Example) -> list[str]:
    """The text of each stretch that is trained on."""
    stretches: list[list[int]] = []
    for place, (token, mark) in enumerate(zip(example.ids.tolist(), example.trained.tolist(), strict=True)):
        if mark and place and example.trained[place - 1]:
            stretches[-1].append(token)
        elif mark:
            stretches.append([token])
    return [tiny_tokenizer().decode(each) for each in stretches]


def test_every_answer_with_its_end_of_turn_and_nothing_else() -> None:
    [found] = encode([chat("Hi", "Hello there", "And?", "Bye")], tokenizer(), 200).examples
    assert trained(found) == ["Hello there<|end|>", "Bye<|end|>"]
    rendered = tokenizer().apply_chat_template(list(chat("Hi", "Hello there", "And?", "Bye").messages), tokenize=True)
    assert found.ids.tolist() == list(rendered["input_ids"] if hasattr(rendered, "keys") else rendered)


def test_what_nobody_answers_is_not_kept_and_a_first_answer_to_nobody_is_context() -> None:
    [found] = encode([chat("Hi", "Hello", "Still there?")], tokenizer(), 200).examples
    assert "Still" not in tiny_tokenizer().decode(found.ids.tolist())
    turns = ({"role": "assistant", "content": "Welcome"}, *chat("Hi", "Hello").messages)
    [found] = encode([Sample("here", messages=turns)], tokenizer(), 200).examples
    assert trained(found) == ["Hello<|end|>"]
    with pytest.raises(DataError, match="no assistant turn that answers"):
        encode([Sample("here", messages=turns[:1])], tokenizer(), 200)


def test_a_template_that_rewrites_earlier_turns_gives_one_example_a_turn() -> None:
    first, second = encode([chat("1", "a=2", "3", "b=4")], tokenizer(FORGETFUL), 200).examples
    assert (trained(first), trained(second)) == (["a=2<|end|>"], ["b=4<|end|>"])
    assert "a=" not in tiny_tokenizer().decode(second.ids.tolist())


def test_prompt_and_completion_with_and_without_a_template() -> None:
    pair = Sample("here", prompt="2+2=", text="4")
    [found] = encode([pair], tokenizer(), 200).examples
    assert trained(found) == ["4<|end|>"]
    [found] = encode([pair], tokenizer(None), 200).examples
    assert trained(found) == ["4<|end|>"]
    assert tiny_tokenizer().decode(found.ids.tolist()) == "2+2=4<|end|>"


def test_special_tokens_written_out_in_a_chat_do_not_end_turns() -> None:
    [found] = encode([chat("Hi<|end|>", "Hel<|end|>lo")], tokenizer(), 200).examples
    assert found.ids.tolist().count(2) == 2


def test_texts_are_cut_into_pieces_and_chats_keep_their_beginning() -> None:
    text = Sample("here", text="word " * 50)
    found = encode([text], tokenizer(), 16)
    whole = encode([text], tokenizer(), 1000).examples[0]
    assert [token for each in found.examples for token in each.ids.tolist()] == whole.ids.tolist()
    assert found.cut == 0
    long = encode([chat("Hi", "word " * 50), chat("word " * 50, "Hi")], tokenizer(), 16)
    assert (len(long.examples), long.cut, long.left_out) == (1, 2, 1)
    assert len(long.examples[0].ids) == 16


@pytest.mark.parametrize(
    ("sample", "template", "said"),
    [
        (chat("Hi", "Hello"), None, "is a chat, and the model has no chat template"),
        (chat("Hi", "Hello"), STRICT, "refused by the model's chat template .*alternate"),
        (chat("Hi", "Hello"), REWRITING, "changes what was said before it"),
        (chat("word " * 50, "Hi"), "", "all labels are masked"),
        (Sample("here", text=""), "", "all labels are masked"),
    ],
)
def test_refusals(sample: Sample, template: str | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        encode([sample], tokenizer(template), 16)
