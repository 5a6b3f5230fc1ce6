"""Coefficients of a merge: the gradient is the loss's, the EWC penalty is its definition, a fit never ends worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.data import TokenSet
from featherweight.core.delta_sources import open_deltas
from featherweight.core.deltas import Delta, walk
from featherweight.core.errors import RecipeError
from featherweight.core.gram import measure_grams
from featherweight.core.model import Model
from featherweight.core.orthogonal import gram_schmidt
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.testing.tiny import tiny_tokens
from featherweight.train.coefficients import Way, fit_coefficients
from featherweight.train.merge_ewc import fisher
from featherweight.train.merge_objective import MergeObjective
from featherweight.train.merged_module import MergedModule
from fine_tunes import fine_tunes

POINT = torch.tensor([0.7, 0.2], dtype=torch.float64)


@pytest.fixture(scope="module")
def tuned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fine_tunes(tiny, tmp_path_factory.mktemp("tuned"), count=2)


@pytest.fixture(scope="module")
def base(tiny: Path) -> Model:
    return open_folder(tiny)


@pytest.fixture(scope="module")
def deltas(tuned: list[Path], base: Model) -> tuple[Delta, ...]:
    return open_deltas(tuned, base)


@pytest.fixture(scope="module")
def basis(base: Model, deltas: tuple[Delta, ...]) -> dict[str, torch.Tensor]:
    return {name: gram_schmidt(gram) for name, gram in measure_grams(base, deltas).by_tensor.items()}


@pytest.fixture(scope="module")
def rows(tiny: Path) -> list[TokenSet]:
    return [tiny_tokens(tiny, rows=4, length=24, skip=skip) for skip in (0, 60)]


def objective(
    base: Model, deltas: tuple[Delta, ...], basis: dict[str, torch.Tensor], rows: list[TokenSet], strength: float = 0.0
) -> MergeObjective:
    return MergeObjective(base, deltas, basis, rows, strength)


class TestObjective:
    def test_value_is_the_mean_loss_of_the_merged_model(
        self, base: Model, tuned: list[Path], deltas: tuple[Delta, ...], basis: dict[str, torch.Tensor],
        rows: list[TokenSet],
    ) -> None:  # fmt: skip
        fields = {"models": [str(each) for each in tuned], "weight": POINT.tolist()}
        module = build("orthogonal-deltas", fields).apply(base, Run()).module()
        losses = [float(module(input_ids=each.ids, labels=each.ids).loss) for each in rows]
        found = objective(base, deltas, basis, rows)
        assert found.losses(POINT) == pytest.approx(losses, rel=1e-5)
        assert found.value(POINT) == pytest.approx(sum(losses) / 2, rel=1e-5)

    @pytest.mark.parametrize("strength", [0.0, 3.0])
    def test_gradient(
        self, base: Model, deltas: tuple[Delta, ...], basis: dict[str, torch.Tensor], rows: list[TokenSet],
        strength: float,
    ) -> None:  # fmt: skip
        found = objective(base, deltas, basis, rows, strength)
        value, slope = found.gradient(POINT)
        assert value == pytest.approx(found.value(POINT), rel=1e-6)
        step = 3e-3
        for index in range(2):
            direction = step * torch.eye(2, dtype=torch.float64)[index]
            rise = (found.value(POINT + direction) - found.value(POINT - direction)) / (2 * step)
            assert float(slope[index]) == pytest.approx(rise, rel=2e-2, abs=2e-3)

    def test_penalty_is_its_definition(
        self, base: Model, deltas: tuple[Delta, ...], basis: dict[str, torch.Tensor], rows: list[TokenSet]
    ) -> None:
        strength = 2.0
        found = objective(base, deltas, basis, rows, strength)
        assert found.penalty is not None
        merged = MergedModule(base, deltas, list(basis))
        expected = 0.0
        for task in range(2):
            weights = fisher(merged, task, rows[task])
            for name, matrix in basis.items():
                every = torch.cat([pieces.clone() for _, _, pieces in walk(name, base, deltas)], 1)
                away = POINT @ matrix @ every - every[task]
                expected += strength / 2 / 2 * float((weights[name].double().reshape(-1) * away.square()).sum())
        assert found.penalty.value(POINT) == pytest.approx(expected, rel=1e-5)

    def test_fisher_is_the_mean_of_squared_gradients(
        self, base: Model, tuned: list[Path], deltas: tuple[Delta, ...], basis: dict[str, torch.Tensor],
        rows: list[TokenSet],
    ) -> None:  # fmt: skip
        found = fisher(MergedModule(base, deltas, list(basis)), 1, rows[1])
        module = open_folder(tuned[1]).module().requires_grad_(True)
        name = "model.layers.1.mlp.down_proj.weight"
        expected = torch.zeros_like(found[name])
        for row in rows[1].ids:
            module.zero_grad()
            module(input_ids=row[None], labels=row[None]).loss.backward()
            expected += module.get_parameter(name).grad.square() * (len(row) - 1) / len(rows[1].ids)
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-7)


class TestFit:
    @pytest.mark.parametrize(("way", "steps"), [("gradient", 6), ("cma-es", 3)])
    def test_better_than_before_and_the_same_again(
        self, base: Model, deltas: tuple[Delta, ...], basis: dict[str, torch.Tensor], rows: list[TokenSet], way: Way,
        steps: int,
    ) -> None:  # fmt: skip
        if way == "cma-es":
            pytest.importorskip("cmaes")
        found = [
            fit_coefficients(objective(base, deltas, basis, rows), way, [1.0, 1.0], steps, 0.1, seed=3)
            for _ in range(2)
        ]
        assert found[0] == found[1]
        assert found[0].end < found[0].start
        assert found[0].end == pytest.approx(
            objective(base, deltas, basis, rows).value(torch.tensor(found[0].weights).double())
        )

    def test_cma_es_of_a_single_model(self, base: Model, deltas: tuple[Delta, ...], rows: list[TokenSet]) -> None:
        pytest.importorskip("cmaes")
        basis = {name: torch.eye(1, dtype=torch.float64) for name in base.entries}
        found = fit_coefficients(objective(base, deltas[:1], basis, rows[:1]), "cma-es", [1.0], 2, 0.1, seed=0)
        assert len(found.weights) == 1
        assert found.end <= found.start

    def test_ewc_holds_a_fine_tune(self, base: Model, deltas: tuple[Delta, ...], rows: list[TokenSet]) -> None:
        """With a single model and a strong penalty, its coefficient stays 1."""
        basis = {name: torch.eye(1, dtype=torch.float64) for name in base.entries}
        free, held = (
            fit_coefficients(objective(base, deltas[:1], basis, rows[:1], strength), "gradient", [1.0], 8, 0.1, 0)
            for strength in (0.0, 1e4)
        )
        assert abs(held.weights[0] - 1) < 0.2 * abs(free.weights[0] - 1)

    def test_replay_needs_no_text(self, tiny: Path, tuned: list[Path]) -> None:
        fields = {
            "models": [str(each) for each in tuned], "fit": "gradient", "replay": 4, "fit_steps": 2, "rows": 2,
            "length": 16,
        }  # fmt: skip
        run = Run()
        build("task-arithmetic", fields).apply(open_folder(tiny), run)
        assert run.notes["fitted"]["to"] <= run.notes["fitted"]["from"]

    def test_refused(self, tuned: list[Path]) -> None:
        models = {"models": [str(each) for each in tuned]}
        with pytest.raises(RecipeError, match="has no text to fit on"):
            build("orthogonal-deltas", {**models, "fit": "gradient"})
        with pytest.raises(RecipeError, match="cannot fit weights that are normalised"):
            build("task-arithmetic", {**models, "fit": "cma-es", "replay": 1, "normalize": True})
        with pytest.raises(RecipeError, match="are 1 values for 2 models"):
            build("orthogonal-deltas", {**models, "fit": "gradient", "validation": ["one.txt"]})
