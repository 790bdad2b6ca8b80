"""The configuration of the documentation site, for Sphinx.

`make docs` builds the site from the root of the repository, so the links of the pages work in both places.
The built site loads nothing from other hosts.
"""

from __future__ import annotations

from importlib.metadata import version as installed
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "HostManager"
author = "the HostManager developers"
project_copyright = "2026, the HostManager developers"
version = release = installed("hostmanager")

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md",
    "docs/*.md", "docs/*/*.md",
]  # fmt: skip
source_suffix = {".md": "markdown"}

myst_heading_anchors = 3  # the depth of headings that links may name
nitpicky = True
smartquotes = False  # words of programs stand in quotes, too

html_theme = "alabaster"
html_title = f"HostManager {version}"
html_theme_options = {
    "description": "Keeps the services of a host in their target state",
    "fixed_sidebar": True,
    "page_width": "1100px",
    "sidebar_width": "240px",
    "show_powered_by": False,
    "sidebar_collapse": True,
}
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
templates_path = ["_site/templates"]
html_additional_pages = {"index": "start.html"}  # leads to docs/index.html
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> dict[str, Any]:
    """Show the source of mermaid diagrams: the renderer would come from another host."""
    app.add_lexer("mermaid", TextLexer)
    return {"parallel_read_safe": True}
