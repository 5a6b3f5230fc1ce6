"""The student's module: padding, positions, vocabulary, folding, saving."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from featherweight.core.host import open_host
from featherweight.models.text_student import TextStudent, TextStudentConfig, pool, valid_tokens
from featherweight.models.token_mixer import TokenMixer
from featherweight.models.token_tables import PositionTable, TrimmedEmbedding, resized
from featherweight.testing.encoders import phrases, tiny_clip

LENGTHS = [7, 3, 5, 1]


def student(**changes: object) -> TextStudent:
    settings = {
        "vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "output_size": 24, "context": 9,
        "position_rows": 9, "pad_token_id": 39, "eos_token_id": 39, "pooling": "eos",
    }  # fmt: skip
    torch.manual_seed(0)
    made = TextStudent(TextStudentConfig(**{**settings, **changes}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return made.eval()


def batch(length: int = 7, junk: int = 39) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((len(LENGTHS), length), junk)
    mask = torch.zeros(len(LENGTHS), length, dtype=torch.int64)
    for row, used in enumerate(LENGTHS):
        ids[row, :used] = torch.randint(0, 38, (used,), generator=generator)
        ids[row, used - 1] = 39
        mask[row, :used] = 1
    return ids, mask


@pytest.mark.parametrize("mixers", [False, True])
class TestPadding:
    def test_more_padding_changes_no_valid_token(self, mixers: bool) -> None:
        made = student(mixers=mixers)
        short, long = batch(7), batch(9)
        with torch.inference_mode():
            one, other = made(*short), made(*long)
        valid = short[1].bool()
        torch.testing.assert_close(
            one.last_hidden_state[valid], other.last_hidden_state[:, :7][valid], atol=1e-6, rtol=1e-6
        )
        torch.testing.assert_close(one.pooler_output, other.pooler_output, atol=1e-6, rtol=1e-6)

    def test_ids_at_padding_change_no_valid_token(self, mixers: bool) -> None:
        made = student(mixers=mixers)
        (ids, mask), (other, _) = batch(9), batch(9, junk=5)
        with torch.inference_mode():
            one, two = made(ids, mask).last_hidden_state, made(other, mask).last_hidden_state
        assert torch.equal(one[mask.bool()], two[mask.bool()])

    def test_alone_as_in_a_batch(self, mixers: bool) -> None:
        made = student(mixers=mixers)
        ids, mask = batch()
        with torch.inference_mode():
            together = made(ids, mask).last_hidden_state
            for row, used in enumerate(LENGTHS):
                alone = made(ids[row : row + 1, :used]).last_hidden_state
                torch.testing.assert_close(alone[0], together[row, :used], atol=1e-5, rtol=1e-5)

    def test_columns_beyond_the_context_are_padding_or_refused(self, mixers: bool) -> None:
        made = student(mixers=mixers)
        ids, mask = batch(20)
        with torch.inference_mode():
            states = made(ids, mask).last_hidden_state
        assert states.shape == (4, 20, 24)
        assert bool((states[:, 9:] == 0).all())
        with pytest.raises(ValueError, match="a prompt of 20 tokens: this encoder was made for 9"):
            made(ids, torch.ones_like(mask))


def test_a_caller_without_a_mask_gets_the_same() -> None:
    made = student()
    ids, mask = batch(9)
    with torch.inference_mode():
        one, other = made(ids, mask), made(ids)
    assert torch.equal(one.last_hidden_state[mask.bool()], other.last_hidden_state[mask.bool()])
    assert torch.equal(one.pooler_output, other.pooler_output)


def test_valid_tokens_from_ids() -> None:
    ids = torch.tensor([[5, 3, 9, 9], [9, 9, 9, 9], [5, 5, 5, 5]])
    assert valid_tokens(ids, None, pad=9, eos=9).tolist() == [[True] * 3 + [False], [True] + [False] * 3, [True] * 4]
    assert valid_tokens(ids, None, pad=9, eos=2).tolist() == [[True, True, False, False], [False] * 4, [True] * 4]
    assert bool(valid_tokens(ids, None).all())


def test_pooling() -> None:
    states = torch.arange(12.0).reshape(1, 6, 2)
    ids = torch.tensor([[1, 7, 3, 8, 3, 0]])
    assert pool(states, ids, "none") is None
    found = {name: pool(states, ids, name, eos=3) for name in ("eos", "largest", "first")}
    assert {name: value.tolist() for name, value in found.items()} == {
        "eos": [[4, 5]], "largest": [[6, 7]], "first": [[0, 1]]
    }  # fmt: skip


class TestPositions:
    def test_a_shorter_table_computes_what_the_longer_one_did(self) -> None:
        """Absolute positions: slicing to 9 rows changes nothing for prompts of up to 9 tokens."""
        long = student(position_rows=77, positions="slice")
        short = student()
        state = long.state_dict()
        state["positions.weight"] = state["positions.weight"][:9].clone()
        short.load_state_dict(state)
        with torch.inference_mode():
            torch.testing.assert_close(
                short(*batch(9)).last_hidden_state, long(*batch(9)).last_hidden_state, atol=1e-6, rtol=0
            )

    def test_a_stock_encoder_with_a_sliced_table_computes_the_same(self, tmp_path: Path) -> None:
        host = open_host(tiny_clip(tmp_path))
        whole = host.component("text_model").exact
        config = transformers.CLIPTextConfig(**{**whole.config.to_dict(), "max_position_embeddings": 10})
        cut = transformers.CLIPTextModel(config).eval()
        state = whole.state_dict()
        name = "embeddings.position_embedding.weight"
        cut.load_state_dict({**state, name: resized(state[name], 10, "slice")})
        tokens = host.tokenizer(phrases()[:40], return_tensors="pt", padding=True)
        with torch.inference_mode():
            one, other = whole(**tokens).last_hidden_state, cut(**tokens).last_hidden_state
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("positions", ["matching", "interpolate", "slice"])
    def test_folding_keeps_the_function_and_ends_the_choice(self, positions: str) -> None:
        rows = 9 if positions == "matching" else 77
        made = student(position_rows=rows, positions=positions)
        with torch.inference_mode():
            before = made(*batch()).last_hidden_state
            after = made.fold()(*batch()).last_hidden_state
        assert torch.equal(before, after)
        assert made.positions.weight.shape == (9, 32)
        assert (made.config.positions, made.config.position_rows) == ("matching", 9)

    def test_reading_a_table_the_other_way_is_another_function(self) -> None:
        table = PositionTable(77, 4, 9, "interpolate")
        torch.nn.init.normal_(table.weight)
        assert not torch.allclose(table.table(), resized(table.weight, 9, "slice"))
        assert torch.equal(resized(table.weight, 77, "interpolate"), table.weight)
        assert torch.allclose(table.table()[[0, -1]], table.weight[[0, -1]], atol=1e-5)  # ends stay where they are

    def test_interpolation_does_not_depend_on_the_batch(self) -> None:
        table = PositionTable(77, 4, 9, "interpolate")
        torch.nn.init.normal_(table.weight)
        assert torch.equal(table(5), table(9)[:5])

    @pytest.mark.parametrize(("rows", "positions"), [(77, "matching"), (5, "slice"), (9, "nearest")])
    def test_tables_that_do_not_fit_are_refused(self, rows: int, positions: str) -> None:
        with pytest.raises(ValueError, match=r"positions|cannot be used"):
            PositionTable(rows, 4, 9, positions)


class TestVocabulary:
    def test_kept_ids_give_the_same_bits_in_a_stock_encoder(self, tmp_path: Path) -> None:
        host = open_host(tiny_clip(tmp_path, more_words=300))
        whole = host.component("text_model").exact
        covered = phrases()[:60]
        tokens = host.tokenizer(covered, return_tensors="pt", padding=True)
        with torch.inference_mode():
            before = whole(**tokens)
            table = whole.get_input_embeddings().weight
            kept = sorted(set(tokens["input_ids"].flatten().tolist()))
            whole.set_input_embeddings(TrimmedEmbedding.of(table, kept))
            after = whole(**tokens)
        assert torch.equal(before.last_hidden_state, after.last_hidden_state)
        assert torch.equal(before.pooler_output, after.pooler_output)
        assert sum(each.numel() for each in whole.get_input_embeddings().parameters()) == (len(kept) + 1) * 32

    def test_every_other_id_reads_the_mean_of_what_went(self) -> None:
        table = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
        trimmed = TrimmedEmbedding.of(table, [7, 2])
        assert torch.equal(trimmed(torch.tensor([2, 7])), table[[2, 7]])
        shared = trimmed(torch.tensor([0, 9]))
        torch.testing.assert_close(shared, table[[0, 1, 3, 4, 5, 6, 8, 9]].mean(0).expand(2, 4))

    def test_keeping_everything(self) -> None:
        table = torch.randn(5, 4)
        assert torch.equal(TrimmedEmbedding.of(table, range(5))(torch.arange(5)), table)


class TestMixer:
    def test_folded_equals_unfolded(self) -> None:
        made = student(mixers=True)
        with torch.no_grad():
            for layer in (made.layers[0], made.layers[-1]):
                layer.mixer.scale.fill_(0.7)  # at 1e-5 any mistake would hide
        with torch.inference_mode():
            before = made(*batch()).last_hidden_state
        made.fold()
        with torch.inference_mode():
            after = made(*batch()).last_hidden_state
        torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)
        assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in made.modules())

    def test_padding_takes_no_part_in_the_statistics(self) -> None:
        mixer = TokenMixer(6, 3).train()
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(2, 5, 6, generator=generator)
        valid = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
        mixer(hidden, valid)
        tokens = hidden[valid]
        torch.testing.assert_close(mixer.base.running_mean, 0.1 * tokens.mean(0))

    def test_at_the_start_it_hardly_changes_anything(self) -> None:
        hidden = torch.randn(2, 5, 6)
        mixed = TokenMixer(6, 3).eval()(hidden, torch.ones(2, 5, dtype=torch.bool))
        torch.testing.assert_close(mixed, hidden, atol=1e-3, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"kept_rows": 12, "mixers": True}, {"pooling": "dense"}])
def test_saved_and_loaded_by_auto_model(changes: dict[str, object], tmp_path: Path) -> None:
    made = student(**changes).fold()
    if "kept_rows" in changes:
        made.tokens.keep([3, 4, *range(30, 40)])
    made.save_pretrained(tmp_path / "made")
    again = transformers.AutoModel.from_pretrained(tmp_path / "made")
    assert isinstance(again, TextStudent)
    with torch.inference_mode():
        one, other = made(*batch()), again.eval()(*batch())
    assert torch.equal(one.last_hidden_state, other.last_hidden_state)
    assert torch.equal(one.pooler_output, other.pooler_output)


def test_a_saved_student_loads_without_featherweight(tmp_path: Path) -> None:
    made = student(kept_rows=12, mixers=True)
    made.save_pretrained(tmp_path / "made")
    code = (
        "import sys; sys.modules['featherweight'] = None\n"
        "import torch, transformers\n"
        f"model = transformers.AutoModel.from_pretrained({str(tmp_path / 'made')!r}, trust_remote_code=True)\n"
        "print('RESULT', float(model(torch.tensor([[1, 2, 39]])).last_hidden_state.detach().double().sum()))\n"
    )
    surroundings = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=surroundings, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        expected = float(made(torch.tensor([[1, 2, 39]])).last_hidden_state.double().sum())
    assert float(done.stdout.split("RESULT")[1]) == pytest.approx(expected, abs=1e-4)
