"""Any transformers speech encoder goes the whole way: fine-tuned for both tasks, merged, recognised."""

from pathlib import Path

import pytest
from transformers import HubertConfig, PretrainedConfig, Wav2Vec2Config, WavLMConfig

from voxstrata.backbone.encoder import build_backbone
from voxstrata.experiments.run import execute
from voxstrata.inference.recognizer import Recognizer
from voxstrata.recipes.reading import validate
from voxstrata.runs import RunFolder

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_kernel": (320, 2),
    "conv_stride": (160, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
KINDS = {
    "wavlm": WavLMConfig(feat_extract_norm="layer", do_stable_layer_norm=True, **SIZES),
    "wav2vec2": Wav2Vec2Config(feat_extract_norm="layer", do_stable_layer_norm=True, **SIZES),
    "hubert-group-norm": HubertConfig(feat_extract_norm="group", **SIZES),
}


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
def test_experts_are_fine_tuned_merged_and_heard(
    config: PretrainedConfig, corpus_folder: Path, recordings: list[Path], tmp_path: Path
) -> None:
    build_backbone(config, seed=0).save(tmp_path / "base")
    shared = {
        "base": str(tmp_path / "base"),
        "data": {"corpora": [{"path": str(corpus_folder)}], "batch_size": 4},
        "training": {"epochs": 1},
    }
    said: list[str] = []
    for task in ("asr", "ser"):
        recipe = validate({"system": "finetune", "task": task, **shared}, task)
        execute(recipe, RunFolder(tmp_path / task))
    vectors = {task: str(tmp_path / task) for task in ("asr", "ser")}
    recipe = validate({"system": "adaltm", "vectors": vectors, **shared}, "adaltm")
    execute(recipe, RunFolder(tmp_path / "dual"), notify=said.append)
    assert any("each in exactly one of 3 groups" in line for line in said)
    assert any("a coefficient can move by at most" in line for line in said)
    heard = Recognizer.load(tmp_path / "dual")(recordings[0])
    assert heard.probabilities is not None and abs(sum(heard.probabilities.values()) - 1) < 1e-5
    assert isinstance(heard.transcript, str)
