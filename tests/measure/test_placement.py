"""The probe's exact checks: against autograd, against its own mean, scaling, what it leaves alone, a planted module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from featherweight.core.batch import IGNORED, Batch
from featherweight.core.embedded import plain
from featherweight.core.errors import DataError, RecipeError
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.measure.placement import anchored, drawn_start, linears, placement
from featherweight.testing.tiny import tiny_model

RANK, ALPHA = 4, 8.0


def samples(rows: int = 3, length: int = 12, masked: int = 4, seed: int = 0) -> Batch:
    """Random tokens whose first ones are a prompt; the last row is shorter and padded."""
    ids = torch.randint(3, 500, (rows, length), generator=torch.Generator().manual_seed(seed))
    labels, segments = ids.clone(), torch.zeros_like(ids)
    labels[:, :masked] = IGNORED
    labels[-1, -3:], segments[-1, -3:] = IGNORED, -1
    return Batch(ids, labels, torch.arange(length).expand_as(ids).contiguous(), segments)


@pytest.fixture
def model(tiny: Path) -> Any:
    return open_folder(tiny).module()


def peft_gradients(model: Any, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """A at its start, the gradient of B and that of A, of an ordinary LoRA on every linear, for one row."""
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config)
    logits = adapted(**batch.inputs()).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
    layers = {name: each for name, each in adapted.get_base_model().named_modules() if hasattr(each, "lora_A")}
    return {
        name: (
            each.lora_A["default"].weight.detach(),
            each.lora_B["default"].weight.grad,
            each.lora_A["default"].weight.grad,
        )
        for name, each in layers.items()
    }


def one(batch: Batch, row: int) -> Batch:
    return Batch(*(each[row : row + 1] for each in (batch.ids, batch.labels, batch.positions, batch.segments)))


class TestAgainstAutograd:
    @pytest.mark.parametrize("row", [0, 2])
    def test_projected_is_the_gradient_of_b(self, tiny: Path, model: Any, row: int) -> None:
        batch = one(samples(), row)
        found = peft_gradients(open_folder(tiny).module(), batch)
        starts = {name: a for name, (a, _, _) in found.items()}
        scores = placement(model, batch, "projected", rank=RANK, alpha=ALPHA, factors=starts).scores
        assert set(scores) == set(found)
        for name, (_, gradient_b, gradient_a) in found.items():
            assert scores[name] == pytest.approx(float(gradient_b.double().square().sum()), rel=1e-4)
            assert not gradient_a.any()

    def test_fisher_is_the_mean_over_samples(self, tiny: Path, model: Any) -> None:
        batch = samples()
        scores = placement(model, batch, "fisher").scores
        expected = dict.fromkeys(scores, 0.0)
        for row in range(3):
            other = open_folder(tiny).module().requires_grad_(True)
            sample = one(batch, row)
            logits = other(**sample.inputs()).logits[:, :-1]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample.targets.flatten()).backward()
            for name in expected:
                expected[name] += float(other.get_submodule(name).weight.grad.double().square().sum()) / 3
        assert scores == pytest.approx(expected, rel=1e-4)

    def test_layer_that_is_called_twice_has_one_gradient(self, tiny: Path) -> None:
        model, twin = (open_folder(tiny).module() for _ in range(2))
        for each in (model, twin):
            each.model.layers[1].mlp.up_proj = each.model.layers[0].mlp.up_proj
        batch = one(samples(), 0)
        score = placement(model, batch, "fisher").scores["model.layers.0.mlp.up_proj"]
        twin.requires_grad_(True)
        logits = twin(**batch.inputs()).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
        expected = float(twin.model.layers[0].mlp.up_proj.weight.grad.double().square().sum())
        assert score == pytest.approx(expected, rel=1e-4)


class TestScores:
    @pytest.mark.parametrize("start", ["gaussian", "kaiming"])
    def test_expected_is_the_mean_of_projected(self, model: Any, start: Any) -> None:
        """400 A at once: the squared norms of stacked matrices add up."""
        batch, draws = one(samples(), 0), 400
        names = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.v_proj"]
        settings = {"start": start, "rank": RANK, "alpha": ALPHA, "candidates": names}
        expected = placement(model, batch, "expected", **settings).scores
        generator = torch.Generator().manual_seed(0)
        sizes = {name: model.get_submodule(name).in_features for name in names}
        stacked = {
            name: torch.cat([drawn_start(size, RANK, start, generator) for _ in range(draws)])
            for name, size in sizes.items()
        }
        found = placement(model, batch, "projected", factors=stacked, **settings).scores
        assert {name: value / draws for name, value in found.items()} == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize("start", ["gaussian", "kaiming"])
    def test_start_is_drawn_as_peft_draws_it(self, tiny: Path, start: Any) -> None:
        name = "model.layers.0.mlp.down_proj"
        config = peft.LoraConfig(r=64, target_modules=[name], init_lora_weights=start if start == "gaussian" else True)
        adapted = peft.get_peft_model(open_folder(tiny).module(), config)
        theirs = adapted.get_base_model().get_submodule(name).lora_A["default"].weight
        ours = drawn_start(theirs.shape[1], 64, start, torch.Generator().manual_seed(0))
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.05)
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.3)

    @pytest.mark.parametrize("score", ["projected", "expected"])
    def test_alpha_changes_no_ranking(self, model: Any, score: Any) -> None:
        batch = samples()
        low, high = (placement(model, batch, score, rank=RANK, alpha=alpha) for alpha in (8.0, 24.0))
        assert high.scores == pytest.approx({name: 9 * value for name, value in low.scores.items()}, rel=1e-6)
        assert high.ranked == low.ranked

    def test_head_is_no_candidate(self, model: Any) -> None:
        assert len(linears(model)) == 14
        assert "lm_head" not in placement(model, samples()).scores
        assert sum(map(placement(model, samples()).share, linears(model))) == pytest.approx(1)

    def test_planted_module(self, tiny: Path) -> None:
        """Rows of up times c, columns of down over c: the same function, c^2 more energy in down, c^2 less in up."""
        batch, c = samples(), 30.0
        plain, scaled = (open_folder(tiny).module() for _ in range(2))
        mlp = scaled.model.layers[1].mlp
        with torch.no_grad():
            mlp.up_proj.weight.mul_(c)
            mlp.down_proj.weight.div_(c)
            torch.testing.assert_close(scaled(batch.ids).logits, plain(batch.ids).logits, rtol=1e-4, atol=1e-4)
        before, after = (placement(each, batch, "fisher") for each in (plain, scaled))
        ratios = {name: after.scores[name] / before.scores[name] for name in before.scores}
        expected = dict.fromkeys(ratios, 1.0)
        expected["model.layers.1.mlp.down_proj"], expected["model.layers.1.mlp.up_proj"] = c**2, c**-2
        assert ratios == pytest.approx(expected, rel=1e-3)
        assert after.best == "model.layers.1.mlp.down_proj"


class TestLeavesTheModelAlone:
    def test_everything_is_as_before(self, model: Any) -> None:
        model.train()
        model.model.layers[0].eval()
        model.requires_grad_(False)
        model.model.layers[1].requires_grad_(True)
        weights = {name: each.clone() for name, each in model.state_dict().items()}
        flags = [each.requires_grad for each in model.parameters()]
        modes = [each.training for each in model.modules()]
        state = torch.get_rng_state()
        for score in ("projected", "expected", "fisher"):
            placement(model, samples(), score)
        assert all(torch.equal(weights[name], each) for name, each in model.state_dict().items())
        assert [each.requires_grad for each in model.parameters()] == flags
        assert [each.training for each in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)
        assert all(each.grad is None for each in model.parameters())
        assert not any(each._forward_hooks for each in model.modules())

    def test_after_an_error_too(self, model: Any) -> None:
        model.train()
        model.model.layers[1].register_forward_hook(_fail)
        with pytest.raises(ZeroDivisionError):
            placement(model, samples())
        assert all(each.training for each in model.modules())
        assert not model.model.layers[0].mlp.up_proj._forward_hooks


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


class TestOneModule:
    def test_exactly_one_is_adapted_and_merges(self, tiny: Path) -> None:
        name = placement(open_folder(tiny).module(), samples()).best
        module = open_folder(tiny).module()
        config = peft.LoraConfig(r=RANK, target_modules=anchored(name), init_lora_weights=False)
        adapted = peft.get_peft_model(module, config).eval()
        assert [each for each, layer in module.named_modules() if hasattr(layer, "lora_A")] == [name]
        layer = module.get_submodule(name)
        trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
        assert trained == RANK * (layer.in_features + layer.out_features)
        ids = samples().ids
        with torch.no_grad():
            expected = adapted(ids).logits
            torch.testing.assert_close(adapted.merge_and_unload()(ids).logits, expected, rtol=0, atol=1e-5)


class TestRefused:
    def test_sample_without_anything_to_learn(self, model: Any) -> None:
        with pytest.raises(DataError, match="sample 1: has no token that is trained on"):
            placement(model, samples(masked=12))

    def test_unknown_candidate(self, model: Any) -> None:
        with pytest.raises(RecipeError, match=r"is no linear layer .* did you mean"):
            placement(model, samples(), candidates=["model.layers.0.mlp.downproj"])
        with pytest.raises(RecipeError, match="is no linear layer"):
            placement(model, samples(), candidates=["lm_head"])


def test_tied_model_without_a_head_of_its_own(models_folder: Path) -> None:
    tied = open_folder(tiny_model(models_folder, tie_word_embeddings=True)).module()
    assert len(placement(tied, samples()).scores) == 14


TASKS = {
    "questions": [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("How many legs does a spider have?", "A spider has eight legs."),
    ],
    "sums": [("What is 12 + 30?", "12 + 30 = 42."), ("What is 7 times 8?", "7 times 8 is 56.")],
    "code": [
        ("Write a Python function that doubles a number.", "def double(x):\n    return 2 * x"),
        ("Write a loop that prints 0 to 4.", "for i in range(5):\n    print(i)"),
    ],
    "chat": [
        ("I feel tired today.", "I am sorry to hear that. Did you sleep well last night?"),
        ("Tell me something nice.", "You have made it through every hard day so far."),
    ],
}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_one_module_of_smollm2_stands_out_on_every_task(smollm: Model, cache: Path, task: str) -> None:
    """A regression test on the weights as they are packaged: the module that reads the massive activation is first.

    The default model is the same function with equalised channels, and there another module is first: the score
    belongs to the weights, not to the function.
    """
    model = plain(cache)
    found = placement(model.module(), chats(smollm, TASKS[task]), "fisher")
    assert found.best == "model.layers.11.mlp.down_proj"
    assert 0.05 < found.share(found.best) < 0.4


def chats(model: Model, pairs: list[tuple[str, str]]) -> Batch:
    """Questions with answers in the model's own template, the answers trained on."""
    tokenizer, rows = model.tokenizer, []
    for question, answer in pairs:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        before = tokenizer(asked, add_special_tokens=False)["input_ids"]
        rows.append((tokenizer(whole, add_special_tokens=False)["input_ids"], len(before)))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    labels, segments = torch.full_like(ids, IGNORED), torch.full_like(ids, -1)
    for row, (tokens, start) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
        segments[row, : len(tokens)] = 0
    return Batch(ids, labels, torch.arange(width).expand_as(ids).contiguous(), segments)
