"""The form in which a model sees a question and its answer when it serves, as token ids that read back the same.

With a chat template that is the rendered conversation; without one, the question's text continued by the answer's.
Whoever needs only the text of a conversation takes `rendered`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Turns = Sequence[Mapping[str, Any]]
"""Messages of a conversation, each with "role" and "content"."""

_MARK = "\u2063question\u2063"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029\ufeff]")
_UNREADABLE = "\ufffd"
_STEPS_BACK = 8  # tokens that may be given up so that a cut text reads back as the same tokens


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def rendered(tokenizer: Any, turns: Turns, asked: bool = False) -> str:
    """A conversation in a tokenizer's chat template; without one, what was said, one message a line.

    Args:
        tokenizer: of the model that reads it.
        turns: the messages.
        asked: whether the text ends where the model would answer.
    """
    if has_template(tokenizer):
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asked))
    return "\n".join(str(turn.get("content", "")) for turn in turns)


def prompt_ids(tokenizer: Any, turns: Turns) -> list[int]:
    """The tokens after which a model answers a conversation."""
    text = rendered(tokenizer, [dict(turn) for turn in turns], asked=True)
    return list(tokenizer(text, add_special_tokens=not has_template(tokenizer))["input_ids"])


def user_turn(text: str) -> list[dict[str, str]]:
    """The conversation that is one question."""
    return [{"role": "user", "content": text}]


class Unfit(Exception):
    """A sample that cannot be put into the form; the message is the reason, in a few words."""


@dataclass(frozen=True)
class ServingForm:
    """The canonical form of one tokenizer.

    Attributes:
        tokenizer: of the model that will read the samples.
    """

    tokenizer: Any

    @property
    def chat(self) -> bool:
        """Whether the model has a chat template."""
        return has_template(self.tokenizer)

    @functools.cached_property
    def prefix(self) -> list[int]:
        """The tokens that every sample starts with: what the template puts before the question, or the start token."""
        if not self.chat:
            return list(self.tokenizer("")["input_ids"])
        before = rendered(self.tokenizer, user_turn(_MARK), asked=True).split(_MARK)[0]
        return self._encoded(before)

    def asked(self, question: str) -> str:
        """The text after which the model would answer."""
        if self.chat:
            return rendered(self.tokenizer, user_turn(question), asked=True)
        return str(self.tokenizer.decode(self.prefix, skip_special_tokens=False)) + question

    def fit(self, question: str, answer: str, length: int) -> tuple[int, ...]:
        """At most `length` tokens of a question with its answer, which decode to a text of the same tokens.

        Raises:
            Unfit: nothing is left of the answer, or the tokens do not read back.
        """
        answer = clean(answer, self._special).rstrip(_UNREADABLE).rstrip()  # it may have been cut inside a character
        if not answer.strip():
            raise Unfit("empty")
        question = self._tidy(question)
        if _UNREADABLE in question.strip(_UNREADABLE) + answer:
            raise Unfit("unreadable characters")
        ids = self._whole(question, answer)
        if ids[: len(self.prefix)] != self.prefix:
            raise Unfit("starts otherwise than the template")
        return tuple(self._stable(ids[:length]))

    def answer_start(self, question: str, ids: Sequence[int]) -> int:
        """Index of the first token of the answer in what `fit` gave for the question."""
        asked = self._encoded(self.asked(self._tidy(question)))
        pairs = zip(asked, ids, strict=False)
        return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(asked), len(ids)))

    def _tidy(self, question: str) -> str:
        """White space at the edge of a turn would melt into the template's own tokens."""
        question = clean(question, self._special)
        return question.strip() if self.chat else question

    def _whole(self, question: str, answer: str) -> list[int]:
        if not self.chat:
            return [*self.prefix, *self._encoded(question + answer)]
        turns = [*user_turn(question), {"role": "assistant", "content": answer.strip()}]
        return self._encoded(rendered(self.tokenizer, turns))

    def _stable(self, ids: list[int]) -> list[int]:
        """The longest beginning, a few tokens shorter at most, whose text has these very tokens."""
        for dropped in range(min(_STEPS_BACK, len(ids) - len(self.prefix))):
            part = ids[: len(ids) - dropped]
            if self.reads_back(part):
                return part
        raise Unfit("does not re-tokenise")

    def reads_back(self, ids: Sequence[int]) -> bool:
        """Whether the text of these tokens is tokenised into them again."""
        body = list(ids) if self.chat else list(ids[len(self.prefix) :])
        text = self.tokenizer.decode(body, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return bool(self._encoded(text) == body)

    @functools.cached_property
    def _special(self) -> tuple[str, ...]:
        return tuple(self.tokenizer.all_special_tokens)

    def _encoded(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def clean(text: str, special: Sequence[str] = ()) -> str:
    """The text without control characters and without special tokens written out, which would change its structure."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n"))
    while (found := next((token for token in special if token and token in text), None)) is not None:
        text = text.replace(found, "")
    return text
