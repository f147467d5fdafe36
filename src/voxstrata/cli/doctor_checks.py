"""What `voxstrata doctor` looks at on this machine; a check that fails hides no other."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voxstrata.cli.lines import one_line

#: Extra -> the packages that it installs, as pip names them, and what it is for.
EXTRAS = {
    "av": (("av",), "m4a, mp4, webm and the like"),
    "vad": (("silero-vad",), "speech found by silero-vad"),
    "synth": (("espeakng-loader",), "synthetic speech, and with it the demo"),
    "onnx": (("onnx", "onnxruntime", "onnxscript"), "export --onnx and --int8"),
    "page": (("gradio",), "serve"),
    "lm": (("peft",), "adapters of a pretrained language model"),
    "egemaps": (("opensmile",), "features: egemaps (research use only)"),
}
#: Weights that come with the package -> SHA-256, as MODEL_CARD.md has them.
WEIGHTS = {
    "whisper-tiny.en/model.safetensors": "07cd205bba5220b6900fbe39b96cd177d3b244f25b9e3d0fcc7a68b5e44c2e5e",
    "wavlm-tiny/model.safetensors": "360102eb7dfbdf7614c85ce1ef8ea32bbd8733f0b080e9e1f247c7a1e53bb35a",
    "wavlm-tiny-asr/encoder/model.safetensors": (
        "912b0e483675ffa78b92d80cd112248919dab815aea73dff8411296c46b561dc"
    ),
}
#: Bytes that a run of the default encoder takes, with its checkpoints, cache and model.
_ROOM = 10**9
_REINSTALL = "pip install --force-reinstall --no-deps voxstrata"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        about: what was looked at.
        found: in words.
        state: "ok"; "missing" for what one can do without; "bad" for what the default job needs.
        advice: what to do; "" where there is nothing to do.
    """

    about: str
    found: str
    state: str = "ok"
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Its JSON."""
        return {name: value for name, value in asdict(self).items() if value}


def findings(*, online: bool = False) -> list[Finding]:
    """All that was found.

    Args:
        online: whether to ask the Hugging Face hub; without it nothing goes over the network.
    """
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("Python", _python),
        ("torch", _torch),
        ("extras", _extras),
        ("audio formats", _formats),
        ("packaged models", _weights),
        ("Hugging Face hub", lambda: _hub(online)),
        ("disk", _disk),
        ("runs", _runs),
        ("default encoder", _default_job),
    ]
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check()
        except Exception as fault:
            first = next(iter(str(fault).splitlines()), "")
            found.append(
                Finding(
                    name, one_line(f"{type(fault).__name__}: {first}"), "bad", f"mend it, or {_REINSTALL}"
                )
            )
    return found


def _python() -> list[Finding]:
    from voxstrata import __version__

    system = f"{platform.system()} {platform.machine()}"
    return [Finding("voxstrata", f"{__version__}, Python {platform.python_version()}, {system}")]


def _torch() -> list[Finding]:
    import torch
    import transformers

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} threads"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return [Finding("torch", f"{versions}; {device}, {threads}")]


def _extras() -> list[Finding]:
    found = []
    for extra, (packages, use) in EXTRAS.items():
        versions = {name: _version(name) for name in packages}
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            advice = f"pip install 'voxstrata[{extra}]'"
            found.append(Finding(f"extra {extra}", f"not installed: {use}", "missing", advice))
        else:
            held = ", ".join(f"{name} {version}" for name, version in versions.items())
            found.append(Finding(f"extra {extra}", f"{held}: {use}"))
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _formats() -> list[Finding]:
    import soundfile

    names = ", ".join(sorted(soundfile.available_formats())).lower()
    found = [Finding("libsndfile", f"{soundfile.__libsndfile_version__}: {names}")]
    if importlib.util.find_spec("av") is not None:
        import av

        libraries = ".".join(map(str, av.library_versions.get("libavcodec", ())))
        found.append(
            Finding("PyAV", f"{av.__version__}, libavcodec {libraries}: m4a, mp4, webm, wma and others")
        )
    program = shutil.which("ffmpeg")
    found.append(Finding("ffmpeg", f"{program} (not needed)" if program else "no program (not needed)"))
    return found


def _weights() -> list[Finding]:
    import voxstrata
    from voxstrata.runs import sha256_of

    folder = Path(voxstrata.__file__).parent / "weights"
    found = []
    for name, expected in WEIGHTS.items():
        model, path = name.partition("/")[0], folder / name
        if not path.is_file():
            found.append(Finding(f"model {model}", "its weights are not there", "bad", _REINSTALL))
            continue
        digest = sha256_of(path)
        if digest == expected:
            found.append(Finding(f"model {model}", f"SHA-256 {digest[:12]}..., as released"))
        else:
            told = f"SHA-256 {digest[:12]}..., and {expected[:12]}... was released"
            found.append(Finding(f"model {model}", told, "bad", _REINSTALL))
    return found


def _hub(online: bool) -> list[Finding]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    found = [Finding("hub cache", f"{cache}, {models} models")]
    if constants.HF_HUB_OFFLINE:
        return [*found, Finding("hub", "switched off (HF_HUB_OFFLINE): downloaded models alone are found")]
    if not online:
        return [*found, Finding("hub", "not asked; --online asks it")]
    from huggingface_hub import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as fault:
        reason = one_line(str(fault)) or type(fault).__name__
        advice = "connect, or give folders in the place of hub ids"
        return [*found, Finding("hub", f"{constants.ENDPOINT} is not reached: {reason}", "missing", advice)]
    return [*found, Finding("hub", f"{constants.ENDPOINT} is reached")]


def _disk() -> list[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    if not os.access(here, os.W_OK):
        return [Finding("this folder", f"{here} cannot be written to", "bad", "change to another folder")]
    if free < _ROOM:
        told = f"{here} has {free / 1e9:.1f} GB free; a run with its checkpoints takes about 1 GB"
        return [Finding("this folder", told, "bad", "free space, or change to another folder")]
    return [Finding("this folder", f"{here}, {free / 1e9:,.1f} GB free")]


def _runs() -> list[Finding]:
    from voxstrata.errors import CheckpointError
    from voxstrata.inference.best_model import best_model
    from voxstrata.runs import RunFolder

    folder = Path("runs")
    held = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    runs = [RunFolder(path) for path in held if RunFolder(path).recipe.is_file()]
    done = sum(run.is_complete for run in runs)
    found = [Finding("runs", f"{done} complete, {len(runs) - done} not, in {folder.absolute()}")]
    try:
        return [*found, Finding("best model", best_model(folder)[1])]
    except CheckpointError:
        advice = "voxstrata demo, or voxstrata train"
        return [*found, Finding("best model", "none with emotions here", "missing", advice)]


def _default_job() -> list[Finding]:
    import torch

    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.methods.fits import BASE

    samples = torch.sin(torch.arange(16_000) / 10).unsqueeze(0)
    with torch.no_grad():
        states = load_backbone(BASE)(samples, torch.tensor([16_000]))
    if not torch.isfinite(states.layers[-1]).all():
        return [Finding("default encoder", f"{BASE}: its states are not finite", "bad", _REINSTALL)]
    return [Finding("default encoder", f"{BASE} runs: {states}")]


def summary(found: list[Finding]) -> dict[str, Any]:
    """The findings as JSON, with whether training and prediction with the default encoder can run."""
    return {
        "ready": all(finding.state != "bad" for finding in found),
        "python": sys.executable,
        "findings": [finding.as_dict() for finding in found],
    }
