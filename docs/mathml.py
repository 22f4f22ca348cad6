"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

REWRITES = {  # of LaTeX that docutils does not know
    r"(begin|end)\{(?:align|gather|equation)\*?\}": r"\1{aligned}",
    r"&\s*(\\sim|=|\\propto|\\approx|\\le|\\ge)": r"&{} \1",  # a sign between two sides, and not before one
    # Scripts of an accented letter stand beside it.
    r"(\\(?:bar|hat|tilde|vec|widehat|widetilde)(?:\{\\?\w+\}|\s+\\?\w+))(?=[_^])": r"{\1{}}",
    r"\\(?:text|display)style\b\s*": "",
    r"\\dots\b": r"\\ldots",
    r"\\[bB]igg?[lrm]?\s*/": "/",
    r"\\argm(ax|in)\b": r"\\arg\\m\1",
}


def _mathml(writer, node, block: bool) -> str:
    tex = node.astext()
    for pattern, replacement in REWRITES.items():
        tex = re.sub(pattern, replacement, tex)
    try:
        return tex2mathml(tex, as_block=block).replace('class="ams-align">', 'class="ams-align" displaystyle="true">')
    except MathError as error:
        logger.warning("Expected a formula that MathML can state, found %r: %s", tex, error, location=node)
        return f"<code>{writer.encode(tex)}</code>"


def _inline(writer, node) -> None:
    writer.body.append(_mathml(writer, node, block=False))
    raise nodes.SkipNode


def _display(writer, node) -> None:
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    writer.body.append(writer.starttag(node, "div", CLASS="math-display") + number)
    writer.body.append(_mathml(writer, node, block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app) -> dict:
    """Register the renderer, which ``html_math_renderer`` names."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
