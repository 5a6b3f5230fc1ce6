"""Next-token loss at trainable positions only, without a [tokens, vocabulary] tensor that waits for the backward pass.

All tokens pass through the blocks, because they are context; the head sees those whose target counts. With final
hidden state h, head W and label y the loss is logsumexp(W h) - w_y h. It is summed over pieces of the vocabulary with a
running maximum, and its gradient softmax(W h) W - w_y in the same pass, so logits exist for one piece at a time. Exact:
the full softmax (arXiv 2606.19528, its fourth part; 2411.09009 for the pieces).

A head that is trained, has an adapter, or computes something that is not known here keeps its own logits; then they
exist for all trainable positions at once. Which of the two it is, and why, says `reason_for_own_logits`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from featherweight.core.batch import IGNORED, Batch
from featherweight.core.lazy import torch
from featherweight.core.running_softmax import RunningSoftmax
from featherweight.train.frozen import PIECE, FrozenLinear, Pieces
from featherweight.train.next_token import softcapped

LOGITS = 1 << 22
"""Logits in memory at once, 16 MB."""
_CHECKED = 4  # positions at which the first loss of a head is compared with the module's own logits
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Head:
    """What turns a final hidden state into logits.

    Attributes:
        pieces: first row and values, float32 [rows, hidden], of every piece of the matrix.
        size: the vocabulary.
        bias: [vocabulary], or None.
        scale: what logits are multiplied by.
        cap: c of c tanh(logits / c), or None.
    """

    pieces: Pieces
    size: int
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: torch.Tensor, first: int, weight: torch.Tensor) -> torch.Tensor:
        """Of hidden states [rows, hidden] for the part of the vocabulary that starts at `first`."""
        logits = hidden @ weight.T
        if self.bias is not None:
            logits += self.bias[first : first + len(weight)]
        if self.scale != 1.0:
            logits *= self.scale
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """Derivative of the logits with respect to the matrix product, from the logits."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap) ** 2)


class _Sum:
    """Loss and gradient of some positions, piece of the vocabulary after piece."""

    def __init__(self, hidden: torch.Tensor, targets: torch.Tensor, wants_gradient: bool) -> None:
        self.hidden, self.softmax = hidden, RunningSoftmax(targets)
        self.expected = torch.zeros_like(hidden) if wants_gradient else None
        self.own = torch.zeros_like(hidden) if wants_gradient else None

    def add(self, head: Head, first: int, weight: torch.Tensor) -> None:
        step = max(1, LOGITS // len(weight))
        for start in range(0, len(self.hidden), step):
            self._add_rows(head, first, weight, slice(start, start + step))

    def _add_rows(self, head: Head, first: int, weight: torch.Tensor, rows: slice) -> None:
        logits = head.logits(self.hidden[rows], first, weight)
        slope = head.slope(logits)
        share, shrink, at, column = self.softmax.add(rows, first, logits)
        if self.expected is None or self.own is None:
            return
        at_label = slope if isinstance(slope, float) else slope[at, column][:, None]
        self.own[rows][at] = weight[column] * at_label
        self.expected[rows] = self.expected[rows] * shrink[:, None] + share.mul_(slope) @ weight

    def loss(self) -> torch.Tensor:
        return self.softmax.nll().sum().float()

    def gradient(self) -> torch.Tensor | None:
        if self.expected is None or self.own is None:
            return None
        return self.expected.div_(self.softmax.total.float()[:, None]).sub_(self.own)


class _Loss(torch.autograd.Function):
    """Keeps the gradient with respect to the hidden states of the trainable positions, and nothing else."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
        work = _Sum(hidden.float(), targets, ctx.needs_input_grad[0])
        for first, weight in head.pieces():
            work.add(head, first, weight)
        gradient = work.gradient()
        if gradient is not None:
            ctx.save_for_backward(gradient.to(hidden.dtype))
        return work.loss()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        [gradient] = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None


def chunked_nll(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    """Sum of the negative log-likelihood; its gradient goes to the hidden states.

    Args:
        hidden: [positions, hidden].
        targets: token ids, int64 [positions].
        head: what makes logits of them; it gets no gradient.
    """
    loss: torch.Tensor = _Loss.apply(hidden, targets, head)  # type: ignore[no-untyped-call]
    return loss


def loss_of(
    module: Any, batch: Batch, narrow: Callable[[Head, torch.Tensor], tuple[Head, torch.Tensor]] | None = None
) -> tuple[torch.Tensor, int]:
    """Sum of the NLL over trainable targets, and how many there are; (0, 0) where none is.

    Args:
        module: a transformers causal language model, or PEFT's wrapper of one.
        batch: on the module's device.
        narrow: a smaller head and the targets' places in it, for an approximate loss in training; the loss of an
            evaluation is always that of the full softmax.
    """
    targets = batch.targets
    wanted = targets != IGNORED
    count = int(wanted.sum())
    head = module.get_output_embeddings()
    known = head not in _own_logits and _unsuitable(head) is None
    checked = known and head in _as_expected
    with _selected(head, wanted, (0 if checked else _CHECKED) if known else count) as caught:
        own = module(**batch.inputs()).logits[0]
    if not count:
        return (caught[0] * 0.0).sum(), 0
    if not known:
        return torch.nn.functional.cross_entropy(own.float(), targets[wanted], reduction="sum"), count
    if not checked and not _agree(module, head, caught[0], own):
        return loss_of(module, batch)
    ours, places = head_of(module), targets[wanted]
    if narrow is not None and module.training and torch.is_grad_enabled():
        ours, places = narrow(ours, places)
    return chunked_nll(caught[0], places, ours), count


_own_logits: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_as_expected: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def reason_for_own_logits(module: Any) -> str | None:
    """Why the head of a module keeps its own logits; None where its loss goes in pieces."""
    head = module.get_output_embeddings()
    return _unsuitable(head) or _own_logits.get(head)


def _agree(module: Any, head: Any, hidden: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether the head computes what `head_of` says, compared once with the module's own logits."""
    with torch.no_grad():
        ours = head_of(module)
        few = hidden[: len(own)].float()
        logits = torch.cat([ours.logits(few, first, weight) for first, weight in ours.pieces()], -1)
        near = max(_TOLERANCE, 4 * torch.finfo(own.dtype).eps)  # the module's own logits are rounded to its dtype
        same = torch.allclose(logits, own.float(), rtol=near, atol=near * float(own.abs().max()))
    if same:
        _as_expected[head] = True
    else:
        _own_logits[head] = "it does more than multiply, scale and cap"
    return same


def _unsuitable(head: Any) -> str | None:
    if not isinstance(head, torch.nn.Linear):
        return f"it is a {type(head).__name__}"
    return "it is trained" if any(each.requires_grad for each in head.parameters()) else None


def head_of(module: Any) -> Head:
    """The head of a module whose output layer is a frozen linear one."""
    head, config = module.get_output_embeddings(), module.config
    settings = config.get_text_config()
    scale = float(getattr(settings, "logit_scale", None) or 1.0) / float(
        getattr(settings, "logits_scaling", None) or 1.0
    )
    cap = getattr(settings, "final_logit_softcapping", None)
    bias = None if head.bias is None else head.bias.detach()
    if isinstance(head, FrozenLinear):
        return Head(head.frozen.lent, head.out_features, bias, scale, cap)
    return Head(lambda: _views(head.weight.detach()), head.out_features, bias, scale, cap)


def _views(weight: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    step = max(1, PIECE // weight.shape[1])
    return ((first, weight[first : first + step].float()) for first in range(0, len(weight), step))


def logit_parts(module: Any) -> Iterator[tuple[int, int, Callable[[torch.Tensor], torch.Tensor]]]:
    """First token and size of each part of the vocabulary, and from final states to its logits, float32 [tokens, part].

    A frozen head is read a piece at a time and computes in float32. One that is trained or has an adapter, which may be
    switched off when its logits are asked for, computes as it does in the module, all in one part.

    Args:
        module: a transformers causal language model; hidden states are given on its device.
    """
    head = module.get_output_embeddings()
    if head in _own_logits or _unsuitable(head) is not None:

        def own(hidden: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = head(hidden.to(next(head.parameters(), hidden).dtype))
            return softcapped(logits, module).float()

        yield 0, int(module.config.get_text_config().vocab_size), own
        return
    ours = head_of(module)
    for first, weight in ours.pieces():
        yield first, len(weight), functools.partial(ours.logits, first=first, weight=weight)


@contextmanager
def _selected(head: Any, wanted: torch.Tensor, through: int) -> Iterator[list[torch.Tensor]]:
    """Lets the first `through` of the wanted positions into the head, and keeps the hidden states of all of them.

    The module's own forward pass runs up to its head, whatever PEFT has put around it; tokens that a prompt-tuning
    method puts in front are left out here.
    """
    caught: list[torch.Tensor] = []

    def select(layer: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0][:, -wanted.shape[1] - 1 :][:, :-1]
        caught.append(hidden[wanted])
        return (caught[0][None, :through], *args[1:])

    hook = head.register_forward_pre_hook(select)
    try:
        yield caught
    finally:
        hook.remove()
