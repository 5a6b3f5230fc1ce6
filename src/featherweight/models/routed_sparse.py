"""RoutedSparse...ForCausalLM: a stock causal LM with one weight tensor and a bit-packed mask a domain.

A folder of such a model is an ordinary checkpoint whose linears of the blocks have a second tensor, `masks`, and whose
`config.json` says `"model_type": "routed_sparse_llama"` (or another supported one), so that no stock class takes the
union of all masks for a network, which it is not. Importing this module makes the classes known to transformers:

    import featherweight.models.routed_sparse
    model = AutoModelForCausalLM.from_pretrained(folder)
    with model.route(["code", None, "prose"]):        # one tag a row, None = the fallback
        model.generate(**batch)

No code is taken from the folder. The route belongs to the model, so one thread computes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import transformers

from featherweight.core.architecture import block_part, supported, variant_of
from featherweight.models.routed_checkpoint import OWN, PREFIX
from featherweight.models.routed_linear import Route, RoutedLinear
from featherweight.models.router import Router

_OF_CLASS = ("model_type", "architectures")
if TYPE_CHECKING:
    _Stock = transformers.PreTrainedModel  # the class that a subclass brings
else:
    _Stock = object


class RoutedSparseModel(_Stock):
    """What a routed model can do beyond its stock class; its `config` names domains, fallback and masked linears.

    config.domains: names, in the order of the masks; config.fallback: for rows without a tag; config.masked: names of
    the linears in a block that have masks.
    """

    def __init__(self, config: Any, *inputs: Any, **named: Any) -> None:
        super().__init__(config, *inputs, **named)
        self.router = Router(tuple(config.domains or ()), config.fallback)
        self._route = Route((self.router.pick(None),))
        for name, module in list(self.named_modules()):
            if isinstance(module, torch.nn.Linear) and block_part(name) in config.masked:
                self.set_submodule(name, RoutedLinear(module, len(self.router.domains), self._route))

    def select(self, tags: str | Sequence[str | None] | None) -> None:
        """From now on the rows of a batch use these domains: one tag for all rows, or one for each.

        Raises:
            DataError: no domain has that name.
        """
        self._route.picks = self.router.pick_all(tags)

    @contextmanager
    def route(self, tags: str | Sequence[str | None] | None) -> Iterator[None]:
        """The same for the length of a block."""
        before = self._route.picks
        self.select(tags)
        try:
            yield
        finally:
            self._route.picks = before

    def folded(self, tag: str | None) -> Any:
        """The stock model of one domain, with zeros where its mask has them and no masks left."""
        domain = self.router.pick(tag)
        fields = {key: value for key, value in self.config.to_dict().items() if key not in (*OWN, *_OF_CLASS)}
        stock = transformers.AutoConfig.for_model(variant_of(self.config.model_type)[1], **fields)
        state = {name: value for name, value in self.state_dict().items() if not name.endswith(".masks")}
        for name, module in self.named_modules():
            if isinstance(module, RoutedLinear):
                state[f"{name}.weight"] = module.weight.detach().masked_fill(~module.mask(domain), 0)
        result = transformers.AutoModelForCausalLM.from_config(stock, dtype=self.dtype)
        result.load_state_dict(state)
        return result.to(self.device).eval()


def _register(model_type: str) -> type:
    """Makes the routed class of a stock model type, and makes it known to transformers."""
    stock_config = transformers.CONFIG_MAPPING[model_type]
    stock: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[stock_config]
    fields = {"domains": "list[str] | None", "fallback": "str | None", "masked": "list[str] | None"}
    described = {"__module__": __name__, "__doc__": f"{stock.__name__} with one mask a domain."}
    config = type(
        f"RoutedSparse{stock_config.__name__}",
        (stock_config,),
        {**described, "__annotations__": fields, "model_type": PREFIX + model_type, **dict.fromkeys(fields)},
    )
    name = f"RoutedSparse{stock.__name__}"
    model = type(name, (RoutedSparseModel, stock), {**described, "config_class": config})
    transformers.AutoConfig.register(PREFIX + model_type, config)
    transformers.AutoModelForCausalLM.register(config, model)
    return model


for _model_type in supported():
    _model = _register(_model_type)
    globals()[_model.__name__] = _model
