"""A Hugging Face model of a stock class that holds a text encoder, and that encoder as a component of it.

Not a `Model`, which is a causal language model streamed block by block: a host may be a vision-language model or a
sentence encoder, fits in memory, and only the component's interface is known: token ids in, token states out.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.checkpoint import read_config, read_entries
from featherweight.core.errors import CheckpointError, UnsupportedArchitecture, nearest
from featherweight.core.lazy import torch, transformers
from featherweight.core.prompts import padded

WHOLE = "."
"""Names the host itself as the component: a sentence encoder that has nothing behind it."""

STATES_BATCH = 64
"""Rows that go through a component together."""


@dataclass(frozen=True)
class Host:
    """A model folder, loaded.

    Attributes:
        module: the transformers module, in evaluation mode, in the number format of its file.
        tokenizer: its tokenizer, padding on the right.
        folder: where it was read from.
    """

    module: Any
    tokenizer: Any
    folder: Path

    @property
    def pad(self) -> int:
        """The padding id of the tokenizer."""
        return int(self.tokenizer.pad_token_id)

    def component(self, name: str) -> Component:
        """The text encoder called `name`; "." is the host itself.

        Raises:
            CheckpointError: there is none of that name, it takes no token ids, or it gives no token states.
        """
        part = self._part(name)
        if "input_ids" not in inspect.signature(part.forward).parameters:
            raise CheckpointError(
                f"component {name!r} of {self.folder}", f"takes no token ids (it is a {type(part).__name__})",
                f"give one of {', '.join(self.components())}",
            )  # fmt: skip
        found = Component(name, part, self)
        if not found.gives_states():
            raise CheckpointError(
                f"component {name!r} of {self.folder}", f"gives no token states for text alone ({type(part).__name__})",
                f"give one of {', '.join(self.components())}",
            )  # fmt: skip
        return found

    def _part(self, name: str) -> Any:
        if name == WHOLE:
            return self.module
        try:
            return self.module.get_submodule(name)
        except AttributeError:
            known = self.components()
            raise CheckpointError(
                f"component {name!r} of {self.folder}", "does not exist",
                nearest(name, known) or f"give one of {', '.join(known)}",
            ) from None  # fmt: skip

    def components(self) -> list[str]:
        """Names of the parts that take token ids and give token states; "." where the host itself does."""
        parts = {
            name or WHOLE: part
            for name, part in self.module.named_modules()
            if "input_ids" in inspect.signature(part.forward).parameters
            and isinstance(part, transformers.PreTrainedModel)
        }
        return [name for name, part in parts.items() if Component(name, part, self).gives_states()]


@dataclass(frozen=True)
class Component:
    """A text encoder inside a host.

    Attributes:
        name: its place in the host.
        module: it, in the host's number format.
        host: the host.
    """

    name: str
    module: Any
    host: Host

    @functools.cached_property
    def exact(self) -> Any:
        """The component in float32, for computing."""
        return self.module if self.module.dtype == torch.float32 else copy.deepcopy(self.module).float()

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def embedding(self) -> torch.Tensor | None:
        """The token table [vocabulary, width]; None where the component has none of its own."""
        try:
            table = self.module.get_input_embeddings()
        except (NotImplementedError, AttributeError):
            return None
        return getattr(table, "weight", None)

    @property
    def vocabulary(self) -> int:
        """Ids that may come in: those of the tokenizer, or rows of the token table where there are more."""
        table = self.embedding
        return max(len(self.host.tokenizer), 0 if table is None else len(table))

    @property
    def position_table(self) -> torch.Tensor | None:
        """The learned position table, rows of padding left out; None where positions are not learned."""
        for name, part in self.module.named_modules():
            if "position" in name and isinstance(part, torch.nn.Embedding) and "vision" not in name:
                first = 0 if part.padding_idx is None else part.padding_idx + 1
                return part.weight.detach()[first:]
        return None

    @property
    def context(self) -> int:
        """The most tokens that it takes: what the tokenizer says, where it is less than the position table."""
        table = self.position_table
        limit = int(getattr(self.host.tokenizer, "model_max_length", 10**9))
        return min(limit, len(table)) if table is not None else min(limit, 10**6)

    def gives_states(self) -> bool:
        """Whether token ids alone make it give a state a token."""
        ids = torch.tensor([[self.host.pad]])
        try:
            return tuple(self.run(ids, torch.ones_like(ids)).last_hidden_state.shape[:2]) == (1, 1)
        except (TypeError, ValueError, AttributeError):
            return False

    def run(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        """The component's output in float32, without gradients."""
        with torch.inference_mode():
            return self.exact(input_ids=ids, attention_mask=mask)

    def states(
        self, rows: Sequence[Sequence[int]], batch: int = STATES_BATCH, advance: Callable[[], None] | None = None
    ) -> list[torch.Tensor]:
        """Token states of each row of ids, float32 [tokens, width]; padding is computed nowhere into them."""
        found: list[torch.Tensor] = []
        for first in range(0, len(rows), batch):
            some = rows[first : first + batch]
            states = self.run(*padded(some, self.host.pad)).last_hidden_state
            # Cloned, because what inference mode made could not take part in training.
            found += [states[index, : len(row)].clone() for index, row in enumerate(some)]
            if advance:
                advance()
        return found


def open_host(folder: str | Path) -> Host:
    """The model in a Hugging Face folder, as the class that its configuration names.

    Raises:
        CheckpointError: it cannot be read, misses tensors or has no tokenizer.
        UnsupportedArchitecture: its class is not one of transformers.
    """
    path = Path(folder)
    config = read_config(path)
    read_entries(path)  # refuses what is truncated, or only pickled
    names = config.get("architectures") or ["missing"]
    cls = getattr(transformers, str(names[0]), None)
    if cls is None:
        raise UnsupportedArchitecture(
            str(path), f"has the class {names[0]}, which transformers does not hold", "give a model of a stock class"
        )
    with no_bars():
        module, facts = cls.from_pretrained(path, dtype="auto", use_safetensors=True, output_loading_info=True)
    missing = sorted(facts["missing_keys"])
    if missing:
        raise CheckpointError(str(path), f"lacks the tensor {missing[0]}", "download the model again")
    return Host(module.eval().requires_grad_(False), _tokenizer(path), path)


@contextmanager
def no_bars() -> Iterator[None]:
    """Loading and saving without the bars of transformers: progress is reported in one way only."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _tokenizer(folder: Path) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            str(folder), f"has no usable tokenizer ({str(error).splitlines()[0]})", "add the files of its tokenizer"
        ) from None
    tokenizer.padding_side = "right"  # learned positions count from the left
    if tokenizer.pad_token_id is None:
        raise CheckpointError(str(folder), "has a tokenizer without a padding token", "set pad_token in its files")
    return tokenizer
