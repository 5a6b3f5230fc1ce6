"""adapter shrink, export and inspect, as commands: what they write, what stock PEFT computes with it, what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.adapter_facts import read_facts
from featherweight.core.adapter_folder import WEIGHTS, read_adapter
from featherweight.core.errors import AdapterError, OutputError
from featherweight.verbs.adapter_export import adapter_export
from featherweight.verbs.adapter_inspect import adapter_inspect
from featherweight.verbs.adapter_shrink import adapter_shrink
from lora_folders import logits, lora_folder

Command = Callable[..., Any]


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return lora_folder(tmp_path / "support", tiny)


class TestShrink:
    def test_command(self, command: Command, folder: Path) -> None:
        ended = command("adapter", "shrink", folder, "--energy", "0.9")
        assert ended.status == 0, ended.err
        assert "energy 0.9" in ended.out
        assert "control: rank" in ended.out
        after = read_adapter(folder.with_name("support-shrunk"))
        assert after.parameters < read_adapter(folder).parameters
        page = (folder.with_name("support-shrunk") / "ranks.html").read_text(encoding="utf-8")
        assert "http-equiv" not in page
        assert 'id="chart-1"' in page

    def test_table_fits_a_terminal(self, command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        for arguments in (("shrink", folder, "--energy", "0.9"), ("inspect", folder)):
            lines = command("adapter", *arguments).out.splitlines()
            assert max(len(line) for line in lines if "/" not in line and "base" not in line) <= 80

    def test_receipt(self, folder: Path, tmp_path: Path) -> None:
        result = adapter_shrink(folder, tmp_path / "out", energy=0.9)
        facts = read_facts(tmp_path / "out")
        assert facts is not None
        assert facts.base == read_facts(folder).base  # type: ignore[union-attr]
        assert facts.receipts[-1]["step"] == "adapter shrink"
        assert facts.receipts[-1]["energy"] == result.energy >= 0.9
        table = json.loads((tmp_path / "out" / "ranks.json").read_text())
        assert {each["module"] for each in table["modules"]} == set(read_adapter(folder).factors)

    def test_all_of_the_energy_is_the_same_adapter(self, tiny: Path, folder: Path, tmp_path: Path) -> None:
        adapter_shrink(folder, tmp_path / "out", energy=1)
        assert torch.equal(logits(tiny, tmp_path / "out"), logits(tiny, folder))

    def test_folder_from_elsewhere(self, tiny: Path, tmp_path: Path) -> None:
        adapter_shrink(lora_folder(tmp_path / "theirs", tiny, ours=False), tmp_path / "out", energy=0.9)
        assert read_facts(tmp_path / "out") is None
        assert (logits(tiny, tmp_path / "out") - logits(tiny)).abs().max() > 0.1

    @pytest.mark.parametrize("by_cost", [False, True])
    @pytest.mark.parametrize("size", [3000, 9000, 20_000, 10**6])
    def test_size_is_of_the_file(self, folder: Path, tmp_path: Path, size: int, by_cost: bool) -> None:
        result = adapter_shrink(folder, tmp_path / "out", size=f"{size}B", by_cost=by_cost)
        found = (tmp_path / "out" / WEIGHTS).stat().st_size
        assert found == result.bytes[1] <= size
        assert result.bytes[0] == (folder / WEIGHTS).stat().st_size

    def test_parameters_and_control(self, folder: Path, tmp_path: Path) -> None:
        result = adapter_shrink(folder, tmp_path / "out", parameters=2000)
        assert result.parameters[1] == read_adapter(tmp_path / "out").parameters <= 2000
        assert result.control["parameters"] >= result.parameters[1]
        assert sum(each.parameters for each in result.modules) == result.parameters[1]

    def test_nested_adapter(self, tiny: Path, tmp_path: Path) -> None:
        """The function of the highest rank is what is shrunk; afterwards it is plain LoRA."""
        import peft

        from featherweight.core.source import open_folder
        from featherweight.models.matryoshka_config import MatryoshkaLoraConfig

        config = MatryoshkaLoraConfig(r=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        peft.get_peft_model(open_folder(tiny).module(), config).save_pretrained(tmp_path / "nested")
        adapter_shrink(tmp_path / "nested", tmp_path / "out", energy=1)
        found, expected = logits(tiny, tmp_path / "out"), logits(tiny, tmp_path / "nested")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["peft_type"] == "LORA"
        exported = adapter_export(tmp_path / "nested", tmp_path / "two", rank=2)
        assert exported.rank == 2


class TestExport:
    def test_rank_is_the_best_of_that_rank(self, command: Command, folder: Path) -> None:
        ended = command("adapter", "export", folder, "--rank", "2")
        assert ended.status == 0, ended.err
        before, after = read_adapter(folder), read_adapter(folder.with_name("support-rank-2"))
        for name, (a, b, scale) in after.factors.items():
            assert a.shape[0] == 2
            left, values, right = torch.linalg.svd(
                before.factors[name].scale * before.factors[name].b @ before.factors[name].a
            )
            best = left[:, :2] * values[:2] @ right[:2]
            torch.testing.assert_close(scale * b @ a, best, rtol=0, atol=1e-5)

    def test_all_of_it(self, tiny: Path, folder: Path, tmp_path: Path) -> None:
        adapter_export(folder, tmp_path / "out")
        assert torch.equal(logits(tiny, tmp_path / "out"), logits(tiny, folder))

    def test_gguf(self, command: Command, folder: Path) -> None:
        ended = command("adapter", "export", folder, "--rank", "3", "--format", "gguf")
        assert ended.status == 0, ended.err
        assert "nats from the merged model" in ended.out
        assert folder.with_name("support-rank-3.gguf").is_file()


class TestInspect:
    def test_numbers(self, command: Command, folder: Path) -> None:
        result = adapter_inspect(folder)
        assert sum(each.share for each in result.modules) == pytest.approx(1)
        assert all(each.rank_95 <= each.rank_99 <= each.rank == 4 for each in result.modules)
        assert result.bytes == (folder / WEIGHTS).stat().st_size
        ended = command("adapter", "inspect", folder)
        assert f"{result.parameters:,} parameters" in ended.out
        assert "AURAC" not in ended.out

    def test_curve(self, command: Command, folder: Path, tmp_path: Path) -> None:
        lines = [json.dumps({"text": f"The number after {n} is {n + 1}. " * 3}) for n in range(12)]
        (tmp_path / "held-out.jsonl").write_text("\n".join(lines))
        ended = command(
            "adapter", "inspect", folder, "--data", tmp_path / "held-out.jsonl", "--length", 64, "--page",
            tmp_path / "page.html",
        )  # fmt: skip
        assert ended.status == 0, ended.err
        assert "AURAC of the negated loss" in ended.out
        assert [line.split()[0] for line in ended.out.splitlines()[-5:-2]] == ["1", "2", "4"]
        assert "Held-out loss at each rank" in (tmp_path / "page.html").read_text(encoding="utf-8")


class TestRefused:
    def test_not_one_rule(self, folder: Path, tmp_path: Path) -> None:
        for rules in ({}, {"energy": 0.9, "parameters": 10}):
            with pytest.raises(AdapterError, match="needs one of energy, parameters and size"):
                adapter_shrink(folder, tmp_path / "out", **rules)  # type: ignore[arg-type]

    def test_existing_output(self, folder: Path) -> None:
        for verb in (lambda: adapter_shrink(folder, folder, energy=0.9), lambda: adapter_export(folder, folder)):
            with pytest.raises(OutputError, match="exists already"):
                verb()
