"""Annotated data as labelled arrays of xarray, for ArviZ, and in netCDF files."""

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pl2d_ppl.checks.names import listed
from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.checks import text_array
from pl2d_ppl.data.files.heaps import check_heaps
from pl2d_ppl.data.npz import BYTES, ENDS, naming, stored_text, unpacked_text
from pl2d_ppl.data.parts import Reading, taken_line
from pl2d_ppl.data.tables.writing import check_parts
from pl2d_ppl.io import written_whole

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["from_dataset", "read_netcdf", "read_netcdf_reported", "to_dataset", "write_netcdf"]

ITEM, EXPERT, CATEGORY, FEATURE = "item", "expert", "category", "feature_0"
DIMS = {
    "y": (ITEM,),
    "annotations": (ITEM, EXPERT),
    "group": (ITEM,),
    "coarse": (ITEM,),
    "counts": (ITEM, CATEGORY),
    "abstained": (ITEM, EXPERT),
    "ai": (ITEM, CATEGORY),
}
TRAIN, TEST = "train", "test"  # groups, if both parts exist
ENGINE: Any = "h5netcdf"


def to_dataset(data: Annotated) -> "xr.Dataset":
    """Label every array of a data set.

    Parameters
    ----------
    data : Annotated
        N items, M experts, C categories.

    Returns
    -------
    xarray.Dataset
        ``x`` (item, ...), ``y`` (item), ``annotations`` (item, expert), and, if present, ``group`` (item), ``coarse``
        (item) and ``counts`` (item, category); with names along ``expert`` and ``category``, and along ``item`` if
        items have names.

    Raises
    ------
    ValueError
        If items are lazy.
    """
    import xarray as xr

    if data.is_lazy:
        raise ValueError("Expected items in memory, found a lazy source. Read them first: data.read().")
    variables: dict[str, Any] = {"x": ((ITEM, *(f"feature_{d}" for d in range(np.ndim(data.x) - 1))), data.x)}
    variables |= {name: (dims, getattr(data, name)) for name, dims in DIMS.items() if getattr(data, name) is not None}
    coords: dict[str, Any] = {
        EXPERT: np.array(data.annotators, dtype=np.str_),
        CATEGORY: np.array(data.classes, dtype=np.str_),
    }
    if data.items is not None:
        coords[ITEM] = data.items
    if data.features is not None:
        coords[FEATURE] = np.array(data.features, dtype=np.str_)
    return xr.Dataset(variables, coords)


def from_dataset(dataset: "xr.Dataset", *, subset: bool = False) -> Annotated:
    """Make a data set of labelled arrays.

    Parameters
    ----------
    dataset : xarray.Dataset
        Data set in the form of :func:`to_dataset`. ``x`` may be missing, and without ``y`` all truth is unknown;
        dimensions may have any order.
    subset : bool
        Whether it is a part of a data set, whose truth may be unknown.

    Returns
    -------
    Annotated
        N items.

    Raises
    ------
    ValueError
        If a variable is missing or has other dimensions, or :class:`Annotated` refuses the data.
    """
    if CATEGORY not in dataset.coords or not {"y", "annotations", "counts"} & set(dataset.data_vars):
        raise ValueError(
            f"Expected y, annotations or counts, and the coordinate {CATEGORY}, found "
            f"{', '.join(map(str, dataset.variables)) or 'nothing'}. Make the data set by pl2d_ppl.data.to_dataset."
        )
    arrays: dict[str, Any] = {}
    for name, dims in DIMS.items():
        if name in dataset:
            if set(dataset[name].dims) != set(dims):
                raise ValueError(
                    f"Expected {name} along {', '.join(dims)}, found {', '.join(map(str, dataset[name].dims))}."
                )
            arrays[name] = dataset[name].transpose(*dims).to_numpy()
    num_items = dataset.sizes[ITEM]
    if "x" in dataset:
        arrays["x"] = dataset["x"].transpose(ITEM, ...).to_numpy()
    arrays.setdefault("x", np.zeros((num_items, 0)))
    arrays.setdefault("y", np.full(num_items, -1, np.int32))
    arrays.setdefault("annotations", np.zeros((num_items, 0), np.int32))
    experts = dataset[EXPERT].to_numpy() if EXPERT in dataset.coords else range(arrays["annotations"].shape[1])
    if "group" in arrays and arrays["group"].dtype.kind == "O":
        arrays["group"] = text_array(arrays["group"].tolist())  # text comes back as objects
    if "abstained" in arrays:
        arrays["abstained"] = arrays["abstained"].astype(bool)
    return Annotated(
        **arrays,
        items=dataset[ITEM].to_numpy() if ITEM in dataset.coords else None,
        features=tuple(map(str, dataset[FEATURE].to_numpy())) if FEATURE in dataset.coords else None,
        classes=tuple(map(str, dataset[CATEGORY].to_numpy())),
        annotators=tuple(map(str, experts)),
        subset=subset,
    )


def write_netcdf(path: str | os.PathLike, data: Annotated, test: Annotated | None = None) -> None:
    """Write a data set as netCDF, whole or not at all, so that :func:`read_netcdf` returns it.

    Parameters
    ----------
    path : path-like
        File to write; an older one is replaced.
    data : Annotated
        Data set, or its training part.
    test : Annotated, optional
        Test part, with the same classes and annotators. The parts are then groups ``train`` and ``test``.

    Raises
    ------
    ValueError
        If the path cannot be written to, items are lazy, or parts differ in classes or annotators.
    """
    import xarray as xr

    parts = [_packed(to_dataset(part)) for part in check_parts(data, test)]
    with written_whole(path) as scratch:
        if test is None:
            parts[0].to_netcdf(scratch, engine=ENGINE)
        else:
            xr.DataTree.from_dict(dict(zip((TRAIN, TEST), parts, strict=True))).to_netcdf(scratch, engine=ENGINE)


def _packed(dataset: "xr.Dataset") -> "xr.Dataset":
    """Write long text as bytes: xarray would read it back as text of the width of the longest."""
    for name in (ITEM, "group"):
        if name in dataset and dataset[name].dtype.kind == "O":
            text, ends = stored_text(name, dataset[name].to_numpy()).values()
            dataset = dataset.drop_vars(name).assign({name + BYTES: (name + BYTES, text), name + ENDS: (ITEM, ends)})
    return dataset


def _unpacked(dataset: "xr.Dataset") -> "xr.Dataset":
    """Undo :func:`_packed`."""
    for name in (ITEM, "group"):
        if name + BYTES in dataset:
            text, ends = (dataset[name + ending].to_numpy() for ending in (BYTES, ENDS))
            values = np.array([*unpacked_text(name, text, ends), None], object)[:-1]
            dataset = dataset.drop_vars([name + BYTES, name + ENDS]).assign_coords({name: (ITEM, values)})
    return dataset


def read_netcdf(path: str | os.PathLike, *, subset: bool = False) -> tuple[Annotated, Annotated | None]:
    """Read a data set, and its test part, from netCDF.

    Parameters
    ----------
    path : path-like
        File that :func:`write_netcdf` wrote, or one with the same variables.
    subset : bool
        Whether it is a part of a data set, whose truth may be unknown.

    Returns
    -------
    train : Annotated
    test : Annotated or None

    Raises
    ------
    ValueError
        If the file cannot be read, or :func:`from_dataset` raises an error.
    """
    return read_netcdf_reported(path, subset=subset)[:2]


def _read_attributes(path: Path) -> None:
    """Read all attributes: h5netcdf prints an exception that is ignored if it cannot read one while it opens a file."""
    import h5py

    with path.open("rb") as stored, mmap.mmap(stored.fileno(), 0, access=mmap.ACCESS_READ) as content:
        check_heaps(content)
    with h5py.File(path) as file:
        dict(file.attrs)
        file.visititems(lambda _, thing: dict(thing.attrs) and None)


def read_netcdf_reported(path: str | os.PathLike, *, subset: bool = False) -> Reading:
    """Read netCDF as :func:`read_netcdf` does, and say what was taken for what.

    Raises
    ------
    ValueError
        As :func:`read_netcdf`.
    """
    import xarray as xr

    path = Path(path)
    try:
        _read_attributes(path)
        with xr.open_datatree(path, engine=ENGINE) as tree:
            whole = {name: node.to_dataset().load() for name, node in tree.children.items() if name in (TRAIN, TEST)}
            train, test = whole.get(TRAIN, tree.to_dataset().load()), whole.get(TEST)
        train, test = _unpacked(train), None if test is None else _unpacked(test)
    except FileNotFoundError as error:
        raise ValueError(f"Expected a file at {path}, found none. Check the name and the folder.") from error
    except Exception as error:  # whatever a damaged file raises
        found = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(f"Expected netCDF that can be read at {path}, found: {found}. Fetch or rewrite it.") from error
    with naming(str(path)):
        data = from_dataset(train, subset=subset)
    with naming(f"{path}, test part"):
        told = {"people": listed(data.annotators), "truth": "y"}
        part = None if test is None else from_dataset(test, subset=True)
        return Reading(data, part, taken_line("netCDF", told, {}))
