"""Opens an export with transformers alone and writes what it answers; run by itself, as a file.

    python -I with_transformers.py FORM FOLDER CLIPS ANSWERS [SETTING=VALUE]...

FORM is the task of the export, CLIPS a safetensors file with the samples of each clip, ANSWERS one with what
the export gives for each clip alone and for all of them padded in a batch; settings are a decoder's. This
package is not imported, and cannot be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SAMPLE_RATE = 16_000
Answers = dict[str, Tensor]


class Opened:
    """An export that transformers has opened.

    Args:
        folder: of the export.
        task: of `transformers.pipeline`; None where there is none.
    """

    def __init__(self, folder: str, task: str | None) -> None:
        self.pipeline: Any = None
        if task is None:
            self.model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
            self.extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        else:
            self.pipeline = transformers.pipeline(task, model=folder, dtype=torch.float32, device="cpu")
            self.model, self.extractor = self.pipeline.model, self.pipeline.feature_extractor
        self.waveforms = "input_values" in self.extractor.model_input_names

    def features(self, waves: list[Tensor]) -> Any:
        """What the model takes for clips; padded as the folder's preprocessor does."""
        padding = {"padding": True} if self.waveforms else {}
        raw = [wave.numpy() for wave in waves]
        return self.extractor(raw, sampling_rate=SAMPLE_RATE, return_tensors="pt", **padding)


def emotion(opened: Opened, waves: list[Tensor], given: list[Answers]) -> tuple[list[Answers], list[str]]:
    """Logits of each clip."""
    logits = opened.model(**opened.features(waves)).logits
    return [{"logits": row} for row in logits], []


def ctc(opened: Opened, waves: list[Tensor], given: list[Answers]) -> tuple[list[Answers], list[str]]:
    """Logits of each frame."""
    logits = opened.model(**opened.features(waves)).logits
    return [{"logits": row} for row in logits], []


def whisper(opened: Opened, waves: list[Tensor], given: list[Answers]) -> tuple[list[Answers], list[str]]:
    """The encoder's last state, logits behind given tokens, and the words."""
    model, features = opened.model, opened.features(waves).input_features
    states = model.get_encoder()(features).last_hidden_state
    found = []
    for row, state, answers in zip(features, states, given, strict=True):
        logits = model(input_features=row[None], decoder_input_ids=answers["tokens"][None]).logits[0]
        found.append({"state": state, "logits": logits})
    asked = dict(setting.split("=", 1) for setting in sys.argv[5:])
    tokens = model.generate(features, return_timestamps=False, **asked)
    texts = opened.pipeline.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return found, [text.strip() for text in texts]


def encoder(opened: Opened, waves: list[Tensor], given: list[Answers]) -> tuple[list[Answers], list[str]]:
    """The states of all layers, the last one as transformers gives it."""
    features = opened.features(waves)
    model = opened.model.get_encoder() if not opened.waveforms else opened.model
    output = model(**features, output_hidden_states=True)
    states = [*output.hidden_states[1:-1], output.last_hidden_state]
    rows = range(len(waves))
    return [{f"state {n}": state[row] for n, state in enumerate(states, start=1)} for row in rows], []


FORMS: dict[str, tuple[str | None, Callable[..., tuple[list[Answers], list[str]]]]] = {
    "emotion": ("audio-classification", emotion),
    "ctc": ("automatic-speech-recognition", ctc),
    "whisper": ("automatic-speech-recognition", whisper),
    "encoder": (None, encoder),
}


def in_the_pipeline(form: str, opened: Opened, wave: Tensor) -> tuple[Answers, str | None]:
    """What the pipeline gives for a clip: probabilities in the order of the labels, or words."""
    if form == "emotion":
        scores = {row["label"]: row["score"] for row in opened.pipeline(wave.numpy(), top_k=None)}
        labels = opened.model.config.id2label
        return {"scores": torch.tensor([scores[labels[index]] for index in range(len(labels))])}, None
    return {}, str(opened.pipeline(wave.numpy())["text"]) if form == "ctc" else None


@torch.no_grad()
def main() -> None:
    """Reads the clips, opens the export, writes its answers."""
    form, folder, clips, target = sys.argv[1:5]
    waves: list[Tensor] = []
    given: list[Answers] = []
    with safe_open(clips, framework="pt") as file:
        names = list(file.keys())
        for number in range(sum(name.startswith("clip.") for name in names)):
            waves.append(file.get_tensor(f"clip.{number}"))
            prefix = f"given.{number}."
            own = [name for name in names if name.startswith(prefix)]
            given.append({name.removeprefix(prefix): file.get_tensor(name) for name in own})
    task, answer = FORMS[form]
    opened = Opened(folder, task)
    found: Answers = {}
    texts: list[str | None] = []
    for number, wave in enumerate(waves):
        (answers,), words = answer(opened, [wave], given[number : number + 1])
        shown, text = in_the_pipeline(form, opened, wave)
        found |= {f"alone.{number}.{name}": tensor for name, tensor in {**answers, **shown}.items()}
        texts.append(words[0] if words else text)
    rows, _ = answer(opened, waves, given)
    for number, answers in enumerate(rows):
        found |= {f"padded.{number}.{name}": tensor for name, tensor in answers.items()}
    about = {"texts": json.dumps(texts), "transformers": transformers.__version__}
    save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, target, metadata=about)


if __name__ == "__main__":
    # Whoever opens the export has no such package.
    sys.modules["voxstrata"] = None  # type: ignore[assignment]
    main()
