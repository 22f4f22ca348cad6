"""Folder of generated pages: only what has changed is written, and what is no longer generated goes."""

from pathlib import Path

FOLDER = Path(__file__).parent / "generated"


def write_generated(folder: str, contents: dict[str, str]) -> None:
    """Make a folder below ``generated`` hold these files and no others.

    Parameters
    ----------
    folder : str
        Name of the folder.
    contents : dict of str to str
        Text by the file's path within the folder.
    """
    root = FOLDER / folder
    for name, text in contents.items():
        path = root / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    for path in root.rglob("*"):
        if path.is_file() and path.relative_to(root).as_posix() not in contents:
            path.unlink()
