"""Where a network looks: closed forms with made-up weights, and the libraries' own results where they have any."""

import numpy as np
import pytest
from PIL import Image

from qcfer.embed.attention import _scores, _shown_attention, attention_maps, probe_directions
from qcfer.embed.lite0 import EffNetLite0
from qcfer.embed.torch_networks import TorchEmbedder
from qcfer.pages.figures.attention import attention_figure

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_grad_cam")


def pictures(n=3, size=64, seed=0):
    grids = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC) for grid in grids]


def pixels(image, size=64):
    image = image.resize((size, size))
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


def stretched(maps):
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low)


def tiny_clip():
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = {"layers": 3, "width": 64, "patch_size": 16, "image_size": 64, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    return TorchEmbedder("tiny", open_clip.CLIP(32, vision, text), "encode_image", pixels)


def tiny_timm():
    vit = pytest.importorskip("timm").models.vision_transformer.VisionTransformer
    torch.manual_seed(0)
    network = vit(img_size=64, patch_size=16, embed_dim=64, depth=3, num_heads=4, num_classes=0, reg_tokens=2)
    return TorchEmbedder("tiny", network, "__call__", pixels)


def tiny_cnn():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 5, 4, 2), torch.nn.ReLU(), torch.nn.Conv2d(16, 24, 3, 2, 1), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return TorchEmbedder("tiny", network, "__call__", pixels)


def directions(n, dim, seed=1):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.mark.parametrize("make", [tiny_clip, tiny_timm])
def test_attention_taken_apart_changes_no_feature(make):
    embedder, images = make(), pictures()
    batch = torch.stack([pixels(image) for image in images]).requires_grad_()
    fused = torch.nn.functional.scaled_dot_product_attention
    network = embedder.differentiable()[0]
    expected = network(batch)
    with _shown_attention() as seen:
        found = network(batch)
    assert torch.allclose(found, expected, atol=1e-5)
    assert len(seen) == 3 and all(torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5) for weights in seen)
    assert torch.nn.functional.scaled_dot_product_attention is fused


@pytest.mark.parametrize("make, first", [(tiny_clip, 1), (tiny_timm, 3)])
def test_the_map_is_attention_times_what_a_nudge_of_it_does(make, first):
    "The gradient by finite differences: each weight of the last layer is nudged, and the score is watched."
    embedder, images = make(), pictures(1)
    direction = directions(1, embedder.dim)
    found = attention_maps(embedder, images, direction)
    batch = pixels(images[0])[None].double().requires_grad_()
    network = embedder.differentiable()[0].double()
    wanted = torch.from_numpy(direction).double()
    fused, calls = torch.nn.functional.scaled_dot_product_attention, []

    def score(nudge=None):
        calls.clear()

        def plain(query, key, value, *_, **__):
            weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)
            calls.append(weights.detach())
            return (weights + nudge if nudge is not None and len(calls) == 3 else weights) @ value

        torch.nn.functional.scaled_dot_product_attention = plain
        try:
            return _scores(network(batch), wanted).item()
        finally:
            torch.nn.functional.scaled_dot_product_attention = fused

    base = score()
    weights = calls[-1]
    relevance = np.zeros(weights.shape[-1])
    for head in range(weights.shape[1]):
        for key in range(weights.shape[-1]):
            nudge = torch.zeros_like(weights)
            nudge[0, head, 0, key] = 1e-4  # only the class token's question reaches the features
            relevance[key] += max(0, weights[0, head, 0, key].item() * (score(nudge) - base) / 1e-4)
    expected = stretched(relevance[None, first:].reshape(1, 4, 4))[0]
    coarse = np.asarray(Image.fromarray(np.float32(expected)).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.abs(found[0] - coarse).max() < 1e-2
    embedder.network.float()


def test_grad_cam_of_a_pooled_network_has_a_closed_form():
    "With average pooling the gradient is the same at every place, so the map is the positive part of a weighted sum of channels."
    embedder, images = tiny_cnn(), pictures()
    wanted = directions(3, embedder.dim)
    activations = embedder.network[:4](torch.stack([pixels(image) for image in images])).numpy()
    features = activations.mean((2, 3))
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / lengths
    gradient = (wanted - (wanted * unit).sum(1, keepdims=True) * unit) / lengths
    maps = stretched(np.maximum((gradient[:, :, None, None] * activations).sum(1), 0))
    found = attention_maps(embedder, images, wanted)
    assert found.shape == (3, 64, 64)
    for one, expected in zip(found, maps):
        coarse = Image.fromarray(np.float32(expected)).resize((64, 64), Image.Resampling.BILINEAR)
        assert np.corrcoef(one.ravel(), np.asarray(coarse).ravel())[0, 1] > 0.99


@pytest.mark.parametrize("make", [tiny_clip, tiny_timm, tiny_cnn])
def test_maps_are_maps_one_by_one(make):
    embedder, images = make(), pictures()
    wanted = directions(3, embedder.dim)
    maps = attention_maps(embedder, images, wanted)
    assert maps.shape == (3, 64, 64) and maps.dtype == np.float32
    assert maps.min() >= 0 and maps.max() <= 1 and (maps.max((1, 2)) > 0.5).all()
    alone = [attention_maps(embedder, [image], one[None])[0] for image, one in zip(images, wanted)]
    assert np.abs(maps - np.stack(alone)).max() < 1e-3
    assert np.abs(maps - attention_maps(embedder, images, -wanted)).max() > 0.1
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in embedder.network.parameters())


def test_the_default_embedder_in_torch_gives_its_own_features():
    pytest.importorskip("timm")
    embedder, images = EffNetLite0(), pictures(2, 224)
    network, prepared = embedder.differentiable()
    with torch.inference_mode():
        features = network(prepared(np.stack([embedder.preprocess(image) for image in images]))).numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert np.linalg.norm(unit - embedder.embed(images), axis=1).max() < 1e-4
    assert attention_maps(embedder, images, directions(2, 1280)).shape == (2, 224, 224)


def test_the_probe_tells_the_classes_apart():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 2, 3, 5], 200)
    centres = rng.normal(size=(7, 30))
    features = (centres[labels] + 0.3 * rng.normal(size=(200, 30))).astype(np.float32)
    found = probe_directions(features, labels)
    assert found.shape == (7, 30) and not found[[1, 4, 6]].any()
    assert ((features @ found.T)[:, [0, 2, 3, 5]].argmax(1) == np.searchsorted([0, 2, 3, 5], labels)).mean() > 0.95
    with pytest.raises(ValueError, match="three classes"):
        probe_directions(features, np.minimum(labels, 1))


def test_odd_arguments_are_refused():
    embedder = tiny_cnn()
    for images, wanted in (([], directions(0, 24)), (pictures(2), directions(3, 24))):
        with pytest.raises(ValueError, match="expected one direction for each picture"):
            attention_maps(embedder, images, wanted)
    flat = TorchEmbedder("flat", torch.nn.Flatten(), "__call__", lambda image: pixels(image, 4))
    with pytest.raises(ValueError, match="found neither"):
        attention_maps(flat, pictures(1), directions(1, 48))


def test_the_figure_has_four_rows_and_a_column_a_face():
    maps = np.random.default_rng(0).random((2, 64, 64), dtype=np.float32)
    figure = attention_figure(pictures(2), pictures(2, seed=1), maps, maps, ["anger", "fear"])
    assert len(figure.axes) == 8 and [axis.get_title(loc="left") for axis in figure.axes[:2]] == ["anger", "fear"]
    assert [len(axis.get_images()) for axis in figure.axes] == [1, 1, 2, 2, 1, 1, 2, 2]
