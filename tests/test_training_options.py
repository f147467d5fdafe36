"""Options of the loop, and the learning rate as a function of the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.config.training import Training
from voxstrata.training.learning import lr_factor


@pytest.mark.parametrize(
    "values",
    [
        {}, {"epochs": 1, "steps": 1}, {"steps": 0}, {"steps": 1, "precision": "fp16"},
        {"steps": 1, "schedule": "step"}, {"steps": 1, "clip_norm": 0.0}, {"steps": 1, "patience": 0},
        {"steps": 1, "warmup_steps": -1}, {"steps": 1, "accumulate": 0}, {"steps": 1, "warmup": 1.0},
        {"steps": 1, "warmup": -0.1}, {"steps": 9, "warmup": 0.1, "warmup_steps": 1},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Training"):
        Training(**values)  # type: ignore[arg-type]


@given(st.integers(1, 500), st.integers(0, 600), st.sampled_from(["constant", "linear", "cosine"]), st.data())
def test_schedule_rises_then_never_rises_again(
    total: int, warmup: int, schedule: str, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total - 1))
    here, after = (lr_factor(s, total=total, warmup=warmup, schedule=schedule) for s in (step, step + 1))
    assert 0 < here <= 1
    assert after >= here if step < warmup else after <= here
    assert lr_factor(warmup, total=total + warmup, warmup=warmup, schedule=schedule) == 1.0


@given(st.integers(1, 10_000), st.integers(0, 99))
def test_a_share_of_the_steps_is_so_many_of_them(total: int, percent: int) -> None:
    options = Training(steps=total, warmup=percent / 100)
    assert options.warmup_of(total) == total * percent // 100 < total
    assert Training(steps=total, warmup_steps=percent).warmup_of(total) == percent
