"""Registries: a thing is known by its name, once, wherever it is defined."""

import sys

import pytest

from qcfer.core.registry import Registry


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
    with pytest.raises(ValueError, match="expected each lamp once; found 'torch' again, which builtins has registered"):
        lamp("torch")(len)
    assert list(lamp) == ["torch"] and lamp["torch"].help == "torch"


@pytest.mark.parametrize("spec", ["", "torch:", "candle", "file", ":", "torch "])
def test_an_unknown_name_gets_the_known_ones(spec):
    lamp = Registry("lamp")
    lamp("torch", help="torch")(len)
    lamp("file:", help="file:PATH")(open)
    with pytest.raises(ValueError, match="expected a lamp: torch; file:PATH; found"):
        lamp.find(spec)
    assert lamp.find("file:a:b").name == "file:" and "file:a" not in lamp


def test_articles():
    with pytest.raises(ValueError, match="expected an embedder: ; found 'x'"):
        Registry("embedder").find("x")
