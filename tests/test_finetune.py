"""The end-to-end baseline: it learns drawings, stops by val alone, and goes on after a kill as if nothing had happened."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.files import WeightsError
from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_face
from qcfer.embed import finetune as module
from qcfer.embed.embedders import get_embedder
from qcfer.embed.finetune import FineTuned, augment, class_weights, finetune

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm", reason="qcfer[clip] is not installed")

NAMES = ["happiness", "sadness", "surprise"]
TINY = {"model": "timm:test_efficientnet?random=0", "size": 32, "batch_size": 8, "learning_rate": 3e-3, "epochs": 3}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "The networks are too small to be shared, and sums must come in one order."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def faces(seeds, size=48):
    "Drawn faces of three expressions and their labels."
    drawn = [draw_face(name, seed=seed, size=size) for seed in seeds for name in NAMES]
    return drawn, np.array([CLASSES.index(name) for _ in seeds for name in NAMES])


@pytest.fixture(scope="module")
def sets(one_thread):
    return *faces(range(7)), *faces(range(50, 54))


@pytest.fixture(scope="module")
def trained(sets):
    return FineTuned(**TINY).fit(*sets)


# It learns


def test_it_learns_drawn_faces_that_it_has_not_seen():
    settings = TINY | {"size": 64, "epochs": 10, "batch_size": 16}
    model = FineTuned(**settings).fit(*faces(range(70), 64), *faces(range(100, 110), 64))
    images, labels = faces(range(200, 230), 64)
    assert (model.predict(images) == labels).mean() > 0.55  # 0.33 by chance
    assert model.history_[-1]["loss"] < 0.8 * model.history_[0]["loss"]
    probabilities = model.predict_proba(images)
    assert probabilities.shape == (90, 7) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_network_and_another_seed_another(sets, trained):
    before = torch.get_rng_state()
    again = FineTuned(**TINY).fit(*sets)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(again.predict_proba(sets[2]), trained.predict_proba(sets[2]))
    other = FineTuned(**TINY, seed=1).fit(*sets)
    assert (other.predict_proba(sets[2]) != trained.predict_proba(sets[2])).any()


def test_probabilities_do_not_depend_on_the_batch(sets, trained):
    images = sets[2][:5]
    alone = np.concatenate([trained.predict_proba([image]) for image in images])
    np.testing.assert_allclose(alone, trained.predict_proba(images), atol=1e-5)
    assert trained.predict_proba([]).shape == (0, 7)
    np.testing.assert_array_equal(trained.predict(images), alone.argmax(1))


# When it stops


def test_training_stops_when_val_has_not_improved_and_keeps_the_best_weights(sets):
    images, labels, val, val_labels = sets
    model = FineTuned(**TINY | {"epochs": 30, "learning_rate": 0.05}, patience=2).fit(images, labels, val, np.roll(val_labels, 1))
    losses = [row["val_loss"] for row in model.history_]
    assert len(losses) == model.best_epoch_ + 3 < 30 and model.best_epoch_ == int(np.argmin(losses))
    probabilities = model.predict_proba(val)
    loss = torch.nn.functional.nll_loss(
        torch.from_numpy(probabilities).log(), torch.from_numpy(np.roll(val_labels, 1)), torch.from_numpy(class_weights(labels))
    )
    assert float(loss) == pytest.approx(min(losses), rel=1e-4)


def test_val_faces_choose_the_epoch_and_change_no_weight(sets):
    images, labels, val, val_labels = sets
    models = [FineTuned(**TINY, patience=99).fit(images, labels, val, truth) for truth in (val_labels, val_labels[::-1])]
    assert [row["loss"] for row in models[0].history_] == [row["loss"] for row in models[1].history_]


# The recipe


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_class_weights_are_scikit_learns_balanced_ones(labels):
    from sklearn.utils.class_weight import compute_class_weight

    present = np.unique(labels)
    expected = np.zeros(7)
    expected[present] = compute_class_weight("balanced", classes=present, y=labels)
    np.testing.assert_allclose(class_weights(labels), expected, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_augmenting_keeps_shape_and_range_and_leaves_an_even_picture_even(seed, grey):
    even = torch.full((3, 3, 20, 24), grey)
    found = augment(even, torch.Generator().manual_seed(seed))
    assert found.shape == even.shape and 0 <= found.min() and found.max() <= 1
    assert float((found.amax((1, 2, 3)) - found.amin((1, 2, 3))).max()) < 1e-5
    assert (found[:, 0, 0, 0] - grey).abs().max() <= 0.2 + 1e-5


def test_augmenting_mirrors_half_of_the_pictures_and_moves_none_far():
    picture = torch.zeros(400, 3, 64, 64)
    picture[:, :, 28:36, 6:14] = 1  # a spot on the left
    found = augment(picture, torch.Generator().manual_seed(0)).mean(1)
    weight = (found - found.amin((1, 2), keepdim=True)) ** 2
    across = (weight.sum(1) * torch.arange(64)).sum(1) / weight.sum((1, 2))
    down = (weight.sum(2) * torch.arange(64)).sum(1) / weight.sum((1, 2))
    left = across < 32
    assert 160 < int(left.sum()) < 240
    assert (down - 32).abs().max() < 12
    reach = torch.where(left, across, 63 - across)
    assert 2 < reach.min() and reach.max() < 18


def test_the_rate_rises_and_then_falls_to_nothing():
    rates = [module._rate(step, 200) for step in range(200)]
    assert np.argmax(rates) == 9 and max(rates) <= 1 and (np.diff(rates[:10]) > 0).all() and (np.diff(rates[9:]) < 0).all()
    assert rates[-1] < 1e-3 and module._rate(0, 1) > 0


def test_each_epoch_has_an_order_of_its_own_and_the_rate_follows_the_whole_training(sets, monkeypatch):
    step, seen = module._Training._step, []

    def record(self, pixels, truth, rate):
        seen.append((truth.tolist(), rate, pixels.mean().item()))
        return step(self, pixels, truth, rate)

    monkeypatch.setattr(module._Training, "_step", record)
    FineTuned(**TINY).fit(*sets)  # 21 faces, 8 a step
    epochs = [seen[start : start + 3] for start in (0, 3, 6)]
    assert [rate for _, rate, _ in seen] == [module._rate(number, 9) for number in range(9)]
    orders = [[label for truth, _, _ in epoch for label in truth] for epoch in epochs]
    assert all(sorted(order) == sorted(sets[1]) for order in orders)
    assert len({tuple(order) for order in orders}) == 3 and len({light for *_, light in seen}) == 9


def test_the_loss_is_the_weighted_cross_entropy_and_a_lone_face_is_left_for_the_next_epoch(sets, monkeypatch):
    images, labels = faces(range(6))
    labels = np.where(labels == 6, 5, labels)[:17]  # one class twice as often as the other
    logits, losses, truths = [], [], []
    through, step = module._Training._logits, module._Training._step
    monkeypatch.setattr(module._Training, "_logits", lambda self, pixels: logits.append(through(self, pixels)) or logits[-1])

    def record(self, pixels, truth, rate):
        truths.append(truth)
        losses.append(step(self, pixels, truth, rate))
        return losses[-1]

    monkeypatch.setattr(module._Training, "_step", record)
    model = FineTuned(**TINY | {"epochs": 1}).fit(images[:17], labels, *sets[2:])
    assert [len(truth) for truth in truths] == [8, 8]
    weights = torch.tensor(class_weights(labels))
    expected = [float(torch.nn.functional.cross_entropy(row.detach(), truth, weights)) for row, truth in zip(logits, truths)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert model.history_[0]["loss"] == pytest.approx(np.mean(losses))
    assert weights[5] < weights[3]


# A kill, and what is read afterwards


class Killed(BaseException):
    pass


def test_a_killed_training_goes_on_where_it_was(sets, trained, tmp_path, monkeypatch):
    judge = module._Training.judge

    def kill(self, *told):
        if len(self.history) == 2:
            raise Killed
        judge(self, *told)

    with monkeypatch.context() as patch:
        patch.setattr(module._Training, "judge", kill)
        with pytest.raises(Killed):
            FineTuned(**TINY).fit(*sets, folder=tmp_path)
    epochs = []
    epoch = module._Training.epoch
    monkeypatch.setattr(module._Training, "epoch", lambda self, *faces: epochs.append(len(self.history)) or epoch(self, *faces))
    model = FineTuned(**TINY).fit(*sets, folder=tmp_path)
    assert epochs == [2] and model.history_ == trained.history_
    np.testing.assert_array_equal(model.predict_proba(sets[2]), trained.predict_proba(sets[2]))
    again = FineTuned(**TINY).fit(*sets, folder=tmp_path)
    assert epochs == [2] and again.best_epoch_ == model.best_epoch_
    np.testing.assert_array_equal(again.predict_proba(sets[2]), trained.predict_proba(sets[2]))


def test_other_faces_labels_and_settings_have_a_checkpoint_of_their_own(sets, tmp_path):
    images, labels, val, val_labels = sets
    for change in (TINY, TINY | {"seed": 1}, TINY | {"model": "timm:test_efficientnet?random=1"}):
        FineTuned(**change | {"epochs": 1}).fit(*sets, folder=tmp_path)
    FineTuned(**TINY | {"epochs": 1}).fit(images, np.roll(labels, 1), val, val_labels, folder=tmp_path)
    FineTuned(**TINY | {"epochs": 1}).fit(images[::-1], labels, val, val_labels, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_spoilt_or_hostile_checkpoint_gives_one_line(sets, tmp_path):
    settings = TINY | {"epochs": 1}
    FineTuned(**settings).fit(*sets, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    for data in (path.read_bytes()[:1000], b"", pickle.dumps(Payload(tmp_path / "trace"), protocol=2)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="expected a checkpoint in .*: delete it") as caught:
            FineTuned(**settings).fit(*sets, folder=tmp_path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


# A whole set


def manifest_of(images, labels):
    split = np.resize(["train", "train", "train", "val", "test"], len(labels))
    return pd.DataFrame({"image": [f"{row}.png" for row in range(len(labels))], "label": labels, "split": split})


def test_test_faces_and_copies_of_them_have_no_part_in_training():
    images, labels = faces(range(10))
    manifest = manifest_of(images, labels).assign(duplicate=False)
    manifest.loc[0, "duplicate"] = True
    rows, _model = finetune(images, manifest, **TINY)
    assert sorted(rows["split"].unique()) == ["test", "val"] and len(rows) == 12
    np.testing.assert_array_equal(rows["predicted"], rows[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1))
    np.testing.assert_array_equal(rows["image"], [*manifest.query("split == 'val'")["image"], *manifest.query("split == 'test'")["image"]])
    spoilt = manifest.copy()
    leaks = (manifest["split"] == "test") | manifest["duplicate"]
    spoilt.loc[leaks, "label"] = 0
    again, _ = finetune([Image.new("RGB", (48, 48), "red"), *images[1:]], spoilt, **TINY)  # the first one is the copy
    pd.testing.assert_frame_equal(again.drop(columns="label"), rows.drop(columns="label"))


def test_the_saved_network_serves_as_an_embedder(sets, trained, tmp_path):
    trained.save(tmp_path / "own.safetensors")
    embedder = get_embedder(f"timm:test_efficientnet@{tmp_path}/own.safetensors")
    assert embedder.embed(sets[2][:3]).shape == (3, embedder.dim)
    own, body = trained.network_.state_dict(), embedder.network.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in body.items()) and len(own) > len(body)


# Faults


@pytest.mark.parametrize("labels", [[0, 1, 7], [0, 1], [0.0, 1.0, 2.0], [-1, 0, 1], ["a", "b", "c"], [[0], [1], [2]]])
def test_labels_that_do_not_fit(labels):
    images = [draw_face("anger", size=32)] * 3
    with pytest.raises(ValueError, match="expected a label 0..6 for each of two or more pictures; found 3 pictures and"):
        FineTuned(**TINY).fit(images, labels, images, [0, 1, 2])


def test_no_train_or_no_val_faces():
    images, labels = faces(range(2))
    with pytest.raises(ValueError, match="expected train and val faces; found 6 and 0"):
        finetune(images, manifest_of(images, labels).assign(split="train"), **TINY)


def test_a_device_or_weights_that_are_not_there(sets, monkeypatch):
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="expected the device cpu, or cuda where there is one; found 'cuda'"):
            FineTuned(**TINY, device="cuda").fit(*sets)
    with pytest.raises(WeightsError, match="absent.pt"):
        FineTuned("timm:resnet50@absent.pt").fit(*sets)
    with pytest.raises(ValueError, match="timm.list_models"):
        FineTuned("timm:resnet51").fit(*sets)
