"""Trees with the names, separators and quirks of the official sets, and none of their pictures.

`python tests/official_trees.py SET FOLDER` writes one of the size of the real set, with tiny pictures.
"""

import io
import itertools
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from qcfer.data.cartoons import draw_face

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
# The codes as the sets' own documentation gives them, written out again so that a slip in the package shows.
RAFDB = {"surprise": 1, "fear": 2, "disgust": 3, "happiness": 4, "sadness": 5, "anger": 6, "neutral": 7}
AFFECTNET = {"neutral": 0, "happiness": 1, "sadness": 2, "surprise": 3, "fear": 4, "disgust": 5, "anger": 6}
EXPW = {"anger": 0, "disgust": 1, "fear": 2, "happiness": 3, "sadness": 4, "surprise": 5, "neutral": 6}
FERPLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


class Tiny:
    "A picture of 8 x 8 pixels whose bytes are unlike any other's: a comment holds a number."

    def __init__(self, size=8):
        self.size, self.numbers, self.data = size, itertools.count(), jpeg(Image.new("RGB", (size, size), (90, 120, 60)))

    def __call__(self, label):
        return self.data[:2] + b"\xff\xfe\0\x0a" + next(self.numbers).to_bytes(8, "big") + self.data[2:]


class Drawn:
    "A drawn face of the label, each a little different."

    def __init__(self, size=48):
        self.size, self.numbers = size, itertools.count()

    def __call__(self, label):
        number = next(self.numbers)
        return jpeg(draw_face(label if label in CLASSES else "neutral", yaw=number * 37 % 121 - 60, seed=number, size=self.size))


def put(path, data):
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        path.write_bytes(data)


def labels(counts, seed):
    "Class names in the order of a label file: mixed."
    names = [name for name, count in counts.items() for _ in range(count)]
    random.Random(seed).shuffle(names)
    return names


def rafdb(root, train, test, picture, codes=RAFDB, aligned=True, listing="list_patition_label.txt"):
    "RAF-DB basic; `train` and `test` are {class: faces}."
    lines = []
    for split, counts, digits in (("train", train, 5), ("test", test, 4)):
        for number, name in enumerate(labels(counts, 1), 1):
            stem = f"{split}_{number:0{digits}d}"
            lines.append(f"{stem}.jpg {codes[name]}")
            put(root / "Image" / ("aligned" if aligned else "original") / (stem + ("_aligned.jpg" if aligned else ".jpg")), picture(name))
    put(root / "EmoLabel" / listing, ("\n".join(lines) + "\n").encode())
    return root


OTHERS = {"contempt": 7, "none": 8, "uncertain": 9, "no-face": 10}
HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"


def affectnet_csv(root, train, val, picture, codes=AFFECTNET, lists="Manually_Annotated_file_lists", headless=True):
    "AffectNet's CSV release. Names are hashes in numbered folders; some end in upper case; no-face rows say NULL."
    codes, points = codes | OTHERS, ";".join(["12.34"] * 136)
    for split, counts in (("training", train), ("validation", val)):
        lines = [] if headless and split == "validation" else [HEADER]
        for number, name in enumerate(labels(counts, 2)):
            file = f"{number % 500 + 1}/{split[0]}{number * 7919:055x}.{('jpg', 'JPG', 'jpeg')[number % 3]}"
            box = "NULL,NULL,-1,-1,NULL" if name == "no-face" else f"1,1,{picture.size - 2},{picture.size - 2},{points}"
            lines.append(f"{file},{box},{codes[name]},-0.25,0.5")
            if name in CLASSES:
                put(root / "Manually_Annotated_Images" / file, picture(name))
        put(root / lists / f"{split}.csv", ("\n".join(lines) + "\n").encode())
    return root


def affectnet_npy(root, train, val, picture, codes=AFFECTNET, valid="val_set"):
    "AffectNet's npy release; labels are numeric texts, as they were handed out, or numbers."
    codes = codes | OTHERS
    for split, counts in (("train_set", train), (valid, val)):
        for number, name in enumerate(labels(counts, 3)):
            put(root / split / "images" / f"{number}.jpg", picture(name))
            for part, value in (("exp", str(codes[name])), ("val", "-0.25"), ("aro", 0.5)):
                file = io.BytesIO()
                np.save(file, np.array(codes[name] if part == "exp" and number % 2 else value))
                put(root / split / "annotations" / f"{number}_{part}.npy", file.getvalue())
    return root


def expw(root, counts, picture, codes=EXPW, images="image/origin"):
    "ExpW: every fourth picture has two or three faces; the box is the whole picture but a pixel a side."
    lines, names, picture_number = [], labels(counts, 4), 0
    while names:
        faces = [names.pop() for _ in range(min(len(names), 1 if picture_number % 4 else 2 + picture_number % 8 // 4))]
        file = f"{('happy', 'angry', 'awe')[picture_number % 3]}_actor_{picture_number}.jpg"
        put(root / images / file, picture(faces[0]))
        for number, name in enumerate(faces):
            side = picture.size - 1
            lines.append(f"{file} {number} {1 + number} 1 {side} {side} {60 + number}.5 {codes[name]}")
        picture_number += 1
    put(root / "label" / "label.lst", ("\n".join(lines) + "\n").encode())
    return root


def ferplus(root, counts, columns=FERPLUS):
    "FER+: {usage: {class or 'blank': rows}}; eight of ten votes for the class, two for another."
    pixels, votes = ["emotion,pixels,Usage"], ["Usage,Image name," + ",".join(columns)]
    rng, number = np.random.default_rng(5), 0
    for usage, of_usage in counts.items():
        for name in labels(of_usage, 5):
            grey = rng.integers(0, 256, 48 * 48)
            if name in CLASSES:
                grey = np.asarray(draw_face(name, seed=number, size=48).convert("L")).ravel()
            pixels.append(f"0,{' '.join(map(str, grey))},{usage}")
            given = dict.fromkeys(FERPLUS, 0) | {"happiness" if name == "neutral" else "neutral": 2}
            given |= {"unknown" if name == "blank" else name: 8}
            image = "" if name == "blank" else f"fer{number:07d}.png"
            votes.append(f"{usage},{image}," + ",".join(str(given[column]) for column in FERPLUS))
            number += 1
    put(root / "fer2013.csv", ("\n".join(pixels) + "\n").encode())
    put(root / "fer2013new.csv", ("\n".join(votes) + "\n").encode())
    return root


def each(text):
    "Seven numbers, or eleven with contempt, none, uncertain and no-face, in the order of CLASSES."
    return dict(zip((*CLASSES, *OTHERS), map(int, text.split())))


FULL = {
    "rafdb": lambda root: rafdb(root, each("705 717 281 4772 2524 1982 1290"), each("162 160 74 1185 680 478 329"), Tiny()),
    "affectnet7": lambda root: affectnet_csv(
        root,
        each("24882 3803 6378 134415 74874 25459 14090 3750 33088 11645 82414"),
        each("500 500 500 500 500 500 500 499 500 500 500"),
        Tiny(),
    ),
    "affectnet7-npy": lambda root: affectnet_npy(
        root, each("24882 3803 6378 134415 74874 25459 14090 3750"), each("500 500 500 500 500 500 500 499"), Tiny()
    ),
    "expw": lambda root: expw(root, each("3671 3995 1088 30537 34883 10559 7060"), Tiny()),
}

if __name__ == "__main__":
    FULL[sys.argv[1]](Path(sys.argv[2]))
