"""A softmax over part of the vocabulary: the labels of a batch and the tokens that are most like them.

K is the union, over the labels, of the `neighbours` rows of the head with the greatest cosine to the label's row. The
loss -h w_y + logsumexp over K is never above the full one, whose sum has more terms, so it is biased, and the two must
not be compared; evaluations use the full softmax. arXiv 2606.19528, its third part: the rule of selection is not in the
paper and is ours. `chunked_head` is exact, needs as little memory, and is what should be tried first.
"""

from __future__ import annotations

from collections.abc import Iterator

from featherweight.core.errors import RecipeError
from featherweight.core.lazy import torch
from featherweight.train.chunked_head import Head


class Subset:
    """Chooses K for the labels of a batch; neighbours are looked up once a token.

    Args:
        neighbours: tokens a label, the label among them.
    """

    def __init__(self, neighbours: int) -> None:
        if neighbours < 1:
            raise RecipeError(f"{neighbours} neighbours", "a label needs at least itself", "use 1 or more")
        self.neighbours = neighbours
        self._known: dict[int, torch.Tensor] = {}

    def __call__(self, head: Head, targets: torch.Tensor) -> tuple[Head, torch.Tensor]:
        """The head of K, and the places of the targets, int64 [positions], in it."""
        chosen = self.tokens(head, targets)
        weight = _rows(head, chosen)
        bias = None if head.bias is None else head.bias[chosen]

        def pieces() -> Iterator[tuple[int, torch.Tensor]]:
            yield 0, weight

        small = Head(pieces, len(chosen), bias, head.scale, head.cap)
        return small, torch.searchsorted(chosen, targets)

    def tokens(self, head: Head, targets: torch.Tensor) -> torch.Tensor:
        """K, sorted token ids, int64."""
        labels: torch.Tensor = targets.unique()
        if self.neighbours >= head.size:
            return torch.arange(head.size, device=targets.device)
        new = [label for label in labels.tolist() if label not in self._known]
        if new:
            found = self._nearest(head, torch.tensor(new, device=targets.device))
            self._known.update(zip(new, found, strict=True))
        chosen: torch.Tensor = torch.cat([labels, *(self._known[label] for label in labels.tolist())]).unique()
        return chosen

    def _nearest(self, head: Head, labels: torch.Tensor) -> torch.Tensor:
        """The rows of greatest cosine, int64 [labels, neighbours]."""
        normed = torch.nn.functional.normalize
        wanted = normed(_rows(head, labels), dim=-1)
        value = torch.empty(len(labels), 0, device=labels.device)
        index = torch.empty(len(labels), 0, dtype=torch.int64, device=labels.device)
        for first, weight in head.pieces():
            here = torch.arange(first, first + len(weight), device=labels.device).expand(len(labels), -1)
            value, index = torch.cat([value, wanted @ normed(weight, dim=-1).T], 1), torch.cat([index, here], 1)
            value, order = value.topk(min(self.neighbours, value.shape[1]), dim=1)
            index = index.gather(1, order)
        return index


def _rows(head: Head, tokens: torch.Tensor) -> torch.Tensor:
    """Rows of the head's matrix, float32 [tokens, hidden]."""
    rows: torch.Tensor | None = None
    for first, weight in head.pieces():
        rows = weight.new_empty(len(tokens), weight.shape[1]) if rows is None else rows
        here = ((tokens >= first) & (tokens < first + len(weight))).nonzero().squeeze(-1)
        rows[here] = weight[tokens[here] - first]
    assert rows is not None  # a vocabulary has at least one piece
    return rows
