"""Datasets of xarray, and netCDF."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from cases.tables import LONG, assert_same, table

from pl2d_ppl.data import (
    from_dataset,
    read_data,
    read_netcdf,
    to_dataset,
    write_netcdf,
)


def test_dimensions_have_names(tmp_path):
    dataset = to_dataset(table(tmp_path, *LONG))
    assert dataset["annotations"].sel(item="a", expert="bob") == 1
    assert dataset["category"].to_numpy().tolist() == ["cat", "dog"]
    assert_same(from_dataset(dataset.transpose("category", "expert", ...)), table(tmp_path, *LONG))
    with pytest.raises(ValueError, match="Expected annotations along item, expert, found item, person"):
        from_dataset(dataset.rename(expert="person"))
    with pytest.raises(ValueError, match="the coordinate category, found x, y"):
        from_dataset(dataset[["x", "y"]].drop_vars("category", errors="ignore").drop_dims("category", errors="ignore"))


def test_netcdf_that_is_none(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(ValueError, match=r"netCDF that can be read at .*a.nc, found"):
        read_data(tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"a file at .*b.nc, found none"):
        read_data(tmp_path / "b.nc")
    xr.Dataset({"z": ("item", [1, 2])}).to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"c.nc: Expected y, annotations or counts, .* found z"):
        read_netcdf(tmp_path / "c.nc")
    data = dataclasses.replace(table(tmp_path, *LONG), x=np.zeros((3, 1)))
    write_netcdf(tmp_path / "d.nc", data)
    assert_same(read_netcdf(tmp_path / "d.nc")[0], data)


@pytest.mark.parametrize("size", [0, 8, 2**63])
def test_a_damaged_heap_of_text_is_refused_at_once(tmp_path, size):
    """The HDF5 library would read it for ever."""
    write_netcdf(tmp_path / "d.nc", table(tmp_path, *LONG))
    content = bytearray((tmp_path / "d.nc").read_bytes())
    start = content.index(b"GCOL")
    place, index = start + 16, -1
    while index:
        index, length = (int.from_bytes(content[place + a : place + b], "little") for a, b in ((0, 2), (8, 16)))
        place += 16 + (length + 7) // 8 * 8 if index else 0
    content[place + 8 : place + 16] = size.to_bytes(8, "little")
    (tmp_path / "d.nc").write_bytes(content)
    with pytest.raises(ValueError, match=r"netCDF that can be read at .*d.nc, found: a damaged heap of text at byte"):
        read_netcdf(tmp_path / "d.nc")
