"""A small merge as a run, and a server that runs for a test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from voxstrata.backbone.encoder import load_backbone
from voxstrata.config.head import HeadOptions
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.joint import JointModel
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.model_folder import save_model
from voxstrata.runs import RunFolder, write_json
from voxstrata.vocabulary import Vocabulary

EXAMPLES = Path(__file__).parents[1] / "src/voxstrata/serving/examples"

LABELS = LabelSet(("neutral", "anger", "joy"))
COEFFICIENTS = ((0.4, 0.9), (0.7, 0.2), (1.1, 0.6))


def joint_model(
    base: Path, experts: dict[str, Path], scale: float = 1.0, *, per_task: bool = False
) -> JointModel:
    """A merge of two experts with heads that answer differently from clip to clip."""
    encoder = load_backbone(base)
    vectors = {name: TaskVector.between(encoder, folder) for name, folder in experts.items()}
    merged = MergedBackbone(encoder, vectors)
    with torch.no_grad():
        merged.coefficients.copy_(scale * torch.tensor(COEFFICIENTS))
    words = merged.twin() if per_task else None
    torch.manual_seed(0)
    head = CTCHead(encoder.hidden_size, Vocabulary(("a", "b", "c")))
    model = JointModel(merged, LABELS, head, HeadOptions(form="d", normalize_layers=True), words)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*model.head.parameters(), *head.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def joint_run(folder: Path, base: Path, experts: dict[str, Path], *, per_task: bool = False) -> Path:
    """That merge as a run's folder."""
    save_model(joint_model(base, experts, per_task=per_task), folder / "model")
    write_json(
        RunFolder(folder).provenance,
        {"base": str(base), "data": {"corpora/ravdess-0123456789": "00", "an4": "11"}},
    )
    write_json(
        folder / "model" / "coefficients.json",
        {
            "granularity": "layer",
            "vectors": list(experts),
            "coefficients": COEFFICIENTS,
            "layer_weights": [0.3, 0.7],
        },
    )
    return folder


def spoken(path: Path, seed: int = 0, voice: str = "sad-voice") -> Path:
    """A synthetic voice in a little noise, another one for each seed."""
    sound, rate = soundfile.read(EXAMPLES / f"{voice}.ogg", dtype="float32")
    noise = np.random.default_rng(seed).normal(size=len(sound)).astype(np.float32)
    soundfile.write(path, sound + 0.0005 * (1 + seed) * noise, rate)
    return path


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of a server that answers until the end."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(app, "127.0.0.1", port, log_level="warning", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
