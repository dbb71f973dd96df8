"""PoseBench: what its manifest says is what its pictures show, and a render survives what happens to long work."""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

import qcfer
from qcfer.core.labels import CLASSES
from qcfer.core.yaw import YAW_BINS, pose_to_matrix, yaw_bin
from qcfer.data.manifest import FaceImages, prepare
from qcfer.posebench.contact_sheet import TURNS, contact_pictures, contact_sheet, strip_pictures, turned_faces
from qcfer.posebench.facs import ACTION_UNITS, EXPRESSIONS, facial_actions, parse_facs
from qcfer.posebench.generate import MANIFEST, _claim, generate, settings
from qcfer.posebench.look import draw_look
from qcfer.posebench.mesh import load_anny, load_head, subject_heads
from qcfer.posebench.renderer import SIZE, Renderer, Scene, View, draw_scene, project

EYES = ("eyeBlink", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeLookDown", "eyeSquint")
TWO_SIDED = (*EYES, "browDown", "mouthSmile", "mouthFrown", "mouthPress", "mouthDimple")
NAMES = ("browInnerUp", "jawOpen", *(f"{name}{side}" for name in TWO_SIDED for side in ("Left", "Right")))


@pytest.fixture(scope="module")
def head_and_people():
    model = load_anny()
    head = load_head(model)
    return head, *subject_heads(model, head, 5, seed=0)


@pytest.fixture(scope="module")
def renderer(head_and_people):
    head, heads, people = head_and_people
    made, rng = Renderer(head), np.random.default_rng(0)
    made.dress(heads[1], draw_look(*people.iloc[1], rng), rng)
    made.express(np.zeros(52))
    return made


def test_every_variant_is_facs_that_the_model_can_do(head_and_people):
    names = {name.removesuffix("Left").removesuffix("Right") for name in head_and_people[0].action_names}
    assert {action for unit in ACTION_UNITS.values() for action in unit} <= names
    for label, codes in EXPRESSIONS.items():
        assert len(codes) >= (1 if label == "neutral" else 5)
        assert all(all(0 < value <= 1 for value in parse_facs(code).values()) for code in codes)


def test_facs_codes_by_hand():
    assert parse_facs("1A+1C") == {"browInnerUp": 0.6}
    assert parse_facs("6E") == {"cheekSquint": 1, "eyeSquint": 0.3}
    for bad in ("x", "3", "12F", "-4", "12 + 4"):
        with pytest.raises(ValueError, match="expected action units out of"):
            parse_facs(bad)


@given(st.sampled_from([code for codes in EXPRESSIONS.values() for code in codes]), st.floats(0, 1), st.integers(0, 2**31))
def test_actions_stay_in_range_and_repeat(code, intensity, seed):
    first, again = (facial_actions(code, intensity, NAMES, np.random.default_rng(seed)) for _ in range(2))
    assert ((first >= 0) & (first <= 1)).all()
    np.testing.assert_array_equal(first, again)


def test_a_face_at_rest_is_nearly_at_rest():
    drawn = np.stack([facial_actions("", 1.0, NAMES, np.random.default_rng(seed)) for seed in range(300)])
    calm = [i for i, name in enumerate(NAMES) if not name.startswith("eye")]
    assert drawn[:, calm].mean() < 0.04 and drawn[:, calm].max() < 0.3


def test_landmarks_are_where_the_picture_shows_them(renderer):
    "A green ball at a vertex is drawn by VTK; its middle in the pixels is where `project` says."
    import pyvista

    scene = draw_scene(np.random.default_rng(3))
    for pose in ((0, 0, 0), (35, 10, -8), (-70, -5, 5)):
        view = View(pose, (0.03, -0.02), 1.02)
        _, points = renderer.shoot(view, scene)
        for which in (30, 8, 17 if pose[0] > 0 else 26):  # nose, chin, the outer end of the nearer brow
            place = renderer._posed[renderer.head.landmarks[which]]
            ball = pyvista.Sphere(radius=0.004, center=place)
            ball = renderer._plotter.add_mesh(ball, color=(0.0, 1.0, 0.0), lighting=False, reset_camera=False)
            ball.user_matrix = renderer._actors["skin"].user_matrix
            shown = np.asarray(renderer.shoot(view, _sharp(scene))[0], float)
            renderer._plotter.remove_actor(ball, render=False)
            green = np.argwhere(shown[..., 1] > shown[..., [0, 2]].max(-1) + 60)
            assert len(green) > 5, (pose, which)
            np.testing.assert_allclose(green.mean(0)[::-1] + 0.5, points[which], atol=2)  # skin hides a part of the ball


def _sharp(scene):
    return Scene(**{**scene.__dict__, "blur": 0.0})


def test_projection_by_hand():
    # 10 cm to the right at the distance of the focus, half of the picture 20 cm wide: a quarter of the width from its middle
    np.testing.assert_allclose(project(np.array([0.1, 0.0, 0.0]), 1.0, 0.2), [168, 112])
    np.testing.assert_allclose(project(np.array([0.1, 0.1, 0.5]), 1.0, 0.2), [224, 0])


def test_a_mirrored_render_has_the_opposite_yaw(posebench_set):
    if not os.environ.get("QCFER_WEIGHTS"):
        pytest.skip("QCFER_WEIGHTS names no folder with 3DDFA-V2")
    from qcfer.face.tddfa import TDDFA

    manifest = pd.read_parquet(posebench_set / MANIFEST)
    turned = manifest[manifest["yaw"].abs().between(20, 55)].groupby("group").head(6)
    pictures = [Image.open(posebench_set / name).convert("RGB") for name in turned["image"]]
    poses, mirrored = (TDDFA().estimate(seen).angles for seen in (pictures, [ImageOps.mirror(picture) for picture in pictures]))
    errors = np.abs(poses[:, 0] - turned["yaw"])
    assert np.median(errors) < 4 and (np.sign(poses[:, 0]) == np.sign(turned["yaw"])).all()
    assert np.median(np.abs(mirrored[:, 0] + poses[:, 0])) < 4


def test_the_sign_of_yaw_is_the_projects(renderer):
    nose = renderer.head.vertices[renderer.head.landmarks[30]]
    assert (pose_to_matrix((40, 0, 0)) @ nose)[0] > nose[0] + 0.01
    scene = draw_scene(np.random.default_rng(0))
    right, left = (renderer.shoot(View((yaw, 0, 0)), scene)[1] for yaw in (40, -40))
    assert right[30, 0] > right[[36, 45], 0].mean() and left[30, 0] < left[[36, 45], 0].mean()


def test_the_manifest_survives_prepare(posebench_set, tmp_path):
    written = pd.read_parquet(posebench_set / MANIFEST)
    manifest, root = prepare("posebench", posebench_set, tmp_path)
    kept = ["image", "label", "split", "group", "yaw", "pitch", "roll", "frontal", "variant", "intensity", "action_jawOpen"]
    pd.testing.assert_frame_equal(manifest[kept], written[kept], check_dtype=False)
    np.testing.assert_array_equal(np.stack(manifest["landmarks"].to_list()), np.stack(written["landmarks"].to_list()))
    assert all(Image.open(root / name).size == (SIZE, SIZE) for name in manifest["frontal"].unique())
    views = FaceImages(manifest.assign(image=manifest["frontal"], sha256=manifest["frontal_sha256"]), root)
    assert views[0].size == (SIZE, SIZE)


def test_the_set_is_what_it_promises(posebench_set):
    manifest = pd.read_parquet(posebench_set / MANIFEST)
    assert len(manifest) == 8 * 7 * 4 and manifest["frontal"].nunique() == 8 * 7
    assert manifest.groupby("group")["split"].nunique().max() == 1
    for _, faces in manifest[manifest["split"] != "train"].groupby(["group", "label"]):
        assert sorted(yaw_bin(faces["yaw"])) == sorted(YAW_BINS)
        assert faces["frontal"].nunique() == 1
    assert manifest["yaw"].abs().max() <= 90 and manifest["intensity"].between(0.5, 1).all()
    actions = manifest.filter(like="action_")
    assert actions.shape[1] == 52 and actions.min(axis=None) >= 0 and actions.max(axis=None) <= 1
    points = np.stack(manifest["frontal_landmarks"].to_list()).reshape(-1, 68, 2)
    assert ((points > 0) & (points < SIZE)).mean() > 0.98
    assert (points[:, 45, 0] > points[:, 36, 0] + 40).all() and (points[:, 8, 1] > points[:, 30, 1] + 25).all()
    assert {label for label in manifest["label"]} == set(range(len(CLASSES)))


def test_a_killed_render_goes_on_and_ends_with_the_same_bytes(posebench_set, tmp_path):
    folder = tmp_path / "set"
    code = f"from qcfer.posebench.generate import generate\nif __name__ == '__main__': generate({str(folder)!r}, subjects=8, seed=3)"
    (tmp_path / "render.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "render.py"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(folder.glob("s*/SHA256SUMS")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert workers and not psutil.wait_procs(workers, timeout=30)[1]  # a killed parent leaves nobody behind
    done = {path: path.stat().st_mtime_ns for path in folder.glob("s*/SHA256SUMS")}
    for left in folder.rglob(".*.tmp"):
        os.utime(left, (0, 0))
    assert not (folder / MANIFEST).exists() and 0 < len(done) < 8
    generate(folder, subjects=8, seed=3)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    ours, theirs = (pd.read_parquet(path / MANIFEST) for path in (folder, posebench_set))
    pd.testing.assert_frame_equal(ours, theirs)
    assert all((folder / name).read_bytes() == (posebench_set / name).read_bytes() for name in theirs["image"])
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def test_what_a_disk_has_changed_is_named_and_rendered_again(posebench_set, tmp_path):
    folder = shutil.copytree(posebench_set, tmp_path / "set")
    spoilt = [folder / name for name in ("s003/fear-1.jpg", "s004/faces.parquet", "s005/anger-frontal.jpg", "heads.npz", MANIFEST)]
    for path in spoilt:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
    with pytest.raises(ValueError, match=r"as it was rendered; found 4 files changed, such as .*posebench.parquet: render it again"):
        prepare("posebench", folder, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("s00[012]/*")}
    generate(folder, subjects=8, seed=3)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert all((folder / path.relative_to(posebench_set)).read_bytes() == path.read_bytes() for path in posebench_set.glob("s*/*"))
    pd.testing.assert_frame_equal(pd.read_parquet(folder / MANIFEST), pd.read_parquet(posebench_set / MANIFEST))
    assert prepare("posebench", folder, tmp_path)[0]["sha256"].tolist() == pd.read_parquet(posebench_set / MANIFEST)["sha256"].tolist()


def test_a_kill_before_the_first_file_does_not_spoil_the_folder(tmp_path):
    (tmp_path / ".posebench.json.0123.tmp").touch()
    _claim(tmp_path, settings(8, 3))
    assert json.loads((tmp_path / "posebench.json").read_text()) == settings(8, 3)


def test_a_whole_set_is_left_as_it_is(posebench_set):
    before = {path: path.stat().st_mtime_ns for path in posebench_set.rglob("*")}
    assert generate(posebench_set, subjects=8, seed=3) == posebench_set
    assert {path: path.stat().st_mtime_ns for path in posebench_set.rglob("*")} == before


def test_other_folders_are_left_alone(posebench_set, tmp_path):
    with pytest.raises(ValueError, match="found seed 3"):
        generate(posebench_set, subjects=8, seed=4)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="found other files"):
        generate(tmp_path, subjects=8)
    with pytest.raises(ValueError, match="5 to 999 subjects"):
        generate(tmp_path / "new", subjects=2)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    def version(name, found=metadata.version):
        if name == "anny":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ImportError, match="found no anny: pip install 'qcfer.posebench.'"):
        generate(tmp_path / "set")


def test_subjects_are_apart_and_human(head_and_people):
    head, heads, people = head_and_people
    assert heads.shape == (5, len(head.vertices), 3) and people["age"].between(0.64, 1).all()
    apart = np.linalg.norm(heads[:, None] - heads[None], axis=-1).max(-1)[np.triu_indices(5, 1)]
    assert (apart > 0.004).all()  # nobody is a copy, by 4 mm somewhere
    eyes = np.linalg.norm(heads[:, head.landmarks[36]] - heads[:, head.landmarks[45]], axis=-1)
    assert ((eyes > 0.075) & (eyes < 0.105)).all()  # adults' outer canthal distance, with room


def test_settings_are_written_beside_the_pictures(posebench_set):
    note = json.loads((posebench_set / "posebench.json").read_text())
    assert note == settings(8, 3)
    assert Path(posebench_set / "strip" / "+00.jpg").is_file() and len(strip_pictures(posebench_set)) == 13


def test_only_what_changes_a_picture_changes_the_settings(tmp_path, monkeypatch):
    "A comment, a chapter's name and the contact sheet render nothing anew; a number in the look does."
    shutil.copytree(Path(qcfer.__file__).parent, tmp_path / "qcfer", ignore=shutil.ignore_patterns("__pycache__"))
    room, before = tmp_path / "qcfer" / "posebench", settings()
    monkeypatch.setattr(qcfer, "__file__", str(tmp_path / "qcfer" / "__init__.py"))

    def edit(name, old, new):
        text = (room / name).read_text()
        assert old in text
        (room / name).write_text(text.replace(old, new))

    assert settings() == before
    edit("contact_sheet.py", "side: int = 128", "side: int = 256")
    edit("renderer.py", "23_renderer.ipynb", "29_camera.ipynb")
    edit("look.py", "import numpy as np", "import numpy as np  # arrays")
    edit("mesh.py", '"The head with its facial actions applied."', '"Apply facial actions."')
    assert settings() == before
    edit("look.py", "np.radians(80)", "np.radians(81)")
    assert settings()["source"] != before["source"]


def test_rendering_without_a_screen_prints_nothing(posebench_set):
    code = f"""
from dataclasses import fields
import numpy as np
from qcfer.posebench.mesh import Head
from qcfer.posebench.renderer import Renderer
with np.load({str(posebench_set / "heads.npz")!r}) as stored:
    renderer = Renderer(Head(**{{field.name: stored[field.name] for field in fields(Head)}}))
print(type(renderer).__name__)
"""
    without = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "VTK_DEFAULT_OPENGL_WINDOW")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=without)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Renderer\n", "")


def test_what_vtk_has_to_say_is_still_heard():
    code = "from qcfer.posebench.renderer import draw_without_a_screen as quiet; quiet(); import vtk; vtk.vtkXMLImageDataReader().Update()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ERR| vtkXMLImageDataReader" in done.stderr


def test_each_turn_has_its_strongest_face(posebench_set):
    manifest = pd.read_parquet(posebench_set / MANIFEST)
    found = turned_faces(manifest)
    assert found.shape == (7, 4) and (found >= 0).any()
    for (label, turn), row in np.ndenumerate(found):
        near = manifest[(manifest["split"] == "test") & (manifest["label"] == label) & ((manifest["yaw"].abs() - TURNS[turn]).abs() <= 4)]
        assert (row == -1) if near.empty else (row in near.index and manifest["intensity"][row] == near["intensity"].max())


def test_the_contact_sheet_is_its_pictures_in_rows(posebench_set):
    manifest = pd.read_parquet(posebench_set / MANIFEST)
    rows = contact_pictures(manifest, posebench_set)
    assert [len(row) for row in rows] == [7] * 8 and all(picture.size == (SIZE, SIZE) for row in rows for picture in row)
    sheet = contact_sheet(manifest, posebench_set, side=64)
    assert sheet.size == (7 * 68 - 4, 8 * 68 - 4)
    third = np.asarray(rows[5][2].resize((64, 64), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(np.asarray(sheet)[5 * 68 : 5 * 68 + 64, 2 * 68 : 2 * 68 + 64], third)
    assert (np.asarray(sheet)[64:68] == 255).all()


def test_people_are_drawn_again_as_they_were_rendered(posebench_set):
    "The set's own notes of its heads say what the seeds must give again, and the look's first draw is the tone."
    from qcfer.posebench.look import MONK_SCALE, draw_look
    from qcfer.posebench.people import people_of

    with np.load(posebench_set / "heads.npz", allow_pickle=False) as stored:
        rendered = stored["people"]
    people = people_of([f"s{number:03d}" for number in range(8)], seed=3)
    np.testing.assert_allclose(people[["gender", "age"]], rendered)
    for number, (person, (gender, age)) in enumerate(zip(people.itertuples(), rendered)):
        skin = draw_look(gender, age, np.random.default_rng([3, number, 1])).skin / [1, 0.9, 0.82]
        tone = MONK_SCALE[person.tone - 1]
        np.testing.assert_allclose(skin, [int(tone[at : at + 2], 16) / 255 for at in (1, 3, 5)])
