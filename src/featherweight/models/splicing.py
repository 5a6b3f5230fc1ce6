"""Puts a student in the place of a component, saves the whole, and proves that the rest is the host's, bit for bit."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from featherweight.core.checkpoint import read_entries
from featherweight.core.errors import CheckpointError
from featherweight.core.host import WHOLE, Component, Host, no_bars
from featherweight.core.lazy import torch, transformers

_PROCESSOR = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_INSIDE = "host."  # before the names of the host's tensors in a spliced model


def splice(component: Component, student: Any) -> Any:
    """The host with `student` in the component's place, as a module; the student alone where it replaces the host.

    Raises:
        CheckpointError: a tensor outside the component is tied to one inside, so it would not survive.
    """
    from featherweight.models.spliced import SplicedModel

    check_untied(component)
    if component.name == WHOLE:
        return copy.deepcopy(student).to(component.module.dtype)
    return SplicedModel.of(component.host.module, component.name, student)


def check_untied(component: Component) -> None:
    """Refuses a component that shares weights with the rest of its host."""
    if component.name == WHOLE:
        return
    inside = {parameter.data_ptr() for parameter in component.module.parameters()}
    for name, parameter in component.host.module.named_parameters(remove_duplicate=False):
        if not name.startswith(f"{component.name}.") and parameter.data_ptr() in inside:
            raise CheckpointError(
                f"component {component.name!r} of {component.host.folder}",
                f"shares weights with {name}, which stands behind it",
                "give a host without that head, or a component that leaves the embedding outside",
            )


def write_spliced(model: Any, host: Host, context: int, folder: Path) -> None:
    """Writes a spliced model, its tokenizer (which cuts at `context`) and image processor into an existing folder."""
    with no_bars():
        model.save_pretrained(folder)
    limit, host.tokenizer.model_max_length = host.tokenizer.model_max_length, context
    try:
        host.tokenizer.save_pretrained(folder)
    finally:
        host.tokenizer.model_max_length = limit
    for name in _PROCESSOR:
        if (host.folder / name).is_file():
            shutil.copyfile(host.folder / name, folder / name)


def load_spliced(folder: Path) -> Any:
    """What `write_spliced` wrote, in evaluation mode."""
    import featherweight.models.spliced  # noqa: F401  registers its classes with transformers

    with no_bars():
        return transformers.AutoModel.from_pretrained(folder, dtype="auto").eval()


def prove_untouched(component: Component, folder: Path) -> int:
    """Compares every tensor file entry outside the component, host against spliced folder; their number.

    Raises:
        CheckpointError: one is missing, or differs in a bit.
    """
    before = read_entries(component.host.folder)
    after = read_entries(folder)
    outside = [name for name in before if component.name != WHOLE and not name.startswith(f"{component.name}.")]
    for name in outside:
        found = after.get(f"{_INSIDE}{name}")
        if found is None or found.digest != before[name].digest:
            raise CheckpointError(
                f"{folder}, {name}", "is not the host's tensor, bit for bit",
                "report this: what stands behind a component must not change",
            )  # fmt: skip
    return len(outside)


def same_states(model: Any, component: Component, student: Any, ids: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether the component of a loaded spliced model computes what `student` computes in the host's format."""
    part = model if component.name == WHOLE else model.host.get_submodule(component.name)
    with torch.inference_mode():
        expected = copy.deepcopy(student).to(component.module.dtype)(ids, mask).last_hidden_state
        return bool(torch.equal(part(ids, mask).last_hidden_state, expected))
