"""The public interface, and what every model and guide must bear."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import pl2d_ppl
import pl2d_ppl.guides
import pl2d_ppl.models

MODULES = sorted(m.name for m in pkgutil.walk_packages(pl2d_ppl.__path__, "pl2d_ppl."))


def test_all_names_exist_and_are_sorted_once():
    assert len(set(pl2d_ppl.__all__)) == len(pl2d_ppl.__all__)
    for name in pl2d_ppl.__all__:
        assert getattr(pl2d_ppl, name).__doc__, name


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


@pytest.mark.slow
def test_training_imports_neither_what_only_data_and_pictures_need_nor_any_model():
    spared = ("arviz", "arviz_base", "arviz_plots", "xarray", "PIL", "grain", "tensorflow_datasets")
    code = (
        "import sys, pl2d_ppl, pl2d_ppl.experiments.methods\n"
        f"loaded = [m for m in sys.modules if m.split('.')[0] in {spared}]\n"
        "loaded += [m for m in sys.modules if m.startswith(('pl2d_ppl.models.', 'pl2d_ppl.guides.'))]\n"
        "assert not loaded, loaded[:5]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
