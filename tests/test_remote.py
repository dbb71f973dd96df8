"""Sets and results in object stores: what travels, what a kill, a full store and a hostile one do, and that a run is the same run."""
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from fsspec import register_implementation
from fsspec.implementations.local import LocalFileSystem

from qcfer.core.remote import Copy, RemoteError, copy_of, here, push
from qcfer.data.cartoons import draw_faces
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run

@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def far(tmp_path):
    folder = tmp_path / "far"
    for name, text in {"a.txt": "one", "b/c.txt": "two"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("[!.]*")) if path.is_file()}


def hidden(folder):
    return sorted(path.name for path in folder.rglob(".*"))


def test_a_folder_is_itself(tmp_path):
    assert here(tmp_path) == tmp_path and copy_of(tmp_path) is None
    push(tmp_path)
    push(None)
    assert hidden(tmp_path) == []


def test_what_is_new_travels_both_ways(far):
    near = here(f"file://{far}")
    assert files(near) == {"a.txt": "one", "b/c.txt": "two"} == files(far)
    (near / "d.txt").write_text("three")
    (near / "b" / "c.txt").write_text("changed")
    (near / "a.txt").unlink()
    push(near)
    assert files(far) == {"b/c.txt": "changed", "d.txt": "three"}
    (far / "d.txt").unlink()
    (far / "e.txt").write_text("four")
    assert files(here(f"file://{far}")) == {"b/c.txt": "changed", "e.txt": "four"} == files(far)
    assert hidden(near) == [".remote.jsonl", ".remote.lock"] and hidden(far) == []


def test_nothing_travels_twice(far):
    near = here(f"file://{far}")
    times = {path: path.stat().st_ctime_ns for path in [*near.rglob("*.txt"), *far.rglob("*.txt")]}
    here(f"file://{far}")
    push(near)
    assert times == {path: path.stat().st_ctime_ns for path in times}


def test_a_file_that_changed_at_both_places_stays_and_is_sent(far):
    near = here(f"file://{far}")
    (near / "a.txt").write_text("ours")
    (far / "a.txt").write_text("theirs!")
    here(f"file://{far}")
    assert files(near)["a.txt"] == "ours"
    push(near)
    assert files(far)["a.txt"] == "ours"


def test_two_machines_that_merge_the_same_files_lose_none(far, tmp_path):
    one, other = (Copy(tmp_path / name, f"file://{far}") for name in ("one", "other"))
    one.pull()
    other.pull()
    for copy in (one, other):  # each merges a.txt and b/c.txt into a file of its own
        (copy.folder / f"merged-{copy.folder.name}.txt").write_text("one two")
        (copy.folder / "a.txt").unlink()
        (copy.folder / "b" / "c.txt").unlink()
        copy.push()
    one.pull()
    assert files(far) == {"merged-one.txt": "one two", "merged-other.txt": "one two"} == files(one.folder)


@pytest.mark.parametrize("name", [".hidden", "x.lock", ".x.1234.tmp", "x.tmp", ".folder/x"])
def test_what_is_hidden_locked_or_half_written_stays(far, name):
    near = here(f"file://{far}")
    (near / name).parent.mkdir(exist_ok=True)
    (near / name).write_text("x")
    push(near)
    assert set(files(far)) == {"a.txt", "b/c.txt"} and not (far / name).exists()


class Faulty(LocalFileSystem):
    "A store on this disk that lists, reads or writes as it is told to."

    protocol = "faulty"
    fault = ""

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("faulty://"))

    def find(self, path, detail=False, **kwargs):
        found = super().find(path, detail=True, **kwargs)
        if self.fault == "climbs":
            found |= {f"{path}/{name}": next(iter(found.values())) for name in ("../escaped.txt", "b/../../../escaped.txt")}
        return found if detail else list(found)

    def get_file(self, rpath, lpath, **kwargs):
        super().get_file(rpath, lpath, **kwargs)
        if self.fault == "cuts":
            os.truncate(lpath, 1)
        if self.fault == "slow":
            time.sleep(0.2)

    def put_file(self, lpath, rpath, **kwargs):
        if self.fault == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().put_file(lpath, rpath, **kwargs)


@pytest.fixture
def fault(monkeypatch):
    register_implementation("faulty", Faulty, clobber=True)
    return lambda kind: monkeypatch.setattr(Faulty, "fault", kind)


def test_a_full_store_is_one_line_and_loses_nothing(far, fault):
    near = here(f"faulty://{far}")
    (near / "d.txt").write_text("three")
    fault("full")
    with pytest.raises(RemoteError, match=r"^expected to write d.txt to faulty://.*is kept\); found .*No space left") as caught:
        push(near)
    assert "\n" not in str(caught.value) and files(near)["d.txt"] == "three"
    fault("")
    push(near)
    assert files(far)["d.txt"] == "three"


def test_half_a_file_is_none(far, fault):
    fault("cuts")
    with pytest.raises(RemoteError, match=r"^expected to fetch .*; found 1 of 3 bytes"):
        here(f"faulty://{far}")
    fault("")
    assert files(here(f"faulty://{far}")) == files(far)


def test_a_name_that_leaves_the_folder_is_passed_over(far, fault, tmp_path):
    (tmp_path / "escaped.txt").write_text("x")
    fault("climbs")
    assert set(files(here(f"faulty://{far}"))) == {"a.txt", "b/c.txt"}
    assert [path for path in (tmp_path / "cache").rglob("escaped.txt")] == []


def test_an_emptied_place_does_not_empty_the_copy(far):
    near = here(f"file://{far}")
    for path in far.rglob("*.txt"):
        path.unlink()
    with pytest.raises(RemoteError, match=f"found nothing: if that is meant, remove {near}"):
        here(f"file://{far}")
    assert set(files(near)) == {"a.txt", "b/c.txt"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("smoke://signals", "expected a place that fsspec can open at smoke://signals; found Protocol not known: smoke"),
        ("ftp://me:hunter2@host/faces", "expected a URL without a password"),
        ("s3://laboratory/rafdb", r"found no driver for it: Install s3fs"),
    ],
)
def test_a_url_that_cannot_be_opened_is_one_line(url, words):
    with pytest.raises(RemoteError, match=words) as caught:
        here(url)
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


_FETCH = """
import sys
sys.path.insert(0, sys.argv[1])
from test_remote import Faulty, Copy, register_implementation
register_implementation("faulty", Faulty)
Faulty.fault = "slow"
Copy(sys.argv[2], sys.argv[3]).pull()
"""


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.1])
def test_a_kill_while_fetching_leaves_whole_files_and_the_next_goes_on(tmp_path, seconds):
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir()
    for number in range(200):
        (far / f"{number}.bin").write_bytes(bytes([number]) * 1000)
    command = [sys.executable, "-c", _FETCH, os.path.dirname(__file__), near, f"faulty://{far}"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE)
    while not list(near.glob("*.bin")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_ino for path in near.glob("*.bin")}
    assert 0 < len(before) < 200
    (far / "0.bin").write_bytes(b"\xff" * 1000)  # of the same size
    copy = Copy(near, f"file://{far}")
    copy.pull()
    assert {path.name: path.read_bytes() for path in near.glob("*.bin")} == {path.name: path.read_bytes() for path in far.glob("*.bin")}
    fetched_again = [name for name, inode in before.items() if (near / name).stat().st_ino != inode]
    assert len(fetched_again) <= 17  # those under way, and the one that changed


def test_a_broken_line_of_the_book_costs_one_file(far):
    near = here(f"file://{far}")
    with open(near / ".remote.jsonl", "a") as book:
        book.write('["a.txt", [3, "tor')
    assert files(here(f"file://{far}")) == files(far)


def test_no_files_of_a_set_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"^expected files of rafdb at file://{tmp_path}/empty; found none$"):
        make_run(Config("rafdb", root=f"file://{tmp_path}/empty"), tmp_path / "out")


def test_a_run_far_away_is_the_run_here(tmp_path):
    faces = draw_faces(tmp_path / "faces", per_class=8)
    config = Config("folder", str(faces), pose="none", esv={"candidates": "LR"}, ladders=[])
    local = make_run(config, tmp_path / "here")
    (tmp_path / "far").mkdir()
    remote = make_run(replace(config, root=f"file://{faces}"), f"file://{tmp_path}/far")
    assert remote.path.name == local.path.name and copy_of(remote.path)[1] == f"file://{tmp_path}/far"
    assert np.array_equal(remote.predictions.drop(columns="image"), local.predictions.drop(columns="image"))
    assert remote.record["metrics"] == local.record["metrics"]
    sent = tmp_path / "far" / "folder" / remote.path.name / "run.json"
    assert json.loads(sent.read_text()) == remote.record

    os.rename(copy_of(remote.path)[0], tmp_path / "another machine")  # whose copy is empty, then
    before = sent.stat().st_ino
    again = make_run(replace(config, root=f"file://{faces}"), f"file://{tmp_path}/far")
    assert again.record == remote.record and sent.stat().st_ino == before
