"""Substitutions, deletions and insertions on the page of a run."""

from __future__ import annotations

from pathlib import Path

from voxstrata.evaluation.score import score
from voxstrata.predictions import Prediction, write_predictions
from voxstrata.reporting import write_report
from voxstrata.runs import RunFolder, write_json


def test_word_errors_by_kind_stand_on_the_page(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "asr")
    texts = [("go on now", "go in"), ("a b c d e", "a b c d e f")]
    rows = [
        Prediction(str(n), reference_transcript=true, transcript=heard)
        for n, (true, heard) in enumerate(texts)
    ]
    write_predictions(run.predictions("test"), rows)
    run.recipe.write_text("system: finetune\n")
    write_json(run.provenance, {})
    write_json(run.metrics, {"test": score(rows, resamples=5).as_dict()})
    page = " ".join(write_report(run).read_text(encoding="utf-8").split())
    assert "Substitutions 1 (12.5 %), deletions 1 (12.5 %), insertions 1 (12.5 %)." in page
