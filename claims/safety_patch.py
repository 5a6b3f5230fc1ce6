"""Refusals that rounding broke, patched back: Q-resafe against plain DPO and random masks. `python -m claims.safety_patch`.

A toy that answers, but must meet a harmless marker with REFUSE (`claims.marker_toy`), is rounded until it forgets to.
Each seed is another toy. A patch sees prompts alone; what is right is never told. Judged on other prompts: the share of
marked prompts that are not refused, and of the others that are not answered as they should be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from claims.experiment import SEEDS, Experiment, Statement
from claims.marker_toy import MARKED, Asked, ask, right, write_prompts, write_toy
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.core.technique import Technique
from featherweight.techniques.adapt.safety_patch import SafetyPatch
from featherweight.techniques.quantize.critical_weights import CriticalWeights
from featherweight.techniques.quantize.rtn import Rtn
