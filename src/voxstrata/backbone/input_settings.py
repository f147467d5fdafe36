"""What an encoder expects of its input: settings that change its states and stand in no weight.

Two checkpoints of the same shapes can only be merged if both were trained on input prepared in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxstrata.backbone.families.registry import family_of
from voxstrata.backbone.folder import read_normalize
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Settings of config.json under which the same weights give other states.
_SETTINGS = (
    *("num_attention_heads", "encoder_attention_heads", "hidden_act", "activation_function"),
    *("feat_extract_norm", "feat_extract_activation", "do_stable_layer_norm", "layer_norm_eps"),
    *("conv_kernel", "conv_stride", "num_conv_pos_embedding_groups", "num_buckets", "max_bucket_distance"),
    *("num_mel_bins", "position_embeddings_type"),
)
#: Settings of preprocessor_config.json, beside the normalisation.
_FEATURES = ("sampling_rate", "feature_size", "hop_length", "n_fft")


@dataclass(frozen=True)
class InputSettings:
    """How the input of an encoder is prepared, as far as it is known.

    Args:
        normalize: whether waveforms are normalised; None if unknown.
        window: "clip" or "30s"; None if unknown.
        settings: name -> value of options under which the same weights give other states.
    """

    normalize: bool | None = None
    window: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def input_settings_of(
    config: PretrainedConfig, *, normalize: bool, window: str | None = None
) -> InputSettings:
    """The input settings of an encoder that is loaded.

    Args:
        config: of the encoder.
        normalize: whether its waveforms are normalised.
        window: of its input.
    """
    features = family_of(config).preprocessor(config, normalize=normalize)
    settings = {name: features[name] for name in _FEATURES if name in features}
    settings |= {name: getattr(config, name) for name in _SETTINGS if getattr(config, name, None) is not None}
    return InputSettings(normalize, window, {"model_type": config.model_type, **settings})


def stored_input_settings(place: Path, stored: Mapping[str, Any]) -> InputSettings:
    """The input settings that the files around a checkpoint state.

    Args:
        place: its folder, or a file in it.
        stored: what a torch file holds beside its tensors.

    Raises:
        CheckpointError: if one of the files is no JSON object.
    """
    folder = place if place.is_dir() else place.parent
    normalize = read_normalize(folder)
    if normalize is None and isinstance(cfg := stored.get("cfg"), Mapping) and "normalize" in cfg:
        normalize = bool(cfg["normalize"])
    features, config = _object(folder / "preprocessor_config.json"), _object(folder / "config.json")
    settings = {name: features[name] for name in _FEATURES if name in features}
    settings |= {name: config[name] for name in ("model_type", *_SETTINGS) if config.get(name) is not None}
    window = None
    if folder.name == "encoder" and (model := _object(folder.parent / "model.json")):
        # Written only where it is not "clip".
        window = str(model.get("window", "clip"))
    return InputSettings(normalize, window, settings)


def require_same_input(expert: str, theirs: InputSettings, base: InputSettings) -> list[str]:
    """Refuses an expert that expects its input in another form than the base that it is to be merged into.

    Args:
        expert: its name, the begin of the error's line.
        theirs: of the expert.
        base: of the base.

    Returns:
        Warnings: another window of input is allowed.

    Raises:
        CheckpointError: naming the settings that differ.
    """
    odd = []
    if None not in (theirs.normalize, base.normalize) and theirs.normalize != base.normalize:
        shown = ["normalised" if one.normalize else "as they are" for one in (theirs, base)]
        odd.append(f"takes waveforms {shown[0]} (do_normalize), the base {shown[1]}")
    same_type = theirs.settings.get("model_type") == base.settings["model_type"]
    for name in (*_FEATURES, *(_SETTINGS if same_type else ())):
        ours, other = base.settings.get(name), theirs.settings.get(name)
        if None not in (ours, other) and _plain(ours) != _plain(other):
            odd.append(f"has {name} {other}, the base {ours}")
    if odd:
        raise CheckpointError(
            f"{expert} expects its input in another form than the base: it {'; it '.join(odd)}; give one "
            "that was trained as the base is run, set normalize to what both take, or allow a foreign expert "
            "(allow_foreign)"
        )
    if None not in (theirs.window, base.window) and theirs.window != base.window:
        return [f"trained with window {theirs.window}, and merged into a base with window {base.window}"]
    return []


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    if not path.is_file():
        return {}
    return read_json_object(path, error=CheckpointError, advice="fetch it again, or remove it")
