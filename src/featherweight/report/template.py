"""Fills the templates of reports: pages that need nothing else, with their charts and the script that draws them."""

from __future__ import annotations

from typing import Any

from featherweight.core.budget import format_bytes


def filled(template: str, **values: Any) -> str:
    """A page from a template of this folder; what a template names and nobody gives is empty."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("featherweight.report", ""), autoescape=True, undefined=jinja2.ChainableUndefined
    )
    environment.globals["bytes"] = format_bytes
    return environment.get_template(template).render(plotly_js=plotly_script(), **values)


def plotly_script() -> Any:
    """What draws the charts of a page, to stand inside a script element."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs().replace("</script", "<\\/script"))


def chart(figure: Any, name: str) -> Any:
    """A Plotly figure as a piece of a page, under a name that is unique there."""
    from markupsafe import Markup

    config = {"responsive": True, "displayModeBar": False}
    return Markup(
        figure.to_html(
            full_html=False, include_plotlyjs=False, config=config, div_id=f"chart-{name}", default_width="100%"
        )
    )
