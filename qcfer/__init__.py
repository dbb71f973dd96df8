"""Facial expression recognition that still works when the face is turned away."""
__version__ = "0.2.0"

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "classify.afp": ["AFP"],
        "classify.esv": ["ESV"],
        "data.manifest": ["load_manifest"],
        "embed.embedders": ["get_embedder"],
        "face.pose": ["get_pose_estimator"],
        "frontalize.conditions": ["get_frontalizer"],
        "recognize.recognizer": ["Recognizer", "load"],
        "run.config": ["Config"],
        "run.pipeline": ["make_run", "open_run"],
        "run.record": ["Run"],
        "run.study": ["Study"],
    },
)
