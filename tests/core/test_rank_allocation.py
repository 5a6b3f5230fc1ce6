"""The exact checks of PARA: the core's values, optimality, monotone rules, gauge invariance, planted ranks, zeros."""

import itertools

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.adapter_folder import Adapter, LoraFactors, read_adapter, write_adapter
from featherweight.core.errors import AdapterError
from featherweight.core.rank_allocation import (
    energy_kept,
    parameters_of,
    ranks_for_budget,
    ranks_for_energy,
    spectra,
    spectrum,
    uniform_ranks,
    with_ranks,
)
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model

IDS = torch.arange(3, 35).reshape(2, 16)
ENERGIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)


def some_adapter(seed=0, rank=6, shapes=((12, 20), (16, 9), (30, 8), (7, 7)), scales=(2.0, 0.5, -1.0, 3.0)):
    """Random factors with decaying columns, of different shapes and scales."""
    generator = torch.Generator().manual_seed(seed)
    decay = torch.logspace(0, -1.5, rank)
    factors = {
        f"m{index}": LoraFactors(
            torch.randn(rank, columns, generator=generator) * decay[:, None],
            torch.randn(rows, rank, generator=generator),
            scale,
        )
        for index, ((rows, columns), scale) in enumerate(zip(shapes, scales, strict=True))
    }
    return Adapter(factors, {"peft_type": "LORA", "lora_alpha": 8})


def changes(adapter):
    return {name: each.scale * (each.b.double() @ each.a.double()) for name, each in adapter.factors.items()}


def squared_error(adapter, smaller):
    after = changes(smaller)
    return sum(float((dw - after.get(name, 0)).square().sum()) for name, dw in changes(adapter).items())


class TestSpectrum:
    def test_core_has_the_singular_values_of_the_product(self):
        for name, each in some_adapter().factors.items():
            found = spectrum(each).values
            expected = torch.linalg.svdvals(changes(some_adapter())[name])[: len(found)]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)

    def test_rank_above_the_matrix(self):
        factors = LoraFactors(torch.randn(9, 4), torch.randn(6, 9), 1.5)
        found = spectrum(factors)
        assert len(found.values) == 4
        a, b, scale = found.factors(4, torch.float64)
        torch.testing.assert_close(scale * b @ a, 1.5 * factors.b.double() @ factors.a.double())

    def test_one_dtype_in_and_out(self):
        factors = LoraFactors(torch.randn(3, 4).bfloat16(), torch.randn(6, 3).bfloat16(), 1.5)
        assert spectrum(factors).factors(2, factors.a.dtype).b.dtype == torch.bfloat16


class TestEnergyRule:
    def test_everything_is_kept_bit_for_bit(self):
        adapter = some_adapter()
        found = spectra(adapter)
        ranks = ranks_for_energy(found, 1.0)
        assert ranks == {name: each.rank for name, each in adapter.factors.items()}
        assert with_ranks(adapter, found, ranks).factors == adapter.factors

    @pytest.mark.parametrize("by_cost", [False, True])
    def test_ranks_and_energy_grow_with_the_share(self, by_cost):
        found = spectra(some_adapter())
        chosen = [ranks_for_energy(found, energy, by_cost) for energy in ENERGIES]
        kept = [energy_kept(found, ranks) for ranks in chosen]
        assert all(have >= asked for have, asked in zip(kept, ENERGIES, strict=True))
        assert kept == sorted(kept)
        for fewer, more in itertools.pairwise(chosen):
            assert all(fewer[name] <= more[name] for name in found)

    def test_squared_error_is_what_was_dropped(self):
        adapter = some_adapter()
        found = spectra(adapter)
        for energy in ENERGIES:
            ranks = ranks_for_energy(found, energy)
            dropped = sum(float(each.values[ranks[name] :].square().sum()) for name, each in found.items())
            total = sum(float(each.values.square().sum()) for each in found.values())
            error = squared_error(adapter, with_ranks(adapter, found, ranks))
            assert error == pytest.approx(dropped, rel=1e-6, abs=1e-6 * total)

    def test_ties_are_kept(self):
        eye = torch.eye(3)
        adapter = Adapter({"one": LoraFactors(eye, eye, 1.0), "two": LoraFactors(eye[:2], eye[:, :2], 1.0)}, {})
        assert ranks_for_energy(spectra(adapter), 0.2) == {"one": 3, "two": 2}

    def test_scale_counts(self):
        """Equal factors, different scales: the pool holds scale * sigma, not sigma."""
        eye = torch.eye(2)
        adapter = Adapter({"weak": LoraFactors(eye, eye, 0.1), "strong": LoraFactors(eye, eye, -4.0)}, {})
        assert ranks_for_energy(spectra(adapter), 0.99) == {"weak": 0, "strong": 2}

    @pytest.mark.parametrize("energy", [0.0, -0.1, 1.01, 95.0, float("nan")])
    def test_no_share(self, energy):
        with pytest.raises(AdapterError, match="is no share of the energy"):
            ranks_for_energy(spectra(some_adapter()), energy)

    def test_planted_ranks(self):
        """Rank 2 in modules 1 to 3, nothing but noise elsewhere."""
        generator = torch.Generator().manual_seed(0)
        factors = {}
        for index in range(8):
            a, b = (torch.randn(size, generator=generator) * 1e-2 for size in ((16, 40), (32, 16)))
            if index in (1, 2, 3):
                a[:2], b[:, :2] = torch.randn(2, 40, generator=generator), torch.randn(32, 2, generator=generator)
                a[2:] *= 1e-2
            else:
                a *= 1e-2
            factors[f"m{index}"] = LoraFactors(a, b, 1.0)
        ranks = ranks_for_energy(spectra(Adapter(factors, {})), 0.999)
        assert list(ranks.values()) == [0, 2, 2, 2, 0, 0, 0, 0]


class TestOptimal:
    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10**6), drawn=st.lists(st.integers(0, 6), min_size=4, max_size=4))
    def test_no_allocation_of_as_many_terms_is_better(self, seed, drawn):
        adapter = some_adapter(seed)
        found = spectra(adapter)
        other = dict(zip(found, drawn, strict=True))
        ours = ranks_for_budget(found, lambda ranks: sum(ranks.values()) <= sum(drawn))
        assert sum(ours.values()) == sum(drawn)
        best, rival = (squared_error(adapter, with_ranks(adapter, found, each)) for each in (ours, other))
        assert best <= rival + 1e-9

    def test_uniform_allocation_is_no_better(self):
        adapter = some_adapter()
        found = spectra(adapter)
        for rank in range(1, 6):
            ours = ranks_for_budget(found, lambda ranks, rank=rank: sum(ranks.values()) <= 4 * rank)
            assert energy_kept(found, ours) >= energy_kept(found, dict.fromkeys(found, rank))

    def test_ranking_by_cost_is_better_for_its_parameters(self):
        """A large module with slightly larger values against small ones: energy per parameter prefers the small."""
        generator = torch.Generator().manual_seed(0)

        def orthonormal(rows, columns):
            return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q

        large = LoraFactors(orthonormal(400, 4).T, orthonormal(400, 4), 1.1)
        small = {f"s{i}": LoraFactors(orthonormal(10, 4).T, orthonormal(10, 4), 1.0) for i in range(5)}
        found = spectra(Adapter({"large": large, **small}, {}))
        allowed = 800

        def fits(ranks):
            return parameters_of(found, ranks) <= allowed

        plain, by_cost = (ranks_for_budget(found, fits, each) for each in (False, True))
        assert plain["large"] == 1
        assert by_cost == {"large": 0, **dict.fromkeys(small, 4)}
        assert energy_kept(found, by_cost) > energy_kept(found, plain)


class TestBudgetRule:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), parameters=st.integers(0, 700), by_cost=st.booleans())
    def test_within_and_growing(self, seed, parameters, by_cost):
        found = spectra(some_adapter(seed))

        def ranks(allowed):
            return ranks_for_budget(found, lambda each: parameters_of(found, each) <= allowed, by_cost)

        chosen = ranks(parameters)
        assert parameters_of(found, chosen) <= parameters
        assert all(chosen[name] <= more for name, more in ranks(parameters + 60).items())

    def test_control_is_no_smaller(self):
        found = spectra(some_adapter())
        for energy in ENERGIES:
            parameters = parameters_of(found, ranks_for_energy(found, energy))
            uniform = uniform_ranks(found, parameters)
            assert parameters_of(found, uniform) >= parameters
            assert len(set(uniform.values())) == 1
        assert uniform_ranks(found, 10**9) == dict.fromkeys(found, 6)


class TestGauge:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), energy=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
    def test_ranks_do_not_depend_on_the_factors(self, seed, energy):
        """(A, B) and (M A, B M^-1), or (c A, B / c), are the same change."""
        adapter = some_adapter(seed)
        generator = torch.Generator().manual_seed(seed)
        mixed, scaled = {}, {}
        for name, (a, b, scale) in adapter.factors.items():
            mix = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
            mix = mix * torch.linspace(0.5, 2, 6, dtype=torch.float64)
            mixed[name] = LoraFactors(mix @ a.double(), b.double() @ torch.linalg.inv(mix), scale)
            scaled[name] = LoraFactors(a.double() * 1e3, b.double() / 1e3, scale)
        expected = ranks_for_energy(spectra(adapter), energy)
        for other in (mixed, scaled):
            assert ranks_for_energy(spectra(adapter.with_factors(other)), energy) == expected


class TestZeros:
    def test_zero_module_is_dropped(self):
        adapter = some_adapter()
        silent = adapter.factors["m1"]._replace(b=torch.zeros(16, 6))
        adapter = adapter.with_factors({**adapter.factors, "m1": silent})
        found = spectra(adapter)
        ranks = ranks_for_energy(found, 1.0)
        assert ranks == {"m0": 6, "m1": 0, "m2": 6, "m3": 6}
        assert set(with_ranks(adapter, found, ranks).factors) == {"m0", "m2", "m3"}

    def test_adapter_that_changes_nothing(self):
        adapter = some_adapter()
        silent = adapter.with_factors({
            name: each._replace(b=torch.zeros_like(each.b)) for name, each in adapter.factors.items()
        })  # fmt: skip
        found = spectra(silent)
        for energy in ENERGIES:
            assert set(ranks_for_energy(found, energy).values()) == {0}
        assert set(ranks_for_budget(found, lambda _: True).values()) == {0}
        assert energy_kept(found, dict.fromkeys(found, 0)) == 1.0
        assert not with_ranks(silent, found, dict.fromkeys(found, 0)).factors

    def test_rank_that_the_factors_do_not_have(self):
        """Duplicated directions: rank 6 on paper, 3 in truth."""
        a = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
        b = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
        adapter = Adapter({"m": LoraFactors(torch.cat([a, a]), torch.cat([b, b], 1), 1.0)}, {})
        found = spectra(adapter)
        assert ranks_for_energy(found, 1.0) == {"m": 3}
        assert squared_error(adapter, with_ranks(adapter, found, {"m": 3})) < 1e-9


class TestInPeft:
    @pytest.fixture(scope="class")
    def base(self, tmp_path_factory):
        return tiny_model(tmp_path_factory.mktemp("base"))

    @pytest.fixture(params=[False, True], ids=["alpha / r", "rank-stabilised"])
    def folder(self, request, base, tmp_path):
        module = open_folder(base).module()
        linears = ["q_proj", "v_proj", "up_proj", "down_proj"]
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=linears, use_rslora=request.param)
        adapted = peft.get_peft_model(module, config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, each in adapted.named_parameters():
                if "lora_" in name:
                    decay = torch.logspace(0, -1 - 2 * ("layers.1" in name), 8)
                    each.copy_(0.05 * torch.randn(each.shape, generator=generator))
                    each.mul_(decay[:, None] if "lora_A" in name else 0.01 if "layers.1.mlp" in name else 1)
        adapted.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    def logits(self, base, folder):
        return peft.PeftModel.from_pretrained(open_folder(base).module(), str(folder)).eval()(IDS).logits

    def shrunk(self, folder, energy):
        adapter = read_adapter(folder)
        found = spectra(adapter)
        smaller = with_ranks(adapter, found, ranks_for_energy(found, energy))
        target = folder.parent / str(energy)
        target.mkdir()
        write_adapter(smaller, target)
        return smaller, target

    def test_all_of_the_energy_computes_the_same(self, base, folder):
        _, target = self.shrunk(folder, 1.0)
        torch.testing.assert_close(self.logits(base, target), self.logits(base, folder), rtol=0, atol=1e-5)

    def test_rebuilt_at_full_rank_computes_the_same(self, base, folder, tmp_path):
        adapter = read_adapter(folder)
        found = spectra(adapter)
        rebuilt = {name: found[name].factors(8, torch.float32) for name in adapter.factors}
        (tmp_path / "rebuilt").mkdir()
        write_adapter(adapter.with_factors(rebuilt), tmp_path / "rebuilt")
        logits = self.logits(base, folder)
        torch.testing.assert_close(self.logits(base, tmp_path / "rebuilt"), logits, rtol=0, atol=1e-5)

    def test_stock_peft_computes_what_is_in_memory(self, base, folder):
        smaller, target = self.shrunk(folder, 0.9)
        ranks = {each.rank for each in smaller.factors.values()}
        assert len(ranks) > 1
        assert len(smaller.factors) < len(read_adapter(folder).factors)
        module = open_folder(base).module()
        with torch.no_grad():
            for name, (a, b, scale) in smaller.factors.items():
                module.get_submodule(name).weight.add_(scale * b @ a)
        torch.testing.assert_close(self.logits(base, target), module(IDS).logits, rtol=0, atol=1e-4)
