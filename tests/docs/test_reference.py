"""The API reference against the names that the package declares public."""

import ast
import importlib
from pathlib import Path

import pytest
import reference

import pl2d_ppl.guides
import pl2d_ppl.models

# By files and not by imports: nothing that the reference itself relies on. Models and guides lie beside the package.
ROOT = Path(pl2d_ppl.__file__).parent
FOLDERS = {path.stem: path for path in ROOT.iterdir() if not path.stem.startswith("_") and path.suffix in ("", ".py")}
FOLDERS |= {name: Path(getattr(pl2d_ppl, name).__path__[0]) for name in ("models", "guides")}


def declared(path):
    """Names in the ``__all__`` of a source file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [ast.literal_eval(element) for element in node.value.elts if isinstance(element, ast.Constant)]
    return []


def public_files():
    """Source files of the layers that the reference covers, and their modules."""
    for layer in reference.LAYERS:
        folder = FOLDERS[layer]
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            parts = path.relative_to(folder).with_suffix("").parts if folder.is_dir() else ()
            if not any(part.startswith("_") and part != "__init__" for part in parts):
                yield path, ".".join(["pl2d_ppl", layer, *(part for part in parts if part != "__init__")])


def listed():
    return {name.path for layer in reference.LAYERS for name in reference.public_names(layer)}


def test_every_layer_is_covered_or_left_out_by_the_rule():
    assert set(FOLDERS) == {*reference.LAYERS, *reference.LEFT_OUT}


def test_no_public_name_is_missing_and_none_unknown():
    known = set()
    for path, module in public_files():
        for name in declared(path):
            found = reference.public_path(f"{module}.{name}")
            assert found in listed(), f"{module}.{name} is not in the reference"
            known.add(found)
    assert known == listed()


def test_what_is_exported_at_the_top_has_a_page():
    assert {name.name for name in reference.exports()} == set(pl2d_ppl.__all__)
    assert {name.path for name in reference.exports()} <= listed()


def test_every_name_is_documented_once():
    paths = [name.path for layer in reference.LAYERS for name in reference.public_names(layer)]
    assert len(paths) == len(set(paths))
    for layer in reference.LAYERS:
        page = reference.layer_page(layer)
        for name in reference.public_names(layer):
            signs = (f":: {name.path}\n", f".. py:data:: {name.name}\n")
            assert sum(page.count(sign) for sign in signs) >= 1, name.path


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("pl2d_ppl.Frozen", "pl2d_ppl.networks.frozen.Frozen"),
        ("pl2d_ppl.networks.Frozen", "pl2d_ppl.networks.frozen.Frozen"),
        ("pl2d_ppl.networks.frozen.Frozen", "pl2d_ppl.networks.frozen.Frozen"),
        ("pl2d_ppl.networks.MODE_MESSAGE", "pl2d_ppl.networks.mode.MODE_MESSAGE"),
        ("pl2d_ppl.networks.nothing", None),
    ],
)
def test_a_thing_is_found_by_any_path_to_it(said, meant):
    assert reference.public_path(said) == meant


def test_the_pages_that_the_index_lists_are_those_of_the_layers():
    index = (Path(reference.__file__).parent / "api.md").read_text()
    assert [line.rpartition("/")[2] for line in index.splitlines() if line.startswith("generated/api/")] == list(
        reference.LAYERS
    )


def test_names_are_importable_from_where_the_reference_has_them():
    for path in listed():
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
