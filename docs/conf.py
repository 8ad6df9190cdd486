"""Settings of Sphinx for the documentation site, which `python -m tools.site` builds."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
# Notebooks run in processes of their own.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(DOCS.parent), os.environ.get("PYTHONPATH")]))

from tools.site.extension import source_url as linkcode_resolve  # noqa: E402, F401

project = "Deep latent-variable models in Pyro"
author = copyright = "the authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "tools.site.extension",
]
exclude_patterns = [".*"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # the anchors that a code host makes
myst_url_schemes = ["http", "https", "mailto", "source"]
nb_execution_mode = "cache"  # a notebook runs again if its code has changed
nb_execution_cache_path = str(DOCS.parent / "build" / "notebooks")
nb_execution_timeout = 1800  # seconds per cell; a cell takes a minute or two if the machine is idle
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"  # warnings of libraries, which show paths of this machine

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Keys", "params_style")]

html_theme = "furo"
html_title = "Deep latent-variable models in Pyro"
html_static_path = ["_static"]
html_css_files = ["katex/katex.min.css", "site.css"]
html_js_files = ["katex/katex.min.js", "formulas.js", "figures.js", "pictures.js"]
html_math_renderer = "katex"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_search_summary = False  # it fetches pages, which a browser forbids for files
