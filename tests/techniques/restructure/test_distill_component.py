"""Component distillation: what is learnt, what is refused, what stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from featherweight.core.errors import FeatherweightError, RecipeError
from featherweight.core.host import Component, open_host
from featherweight.core.prompts import padded, split_prompts, token_ids
from featherweight.core.run import Run
from featherweight.models.splicing import load_spliced
from featherweight.models.untrained import pooling_of
from featherweight.techniques.restructure.distill_component import (
    DistillComponent,
    _Lesson,
    distill,
    new_student,
    train,
)
from featherweight.testing.encoders import phrases, tiny_bert, tiny_clip
from featherweight.train.token_losses import mean_state, shuffled_words
from featherweight.verbs.distill_component import closeness, distill_component

SMALL = DistillComponent(width=16, layers=1, heads=2, context=8, batch=32, epochs=2, learning_rate=2e-2)


@pytest.fixture
def clip(tmp_path: Path) -> Component:
    return open_host(tiny_clip(tmp_path)).component("text_model")


def lesson(component: Component, student: object, prompts: list[str], settings: DistillComponent) -> _Lesson:
    rows = token_ids(prompts, component.host.tokenizer, settings.context)
    return _Lesson(component, student, prompts, rows, settings, Run())


class TestLoss:
    def test_a_student_that_is_the_teacher_has_none(self, clip: Component) -> None:
        """The neutral setting: nothing to learn."""
        made = new_student(clip, token_ids(phrases(), clip.host.tokenizer, 8), SMALL, Run())
        settings = SMALL.model_copy(update={"consistency": 0.0, "shared": 0.0})
        taught = lesson(clip, made, phrases(), settings)
        taught.student = clip.exact
        assert float(taught.loss(0).detach()) == pytest.approx(0, abs=1e-5)

    def test_single_words_have_no_order(self, clip: Component) -> None:
        words = [phrase for phrase in phrases() if " " not in phrase]
        made = new_student(clip, token_ids(words, clip.host.tokenizer, 8), SMALL, Run())
        only = SMALL.model_copy(update={"mse": 0.0, "cosine": 0.0, "consistency": 1.0})
        assert float(lesson(clip, made, words, only).loss(0).detach()) == 0
        assert float(lesson(clip, made, phrases(), only).loss(0).detach()) > 0

    def test_consistency_at_zero_is_plain_feature_distillation(self, clip: Component) -> None:
        made = new_student(clip, token_ids(phrases(), clip.host.tokenizer, 8), SMALL, Run())
        plain = SMALL.model_copy(update={"consistency": 0.0, "shared": 0.0})
        taught = lesson(clip, made, phrases(), plain)
        batch = taught.batch_of(0)
        ids, mask = padded([taught.rows[row] for row in batch], clip.host.pad)
        states, teacher = made(ids, mask).last_hidden_state, clip.run(ids, mask).last_hidden_state
        valid = mask.bool()
        per_row = [
            ((states[row] - teacher[row])[valid[row]] ** 2).mean()
            + 2 * (1 - torch.cosine_similarity(states[row], teacher[row], dim=-1))[valid[row]].mean()
            for row in range(len(batch))
        ]
        expected = float(torch.stack(per_row).mean().detach())
        assert float(taught.loss(0).detach()) == pytest.approx(expected, rel=1e-5)

    def test_word_order_counts_once(self, clip: Component) -> None:
        made = new_student(clip, token_ids(phrases(), clip.host.tokenizer, 8), SMALL, Run())
        without = SMALL.model_copy(update={"consistency": 0.0, "shared": 0.0})
        taught = lesson(clip, made, phrases(), without.model_copy(update={"consistency": 1e4}))
        prompts = [taught.prompts[row] for row in taught.batch_of(0)]
        order = Run().generator("order of words")
        shuffled = [shuffled_words(prompt, order) for prompt in prompts]
        batches = [padded(token_ids(each, clip.host.tokenizer, 8), clip.host.pad) for each in (prompts, shuffled)]
        one, other = (mean_state(made(ids, mask).last_hidden_state, mask) for ids, mask in batches)
        difference = float(taught.loss(0).detach()) - float(lesson(clip, made, phrases(), without).loss(0).detach())
        assert difference == pytest.approx(1e4 * float(((one - other) ** 2).mean().detach()), rel=1e-3)


class TestTraining:
    def test_it_comes_closer_and_repeats_itself(self, clip: Component) -> None:
        first, again = (distill(clip, phrases(), SMALL, Run(seed=3)) for _ in range(2))
        assert first.losses[-1] < first.losses[0]
        assert first.losses == again.losses
        state, other = first.student.state_dict(), again.student.state_dict()
        assert all(torch.equal(state[name], other[name]) for name in state)
        assert distill(clip, phrases(), SMALL, Run(seed=4)).losses != first.losses

    def test_it_learns_what_it_can_and_new_words_are_judged_apart(self, clip: Component) -> None:
        settings = SMALL.model_copy(update={"width": 32, "epochs": 60, "initial": "teacher"})
        split = split_prompts(phrases())
        student = distill(clip, split.train, settings, Run()).student
        seen, unseen = closeness(clip, student, split.seen), closeness(clip, student, split.unseen)
        assert seen is not None
        assert unseen is not None
        assert seen.cosine > 0.9
        assert unseen.cosine < seen.cosine
        assert seen.interval[0] <= seen.cosine <= seen.interval[1]

    @pytest.mark.parametrize("positions", ["interpolate", "slice"])
    def test_a_longer_table_is_folded_to_what_was_trained(self, clip: Component, positions: str) -> None:
        settings = SMALL.model_copy(update={"positions": positions, "position_rows": 77})
        loose, _ = train(clip, phrases(), settings, Run())
        folded = distill(clip, phrases(), settings, Run()).student
        ids, mask = padded(token_ids(phrases()[:20], clip.host.tokenizer, 8), clip.host.pad)
        with torch.inference_mode():
            expected = loose(ids, mask).last_hidden_state
            assert torch.equal(folded(ids, mask).last_hidden_state, expected)
            loose.positions.positions = "slice" if positions == "interpolate" else "interpolate"
            assert not torch.allclose(loose(ids, mask).last_hidden_state, expected, atol=1e-3)
        assert len(loose.positions.weight) == 77
        assert len(folded.positions.weight) == 8

    def test_mixers_are_folded(self, clip: Component) -> None:
        made = distill(clip, phrases(), SMALL.model_copy(update={"mixers": True}), Run()).student
        assert made.config.folded
        assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in made.modules())

    def test_trimming_the_vocabulary_changes_nothing_for_covered_prompts(self, clip: Component) -> None:
        """The same training with all rows and with the used rows ends in the same function."""
        rows = token_ids(phrases(), clip.host.tokenizer, 8)
        whole = new_student(clip, rows, SMALL.model_copy(update={"vocabulary": "all"}), Run())
        trimmed = new_student(clip, rows, SMALL, Run())
        kept = sorted({token for row in rows for token in row} | set(clip.host.tokenizer.all_special_ids))
        state = whole.state_dict()
        table = state.pop("tokens.weight")
        trimmed.load_state_dict(state, strict=False)
        with torch.no_grad():
            trimmed.tokens.weight[:-1] = table[kept]
        ids, mask = padded(rows, clip.host.pad)
        with torch.inference_mode():
            one, other = whole(ids, mask), trimmed(ids, mask)
        assert torch.equal(one.last_hidden_state, other.last_hidden_state)
        assert trimmed.tokens.weight.numel() < table.numel()


class TestPooling:
    @pytest.mark.parametrize("written", [None, 2])
    def test_clip_by_the_tokenizers_end_token(self, tmp_path: Path, written: int | None) -> None:
        """Also where the configuration says 2, as that of old CLIP models wrongly does."""
        folder = tiny_clip(tmp_path, **({} if written is None else {"eos_token_id": written}))
        component = open_host(folder).component("text_model")
        rows = token_ids(phrases(), component.host.tokenizer, 8)
        assert pooling_of(component, rows)[0] == "eos"
        made = new_student(component, rows, SMALL, Run())
        assert made.config.eos_token_id == component.host.tokenizer.eos_token_id

    def test_bert_keeps_its_dense_map(self, tmp_path: Path) -> None:
        component = open_host(tiny_bert(tmp_path)).component(".")
        rows = token_ids(phrases(), component.host.tokenizer, 8)
        kind, dense = pooling_of(component, rows)
        assert kind == "dense"
        student = distill(component, phrases(), SMALL, Run()).student
        assert torch.equal(student.pooler.weight, dense.weight)


class TestVerb:
    def test_a_clip_model(self, tmp_path: Path) -> None:
        host, log, out = tiny_clip(tmp_path), tmp_path / "log.txt", tmp_path / "made"
        log.write_text("\n".join(phrases()))
        result = distill_component(host, "text_model", log, out, settings=SMALL)
        assert result.after < result.before
        assert result.untouched > 20
        assert result.seen is not None
        assert result.unseen is not None
        facts = json.loads((out / "distillation.json").read_text())
        assert facts["settings"]["width"] == 16
        assert facts["seen"]["prompts"] == result.seen.prompts
        assert load_spliced(out).host.config.model_type == "clip"

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_sentence_encoder_is_replaced_whole(self, tmp_path: Path, dtype: str) -> None:
        host, log, out = tiny_bert(tmp_path, dtype=dtype), tmp_path / "log.txt", tmp_path / "made"
        log.write_text("\n".join(phrases()))
        settings = DistillComponent(**{**SMALL.model_dump(exclude={"context"})})
        result = distill_component(host, ".", log, out, settings=settings)
        assert (result.context, result.truncated) == (8, 0)  # what an audit recommends for seven tokens
        assert result.untouched == 0
        tokens = transformers.AutoTokenizer.from_pretrained(out)(phrases()[:5], return_tensors="pt", padding=True)
        with torch.inference_mode():
            assert load_spliced(out)(tokens["input_ids"], tokens["attention_mask"]).pooler_output.shape == (5, 32)

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        host, log = tiny_clip(tmp_path), tmp_path / "log.txt"
        log.write_text("\n".join(phrases()))
        exploding = SMALL.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
        with pytest.raises(FeatherweightError):
            distill_component(host, "text_model", log, tmp_path / "made", settings=exploding)
        assert sorted(path.name for path in tmp_path.iterdir()) == [host.name, "log.txt"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"width": 30, "heads": 4}, "does not divide"),
        ({"positions": "matching", "position_rows": 77}, "do not fit a context of 16"),
        ({"positions": "slice", "position_rows": 8}, "do not fit a context of 16"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        DistillComponent(**fields)


def test_a_longer_context_than_the_teachers_is_refused(clip: Component) -> None:
    with pytest.raises(RecipeError, match="more than the 77 tokens that the teacher takes"):
        distill(clip, phrases(), SMALL.model_copy(update={"context": 78}), Run())
