"""voxstrata: combine what several fine-tuned speech models know, layer by layer.

Merge = combine weights, fuse = combine activations. Importing costs no torch: names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

# Named three times: checkers of types read the imports and `__all__`, a running program `_PLACES`.
if TYPE_CHECKING:
    from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
    from voxstrata.corpora.prepare import prepare
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.evaluation.comparison import Comparison
    from voxstrata.evaluation.score import Scores
    from voxstrata.inference.embedding import Embeddings, embed
    from voxstrata.inference.recognition import Recognition
    from voxstrata.inference.recognizer import Recognizer
    from voxstrata.merging.files import FileMerge
    from voxstrata.methods.adaltm.merged import MergedBackbone
    from voxstrata.methods.adaltm.task_vector import TaskVector
    from voxstrata.notebook.merging import merge_files
    from voxstrata.notebook.scoring import compare, evaluate, parts
    from voxstrata.notebook.trained import Run, train
    from voxstrata.predictions import Prediction

# In the order in which they are used.
__all__ = [  # noqa: RUF022
    "load_backbone",
    "SpeechEncoder",
    "TaskVector",
    "MergedBackbone",
    "merge_files",
    "FileMerge",
    "prepare",
    "PreparedCorpus",
    "train",
    "Run",
    "Recognizer",
    "Recognition",
    "Prediction",
    "embed",
    "Embeddings",
    "evaluate",
    "Scores",
    "compare",
    "Comparison",
    "parts",
    "__version__",
]

_PLACES = {
    "load_backbone": "backbone.encoder",
    "SpeechEncoder": "backbone.encoder",
    "TaskVector": "methods.adaltm.task_vector",
    "MergedBackbone": "methods.adaltm.merged",
    "merge_files": "notebook.merging",
    "FileMerge": "merging.files",
    "prepare": "corpora.prepare",
    "PreparedCorpus": "corpora.prepared",
    "train": "notebook.trained",
    "Run": "notebook.trained",
    "Recognizer": "inference.recognizer",
    "Recognition": "inference.recognition",
    "Prediction": "predictions",
    "embed": "inference.embedding",
    "Embeddings": "inference.embedding",
    "evaluate": "notebook.scoring",
    "Scores": "evaluation.score",
    "compare": "notebook.scoring",
    "Comparison": "evaluation.comparison",
    "parts": "notebook.scoring",
}

# Hidden from checkers: seeing it, they would let any name pass.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """A public name, from its module at its first use."""
        if name in _PLACES:
            return getattr(import_module(f"voxstrata.{_PLACES[name]}"), name)
        raise AttributeError(f"module 'voxstrata' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
