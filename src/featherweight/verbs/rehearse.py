"""Rehearsal: the whole of fit on a two-block random model of the same architecture, to fail early if anything will."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featherweight.core.budget import Budget
from featherweight.core.lazy import torch, transformers
from featherweight.core.model import Model, copy_companions
from featherweight.core.progress import Progress
from featherweight.verbs.prepare import Settings

_WIDTHS = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "num_hidden_layers": 2,
}  # fmt: skip
_ANYTHING = Budget(quality=0.01)  # a share of the bytes may be out of reach: an embedding that stays wide is most of it
_ROWS: dict[str, Any] = {
    "length": 64,
    "calibration_rows": 6,
    "selection_rows": 6,
    "held_out_rows": 6,
    "probe_rows": 3,
    "trials": 1,
}


def rehearse(
    fit: Callable[..., object],
    parent: Model,
    format: str,
    text: str | Path | None,
    settings: Settings,
    progress: Progress,
) -> None:
    """Runs `fit`, the verb, on a tiny relative of the parent, in a temporary folder, with little of the text.

    Raises:
        FeatherweightError: whatever would have failed later.
    """
    progress.say("rehearsing on a two-block random model")
    with TemporaryDirectory(prefix="featherweight-rehearsal-") as folder:
        small = write_relative(parent, Path(folder) / "relative", settings.seed)
        fit(
            small,
            _ANYTHING,
            Path(folder) / "run",
            format=format,
            text=text,
            settings=Settings(
                **_ROWS, seed=settings.seed, device=settings.device, search=settings.search, search_rounds=2
            ),
            cache=Path(folder) / "cache",
        )
    progress.say("the rehearsal went through")


def write_relative(parent: Model, folder: Path, seed: int) -> Path:
    """A random model of the parent's architecture and tokenizer, two blocks deep and 256 wide."""
    config = {**parent.config, **_WIDTHS, **_per_block(parent.settings)}
    torch.manual_seed(seed)
    hf_config = Model(config, {}, parent.folder).hf_config()
    module = transformers.AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32)
    module.save_pretrained(folder)
    copy_companions(parent.folder, folder)
    saved = folder / "config.json"
    saved.write_text(json.dumps({**json.loads(saved.read_text(encoding="utf-8")), **_WIDTHS}), encoding="utf-8")
    return folder


def _per_block(settings: dict[str, Any]) -> dict[str, Any]:
    """Configuration lists with one entry a block, cut to two; what follows from the head's width, made to fit."""
    blocks = settings["num_hidden_layers"]
    lists = {key: value[:2] for key, value in settings.items() if isinstance(value, list) and len(value) == blocks}
    return {**lists, "query_pre_attn_scalar": 64} if "query_pre_attn_scalar" in settings else lists
