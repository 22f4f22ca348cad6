"""Contents of files, also of compressed ones."""

from pathlib import Path

import pyarrow as pa

__all__ = ["begin_of", "content_of", "plain_name"]

CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
ENDINGS = (".gz", ".zst", ".bz2")
LONGEST_MAGIC = 8


def content_of(path: Path) -> pa.Buffer:
    """Read a file whole, decompressed if it is compressed.

    The buffer is Arrow's own: if a thread of Arrow releases a Python buffer while Python exits, the process aborts.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    pyarrow.Buffer
        Its bytes.

    Raises
    ------
    ValueError
        If there is no such file, or it cannot be read.
    """
    try:
        with pa.OSFile(str(path)) as file:
            content = file.read_buffer()
        codec = _codec(content.slice(0, min(4, content.size)).to_pybytes())
        if codec is None:
            return content
        stream = pa.BufferOutputStream()
        with pa.CompressedInputStream(pa.BufferReader(content), codec) as compressed:
            while chunk := compressed.read(2**22):
                stream.write(chunk)
        return stream.getvalue()
    except FileNotFoundError as error:
        raise ValueError(f"Expected a file at {path}, found none. Check the name and the folder.") from error
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"Expected a file that can be read at {path}, found: {error}. Fetch or rewrite it.") from error


def begin_of(path: Path, size: int = LONGEST_MAGIC) -> bytes:
    """Read the first bytes of a file, decompressed; fewer if the file is short or damaged.

    Raises
    ------
    OSError
        If it cannot be opened.
    """
    with path.open("rb") as file:
        begin = file.read(max(size, LONGEST_MAGIC))
    codec = _codec(begin)
    if codec is None:
        return begin[:size]
    try:
        with pa.CompressedInputStream(pa.OSFile(str(path)), codec) as compressed:
            return compressed.read(size)
    except (OSError, pa.ArrowException):
        return b""


def plain_name(path: Path) -> Path:
    """Return the name that a file has when it is decompressed."""
    return path.with_suffix("") if path.suffix.lower() in ENDINGS else path


def _codec(begin: bytes) -> str | None:
    return next((codec for magic, codec in CODECS.items() if begin.startswith(magic)), None)
