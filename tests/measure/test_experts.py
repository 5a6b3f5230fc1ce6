"""Experts and activation distances: exact values, independence of the other candidates, judges that say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chat_server import ChatServer
from featherweight.core.endpoint import Endpoint
from featherweight.core.errors import DataError
from featherweight.core.regenerate import Candidate
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.writers import EndpointWriter
from featherweight.measure.activations import activation_distance, channel_sizes
from featherweight.measure.experts import judge, likelihood, rules
from featherweight.testing.tiny import tiny_tokens


def candidates(count: int = 5) -> list[Candidate]:
    generator = torch.Generator().manual_seed(0)
    lengths = [12, 30, 7, 48, 20]
    return [
        Candidate("q", "a", tuple(torch.randint(3, 500, (lengths[each],), generator=generator).tolist()), 2 + each)
        for each in range(count)
    ]


def test_likelihood_is_that_of_transformers(tiny: Path) -> None:
    model = open_folder(tiny)
    module = model.module()
    for candidate, score in zip(candidates(), likelihood(model, Run())(candidates()), strict=True):
        logits = module(torch.tensor([candidate.ids])).logits[0].log_softmax(-1)
        expected = [float(logits[at - 1, candidate.ids[at]]) for at in range(candidate.start, len(candidate.ids))]
        assert score == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_what_has_no_tokens_is_worst(tiny: Path) -> None:
    scores = likelihood(open_folder(tiny), Run())([Candidate("q", "", unfit="empty"), *candidates(2)])
    assert scores[0] < min(scores[1:])


def test_rules() -> None:
    good = "First we look at the sum. Then we take half of it, because two people share. So each of them gets seven."
    score = rules()
    texts = [good, good[:40], "word " * 30, "I'm sorry, but I cannot answer this. " + good, "Who? " + good, ""]
    scores = score([Candidate("Who?", text) for text in texts])
    assert scores[0] == 1.0
    assert all(each < 1.0 for each in scores[1:])
    assert scores[-1] == 0.0


def test_the_judge_rates_each_answer() -> None:
    def answer(body: dict[str, object]) -> str:
        asked = str(body["messages"])
        return "I give it 9.5 of 10" if "seven" in asked else "11" if "eight" in asked else "no idea"

    with ChatServer(answer).running() as server:
        expert = judge(EndpointWriter(Endpoint(server.url)), Run())
        assert expert([Candidate("How many?", each) for each in ("six", "seven", "eight")]) == [0.0, 9.5, 0.0]
        assert all(body["temperature"] == 0 for body in server.asked)


def test_a_judge_without_numbers_is_an_error() -> None:
    with ChatServer(lambda body: "Lovely!").running() as server:
        expert = judge(EndpointWriter(Endpoint(server.url)), Run())
        with pytest.raises(DataError, match=r"rated none of 2 answers \(first reply: 'Lovely!'\); choose a larger"):
            expert([Candidate("q", "a"), Candidate("q", "b")])


class TestDistance:
    def test_channel_sizes_are_root_mean_squares(self, tiny: Path) -> None:
        model, tokens = open_folder(tiny), tiny_tokens(tiny)
        seen: dict[str, torch.Tensor] = {}
        module = model.module()
        for name, each in module.named_modules():
            if isinstance(each, torch.nn.Linear):
                each.register_forward_pre_hook(
                    lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].square().mean((0, 1)).sqrt())
                )
        module(tokens.ids)
        for (index, read), sizes in channel_sizes(model, tokens, Run()).items():
            assert torch.allclose(sizes, seen[f"model.layers.{index}.{read.linears[0]}"], rtol=1e-4)

    def test_known_values(self, tiny: Path) -> None:
        model = open_folder(tiny)
        sizes = channel_sizes(model, tiny_tokens(tiny), Run())
        assert activation_distance(sizes, sizes) == pytest.approx([0, 0], abs=1e-12)
        doubled = {key: 2 * each for key, each in sizes.items()}
        assert activation_distance(sizes, doubled) == pytest.approx([0, 0], abs=1e-12)
        other = channel_sizes(model, tiny_tokens(tiny, skip=60), Run())
        distance = activation_distance(sizes, other)
        assert len(distance) == model.architecture.blocks
        assert distance == activation_distance(other, sizes)
        assert all(0 < each < 1 for each in distance)
