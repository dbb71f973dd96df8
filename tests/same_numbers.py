"""The method on drawn faces, and every number that came out of it: python tests/same_numbers.py FACES OUT FILE.npz"""

import json
import sys

import numpy as np

def main(faces, out, file):
    from qcfer.core.versions import versions
    from qcfer.evaluate.scores import evaluate
    from qcfer.run.config import Config
    from qcfer.run.study import Study
    from qcfer.run.train import train_conditions

    config = Config("folder", faces, pose="none", conditions=["plain+raw"], esv={"candidates": "rafdb", "voting": "soft"})
    study = Study(config, out)
    rungs = train_conditions(study.part(~study.manifest["duplicate"].to_numpy()))
    predictions = rungs["plain+raw"].predictions
    metrics = [*_values(evaluate(predictions))]
    numbers = {
        "embeddings": study.see("plain+raw"),
        "probabilities": predictions[[name for name in predictions if name.startswith("p_")]].to_numpy(float),
        "predicted": predictions["predicted"].to_numpy(),
        "metrics": np.array([[part["value"], part["low"], part["high"]] for part in metrics], float),
    }
    np.savez(file, **numbers, versions=json.dumps(versions()))


def _values(tree):
    "Every metric with its interval, wherever it stands."
    for part in tree.values() if isinstance(tree, dict) else ():
        yield from [part] if isinstance(part, dict) and "value" in part else _values(part)


if __name__ == "__main__":
    main(*sys.argv[1:])
