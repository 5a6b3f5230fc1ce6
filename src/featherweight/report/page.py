"""Renders the facts of a run as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from featherweight.core.budget import format_bytes
from featherweight.core.formats import get
from featherweight.report import charts
from featherweight.report.template import chart, filled

_RUNTIMES = {"gguf": "llama.cpp (GGUF)", "hf": "Hugging Face and vLLM (compressed-tensors)"}


def render(facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        facts: what `result.json` holds.
    """
    why = facts["why"]
    return filled(
        "page.html.jinja",
        facts=facts,
        verdict=_verdict(facts),
        runtime=_RUNTIMES[facts["format"]],
        cards=_cards(facts) if facts["chosen"] else [],
        numbers=_numbers(facts) if facts["chosen"] else [],
        recipe=yaml.safe_dump(facts["chosen"]["recipe"], sort_keys=False, width=100) if facts["chosen"] else "",
        why_names=list(dict.fromkeys([*why["goal"], *why["reachable"]])) if why else [],
        charts=_charts(facts),
        precision_note=_outside_blocks(facts),
        receipts=[_receipt(receipt) for receipt in facts["ledger"]],
    )


def _verdict(facts: Mapping[str, Any]) -> str:
    if not facts["goal"]:
        return "recipe applied"
    return "meets the budget" if facts["met"] else "does not meet the budget"


def _charts(facts: Mapping[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if facts["trials"]:
        figures["frontier"] = charts.frontier(facts)
    if facts["chosen"]:
        figures["domains"] = charts.domains(facts)
        figures["precision"] = charts.precision(facts, _bits(facts))
    return {name: chart(figure, name) for name, figure in figures.items()}


def _bits(facts: Mapping[str, Any]) -> dict[str, float]:
    """Bits a weight of the formats that occur, on rows that every one of them accepts."""
    kinds = {kind for row in facts["precision"].values() for kind in row.values()}
    return {kind: get(kind).row_bits(8192) / 8192 for kind in kinds}


def _outside_blocks(facts: Mapping[str, Any]) -> str:
    outside = facts["precision"].get("-", {})
    return "; " + ", ".join(f"{part}: {kind}" for part, kind in outside.items()) if outside else ""


def _cards(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    chosen = facts["chosen"]
    parent, quality = chosen["parent"], chosen["quality"]
    low, high = quality["ratio_interval"]
    speed = parent["latency"]["seconds"] / chosen["latency"]["seconds"]
    return [
        {
            "label": "file", "value": format_bytes(chosen["memory"]),
            "note": f"{chosen['memory'] / parent['memory']:.0%} of the parent in bf16",
        },
        {"label": "quality", "value": f"{quality['ratio']:.1%}", "note": f"95 %: {low:.1%} to {high:.1%}"},
        {"label": "same top token", "value": f"{quality['agreement']:.1%}", "note": f"KL {quality['kl']:.4f} nats"},
        {
            "label": "a token", "value": f"{chosen['latency']['seconds'] * 1e3:.1f} ms",
            "note": f"{speed:.1f} x the parent's speed",
        },
        {"label": "resident", "value": format_bytes(chosen["resident"]), "note": "fresh process, peak"},
    ]  # fmt: skip


def _numbers(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    chosen, goal = facts["chosen"], facts["goal"]
    parent, quality = chosen["parent"], chosen["quality"]
    rows = [
        ("file", format_bytes(parent["memory"]), format_bytes(chosen["memory"]), "memory"),
        ("quality", "100 %", f"{quality['ratio']:.1%}", ""),
        ("quality, lower end of 95 %", "", f"{quality['ratio_interval'][0]:.1%}", "quality"),
        ("perplexity", f"{quality['parent_perplexity']:.2f}", f"{quality['child_perplexity']:.2f}", ""),
        ("KL to the parent, nats a token", "0", f"{quality['kl']:.4f}", ""),
        ("same most likely token", "100 %", f"{quality['agreement']:.1%}", ""),
        ("decode", _ms(parent), _ms(chosen), "latency"),
        ("prompt", f"{parent['latency']['prefill']:.0f} tokens/s", f"{chosen['latency']['prefill']:.0f} tokens/s", ""),
        ("resident memory", format_bytes(parent["resident"]), format_bytes(chosen["resident"]), "resident"),
    ]
    for score in facts.get("tasks", []):
        label = f"{score['task']}, {score['metric']}, {score['items']} questions"
        rows.append((label, rate(score, "parent"), rate(score, "child"), ""))
    return [
        {
            "label": label, "parent": before, "result": after, "limit": goal.get(name, ""),
            "missed": name in chosen["missed"],
            "mark": "" if name not in goal else "missed" if name in chosen["missed"] else "met",
        }
        for label, before, after, name in rows
    ]  # fmt: skip


def rate(score: Mapping[str, Any], who: str) -> str:
    """A task's score of the "parent" or the "child" with its standard error."""
    return f"{score[who]:.1%} ± {score[f'{who}_error']:.1%}"


def _ms(figures: Mapping[str, Any]) -> str:
    return f"{figures['latency']['seconds'] * 1e3:.1f} ms/token"


def _receipt(receipt: Mapping[str, Any]) -> dict[str, str]:
    quality = receipt["quality"] or {}
    quality = quality.get("after", quality)
    size = receipt["bytes"]
    before, after = (str(receipt[key] or "")[:8] for key in ("before", "after"))
    return {
        "step": str(receipt["step"]),
        "change": f"{before} → {after}" if before else after,
        "bytes": format_bytes(size[1] if isinstance(size, list) else size) if size else "",
        "quality": f"{quality['ratio']:.1%}" if quality else "",
        "seconds": f"{receipt['seconds']:.1f}" if receipt["seconds"] else "",
        "peak": format_bytes(receipt["peak_memory"]) if receipt["peak_memory"] else "",
        "hash": str(receipt["hash"])[:12],
    }
