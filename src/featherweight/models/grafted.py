"""A grafted model: the first layers of a donor, pooled features of some of them, a small classifier.

z = concat over the layers S of pool(h_l(x)); y = MLP(z). Nothing of the donor after the deepest layer of S is there.
The classes are ordinary transformers models: `import featherweight.models` makes AutoModelForSequenceClassification
and AutoModelForImageClassification load them. arXiv 2507.19261.

The trunk is either the first blocks of a transformers model or a network of `torch.nn` modules (`models.graph`). A
trimmed vocabulary is the list of the tokens that have a row of their own in the embedding; all others share its last
row, so the tokenizer stays as it is.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention, SequenceClassifierOutput

from featherweight.core.errors import CheckpointError
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.models.donors import model_trunk
from featherweight.models.graph import Network
from featherweight.models.pooling import pooled
from featherweight.models.trunk import build_trunk


class GraftConfig(transformers.PretrainedConfig):
    """What a grafted model is made of.

    Args:
        trunk: description of the trunk, from `models.trunk` or `models.graph`.
        layers: hidden states whose pooled features are used (0 = embeddings), or names of modules of a network.
        pool: "mean", "last" or "first" position.
        features: width of all pooled features together.
        hidden: widths of the head's hidden layers.
        tokens: how many tokens have an embedding of their own; 0 = all.
        kwargs: of every transformers configuration, with id2label for the classes.
    """

    model_type = "featherweight_graft"

    def __init__(
        self,
        trunk: Mapping[str, Any] | None = None,
        layers: Sequence[int | str] = (),
        pool: str = "mean",
        features: int = 0,
        hidden: Sequence[int] = (256,),
        tokens: int = 0,
        **kwargs: Any,
    ) -> None:
        self.trunk = dict(trunk or {})
        self.layers = list(layers)
        self.pool = pool
        self.features = features
        self.hidden = list(hidden)
        self.tokens = tokens
        super().__init__(**kwargs)


def dense_layers(sizes: Sequence[int], generator: torch.Generator | None = None) -> torch.nn.Sequential:
    """Linear layers from sizes[0] to sizes[-1] with ReLU between them, drawn from a generator where one is given."""
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layer = torch.nn.Linear(inputs, outputs)
        if generator is not None:
            for parameter in layer.parameters():
                torch.nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


class _Grafted(transformers.PreTrainedModel):
    """Trunk, pooling and head; a subclass says what goes in."""

    config_class = GraftConfig
    base_model_prefix = "trunk"

    def __init__(self, config: GraftConfig, trunk: torch.nn.Module | None = None) -> None:
        super().__init__(config)
        self.trunk = trunk if trunk is not None else _built(config.trunk)
        self.head = dense_layers([config.features, *config.hidden, int(config.num_labels or 2)])
        if config.tokens:
            self.register_buffer("kept", torch.zeros(config.tokens, dtype=torch.int32))
        self.post_init()  # type: ignore[no-untyped-call]

    def features(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Pooled features of the chosen layers for inputs of the trunk, [rows, features]."""
        states = _states(self.trunk, self.config.layers, inputs)
        return torch.cat([pooled(each, self.config.pool, inputs.get("attention_mask")) for each in states], dim=1)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leaves everything as it was made: a trunk brings its weights, and linear layers draw their own."""

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
        return None if labels is None else torch.nn.functional.cross_entropy(logits, labels)


class GraftForSequenceClassification(_Grafted):
    """Classifies texts by the first blocks of a language model or encoder."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits of each row of tokens, [rows, classes].

        Args:
            input_ids: tokens of the donor's tokenizer, [rows, positions].
            attention_mask: 0 at padding; None = there is none.
            labels: classes, for the loss.
            kwargs: what else a tokenizer gives; token_type_ids go to the trunk.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = {key: value for key, value in kwargs.items() if key == "token_type_ids" and value is not None}
        features = self.features(input_ids=self.rows_of(input_ids), attention_mask=mask, **types)
        logits = self.head(features)
        return SequenceClassifierOutput(loss=self._loss(logits, labels), logits=logits)

    def rows_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """The row of the embedding that each token has."""
        if not self.config.tokens:
            return tokens
        kept = self.get_buffer("kept").to(tokens.dtype)
        place = torch.searchsorted(kept, tokens).clamp(max=len(kept) - 1)
        return torch.where(kept[place] == tokens, place, len(kept))

    def get_input_embeddings(self) -> Any:
        """The embedding of the trunk."""
        return self.get_submodule("trunk").get_input_embeddings()  # type: ignore[operator]


class GraftForImageClassification(_Grafted):
    """Classifies images by the first layers of a network."""

    main_input_name = "pixel_values"

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits of each image, [rows, classes].

        Args:
            pixel_values: [rows, channels, height, width].
            labels: classes, for the loss.
            kwargs: ignored.
        """
        logits = self.head(self.features(pixel_values=pixel_values))
        return ImageClassifierOutputWithNoAttention(loss=self._loss(logits, labels), logits=logits)


TaskModel = GraftForSequenceClassification | GraftForImageClassification


def _built(description: Mapping[str, Any]) -> torch.nn.Module:
    return Network(description) if description["kind"] == "graph" else build_trunk(description)


def _states(
    trunk: torch.nn.Module, layers: Sequence[int | str], inputs: Mapping[str, torch.Tensor]
) -> list[torch.Tensor]:
    """What the chosen layers of a trunk compute: hidden states by number, or all outputs of a network."""
    if isinstance(trunk, transformers.PreTrainedModel):
        states = trunk(**inputs, output_hidden_states=True).hidden_states
        return [states[int(layer)] for layer in layers]
    [images] = inputs.values()
    return list(trunk(images))


def grafted(
    trunk: tuple[torch.nn.Module, Mapping[str, Any]],
    of_text: bool,
    layers: Sequence[int | str],
    pool: str,
    classes: Sequence[str],
    head: torch.nn.Sequential,
) -> TaskModel:
    """A classifier from its parts.

    Args:
        trunk: the module and its description.
        of_text: whether it reads tokens.
        layers: where its features come from.
        pool: how.
        classes: names, in the order of the head's outputs.
        head: dense layers, as from `dense_layers`.
    """
    sizes = [layer.in_features for layer in head if isinstance(layer, torch.nn.Linear)]
    config = GraftConfig(
        trunk[1], layers, pool, sizes[0], sizes[1:],
        id2label=dict(enumerate(classes)), label2id={name: index for index, name in enumerate(classes)},
    )  # fmt: skip
    made: Any = (GraftForSequenceClassification if of_text else GraftForImageClassification)(config, trunk[0])
    made.head.load_state_dict(head.state_dict())
    made.eval().requires_grad_(False)
    assert isinstance(made, TaskModel)
    return made


def trimmed(model: GraftForSequenceClassification, tokens: Sequence[int]) -> GraftForSequenceClassification:
    """The same model with an embedding of these tokens only; all others get the mean of the rows that went.

    For texts of the kept tokens it computes the same.
    """
    kept = torch.tensor(sorted(set(tokens)), dtype=torch.int32)
    embedding = model.get_input_embeddings().weight.detach()
    dropped = torch.ones(len(embedding), dtype=torch.bool)
    dropped[kept.long()] = False
    stand_in = embedding[dropped].mean(0, keepdim=True) if bool(dropped.any()) else embedding.mean(0, keepdim=True)
    config: Any = copy.deepcopy(model.config)
    ends = {key: None for key in config.trunk["config"] if key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config.trunk["config"] = {**config.trunk["config"], **ends, "vocab_size": len(kept) + 1}
    config.tokens = len(kept)
    made: Any = GraftForSequenceClassification(config)
    state = {name: value for name, value in model.state_dict().items() if value.data_ptr() != embedding.data_ptr()}
    made.load_state_dict({**state, "kept": kept}, strict=False)
    made.get_input_embeddings().weight.data = torch.cat([embedding[kept.long()], stand_in])
    made.eval().requires_grad_(False)
    assert isinstance(made, GraftForSequenceClassification)
    return made


def task_model(model: Model | str | Path) -> TaskModel:
    """The classifier in a model that the technique `graft` made: its trunk with the head that it carries.

    Args:
        model: the model, or its folder.

    Raises:
        CheckpointError: it carries no head, or its blocks are no longer those that the head was trained on.
    """
    source = model if isinstance(model, Model) else open_folder(Path(model))
    settings = source.config.get("graft")
    if settings is None or not source.extra:
        raise CheckpointError(str(source.folder), "carries no grafted head", "apply the technique graft first")
    if source.architecture.blocks != max(settings["layers"]):
        raise CheckpointError(
            str(source.folder),
            f"has {source.architecture.blocks} blocks, and its head reads block {max(settings['layers'])}",
            "drop blocks before grafting, not after",
        )
    features = int(source.extra["head.0.weight"].shape[1])
    if features != len(settings["layers"]) * source.architecture.size("hidden"):
        raise CheckpointError(
            str(source.folder), f"has another width than the {features} features that its head reads",
            "narrow the residual stream before grafting, not after",
        )  # fmt: skip
    head = dense_layers([features, *settings["hidden"], len(settings["classes"])])
    head.load_state_dict({name.removeprefix("head."): entry.load().float() for name, entry in source.extra.items()})
    trunk = model_trunk(source, source.architecture.blocks, settings["of"])
    return grafted(trunk, True, settings["layers"], settings["pool"], settings["classes"], head)


transformers.AutoConfig.register(GraftConfig.model_type, GraftConfig, exist_ok=True)
transformers.AutoModelForSequenceClassification.register(GraftConfig, GraftForSequenceClassification, exist_ok=True)
transformers.AutoModelForImageClassification.register(GraftConfig, GraftForImageClassification, exist_ok=True)
