"""A small text encoder that stands where a large one stood: the same inputs, token states of the same width.

Pre-norm transformer layers without causality, learned positions, layer norms in float32, a linear map to the width of
the encoder that it replaces; optionally a convolutional block before and after. Padding is masked everywhere, also when
the caller gives no mask. Copied beside a saved model, so it imports nothing of Featherweight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .token_mixer import TokenMixer
from .token_tables import PositionTable, TrimmedEmbedding

POOLINGS = ("none", "eos", "largest", "first", "dense")


class TextStudentConfig(PreTrainedConfig):
    """Sizes of a student.

    Attributes:
        vocab_size: ids of the tokenizer.
        kept_rows: rows of the token table beside the shared one; None = one row for every id.
        output_size: width of the states of the encoder that it replaces.
        context: most tokens of a prompt.
        position_rows, positions: the position table and how it is read, see `PositionTable`.
        pooling: which token state is the pooled output: "eos" (the first end token), "largest" (the largest id, as old
            CLIP models do), "first", "dense" (the first, through a linear map and tanh, as BERT does), "none".
        mixers: a convolutional block before and after the transformer layers; `folded` once they are one convolution.
    """

    model_type = "featherweight_text_student"

    vocab_size: int = 512
    kept_rows: int | None = None
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 512
    mixers: bool = False
    mixer_kernel: int = 11
    folded: bool = False
    output_size: int = 128
    context: int = 16
    position_rows: int = 16
    positions: str = "matching"
    pooling: str = "none"
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02


class Norm(nn.LayerNorm):
    """A layer norm computed in float32."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(hidden.float(), self.normalized_shape, weight, bias, self.eps).to(hidden.dtype)


class FeedForward(nn.Module):
    """Norm, widen, GELU, narrow."""

    def __init__(self, config: TextStudentConfig) -> None:
        super().__init__()
        self.norm = Norm(config.hidden_size, config.layer_norm_eps)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down(nn.functional.gelu(self.up(self.norm(hidden))))
        return result


class AttentionLayer(nn.Module):
    """Self-attention among valid tokens, then a feed-forward part, each on top of its input."""

    def __init__(self, config: TextStudentConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.norm = Norm(config.hidden_size, config.layer_norm_eps)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        rows, length, width = hidden.shape
        qkv = self.qkv(self.norm(hidden)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        # A large negative number and not minus infinity: a row that is all padding must not become NaN.
        mask = torch.zeros_like(valid, dtype=hidden.dtype).masked_fill(~valid, torch.finfo(hidden.dtype).min)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        hidden = hidden + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        result: torch.Tensor = hidden + self.feed_forward(hidden)
        return result


class MixerLayer(nn.Module):
    """A convolution over neighbouring valid tokens, then a feed-forward part."""

    def __init__(self, config: TextStudentConfig) -> None:
        super().__init__()
        self.mixer = TokenMixer(config.hidden_size, config.mixer_kernel, config.folded)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        hidden = self.mixer(hidden, valid)
        result: torch.Tensor = hidden + self.feed_forward(hidden)
        return result


class TextStudent(PreTrainedModel):
    """A small encoder with the interface of the one that it was distilled from."""

    config_class = TextStudentConfig
    base_model_prefix = "student"

    def __init__(self, config: TextStudentConfig) -> None:
        super().__init__(config)
        if config.pooling not in POOLINGS:
            raise ValueError(f"pooling = {config.pooling!r}: use one of {', '.join(POOLINGS)}")
        width = config.hidden_size
        self.tokens: nn.Module = (
            nn.Embedding(config.vocab_size, width)
            if config.kept_rows is None
            else TrimmedEmbedding(config.vocab_size, config.kept_rows, width)
        )
        self.positions = PositionTable(config.position_rows, width, config.context, config.positions)
        layers: list[nn.Module] = [AttentionLayer(config) for _ in range(config.num_hidden_layers)]
        if config.mixers:
            layers = [MixerLayer(config), *layers, MixerLayer(config)]
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(width, config.layer_norm_eps)
        self.project = nn.Linear(width, config.output_size)
        self.pooler = nn.Linear(config.output_size, config.output_size) if config.pooling == "dense" else None
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, (TrimmedEmbedding, PositionTable)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **ignored: Any
    ) -> BaseModelOutputWithPooling:
        """Token states [rows, length, output_size]; zero beyond the context, where only padding may stand.

        Args:
            input_ids: [rows, length].
            attention_mask: 1 where a token counts; None = all but the padding that the ids show.
            ignored: what the replaced encoder took beside these.
        """
        valid = valid_tokens(input_ids, attention_mask, self.config.pad_token_id, self.config.eos_token_id)
        context, length = self.config.context, input_ids.shape[1]
        if length > context and bool(valid[:, context:].any()):
            longest = int(valid.sum(1).max())
            raise ValueError(f"a prompt of {longest} tokens: this encoder was made for {context}; truncate it")
        states = self._states(input_ids[:, :context], valid[:, :context])
        states = nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))
        pooled = pool(states, input_ids, self.config.pooling, self.config.eos_token_id, self.pooler)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)

    def _states(self, ids: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        hidden = self.tokens(ids) + self.positions(ids.shape[1])
        for layer in self.layers:
            hidden = layer(hidden, valid)
        states: torch.Tensor = self.project(self.norm(hidden))
        return states

    def fold(self) -> TextStudent:
        """Ends what only training needs: one position row a position, one convolution a mixer. Changes itself."""
        self.positions.fold()
        for layer in self.layers:
            if isinstance(layer, MixerLayer):
                layer.mixer.fold()
        self.config.positions, self.config.position_rows = "matching", self.config.context
        self.config.folded = self.config.mixers
        return self


def valid_tokens(
    ids: torch.Tensor, mask: torch.Tensor | None, pad: int | None = None, eos: int | None = None
) -> torch.Tensor:
    """Which tokens count, bool [rows, length].

    Without a mask the ids say it: what is not the padding id or, where padding is done with the end token, what comes
    up to the first end token.
    """
    if mask is not None:
        return mask.bool()
    if pad is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if pad != eos:
        return ids != pad
    ends = torch.eq(ids, torch.tensor(eos)).int()
    return (ends.cumsum(1) - ends) == 0


def pool(
    states: torch.Tensor, ids: torch.Tensor, pooling: str, eos: int | None = None, dense: nn.Module | None = None
) -> torch.Tensor | None:
    """The pooled output [rows, width] of token states [rows, length, width]; None where there is none."""
    if pooling == "none":
        return None
    where = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    if pooling == "eos":
        where = torch.eq(ids, torch.tensor(eos)).int().argmax(1)
    elif pooling == "largest":
        where = ids.argmax(1)
    chosen = states[torch.arange(len(ids), device=ids.device), where]
    return torch.tanh(dense(chosen)) if dense is not None else chosen


AutoConfig.register(TextStudentConfig.model_type, TextStudentConfig, exist_ok=True)
AutoModel.register(TextStudentConfig, TextStudent, exist_ok=True)
TextStudentConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
TextStudent.register_for_auto_class("AutoModel")  # type: ignore[no-untyped-call]
