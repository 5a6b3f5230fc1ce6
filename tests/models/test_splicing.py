"""A student in its host: what stands behind it stays the same bits, in memory and on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from featherweight.core.checkpoint import read_entries
from featherweight.core.errors import CheckpointError
from featherweight.core.host import Component, open_host
from featherweight.core.prompts import padded, token_ids
from featherweight.core.run import Run
from featherweight.models.splicing import load_spliced, prove_untouched, splice, write_spliced
from featherweight.techniques.restructure.distill_component import DistillComponent, distill
from featherweight.testing.encoders import phrases, tiny_bert, tiny_clip

SMALL = DistillComponent(width=16, layers=1, heads=2, context=8, batch=32, epochs=1)


@pytest.fixture
def clip(tmp_path: Path) -> Component:
    return open_host(tiny_clip(tmp_path)).component("text_model")


class TestSplice:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_everything_behind_a_clip_encoder_is_the_same_bits(self, tmp_path: Path, dtype: str) -> None:
        component = open_host(tiny_clip(tmp_path, dtype=dtype)).component("text_model")
        student = distill(component, phrases(), SMALL, Run()).student
        host = component.host.module
        before = {name: value.clone() for name, value in host.state_dict().items()}
        spliced = splice(component, student)
        pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(host.dtype)
        with torch.inference_mode():
            one, other = host.get_image_features(pixels), spliced.host.get_image_features(pixels)
        assert torch.equal(one.pooler_output, other.pooler_output)
        after = spliced.host.state_dict()
        outside = [name for name in before if not name.startswith("text_model.")]
        assert len(outside) > 20
        assert all(torch.equal(before[name], after[name]) for name in outside)
        assert {name: value.dtype for name, value in after.items() if "row_of" not in name} == {
            name: host.dtype for name in after if "row_of" not in name
        }
        assert all(torch.equal(value, host.state_dict()[name]) for name, value in before.items()), "the host changed"

    def test_the_whole_host_runs_with_and_without_a_mask_and_at_its_old_length(self, clip: Component) -> None:
        spliced = splice(clip, distill(clip, phrases(), SMALL, Run()).student)
        pixels = torch.randn(2, 3, 16, 16)
        results = []
        for options in ({"padding": True}, {"padding": "max_length", "max_length": 77}):
            tokens = clip.host.tokenizer(phrases()[:9], return_tensors="pt", **options)
            with torch.inference_mode():
                results.append(spliced(**tokens, pixel_values=pixels).logits_per_text)
                results.append(spliced(input_ids=tokens["input_ids"], pixel_values=pixels).logits_per_text)
        for other in results[1:]:
            torch.testing.assert_close(results[0], other, atol=1e-5, rtol=1e-5)

    def test_saved_loaded_and_proved(self, clip: Component, tmp_path: Path) -> None:
        student = distill(clip, phrases(), SMALL, Run()).student
        folder = tmp_path / "spliced"
        folder.mkdir()
        write_spliced(splice(clip, student), clip.host, 8, folder)
        again = load_spliced(folder)
        ids, mask = padded(token_ids(phrases()[:20], clip.host.tokenizer, 8), clip.host.pad)
        with torch.inference_mode():
            expected = student(ids, mask)
            found = again.host.text_model(ids, mask)
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
        assert torch.equal(found.pooler_output, expected.pooler_output)
        names = [name for name in read_entries(clip.host.folder) if not name.startswith("text_model.")]
        assert prove_untouched(clip, folder) == len(names)
        assert transformers.AutoTokenizer.from_pretrained(folder).model_max_length == 8

    def test_one_changed_bit_behind_the_component_is_found(self, clip: Component, tmp_path: Path) -> None:
        spliced = splice(clip, distill(clip, phrases(), SMALL, Run()).student)
        weight = spliced.host.visual_projection.weight
        with torch.no_grad():
            weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
        folder = tmp_path / "spliced"
        folder.mkdir()
        write_spliced(spliced, clip.host, 8, folder)
        with pytest.raises(CheckpointError, match=r"visual_projection.weight: is not the host's tensor"):
            prove_untouched(clip, folder)

    def test_a_head_that_shares_the_embedding_is_refused(self, tmp_path: Path) -> None:
        host = open_host(tiny_bert(tmp_path, kind="BertForMaskedLM"))
        component = host.component("bert")
        student = distill(component, phrases(), SMALL, Run()).student
        with pytest.raises(CheckpointError, match=r"shares weights with cls\.predictions\.decoder\.weight"):
            splice(component, student)

    def test_a_head_behind_bert(self, tmp_path: Path) -> None:
        component = open_host(tiny_bert(tmp_path, kind="BertForSequenceClassification")).component("bert")
        spliced = splice(component, distill(component, phrases(), SMALL, Run()).student)
        tokens = component.host.tokenizer(phrases()[:5], return_tensors="pt", padding=True)
        with torch.inference_mode():
            assert spliced(**tokens).logits.shape == (5, 2)

    def test_it_loads_without_featherweight(self, clip: Component, tmp_path: Path) -> None:
        folder = tmp_path / "spliced"
        folder.mkdir()
        write_spliced(splice(clip, distill(clip, phrases(), SMALL, Run()).student), clip.host, 8, folder)
        code = (
            "import sys; sys.modules['featherweight'] = None\n"
            "import transformers\n"
            f"model = transformers.AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
            "print('RESULT', type(model.host).__name__, type(model.host.text_model).__name__)\n"
        )
        surroundings = {**os.environ, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=surroundings, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "RESULT CLIPModel TextStudent" in done.stdout
