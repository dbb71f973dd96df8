"""Every reader of files that nobody vouches for, fed what nobody would write.

`python tests/fuzz.py` mutates valid files, seeded, and reads each: a reader may accept it, or refuse it by the error that it declares, in
one line. Anything else is a fault: another error, a crash, a case beyond ten seconds of the processor, memory beyond two gigabytes, or an
accepted file that a plain parser reads otherwise. `--only READER --case N` reads one case again, and shows what happens.
"""

import argparse
import csv
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from official_trees import Drawn, Tiny, affectnet_csv, affectnet_npy, expw, ferplus, put, rafdb
from qcfer.core.checkpoint import read_checkpoint, read_numbers
from qcfer.core.files import WeightsError
from qcfer.core.labels import CLASSES
from qcfer.core.pictures import ImageError, decode_image, image_size
from qcfer.data.label_files import DatasetError
from qcfer.data.layouts import get_dataset
from qcfer.data.manifest import locate, survey

SECONDS, MEMORY = 10, 2 << 30  # of one case, at most; bytes beyond what the process had
SAMPLE = 20  # of so many cases, one goes through the whole survey of a set
HERE = Path(__file__).parent

# --- what goes wrong in files

WORDS = [
    *"0 -1 7 99 1e999 -0 nan NaN inf NULL None true 3.0 ٣ 0x10 1_000 999999999999999999999 + \" ' ; , |".split(),
    *("\t", "\r", "\n", "\r\n", "\0", "\x1c", "\x1b[2J", "\u2028"),
    *("", " ", "../", "../../etc/passwd", "/etc/passwd", "C:\\x.jpg", "..\\..\\x", "~", "\ufeff", "\u202e", "é", "e\u0301", "a" * 300),
    *("happiness", "Happy", "contempt", "train", "test", "[", "]", "{", "}", ":", "- ", "&a ", "*a", "!!int ''"),
    *("!!python/object:os.system", "!!timestamp x", "2001-99-99", "<<: ", "? ", "%TAG"),
    *("1" * 5000, "[" * 3000, "{" * 3000, '{"a":' * 3000, "\ud800", "=1+1", "é" * 200),
]
TOKENS = [word.encode("utf-8", "surrogatepass") for word in WORDS]
TOKENS += [b"\xff", b"\xfe\xff", b"\xc3", b"\xed\xa0\x80", b"\x80" * 40, b"x" * 70_000]
NUMBERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def flipped(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def cut(rng, data):
    start = rng.randrange(len(data))
    return data[:start] if rng.random() < 0.5 else data[:start] + data[start + rng.choice((1, 2, 7, 50, 1000)) :]


def inserted(rng, data):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(TOKENS) * rng.choice((1, 1, 1, 3, 40)) + data[place:]


def repeated(rng, data):
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 4, 30, 400))]
    return data[:start] + piece * rng.choice((2, 3, 100, 3000)) + data[start:]


def numbered(rng, data):
    "A number of one, two, four or eight bytes is put over what is there."
    size, place = rng.choice((1, 2, 4, 8)), rng.randrange(len(data))
    value = rng.choice(NUMBERS) % (1 << 8 * size)
    return data[:place] + value.to_bytes(size, rng.choice(("little", "big"))) + data[place + size :]


def relined(rng, data):
    lines = data.splitlines(keepends=True)
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.3:
        lines.insert(second, lines[first])
    elif rng.random() < 0.5:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        del lines[first]
    return b"".join(lines)


def reworded(rng, data):
    "A field is replaced, by another or by something odd."
    between = b" \t\r\n,;:\"'/_.[]{}="
    ends = [-1, *(place for place, byte in enumerate(data[:20_000]) if byte in between), len(data)]
    fields = [pair for pair in pairwise(ends) if pair[1] - pair[0] > 1] or [(-1, len(data))]
    (start, end), (other, last) = rng.choice(fields), rng.choice(fields)
    return data[: start + 1] + (data[other + 1 : last] if rng.random() < 0.4 else rng.choice(TOKENS)) + data[end:]


def recoded(rng, data):
    text = data.decode("utf-8", "replace")
    return rng.choice((
        lambda: b"\xef\xbb\xbf" + data, lambda: data.replace(b"\n", b"\r\n"), lambda: data.replace(b"\n", b"\r"),
        lambda: text.encode("utf-16"), lambda: text.encode("utf-32"), lambda: data.replace(b",", b";"), lambda: b"",
        lambda: data.upper(), lambda: data + b"\0" * 5000, lambda: data.replace(b" ", b"\t"), lambda: b'"' + data,
    ))()  # fmt: skip


def of_text(rng, data):
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice((flipped, cut, inserted, repeated, relined, reworded, reworded, reworded, recoded))(rng, data or b"x")
    return data


def of_bytes(rng, data):
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice((flipped, flipped, numbered, numbered, cut, inserted, repeated))(rng, data or b"x")
    return data


ODD = [
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    10**30,
    "",
    "nan",
    "../x",
    "é" * 500,
    [],
    {},
    [[]],
    [None],
    {"": None},
    "\ud800",
    "a\nb",
    float("nan"),
]


def places(value, path=()):
    "The paths to every value in a table or a list."
    yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*path, key))


def of_json(rng, data):
    "A value is replaced, taken away or renamed; or the text is mutated."
    if rng.random() < 0.3:
        return of_text(rng, data)
    top = [json.loads(data)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        *path, last = rng.choice([path for path in places(top) if path] or [(0,)])
        holder = top
        for key in path:
            holder = holder[key]
        what = rng.random() if path else 0
        if what < 0.6:
            holder[last] = rng.choice([*ODD, holder, json.loads(data)])
            if holder[last] is holder:
                holder[last] = json.loads(json.dumps(holder[last], default=str)) if path and not _holds_itself(holder) else 0
        elif what < 0.85:
            del holder[last]
        elif isinstance(holder, dict):
            holder[rng.choice(WORDS)] = holder.pop(last)
    return json.dumps(top[0] if top else None).encode()


def _holds_itself(holder):
    return any(part is holder for part in (holder.values() if isinstance(holder, dict) else holder))


def of_lines_of_json(rng, data):
    if rng.random() < 0.4:
        return of_text(rng, data)
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = of_json(rng, lines[place])
    return b"\n".join(lines) + b"\n"


def of_zip(inner=of_bytes):
    "Mutates an archive's bytes, or a member, which is then packed anew so that its sums are right."

    def mutate(rng, data):
        if rng.random() < 0.3:
            return of_bytes(rng, data)
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        name = rng.choice([*members, next(iter(members))])
        what = rng.random()
        if what < 0.9:
            members[name] = (of_json if name.endswith(".json") else inner)(rng, members[name])
        elif what < 0.95:
            del members[name]
        else:
            members[rng.choice(("../x", "/x", "a" * 300, name + "/", "é"))] = members.pop(name)
        packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
        with zipfile.ZipFile(out := io.BytesIO(), "w", packing) as file:
            for member, content in members.items():
                file.writestr(member, content)
        return out.getvalue()

    return mutate


def of_parquet(rng, data):
    "A table's columns and cells are mutated, or the file's bytes."
    if rng.random() < 0.5:
        return of_bytes(rng, data)
    table = pd.read_parquet(io.BytesIO(data)).astype(object)
    name = rng.choice(list(table))
    what = rng.random()
    if what < 0.6:
        values = list(table[name])
        odd = rng.choice([None, "x", "../x", 0, -1, 7, 1e300, float("nan"), True, [1.0], [float("inf")] * 136, b"\xff", "a\0b", "é" * 3000])
        values[rng.randrange(len(values))] = odd
        kept = values if rng.random() < 0.5 else [odd] * len(values)
        table[name] = pd.Series(kept, dtype=object)
    elif what < 0.8:
        del table[name]
    else:
        table = table.rename(columns={name: rng.choice([*table, "action_x", "é"])}).iloc[: rng.randrange(len(table) + 1)]
    try:
        table.to_parquet(out := io.BytesIO(), index=False)
    except (ValueError, TypeError, OverflowError, KeyError):  # no such table can be written
        return flipped(rng, data)
    except Exception as error:
        if "pyarrow" not in type(error).__module__:
            raise
        return flipped(rng, data)
    return out.getvalue()


# --- readers


class Reader(NamedTuple):
    """What is read, and how.

    Parameters
    ----------
    make : folder -> files that are mutated; writes what is valid.
    read : folder, file -> anything.
    mutate : rng, bytes -> bytes.
    errors : those that are declared.
    same : folder, file, what was read -> whether a plain parser reads the same.
    files : how many are read where nobody says otherwise.
    """

    make: Callable
    read: Callable
    mutate: Callable = of_text
    errors: tuple = (DatasetError, OSError)
    same: Callable = lambda folder, path, found: True
    files: int = 100_000


def set_reader(name):
    "Reads a set as a run does."

    def read(folder, path, whole=False):
        root = locate(name, folder, folder / ".out")
        rows = get_dataset(name).read(root)
        if whole:
            survey(name, root)
        shutil.rmtree(folder / ".out", ignore_errors=True)
        return rows

    return read


def _all(number):
    return dict.fromkeys(CLASSES, number)


def make_rafdb(folder):
    rafdb(folder, _all(3), _all(1), Tiny())
    return [folder / "EmoLabel/list_patition_label.txt"]


def make_affectnet_csv(folder):
    affectnet_csv(folder, _all(3), _all(1), Tiny())
    return sorted((folder / "Manually_Annotated_file_lists").glob("*.csv"))


def make_affectnet_npy(folder):
    affectnet_npy(folder, _all(3), _all(1), Tiny())
    return sorted(folder.glob("*/annotations/*_exp.npy"))


def make_expw(folder):
    expw(folder, _all(5), Tiny())
    return [folder / "label/label.lst"]


def make_ferplus(folder):
    ferplus(folder, {"Training": {"anger": 1, "neutral": 1, "blank": 1}, "PrivateTest": {"fear": 1, "unknown": 1}})
    return [folder / "fer2013new.csv", folder / "fer2013.csv"]


def make_fer2013(folder):
    make_ferplus(folder)
    (folder / "fer2013new.csv").unlink()
    return [folder / "fer2013.csv"]


def make_icml(folder):
    (source,) = make_fer2013(folder)
    table = pd.read_csv(source)[["emotion", "Usage", "pixels"]]
    table.columns = ["emotion", " Usage", " pixels"]
    table.to_csv(folder / "icml_face_data.csv", index=False)
    source.unlink()
    return [folder / "icml_face_data.csv"]


def make_faces(folder):
    drawn, lines = Drawn(16), ["image,label,subject,yaw,pitch,roll,frontal,split,note"]
    for number, label in enumerate([*CLASSES] * 4):
        put(folder / f"p/{number}.jpg", drawn(label))
        split = "test" if number < 7 else "train"
        lines.append(f'p/{number}.jpg,{label},s{number},{number * 3 % 60}.5,0,-1e1,p/{number // 2}.jpg,{split},"a ""b"", c"')
    put(folder / "faces.csv", "\n".join(lines).encode())
    return [folder / "faces.csv"]


def make_classes(ending, text):
    def make(folder):
        drawn = Drawn(16)
        for number in range(7):
            for face in range(3):
                put(folder / str(number) / f"{face}.jpg", drawn(CLASSES[number]))
        put(folder / f"classes.{ending}", text.encode())
        return [folder / f"classes.{ending}"]

    return make


def make_names(folder):
    "The names of the files of a folder, a line each; `read_tree` makes the folder."
    names = [f"{split}/{name}/{number}.jpg" for split in ("train", "test") for name in CLASSES for number in range(3)]
    put(folder / "names.txt", "\n".join(names).encode())
    return [folder / "names.txt"]


def read_tree(name):
    def read(folder, path, whole=False):
        root, data = folder / "tree", Tiny()
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for line in path.read_bytes().split(b"\n")[:60]:
            try:
                place = os.path.normpath(os.path.join(os.fsencode(root), line))
                if place.startswith(os.fsencode(root) + b"/"):
                    put(Path(os.fsdecode(place)), data(None))
            except (OSError, ValueError):  # no file can be called so
                continue
        try:
            return set_reader(name)(root, path, whole)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    return read


def make_posebench(folder):
    rng, rows = np.random.default_rng(0), []
    for number in range(28):
        image = f"p/{number}.jpg"
        put(folder / image, Tiny()(None))
        points = {name: rng.uniform(0, 48, 136) for name in ("landmarks", "frontal_landmarks")}
        words = {"image": image, "split": "train" if number > 6 else "test", "group": f"g{number}", "frontal": image, "frontal_sha256": "0"}
        angles = {"yaw": 3.0 * number, "pitch": 0.0, "roll": 0.0, "intensity": 0.5, "action_1": 1.0}
        rows.append(words | {"variant": "v", "label": number % 7} | angles | points)
    pd.DataFrame(rows).to_parquet(folder / "posebench.parquet", index=False)
    return [folder / "posebench.parquet"]


def make_params(folder):
    text = (
        "report: {out: reports, title: 'a: b'}\nconfig:\n  dataset: folder\n  seed: 3\n  classes: [happyness=happiness, 3=fear]\n"
        "  conditions:\n  - normalized@auto+raw\n  follow_links: true\n  gate: &g {embedder: 0.8, margin: 0.1}\n  esv: {candidates: LR}\n"
    )
    put(folder / "params.yaml", text.encode())
    return [folder / "params.yaml"]


def read_parameters(folder, path):
    from qcfer.run.config import make_config, read_params

    found = read_params(path)
    make_config("folder", path)
    return found


def same_yaml(folder, path, found):
    import yaml

    return repr(found) == repr({"report": {}, "config": {}} | yaml.safe_load(path.read_bytes().decode()))


def _short(value):
    "The same, of lists the first two things alone."
    if isinstance(value, dict):
        return {name: _short(within) for name, within in value.items()}
    return [_short(within) for within in value[:2]] if isinstance(value, list) else value


def make_record(folder):
    record = _short(json.loads((HERE / "data/record_0/run.json").read_text("utf-8")))
    record |= {part: dict(list(record[part].items())[:1]) for part in ("conditions", "ladders")}
    put(folder / "run.json", json.dumps(record).encode())
    return [folder / "run.json"]


def read_run(folder, path):
    from qcfer.run.record import read_record

    return read_record(path)


def same_json(folder, path, found):
    return repr(found) == repr(json.loads(path.read_bytes()))


def make_review(folder):
    lines = [{"key": f"k{n % 3}", "verdict": ("accept", "revert", "undo")[n % 3 if n < 6 else 0], "at": "2026-01-01"} for n in range(8)]
    put(folder / "review.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return [folder / "review.jsonl"]


def read_review(folder, path):
    from qcfer.frontalize.review import Journal, read_verdicts

    found = read_verdicts(path)
    with Journal(path) as journal:
        assert dict(zip(found["key"], found["verdict"])) == dict(journal.verdicts)
    return found


def same_review(folder, path, found):
    last = {}
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            event = json.loads(line.decode("utf-8-sig"))
        except ValueError:
            assert not line.endswith(b"\n")  # the last line, which was torn
            break
        last[event["key"]] = event["verdict"]
    return {key: verdict for key, verdict in last.items() if verdict != "undo"} == dict(zip(found["key"], found["verdict"]))


WHOSE = {"model": "m", "embedder": "e"}


def make_answers(folder):
    rows = [{"face": 0, "label": "fear", "fear": 0.5, "yaw": None, "left": 3}]
    lines = [WHOSE, *({"image": f"{n}.jpg", "stat": [n, n], "error": "" if n else "odd", "rows": rows if n else []} for n in range(5))]
    put(folder / "answers.part", b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return [folder / "answers.part"]


def read_answers(folder, path):
    from qcfer.recognize.predict import Journal, _frame

    journal = Journal(path, WHOSE)
    try:
        journal.knows(path)
        return _frame(list(journal.entries(list(journal.done))))
    finally:
        journal.close()


def make_job(folder):
    card = {"id": "a@1", "images_per_s": 2.5, "settings": {"views": [1, 2]}, "faces": 3}
    put(folder / "frontalizer.json", json.dumps(card).encode())
    return [folder / "frontalizer.json"]


def read_job(folder, path):
    from qcfer.frontalize.job import _rate

    rate = _rate(folder, None)
    return 1 / rate if rate else None


def make_model(folder):
    from qcfer.core.files import file_sha256
    from qcfer.recognize.newcomers import Models
    from qcfer.run.config import Config

    shutil.copy(HERE / "data/model_before_rooms.skops", folder / "ensemble.skops")
    spec = "timm:test_vit?random=0"
    card = {
        "schema": 1,
        "name": "folder-1",
        "classes": list(CLASSES),
        "embedder": {"spec": spec, "id": ""},
        "pose": {"spec": "none", "id": "none"},
        "condition": "raw",
        "frontalizer": {"id": "none", "settings": {}},
        "gate": None,
        "calibration": {"method": "m", "ece": 0.1},
        "framing": {},
        "limits": {"yaw": None, "side": 40.0, "dark": 20.0, "bright": 200.0, "sharpness": 1.0},
        "provenance": {"dataset": "folder", "counts": {"train": {"fear": 3}}},
        "metrics": {"test": {"accuracy": {"value": 0.5}}},
        "files": {"ensemble.skops": file_sha256(folder / "ensemble.skops")},
    }
    card["embedder"]["id"] = Models(Config("folder", pose="none", embedder=spec), None).embedder().id
    put(folder / "model.json", json.dumps(card).encode())
    return [folder / "model.json", folder / "ensemble.skops"]


def of_model(rng, data):
    return (of_zip() if data.startswith(b"PK") else of_json)(rng, data)


def read_model(folder, path):
    "What opens is a model; an ensemble is signed anew, as one would who writes both files."
    import qcfer
    from qcfer.core.files import file_sha256

    if path.name == "ensemble.skops":
        card = json.loads((folder / "model.json").read_text())
        card["files"] = {path.name: file_sha256(path)}
        (folder / "model.json").write_text(json.dumps(card))
    return qcfer.load(folder)


def make_skops(folder):
    shutil.copy(HERE / "data/model_before_rooms.skops", folder / "ensemble.skops")
    return [folder / "ensemble.skops"]


def read_skops(folder, path):
    from qcfer.classify.esv import load

    return load(path)


def make_pictures(folder):
    "The formats and their kinds."
    rng = np.random.default_rng(1)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((96, 72))
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "a\nb"
    kinds = {
        "a.jpg": (rgb, {"exif": turned, "icc_profile": b"x" * 200}),
        "b.jpg": (rgb.convert("L"), {"progressive": True}),
        "c.jpg": (rgb.convert("CMYK"), {}),
        "a.png": (rgb.convert("RGBA"), {"exif": turned}),
        "b.png": (rgb.convert("P"), {"transparency": 3}),
        "c.png": (Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)), {}),
        "a.webp": (rgb, {"exif": turned}),
        "b.webp": (rgb.convert("RGBA"), {"lossless": True}),
        "a.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "a.bmp": (rgb, {}),
        "b.bmp": (rgb.convert("P"), {}),
        "a.tif": (rgb, {"compression": "tiff_lzw"}),
        "b.tif": (rgb.convert("1"), {}),
        "c.tif": (rgb, {"compression": "tiff_adobe_deflate", "exif": turned}),
        "d.tif": (rgb, {"compression": "jpeg"}),
        "a.ppm": (rgb, {}),
        "e.tif": (rgb.convert("1"), {"compression": "group4"}),
        "f.tif": (rgb.convert("F"), {}),
        "g.tif": (rgb.convert("L").convert("I"), {}),
    }
    for name, (picture, settings) in kinds.items():
        picture.save(folder / name, **settings)
    return [folder / name for name in kinds]


def read_picture(folder, path):
    data = path.read_bytes()
    picture = decode_image(data)
    return picture, image_size(data)


def same_picture(folder, path, found):
    return found[0].mode == "RGB" and found[0].size == found[1]


def make_video(folder):
    import av

    for name, codec in (("a.mp4", "mpeg4"), ("a.mkv", "libx264"), ("a.avi", "mjpeg")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(6):
                container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), (number * 40, 99, 20)))))
            container.mux(stream.encode())
    return [folder / "a.mp4", folder / "a.mkv", folder / "a.avi"]


def read_video(folder, path):
    from qcfer.recognize.video import read_frames

    return sum(1 for _, _ in zip(read_frames(path, 0.1), range(200)))


def make_numbers(folder):
    arrays = {"mean": np.arange(12, dtype="f4").reshape(3, 4), "codes": np.asfortranarray(np.arange(6, dtype="i8").reshape(2, 3))}
    put(folder / "numbers.pkl", pickle.dumps(arrays, protocol=4))
    return [folder / "numbers.pkl"]


def make_checkpoint(zipped):
    def make(folder):
        import torch

        state = {"w": torch.arange(12.0).reshape(3, 4).T, "b": torch.arange(3).half(), "n": torch.tensor(5)}
        torch.save({"state_dict": state}, folder / "a.pth", _use_new_zipfile_serialization=zipped)
        return [folder / "a.pth"]

    return make


def same_checkpoint(folder, path, found):
    "The numbers are copied, so that what lies outside of the file would crash."
    return all(np.array(values).shape == values.shape for values in found.values())


def csv_lines(path):
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return list(csv.DictReader(file, skipinitialspace=True))


def same_faces(folder, path, found):
    rows = [{(name or "").strip(): text for name, text in row.items()} for row in csv_lines(path)]
    return len(rows) == len(found) and [row["label"].strip().lower() for row in rows if row["label"].strip().lower() in CLASSES] == [
        CLASSES[label] for label, row in zip(found["label"], rows) if row["label"].strip().lower() in CLASSES
    ]


def same_fer2013(folder, path, found):
    usages = [(row.get("Usage") or row.get(" Usage") or row.get("Usage ")) for row in csv_lines(path)]
    return len(usages) == len(found)


def same_lines(folder, path, found):
    "Every line that is not blank is a row."
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    return sum(bool(line.strip()) for line in text.split("\n")) == len(found)


def same_npy(folder, path, found):
    try:
        value = int(np.load(path, allow_pickle=False).item())
    except Exception:
        value = None
    name = path.name.removesuffix("_exp.npy")
    row = found[found["image"].str.startswith(f"{path.parent.parent.name}/") & found["image"].str.endswith(f"/{name}.jpg")].iloc[0]
    refused = row["reason"] in ("its label file holds no number", "its label file is missing")
    order = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
    return refused or (value is not None and (row["label"] == -1 if value > 6 else CLASSES[row["label"]] == order[value]))


def same_posebench(folder, path, found):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path).replace_schema_metadata(None).to_pandas()
    return table["image"].tolist() == found["image"].tolist() and table["label"].tolist() == found["label"].tolist()


PLAIN = (ValueError, OSError)
WEIGHTS = (WeightsError, OSError)
READERS = {
    "rafdb": Reader(make_rafdb, set_reader("rafdb"), same=same_lines),
    "affectnet-csv": Reader(make_affectnet_csv, set_reader("affectnet7")),
    "affectnet-npy": Reader(make_affectnet_npy, set_reader("affectnet7"), of_bytes, same=same_npy),
    "expw": Reader(make_expw, set_reader("expw"), same=same_lines),
    "fer2013-csv": Reader(make_fer2013, set_reader("fer2013"), same=same_fer2013),
    "fer2013-icml": Reader(make_icml, set_reader("fer2013"), same=same_fer2013),
    "ferplus": Reader(make_ferplus, set_reader("ferplus"), same=same_fer2013),
    "faces-csv": Reader(make_faces, set_reader("folder"), same=same_faces),
    "classes-txt": Reader(make_classes("txt", "".join(f"{n} {name}\n" for n, name in enumerate(CLASSES))), set_reader("folder")),
    "classes-json": Reader(
        make_classes("json", json.dumps({str(n): name for n, name in enumerate(CLASSES)})), set_reader("folder"), of_json
    ),
    "folder": Reader(make_names, read_tree("folder")),
    "posebench-parquet": Reader(make_posebench, set_reader("posebench"), of_parquet, same=same_posebench),
    "params-yaml": Reader(make_params, read_parameters, errors=PLAIN, same=same_yaml),
    "run-json": Reader(make_record, read_run, of_json, PLAIN, same_json),
    "review-journal": Reader(make_review, read_review, of_lines_of_json, PLAIN, same_review),
    "answers-journal": Reader(make_answers, read_answers, of_lines_of_json, PLAIN),
    "job-card": Reader(make_job, read_job, of_json, PLAIN),
    "pictures": Reader(make_pictures, read_picture, of_bytes, (ImageError,), same_picture, 20_000),
    "model": Reader(make_model, read_model, of_model, PLAIN, files=2_000),
    "skops": Reader(make_skops, read_skops, of_zip(), PLAIN, files=2_000),
    "video": Reader(make_video, read_video, of_bytes, PLAIN, files=2_000),
    "numbers-pickle": Reader(make_numbers, lambda folder, path: read_numbers(path), of_bytes, WEIGHTS, same_checkpoint),
    "checkpoint-zip": Reader(
        make_checkpoint(True), lambda folder, path: read_checkpoint(path, "state_dict"), of_zip(), WEIGHTS, same_checkpoint
    ),
    "checkpoint-row": Reader(
        make_checkpoint(False), lambda folder, path: read_checkpoint(path, "state_dict"), of_bytes, WEIGHTS, same_checkpoint
    ),
}

# --- the campaign


class Slow(BaseException):
    "A case took too long."


def _too_long(signal_number, frame):
    raise Slow


def _wait(seconds):
    "Have `Slow` raised after so much work of the processor, or ten times as long: other processes may be what holds a case up."
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def case(reader, folder, files, number, seed):
    "Mutate a file as a case's number says; (path, bytes)."
    rng = random.Random(f"{seed} {number}")
    path = rng.choice(list(files))
    return path, reader.mutate(rng, files[path])


def judge(reader, folder, path, whole):
    "'accepted', 'refused', or what is wrong."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _wait(SECONDS)
            found = reader.read(folder, path, True) if whole else reader.read(folder, path)
            _wait(0)
        except reader.errors as error:
            return _refusal(error)
        except (Exception, Slow) as error:
            return f"{type(error).__name__} {where(error)}"
        finally:
            _wait(0)
        try:
            return "accepted" if reader.same(folder, path, found) else "read otherwise than by a plain parser"
        except Exception as error:
            return f"accepted what a plain parser refuses: {type(error).__name__}"


def _refusal(error):
    text = str(error)
    if isinstance(error, OSError) or (text.isprintable() and (isinstance(error, ImageError) or text.startswith("expected"))):
        return "refused"
    return f"{type(error).__name__} not in one plain line {where(error)}"


def where(error):
    "The innermost line of the package."
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "/qcfer/" in frame.filename] or [None]
    return f"in {lines[-1].filename.rpartition('/qcfer/')[2]}, {lines[-1].name}" if lines[-1] else "in the program itself"


def memory():
    "The most that the process ever had, in bytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(name, start, count, seed, limit, tell):
    "Read cases in a process of their own; figures go through the pipe."
    reader = READERS[name]
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGPROF, _too_long)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"  # in a folder of its own, for a set is looked for in the one above, too
        folder.mkdir()
        files = {path: path.read_bytes() for path in reader.make(folder)}
        reader.read(folder, next(iter(files)))  # imports what it needs, which takes its time
        assert (before := judge(reader, folder, next(iter(files)), False)) == "accepted", f"the valid files of {name}: {before}"
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 progress bars and decoders talk
        os.dup2(sys.stderr.fileno(), 2)
        began = time.monotonic()
        held = memory()
        had = {path: path.read_bytes() for path in folder.rglob("*.json")} if name == "model" else {}
        resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + MEMORY, -1))
        is_set = reader.errors == (DatasetError, OSError)
        for number in range(start, count):
            path, data = case(reader, folder, files, number, seed)
            path.write_bytes(data)
            tick = time.process_time()
            told = judge(reader, folder, path, is_set and number % SAMPLE == 0)
            tell.send((number, told, time.process_time() - tick, memory() - held))
            for other, content in had.items():
                other.write_bytes(content)
            path.write_bytes(files[path])
            shutil.rmtree(folder / ".out", ignore_errors=True)
            if time.monotonic() - began > limit:
                break
    tell.send(None)


def campaign(name, count, seed=0, limit=1e9, keep=lambda figures: None):
    "Figures of one reader; `peak_bytes` is the most memory beyond what the process holds before its first case."
    figures = {"files": 0, "accepted": 0, "refused": 0, "faults": {}, "slowest_s": 0.0, "slowest_case": None, "peak_bytes": 0}
    until, kept = time.monotonic() + limit, time.monotonic()
    while figures["files"] < count and time.monotonic() < until:
        listen, tell = get_context("fork").Pipe(False)
        child = get_context("fork").Process(target=work, args=(name, figures["files"], count, seed, until - time.monotonic(), tell))
        child.start()
        tell.close()
        ended, start = False, figures["files"]
        try:
            while (news := listen.recv()) is not None:
                _count(figures, *news)
                if time.monotonic() - kept > 5:
                    kept = time.monotonic()
                    keep(figures)
            ended = True
        except EOFError:
            pass
        child.join()
        if ended:
            break
        if figures["files"] == start and child.exitcode == 1:
            raise RuntimeError(f"the valid files of {name} are not read")
        _count(figures, figures["files"], f"the process died: {child.exitcode}", 0.0, 0)
    keep(figures)
    return figures


def _count(figures, number, told, seconds, peak):
    figures["files"] = number + 1
    if told in ("accepted", "refused"):
        figures[told] += 1
    else:
        fault = figures["faults"].setdefault(told, {"n": 0, "case": number})
        fault["n"] += 1
    if seconds > figures["slowest_s"]:
        figures |= {"slowest_s": round(seconds, 4), "slowest_case": number}
    figures["peak_bytes"] = max(figures["peak_bytes"], peak)


def show(name, number, seed):
    "Read one case again and let its error through."
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"
        folder.mkdir()
        files = {path: path.read_bytes() for path in reader.make(folder)}
        path, data = case(reader, folder, files, number, seed)
        path.write_bytes(data)
        print(f"{path.name}: {data[:400]!r}{' ...' if len(data) > 400 else ''}")
        is_set = reader.errors == (DatasetError, OSError)
        found = reader.read(folder, path, True) if is_set and number % SAMPLE == 0 else reader.read(folder, path)
        print(found, reader.same(folder, path, found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(READERS), choices=list(READERS), metavar="READER", help=", ".join(READERS))
    parser.add_argument("--files", type=int, help="how many a reader; by default 100,000, fewer of what is slow to read")
    parser.add_argument("--seconds", type=float, default=1e9, help="a reader's time at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("reports/fuzz.json"), help="where the figures are written")
    parser.add_argument("--case", type=int, help="read one case again")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import qcfer.recognize.recognizer  # noqa: F401 once, before the forks

    if given.case is not None:
        return show(given.only[0], given.case, given.seed)
    given.to.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(given.to.read_text()) if given.to.exists() else {}

    def keep(name, figures):
        known[name] = {"seed": given.seed} | figures
        given.to.write_text(json.dumps(known, indent=1))

    for name in given.only:
        figures = campaign(name, given.files or READERS[name].files, given.seed, given.seconds, lambda now, name=name: keep(name, now))
        print(f"{name:20} {figures['files']:>8,} files, {figures['accepted']:,} accepted, {figures['refused']:,} refused,", end=" ")
        print(f"slowest {figures['slowest_s']:.2f} s, {figures['peak_bytes'] / 2**20:,.0f} MiB more")
        print(
            *(f"    {fault}: {told}" for fault, told in figures["faults"].items()),
            sep="\n",
            end="\n" if figures["faults"] else "",
            flush=True,
        )
    return int(any(known[name]["faults"] for name in given.only))


if __name__ == "__main__":
    sys.exit(main())
