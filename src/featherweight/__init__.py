"""Takes an open-weight model and a deployment budget and returns a model that meets it, with a receipt for every step.

    import featherweight as fw
    fw.fit("smollm2-135m", fw.Budget(memory="92MB", quality=0.85))

The verbs are functions; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from featherweight.core.version import __version__ as __version__

if TYPE_CHECKING:
    from featherweight.core.budget import Budget as Budget
    from featherweight.core.recipe import Recipe as Recipe
    from featherweight.core.scene_folder import read_images as read_images
    from featherweight.core.scene_folder import read_scenes as read_scenes
    from featherweight.core.signal_files import Reading as Reading
    from featherweight.core.source import open_model as open_model
    from featherweight.core.technique import technique as technique
    from featherweight.verbs.adapt import adapt as adapt
    from featherweight.verbs.adapt_segmenter import adapt_segmenter as adapt_segmenter
    from featherweight.verbs.adapt_segmenter import load_segmenter as load_segmenter
    from featherweight.verbs.adapter_export import adapter_export as adapter_export
    from featherweight.verbs.adapter_inspect import adapter_inspect as adapter_inspect
    from featherweight.verbs.adapter_place import adapter_place as adapter_place
    from featherweight.verbs.adapter_shrink import adapter_shrink as adapter_shrink
    from featherweight.verbs.adjudicate import adjudicate as adjudicate
    from featherweight.verbs.apply import apply as apply
    from featherweight.verbs.audit_component import audit_component as audit_component
    from featherweight.verbs.compare_optimizers import compare_optimizers as compare_optimizers
    from featherweight.verbs.distill_component import distill_component as distill_component
    from featherweight.verbs.fit import fit as fit
    from featherweight.verbs.garak import garak as garak
    from featherweight.verbs.garak import import_garak as import_garak
    from featherweight.verbs.graft import graft as graft
    from featherweight.verbs.grid import grid as grid
    from featherweight.verbs.grid_settings import GridSettings as GridSettings
    from featherweight.verbs.merge import merge as merge
    from featherweight.verbs.merge import merge_onto as merge_onto
    from featherweight.verbs.merge import merge_recipe as merge_recipe
    from featherweight.verbs.plan import plan as plan
    from featherweight.verbs.prepare import Settings as Settings
    from featherweight.verbs.report import report as report
    from featherweight.verbs.safety import safety as safety
    from featherweight.verbs.unmerge import unmerge as unmerge
    from featherweight.verbs.verify import verify as verify

_WHERE = {
    "Budget": "core.budget", "GridSettings": "verbs.grid_settings", "Reading": "core.signal_files",
    "Recipe": "core.recipe", "Settings": "verbs.prepare", "adapt": "verbs.adapt", "grid": "verbs.grid",
    "adapt_segmenter": "verbs.adapt_segmenter", "adapter_export": "verbs.adapter_export",
    "adapter_inspect": "verbs.adapter_inspect", "adapter_place": "verbs.adapter_place",
    "adapter_shrink": "verbs.adapter_shrink", "adjudicate": "verbs.adjudicate",
    "apply": "verbs.apply", "audit_component": "verbs.audit_component",
    "compare_optimizers": "verbs.compare_optimizers", "distill_component": "verbs.distill_component",
    "fit": "verbs.fit", "garak": "verbs.garak", "graft": "verbs.graft", "import_garak": "verbs.garak",
    "load_segmenter": "verbs.adapt_segmenter", "merge": "verbs.merge", "merge_onto": "verbs.merge",
    "merge_recipe": "verbs.merge", "open_model": "core.source", "plan": "verbs.plan",
    "read_images": "core.scene_folder", "read_scenes": "core.scene_folder", "report": "verbs.report",
    "safety": "verbs.safety", "technique": "core.technique", "unmerge": "verbs.unmerge", "verify": "verbs.verify",
}  # fmt: skip

__all__ = [
    "Budget", "GridSettings", "Reading", "Recipe", "Settings", "adapt", "adapt_segmenter", "adapter_export",
    "adapter_inspect", "adapter_place", "adapter_shrink", "adjudicate", "apply", "audit_component",
    "compare_optimizers", "distill_component", "fit", "garak", "graft", "grid", "import_garak", "load_segmenter",
    "merge", "merge_onto", "merge_recipe", "open_model", "plan", "read_images", "read_scenes",
    "report", "safety", "technique", "unmerge", "verify",
]  # fmt: skip


class _Package(types.ModuleType):
    """Keeps the verbs: importing the package `featherweight.plan` would otherwise replace the function `plan` here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'featherweight' has no attribute {name!r}")
    return getattr(importlib.import_module(f"featherweight.{_WHERE[name]}"), name)
