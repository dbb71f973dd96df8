"""The plain ways: what a competent user of the libraries would write. Each returns a function without arguments that does the work once."""

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


def pose(estimator, faces):
    "The same network in the same runtime, a picture after the other."
    return lambda: [estimator.estimate([face]) for face in faces]


def search(X, y, split):
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
    kernel = Pipeline([("scale", None), ("pca", PCA(256)), ("unit", Normalizer()), ("fit", CalibratedClassifierCV(SVC(), ensemble=False))])
    scales = [None, StandardScaler(), RobustScaler()]
    unit = float(X.var(0).mean())  # the grid's C are for features of mean variance one
    linear_grid = {"scale": scales, "fit__C": [C / unit for C in GRID["LR"]], "fit__class_weight": weights}
    kernel_grid = {"scale": scales[:2], "fit__estimator__C": list(GRID["SVM"]), "fit__estimator__class_weight": weights}

    def work():
        grids = [GridSearchCV(one, grid, cv=split, n_jobs=2) for one, grid in ((linear, linear_grid), (kernel, kernel_grid))]
        best = [grid.fit(X, y).best_estimator_ for grid in grids]
        return VotingClassifier([("linear", best[0]), ("kernel", best[1])], voting="soft").fit(X, y)

    return work


def voting(ensemble, X, y, new, times):
    "scikit-learn's VotingClassifier with the members of a fitted ensemble, a face at a time."
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer
    from sklearn.svm import SVC

    seen = ensemble.preprocess_.transform(X)
    members = [(f"LR {C}", LogisticRegression(C=C, max_iter=1000, class_weight="balanced")) for C in (0.1, 1)]
    members.append(("SVM", make_pipeline(Normalizer(), CalibratedClassifierCV(SVC(C=1, class_weight="balanced"), ensemble=False))))
    vote = VotingClassifier(members, voting="soft").fit(seen, y)

    def work():
        for _ in range(times):
            for one in new:
                vote.predict_proba(ensemble.preprocess_.transform(one[None]))

    return work


def render(dressed, views, scene):
    "A new plotter, with new meshes, for every picture."
    return lambda: [dressed().shoot(view, scene) for view in views]


def check(paths, embedder, faces):
    "How far the plain embeddings are from ours: the largest difference."
    from qcfer.core.model_cache import compute

    return float(np.abs(embed(paths)() - compute(embedder, faces, faces.keys, None)).max())
