"""Files of arrays: round trips, and what is refused."""

import dataclasses
import io

import numpy as np
import pytest
from cases.annotated import arguments, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st

from pl2d_ppl.data import Annotated, read_npz, write_npz


@pytest.mark.parametrize("part", ["whole", "split", "unannotated test"])
def test_round_trip(tmp_path, part):
    counts, names = np.arange(12).reshape(4, 3), ["u", "v", "w", "é"]
    data = Annotated(**arguments(coarse=[0, 0, 1, 1], group=["p", "p", "q", "q"], counts=counts, items=names))
    test = {
        "whole": None,
        "split": data.take([0, 1]),
        "unannotated test": data.take([0]).take([0]),
    }[part]
    if part == "unannotated test":
        test = dataclasses.replace(test, annotations=[[-1, -1]], subset=True)
    write_npz(tmp_path / "data.npz", data, test)
    first, second = read_npz(tmp_path / "data.npz")
    assert_same(first, data)
    assert (second is None) == (test is None)
    if second is not None:
        assert_same(second, test)
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_round_trip_without_experts(tmp_path):
    data = Annotated(**arguments(annotations=np.zeros((4, 0)), annotators=()))
    write_npz(tmp_path / "data.npz", data, data)
    for part in read_npz(tmp_path / "data.npz"):
        assert_same(part, data)


def test_names_default_to_numbers(tmp_path):
    np.savez(
        tmp_path / "data.npz",
        x=np.zeros((2, 1)),
        y=[0, 1],
        annotations=[[0], [4]],
        x_test=[[1.0]],
        y_test=[6],
    )
    train, test = read_npz(tmp_path / "data.npz")
    assert train.classes == test.classes == tuple("0123456")
    assert train.annotators == test.annotators == ("expert_0",)
    assert test.annotations.tolist() == [[-1]]


def refusal(path):
    """Why a file is refused; None if it is not."""
    try:
        read_npz(path)
    except ValueError as error:
        return str(error)
    return None


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy():
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "a readable .npz without pickled objects at .*data.npz, found"),
        (b"a,b\n1,2\n", "a readable .npz without pickled objects at .*data.npz, found"),
        (b"PK\x03\x04 and nothing more", "a readable .npz without pickled objects at .*data.npz, found"),
        (npy(), "found: a single .npy array"),
        (npz(), "found none. Add x"),
        (npz(webp=np.zeros(3)), "keys x, and y or votes or counts, in .*, found webp. Add x"),
        (
            npz(x_train=np.zeros(3)),
            "keys x_train, and y_train or votes_train or counts_train, in .*, found x_train. Add truth",
        ),
        (npz(x=np.zeros((2, 1)), y=[0, 1], x_test=np.zeros((2, 1))), "Add truth or votes"),
        (
            npz(x=np.zeros((2, 1)), y=np.array([0, "cat"], object)),
            "without pickled objects at .*, found: Object arrays",
        ),
        (npz(x=np.zeros((2, 1)), y=[0.0, 1.0]), "data.npz: Expected integer labels in y, found float64"),
        (npz(x=np.zeros((2, 1)), y=[0, 2**31]), "data.npz: Expected labels below 10000 .* found 2147483648"),
        (
            npz(x=np.zeros((1, 1)), y=[0], x_test=np.zeros((1, 1)), y_test=[-2]),
            "test part: Expected labels in -1..1, .* in y, found -2 at item 0",
        ),
    ],
)
def test_bad_files(tmp_path, contents, message):
    (tmp_path / "data.npz").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "data.npz")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ValueError, match=r"a file at .*, found none"):
        read_npz(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"a readable .npz"):
        read_npz(tmp_path)
    data = Annotated(**arguments())
    with pytest.raises(ValueError, match="existing folder"):
        write_npz(tmp_path / "absent" / "data.npz", data)
    with pytest.raises(ValueError, match="existing folder"):
        write_npz(tmp_path, data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_file_is_a_value_error_or_valid(tmp_path_factory, data):
    """Truncate, or overwrite a byte: there is no other exception and no open file left behind."""
    whole = bytearray(npz(**arguments()))
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[position:]
    else:
        whole[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(whole)
    message = refusal(path)
    assert message is None or str(path) in message


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, data = tmp_path / "data.npz", Annotated(**arguments())
    write_npz(path, data)
    before = path.read_bytes()

    def full_disk(stream, **_):
        stream.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_npz(path, data.take([0]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_refuses_what_cannot_be_read(tmp_path):
    data = Annotated(**arguments())
    with pytest.raises(ValueError, match="a file without truth"):
        write_npz(tmp_path / "data.npz", data.take([3]))
    other = dataclasses.replace(data, annotators=("ann", "eve"))
    with pytest.raises(ValueError, match=r"test with the annotators of data, \('ann', 'bob'\), found"):
        write_npz(tmp_path / "data.npz", data, other)
