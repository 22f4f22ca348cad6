"""The public interface: what is exported, documented, and imported only when it is asked for."""

import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import pl2d_ppl
import pl2d_ppl.guides
import pl2d_ppl.models
from pl2d_ppl.cli.app import COMMANDS

ROOT = Path(__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.walk_packages(pl2d_ppl.__path__, "pl2d_ppl."))
HEAVY = ("arviz", "arviz_base", "arviz_plots", "xarray", "pandas", "matplotlib", "PIL", "grain", "tensorflow_datasets")


def loaded_by(code):
    """Top-level packages that are loaded after some code, in a process of its own."""
    code += "\nprint(*{name.split('.')[0] for name in sys.modules})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("package", [pl2d_ppl, pl2d_ppl.data], ids=str)
def test_all_names_exist_once_and_are_documented(package):
    assert len(set(package.__all__)) == len(package.__all__) > 10
    assert package.__all__ == [*dir(package)]
    for name in package.__all__:
        assert getattr(package, name).__doc__, name


def test_the_version_is_that_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert pl2d_ppl.__version__ == importlib.metadata.version("pl2d_ppl") == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("name", MODULES)
def test_modules_export_what_they_name_and_document_it(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if callable(thing):
            assert thing.__doc__, f"{name}.{public}"


@pytest.mark.parametrize("package", [pl2d_ppl.models, pl2d_ppl.guides])
def test_every_file_of_models_and_guides_exports_a_function_of_its_name(package):
    names = [m.name for m in pkgutil.iter_modules(package.__path__)]
    assert names
    for name in names:
        module = importlib.import_module(f"{package.__name__}.{name}")
        assert callable(getattr(module, name))


def test_nothing_is_imported_before_it_is_asked_for():
    assert not {"jax", "numpyro", *HEAVY} & loaded_by("import sys, pl2d_ppl")


def test_the_help_of_the_command_imports_no_command():
    code = "import sys\nfrom typer.testing import CliRunner\nfrom pl2d_ppl.cli.app import app\n"
    code += "assert CliRunner().invoke(app, ['--help']).exit_code == 0"
    assert not {"jax", "numpyro", *HEAVY} & loaded_by(code)


def test_the_help_of_the_command_says_what_the_commands_say():
    for name, place in COMMANDS.items():
        found = getattr(importlib.import_module(f"pl2d_ppl.cli.{place.module}"), place.name)
        said = found.info.help if isinstance(found, typer.Typer) else found.__doc__.strip().splitlines()[0]
        assert place.help == said, name


@pytest.mark.slow
def test_training_imports_nothing_that_only_data_and_pictures_need():
    loaded = loaded_by("import sys, pl2d_ppl.inference.fit, pl2d_ppl.models.prob_l2d, pl2d_ppl.guides.exact")
    assert "numpyro" in loaded
    assert not set(HEAVY) & loaded


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import arviz, pl2d_ppl", "import pl2d_ppl, arviz"])
def test_programs_see_their_seeds_whatever_was_imported_first(imports):
    code = f"{imports}\nfrom pl2d_ppl import MLP\nfrom pl2d_ppl.models.classification import classification\n"
    code += "import jax, numpyro\nmodel = numpyro.handlers.seed(classification, jax.random.key(0))\n"
    code += "model(jax.numpy.ones((2, 3)), classifier=lambda rngs: MLP(3, (), 2, rngs=rngs))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
