"""The plain ways: what a competent user of the libraries would write. Each returns a function without arguments that does the work once."""

import os
from copy import copy

import numpy as np

def embed(paths):
    "EfficientNet-Lite0 in PyTorch, with a DataLoader that decodes in the background."
    import timm
    import torch
    from PIL import Image
    from torchvision import transforms

    from qcfer.embed.embedders import get_embedder

    network = get_embedder("effnet_lite0").differentiable()[0]
    assert isinstance(network, timm.models.efficientnet.EfficientNet)
    prepare = transforms.Compose([
        transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize([127 / 255] * 3, [128 / 255] * 3),
    ])  # fmt: skip

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, number):
            return prepare(Image.open(paths[number]).convert("RGB"))

    loader = torch.utils.data.DataLoader(Files(), batch_size=64, num_workers=2)

    def work():
        with torch.inference_mode():
            return torch.cat([torch.nn.functional.normalize(network(batch)) for batch in loader]).numpy()

    return work


def network(embedder, paths):
    "A network in PyTorch with the embedder's own preprocessing, and a DataLoader that decodes in the background."
    import torch
    from PIL import Image

    module, put = embedder.differentiable()

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, number):
            return embedder.preprocess(Image.open(paths[number]).convert("RGB"))

    def work():
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        loader = torch.utils.data.DataLoader(Files(), batch_size=32, num_workers=2)
        with torch.inference_mode():
            rows = [module(put(batch.numpy())) for batch in loader]
            return torch.nn.functional.normalize(torch.cat(rows)).numpy()

    return work


class Eager:
    "3DDFA-V2's network in PyTorch, a layer after the other, in the place of ONNX Runtime's session."

    def __init__(self):
        import torch

        from qcfer.core.checkpoint import read_checkpoint
        from qcfer.core.files import find_weights
        from qcfer.face import tddfa

        state = read_checkpoint(find_weights(*tddfa._CHECKPOINT), "state_dict")
        state = {name.removeprefix("module."): values for name, values in state.items()}
        self.layers = [(torch.tensor(kernel), torch.tensor(bias), stride) for kernel, bias, stride in tddfa._convolutions(state)]
        self.heads = [torch.tensor(np.concatenate([state[f"fc_param.{part}"], state[f"fc_lm.{part}"]])) for part in ("weight", "bias")]

    def run(self, ends, given):
        import torch
        from torch.nn import functional

        x = torch.tensor(given["pixels"]).permute(0, 3, 1, 2).float().sub(127.5).div(128)
        with torch.inference_mode():
            for kernel, bias, stride in self.layers:
                groups = len(kernel) if kernel.shape[1] == 1 else 1
                x = functional.relu(functional.conv2d(x, kernel, bias, stride, kernel.shape[2] // 2, groups=groups))
            trunk = x.mean((2, 3))
            found = {"trunk": trunk, "heads": functional.linear(trunk, *self.heads)}
            return [found[end].numpy() for end in ends]


def pose(estimator, faces):
    "The same estimator with its network in PyTorch, a picture after the other."
    plain = copy(estimator)
    plain._session = Eager()
    return lambda: [plain.estimate([face]) for face in faces]


def search(X, y, split, kernel=True):
    "scikit-learn's grid search over the candidates of the searched ensemble, and a soft vote of the best of each kind."
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.decomposition import PCA
    from sklearn.ensemble import VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Normalizer, RobustScaler, StandardScaler
    from sklearn.svm import SVC

    from qcfer.classify.search import GRID

    weights = [None, "balanced"]
    linear = Pipeline([("scale", None), ("pca", PCA(256)), ("fit", LogisticRegression(max_iter=300))])
    machine = Pipeline([("scale", None), ("pca", PCA(256)), ("unit", Normalizer()), ("fit", CalibratedClassifierCV(SVC(), ensemble=False))])
    scales = [None, StandardScaler(), RobustScaler()]
    unit = float(X.var(0).mean())  # the grid's C are for features of mean variance one
    linear_grid = {"scale": scales, "fit__C": [C / unit for C in GRID["LR"]], "fit__class_weight": weights}
    machine_grid = {"scale": scales[:2], "fit__estimator__C": list(GRID["SVM"]), "fit__estimator__class_weight": weights}

    def work():
        kinds = {"linear": (linear, linear_grid)} | ({"machine": (machine, machine_grid)} if kernel else {})
        grids = {name: GridSearchCV(one, grid, cv=split, n_jobs=2) for name, (one, grid) in kinds.items()}
        best = [(name, grid.fit(X, y).best_estimator_) for name, grid in grids.items()]
        return VotingClassifier(best, voting="soft").fit(X, y)

    return work


def voting(ensemble, X, y, new, times):
    "scikit-learn's VotingClassifier with the members of a fitted ensemble, a face at a time."
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer
    from sklearn.svm import SVC

    def member(voter):
        if isinstance(voter, LogisticRegression):
            return LogisticRegression(C=voter.C, max_iter=1000, class_weight=voter.class_weight)
        return make_pipeline(Normalizer(), CalibratedClassifierCV(SVC(C=1, class_weight="balanced"), ensemble=False))

    seen = ensemble.preprocess_.transform(X)
    members = [(f"voter {number}", member(voter)) for number, voter in enumerate(ensemble.estimators_)]
    vote = VotingClassifier(members, voting="soft").fit(seen, y)

    def work():
        for _ in range(times):
            for one in new:
                vote.predict_proba(ensemble.preprocess_.transform(one[None]))

    return work


def render(dressed, views, scene):
    "A new plotter, with new meshes, for every picture."
    return lambda: [dressed().shoot(view, scene) for view in views]
