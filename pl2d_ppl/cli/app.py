"""The command ``pl2d``, which imports a subcommand only when it runs, so that ``pl2d --help`` answers at once."""

from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

__all__ = ["COMMANDS", "app"]


class Place(NamedTuple):
    """Location of a command, and the first line of its help."""

    module: str
    name: str
    help: str


COMMANDS = {
    "data": Place("data", "data_app", "Look at files of annotations, and convert them."),
    "demo": Place("demo", "demo", "Handwritten digits, two simulated experts, half of their annotations missing."),
    "curve": Place("curve", "curve", "Train at several coverages; report and plot accuracy against coverage."),
    "fit": Place("fit", "fit", "Train on all items of a file, within bounds on everybody's share, and save the fit."),
    "predict": Place("predict", "predict", "Decide who answers new items, within the bounds of the fit."),
    "clusters": Place("clusters", "clusters", "Group people from anonymous votes, and choose the number of groups."),
    "crowd": Place("crowd", "crowd", "Infer the truth from named people, and how good each of them is."),
    "onboard": Place("onboard", "onboard", "Compare methods on people known from few items."),
}


class _LazyCommand(TyperCommand):
    """A command that is known only by the first line of its help until it runs."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Import the command, and make its context."""
        place = COMMANDS[str(self.name)]
        found = getattr(import_module(f"pl2d_ppl.cli.{place.module}"), place.name)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(self.name)(found)
            found = single
        return get_command(found).make_context(info_name, args, parent, **extra)


class _LazyGroup(TyperGroup):
    """The commands, without importing any of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None."""
        place = COMMANDS.get(cmd_name)
        return None if place is None else _LazyCommand(cmd_name, help=place.help)


app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def pl2d() -> None:
    """Probabilistic learning to defer: who should decide, the AI or one of several people."""
