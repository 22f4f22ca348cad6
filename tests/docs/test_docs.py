"""The documentation: it builds, its snippets run, its commands exist."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib

import diagrams
import matplotlib.pyplot as plt
import pytest
import reference
from pages import DOCS, PAGES, ROOT, commands, languages, snippets
from typer.testing import CliRunner

from pl2d_ppl.cli.app import COMMANDS, app

NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
RUN = [pytest.param(page, id=name) for page, name in zip(PAGES, NAMES, strict=True) if snippets(page)]
CALL = [pytest.param(page, id=name) for page, name in zip(PAGES, NAMES, strict=True) if commands(page)]
MARKED = re.compile(r"`{3,}\s*\{?(py|python|code-block|code-cell|ipython3?|pycon)\b")


# Pages may show warnings, which are errors elsewhere.
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", RUN)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    namespace = {"__name__": "page"}
    for snippet in snippets(page):
        code = compile("\n" * (snippet.line - 1) + snippet.code, str(page), "exec")  # so that errors have its lines
        if not snippet.reason:
            exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_is_marked_so_that_it_runs(page):
    blocks = [found.group(0) for found in MARKED.finditer(page.read_text("utf-8"))]
    assert all(re.fullmatch(r"```python", block) for block in blocks), blocks
    assert len(blocks) == page.read_text("utf-8").count("```python")
    assert ("python" in languages(page)) == bool(blocks)


def options_of(words):
    """Options of the command that these words name, from its help."""
    place, names = COMMANDS[words[0]], words[:1]
    if hasattr(getattr(importlib.import_module(f"pl2d_ppl.cli.{place.module}"), place.name), "registered_commands"):
        names = words[:2]  # a group: the second word is the command
    result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0, (names, result.output)
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", result.output))


@pytest.mark.parametrize("page", CALL)
def test_commands_and_their_options_exist(page):
    targets = re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands(page):
        program, *words = shlex.split(command.split("|")[0])
        if program == "make":
            assert set(words) <= {*targets}, command
        elif words[0] != "--help":
            assert words[0] in COMMANDS, command
            used = {word.split("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}
            assert used <= options_of(words), command


def test_every_model_has_a_page_and_every_page_a_model():
    pages = {page.stem for page in (DOCS / "models").glob("*.md")}
    assert pages == set(diagrams.models())
    assert set(diagrams.EXAMPLES) == pages


@pytest.mark.parametrize("name", diagrams.models())
def test_diagrams_and_programs_come_from_the_models(name):
    source = diagrams.diagram(name).source
    assert "item" in source
    program = diagrams.program_text(name)
    compile(program, name, "exec")
    assert f"\ndef {name}(" in f"\n{program}"
    assert '"""' not in program


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_without_graphviz(tmp_path):
    """Also of what the reference lists: every public name is in the inventory, and nothing else at their level."""
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("generated", "__pycache__"))
    for name in ("notebooks", "CHANGELOG.md"):
        os.symlink(ROOT / name, tmp_path / name)
    folder = os.path.dirname(sys.executable)
    environment = {
        **os.environ,
        "PATH": folder,  # without `dot`
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--nitpicky", "-q"]
    built = subprocess.run(
        [*command, str(tmp_path / "docs"), str(tmp_path / "html")], env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "digraph" in (tmp_path / "html" / "models" / "prob_l2d.html").read_text()
    inventory = (tmp_path / "html" / "objects.inv").read_bytes().split(b"\n", 4)[4]
    found = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines() if " py:" in line}
    listed = {name.path for layer in reference.LAYERS for name in reference.public_names(layer)}
    assert listed <= found
