"""Examples: samples as token ids with a mark on every token that is trained on.

Of a chat, what the assistant says is trained on, in every turn, with the token that ends the turn: the model's own
template is rendered, and an answer is what the template puts behind the request for it. A template that renders earlier
turns otherwise once the chat goes on (some drop an earlier turn's reasoning) gives one example a turn, each as it would
be served. Of a prompt with a completion the completion is trained on, of a text everything.

What is too long: a text is cut into pieces of the length asked for; a chat or a completion keeps its beginning, and is
left out if nothing that is trained on remains. How many were cut and left out is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import np
from featherweight.core.samples import Message, Sample
from featherweight.core.template import clean

Span = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """Token ids of one conversation or text.

    Attributes:
        ids: int32 [tokens].
        trained: bool [tokens]; the first token is not predicted by any, whatever its mark.
        where: file and line.
    """

    ids: np.ndarray
    trained: np.ndarray
    where: str

    @property
    def trainable(self) -> int:
        """Number of predictions that count."""
        return int(self.trained[1:].sum())


@dataclass(frozen=True)
class Encoded:
    """The examples of some samples, and how many samples lost tokens, or everything, to the length."""

    examples: list[Example]
    cut: int
    left_out: int


def encode(samples: Sequence[Sample], tokenizer: Any, length: int) -> Encoded:
    """Examples of at most `length` tokens.

    Raises:
        DataError: a chat for a model without a template, one that the template refuses, or nothing to train on.
    """
    writer = _Writer(tokenizer)
    examples: list[Example] = []
    cut = left_out = 0
    for sample in samples:
        for whole in writer.write(sample):
            pieces = _pieces(whole, length) if not (sample.messages or sample.prompt) else [_beginning(whole, length)]
            kept = [piece for piece in pieces if piece.trainable]
            cut += len(whole.ids) > length and bool(sample.messages or sample.prompt)
            left_out += not kept
            examples += kept
    if not examples:
        raise DataError(
            samples[0].where if samples else "data", "leaves no token to train on: all labels are masked",
            f"give longer rows than {length} tokens, or samples with answers",
        )  # fmt: skip
    return Encoded(examples, cut, left_out)


def _beginning(example: Example, length: int) -> Example:
    return Example(example.ids[:length], example.trained[:length], example.where)


def _pieces(example: Example, length: int) -> list[Example]:
    return [
        Example(example.ids[first : first + length], example.trained[first : first + length], example.where)
        for first in range(0, len(example.ids), length)
    ]


class _Writer:
    """Renders and tokenises samples with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        self.special = tuple(tokenizer.all_special_tokens)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.ends = {*tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}

    def write(self, sample: Sample) -> Iterator[Example]:
        if sample.messages:
            yield from self._chat(sample)
        elif sample.prompt and self.chat:
            turns = ({"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.text})
            yield from self._chat(Sample(sample.where, messages=turns))
        else:
            yield self._plain(sample)

    def _plain(self, sample: Sample) -> Example:
        """The start token where the tokenizer has one, prompt, text, the end token."""
        start = list(self.tokenizer("")["input_ids"])
        before = start + (self._ids(sample.prompt) if sample.prompt else [])
        end = self.tokenizer.eos_token_id
        after = self._ids(sample.text) + ([end] if end is not None else [])
        marks = [False] * (len(before) if sample.prompt else len(start)) + [True] * len(after)
        return _example([*before, *after], marks, sample.where)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _chat(self, sample: Sample) -> Iterator[Example]:
        if not self.chat:
            raise DataError(
                sample.where, "is a chat, and the model has no chat template",
                "give 'prompt' and 'completion', or 'text', or a model that was made for chat",
            )  # fmt: skip
        turns = [{**each, "content": clean(each["content"], self.special)} for each in sample.messages]
        answers = [number for number, each in enumerate(turns) if number and each["role"] == "assistant"]
        if not answers:
            raise DataError(
                sample.where, "has no assistant turn that answers anything, so there is nothing to learn",
                "add a turn before it, or leave it out",
            )  # fmt: skip
        whole = self._rendered(turns[: answers[-1] + 1], sample.where)
        parts = [self._answer(turns, number, sample.where) for number in answers]
        if all(whole.startswith(text) for text, _ in parts):
            yield self._marked(whole, [span for _, span in parts], sample.where)
        else:
            for text, span in parts:
                yield self._marked(text, [span], sample.where)

    def _answer(self, turns: Sequence[Message], number: int, where: str) -> tuple[str, Span]:
        """The chat up to and with an answer, as it is served, and where the answer lies in it."""
        text = self._rendered(turns[: number + 1], where)
        asked = self._rendered(turns[:number], where, asked=True)
        pairs = enumerate(zip(text, asked, strict=False))
        start = next((place for place, (one, other) in pairs if one != other), min(len(text), len(asked)))
        if start < len(asked) and start < len(self._rendered(turns[:number], where)):
            raise DataError(
                where, "is rendered by the model's chat template so that an answer changes what was said before it",
                "give 'prompt' and 'completion' lines instead",
            )  # fmt: skip
        return text, (start, len(text))

    def _rendered(self, turns: Sequence[Message], where: str, asked: bool = False) -> str:
        import jinja2

        try:
            found = self.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=asked)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(where, f"is refused by the model's chat template ({error})", "change its turns") from None
        return str(found)

    def _marked(self, text: str, answers: Sequence[Span], where: str) -> Example:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        marks = [False] * len(ids)
        for start, end in answers:
            # A token across the edge belongs to the question: a model that serves is never asked to predict it.
            inside = [place for place, (first, last) in enumerate(offsets) if start <= first and last <= end]
            ended = [place for place in inside if ids[place] in self.ends]
            for place in inside:
                marks[place] = not ended or place <= ended[-1]  # what follows the end of a turn is the template's
        return _example(ids, marks, where)


def _example(ids: Sequence[int], marks: Sequence[bool], where: str) -> Example:
    return Example(np.asarray(ids, dtype=np.int32), np.asarray(marks, dtype=np.bool_), where)
