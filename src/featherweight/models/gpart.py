"""GPart as a PEFT method: one trained vector that a fixed isometric map spreads over all adapted weights.

`get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained`, merging, disabling and several adapters work as with
any method of PEFT; importing this module registers it. What is saved is the vector (4 bytes a number) and a
configuration with seed, back end, its version, and names and sizes of the adapted modules: an adapter is refused where
any of these cannot be had again. Has no low-rank structure: servers of many adapters cannot hold it; merge it, or
convert it (`models.gpart_lora`, lossy). arXiv 2605.14841; see `core.partition` for the map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers.pytorch_utils import Conv1D

from featherweight.core.errors import AdapterError, nearest
from featherweight.models import peft_method
from featherweight.models.gpart_config import NAME, GPartConfig
from featherweight.models.gpart_layer import GPartLayer
from featherweight.models.gpart_layout import lay_out


class GPartModel(BaseTuner):
    """Puts GPart layers around the targets; holds the vectors."""

    uses_shared_state = True
    prefix = "gpart_"
    tuner_layer_cls = GPartLayer
    target_module_mapping: Any = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def inject_adapter(self, model: torch.nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adds an adapter; a model that refuses it is as it was.

        Raises:
            AdapterError: nothing matches, a target is no linear, there are fewer weights than numbers to train, or the
                adapter was saved for another base.
        """
        # A copy: what the base fills in must not stay in a configuration that its owner puts on another model.
        config: Any = dataclasses.replace(self.peft_config[adapter_name])
        self.peft_config[adapter_name] = config
        if "gpart_theta" not in self._modules:
            self.gpart_theta = torch.nn.ParameterDict()
        self.gpart_theta[adapter_name] = torch.nn.Parameter(_start(config))
        required = [(each, each.requires_grad) for each in model.parameters()]
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            lay_out(config, adapter_name, self._layers_of(adapter_name))
        except (AdapterError, peft.NoMatchingPeftModuleError) as error:
            self._take_back(adapter_name)
            for parameter, flag in required:
                parameter.requires_grad_(flag)
            raise _explained(error, config, model) from None

    def _layers_of(self, adapter_name: str) -> dict[str, GPartLayer]:
        """Layers that have this adapter, by name, in the order of the model."""
        layers = ((name, layer) for name, layer in self.model.named_modules() if isinstance(layer, GPartLayer))
        return {name: layer for name, layer in layers if adapter_name in layer.gpart_dropout}

    def _take_back(self, adapter_name: str) -> None:
        for name, layer in list(self.model.named_modules()):
            if isinstance(layer, GPartLayer):
                layer.gpart_dropout.pop(adapter_name, None)
                if not layer.gpart_dropout:
                    parent, _, leaf = name.rpartition(".")
                    setattr(self.model.get_submodule(parent), leaf, layer.base_layer)
        del self.gpart_theta[adapter_name], self.peft_config[adapter_name]

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: torch.nn.Module,
        target_name: str,
        parent: torch.nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, GPartLayer):
            layer = target
        else:
            if not isinstance(target, torch.nn.Linear | Conv1D):
                raise AdapterError(
                    f"target module {current_key}", f"is a {type(target).__name__}, and only linears are adapted",
                    "name linears in target_modules",
                )  # fmt: skip
            layer = GPartLayer(target, self.gpart_theta)
            self._replace_module(parent, target_name, layer, target)
        layer.gpart_dropout[adapter_name] = peft_config.dropout
        layer._move_adapter_to_device_of_base_layer(adapter_name)


def _start(config: Any) -> torch.Tensor:
    return torch.empty(config.dimension, dtype=torch.float32).uniform_(-config.init_bound, config.init_bound)


def _explained(error: Exception, config: Any, model: torch.nn.Module) -> AdapterError:
    """An error of PEFT's in the shape of ours, with the names that are nearest to those asked for."""
    if isinstance(error, AdapterError):
        return error
    targets = config.target_modules
    words: Sequence[str] = [targets] if isinstance(targets, str) else sorted(targets or ())
    linears = [name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear | Conv1D)]
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in linears))
    hints = [nearest(word, leaves) or nearest(word, linears) for word in words]
    mend = next((hint for hint in hints if hint), f"use some of {', '.join(leaves)}")
    return AdapterError(f"target modules {', '.join(words)}", "match no linear of the model", mend)


peft_method.register(NAME.lower(), GPartConfig, GPartModel)
