"""The Typer application: every verb, registered."""

from __future__ import annotations

import typer

from featherweight.cli import (
    adapt,
    adapter,
    adjudicate,
    apply,
    audit_component,
    compare_optimizers,
    distill_component,
    fit,
    garak,
    graft,
    grid,
    list_,
    merge,
    plan,
    report,
    safety,
    show,
    unmerge,
    verify,
)

app = typer.Typer(
    name="featherweight",
    help="Takes an open-weight model and a deployment budget and returns a model that meets it, with a receipt for "
    "every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("fit")(fit.fit)
app.command("plan")(plan.plan)
app.command("apply")(apply.apply)
app.command("adapt")(adapt.adapt)
app.command("graft")(graft.graft)
app.command("grid")(grid.grid)
app.command("merge")(merge.merge)
app.command("unmerge")(unmerge.unmerge)
app.command("verify")(verify.verify)
app.command("safety")(safety.safety)
app.command("adjudicate")(adjudicate.adjudicate)
app.command("garak")(garak.garak)
app.command("report")(report.report)
app.command("audit-component")(audit_component.audit_component)
app.command("distill-component")(distill_component.distill_component)
app.command("compare-optimizers")(compare_optimizers.compare_optimizers)
app.add_typer(adapter.app, name="adapter")
app.command("list")(list_.list_techniques)
app.command("show")(show.show)


@app.callback()
def _root() -> None:
    """Shrinks open-weight models to a deployment budget."""
