"""Self-contained HTML pages that escape foreign text and run no scripts."""

import base64
import hashlib
import html
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from xmodal.errors import printable

HERE = Path(__file__).parent
# Escaping is what keeps text of others from being more; this is the second wall.
POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; base-uri 'none'; form-action 'none'"
)


def render(template: Path, title: str, **values: Any) -> str:
    """Return the page of a template, which fills the block `content` of `page.html`.

    Its style is `style.css` of this folder, then that beside the template if it is another.
    """
    folders = dict.fromkeys([HERE, template.parent])
    style = "".join((folder / "style.css").read_text(encoding="utf-8") for folder in folders)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*reversed(folders)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(
        title=title,
        style=Markup(style),
        policy=Markup(POLICY.format(style=f"sha256-{digest}")),
        **values,
    )


def escaped(text: str) -> str:
    """Return a text escaped for HTML and SVG, also in attributes."""
    return html.escape(_shown(text))


def _shown(value: Any) -> str:
    """Return a value as `printable` lines; HTML of our own is unchanged."""
    if isinstance(value, Markup):
        return value
    return "\n".join(map(printable, str(value).split("\n")))
