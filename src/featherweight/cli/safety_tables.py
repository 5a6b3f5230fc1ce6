"""The tables that `safety` ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from featherweight.cli.tables import new_table, percent

if TYPE_CHECKING:
    from featherweight.verbs.safety import SafetyResult


def print_safety(result: SafetyResult) -> None:
    """Roles with their rates, thresholds with their verdicts, and where the evidence is."""
    console = Console()
    table = new_table("cases", "expects", "passed (95 %)", "of", "failed", "unparsed", "errors")
    for name, each in result.facts["statistics"].items():
        table.add_row(
            name, each["expects"], percent(each["rate"]["rate"], each["rate"]["interval"]),
            str(each["rate"]["count"]), str(each["failed"]), str(each["unparsed"]), str(each["error"]),
        )  # fmt: skip
    console.print(table)
    for name, each in result.facts["statistics"].items():
        found = each.get("corrected")
        if found and found["rate"] is not None:
            console.print(f"{name}, corrected: {percent(found['rate'], found['interval'])}", highlight=False)
        if each["changed"]:
            console.print(f"{name}: {each['changed']['hits']} cases differ between runs", highlight=False)
    for check in result.checks:
        console.print(f"{check.name}: {check.asked}: {check.verdict}: {check.reason}", highlight=False)
    console.print(f"report  {result.folder / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"[bold]{result.facts['verdict']}[/bold]")
