"""The command ``pl2d`` and its help."""

import re

import pytest
from cases.command import pl2d, plain

COMMANDS = {
    "demo": ["--quick"],
    "curve": ["--coverages", "--method"],
    "fit": ["--lower"],
    "predict": ["--out"],
    "onboard": ["--context", "--methods", "--own-items", "--replaced", "--ai-steps"],
}


def test_help_lists_the_commands():
    result = pl2d("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", plain(result.output))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_is_readable(command):
    result = pl2d(command, "--help")
    text = plain(result.output)
    assert result.exit_code == 0
    assert f"{command} [OPTIONS]" in text
    for option in ("--help", "--out", *COMMANDS[command]):
        assert option in text
    assert "Annotated[" not in text
    assert "<class" not in text
    # Every option says what it is.
    for line in result.output.splitlines():
        if match := re.search(r"--(?!help)[a-z-]+\s+([A-Z]+|\[.*?\])?\s*(.*)", plain(line)):
            assert len(match.group(2).split()) >= 2 or command == "demo", line


def test_without_arguments_there_is_help():
    assert "Usage" in plain(pl2d().output)
