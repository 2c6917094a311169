"""Sphinx settings. `make docs` builds the site into build/site; every warning is an error."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference_pages  # noqa: E402 - lies beside this file
from sphinx.ext.napoleon.docstring import GoogleDocstring  # noqa: E402
from sphinx.util.nodes import make_refnode  # noqa: E402

import holdfast  # noqa: E402

project = "Holdfast"
author = "The Holdfast contributors"
copyright = author
version = release = holdfast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["figures"]
nitpicky = True
# Types of other packages have no pages here.
OTHERS = "'.*|torch|jaxtyping|numpy|collections|pathlib|typing|types|abc|typing_extensions|lightning_fabric|Tensor|Module|Fraction"
nitpick_ignore_regex = [(r"py:.*", rf"({OTHERS})(\..*)?")]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "py:obj"
highlight_language = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style"), ("Raises (on `run`)", "Raises")]
# A method that an attack or a threat overrides is described once, in its base class.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "Holdfast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False


def resolve(app, env, node, contnode):
    """Links a name written without its module, where only one public name ends so. Names that are not public stay text."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    found = [name for name in domain.objects if name.endswith(f".{target}")]
    if len(found) == 1:
        entry = domain.objects[found[0]]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])
    docstring = node["refdoc"].startswith("reference/")
    return contnode if docstring and (node["reftype"] == "obj" or target.startswith("holdfast.")) else None


def link_pages(app, what, name, obj, options, lines):
    """Docstrings name pages of this site by their files."""
    lines[:] = [reference_pages.linked(line) for line in lines]


def setup(app):
    """Writes the reference's pages before Sphinx looks for documents."""
    reference_pages.write(HERE / "reference")
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", link_pages)
    # Napoleon would read "text: more text" in a property's docstring as "type: description".
    GoogleDocstring._parse_attribute_docstring = lambda self: self._consume_to_end()
