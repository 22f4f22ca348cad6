"""What the pages hold that can be run: blocks of Python, commands, and hidden set-ups."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "models" / "README.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if "generated" not in page.relative_to(DOCS).parts),
]
# A set-up is code in a comment; a block that cannot run says why in a comment right above it.
PIECE = re.compile(
    r"<!-- (?P<setup>setup)\n(?P<hidden>.*?)-->"
    r"|(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)```\s*$",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"^\s*(?:\$ )?((?:pl2d|make)\b.*)")


class Snippet(NamedTuple):
    """Python of a page: where it begins, and why it is not run, if it is not."""

    line: int
    code: str
    reason: str | None


def _pieces(page):
    text = page.read_text("utf-8")
    for match in PIECE.finditer(text):
        is_setup = bool(match["setup"])
        start = match.start("hidden" if is_setup else "code")
        language = "setup" if is_setup else match["language"].strip()
        yield (
            text.count("\n", 0, start) + 1,
            language,
            textwrap.dedent(match["hidden" if is_setup else "code"]),
            match["reason"],
        )


def snippets(page):
    """Python of a page, set-ups too, in order."""
    return [
        Snippet(line, code, reason) for line, language, code, reason in _pieces(page) if language in ("python", "setup")
    ]


def languages(page):
    """Languages of the blocks of a page."""
    return {language for _, language, _, _ in _pieces(page)}


def commands(page):
    """Shell commands of a page, of ours: lines of consoles, and `pl2d ...` within the text."""
    text = page.read_text("utf-8")
    blocks = [code for _, language, code, _ in _pieces(page) if language in ("", "console", "sh", "bash", "shell")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"(?<!`)`((?:pl2d|make) [^`]+)`(?!`)", PIECE.sub("", text))
    found = map(COMMAND.match, (*lines, *inline))
    return [match[1].split("#")[0].strip() for match in found if match]
