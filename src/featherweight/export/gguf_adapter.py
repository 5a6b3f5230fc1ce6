"""Writes a LoRA adapter as a GGUF file that llama.cpp loads beside its base (`--lora`), and checks it there.

llama.cpp multiplies by alpha / rank, with one alpha for the file and each tensor's own rank, so that the rest of a
module's scale goes into B. Rows of B are in the order in which llama.cpp keeps query and key matrices; A of an
embedding is transposed. The check loads base and adapter in llama.cpp and compares its predictions with those of the
merged model: the divergence must be small, and small beside what the adapter does.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featherweight.core.adapter_folder import Adapter, LoraFactors
from featherweight.core.adapter_merge import merged, require_separable
from featherweight.core.checkpoint import Entry, values
from featherweight.core.errors import AdapterError, OutputError
from featherweight.core.formats import FLOATS
from featherweight.core.gguf_names import gguf_names, rotary_rows
from featherweight.core.lazy import gguf, np, torch
from featherweight.core.model import Model
from featherweight.core.whole import whole_file
from featherweight.export.gguf import as_stored, write_gguf
from featherweight.export.reload import DIVERGENCE_OF_FLOATS, divergences, predictions, prompts
from featherweight.measure.llama_runtime import serve

AdapterType = Literal["F16", "F32"]
_POINTS, _FLOOR, _SHARE = 3, 1e-3, 0.1
_MEND = "export it with --format peft"


@dataclass(frozen=True)
class AdapterReload:
    """What llama.cpp was found to compute with an adapter.

    Attributes:
        predictions: positions that were compared.
        difference: mean KL divergence from the merged model, in nats.
        effect: mean KL divergence of the base from the merged model: what the adapter does.
    """

    predictions: int
    difference: float
    effect: float

    @property
    def telling(self) -> bool:
        """Whether an adapter that llama.cpp did not apply would have been found out."""
        return self.effect > _FLOOR


def write_gguf_adapter(adapter: Adapter, model: Model, path: Path, kind: AdapterType = "F16") -> None:
    """Writes an adapter as one GGUF file: whole, or not at all.

    Args:
        adapter: of this model.
        model: its base; only names and shapes are read.
        path: the file; it must not exist.
        kind: number type of the factors.

    Raises:
        AdapterError: llama.cpp has no place for one of its modules, or F16 does not hold its values.
        OutputError: the file exists or cannot be written.
    """
    if path.exists():
        raise OutputError(str(path), "exists already", "choose another file or remove it")
    require_expressible(adapter, model)
    alpha = _alpha(adapter)
    with whole_file(path) as draft:
        writer = gguf.GGUFWriter(draft, model.architecture.gguf)
        writer.add_type("adapter")
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for module, factors in adapter.factors.items():
            _add(writer, adapter, model, module, _folded(factors, alpha), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def require_expressible(adapter: Adapter, model: Model) -> None:
    """Refuses what llama.cpp would not compute.

    Raises:
        AdapterError: with the module and the reason.
    """
    require_separable(adapter, model)
    if model.architecture.variant:
        why = f"belongs to a model of the class {model.architecture.class_name}, which llama.cpp does not know"
        raise AdapterError(str(adapter.folder), why, _MEND)
    for field in ("alora_invocation_tokens", "layer_replication"):
        if adapter.config.get(field):
            raise AdapterError(str(adapter.folder), f"uses {field}, which the GGUF export does not know", _MEND)
    for module in adapter.factors:
        _gguf_name(adapter, model, module)


def _gguf_name(adapter: Adapter, model: Model, module: str) -> str:
    try:
        return gguf_names(model.architecture, [f"{module}.weight"])[f"{module}.weight"]
    except KeyError:
        raise AdapterError(f"{adapter.folder}, {module}", "has no place in llama.cpp's model", _MEND) from None


def _alpha(adapter: Adapter) -> float:
    """The alpha of the file: with it, B of a module of the commonest scale and the largest rank stays as it is."""
    factors = list(adapter.factors.values())
    scales = [each.scale for each in factors]
    return max(scales, key=scales.count) * max(each.rank for each in factors) or 1.0  # 0 would mean "do not scale"


def _folded(factors: LoraFactors, alpha: float) -> LoraFactors:
    """The factors with what `alpha / rank` leaves of the scale in B."""
    rest = factors.scale * factors.rank / alpha
    return factors if rest == 1 else factors._replace(b=(factors.b.double() * rest).to(torch.float32))


def _add(writer: Any, adapter: Adapter, model: Model, module: str, factors: LoraFactors, kind: AdapterType) -> None:
    name = _gguf_name(adapter, model, module)
    rows = rotary_rows(model.architecture, f"{module}.weight")
    a = factors.a.T if module in adapter.embeddings else factors.a
    b = factors.b if rows is None else factors.b[rows]
    for side, tensor in (("a", a), ("b", b)):
        with np.errstate(over="ignore"):
            values = tensor.float().numpy().astype(np.float16 if kind == "F16" else np.float32)
        if not np.isfinite(values).all():
            raise AdapterError(f"{adapter.folder}, {module}", "holds values that F16 does not reach", "use --type F32")
        writer.add_tensor(f"{name}.lora_{side}", np.ascontiguousarray(values))


def check_gguf_adapter(adapter: Adapter, model: Model, path: Path) -> AdapterReload:
    """Loads base and adapter in llama.cpp and compares with the merged model.

    The base is written for this as a float file: rounded ones are read back first, since llama.cpp computes with them
    less exactly than an adapter's mistake may be large.

    Raises:
        OutputError: llama.cpp computes something else.
        CheckpointError: llama.cpp refuses a file.
    """
    require_expressible(adapter, model)
    base, factors_only = as_stored(_floats(model)), dataclasses.replace(adapter, carried={})
    tokens = prompts(base)
    ends = [tokens.shape[1] * (point + 1) // _POINTS for point in range(_POINTS)]
    expected, before = predictions(merged(factors_only, base), tokens, ends), predictions(base, tokens, ends)
    effect = float((expected.exp() * (expected - before)).sum(-1).mean())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "base.gguf"
        write_gguf(base, file)
        with serve(file, context=tokens.shape[1] + 8, adapters=[path]) as runtime:
            found = divergences(runtime, tokens, ends, expected)
    difference = sum(found) / len(found)
    allowed = min(DIVERGENCE_OF_FLOATS, max(_FLOOR, _SHARE * effect))
    if not difference <= allowed:
        raise OutputError(
            str(path), f"makes llama.cpp predict {difference:.3g} nats from the merged model, {allowed:.2g} allowed",
            "report this: the export was not kept",
        )  # fmt: skip
    return AdapterReload(len(found), max(difference, 0.0), effect)


def _floats(model: Model) -> Model:
    """The model with every rounded matrix read back."""
    changed = {}
    for name, entry in model.entries.items():
        if entry.format not in FLOATS:
            nbytes = 4 * int(torch.Size(entry.shape).numel())
            changed[name] = Entry("F32", entry.shape, nbytes, functools.partial(_read_back, entry))
    return model.with_changes(changed)


def _read_back(entry: Entry) -> torch.Tensor:
    return values(entry.load())
