"""Images that are decoded on access: in files, or in one buffer."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.data.npz import open_npz

__all__ = ["EncodedImages", "ImageFolder"]

Mode = Literal["RGB", "L"]
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolder:
    """Images in files.

    Parameters
    ----------
    paths : iterable of path-like
        The files, one per item. Missing files are noticed only when they are read; see
        :func:`~pl2d_ppl.data.check_images`.
    root : path-like, optional
        Folder that relative paths start from; by default the working folder.
    mode : {"RGB", "L"}
        Colour, of shape (height, width, 3), or grey, (height, width, 1).

    Raises
    ------
    ValueError
        If there is no path, or the mode is unknown.
    """

    def __init__(self, paths: Iterable[str | os.PathLike], *, root: str | os.PathLike = "", mode: Mode = "RGB"):
        if isinstance(paths, str | os.PathLike):
            raise ValueError(f"Expected several paths, found {paths!s}. For a folder, call ImageFolder.glob(folder).")
        self.paths = tuple(os.fspath(path) for path in paths)
        self.root, self.mode = os.fspath(root), _check_mode(mode)
        if not self.paths:
            raise ValueError("Expected paths of images, found none.")

    @classmethod
    def glob(cls, folder: str | os.PathLike, pattern: str = "**/*", *, mode: Mode = "RGB") -> "ImageFolder":
        """List the images of a folder, in the order of their paths.

        Parameters
        ----------
        folder : path-like
            The folder; paths are relative to it.
        pattern : str
            Pattern of the files, such as ``"*/train/*.png"``; by default all, at any depth. Only files with an image
            extension that are not hidden are kept.
        mode : {"RGB", "L"}
            Colour or grey.

        Returns
        -------
        ImageFolder

        Raises
        ------
        ValueError
            If there is no such folder, or no image in it.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"Expected a folder of images, found none at {folder}.")
        files = [path.relative_to(folder) for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES]
        names = sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))
        names = [name for name in names if (folder / name).is_file()]
        if not names:
            raise ValueError(f"Expected images ({', '.join(sorted(SUFFIXES))}), found none of {pattern} in {folder}.")
        return cls(names, root=folder, mode=mode)

    def __len__(self) -> int:
        """Return the number of images, N."""
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray:
        """Decode an image, uint8 of shape (height, width, channels)."""
        path = os.path.join(self.root, self.paths[index])
        return _decode(path, self.mode, path)

    def name(self, index: int) -> str:
        """Return the path of an image, as given."""
        return self.paths[index]

    def __repr__(self) -> str:
        return f"ImageFolder({len(self)} images)"


class EncodedImages:
    """Encoded images in one buffer, such as JPEG, PNG or WebP: thousands of small files are slow to open.

    Parameters
    ----------
    data : bytes or array of uint8, shape (B,)
        The images, one after the other.
    offsets : array of int, shape (N+1,)
        Where each image begins, and the last one ends.
    mode : {"RGB", "L"}
        Colour, of shape (height, width, 3), or grey, (height, width, 1).

    Raises
    ------
    ValueError
        If data are not bytes, or offsets do not increase within them.
    """

    def __init__(self, data: bytes | NDArray, offsets: ArrayLike, *, mode: Mode = "RGB"):
        self.data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.asarray(data)
        self.offsets, self.mode = np.asarray(offsets), _check_mode(mode)
        if self.data.ndim != 1 or self.data.dtype != np.uint8:
            raise ValueError(f"Expected bytes, uint8 (B,), found {self.data.dtype} of shape {self.data.shape}.")
        if self.offsets.ndim != 1 or self.offsets.size < 2 or self.offsets.dtype.kind not in "iu":
            raise ValueError(
                f"Expected offsets, integers (N+1,) of N >= 1 images, found {self.offsets.dtype} of shape "
                f"{self.offsets.shape}. The last one is where the last image ends."
            )
        ends = self.offsets.astype(np.int64)
        if ends[0] < 0 or ends[-1] > len(self.data) or (np.diff(ends) < 0).any():
            raise ValueError(
                f"Expected offsets that rise within 0..{len(self.data)}, found "
                f"{ends.min()}..{ends.max()}{'' if (np.diff(ends) >= 0).all() else ', not in order'}. Take offsets and "
                "data from one file."
            )

    @classmethod
    def of(cls, images: Iterable[bytes], *, mode: Mode = "RGB") -> "EncodedImages":
        """Combine encoded images, such as those in a column of a table.

        Parameters
        ----------
        images : iterable of bytes
            Contents of image files.
        mode : {"RGB", "L"}
            Colour or grey.

        Returns
        -------
        EncodedImages
        """
        parts = list(images)
        return cls(b"".join(parts), np.cumsum([0, *map(len, parts)]), mode=mode)

    @classmethod
    def read_npz(cls, *paths: str | os.PathLike, key: str = "webp", mode: Mode = "RGB") -> "EncodedImages":
        """Read files with a buffer and its ``offsets``, one after the other.

        Parameters
        ----------
        *paths : path-like
            NumPy ``.npz`` files.
        key : str
            Name of the buffer.
        mode : {"RGB", "L"}
            Colour or grey.

        Returns
        -------
        EncodedImages

        Raises
        ------
        ValueError
            If a file cannot be read, or lacks one of the two.
        """
        parts = []
        for path in paths:
            with open_npz(Path(path)) as file:
                missing = [name for name in (key, "offsets") if name not in file.files]
                if missing:
                    raise ValueError(f"no {' and no '.join(missing)}, but {', '.join(file.files) or 'nothing'}")
                parts.append(cls(file[key], file["offsets"]))
        if not parts:
            raise ValueError("Expected files of images, found none.")
        starts = np.cumsum([0, *(len(part.data) for part in parts[:-1])])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=True)]
        end = parts[-1].offsets[-1:] + starts[-1]
        return cls(np.concatenate([part.data for part in parts]), np.concatenate([*offsets, end]), mode=mode)

    def __len__(self) -> int:
        """Return the number of images, N."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray:
        """Decode an image, uint8 of shape (height, width, channels)."""
        index = range(len(self))[index]
        start, end = self.offsets[index : index + 2]
        return _decode(io.BytesIO(self.data[start:end].tobytes()), self.mode, self.name(index))

    def name(self, index: int) -> str:
        """Return "image" and the number of an image."""
        return f"image {index}"

    def __repr__(self) -> str:
        return f"EncodedImages({len(self)} images)"


def _check_mode(mode: str) -> Any:
    if mode not in ("RGB", "L"):
        raise ValueError(f"Expected mode 'RGB', colour, or 'L', grey, found {mode!r}.")
    return mode


def _decode(file: str | io.BytesIO, mode: Mode, name: str) -> NDArray:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            if opened.mode in ("I", "F"):
                raise ValueError(f"its pixels are of 32 bits, mode {opened.mode}; scale them to 8 or 16")
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # Pillow would clip these at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            pixels = np.array(image.convert(mode))
    except FileNotFoundError as error:
        raise ValueError(f"Expected an image, found no file {name}. Correct the path, or the root.") from error
    except Exception as error:  # decoders raise many kinds of errors for broken files
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"Expected an image that can be decoded, found {name}: {found}. Mend it, or leave it out: "
            "data.take(check_images(data).good)."
        ) from error
    return pixels.reshape(*pixels.shape[:2], -1)
