"""What comes with the package: small enough, loadable, of one family, and hearing words."""

from pathlib import Path

import pytest

import voxstrata
from voxstrata.backbone.encoder import load_backbone
from voxstrata.corpora.synthetic.voices import timbres
from voxstrata.evaluation.score import score
from voxstrata.experiments.leaks.training_clips import training_clips_of
from voxstrata.inference.recognizer import Recognizer
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.runs import sha256_of

WEIGHTS = Path(voxstrata.__file__).parent / "weights"


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_package_stays_small() -> None:
    assert size(WEIGHTS / "wavlm-tiny") <= 4.5e6
    assert size(WEIGHTS) <= 30e6


def test_the_model_card_names_these_weights() -> None:
    card = (Path(__file__).parents[1] / "MODEL_CARD.md").read_text(encoding="utf-8")
    for folder in ("whisper-tiny.en", "wavlm-tiny", "wavlm-tiny-asr/encoder"):
        assert f"`{sha256_of(WEIGHTS / folder / 'model.safetensors')}`" in card, folder


def test_what_the_packaged_models_heard_is_told_and_no_test_voice_is_in_it() -> None:
    base, expert = (training_clips_of(name, "it") for name in ("wavlm-tiny", "wavlm-tiny-asr"))
    assert not base.unknown and not expert.unknown
    assert {use.stage for use in base.uses} == {"pretraining", "selection"}
    assert set(base.uses) < set(expert.uses) and {use.stage for use in expert.uses} >= {"fine-tuning"}
    heard = {clip.speaker for use, clips in expert.uses.items() if use.stage != "selection" for clip in clips}
    kept_for_tests = {f"synthetic-{name}" for split in ("dev", "test") for name in timbres(split)}
    assert len(heard) > 300 and not {str(name).rsplit(".", 1)[0] for name in heard} & kept_for_tests


def test_wavlm_tiny_is_wavlm_as_transformers_builds_it() -> None:
    base = load_backbone("wavlm-tiny")
    assert type(base.model).__name__ == "WavLMModel"
    assert base.model.config.feat_extract_norm == "layer" and base.normalize


def test_the_packaged_whisper_says_whose_it_is() -> None:
    notice = (Path(__file__).parents[1] / "NOTICE").read_text(encoding="utf-8")
    licence = (WEIGHTS / "whisper-tiny.en" / "LICENSE").read_text(encoding="utf-8")
    assert "whisper-tiny.en" in notice and "MIT" in notice and "OpenAI" in notice
    assert licence.startswith("MIT License") and "Copyright (c) 2022 OpenAI" in licence


def test_the_packaged_expert_comes_from_the_packaged_base() -> None:
    vector = TaskVector.between(load_backbone("wavlm-tiny"), "wavlm-tiny-asr")
    assert vector.kinship > 0.5
    front = [name for name in vector.deltas if name.startswith("feature_extractor.")]
    assert front and not any(bool(vector.deltas[name].any()) for name in front)


@pytest.mark.slow
def test_the_packaged_expert_hears_words_of_unheard_voices(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.experiments.tables.corpora import prepare_corpus
    from voxstrata.experiments.tables.table import CorpusSpec
    from voxstrata.predictions import Prediction

    spec = CorpusSpec(synth={"clips": [0, 0, 40], "voices": [0, 0, 10], "seed": 77})
    corpus: PreparedCorpus = prepare_corpus("unheard", spec, tmp_path, None, lambda what, done, total: None)
    expert = Recognizer.load(WEIGHTS / "wavlm-tiny-asr")
    rows = []
    for cut in corpus.cuts("test"):
        heard = expert(cut.recording.sources[0].source)
        rows.append(
            Prediction(id=cut.id, transcript=heard.transcript, reference_transcript=cut.supervisions[0].text)
        )
    wer = score(rows).as_dict()["transcript"]["wer"]["value"]
    # Measured .57 on 200 clips of 20 voices; a net that stays on blank has 1.
    assert wer < 0.7, wer
