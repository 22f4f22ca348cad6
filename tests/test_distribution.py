"""What is installed: from a wheel and from an sdist, in an empty environment, and with the oldest versions allowed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The engine, its guides and training: what touches JAX, NumPyro, Flax and Optax.
ENGINE_TESTS = ("engine", "guides", "networks", "inference/test_result.py")

pytestmark = pytest.mark.exhaustive


def run(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def environment(folder, *requirements):
    """An empty environment with these requirements; its folder of commands."""
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, folder, cwd=ROOT)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *requirements, cwd=ROOT)
    return folder / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, built from what is tracked or will be."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_works_installed_outside_of_the_clone(built, tmp_path, kind):
    (archive,) = built.glob(kind)
    bin_ = environment(tmp_path / "env", archive)
    assert "Written" in run(bin_ / "pl2d", "demo", "--quick", "--out", tmp_path / "demo", cwd=tmp_path)
    assert (tmp_path / "demo" / "report.json").exists()
    code = (
        "import importlib, pkgutil, pl2d_ppl, pl2d_ppl.guides, pl2d_ppl.models as m\n"
        "print(pl2d_ppl.__version__, *(importlib.import_module(f'{m.__name__}.{i.name}').__name__"
        " for i in pkgutil.iter_modules(m.__path__)), len([getattr(pl2d_ppl, n) for n in pl2d_ppl.__all__]))"
    )
    printed = run(bin_ / "python", "-c", code, cwd=tmp_path).split()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert printed[0] == version
    assert {f"pl2d_ppl.models.{p.stem}" for p in (ROOT / "models").glob("[a-z]*.py")} <= set(printed)
    installed = run(bin_ / "python", "-c", "import pl2d_ppl; print(pl2d_ppl.__path__[0])", cwd=tmp_path).strip()
    assert (Path(installed) / "py.typed").exists()


def test_the_engine_works_with_the_oldest_versions_allowed(tmp_path):
    tools = ("pytest>=8.3", "hypothesis>=6.100", "cvxpy>=1.6", "onnx>=1.17", "onnxruntime>=1.20")
    bin_ = environment(tmp_path / "env", "--resolution", "lowest-direct", f"{ROOT}[images,baselines]", *tools)
    tests = [ROOT / "tests" / name for name in ENGINE_TESTS]
    options = ("-q", "-m", "not slow and not exhaustive", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml")
    printed = run(bin_ / "python", "-m", "pytest", *options, *tests, cwd=tmp_path)
    assert int(re.search(r"(\d+) passed", printed)[1]) > 100
