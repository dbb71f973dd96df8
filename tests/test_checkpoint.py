"""Arrays out of pickles and checkpoints: what NumPy and PyTorch wrote is read back, and nothing that a file asks for is ever done."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfer.core.checkpoint import read_checkpoint, read_numbers
from qcfer.core.files import WeightsError, find_weights
from qcfer.embed.lite0 import lite0_weights
from qcfer.face import tddfa

# --- what NumPy pickled


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def written(folder, value, protocol=4):
    path = folder / "numbers.pkl"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "u1", "i2", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_reader_reads_what_numpy_wrote(tmp_path, protocol, dtype, order):
    expected = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    found = read_numbers(written(tmp_path, {"a": expected, "b": expected[:1].copy()}, protocol))
    assert found["a"].dtype == expected.dtype and np.array_equal(found["a"], expected)
    assert np.array_equal(found["b"], expected[:1])


@pytest.mark.parametrize("depth", [0, 1])
def test_reader_runs_nothing(tmp_path, depth):
    mark = tmp_path / "attacked"
    for attack in [
        Attack(os.mkdir, str(mark)),
        Attack(os.system, f"mkdir {mark}"),
        Attack(eval, f"__import__('os').mkdir({str(mark)!r})"),
        Attack(np.load, str(mark)),
    ]:
        with pytest.raises(WeightsError, match="expected .* to hold named arrays of numbers; found the name"):
            read_numbers(written(tmp_path, {"mean": attack} if depth else attack))
    assert not mark.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cos\nsystem\n(S'mkdir attacked'\ntR.",  # protocol 0
        b"(S'mkdir attacked'\nios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0emkdir attacked\x85R.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # extension registry
        b"P1\n.",  # persistent id
        b"cnumpy\nndarray\n(tR.",  # a call of a stand-in
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"cnumpy\ndtype.__init__\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
    ],
)
def test_reader_refuses_handmade_programs(tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="named arrays of numbers"):
        read_numbers(written(tmp_path, payload))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    "value",
    [
        {"mean": np.array([{}], dtype=object)},
        {"mean": np.array(["text"])},
        {"mean": np.array([b"x"])},
        {"mean": np.zeros(2, "datetime64[s]")},
        {"mean": np.zeros(2, "c8")},
        {"mean": np.zeros(2, [("a", "f4")])},
        {"mean": np.zeros(2, "?")},
        {"mean": [1.0, 2.0]},
        {"mean": 1.0},
        [np.zeros(2)],
        "mean",
    ],
    ids=lambda value: str(value)[:40],
)
def test_reader_refuses_other_values(tmp_path, value):
    with pytest.raises(WeightsError, match="named arrays of numbers"):
        read_numbers(written(tmp_path, value))


def test_reader_refuses_every_truncation(tmp_path):
    whole = pickle.dumps({"mean": np.arange(3.0), "std": np.ones(3)}, protocol=4)
    for length in range(len(whole)):
        with pytest.raises(WeightsError):
            read_numbers(written(tmp_path, whole[:length]))


GOOD = pickle.dumps({"mean": np.arange(3.0), "std": np.ones(3)}, protocol=3)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_reader_survives_flipped_bytes(tmp_path_factory, flips):
    damaged = bytearray(GOOD)
    for place, value in flips:
        damaged[place] = value
    try:
        found = read_numbers(written(tmp_path_factory.getbasetemp(), bytes(damaged)))
    except WeightsError:
        return
    assert all(isinstance(values, np.ndarray) and values.dtype.kind in "iuf" for values in found.values())


# --- what PyTorch saved


def saved(folder, value, zipped=True, name="state.pth"):
    torch.save(value, folder / name, _use_new_zipfile_serialization=zipped)
    return folder / name


FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "row"])
KINDS = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


@FORMS
def test_a_checkpoint_is_read_as_pytorch_reads_it(tmp_path, zipped):
    whole = torch.randn(5, 4, 3)
    state = {str(kind): (whole * 10).to(kind) for kind in KINDS} | {
        "turned": whole.permute(2, 0, 1)[1:], "part": whole[2], "last": whole[4, 3], "thin": whole[:1, :1, :1],
        "number": torch.tensor(7), "empty": torch.zeros(0, 3),
        "module": torch.nn.Linear(3, 2).state_dict()["weight"],
    }  # fmt: skip
    path = saved(tmp_path, {"epoch": 3, "state_dict": state}, zipped)
    found, expected = read_checkpoint(path, "state_dict"), torch.load(path, weights_only=True)["state_dict"]
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.numpy().dtype and np.array_equal(found[name], value.numpy()), name
    path = saved(tmp_path, torch.nn.Linear(3, 2).state_dict(), zipped)
    assert {name: values.shape for name, values in read_checkpoint(path).items()} == {"weight": (2, 3), "bias": (2,)}


def test_the_projects_own_checkpoints_are_read_as_pytorch_reads_them():
    files = [(lite0_weights(), "")]
    if os.environ.get("QCFER_WEIGHTS"):
        files.append((find_weights(*tddfa._CHECKPOINT), "state_dict"))
    for path, part in files:
        expected = torch.load(path, map_location="cpu", weights_only=True)
        expected, found = expected[part] if part else expected, read_checkpoint(path, part)
        assert list(found) == list(expected)
        assert all(np.array_equal(found[name], value.numpy()) for name, value in expected.items())


@FORMS
@pytest.mark.parametrize(
    "value, told",
    [
        ({}, "'state_dict'"),
        ([1], "a value of type list"),
        ({"state_dict": {"a": 1}}, "a value of type int"),
        ({"state_dict": [torch.ones(2)]}, "a value of type list"),
        ({"state_dict": {"a": torch.ones(1).expand(4)}}, "a tensor of shape"),
        ({"state_dict": {"a": torch.ones(2, dtype=torch.complex64)}}, "the name torch.ComplexFloatStorage"),
        ({"state_dict": {"a": torch.ones(2).to_sparse()}}, "the name torch"),
        ({"state_dict": {"a": torch.nn.Linear(2, 2)}}, "the name torch.nn"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, zipped, value, told):
    with pytest.raises(WeightsError, match=f"to hold a checkpoint's weights; found {told}"):
        read_checkpoint(saved(tmp_path, value, zipped), "state_dict")


@FORMS
def test_a_checkpoint_runs_nothing(tmp_path, zipped):
    mark = tmp_path / "attacked"
    for attack in [Attack(os.mkdir, str(mark)), Attack(os.system, f"mkdir {mark}"), Attack(np.load, str(mark))]:
        for value in (attack, {"state_dict": attack}, {"state_dict": {"a": attack}}):
            with pytest.raises(WeightsError, match="found the name"):
                read_checkpoint(saved(tmp_path, value, zipped), "state_dict")
    assert not mark.exists()


def test_numbers_of_another_byte_order_and_packed_ones_are_refused(tmp_path):
    good = saved(tmp_path, {"a": torch.ones(300)})
    for name, change in (("big.pth", b"big"), ("packed.pth", None)):
        packing = zipfile.ZIP_STORED if change else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / name, "w", packing) as to:
            for entry in source.namelist():
                to.writestr(entry, change if change and entry.endswith("byteorder") else source.read(entry))
        with pytest.raises(WeightsError, match="another byte order|0 bytes of 300 numbers"):
            read_checkpoint(tmp_path / name)


@FORMS
def test_every_truncation_of_a_checkpoint_is_refused(tmp_path, zipped):
    whole = saved(tmp_path, {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, zipped).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_checkpoint(tmp_path / "cut.pth")


@FORMS
def test_a_checkpoint_with_flipped_bytes_is_read_or_refused(tmp_path, zipped):
    whole, rng = saved(tmp_path, {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, zipped).read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        (tmp_path / "flipped.pth").write_bytes(damaged)
        try:
            found = read_checkpoint(tmp_path / "flipped.pth")
        except WeightsError:
            refused += 1
            continue
        assert all(isinstance(values, np.ndarray) and values.dtype.kind in "iuf" for values in found.values())
    assert refused > 50
