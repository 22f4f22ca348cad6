"""Heaps of text in HDF5 files: the HDF5 library reads a damaged one for ever."""

import mmap
import struct

__all__ = ["check_heaps"]

SIGNATURE = b"GCOL\x01\0\0\0"  # of a global heap collection, version 1
HEADER = 16  # bytes, of a collection and of each object in it


def check_heaps(content: bytes | mmap.mmap) -> None:
    """Refuse a file with a global heap whose objects do not fill it, as HDF5 counts them.

    Parameters
    ----------
    content : bytes or mmap
        The file.

    Raises
    ------
    ValueError
        If there is such a heap.

    References
    ----------
    HDF5 File Format Specification, version 3.0, III.E: Global Heap.
    """
    start = content.find(SIGNATURE)
    while start >= 0:
        size = int.from_bytes(content[start + 8 : start + HEADER], "little")
        end = start + size
        if size < HEADER or end > len(content) or not _is_filled(content, start + HEADER, end):
            raise ValueError(f"a damaged heap of text at byte {start}")
        start = content.find(SIGNATURE, start + 1)


def _is_filled(content: bytes | mmap.mmap, place: int, end: int) -> bool:
    while place + HEADER <= end:
        index, _, _, size = struct.unpack_from("<HHIQ", content, place)
        # Object 0 is the free space, whose size includes its header.
        step = size if index == 0 else HEADER + (size + 7) // 8 * 8
        if step < HEADER:
            return False
        place += step
    return place <= end
