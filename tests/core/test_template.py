"""The serving form: samples read back as their own tokens, start like the template, and lose what would change it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.model import Model
from featherweight.core.template import ServingForm, Unfit, clean
from featherweight.testing.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def chat() -> ServingForm:
    return ServingForm(tiny_tokenizer())


@pytest.fixture(scope="module")
def plain() -> ServingForm:
    return ServingForm(without_template())


def without_template() -> Any:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = None
    return tokenizer


TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


@given(question=TEXT, answer=TEXT, length=st.integers(12, 80))
def test_what_fits_reads_back_and_starts_like_the_template(question: str, answer: str, length: int) -> None:
    for form in (ServingForm(tiny_tokenizer()), ServingForm(without_template())):
        try:
            ids = form.fit(question, answer, length)
        except Unfit:
            continue
        assert len(ids) <= length
        assert list(ids[: len(form.prefix)]) == form.prefix
        assert form.reads_back(ids)


def test_the_prefix_is_what_the_template_puts_first(chat: ServingForm) -> None:
    assert chat.tokenizer.decode(chat.prefix) == "<|start|>user\n"
    assert chat.tokenizer.decode(chat.fit("Why?", "So.", 60)) == (
        "<|start|>user\nWhy?<|end|>\n<|start|>assistant\nSo.<|end|>\n"
    )


def test_the_answer_starts_where_the_question_ends(chat: ServingForm, plain: ServingForm) -> None:
    for form in (chat, plain):
        ids = form.fit("Why is it so?", " Because it is.", 60)
        start = form.answer_start("Why is it so?", ids)
        assert form.tokenizer.decode(ids[start:]).startswith(("Because", " Because"))


def test_without_a_template_the_text_goes_on(plain: ServingForm) -> None:
    assert plain.tokenizer.decode(plain.fit("def add(", "a, b):\n", 60)) == "def add(a, b):"
    assert plain.asked("def add(") == "def add("


@pytest.mark.parametrize(
    ("answer", "reason"), [(" \n", "empty"), ("<|end|>", "empty"), ("a\ufffdb", "unreadable characters")]
)
def test_what_does_not_fit(chat: ServingForm, answer: str, reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        chat.fit("Why?", answer, 60)


def test_a_character_cut_at_the_end_is_left_out(chat: ServingForm) -> None:
    assert chat.fit("Why?", "So.\ufffd", 60) == chat.fit("Why?", "So.", 60)


@given(st.text())
def test_clean_leaves_no_special_token(text: str) -> None:
    special = ("<|end|>", "<|start|>")
    found = clean(text + "<|e<|end|>nd|>" + text, special)
    assert not any(token in found for token in special)
    assert clean(found, special) == found


def test_clean_keeps_lines_and_tabs() -> None:
    assert clean("a\r\n\tb\x00\x1b") == "a\n\tb"


@pytest.mark.real
def test_a_real_template_with_a_system_prompt(smollm: Model) -> None:
    form = ServingForm(smollm.tokenizer)
    assert form.tokenizer.decode(form.prefix).startswith("<|im_start|>system\n")
    for length in (40, 61, 62, 63, 200):
        ids = form.fit(" Why is the sky blue?\n", "Because of naïve scattering — 散乱. " * 9, length)
        assert len(ids) <= length
        assert list(ids[: len(form.prefix)]) == form.prefix
        assert form.reads_back(ids)
    start = form.answer_start(" Why is the sky blue?\n", ids)
    assert form.tokenizer.decode(ids[start:]).startswith("Because of")
