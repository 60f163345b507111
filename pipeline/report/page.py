"""The report as one HTML page that loads nothing from elsewhere.

Everything that comes from a run passes through jinja2's autoescape, and characters that hide or
reorder text are shown by their code points. The drawings alone are marked as safe, since they are
written by matplotlib, which escapes the text that it is given. A content security policy in the
page forbids scripts and requests besides.
"""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.figures import Drawing
from pipeline.report.load import SkippedRun
from pipeline.report.sections import WATERMARK, Section
from pipeline.report.wording import visible


def html_text(sections: Sequence[Section], skipped: Sequence[SkippedRun]) -> str:
    """Return the whole page."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["svg"] = _svg
    page = environment.get_template("page.html")
    return page.render(sections=sections, skipped=skipped, watermark=WATERMARK)


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _svg(drawing: Drawing) -> Markup:
    return Markup(visible(drawing.svg))
