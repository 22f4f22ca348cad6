"""The API reference, listed from the package itself.

The rule: a name is public if the ``__all__`` of a module in one of the layers below has it, and every name is
documented once, where it is defined. Left out are ``checks``, ``cli`` and ``io`` (checks of arguments, the command line
and how files are written), which nobody needs to import, and modules whose name begins with an underscore.
"""

import ast
import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import NamedTuple

import pl2d_ppl

LAYERS = {
    "models": "Models",
    "primitives": "Primitives",
    "guides": "Guides",
    "inference": "Inference",
    "deferral": "Deferral",
    "people": "People",
    "clusters": "Clusters",
    "data": "Data",
    "simulate": "Simulated people",
    "networks": "Networks",
    "distributions": "Distributions",
    "engine": "Engine",
    "baselines": "Baselines",
    "experiments": "Experiments",
    "plots": "Plots",
}
LEFT_OUT = ("checks", "cli", "io")


class Name(NamedTuple):
    """A public name: the module that defines it, and the name within."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Full path of the name."""
        return f"{self.module}.{self.name}"

    @property
    def thing(self) -> object:
        """What the name stands for."""
        return getattr(importlib.import_module(self.module), self.name)


def is_definition(thing: object) -> bool:
    """Whether a thing is a function or a class, which know where they were defined; anything else is a constant."""
    return inspect.isclass(thing) or inspect.isfunction(thing)


def modules_of(layer: str) -> list[ModuleType]:
    """Modules of a layer, public ones, the layer's own first."""
    first = importlib.import_module(f"pl2d_ppl.{layer}")
    below = pkgutil.walk_packages(getattr(first, "__path__", []), f"{first.__name__}.")
    names = sorted(m.name for m in below if not any(part.startswith("_") for part in m.name.split(".")))
    return [first, *map(importlib.import_module, names)]


def home(thing: object, module: str, name: str) -> Name:
    """Where a public thing is documented: where it is defined, or for a constant the module that lists it."""
    if is_definition(thing) and thing.__module__.startswith("pl2d_ppl."):
        return Name(thing.__module__, thing.__qualname__)
    package = importlib.import_module(module)
    for below in pkgutil.iter_modules(getattr(package, "__path__", [])):
        inner = importlib.import_module(f"{module}.{below.name}")
        if name in getattr(inner, "__all__", ()) and getattr(inner, name) is thing:
            return home(thing, inner.__name__, name)
    return Name(module, name)


def public_names(layer: str) -> list[Name]:
    """Public names of a layer, each once, by module."""
    found = {
        home(getattr(module, name), module.__name__, name): None
        for module in modules_of(layer)
        for name in getattr(module, "__all__", ())
    }
    inside = (name for name in found if name.module.startswith(f"pl2d_ppl.{layer}"))
    return sorted(inside, key=lambda found: (found.module, found.name.lower()))


def exports() -> list[Name]:
    """Names that ``import pl2d_ppl`` gives, and where each is defined."""
    return [home(getattr(pl2d_ppl, name), "pl2d_ppl", name) for name in sorted(pl2d_ppl.__all__, key=str.lower)]


def first_line(thing: object) -> str:
    """First line of a docstring, where a table has no room for links."""
    line = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", line)


def _comment(name: Name) -> str:
    """Comment beside a constant, or above it."""
    lines = inspect.getsource(importlib.import_module(name.module)).splitlines()
    for node in ast.parse("\n".join(lines)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name.name for target in targets):
            beside = re.search(r"  # (.*)$", lines[node.lineno - 1])
            if beside:
                return beside.group(1)
            above = lines[node.lineno - 2]
            return above.removeprefix("#").lstrip(": ") if above.startswith("#") else ""
    return ""


def _directive(name: Name) -> str:
    thing = name.thing
    if inspect.isclass(thing):
        kind = "autoexception" if issubclass(thing, BaseException) else "autoclass"
        return f".. {kind}:: {name.path}\n   :members:\n"
    if inspect.isfunction(thing):
        return f".. autofunction:: {name.path}\n"
    value = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(thing).split()))
    value = value if len(value) <= 200 else f"{value[:200]} ..."
    return f".. py:data:: {name.name}\n   :value: {value}\n\n   {_comment(name)}\n"


def _title(text: str, mark: str) -> str:
    return f"{text}\n{mark * len(text)}\n"


def layer_page(layer: str) -> str:
    """Page of a layer, as reStructuredText: a section a module."""
    names = public_names(layer)
    parts = [f".. _api-{layer}:\n", _title(LAYERS[layer], "=")]
    for module in modules_of(layer):
        own = [name for name in names if name.module == module.__name__]
        elsewhere = [
            found
            for name in getattr(module, "__all__", ())
            if (found := home(getattr(module, name), module.__name__, name)).module != module.__name__
        ]
        is_package, is_first = hasattr(module, "__path__"), module.__name__ == f"pl2d_ppl.{layer}"
        if not (own or is_first or (is_package and elsewhere)):
            continue
        if not is_first:
            parts.append(_title(module.__name__.removeprefix(f"pl2d_ppl.{layer}."), "-"))
        parts += [f".. py:module:: {module.__name__}\n", f"``{module.__name__}``\n", inspect.getdoc(module) or "", ""]
        if is_package and elsewhere:
            listed = ", ".join(f":py:obj:`{found.name} <{found.path}>`" for found in elsewhere)
            parts.append(f"It exports {listed}.\n")
        parts += map(_directive, own)
    return "\n".join(parts)


def reference_files() -> dict[str, str]:
    """Pages of the layers, and the table of what is exported at the top, by file name."""
    files = {f"{layer}.rst": layer_page(layer) for layer in LAYERS}
    rows = [f"| {{py:obj}}`pl2d_ppl.{n.name} <{n.path}>` | {first_line(n.thing)} |" for n in exports()]
    files["exports.md"] = "\n".join(["| Name | What it is |", "|---|---|", *rows, ""])
    return files


def public_path(target: str) -> str | None:
    """Full path under which a public thing is documented, from any path that leads to it.

    A docstring may say ``pl2d_ppl.networks.Frozen`` of what is defined in ``pl2d_ppl.networks.frozen``.
    """
    module, _, name = target.rpartition(".")
    try:
        thing = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
    return home(thing, module, name).path
