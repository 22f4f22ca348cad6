"""Settings of the site; ``make docs`` builds it."""

import os
import sys
from importlib import metadata
from pathlib import Path

import jupytext
from docutils import nodes

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # diagrams are drawn with five items
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # of tqdm, at the head of every notebook

import diagrams  # noqa: E402
import reference  # noqa: E402
import written  # noqa: E402

project = "pl2d_ppl"
author = "pl2d_ppl developers"
copyright = author
release = metadata.version("pl2d_ppl")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "myst_nb", "mathml"]
exclude_patterns = ["generated/diagrams", "generated/api/exports.md", "**.py", "**.ipynb_checkpoints"]

# Other projects' references lie on the network, which no build needs; some layers are left out of the reference.
nitpick_ignore_regex = [("py:.*", r"(numpyro|tfds|jax|flax|optax)\..*"), ("py:.*", r"pl2d_ppl\.(checks|cli|io)\b.*")]

html_theme = "furo"
html_title = "pl2d_ppl"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False

autodoc_typehints = "none"  # docstrings state types with their shapes
autodoc_preserve_defaults = True
add_module_names = False  # the heading has the module
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # members follow their class
numpydoc_class_members_toctree = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_links_external_new_tab = True

# Notebooks run in the full build alone: `-D nb_execution_mode=force`.
nb_execution_mode = "off"
nb_execution_timeout = 3600
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True


def _notebook_files() -> dict[str, str]:
    files = {}
    for path in sorted((HERE.parent / "notebooks").glob("*.py")):
        notebook = jupytext.read(path)
        for number, cell in enumerate(notebook.cells):  # names that are drawn anew would make every page a changed one
            cell["id"] = f"cell-{number}"
        files[f"{path.stem}.ipynb"] = jupytext.writes(notebook, fmt="ipynb")
    return files


def _generate(app) -> None:
    """Write what the site takes from the package: plate diagrams, the reference, notebooks."""
    written.write_generated("diagrams", diagrams.diagram_files())
    written.write_generated("api", reference.reference_files())
    written.write_generated("notebooks", _notebook_files())


def _skip_fields(app, what, name, thing, skip, options) -> bool | None:
    """Leave out fields of NamedTuples and dataclasses, which their class's docstring tells with their shapes."""
    is_field = type(thing).__name__ in ("_tuplegetter", "member_descriptor")
    return True if is_field else None


def _resolve(app, env, node, target) -> nodes.Node | None:
    """Find what a reference means that goes by another path than the one it is documented under."""
    if node.get("refdomain") != "py":
        return None
    target_name, module = node["reftarget"], node.get("py:module")
    path = reference.public_path(target_name) or (module and reference.public_path(f"{module}.{target_name}"))
    if not path:
        return None
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", path, node, target)


def setup(app) -> None:
    """Connect the steps above."""
    app.connect("builder-inited", _generate)
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("missing-reference", _resolve)
