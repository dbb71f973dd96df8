"""How well is nothing lost? Kill every job at random moments, spoil every file and every disk, and count: `make chaos`.

A kill is survived when the next start ends well or is killed in its turn, and mended when in the end the numbers are those of an
undisturbed run, nothing was computed again beyond a batch a kill, and no process and no temporary file is left. A fault of the storage is
survived when the job says it in one line or gives the right result, and mended when the next run on good storage gives the right result.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TQDM_DISABLE"] = "1"

import argparse
import errno
import fcntl
import hashlib
import json
import math
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa

from qcfer.cli import _explained
from qcfer.core.files import WeightsError, sha256
from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_face, draw_faces
from qcfer.frontalize.review import Journal, read_verdicts
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run
from qcfer.run.record import Run
from qcfer.run.study import Study

NOTES = Path()  # set by `World`
BATCH = 8  # rows; what a kill may cost
SUBJECTS = 8  # of PoseBench
AGED_S = 7200  # what a kill leaves is swept when it is as old



def notes(folder):
    "Where this program, not the job, writes of a job's folder: a full or read-only disk must not silence it."
    (NOTES / folder.name).mkdir(parents=True, exist_ok=True)
    return NOTES / folder.name


# The jobs


def drawn(**changed):
    "The settings of a run on the drawn faces beside the job's folder."
    given = {"pose": "3ddfa_v2", "conditions": ["normalized@paper"], "esv": {"candidates": "LR"}, "ladders": []}
    return lambda folder: Config("folder", str(folder.parent / "faces"), **given | changed)


def rendered(folder):
    how = {"pose": "annotation", "conditions": ["geometric"], "esv": {"candidates": "LR"}, "ladders": []}
    return Config("posebench", str(folder.parent / "rendered" / "set"), **how)


def digest(table):
    return sha256(table.to_csv(index=False))


_TIMES = {"created", "git_sha", "timings_s", "peak_memory_mb", "costs", "spent_s", "fit_s", "wall_s", "predict_ms", "seconds"}


def timeless(part):
    "A record without what a clock says."
    if isinstance(part, dict):
        return {name: timeless(value) for name, value in part.items() if name not in _TIMES}
    return [timeless(value) for value in part] if isinstance(part, list) else part


def numbers(folder):
    "All that the finished run of a folder says."
    (path,) = (folder / "out").glob("*/*/run.json")
    run = Run(path.parent)
    tables = {each.stem: digest(run._table(each.stem)) for each in sorted(path.parent.glob("*.parquet"))}
    return {"record": timeless(run.record), "tables": tables}


def rows_of(folder, store):
    "What a store of model outputs holds: {key: row as hexadecimal digits}, and how many rows were written."
    parts = [pa.ipc.open_file(path).read_all() for path in sorted((folder / "out" / "cache" / store).glob("*/part-*.arrow"))]
    keys = [key for part in parts for key in part.column("key").to_pylist()]
    rows = [np.float32(row).tobytes().hex() for part in parts for row in part.column("values").to_pylist()]
    return {"rows": dict(sorted(zip(keys, rows)))}


def pictures_of(folder):
    paths = sorted((folder / "out" / "cache" / "frontalized").glob("*/*/[!.]*.png"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def stage(config, part):
    "A job that makes one part of a study."

    def work(folder):
        part(Study(config(folder), folder / "out"))

    return work


def run_of(config):
    return lambda folder: make_run(config(folder), folder / "out")


def render(folder):
    from qcfer.posebench.generate import generate

    generate(folder / "set", subjects=SUBJECTS, workers=2)


def rendered_set(folder):
    names = sorted(path for path in (folder / "set").rglob("*.jpg"))
    pictures = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}
    return {"table": digest(pd.read_parquet(folder / "set" / "posebench.parquet")), "pictures": pictures}


DECISIONS = 150


def review(folder):
    "Decide on face after face, and note each decision once it is said to be on disk."
    with Journal(folder / "review.jsonl") as journal, open(notes(folder) / "acknowledged", "a") as noted:
        for number in range(len(journal.verdicts), DECISIONS):
            journal.decide(f"face {number}", "accept" if number % 3 else "revert")
            noted.write(f"{number}\n")
            noted.flush()


def verdicts(folder):
    told = read_verdicts(folder / "review.jsonl").set_index("key")["verdict"].to_dict()
    noted = notes(folder) / "acknowledged"
    acknowledged = noted.read_text().split() if noted.exists() else []
    assert {f"face {number}" for number in acknowledged} <= set(told), "an acknowledged decision is lost"
    return told


def recognizer_of(folder):
    from qcfer.recognize.recognizer import Recognizer

    class Framed(Recognizer):
        "Takes every picture for a face."

        def find(self, images):
            return [self.faces(image, True) for image in images]

    return Framed.load(folder.parent / "model")


def predict(folder):
    from qcfer.recognize import predict as module

    module.TOGETHER = BATCH
    paths = sorted((folder.parent / "faces").rglob("*.png"))
    module.predict_files(recognizer_of(folder), paths, folder / "table.csv", aligned=True)


def film(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for number in range(30):
            picture = draw_face(CLASSES[number // 5 % 7], 10, seed=number).resize((96, 96))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def video(folder):
    from qcfer.recognize.video import read_video, save_video_table

    save_video_table(read_video(recognizer_of(folder), folder.parent / "film.mp4", 0.1), folder / "table.csv")


def table_of(folder):
    return {"table": (folder / "table.csv").read_text().replace(str(folder.parent), "")}


def serve(folder):
    "Serve on the one port of this job, ask for some faces, and keep the answers."
    from qcfer.recognize.serve import serve as answer

    told = queue.SimpleQueue()

    def answering():
        try:
            answer(recognizer_of(folder), port=int((folder.parent / "port").read_text()), announce=told.put)
        except OSError as error:
            told.put(error)

    threading.Thread(target=answering, daemon=True).start()
    if isinstance(found := told.get(timeout=30), OSError):
        raise found
    url, token = found.split("/#")
    answers = []
    for path in sorted((folder.parent / "faces").rglob("*.png"))[:24]:
        headers = {"Authorization": f"Bearer {token}"}
        asked = urllib.request.Request(f"{url}/predict?aligned=true", path.read_bytes(), headers, method="POST")
        answers.append(json.loads(_patiently(asked)))
    (folder / "answers.json").write_text(json.dumps(answers))  # ours, not the job's


def _patiently(asked):
    for _ in range(200):
        with suppress(ConnectionError, urllib.error.URLError), urllib.request.urlopen(asked, timeout=60) as reply:
            return reply.read()
        time.sleep(0.02)
    raise OSError("expected the server to answer; found silence")


def answers_of(folder):
    return json.loads((folder / "answers.json").read_text())


class Job(NamedTuple):
    work: Any  # folder -> None; may be killed and called again
    result: Any  # folder -> what must be as after an undisturbed run
    after: str = ""  # the job in whose folder it begins
    computes: str = ""  # what is logged, and may be computed again a batch a kill at most
    refuses: str = ""  # what a second run beside may say
    share: float = 1.0  # of the kills


JOBS = {
    "render": Job(render, rendered_set, share=0.12),
    "pose": Job(stage(drawn(), lambda study: study.poses), partial(rows_of, store="pose"), "", "pose"),
    "frontalize": Job(stage(drawn(), lambda study: study.view("normalized")), pictures_of, "pose", "frontalize"),
    "embed": Job(stage(drawn(), lambda study: study.see("normalized")), partial(rows_of, store="embeddings"), "frontalize", "embed"),
    "train": Job(run_of(drawn()), numbers, "embed"),
    "ladders": Job(run_of(drawn(ladders=["modules"], conditions=["normalized"])), numbers, "embed", share=0.7),
    "posebench": Job(run_of(rendered), numbers, share=0.12),
    "review": Job(review, verdicts, refuses="found another one writing"),
    "predict": Job(predict, table_of, refuses="found another predict"),
    "video": Job(video, table_of),
    "serve": Job(serve, answers_of, share=0.7, refuses="Address already in use"),
}

# One start of a job


def watch(folder):
    "Make batches small, and log how many rows were computed."
    import qcfer.face.pose
    import qcfer.run.study
    from qcfer.core.model_cache import compute
    from qcfer.embed.lite0 import EffNetLite0
    from qcfer.face.tddfa import TDDFA
    from qcfer.frontalize.normalized import Normalized

    qcfer.run.study.compute = qcfer.face.pose.compute = partial(compute, batch_size=BATCH)
    log = os.open(notes(folder) / "computed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    Normalized.batch_size = BATCH

    def logged(real, word):
        def told(self, batch, *rest):
            os.write(log, f"{word} {len(batch)}\n".encode())
            return real(self, batch, *rest)

        return told

    EffNetLite0.forward, TDDFA.forward = logged(EffNetLite0.forward, "embed"), logged(TDDFA.forward, "pose")
    Normalized.frontalize = logged(Normalized.frontalize, "frontalize")


def at_moments(do):
    "Have `do(number, before)` called around every `os.replace` and `os.fsync`."
    count = iter(range(10**9))

    def around(real):
        def told(*given, **how):
            number = next(count)
            do(number, True)
            result = real(*given, **how)
            do(number, False)
            return result

        return told

    os.replace, os.fsync = around(os.replace), around(os.fsync)


def one(name, folder, die_at=None):
    "Do a job in this process; `die_at` is the number of a moment and whether before or after it. Returns the exit status."
    folder = Path(folder)
    os.environ["QCFER_CACHE"] = str(folder / "user")
    warnings.showwarning = lambda message, *_: print(f"qcfer: {' '.join(str(message).split())}", flush=True)
    seen = []

    def moment(*at):
        seen.append(at)
        if at == die_at:
            os.killpg(0, signal.SIGKILL)

    if die_at != "fault":
        at_moments(moment)
    watch(folder)
    try:
        JOBS[name].work(folder)
    except (ValueError, OSError, ImportError, WeightsError) as error:
        print(f"qcfer: {_explained(error)}", flush=True)
        return 1
    (notes(folder) / "moments").write_text(str(len(seen) // 2))
    return 0


def start(name, folder, die_at=None, fresh=False, before=None):
    "Start a job in a child of this warm process, or in a fresh one; returns its number, which is its group's as well."
    log = os.open(notes(folder) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if fresh:
        command = [sys.executable, __file__, "--one", name, "--folder", folder, "--notes", NOTES]
        command += ["--die-at", json.dumps(die_at)] if die_at else []
        pid = subprocess.Popen(list(map(str, command)), start_new_session=True, stdout=log, stderr=log).pid
        os.close(log)
        return pid
    pid = os.fork()
    if not pid:
        status = 70
        try:
            os.setsid()
            os.dup2(log, 1)
            os.dup2(log, 2)
            if before:
                before(folder)
            status = one(name, folder, die_at)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(log)
    return pid


def ended(pid):
    "The exit status; minus the signal that ended it."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def group(pid):
    "The living processes of a group."
    found = []
    for other in psutil.pids():
        with suppress(OSError, psutil.Error):
            if os.getpgid(other) == pid and psutil.Process(other).status() != psutil.STATUS_ZOMBIE:
                found.append(other)
    return found


def kill(pid, everyone):
    "SIGKILL to the group, or to its first process alone; returns whether it was still there, and whether anybody outlived it."
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL) if not everyone else os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # before it had a group of its own
    killed = ended(pid) == -signal.SIGKILL
    return killed, survivors(pid)


def survivors(pid):
    deadline = time.monotonic() + 15
    while (left := group(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for other in left:
        with suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
    return len(left)


# What every job begins from, and what it must end in


class World:
    "Drawn faces, a rendered set, a model, and for each job what it begins from and what an undisturbed run ends in."

    def __init__(self, home, names):
        global NOTES
        self.home, self.right, self.takes = Path(home), {}, {}
        NOTES = self.home / "notes"
        draw_faces(self.home / "faces", per_class=8)
        if {"predict", "video", "serve"} & set(names):
            self._model()
        for name in names:
            self._reference(name)

    def _model(self):
        from qcfer.recognize.model_folder import export_model, study_of

        folder = self.home / "trained"
        folder.mkdir()
        config = drawn(pose="none", conditions=[])(folder)

        def work():
            os.environ["QCFER_CACHE"] = str(folder / "user")
            run = make_run(config, folder / "out")
            export_model(run, study_of(run, folder / "out", config.root), self.home / "model")

        self._apart(work)
        film(self.home / "film.mp4")
        with socket.create_server(("127.0.0.1", 0)) as free:
            (self.home / "port").write_text(str(free.getsockname()[1]))

    def _apart(self, work):
        pid = os.fork()
        if not pid:
            try:
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        assert ended(pid) == 0

    def _reference(self, name):
        job = JOBS[name]
        for earlier in [job.after] if job.after else ["render"] if name == "posebench" else []:
            if earlier not in self.right:
                self._reference(earlier)
        if name == "posebench" and not (self.home / "rendered").exists():
            shutil.copytree(self.home / "done-render", self.home / "rendered")
        begin, done = self.home / f"begin-{name}", self.home / f"done-{name}"
        shutil.copytree(self.home / f"done-{job.after}", begin) if job.after else begin.mkdir()
        if name in ("train", "ladders", "posebench"):
            self._with_maps(begin, name)
        shutil.copytree(begin, done)
        since = time.monotonic()
        status = ended(start(name, done))
        self.takes[name] = time.monotonic() - since
        if status:
            raise SystemExit(f"{name} fails undisturbed: {(done / 'log').read_text()[-2000:]}")
        self.right[name] = job.result(done)

    def _with_maps(self, begin, name):
        "The maps are the slowest part, and the least of the jobs: they are there from the start."
        shutil.copytree(begin, self.home / f"maps-{name}")
        assert ended(start(name, self.home / f"maps-{name}")) == 0, (notes(self.home / f"maps-{name}") / "log").read_text()[-2000:]
        shutil.copytree(self.home / f"maps-{name}" / "out" / "cache" / "maps", begin / "out" / "cache" / "maps")

    def new(self, name, done=False):
        "A folder for a job."
        folder = self.home / f"work-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.home / f"{'done' if done else 'begin'}-{name}", folder)
        shutil.rmtree(notes(folder))
        return folder

    def moments(self, name):
        return int((notes(self.home / f"done-{name}") / "moments").read_text())

    def computed(self, folder, name):
        log, found = notes(folder) / "computed", Counter()
        for line in log.read_text().splitlines() if log.exists() else []:
            word, count = line.split()
            found[word] += int(count)
        return found[JOBS[name].computes]


def left_behind(folder):
    "Temporary files and folders of ours."
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def age(folder):
    "What a kill left is two hours old."
    then = time.time() - AGED_S
    for path in left_behind(folder):
        os.utime(path, (then, then))


def wrong(world, name, folder):
    "What is not as after an undisturbed run, in words; '' where all is."
    try:
        found = JOBS[name].result(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if found == world.right[name] else f"other results: {_first_difference(world.right[name], found)}"


def _first_difference(one, other, place=""):
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}, key=str):
            if one.get(name) != other.get(name):
                return _first_difference(one.get(name), other.get(name), f"{place}/{name}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other)):
            if first != second:
                return _first_difference(first, second, f"{place}/{number}")
    return f"{place}: {str(one)[:60]} became {str(other)[:60]}"


# Kills


def killed_some(world, name, rng, kills, fresh_share):
    "One job from its beginning to its end, killed up to so many times on the way; returns the counts and what was wrong."
    folder, job, faults, tried, beside = world.new(name), JOBS[name], [], 0, 0
    for number in range(kills):
        ahead = 1 - number / (kills + 1)  # of what was to do; the rest is in the caches by now
        fresh = rng.random() < fresh_share
        second = rng.random() < 0.2
        at_moment = rng.random() < min(0.5, world.moments(name) / 40)
        die_at = (rng.randrange(math.ceil(ahead * world.moments(name))), rng.random() < 0.5) if at_moment else None
        pid = start(name, folder, die_at, fresh)
        other = start(name, folder) if second else None
        if not at_moment:
            time.sleep(rng.uniform(0, ahead * world.takes[name]) + (rng.uniform(0, 4) if fresh else 0))
            killed, left = kill(pid, rng.random() < 0.5)
        else:
            status = ended(pid)
            killed, left = status == -signal.SIGKILL, survivors(pid)
            if status > 0 and not (second and _refused(job, folder)):
                faults.append(f"a start failed: {_last_line(folder)}")
        tried += killed
        if left:
            faults.append(f"{left} processes outlived a kill")
        if second:
            beside += 1
            status = ended(other)
            if status and not _refused(job, folder):
                faults.append(f"the run beside failed: {_last_line(folder)}")
            if survivors(other):
                faults.append("processes outlived the run beside")
        if not killed:
            break
    age(folder)
    if ended(start(name, folder)):
        faults.append(f"the last start failed: {_last_line(folder)}")
    elif word := wrong(world, name, folder):
        faults.append(word)
    if left := left_behind(folder):
        faults.append(f"left behind: {', '.join(str(path.relative_to(folder)) for path in left[:3])}")
    distinct = world.computed(world.home / f"done-{name}", name)
    if job.computes and not beside and world.computed(folder, name) > distinct + 2 * BATCH * tried:
        faults.append(f"{world.computed(folder, name)} rows computed for {distinct} after {tried} kills")
    return tried, beside, faults


def _refused(job, folder):
    return job.refuses and job.refuses in (notes(folder) / "log").read_text()


def _last_line(folder):
    lines = (notes(folder) / "log").read_text().strip().splitlines()
    return lines[-1] if lines else "no word"


class Tally:
    "A table of (tried, survived, mended) by job, which is written as it grows."

    def __init__(self, to, **about):
        self.to, self.table, self.faults, self.about = Path(to), {}, {}, about

    def add(self, row, tried, survived, mended, faults=()):
        found = self.table.setdefault(row, {"tried": 0, "survived": 0, "mended": 0})
        for name, count in (("tried", tried), ("survived", survived), ("mended", mended)):
            found[name] += count
        for fault in faults:
            words = re.sub(r"/\S+/(?:work|disk)\S*?/|[0-9a-f]{8,}", "…", fault)[:300]
            self.faults.setdefault(row, Counter())[words] += 1
        self.to.parent.mkdir(parents=True, exist_ok=True)
        told = self.about | {"jobs": self.table, "faults": {row: dict(found) for row, found in self.faults.items()}}
        self.to.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def __str__(self):
        lines = ["| what | tried | survived | mended |", "| --- | ---: | ---: | ---: |"]
        everything = {name: sum(row[name] for row in self.table.values()) for name in ("tried", "survived", "mended")}
        rows = [*self.table.items(), ("all", everything)]
        return "\n".join([*lines, *(f"| {name} | {row['tried']:,} | {row['survived']:,} | {row['mended']:,} |" for name, row in rows)])


def kill_all(world, names, kills, rng, tally, fresh_share=0.05, together=8):
    "Spread kills over jobs, some at a time."
    total = sum(JOBS[name].share for name in names)
    wanted = {name: round(kills * JOBS[name].share / total) for name in names}
    while left := [name for name in names for _ in range(wanted[name])]:
        name = rng.choice(left)
        tried, beside, faults = killed_some(world, name, rng, min(together, wanted[name]), fresh_share)
        wanted[name] -= tried
        tally.about["kills with a second run beside"] = tally.about.get("kills with a second run beside", 0) + beside
        failed = [fault for fault in faults if "failed" in fault]
        tally.add(f"kill: {name}", tried, tried if not failed else 0, tried if not faults else 0, faults)


# Storage faults


@contextmanager
def small_disk(world, name, done=False):
    "The job's folder on a disk of its own, as (folder, mount point)."
    place = world.home / "disk"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", place], check=True)
    try:
        for shared in ("faces", "model", "film.mp4", "port", "rendered"):
            if (world.home / shared).exists():
                os.symlink(world.home / shared, place / shared)
        folder = place / f"work-{name}"
        shutil.copytree(world.new(name, done), folder)
        yield folder, place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def can_mount():
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
        return True


def judged(world, name, folder, before=None):
    "Run a job under a fault: '' for a right result, or a line that is said; raises `AssertionError` for anything else."
    status = ended(start(name, folder, "fault", before=before))
    if status == 1:
        line = _last_line(folder)
        assert line.startswith("qcfer: "), f"no clear line: {line}"
        return line
    assert status == 0, f"no clear line: {_last_line(folder)}"
    word = wrong(world, name, folder)
    assert not word, f"after success, {word}"
    return ""


def fault(world, tally, row, name, folder, before=None, undo=lambda: None):
    "Count one fault of the storage."
    faults, survived, mended, said = [], 0, 0, ""
    try:
        said = judged(world, name, folder, before)
        survived = 1
    except AssertionError as error:
        faults.append(str(error))
    undo()
    try:
        again = judged(world, name, folder)
        if again and re.search("delete it|mend or remove it|move the folder away", again):
            _obey(again)
            again = judged(world, name, folder)
        mended = int(not again)
        faults += [f"the next run: {again}"] if again else []
    except AssertionError as error:
        faults.append(f"the next run: {error}")
    tally.add(row, 1, survived, mended, [f"{name}: {word}" for word in faults])
    return said


def _obey(line):
    "Do what a line says of the file that it expected."
    path = Path(re.search(r"/\S+", line)[0])
    path.unlink() if "folder" not in line else path.parent.rename(path.parent.with_suffix(".away"))


def full_disk(world, tally, name, rng):
    with small_disk(world, name) as (folder, place):
        free = shutil.disk_usage(place).free
        leave = rng.choice([0, 4, 16, 64, 256, 1024]) * 1024
        with open(place / "filler", "wb") as file:
            file.write(b"\0" * max(0, free - leave - 65536))
            with suppress(OSError):
                while shutil.disk_usage(place).free > leave:
                    file.write(b"\0" * 4096)
                    file.flush()
        fault(world, tally, "disk full", name, folder, undo=(place / "filler").unlink)


def read_only(world, tally, name):
    with small_disk(world, name) as (folder, place):
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        fault(world, tally, "read-only", name, folder, undo=lambda: subprocess.run(["mount", "-o", "remount,rw", place], check=True))


def no_space_at(number):
    "Raise ENOSPC at one of the renames."

    def before(folder):
        count, real = iter(range(10**9)), os.replace

        def replace(source, target, **how):
            if next(count) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            return real(source, target, **how)

        os.replace = replace

    return before


def no_locks(number):
    def before(folder):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        fcntl.flock = fcntl.lockf = flock

    return before


def clock_back(folder):
    real = time.time
    time.time = lambda: real() - 86_400


def files_from_tomorrow(folder):
    then = time.time() + 86_400
    for path in folder.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path, rng):
    os.truncate(path, rng.randrange(path.stat().st_size))


KINDS = {  # what is spoilt: the job that reads it again, and where it is
    "embeddings": ("train", "out/cache/embeddings/*/part-*.arrow"),
    "poses": ("train", "out/cache/pose/*/part-*.arrow"),
    "cards of models": ("train", "out/cache/*/*/model.json"),
    "frontal views": ("train", "out/cache/frontalized/*/*/*.png"),
    "cards of frontalizers": ("train", "out/cache/frontalized/*/frontalizer.json"),
    "maps": ("train", "out/cache/maps/*"),
    "predictions of rungs": ("train", "out/cache/rungs/*/predictions.parquet"),
    "facts of rungs": ("train", "out/cache/rungs/*/facts.json"),
    "models of rungs": ("train", "out/cache/rungs/*/model.skops"),
    "fits": ("train", "user/fits/**/output.pkl"),
    "the network": ("train", "user/*.onnx"),
    "run records": ("train", "out/folder/*/run.json"),
    "tables of runs": ("train", "out/folder/*/*.parquet"),
    "thumbnails": ("posebench", "out/posebench/*/pictures-*.parquet"),
    "answers so far": ("predict", ".table.csv.part"),
    "decisions": ("review", "review.jsonl"),
    "rendered parts": ("render", "set/s*/faces.parquet"),
    "rendered heads": ("render", "set/heads.npz"),
    "rendered pictures": ("posebench", "rendered/set/s*/*.jpg"),
    "rendered table": ("posebench", "rendered/set/posebench.parquet"),
}
_FINISHED = ("run records", "tables of runs", "thumbnails")


def spoil(world, tally, kind, how, rng):
    "Spoil one file of a kind where a job was finished, take away the result where that would hide it, and do the job again."
    name, pattern = KINDS[kind]
    folder = world.new(name, done=True)
    root = world.home if pattern.startswith("rendered/") else folder
    if kind == "answers so far":
        _half_predicted(world, folder)
    if kind not in _FINISHED:
        for path in [*folder.glob("out/folder/*/run.json"), *folder.glob("out/posebench/*/run.json")]:
            shutil.rmtree(path.parent)
    if kind == "fits":
        shutil.rmtree(folder / "out" / "cache" / "rungs")
    if kind.startswith("rendered") and name == "render":
        (folder / "set" / "posebench.parquet").unlink()
        if kind == "rendered heads":
            shutil.rmtree(folder / "set" / "s003")
    files = [path for path in sorted(root.glob(pattern)) if path.is_file() and path.stat().st_size]
    if kind == "tables of runs":
        files = [path for path in files if not path.name.startswith("pictures-")]
    path = rng.choice(files)
    kept = path.read_bytes()
    how(path, rng)
    undo = partial(path.write_bytes, kept) if root is world.home or kind == "decisions" else lambda: None
    said = fault(world, tally, f"{'a bit' if how is flip else 'cut'}: {kind}", name, folder, undo=undo)
    return said


def _half_predicted(world, folder):
    "A prediction that was killed half way."
    shutil.rmtree(folder)
    world.new("predict")
    pid = start("predict", folder)
    while not (part := folder / ".table.csv.part").exists() or part.read_bytes().count(b"\n") < 20:
        time.sleep(0.01)
    kill(pid, True)


def spoil_all(world, names, rng, tally):
    "Every fault of the storage once."
    for name in names:
        if tally.about["disk"]:
            full_disk(world, tally, name, rng)
            read_only(world, tally, name)
        fault(world, tally, "ENOSPC in a rename", name, world.new(name), no_space_at(rng.randrange(max(1, world.moments(name) // 2))))
        fault(world, tally, "clock a day back", name, world.new(name), clock_back)
        folder = world.new(name)
        files_from_tomorrow(folder)
        fault(world, tally, "files from tomorrow", name, folder)
        fault(world, tally, "no locks", name, world.new(name), no_locks(rng.choice([errno.ENOLCK, errno.ENOTSUP])))
    for kind in [kind for kind, (name, _) in KINDS.items() if name in names]:
        spoil(world, tally, kind, flip, rng)
        spoil(world, tally, kind, truncate, rng)


def warm():
    "Import what the jobs need once; nothing here may start a thread."
    import onnxruntime
    import sklearn.linear_model
    import skops.io
    import umap

    import qcfer.frontalize.normalized
    import qcfer.recognize.predict
    import qcfer.recognize.serve
    import qcfer.recognize.video

    return onnxruntime, skops, sklearn, umap, qcfer


def campaign(home, names, kills, rounds, seed, to):
    "All of it; returns the tally."
    warm()
    rng = random.Random(seed)
    world = World(home, names)
    took = {name: round(world.takes[name], 2) for name in names}
    tally = Tally(to, seed=seed, cores=os.cpu_count(), disk="tmpfs" if can_mount() else None, undisturbed_s=took)
    for number in range(max(1, rounds)):
        kill_all(world, names, kills // max(1, rounds), rng, tally)
        if number < rounds:
            spoil_all(world, names, rng, tally)
    return tally


def main():
    global NOTES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="of all faults of the storage, between the kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--to", type=Path, default=Path("reports/chaos.json"))
    for name in ("--one", "--folder", "--notes", "--die-at"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        NOTES = Path(asked.notes)
        sys.exit(one(asked.one, asked.folder, tuple(json.loads(asked.die_at)) if asked.die_at else None))
    with tempfile.TemporaryDirectory(prefix="qcfer-chaos-", ignore_cleanup_errors=True) as home:
        tally = campaign(home, asked.jobs.split(","), asked.kills, asked.rounds, asked.seed, asked.to)
    print(tally)


if __name__ == "__main__":
    main()
