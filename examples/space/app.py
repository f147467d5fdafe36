"""A Hugging Face Space: the page of `voxstrata serve` for the run that lies beside this file."""

import os
from pathlib import Path

from voxstrata.inference.recognizer import Recognizer
from voxstrata.serving.answers import Limits
from voxstrata.serving.server import application, run

MODEL = os.environ.get("VOXSTRATA_MODEL", str(Path(__file__).parent / "model"))

# A Space has two cores and many visitors.
app = application(Recognizer.load(MODEL), MODEL, limits=Limits(megabytes=20, minutes=2, waiting=32))

if __name__ == "__main__":
    run(app, "0.0.0.0", int(os.environ.get("PORT", "7860")))
