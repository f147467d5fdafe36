"""Lines of Python that load an export: they stand in its card, and a test runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Stands in the lines for the folder of the export; its name on the hub once it is pushed.
HERE = "PATH/TO/EXPORT"
#: What transformers does with an encoder that is asked for a task: in the card and in the command's output.
NO_HEAD = (
    "an encoder without head: transformers' AutoModel loads it; pipeline() and AutoModelFor... would set a "
    "random head on it"
)
_SAMPLES = (
    "import soundfile",
    "from transformers import pipeline",
    "",
    'samples, rate = soundfile.read("call.wav", dtype="float32")  # one channel, 16 kHz',
)


def loading(form: str | None, about: Mapping[str, Any] | None, model_type: str) -> list[str]:
    """The card's part on loading.

    Args:
        form: one of `plain_model.FORMS`; None for encoder and head as voxstrata reads them.
        about: content of model.json; None where it is an encoder alone.
        model_type: of the encoder, as transformers names it.
    """
    if form == "emotion":
        call = 'print(classify({"raw": samples, "sampling_rate": rate}, top_k=None))'
        return _python(*_SAMPLES, f'classify = pipeline("audio-classification", model="{HERE}")', call)
    if form in ("ctc", "whisper"):
        call = 'print(transcribe({"raw": samples, "sampling_rate": rate})["text"])'
        task = "automatic-speech-recognition"
        return _python(*_SAMPLES, f'transcribe = pipeline("{task}", model="{HERE}")', call)
    encoders = _encoders(about if form is None else None)
    places = " and ".join(f"`{inside[1:]}`" for inside in encoders if inside) or "This folder"
    part = ".get_encoder()" if model_type == "whisper" else ""
    lines = [
        *(f"{places} is {NO_HEAD}.", ""),
        *_python(
            "from transformers import AutoModel",
            "",
            *(f'encoder = AutoModel.from_pretrained("{HERE}{inside}"){part}' for inside in encoders),
        ),
    ]
    if form is not None or about is None:
        return [*lines, "", f'In voxstrata: `vs.load_backbone("{HERE}")`.']
    return [
        *lines,
        *("", "The head lies beside it (`head.safetensors`, described in `model.json`), for voxstrata:", ""),
        *_python(
            "import voxstrata as vs",
            "",
            f'recognizer = vs.Recognizer.load("{HERE}")',
            'print(recognizer("call.wav"))',
        ),
    ]


def _encoders(about: Mapping[str, Any] | None) -> list[str]:
    """Where the encoders lie in the export."""
    if about is None:
        return [""]
    experts = about.get("experts")
    return [f"/encoder/{name}" for name in experts] if isinstance(experts, list) else ["/encoder"]


def _python(*lines: str) -> list[str]:
    return ["```python", *lines, "```"]
