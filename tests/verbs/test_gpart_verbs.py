"""adapter export, inspect and shrink of a GPart folder: what it becomes, what that loses, what is said and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from featherweight.core.adapter_facts import AdapterFacts, read_facts, write_facts
from featherweight.core.adapter_folder import WEIGHTS, read_adapter
from featherweight.core.errors import AdapterError
from featherweight.core.source import open_folder
from featherweight.models.gpart import GPartConfig
from featherweight.testing.tiny import tiny_model, write_json
from featherweight.verbs.adapter_export import adapter_export
from featherweight.verbs.adapter_inspect import adapter_inspect
from lora_folders import LINEARS, logits

Command = Callable[..., Any]


def gpart_folder(folder: Path, base: Path, ours: bool = True, size: float = 0.5, **fields: Any) -> Path:
    """A saved GPart adapter with random numbers; one of ours knows its base by fingerprint."""
    settings = {"target_modules": LINEARS, "dimension": 400, "task_type": "CAUSAL_LM", **fields}
    model = peft.get_peft_model(open_folder(base).module(), GPartConfig(**settings))
    with torch.no_grad():
        model.base_model.gpart_theta["default"].normal_(generator=torch.Generator().manual_seed(0)).mul_(size)
    model.save_pretrained(folder)
    if ours:
        write_facts(folder, AdapterFacts(open_folder(base).fingerprint, str(base), "gpart", "0.1.0"))
    return folder


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return gpart_folder(tmp_path / "small", tiny)


class TestExport:
    def test_command_writes_lora_and_says_what_is_lost(
        self, command: Command, tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        ended = command("adapter", "export", folder, "--rank", "8")
        assert ended.status == 0, ended.err
        assert "lost of the change" in ended.out
        assert "all 14 modules" in ended.out
        assert "more than half of the change's energy is missing" in " ".join(ended.out.split())
        assert max(len(line) for line in ended.out.splitlines() if not line.startswith("adapter ")) <= 80
        written = folder.with_name("small-rank-8")
        assert {each.rank for each in read_adapter(written).factors.values()} == {8}
        assert json.loads((written / "adapter_config.json").read_text())["peft_type"] == "LORA"
        facts = read_facts(written)
        assert facts is not None
        assert (facts.method, facts.receipts[-1]["from"]) == ("lora", "gpart")
        assert 0.5 < facts.receipts[-1]["lost"] < 1
        assert (logits(tiny, written) - logits(tiny)).abs().max() > 0.01

    def test_a_full_rank_loses_nothing(self, tiny: Path, folder: Path, tmp_path: Path) -> None:
        found = adapter_export(folder, tmp_path / "out", energy=1)
        assert found.lost_in_all is not None
        assert found.lost_in_all < 1e-5
        torch.testing.assert_close(logits(tiny, tmp_path / "out"), logits(tiny, folder), rtol=0, atol=1e-4)

    def test_energy_gives_ranks(self, command: Command, folder: Path) -> None:
        ended = command("adapter", "export", folder, "--energy", "0.9")
        assert ended.status == 0, ended.err
        ranks = {each.rank for each in read_adapter(folder.with_name("small-energy-0.9")).factors.values()}
        assert len(ranks) > 1
        found = adapter_export(folder, folder.with_name("again"), energy=0.9)
        assert max(found.lost.values()) <= 0.1**0.5

    @pytest.mark.parametrize("backend", ["materialized", "permutation", "signed_magnitude", "fastfood"])
    def test_every_back_end(self, tiny: Path, tmp_path: Path, backend: str) -> None:
        folder = gpart_folder(tmp_path / "small", tiny, backend=backend)
        adapter_export(folder, tmp_path / "out", energy=1)
        torch.testing.assert_close(logits(tiny, tmp_path / "out"), logits(tiny, folder), rtol=0, atol=1e-4)

    def test_a_folder_from_elsewhere_and_a_trained_head(self, tiny: Path, tmp_path: Path) -> None:
        fields = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
        folder = gpart_folder(tmp_path / "theirs", tiny, ours=False, **fields)
        tensors = load_file(folder / WEIGHTS)
        head = "base_model.model.lm_head.weight"
        save_file({**tensors, head: 1.5 * tensors[head]}, folder / WEIGHTS, metadata={"format": "pt"})
        with pytest.raises(AdapterError, match="does not say which model it belongs to"):
            adapter_export(folder, tmp_path / "out", rank=64)
        adapter_export(folder, tmp_path / "out", rank=64, model=str(tiny))
        torch.testing.assert_close(logits(tiny, tmp_path / "out"), logits(tiny, folder), rtol=0, atol=1e-4)

    def test_gguf(self, command: Command, folder: Path) -> None:
        ended = command("adapter", "export", folder, "--rank", "8", "--format", "gguf")
        assert ended.status == 0, ended.err
        assert "nats from the merged model" in ended.out
        assert folder.with_name("small-rank-8.gguf").is_file()


class TestInspect:
    def test_numbers(self, command: Command, folder: Path, tmp_path: Path) -> None:
        ended = command("adapter", "inspect", folder, "--page", tmp_path / "page.html")
        assert ended.status == 0, ended.err
        for said in ("GPART: 400 numbers for", "42", "stateless, version 1", "the whole model", ", the same here"):
            assert said in ended.out
        found = adapter_inspect(folder)
        assert found.bytes == (folder / WEIGHTS).stat().st_size
        assert found.vector is not None
        assert found.vector.groups is not None
        assert found.vector.groups.smallest <= sum(found.vector.weights.values()) / 400 <= found.vector.groups.largest
        assert sum(found.vector.shares.values()) == pytest.approx(1)
        theta = next(iter(load_file(folder / WEIGHTS).values()))
        assert found.energy == pytest.approx(float(theta.square().sum()), rel=1e-4)  # the map keeps lengths
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "Share of the adapter" in page
        assert "Rank that holds" not in page

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"backend": "signed_magnitude"}, "made from the base's weights"),
            ({"backend": "fastfood"}, "none: every number changes every weight"),
            ({"scope": "transformer_block"}, "each block for itself"),
        ],
    )
    def test_other_maps(self, command: Command, tiny: Path, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
        ended = command("adapter", "inspect", gpart_folder(tmp_path / "small", tiny, **fields))
        assert ended.status == 0, ended.err
        assert said in ended.out

    def test_groups_that_are_others_here(self, command: Command, folder: Path) -> None:
        write_json(folder / "adapter_config.json", {"seed": 43})
        assert "but ANOTHER here" in command("adapter", "inspect", folder).out


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((), "is a GPart adapter, which has no rank of its own; give --rank 8"),
            (("--rank", "0"), "rank 0 is not from 1 to 64, the smaller side of"),
            (("--rank", "65"), "rank 65 is not from 1 to 64, the smaller side of"),
            (("--energy", "1.5"), "is no share of the energy; give more than 0 and at most 1"),
            (("--energy", "nan"), "is no share of the energy"),
            (("--rank", "8", "--energy", "0.9"), "rank 8 and energy 0.9: are given together"),
        ],
    )
    def test_options(self, command: Command, folder: Path, arguments: tuple[str, ...], said: str) -> None:
        before = sorted(folder.parent.rglob("*"))
        ended = command("adapter", "export", folder, *arguments, "--quiet")
        assert ended.status == 2
        assert said in ended.err
        assert sorted(folder.parent.rglob("*")) == before

    def test_another_base(self, command: Command, folder: Path, models_folder: Path) -> None:
        other = tiny_model(models_folder, seed=7)
        for arguments in (("--rank", "4"), ("--rank", "4", "--format", "gguf")):
            ended = command("adapter", "export", folder, *arguments, "--model", other)
            assert ended.status == 2
            assert "belongs to another base: " in ended.err
        (folder / "featherweight.json").unlink()
        assert "its adapted weights have other values" in command(
            "adapter", "export", folder, "--rank", "4", "--model", other
        ).err  # fmt: skip

    def test_what_has_no_ranks(self, command: Command, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "texts.txt").write_text("A text.")
        shrunk = command("adapter", "shrink", folder, "--energy", "0.9")
        assert (shrunk.status, "adapter export --rank 8" in shrunk.err) == (2, True)
        curve = command("adapter", "inspect", folder, "--data", tmp_path / "texts.txt")
        assert (curve.status, "has no ranks to measure a loss at" in curve.err) == (2, True)

    def test_a_vector_that_is_none(self, command: Command, folder: Path) -> None:
        [(name, theta)] = load_file(folder / WEIGHTS).items()
        for values, said in ((theta * float("nan"), "holds NaN"), (theta[:5].clone(), "its configuration says 400")):
            save_file({name: values}, folder / WEIGHTS, metadata={"format": "pt"})
            ended = command("adapter", "inspect", folder)
            assert (ended.status, said in ended.err) == (2, True), ended
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
        for verb in (("inspect",), ("export", "--rank", "4")):
            ended = command("adapter", *verb[:1], folder, *verb[1:])
            assert (ended.status, "is a pickle" in ended.err) == (2, True), ended

    def test_a_vector_of_zeros(self, command: Command, tiny: Path, tmp_path: Path) -> None:
        silent = gpart_folder(tmp_path / "silent", tiny, size=0.0)
        assert "its vector is zero, so it changes nothing" in command("adapter", "export", silent, "--rank", "4").err
        assert command("adapter", "inspect", silent).status == 0
