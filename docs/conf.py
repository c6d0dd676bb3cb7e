"""Configuration of Sphinx."""

import pyfed
from pyfed.op import PublicOp

project = "pyfed"
author = "The pyfed authors"
copyright = author
version = release = pyfed.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pyfed {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False


def setup(app):
    """Show what an op returns, in place of what its argument check returns."""

    def signature(app, what, name, obj, options, arguments, result):
        if isinstance(obj, PublicOp):
            return arguments, "torch.Tensor"
        return None

    app.connect("autodoc-process-signature", signature)
