"""What has a name is registered where it is made: a new one of each kind is added from here, outside the package, in one place."""
import json
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageFilter

from qcfer.core.registry import Registry
from qcfer.data.cartoons import draw_faces
from qcfer.run.config import Config, make_config
from qcfer.run.pipeline import make_run

@pytest.fixture
def room(tmp_path, monkeypatch):
    "A package of two modules, the second of which registers something."
    (tmp_path / "attic").mkdir()
    for name, text in {"__init__": "", "a": "", "b": "from attic_kinds import lamp\n\nlamp('candle', help='candle')(len)\n"}.items():
        (tmp_path / "attic" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("attic", "attic.a", "attic.b"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    lamp = Registry("lamp", "attic")
    monkeypatch.setitem(sys.modules, "attic_kinds", type("Kinds", (), {"lamp": lamp}))
    return tmp_path / "attic", lamp


def test_the_room_is_imported_when_a_name_is_asked_for_and_not_before(room):
    _, lamp = room
    assert "attic.b" not in sys.modules
    assert list(lamp) == ["candle"] and lamp.find("candle").thing is len
    assert "attic.b" in sys.modules


def test_a_room_that_fails_once_is_tried_again(room):
    folder, lamp = room
    (folder / "a.py").write_text("raise ImportError('no matches')\n")
    for _ in range(2):
        with pytest.raises(ImportError, match="no matches"):
            lamp.find("candle")
    (folder / "a.py").write_text("MATCHES = 'found again'\n")
    assert lamp.find("candle").name == "candle"


def test_a_name_is_registered_once():
    lamp = Registry("lamp")
    lamp("torch", help="torch")(len)
    with pytest.raises(ValueError, match="expected each lamp once; found 'torch' again, which test_registry has registered"):
        lamp("torch")(len)
    assert list(lamp) == ["torch"] and lamp["torch"].help == "torch"


@pytest.mark.parametrize("spec", ["", "torch:", "candle", "file", ":", "torch "])
def test_an_unknown_name_gets_the_known_ones(spec):
    lamp = Registry("lamp")
    lamp("torch", help="torch")(len)
    lamp("file:", help="file:PATH")(open)
    with pytest.raises(ValueError, match="expected a lamp: file:PATH; torch; found"):
        lamp.find(spec)
    assert lamp.find("file:a:b").name == "file:" and "file:a" not in lamp


def test_articles():
    with pytest.raises(ValueError, match="expected an embedder: ; found 'x'"):
        Registry("embedder").find("x")


@pytest.fixture
def forget():
    "Take back what a test registers."
    from qcfer.data.layouts import dataset
    from qcfer.embed.base import embedder
    from qcfer.frontalize.conditions import frontalizer

    before = [(registry, len(registry), dict(registry._entries)) for registry in (dataset, embedder, frontalizer)]
    yield
    for registry, _, entries in before:
        registry._entries.clear()
        registry._entries.update(entries)


def test_names_and_specs_are_found_and_others_are_answered_with_the_known_ones():
    shape = Registry("embedder")
    shape("plain", help="plain")(1)
    shape("file:", help="file:PATH")(2)
    assert (shape.find("plain").thing, shape.find("file:a:b").thing, list(shape)) == (1, 2, ["plain", "file:"])
    with pytest.raises(ValueError, match="^expected an embedder: file:PATH; plain; found 'plainer'$"):
        shape.find("plainer")


def test_a_second_registration_is_refused_and_says_who_has_the_name():
    from qcfer.frontalize.conditions import frontalizer

    with pytest.raises(ValueError, match="expected each frontalizer once; found 'geometric' again, which qcfer.frontalize.geometric"):
        frontalizer("geometric")(object)
    assert frontalizer["geometric"].thing.__module__ == "qcfer.frontalize.geometric"


def test_a_frontalizer_from_outside(forget, posebench_set, tmp_path):
    from qcfer.frontalize.conditions import frontalizer

    @frontalizer("blurred", help="blurred[?radius=2]")
    class Blurred:
        batch_size = 8

        def __init__(self, *, radius=2):
            self.id, self.radius = f"blurred {radius}", radius

        def frontalize(self, images, keys, poses, landmarks):
            return [image.filter(ImageFilter.GaussianBlur(self.radius)) for image in images]

    config = Config(
        "posebench",
        str(posebench_set),
        pose="annotation",
        conditions=["blurred?radius=3@paper", "blurred?radius=3+raw"],
        esv={"candidates": "LR"},
        ladders=[],
    )
    run = make_run(config, tmp_path)
    assert run.main == "blurred?radius=3@paper" and run.record["frontalizers"] == {"blurred?radius=3": "blurred 3"}
    assert run.record["conditions"]["blurred?radius=3@paper"]["gate"]["verdicts"]
    with pytest.raises(ValueError, match="expected settings of blurred out of radius; found width"):
        Config("posebench", frontalizers={"blurred": {"width": 3}})


def test_an_embedder_from_outside(forget, tmp_path):
    from qcfer.embed.base import Embedder, embedder
    from qcfer.embed.embedders import get_embedder

    @embedder("grey:", help="grey:SIDE")
    class Grey(Embedder):
        def __init__(self, spec, device):
            self.side = int(spec.partition(":")[2])
            self.id, self.dim = f"grey {self.side}", self.side**2

        def preprocess(self, image):
            return np.asarray(image.convert("L").resize((self.side, self.side)), np.float32).ravel() + 1

        def forward(self, batch):
            return batch / np.linalg.norm(batch, axis=1, keepdims=True)

    assert get_embedder("grey:4").embed([Image.new("RGB", (9, 9))]).shape == (1, 16)
    faces = draw_faces(tmp_path / "faces", per_class=6)
    run = make_run(Config("folder", str(faces), pose="none", embedder="grey:8", esv={"candidates": "LR"}, ladders=[]), tmp_path / "out")
    assert run.record["ids"]["embedder"] == "grey 8" and run.record["afp"]["n_components"] <= 64


def test_a_set_from_outside_with_its_own_defaults(forget, tmp_path):
    from qcfer.data.layouts import dataset

    own = {"pose": "none", "esv": {"candidates": "LR"}, "ladders": []}
    dataset("drawings", help="drawings", params=own)(dataset["folder"].thing)
    config = make_config("drawings", root=str(draw_faces(tmp_path / "faces", per_class=6)))
    assert (config.pose, config.esv) == ("none", {"candidates": "LR"})
    assert make_run(config, tmp_path / "out").path.parent.name == "drawings"


def test_a_page_from_outside(tmp_path):
    from qcfer.pages.publish import make_pages
    from qcfer.pages.site import build_site

    faces = draw_faces(tmp_path / "faces", per_class=6)
    run = make_run(Config("folder", str(faces), pose="none", esv={"candidates": "LR"}, ladders=[]), tmp_path / "out")
    template = nbformat.v4.new_notebook()
    template.metadata = {"kernelspec": {"name": "python3", "display_name": "python3"}, "qcfer": {"order": 1, "needs": "metrics"}}
    parameters = nbformat.v4.new_code_cell("report = {}\nconfig = {}", metadata={"tags": ["parameters"]})
    body = "from qcfer import open_run\n\nrun = open_run(**report)\nrun.record['config']['dataset']"
    template.cells = [nbformat.v4.new_markdown_cell("# Mine"), parameters, nbformat.v4.new_code_cell(body)]
    (tmp_path / "mine.ipynb").write_text(nbformat.writes(template))
    pages = make_pages(run, templates=[tmp_path / "mine.ipynb"])
    assert "mine" in [page.stem for page in pages]
    assert "'folder'" in json.dumps(nbformat.read(next(page for page in pages if page.stem == "mine"), 4))
    site = build_site(tmp_path / "out").parent
    assert "Mine" in next(site.rglob("mine.html")).read_text()


