"""The Qwen backend, whole, with models of random weights: what they paint is noise, and no frontalization."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.files import WeightsError, file_sha256
from qcfer.data.manifest import FaceImages
from qcfer.frontalize import qwen
from qcfer.frontalize.conditions import get_frontalizer, prompt_conditions, show
from qcfer.frontalize.job import frontalize_faces
from qcfer.frontalize.prompt import get_prompt
from qcfer.frontalize.qwen import PRESETS, Preset, Qwen
from qcfer.run.thumbnails import side_by_side

TRIAL = Preset(batch_size=3, steps=2, dtype="float32")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Both kinds of model, 1 MB each; the pipelines' megapixel is 64 x 64 pixels while the module runs."""
    pytest.importorskip("diffusers", reason="qcfer[qwen] is not installed")
    import diffusers
    import torch
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    threads = torch.get_num_threads()
    folder, dimensions = tmp_path_factory.mktemp("models"), edit.calculate_dimensions
    diffusers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the parts are too small to be shared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit, "calculate_dimensions", lambda area, ratio: dimensions(area / 256, ratio))
        patch.setattr(plus, "VAE_IMAGE_SIZE", 64 * 64)
        patch.setattr(plus, "CONDITION_IMAGE_SIZE", 64 * 64)
        patch.setattr(qwen, "_SIDE", 64)
        patch.setenv("QCFER_OFFLINE", "1")
        yield {"edit": qwen.tiny_model(folder / "edit"), "plus": qwen.tiny_model(folder / "plus", plus=True)}
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def edit(models):
    return Qwen(str(models["edit"]), preset=TRIAL, device="cpu")


@pytest.fixture(scope="module")
def plus(models):
    return Qwen(str(models["plus"]), preset=TRIAL, device="cpu")


def pictures(*sizes):
    return [Image.fromarray(np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8)) for i, (w, h) in enumerate(sizes)]


def call(backend, images, keys, yaw=60.0, landmarks=None):
    poses = np.stack([np.broadcast_to(yaw, len(images)), np.zeros(len(images)), np.zeros(len(images))], axis=1)
    landmarks = np.full((len(images), 68, 2), np.nan) if landmarks is None else landmarks
    return [np.asarray(picture) for picture in backend.frontalize(images, keys, poses, landmarks)]


# The model of random weights


@pytest.mark.parametrize("kind", ["edit", "plus"])
def test_the_templates_head_has_the_length_that_the_pipeline_drops(models, kind):
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(models[kind], local_files_only=True, use_safetensors=True)
    head = pipe.prompt_template_encode.split("{}")[0].split("<|vision_start|>")[0]
    assert len(pipe.tokenizer(head)["input_ids"]) == pipe.prompt_template_encode_start_idx == 64
    assert json.loads((models[kind] / "model_index.json").read_text())["_class_name"] == type(pipe).__name__
    assert sum(path.stat().st_size for path in models[kind].rglob("*") if path.is_file()) < 2e6


def test_making_one_leaves_the_callers_random_numbers_alone(models, tmp_path):
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again = qwen.tiny_model(tmp_path / "again")
    assert torch.equal(torch.rand(3), expected)
    assert qwen._fingerprint(again) == qwen._fingerprint(models["edit"])


# The whole path


SIZES = [(48, 48), (64, 40), (30, 61), (1, 9)]


@pytest.mark.parametrize("kind", ["edit", "plus"])
def test_pictures_of_any_shape_come_back_in_their_own_proportions(edit, plus, kind):
    backend = {"edit": edit, "plus": plus}[kind]
    assert backend.batch_size == (3 if kind == "edit" else 1)
    out = call(backend, pictures(*SIZES), list("abcd"))
    assert [picture.shape for picture in out] == [(448, 448, 3), (280, 448, 3), (448, 220, 3), (448, 50, 3)]
    assert all(picture.std() > 1 for picture in out)


@pytest.mark.parametrize("kind", ["edit", "plus"])
def test_a_face_does_not_depend_on_its_neighbours_or_on_the_order(edit, plus, kind):
    backend, images, keys = {"edit": edit, "plus": plus}[kind], pictures((48, 48), (64, 40), (30, 61)), list("abc")
    together = call(backend, images, keys)
    backward = call(backend, images[::-1], keys[::-1])[::-1]
    alone = call(backend, images[1:2], keys[1:2])[0]
    for picture, other in zip(together, backward):
        np.testing.assert_array_equal(picture, other)
    assert np.abs(alone.astype(int) - together[1].astype(int)).max() <= 4  # how a batch is added up depends on its size and on threads


def test_nor_does_it_where_each_face_has_words_of_its_own(models):
    backend = Qwen(str(models["edit"]), preset=TRIAL, prompt="constrained+view", device="cpu")
    images, keys, yaw = pictures(*[(32, 32)] * 4), list("abcd"), [60.0, -80.0, 60.0, np.nan]
    together = call(backend, images, keys, yaw)
    for row in (1, 2):
        np.testing.assert_array_equal(call(backend, images[row : row + 1], keys[row : row + 1], yaw[row])[0], together[row])


def test_key_seed_prompt_and_strength_all_count(models, edit):
    (image,) = pictures((48, 48))
    (first,), (again,), (other,) = (call(edit, [image], [key]) for key in "aab")
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    for change in ({"seed": 1}, {"prompt": "single_sentence"}, {"preset": replace(TRIAL, true_cfg_scale=1.0)}):
        backend = Qwen(str(models["edit"]), **{"preset": TRIAL, "device": "cpu"} | change)
        backend._loaded = edit._loaded
        assert (call(backend, [image], ["a"])[0] != first).any()


def test_guidance_is_on_and_nothing_is_warned_of(models, caplog):
    import diffusers

    diffusers.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            for scale in (4.0, 1.0):
                call(Qwen(str(models["edit"]), preset=replace(TRIAL, true_cfg_scale=scale), device="cpu"), pictures((32, 32)), ["a"])
    finally:
        diffusers.logging.disable_propagation()
    assert not [record.message for record in caplog.records if "guidance" in record.message or "negative" in record.message]


def test_another_number_of_pictures_is_noticed(edit, monkeypatch):
    pipe = qwen._load(edit)

    def one(**options):
        out = pipe(**options)
        out.images = out.images[:1]
        return out

    monkeypatch.setattr(edit, "_loaded", one)
    with pytest.raises(RuntimeError, match="expected 2 pictures from QwenImageEditPipeline; found 1"):
        call(edit, pictures((32, 32), (32, 32)), ["a", "b"])


@pytest.mark.parametrize("kind", ["edit", "plus"])
def test_through_the_job(edit, plus, kind, tmp_path):
    backend, rows = {"edit": edit, "plus": plus}[kind], []
    for index, image in enumerate(pictures(*[(24, 24)] * 5)):
        image.save(tmp_path / f"{index}.png")
        rows.append({"image": f"{index}.png", "sha256": file_sha256(tmp_path / f"{index}.png")})
    images = FaceImages(pd.DataFrame(rows), tmp_path)
    poses = np.array([[60, 0, 0], [0, 0, 0], [-45, 0, 0], [31, 0, 0], [np.nan] * 3])
    table = frontalize_faces(backend, images, poses, np.full((5, 68, 2), np.nan), tmp_path / "out")
    assert table["status"].tolist() == ["done", "kept", "done", "done", "kept"]
    with Image.open(tmp_path / "out" / table["file"][0]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), call(backend, [images[0]], images.keys[:1])[0])


def test_one_run_of_two_prompts_and_two_seeds_makes_four_sets_of_pictures(models, tmp_path):
    faces = pictures(*[(24, 24)] * 4)
    for index, image in enumerate(faces):
        image.save(tmp_path / f"{index}.png")
    rows = [{"image": f"{index}.png", "sha256": file_sha256(tmp_path / f"{index}.png"), "label": index} for index in range(4)]
    manifest = pd.DataFrame(rows).assign(split="test")
    images, poses, landmarks = FaceImages(manifest, tmp_path), np.array([[60, 0, 0]] * 3 + [[0, 0, 0]]), np.full((4, 68, 2), np.nan)
    shared = {"preset": TRIAL, "seed": 1}
    names = [f"qwen:{models['edit']}{query}" for query in ("", "?prompt=single_sentence", "?seed=2", "?without=expression,local&seed=2")]
    made = {name: show(get_frontalizer(name, shared), images, manifest, poses, landmarks, tmp_path / "out") for name in names}
    assert len({found for _, _, found in made.values()}) == 4
    seen = [[np.asarray(turned[row]).tobytes() for turned, _, _ in made.values()] for row in range(4)]
    assert [len(set(row)) for row in seen] == [4, 4, 4, 1]  # the last face is not turned
    backend = get_frontalizer(names[3], shared)
    assert (backend.seed, backend.prompt) == (2, get_prompt("constrained-expression-local"))
    again = frontalize_faces(backend, images, poses, landmarks, tmp_path / "out" / "cache" / "frontalized", limit=0)
    assert again["status"].tolist() == ["done", "done", "done", "kept"]
    letters = prompt_conditions(list(made))
    study = SimpleNamespace(manifest=manifest, images=images, config=SimpleNamespace(seed=0))
    sheet = side_by_side(study, {letters[name]: made[name][0] for name in letters})
    assert "".join(letters.values()) == "ABCD" and len(sheet) == 3 * 5


# Ways to load


def test_a_bfloat16_model_paints_nearly_the_same(models, edit):
    image = pictures((48, 48))
    (exact,), (rounded,) = (call(each, image, ["a"]) for each in (edit, Qwen(str(models["edit"]), preset=Preset(steps=2), device="cpu")))
    assert 0 < np.abs(exact.astype(float) - rounded).mean() < 3


def test_tiles_and_layers_that_wait_in_memory_change_nothing(models, edit):
    import torch

    image = pictures((48, 48))
    expected = call(edit, image, ["a"])[0]
    tiled = Qwen(str(models["edit"]), preset=replace(TRIAL, tiling=True), device="cpu")
    np.testing.assert_array_equal(call(tiled, image, ["a"])[0], expected)  # the whole picture is smaller than a tile
    waiting = Qwen(str(models["edit"]), preset=replace(TRIAL, offload="group"), device="cpu")
    waiting._loaded = qwen._load(waiting)
    waiting._loaded.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    np.testing.assert_array_equal(call(waiting, image, ["a"])[0], expected)


def test_a_batch_is_decoded_face_by_face(models, edit, monkeypatch):
    "Eight faces of a megapixel at once do not fit the card that they are meant for."
    backend = Qwen(str(models["edit"]), preset=TRIAL, device="cpu")
    pipe = backend._loaded = qwen._load(backend)
    decode, sizes = pipe.vae._decode, []
    monkeypatch.setattr(pipe.vae, "_decode", lambda latents, **how: sizes.append(len(latents)) or decode(latents, **how))
    found = call(backend, pictures(*[(32, 32)] * 3), list("abc"))
    assert sizes == [1, 1, 1]
    pipe.vae.disable_slicing()
    for picture, other in zip(found, call(backend, pictures(*[(32, 32)] * 3), list("abc"))):
        assert np.abs(picture.astype(int) - other.astype(int)).max() <= 2


def test_weights_from_gguf(models, edit, tmp_path):
    gguf = pytest.importorskip("gguf", reason="qcfer[qwen] is not installed")
    from safetensors.numpy import load_file

    writer = gguf.GGUFWriter(tmp_path / "transformer.gguf", "qwen_image")
    for name, values in load_file(next((models["edit"] / "transformer").glob("*.safetensors"))).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    backend = Qwen(str(models["edit"]), preset=replace(TRIAL, gguf=str(tmp_path / "transformer.gguf")), device="cpu")
    np.testing.assert_array_equal(call(backend, pictures((48, 48)), ["a"])[0], call(edit, pictures((48, 48)), ["a"])[0])
    assert backend.settings["gguf"] == file_sha256(tmp_path / "transformer.gguf") and backend.settings["gguf"] in backend.id


def test_an_adapter_changes_the_weights_and_lightning_the_schedule(models, tmp_path):
    pytest.importorskip("peft", reason="qcfer[qwen] is not installed")
    import torch
    from safetensors.torch import save_file

    parts = {"lora_down.weight": (4, 32), "lora_up.weight": (32, 4)}
    state = {
        f"transformer_blocks.{block}.attn.{layer}.{part}": torch.full(shape, 0.3)
        for block in range(2)
        for layer in ("to_q", "to_v")
        for part, shape in parts.items()
    }
    state |= {f"transformer_blocks.{block}.attn.{layer}.alpha": torch.tensor(4.0) for block in range(2) for layer in ("to_q", "to_v")}
    plain = Qwen(str(models["edit"]), preset=replace(TRIAL, true_cfg_scale=1.0), device="cpu")
    (expected,) = call(plain, pictures((48, 48)), ["a"])
    for name, shift in (("adapter", 0.5), ("Some-Lightning-2steps", np.log(3))):
        save_file(state, tmp_path / f"{name}.safetensors")
        backend = Qwen(str(models["edit"]), preset=replace(plain.preset, lora=str(tmp_path / f"{name}.safetensors")), device="cpu")
        assert (call(backend, pictures((48, 48)), ["a"])[0] != expected).any()
        assert backend._loaded.scheduler.config.base_shift == pytest.approx(shift)
        assert file_sha256(tmp_path / f"{name}.safetensors") in backend.id


# Settings and ids


def test_steps_as_published_with_the_models(models):
    assert Qwen(str(models["edit"]), device="cpu").preset.steps == 50
    assert Qwen(str(models["plus"]), device="cpu").preset.steps == 40
    assert Qwen(str(models["edit"]), preset=TRIAL, device="cpu").preset.steps == 2


def test_the_papers_settings_are_the_default(models):
    backend = Qwen(str(models["edit"]), device="cpu")
    assert (backend.batch_size, backend.preset.true_cfg_scale, backend.preset.dtype, qwen._DELIVERED) == (8, 4.0, "bfloat16", 448)
    assert backend.prompt == get_prompt("constrained")
    assert backend.images_per_s is None


def test_the_processor_is_taken_when_it_is_asked_for(models, monkeypatch):
    "Even where there is a card; and the paper's rate is stated for a card alone."
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for backend in (Qwen(str(models["edit"])), Qwen(str(models["edit"]), device="cpu"), get_frontalizer(f"qwen:{models['edit']}")):
        assert (backend.device, backend.images_per_s) == ("cpu", None)
    given = get_frontalizer(f"qwen:{models['edit']}", device="cuda")
    assert given.device == "cuda" and 30 < 1 / given.images_per_s < 60  # 50 guided steps on an H200


def test_a_rate_is_stated_by_passes_and_only_where_the_card_holds_the_weights(models, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def seconds(steps=50, **settings):
        rate = Qwen(str(models["edit"]), preset=Preset(steps=steps, **settings), device="cuda").images_per_s
        return rate and 1 / rate

    guided, plain = (seconds(20, true_cfg_scale=scale) - seconds(10, true_cfg_scale=scale) for scale in (4.0, 1.0))
    assert guided == pytest.approx(2 * plain) and 1.5 < seconds(4, true_cfg_scale=1.0) < 3
    assert [seconds(**way) for way in ({"offload": "group"}, {"quantize": "nf4"}, {"gguf": "transformer.gguf"})] == [None] * 3


@pytest.mark.parametrize("device", ["tpu", "cuda", ""])
def test_a_device_that_is_not_there_is_refused(models, device, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^expected the device cpu, or cuda where there is one; found '{device}'$"):
        Qwen(str(models["edit"]), device=device)


CHANGES = [
    {"seed": 1},
    {"prompt": "single_sentence"},
    {"prompt": "constrained-local"},
    {"prompt": "constrained+view"},
    {"preset": "24gb"},
    {"preset": "12gb"},
    {"preset": Preset(steps=7)},
    {"preset": Preset(true_cfg_scale=2.0)},
    {"preset": Preset(dtype="float32")},
    {"preset": Preset(lora="someone/adapter:file.safetensors")},
    {"estimator": type("Estimator", (), {"id": "another"})()},
]


def test_the_id_tells_apart_all_that_changes_a_result_and_nothing_else(models, tmp_path):
    def id_of(kind="edit", **settings):
        return Qwen(str(models[kind]), **{"device": "cpu"} | settings).id

    ids = [id_of(), id_of("plus"), *(id_of(**change) for change in CHANGES)]
    assert len(set(ids)) == len(ids)
    assert id_of() == id_of(preset=Preset(batch_size=1, offload="model")) == id_of(preset=PRESETS["a100"])
    copy = tmp_path / models["edit"].name
    copy.mkdir()
    for path in models["edit"].rglob("*"):
        if path.is_file():
            (copy / path.relative_to(models["edit"])).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(models["edit"])).write_bytes(path.read_bytes())
    assert Qwen(str(copy), device="cpu").id == id_of()
    weights = next((copy / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert Qwen(str(copy), device="cpu").id != id_of()


def test_the_settings_are_whole_and_can_be_written_down(models):
    settings = Qwen(str(models["edit"]), preset="24gb", device="cpu").settings
    assert json.loads(json.dumps(settings)) == settings
    expected = {"batch_size": 1, "quantize": "nf4", "offload": "model", "steps": 50, "true_cfg_scale": 4.0, "dtype": "bfloat16"}
    assert (expected | {"side": qwen._SIDE, "delivered": 448}).items() <= settings.items()
    assert len(settings["revision"]) == 40


@pytest.mark.parametrize("name", ["Qwen-Image-Edit", "Qwen-Image-Edit-2509", "Qwen-Image-Edit-2511"])
def test_the_fast_presets_name_the_models_own_adapter(name):
    for preset, steps in (("fast", 8), ("fast4", 4)):
        found = qwen._lora(PRESETS[preset], f"Qwen/{name}")
        repository, file = found.split(":")
        assert repository.startswith("lightx2v/Qwen-Image-") and file.endswith(f"{name}-Lightning-{steps}steps-V1.0-bf16.safetensors")


def test_a_model_without_a_known_adapter(models):
    with pytest.raises(ValueError, match="found edit: name an adapter's file as lora$"):
        Qwen(str(models["edit"]), preset="fast", device="cpu")
    with pytest.raises(ValueError, match="^expected a preset of a100, 24gb, 12gb, fast, fast4; found '8gb'$"):
        Qwen(str(models["edit"]), preset="8gb")


# Which model


@pytest.mark.parametrize(
    "index, found", [(None, "no readable"), ("half a fi", "no readable"), ("[]", "no readable"), ('{"_class_name": "Flux"}', "Flux")]
)
def test_a_folder_with_something_else(tmp_path, index, found):
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(WeightsError, match=f"^expected a model of QwenImageEditPipeline or .*; found {found}.*: name a Qwen"):
        Qwen(str(tmp_path))


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing@abc", "/no/such/folder", "a b", "../up"])
def test_a_model_that_is_nowhere(name, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("QCFER_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        get_frontalizer(f"qwen:{name}")
    message = str(caught.value)
    assert message.startswith("expected a folder with a Qwen-Image-Edit model or NAME[@REVISION] on Hugging Face; found neither for")
    assert name in message and "\n" not in message


def test_a_model_from_hugging_faces_cache_is_pinned_by_its_commit(models, edit, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub"
    snapshot = cache / "models--someone--edit" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(models["edit"])
    (cache / "models--someone--edit" / "refs").mkdir()
    (cache / "models--someone--edit" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    for spec in ("qwen:someone/edit", f"qwen:someone/edit@{commit}", "qwen:someone/edit@main"):
        backend = get_frontalizer(spec, {"preset": TRIAL})
        assert (backend.model, backend.revision) == ("someone/edit", commit)
        assert commit in backend.id
    with pytest.raises(WeightsError, match="found neither for someone/edit@other"):
        get_frontalizer("qwen:someone/edit@other")


def test_a_model_that_is_not_whole_stops_the_job_with_one_line(models, tmp_path):
    (tmp_path / "set").mkdir()
    pictures((24, 24))[0].save(tmp_path / "set" / "a.png")
    images = FaceImages(pd.DataFrame({"image": ["a.png"], "sha256": [file_sha256(tmp_path / "set" / "a.png")]}), tmp_path / "set")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_bytes((models["edit"] / "model_index.json").read_bytes())
    backend = Qwen(str(tmp_path / "model"), preset=TRIAL, device="cpu")
    with pytest.raises(WeightsError, match="^cannot load .*: see that qcfer") as caught:
        frontalize_faces(backend, images, np.array([[60, 0, 0]]), np.full((1, 68, 2), np.nan), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(models, tmp_path):
    import torch
    from safetensors.torch import load_file

    for path in models["edit"].rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(models["edit"])).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(models["edit"])).write_bytes(path.read_bytes())
    weights = next((tmp_path / "transformer").glob("*.safetensors"))
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(WeightsError, match="^cannot load"):
        call(Qwen(str(tmp_path), preset=TRIAL, device="cpu"), pictures((32, 32)), ["a"])


def test_importing_the_backend_loads_no_framework():
    code = "import sys, qcfer.frontalize.qwen; print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# Framing, without any model


@given(st.integers(1, 500), st.integers(1, 500))
def test_padding_is_undone_exactly(width, height):
    left, top, right, bottom = qwen._content_box((width, height))
    scale = qwen._SIDE / max(width, height)
    np.testing.assert_allclose([right - left, bottom - top], [scale * width, scale * height])
    assert min(left, top) >= 0 and max(right, bottom) <= qwen._SIDE + 1e-9
    assert abs(left - (qwen._SIDE - right)) <= scale + 1e-9 and abs(top - (qwen._SIDE - bottom)) <= scale + 1e-9


def centred(landmarks, width):
    """Landmarks of a face in the middle of a picture, as a frontal crop has it."""
    ends = landmarks[..., 0].min(), landmarks[..., 0].max()
    return landmarks + (width / 2 - sum(ends) / 2, 0)


@given(zoom=st.floats(0.55, 1.9), x=st.floats(-300, 300), y=st.floats(-300, 300), width=st.integers(20, 300), height=st.integers(20, 300))
def test_any_zoom_and_shift_is_found_and_taken_back(zoom, x, y, width, height):
    before = centred(np.random.default_rng(0).uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height), (68, 2)), width)
    box = qwen._content_box((width, height))
    inside = before * qwen._SIDE / max(width, height) + box[:2]
    found = qwen._face_box(before, zoom * inside + (x, y), (width, height))
    np.testing.assert_allclose(found, zoom * box + (x, y, x, y), atol=1e-6)
    profile = before * (0.6, 1) + (0.1 * width, 0)  # narrower and further to the side, as high as before
    np.testing.assert_allclose(qwen._face_box(profile, zoom * inside + (x, y), (width, height)), found, atol=1e-6)


@pytest.mark.parametrize("zoom", [0.3, 3.0, 0.0, np.nan])
def test_landmarks_that_make_no_sense_are_passed_over(zoom):
    before = np.random.default_rng(0).uniform(20, 80, (68, 2))
    np.testing.assert_array_equal(qwen._face_box(before, zoom * before * qwen._SIDE / 100, (100, 100)), qwen._content_box((100, 100)))
    np.testing.assert_array_equal(qwen._face_box(before * np.nan, before, (100, 100)), qwen._content_box((100, 100)))
    np.testing.assert_array_equal(qwen._face_box(before * 0, before, (100, 100)), qwen._content_box((100, 100)))


def test_a_cut_beyond_the_picture_repeats_its_border():
    square = Image.new("RGB", (qwen._SIDE, qwen._SIDE), "red")
    out = np.asarray(qwen._cut(square, np.array([-300.0, -10.0, 500.0, 1500.0]), (80, 151)))
    assert out.shape == (448, 237, 3)
    np.testing.assert_array_equal(out, np.broadcast_to([255, 0, 0], out.shape))


def test_the_face_is_put_back_by_the_estimator(models):
    class Estimator:
        id = "two thirds, further left"

        def estimate(self, images):
            assert {image.size for image in images} == {(qwen._SIDE, qwen._SIDE)}
            return np.zeros((len(images), 3)), np.stack([landmarks[0] * qwen._SIDE / 90 * 2 / 3 + (10, 4)] * len(images))

    landmarks = centred(np.random.default_rng(0).uniform(20, 70, (1, 68, 2)), 90)
    image = pictures((90, 90))
    plain, framed = (Qwen(str(models["edit"]), preset=TRIAL, device="cpu", estimator=each) for each in (None, Estimator()))
    (whole,), (cut,) = (call(each, image, ["a"], landmarks=landmarks) for each in (plain, framed))
    painted = plain._edited([qwen._square(image[0])], ["a"], [plain.prompt.text()])[0]
    side = qwen._SIDE * 2 / 3
    expected = painted.resize((448, 448), Image.Resampling.LANCZOS, box=(10, 4, 10 + side, 4 + side))
    assert np.abs(cut.astype(float) - np.asarray(expected, float)).max() <= 1
    np.testing.assert_array_equal(whole, np.asarray(painted.resize((448, 448), Image.Resampling.LANCZOS)))
    (unknown,) = call(framed, image, ["a"])
    np.testing.assert_array_equal(unknown, whole)
