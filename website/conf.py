"""How Sphinx makes the site; `build.py` puts its sources together and runs it."""

import inspect
import re
from html import escape
from typing import Any

from docutils import nodes  # type: ignore[import-untyped, unused-ignore]
from docutils.utils.math import latex2mathml  # type: ignore[import-untyped, unused-ignore]
from pygments.lexers.special import TextLexer

import energylens

project = "energylens"
author = "the energylens authors"
project_copyright = author
version = release = energylens.__version__
html_title = f"energylens {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
exclude_patterns = [".doctrees"]
suppress_warnings = ["myst.xref_missing.api"]

myst_enable_extensions = ["strikethrough", "tasklist", "dollarmath"]
myst_dmath_allow_space = myst_dmath_allow_digits = False  # `$` of money and of shells is no maths
myst_fence_as_directive = ["math"]  # GitHub renders ```math as well
html_math_renderer = "mathml"
myst_update_mathjax = False
myst_heading_anchors = 4
nitpicky = True  # of names in docstrings, public ones must be found; types of other packages and inner ones need not
nitpick_ignore_regex = [("py:.*", r"(?!energylens\.\w+$).*")]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
add_module_names = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def read_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Read a docstring as plain text with `code`: names of the package become links, nothing else is markup."""
    arguments = set(inspect.signature(obj).parameters) if callable(obj) else set()
    names = set(energylens.__all__) - arguments - {name.removeprefix("energylens.")}

    def code(code_match: re.Match[str]) -> str:
        word = code_match[1]
        return f":py:obj:`~energylens.{word}`" if word in names else f"``{word}``"

    def plain(paragraph: str) -> str:
        if paragraph.lstrip().startswith(">>>"):
            return paragraph
        parts = re.split(r"(`[^`]+`)", paragraph)
        parts[::2] = [re.sub(r"([*_|\\])", r"\\\1", part) for part in parts[::2]]
        parts[1::2] = [re.sub(r"`([^`]+)`", code, part) for part in parts[1::2]]
        return "".join(parts)

    lines[:] = "\n\n".join(plain(paragraph) for paragraph in "\n".join(lines).split("\n\n")).split("\n")


def inline_math(writer: Any, node: Any) -> None:
    """Write inline maths as MathML, which browsers show without a script."""
    writer.body.append(latex2mathml.tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_math(writer: Any, node: Any) -> None:
    r"""Write an equation as MathML, with the number of its `\tag` at the right and as its anchor (`#eq-5-2`)."""
    tex, number = _TAG.sub("", node.astext()), _TAG.search(node.astext())
    maths = latex2mathml.tex2mathml(tex, as_block=True)
    label = f"eq-{number[1].replace('.', '-')}" if number else ""
    link = f'<a class="eqno" href="#{label}">({escape(number[1])})</a>' if number else ""
    writer.body.append(f'<div class="equation" id="{label}">{maths}{link}</div>\n' if number else maths)
    raise nodes.SkipNode


_TAG = re.compile(r"\s*\\tag\{([\d.]+)\}")


def setup(app: Any) -> None:
    """Connect what reads docstrings and what writes maths."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.add_lexer("csv", TextLexer)
    app.connect("autodoc-process-docstring", read_docstring)
