# The public face: what is named here is loaded from its room when it is first used.
from .classify.afp import AFP as AFP
from .classify.esv import ESV as ESV
from .core.versions import show_versions as show_versions
from .data.manifest import load_manifest as load_manifest
from .embed.embedders import get_embedder as get_embedder
from .face.pose import get_pose_estimator as get_pose_estimator
from .frontalize.conditions import get_frontalizer as get_frontalizer
from .recognize.recognizer import Recognizer as Recognizer
from .recognize.recognizer import load as load
from .run.config import Config as Config
from .run.pipeline import make_run as make_run
from .run.pipeline import open_run as open_run
from .run.record import Run as Run
from .run.study import Study as Study

__version__: str
