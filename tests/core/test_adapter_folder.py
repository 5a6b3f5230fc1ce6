import json
import math

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from featherweight.core.adapter_facts import AdapterFacts, read_facts, require_base, write_facts
from featherweight.core.adapter_folder import WEIGHTS, LoraFactors, read_adapter, write_adapter
from featherweight.core.errors import AdapterError
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model, write_json

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


def trained(base, seed=0, **fields):
    """A PEFT model whose factors are all random, as after training."""
    module = open_folder(base).module()
    adapted = peft.get_peft_model(module, peft.LoraConfig(**{"r": 4, "target_modules": LINEARS, **fields}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapted.eval()


def logits(base, folder):
    return peft.PeftModel.from_pretrained(open_folder(base).module(), str(folder)).eval()(IDS).logits


KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 16},
    "patterns": {"rank_pattern": {"down_proj": 2, r"layers\.1\..*q_proj": 3}, "alpha_pattern": {"v_proj": 32}},
    "regular expression": {"target_modules": r".*layers\.1\.(mlp\.\w+_proj|self_attn\.v_proj)"},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
class TestAnyPeftFolder:
    def test_factors_are_what_peft_adds(self, base, tmp_path, kind):
        adapted = trained(base, **KINDS[kind])
        adapted.save_pretrained(tmp_path / "peft")
        adapter = read_adapter(tmp_path / "peft")
        layers = {
            name.removeprefix("base_model.model."): each
            for name, each in adapted.named_modules()
            if hasattr(each, "get_delta_weight")
        }
        assert set(adapter.factors) == set(layers)
        for name, layer in layers.items():
            a, b, scale = adapter.factors[name]
            added = scale * b @ a
            expected = layer.get_delta_weight("default")
            torch.testing.assert_close(added.T if name in adapter.embeddings else added, expected)

    def test_written_folder_is_the_same_adapter(self, base, tmp_path, kind):
        trained(base, **KINDS[kind]).save_pretrained(tmp_path / "peft")
        (tmp_path / "ours").mkdir()
        write_adapter(read_adapter(tmp_path / "peft"), tmp_path / "ours")
        before, after = (load_file(tmp_path / each / WEIGHTS) for each in ("peft", "ours"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert torch.equal(logits(base, tmp_path / "peft"), logits(base, tmp_path / "ours"))


class TestScales:
    def test_scale_by_pattern_and_rank(self, base, tmp_path):
        fields = {"r": 8, "lora_alpha": 4, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"mlp.up_proj": 24}}
        for stabilised, divisor in ((False, float), (True, math.sqrt)):
            trained(base, use_rslora=stabilised, **fields).save_pretrained(tmp_path / str(stabilised))
            factors = read_adapter(tmp_path / str(stabilised)).factors
            assert factors["model.layers.0.self_attn.q_proj"].scale == 4 / divisor(8)
            assert factors["model.layers.0.self_attn.v_proj"].scale == 4 / divisor(2)
            assert factors["model.layers.1.mlp.up_proj"].scale == 24 / divisor(8)

    def test_one_rank_and_alpha_describe_a_uniform_scale(self, base, tmp_path):
        """A server that reads only `r` and `lora_alpha` computes the same where all scales are equal."""
        trained(base, r=4, lora_alpha=8).save_pretrained(tmp_path / "peft")
        adapter = read_adapter(tmp_path / "peft")
        ragged = {
            name: LoraFactors(each.a[: 1 + index % 4], each.b[:, : 1 + index % 4], each.scale)
            for index, (name, each) in enumerate(adapter.factors.items())
        }
        (tmp_path / "ours").mkdir()
        write_adapter(adapter.with_factors(ragged), tmp_path / "ours")
        config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (4, 8)
        assert all(each.scale == 2 for each in read_adapter(tmp_path / "ours").factors.values())

    def test_name_that_ends_like_another(self, tmp_path):
        """PEFT takes the first pattern that a name ends with: the longer name must come first."""

        def some(rank):
            return LoraFactors(torch.randn(rank, 6), torch.randn(5, rank), 1.0)

        factors = {"encoder.fc": some(1), "outer.encoder.fc": some(2), "other": some(3), "more": some(3)}
        adapter = read_adapter(_folder(tmp_path / "a")).with_factors(factors)
        (tmp_path / "b").mkdir()
        write_adapter(adapter, tmp_path / "b")
        config = peft.LoraConfig.from_pretrained(str(tmp_path / "b"))
        assert list(config.rank_pattern) == ["outer.encoder.fc", "encoder.fc"]
        found = read_adapter(tmp_path / "b").factors
        assert {name: each.scale for name, each in found.items()} == dict.fromkeys(factors, 1.0)


def _folder(folder, config=None, tensors=None):
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc"], **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    pair = {
        "base_model.model.fc.lora_A.weight": torch.ones(2, 3),
        "base_model.model.fc.lora_B.weight": torch.ones(4, 2),
    }
    save_file(pair if tensors is None else tensors, folder / WEIGHTS)
    return folder


class TestCarried:
    def test_trained_modules_stay(self, base, tmp_path):
        adapted = trained(base, target_modules=["q_proj"], modules_to_save=["lm_head"])
        with torch.no_grad():
            adapted.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
        adapted.save_pretrained(tmp_path / "peft")
        (tmp_path / "ours").mkdir()
        write_adapter(read_adapter(tmp_path / "peft"), tmp_path / "ours")
        assert torch.equal(logits(base, tmp_path / "ours"), adapted(IDS).logits)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_saved_embedding_of_a_module_that_is_dropped(self, base, tmp_path):
        adapted = trained(base, target_modules=["q_proj", "embed_tokens"])
        adapted.save_pretrained(tmp_path / "peft", save_embedding_layers=True)
        adapter = read_adapter(tmp_path / "peft")
        kept = {name: each for name, each in adapter.factors.items() if "embed" not in name}
        (tmp_path / "ours").mkdir()
        write_adapter(adapter.with_factors(kept), tmp_path / "ours")
        assert "base_model.model.model.embed_tokens.weight" in load_file(tmp_path / "ours" / WEIGHTS)
        alone = trained(base, target_modules=["q_proj"])
        alone.load_state_dict(
            {name: each for name, each in adapted.state_dict().items() if "q_proj" in name}, strict=False
        )
        assert torch.equal(logits(base, tmp_path / "ours"), alone(IDS).logits)


class TestRefused:
    @pytest.mark.parametrize(
        ("config", "why"),
        [
            ({"use_dora": True}, "DoRA"),
            ({"bias": "lora_only"}, "trained biases"),
            ({"lora_bias": True}, "a bias of its own"),
            ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
            ({"init_lora_weights": "olora"}, "changes the base's own weights"),
            ({"peft_type": "IA3"}, "is a IA3 adapter, .*; give a LoRA folder"),
            ({"peft_type": "GPART"}, "is a GPART adapter, .*; run featherweight adapter export .*/a first"),
            ({"target_parameters": ["experts.gate_up_proj"]}, "bare parameters"),
        ],
    )
    def test_what_is_not_scale_b_a(self, tmp_path, config, why):
        with pytest.raises(AdapterError, match=why):
            read_adapter(_folder(tmp_path / "a", config))

    @pytest.mark.parametrize(
        ("tensors", "why"),
        [
            ({}, "no LoRA factors"),
            ({"fc.lora_A.weight": torch.ones(2, 3)}, "only the factor A"),
            ({"fc.lora_A.weight": torch.ones(2, 3), "fc.lora_B.weight": torch.ones(4, 3)}, "different ranks, 2 and 3"),
            ({"fc.lora_A.weight": torch.ones(2, 3, 1, 1), "fc.lora_B.weight": torch.ones(4, 2, 1, 1)}, "convolution"),
            ({"fc.lora_A.weight": torch.full((2, 3), math.nan), "fc.lora_B.weight": torch.ones(4, 2)}, "NaN"),
            ({"fc.lora_magnitude_vector": torch.ones(4)}, "is no LoRA factor"),
            ({"fc.lora_B.bias": torch.ones(4)}, "is no LoRA factor"),
        ],
    )
    def test_broken_tensors(self, tmp_path, tensors, why):
        with pytest.raises(AdapterError, match=why):
            read_adapter(_folder(tmp_path / "a", tensors=tensors))

    def test_missing_and_broken_files(self, tmp_path):
        with pytest.raises(AdapterError, match="is no folder"):
            read_adapter(tmp_path / "none")
        (tmp_path / "empty").mkdir()
        with pytest.raises(AdapterError, match=r"it has no adapter_config.json"):
            read_adapter(tmp_path / "empty")
        _folder(tmp_path / "empty" / "adapter")
        with pytest.raises(AdapterError, match=r"did you mean .*adapter"):
            read_adapter(tmp_path / "empty")
        folder = _folder(tmp_path / "a")
        (folder / "adapter_config.json").write_text("{")
        with pytest.raises(AdapterError, match="not valid JSON"):
            read_adapter(folder)

    def test_pickled_weights_are_never_opened(self, tmp_path):
        folder = _folder(tmp_path / "a")
        (folder / WEIGHTS).unlink()
        with pytest.raises(AdapterError, match=r"has no adapter_model.safetensors"):
            read_adapter(folder)
        (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
        with pytest.raises(AdapterError, match=r"is a pickle, .* save it again"):
            read_adapter(folder)

    def test_nothing_left(self, tmp_path):
        (tmp_path / "out").mkdir()
        with pytest.raises(AdapterError, match="no module left"):
            write_adapter(read_adapter(_folder(tmp_path / "a")).with_factors({}), tmp_path / "out")


class TestBase:
    def test_facts_read_back(self, tmp_path):
        facts = AdapterFacts("f" * 64, "smollm2-135m", "lora", "0.1.0").with_receipt({"step": "adapt"})
        write_facts(tmp_path, facts)
        assert read_facts(tmp_path) == facts
        (tmp_path / "featherweight.json").write_text('{"base": 1')
        with pytest.raises(AdapterError, match="cannot be read"):
            read_facts(tmp_path)

    def test_another_base(self, base, tmp_path):
        trained(base).save_pretrained(tmp_path / "a")
        model = open_folder(base)
        require_base(read_adapter(tmp_path / "a"), model)
        write_facts(tmp_path / "a", AdapterFacts(model.fingerprint, "tiny"))
        require_base(read_adapter(tmp_path / "a"), model)
        with pytest.raises(AdapterError, match="belongs to another base: tiny"):
            require_base(read_adapter(tmp_path / "a"), open_folder(tiny_model(tmp_path, seed=1)))

    def test_a_base_of_another_shape(self, base, tmp_path):
        trained(base).save_pretrained(tmp_path / "a")
        adapter = read_adapter(tmp_path / "a")
        with pytest.raises(AdapterError, match=r"layers.1.* is no module of"):
            require_base(adapter, open_folder(tiny_model(tmp_path, num_hidden_layers=1)))
        with pytest.raises(AdapterError, match=r"changes a matrix of \[64, 256\]"):
            require_base(adapter, open_folder(tiny_model(tmp_path, intermediate_size=128)))

    def test_unknown_fields_of_later_versions(self, tmp_path):
        write_facts(tmp_path, AdapterFacts("f" * 64, "tiny"))
        write_json(tmp_path / "featherweight.json", {"colour": "blue"})
        assert read_facts(tmp_path) == AdapterFacts("f" * 64, "tiny")
