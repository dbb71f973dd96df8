"""The feature store: computed once, whole after any kill, honest about damage."""

import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcfer.core import model_cache as store
from qcfer.core.files import sha256
from qcfer.core.model_cache import compute

class Squares:
    """Rows in closed form; every forward pass is logged, a picture a line, before its rows can be stored."""

    def __init__(self, id="squares", log=None, pause=0.0):
        self.id, self.dim, self.log, self.pause, self.seen = id, 4, log, pause, []

    def preprocess(self, image):
        return np.float32(image)

    def forward(self, batch):
        time.sleep(self.pause)
        self.seen += [int(value) for value in batch]
        if self.log:
            with open(self.log, "a") as file:
                file.write("".join(f"{int(value)}\n" for value in batch))
        return batch[:, None] ** np.arange(4, dtype=np.float32)


def keys_of(numbers):
    return [sha256(str(number)) for number in numbers]


IMPORTS = "import os, tempfile, time\nimport numpy as np\nfrom qcfer.core.files import sha256\nfrom qcfer.core.model_cache import compute\n"
WORKER = IMPORTS + inspect.getsource(Squares) + inspect.getsource(keys_of)
CALL = """
numbers = list(range({n}))
compute(Squares(log={log!r}, pause={pause}), numbers, keys_of(numbers), {folder!r}, batch_size={batch})
"""


def worker(code, **options):
    """A fresh interpreter that runs `code` after the definitions above."""
    return subprocess.Popen([sys.executable, "-c", WORKER + code], **options)


def expected(numbers):
    return np.float32(list(numbers))[:, None] ** np.arange(4, dtype=np.float32)


def parts(folder):
    return sorted(Path(folder).glob("*/part-*.arrow"))


def fill(folder, n, batch_size=8):
    model = Squares()
    rows = compute(model, list(range(n)), keys_of(range(n)), folder, batch_size=batch_size)
    np.testing.assert_array_equal(rows, expected(range(n)))
    return model


# What it promises


@settings(max_examples=40, deadline=None)
@given(calls=st.lists(st.lists(st.integers(0, 30), max_size=40), min_size=1, max_size=5), batch_size=st.integers(1, 9))
def test_any_sequence_of_calls_computes_each_key_once(tmp_path_factory, calls, batch_size):
    folder, model = tmp_path_factory.mktemp("store"), Squares()
    for numbers in calls:
        rows = compute(model, numbers, keys_of(numbers), folder, batch_size=batch_size)
        assert rows.dtype == np.float32 and rows.shape == (len(numbers), 4)
        np.testing.assert_array_equal(rows, expected(numbers).reshape(-1, 4))
    assert sorted(model.seen) == sorted({number for numbers in calls for number in numbers})


def test_a_changed_pixel_and_a_changed_model_recompute_just_that(tmp_path):
    fill(tmp_path, 50)
    model = Squares()
    numbers = [*range(50)]
    numbers[17] = 99
    np.testing.assert_array_equal(compute(model, numbers, keys_of(numbers), tmp_path), expected(numbers))
    assert model.seen == [99]
    other = Squares(id="squares, other weights")
    compute(other, numbers, keys_of(numbers), tmp_path)
    assert sorted(other.seen) == sorted(numbers)
    assert len(list(tmp_path.iterdir())) == 2


def test_ids_that_read_alike_have_folders_of_their_own(tmp_path):
    ids = ["a/b", "a b", "a:b", "../a b", "A B" * 100, "", "é"]
    for id in ids:
        model = Squares(id=id)
        compute(model, [3], keys_of([3]), tmp_path)
        assert model.seen == [3]
    folders = list(tmp_path.iterdir())
    assert len(folders) == len(ids) and all(folder.parent == tmp_path for folder in folders)


def test_the_files_are_plain_arrow(tmp_path):
    fill(tmp_path, 3)
    table = pa.ipc.open_file(parts(tmp_path)[0]).read_all()
    assert table.column("key").to_pylist() == keys_of(range(3))
    assert table.column("values").to_pylist() == expected(range(3)).tolist()


def test_a_long_job_ends_as_one_file(tmp_path):
    fill(tmp_path, 100)
    assert len(parts(tmp_path)) == 1
    assert fill(tmp_path, 100).seen == []


def test_a_new_picture_does_not_rewrite_the_old_ones(tmp_path):
    fill(tmp_path, 100)
    before = {path: path.stat().st_mtime_ns for path in parts(tmp_path)}
    assert fill(tmp_path, 101).seen == [100]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in parts(tmp_path)}.items()


def test_pictures_are_prepared_while_the_model_runs_and_not_too_far_ahead(tmp_path):
    class Watched(Squares):
        busy, ahead, together = threading.Event(), 0, 0

        def preprocess(self, image):
            self.together += self.busy.is_set()
            self.ahead = max(self.ahead, int(image) - len(self.seen))
            return super().preprocess(image)

        def forward(self, batch):
            self.busy.set()
            time.sleep(0.03)
            self.busy.clear()
            return super().forward(batch)

    model = Watched()
    compute(model, list(range(80)), keys_of(range(80)), tmp_path, batch_size=8)
    assert model.together > 0
    assert model.ahead < 3 * 8


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[::2, ::-1], lambda x: np.broadcast_to(x[0], (3, 4))])
def test_a_batch_is_in_c_order_whatever_the_inputs(view):
    inputs = [view(each) for each in np.random.default_rng(0).integers(0, 9, (5, 6, 4))]
    batch = store.stacked(inputs)
    assert batch.flags["C_CONTIGUOUS"] and batch.dtype == inputs[0].dtype
    np.testing.assert_array_equal(batch, np.stack(inputs))


def test_an_unreadable_picture_stops_the_run_but_keeps_what_was_done(tmp_path):
    class Pictures(list):
        def __getitem__(self, index):
            if index == 20:
                raise OSError("image file is truncated")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="image file is truncated"):
        compute(Squares(), Pictures(range(40)), keys_of(range(40)), tmp_path, batch_size=8)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qcfer-prepare")]
    assert fill(tmp_path, 40).seen == list(range(16, 40))


def test_the_bar_appears_after_two_seconds_and_never_for_what_is_there(tmp_path, capsys):
    for pause, seen in ((0.85, True), (0, False)):  # 2.5 s; and all is stored
        compute(Squares(pause=pause), list(range(6)), keys_of(range(6)), tmp_path, batch_size=2, desc="embed")
        said = capsys.readouterr().err
        assert ("embed" in said, "6/6" in said, "images/s" in said) == (seen,) * 3 and bool(said) == seen
    compute(Squares(pause=0.6), list(range(6, 12)), keys_of(range(6, 12)), tmp_path, batch_size=2)
    assert capsys.readouterr().err == ""  # 1.8 s


# Kills


def test_kill_9_loses_at_most_one_batch(tmp_path):
    folder, log, batch = str(tmp_path / "store"), str(tmp_path / "log"), 5
    job = worker(CALL.format(n=200, log=log, pause=0.05, folder=folder, batch=batch))
    deadline = time.monotonic() + 60
    while len(parts(folder)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    job.kill()
    assert job.wait() == -signal.SIGKILL
    done = Path(log).read_text().split()
    again = fill(folder, 200).seen
    assert 20 <= len(done) < 200
    assert 200 <= len(done) + len(again) <= 200 + batch
    assert fill(folder, 200).seen == []


def test_kills_at_any_moment_leave_whole_rows_only(tmp_path):
    folder, rng = str(tmp_path / "store"), np.random.default_rng(0)
    for _ in range(4):  # many small batches, so that kills fall into writing and merging, too
        job = worker(CALL.format(n=4000, log=None, pause=0.0, folder=folder, batch=20))
        time.sleep(1.0 + 1.0 * rng.random())
        job.kill()
        job.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(folder, 4000)
    assert fill(folder, 4000).seen == []


def test_a_kill_between_merging_and_removing_leaves_harmless_duplicates(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store, "_FEW_FILES", 1000)
        fill(tmp_path, 100)
    single = {path: path.read_bytes() for path in parts(tmp_path)}
    assert len(single) == 13
    fill(tmp_path, 101)
    for path, data in single.items():
        path.write_bytes(data)
    assert fill(tmp_path, 101).seen == []
    fill(tmp_path, 102)
    (merged,) = parts(tmp_path)
    assert sorted(pa.ipc.open_file(merged).read_all().column("key").to_pylist()) == sorted(keys_of(range(102)))


def test_what_a_killed_writer_left_is_swept_but_not_a_living_ones(tmp_path):
    fill(tmp_path, 1)
    folder = parts(tmp_path)[0].parent
    old, young = folder / ".part-00.arrow.0000.tmp", folder / ".part-01.arrow.0000.tmp"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    fill(tmp_path, 100)
    assert young.exists() and not old.exists()


def test_two_processes_may_fill_one_store(tmp_path):
    folder = str(tmp_path / "store")
    calls = [CALL.format(n=600, log=None, pause=0.002, folder=folder, batch=batch) for batch in (4, 7)]
    jobs = [worker("import warnings; warnings.simplefilter('error')\n" + call) for call in calls]
    assert [job.wait() for job in jobs] == [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fill(folder, 600).seen == []


# Damage


def test_a_truncated_file_is_set_aside_and_its_rows_are_recomputed(tmp_path):
    fill(tmp_path, 16)
    damaged = parts(tmp_path)[0]
    for size in (0, 1, 100, damaged.stat().st_size - 1):
        damaged = parts(tmp_path)[0]
        lost = pa.ipc.open_file(damaged).read_all().column("key").to_pylist()
        os.truncate(damaged, size)
        with pytest.warns(UserWarning, match=f"{damaged.name} is damaged"):
            again = fill(tmp_path, 16).seen
        assert keys_of(again) == [key for key in keys_of(range(16)) if key in lost]
        assert damaged.with_suffix(".damaged").exists() and not damaged.exists()
        assert fill(tmp_path, 16).seen == []


def test_a_spoilt_row_of_a_merged_file_costs_that_row_only(tmp_path):
    fill(tmp_path, 100)
    (path,) = parts(tmp_path)
    data = path.read_bytes()
    row = expected([42]).tobytes()
    assert data.count(row) == 1
    path.write_bytes(data.replace(row, expected([43]).tobytes()))
    with pytest.warns(UserWarning, match="checksum"):
        assert fill(tmp_path, 100).seen == [42]
    assert fill(tmp_path, 100).seen == []


@pytest.mark.parametrize("what", ["key", "crc32"])
def test_a_row_is_believed_where_its_key_and_its_checksum_are_whole(tmp_path, what):
    fill(tmp_path, 100)
    (path,) = parts(tmp_path)
    (key,) = keys_of([42])
    crc = zlib.crc32(expected([42]).tobytes(), zlib.crc32(key.encode()))
    old, new = {"key": (key.encode(), b"0" + key[1:].encode()), "crc32": (np.uint32(crc).tobytes(), np.uint32(crc ^ 1).tobytes())}[what]
    data = path.read_bytes()
    assert data.count(old) == 1 and old != new
    path.write_bytes(data.replace(old, new))
    if what == "crc32":
        with pytest.warns(UserWarning, match="checksum"):
            assert fill(tmp_path, 100).seen == [42]
    assert fill(tmp_path, 100).seen == ([42] if what == "key" else [])  # nobody asks for the other key
    assert fill(tmp_path, 100).seen == []


def spoil(folder, number):
    "Change one value of the row of `number` behind the store's back."
    (path,) = [path for path in parts(folder) if expected([number]).tobytes() in path.read_bytes()]
    path.write_bytes(path.read_bytes().replace(expected([number]).tobytes(), expected([number + 1]).tobytes()))


def test_damage_where_nobody_asks_matters_to_nobody(tmp_path):
    fill(tmp_path, 100)
    spoil(tmp_path, 42)
    asked, model = [3, 99, 50], Squares()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(compute(model, asked, keys_of(asked), tmp_path), expected(asked))
    assert model.seen == []
    with pytest.warns(UserWarning, match="checksum"):
        np.testing.assert_array_equal(compute(model, [42, 41], keys_of([42, 41]), tmp_path), expected([42, 41]))
    assert model.seen == [42]
    assert fill(tmp_path, 100).seen == []


def test_damage_where_nobody_asked_does_not_outlive_a_merge(tmp_path):
    fill(tmp_path, 100)
    spoil(tmp_path, 42)
    new = list(range(100, 200))
    with pytest.warns(UserWarning, match="checksum"):
        np.testing.assert_array_equal(compute(Squares(), new, keys_of(new), tmp_path, batch_size=8), expected(new))
    assert len(parts(tmp_path)) == 1 and len(list(tmp_path.glob("*/*.damaged"))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fill(tmp_path, 200).seen == [42]


@pytest.mark.parametrize("offset", [-1, 1 << 30])
def test_a_key_that_begins_nowhere_is_damage_and_nothing_is_read_there(tmp_path, offset):
    fill(tmp_path, 3)
    (path,) = parts(tmp_path)
    data, length = path.read_bytes(), len(keys_of([0])[0])
    offsets = np.arange(4, dtype=np.int32) * length
    assert data.count(offsets.tobytes()) == 1
    path.write_bytes(data.replace(offsets.tobytes(), np.array([0, offset, *offsets[2:]], np.int32).tobytes()))
    with pytest.warns(UserWarning, match="is damaged .*: set aside, its lost rows are computed again"):
        np.testing.assert_array_equal(compute(Squares(), [2], keys_of([2]), tmp_path), expected([2]))


def test_a_models_folder_is_named_in_60_letters_and_a_hash(tmp_path):
    model = Squares()
    model.id = "a/b:" + 30 * "long " + "name?"
    compute(model, [1], keys_of([1]), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name == ("a-b-" + 30 * "long-")[:60] + "-" + sha256(model.id)[:12]
    assert json.loads((folder / "model.json").read_text()) == {"id": model.id, "dim": model.dim}


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), asked=st.sets(st.integers(0, 11), min_size=1))
def test_no_flipped_byte_reaches_those_who_ask_for_a_few(tmp_path_factory, place, mask, asked):
    folder = tmp_path_factory.mktemp("store")
    fill(folder, 12, batch_size=4)
    for path in parts(folder):
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= mask
        path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(compute(Squares(), sorted(asked), keys_of(sorted(asked)), folder), expected(sorted(asked)))
        fill(folder, 12)
        assert fill(folder, 12).seen == []


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_no_flipped_byte_ever_reaches_a_result(tmp_path_factory, place, mask):
    folder = tmp_path_factory.mktemp("store")
    fill(folder, 12, batch_size=4)
    for path in parts(folder):
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= mask
        path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fill(folder, 12)  # compares with the closed form
        assert fill(folder, 12).seen == []


def test_a_foreign_card_is_refused(tmp_path):
    fill(tmp_path, 3)
    card = next(tmp_path.glob("*/model.json"))
    for text in ('{"id": "another", "dim": 4}', '{"id": "squares", "dim": 5}', "[]", "half a fi", ""):
        card.write_text(text)
        with pytest.raises(ValueError, match="expected .*model.json to hold .*'squares'.* move the folder away"):
            fill(tmp_path, 3)


# Bad input


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_its_picture_and_is_not_stored(tmp_path, bad):
    class Broken(Squares):
        def forward(self, batch):
            rows = super().forward(batch)
            rows[batch == 11, 2] = bad
            return rows

    with pytest.raises(ValueError, match=f"expected finite values from squares; .*{sha256('11')}"):
        compute(Broken(), list(range(20)), keys_of(range(20)), tmp_path, batch_size=4)
    assert fill(tmp_path, 20).seen == list(range(8, 20))


def test_rows_of_another_shape_are_refused(tmp_path):
    class Narrow(Squares):
        def forward(self, batch):
            return super().forward(batch)[:, :3]

    with pytest.raises(ValueError, match=r"expected rows of shape \(5, 4\) from squares; found \(5, 3\)"):
        compute(Narrow(), list(range(5)), keys_of(range(5)), tmp_path)
    assert parts(tmp_path) == []


def test_as_many_keys_as_pictures(tmp_path):
    with pytest.raises(ValueError, match="found 3 pictures and 2 keys"):
        compute(Squares(), [1, 2, 3], keys_of([1, 2]), tmp_path)
    assert compute(Squares(), [], [], tmp_path / "new").shape == (0, 4)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    fill(tmp_path, 24)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    call = CALL.format(n=3000, log=None, pause=0, folder=str(tmp_path), batch=2000)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
    job = worker(limit + call, stderr=subprocess.PIPE, text=True)
    errors = job.communicate()[1]
    assert job.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("OSError: [Errno 27] cannot write the store")
    assert "what was stored before is kept" in errors
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_store_that_may_only_be_read():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folder is closed to other users
        fill(folder, 24)
        for path in [Path(folder), *Path(folder).rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        quiet = "import contextlib, io\nwith contextlib.redirect_stderr(io.StringIO()), "  # a busy machine is slow enough for a bar
        warm = quiet + "tempfile.TemporaryDirectory() as warm: [compute(Squares(), [0], keys_of([0]), warm) for _ in 'ab']\n"
        nobody = warm + "os.getuid() or os.setuid(65534)\n"  # root may write anywhere, but nobody may not import from everywhere
        calls = [nobody + CALL.format(n=n, log=None, pause=0, folder=folder, batch=8) for n in (24, 25)]
        reading, writing = [worker(call, stderr=subprocess.PIPE, text=True) for call in calls]
        assert reading.communicate()[1] == "" and reading.returncode == 0
        last = writing.communicate()[1].strip().splitlines()[-1]
        assert last.startswith("PermissionError: [Errno 13] cannot write the store") and "Permission denied" in last
        for path in [Path(folder), *Path(folder).iterdir()]:
            path.chmod(0o755)


def test_a_file_in_the_place_of_the_store(tmp_path):
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(OSError, match="cannot write the store"):
        fill(tmp_path / "store", 3)


# Size


def test_thirty_thousand_rows_load_fast_and_once(tmp_path):
    n, dim = 32_298, 1280
    code = f"""
import resource
from qcfer.core import model_cache as store
import pyarrow as pa
keys = keys_of(range({n}))
class Model:
    id, dim = "large", {dim}
folder, schema = store._model_folder({str(tmp_path)!r}, Model), store._schema({dim})
table = store._record(keys, np.arange({n} * {dim}, dtype=np.float32).reshape({n}, {dim}))
store._write_part(folder, iter([table.slice(start, 64) for start in range(0, {n}, 64)]), schema)
"""
    assert worker(code).wait() == 0
    code = f"""
import resource
keys = keys_of(range({n}))
class Model:
    id, dim = "large", {dim}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, best = peak(), 1e9
for _ in range(3):
    start = time.perf_counter()
    rows = compute(Model, [None] * {n}, keys, {str(tmp_path)!r})
    best = min(best, time.perf_counter() - start)
    if _ == 0:
        extra = peak() - before
    assert rows[-1, -1] == np.float32({n} * {dim} - 1) and rows[5, 7] == 5 * {dim} + 7
    del rows
print(best, extra / ({n} * {dim} * 4))
"""
    seconds, copies = map(float, worker(code, stdout=subprocess.PIPE, text=True).communicate()[0].split())
    assert seconds < 2  # 0.25 s on two idle cores
    assert copies < 1.3


def test_a_lookup_reads_the_rows_that_it_asks_for(tmp_path):
    n, dim = 2000, 512

    class Large(Squares):
        def forward(self, batch):
            self.seen += [int(value) for value in batch]
            return np.repeat(batch[:, None], self.dim, 1)

    def model():
        large = Large("large")
        large.dim = dim
        return large

    compute(model(), list(range(n)), keys_of(range(n)), tmp_path, batch_size=16)
    (path,) = parts(tmp_path)
    asked, again = list(range(5, n, 160)), model()
    before = read_so_far()
    np.testing.assert_array_equal(compute(again, asked, keys_of(asked), tmp_path)[:, -1], asked)
    assert read_so_far() - before < path.stat().st_size / 5
    assert again.seen == [] and len(asked) == 13
    assert sorted(key for keys, _ in store._read_part(path, store._schema(dim), set(keys_of(asked))) for key in keys) == sorted(
        keys_of(asked)
    )


def test_ten_thousand_rows_of_a_large_store_are_a_small_part_of_reading_it(tmp_path):
    n, dim, best = 60_000, 768, {}
    folder, keys = tmp_path / "model", keys_of(range(n))
    values = np.repeat(np.arange(n, dtype=np.float32)[:, None], dim, 1)
    path = store._write_part(
        folder, (store._record(keys[at : at + 1024], values[at : at + 1024]) for at in range(0, n, 1024)), store._schema(dim)
    )
    for asked in (keys[:: n // 1000], keys) * 3:
        start = time.perf_counter()
        found = [
            (key, row[0])
            for some, rows in store._read_part(path, store._schema(dim), set(asked))
            for key, row in zip(some, rows, strict=True)
        ]
        best[len(asked)] = min(best.get(len(asked), 9e9), time.perf_counter() - start)
        assert found == [(key, number) for key, number in zip(asked, range(0, n, n // len(asked)), strict=True)]
    assert best[1000] < best[n] / 4


def read_so_far():
    "The bytes that this process has asked the system for."
    return int(Path("/proc/self/io").read_text().split()[1])


def test_the_files_of_before_the_lookup_are_read(tmp_path):
    """A part file as it was always written: batches with a checksum each, no index of the keys."""
    folder, schema = store._model_folder(tmp_path, Squares()), store._schema(4).remove(2)
    folder.mkdir(parents=True)
    with pa.OSFile(str(folder / "part-0123456789abcdef.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in (0, 8):
            numbers = range(start, start + 8)
            values = pa.FixedSizeListArray.from_arrays(pa.array(expected(numbers).ravel()), 4)
            batch = pa.record_batch([pa.array(keys_of(numbers)), values], schema=schema)
            text = zlib.crc32(expected(numbers).tobytes(), zlib.crc32("\n".join(keys_of(numbers)).encode()))
            writer.write_batch(batch, custom_metadata={"crc32": str(text)})
    assert fill(tmp_path, 16).seen == []
    data = (folder / "part-0123456789abcdef.arrow").read_bytes()
    (folder / "part-0123456789abcdef.arrow").write_bytes(data.replace(expected([3]).tobytes(), expected([4]).tobytes()))
    with pytest.warns(UserWarning, match="checksum"):
        assert fill(tmp_path, 16).seen == list(range(8))  # a checksum a batch
    compute(Squares(), list(range(16, 100)), keys_of(range(16, 100)), tmp_path, batch_size=8)
    assert [pa.ipc.open_file(path).schema for path in parts(tmp_path)] == [store._schema(4)]
    assert fill(tmp_path, 100).seen == []


def test_more_than_eight_files_become_one_in_batches_of_a_thousand(tmp_path):
    fill(tmp_path / "few", 16, batch_size=2)
    assert len(parts(tmp_path / "few")) == 8
    fill(tmp_path / "more", 18, batch_size=2)
    assert len(parts(tmp_path / "more")) == 1
    fill(tmp_path / "many", 2100, batch_size=64)
    (path,) = parts(tmp_path / "many")
    with pa.ipc.open_file(path) as reader:
        sizes = [len(reader.get_batch(number)) for number in range(reader.num_record_batches)]
    assert sum(sizes) == 2100 and all(1024 <= size < 1024 + 64 for size in sizes[:-1])
    fill(tmp_path / "even", 1024 + 640, batch_size=64)
    (path,) = parts(tmp_path / "even")
    with pa.ipc.open_file(path) as reader:
        assert [len(reader.get_batch(number)) for number in range(reader.num_record_batches)] == [1024, 640]


def test_an_engine_is_given_whole_batches_and_may_answer_in_any_order(tmp_path):
    class Backwards:
        def stream(self, model, work, batches):
            self.batches = batches
            for places in reversed(batches):
                yield places, work.apply(model, work.prepare(model, places))

    engine, model = Backwards(), Squares()
    rows = compute(model, list(range(10)), keys_of(range(10)), tmp_path, batch_size=4, engine=engine)
    np.testing.assert_array_equal(rows, expected(range(10)))
    assert engine.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and fill(tmp_path, 10).seen == []


def test_what_is_finite_in_double_precision_alone_is_not_stored(tmp_path):
    class Wide(Squares):
        def forward(self, batch):
            return np.full((len(batch), 4), 1e300)

    with np.errstate(over="ignore"), pytest.raises(ValueError, match="found NaN or infinity"):
        compute(Wide(), [1], keys_of([1]), tmp_path)
    assert parts(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_cores_are_those_that_the_system_gives_or_the_engine_names(monkeypatch):
    monkeypatch.delenv("QCFER_CORES", raising=False)
    given = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(given)[:1])
        assert store.cores() == 1
    finally:
        os.sched_setaffinity(0, given)
    assert store.cores() == len(given)
    monkeypatch.setenv("QCFER_CORES", "7")
    assert store.cores() == 7


def test_a_batch_is_64_pictures_unless_told_otherwise(tmp_path):
    sizes = []

    class Counting(Squares):
        def forward(self, batch):
            sizes.append(len(batch))
            return super().forward(batch)

    compute(Counting(), list(range(130)), keys_of(range(130)), tmp_path)
    assert sizes == [64, 64, 2]


def test_a_file_that_another_process_has_merged_away_is_no_loss(tmp_path, monkeypatch):
    fill(tmp_path, 16, batch_size=2)
    real, gone = store._write_part, parts(tmp_path)[3]

    def beside(folder, batches, schema):
        merges = len(parts(tmp_path)) == 10
        found = real(folder, batches, schema)
        if merges:
            gone.unlink()
        return found

    monkeypatch.setattr(store, "_write_part", beside)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute(Squares(), list(range(16, 36)), keys_of(range(16, 36)), tmp_path, batch_size=10)
    monkeypatch.undo()
    assert len(parts(tmp_path)) == 1 and fill(tmp_path, 36).seen == []


def test_importing_the_store_loads_no_framework():
    code = "import sys, qcfer.core.model_cache; print([name for name in ('torch', 'onnxruntime', 'sklearn') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_pictures_and_their_keys(tmp_path):
    """The contract as the pipeline uses it: PIL pictures, content keys, rows in the order asked for."""

    class Mean:
        id, dim = "mean", 3

        def preprocess(self, image):
            return np.asarray(image, dtype=np.float32)

        def forward(self, batch):
            return batch.mean(axis=(1, 2))

    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    images, keys = [Image.fromarray(each) for each in pixels], [sha256(each.tobytes()) for each in pixels]
    forward = compute(Mean(), images, keys, tmp_path)
    backward = compute(Mean(), images[::-1], keys[::-1], tmp_path)
    np.testing.assert_allclose(forward, pixels.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(forward, backward[::-1])
