"""Rows of a table and their differences, from the predictions of its runs."""

import json
from pathlib import Path

import pytest

from small_tables import SWEEP, planned_run, table
from voxstrata.experiments.tables.contrasts import changes_of, contrasts_of
from voxstrata.experiments.tables.planned_runs import PlannedRun
from voxstrata.experiments.tables.results import markdown
from voxstrata.experiments.tables.rows import rows_of
from voxstrata.predictions import Prediction, write_predictions
from voxstrata.recipes.reading import merged_values, validate
from voxstrata.reporting.runs_table import Table as Finished
from voxstrata.runs import RunFolder


@pytest.mark.parametrize(("choose", "chosen"), [("uar", "joint.2"), ("wer", "joint.3")])
def test_a_row_shows_the_setting_that_is_best_on_dev(choose, chosen, tmp_path):
    content = table(merged_values(SWEEP, {"rows": [{"run": "joint", "title": "Joint", "choose": choose}]}))
    at = content.scale("small")
    # What each setting answers to four clips of either split: emotions, and one transcript for all.
    dev = {
        "joint.1": ("aabb", "x"),
        "joint.2": ("abab", "x"),
        "joint.3": ("bbbb", "go"),
        "joint.4": ("bbbb", "x"),
    }
    planned = []
    for name, (emotions, words) in dev.items():
        run = RunFolder(tmp_path / name)
        for split, answers in (("dev", emotions), ("test", "aaaa")):
            rows = [
                Prediction(f"{n}", speaker=f"s{n}", emotion=answer, reference_emotion="abab"[n],
                           transcript=words, reference_transcript="go")
                for n, answer in enumerate(answers)
            ]  # fmt: skip
            write_predictions(run.predictions(split), rows)
        recipe = validate({"system": "statistics"}, name)
        planned.append(planned_run(name, recipe, run, (("$seed", 0), ("$fold", None), ("$part", None))))
    (found,) = rows_of(content, at, planned)
    row = found.as_dict(content.columns, tmp_path / "tables" / "t")
    assert row["runs"] == [f"../../{chosen}"]
    point = content.members(at, "joint")[chosen]
    assert row["title"] == f"Joint (asr_weight {point['asr_weight']}, rates.encoder {point['rates.encoder']})"
    assert row["metrics"]["uar"]["value"] == 0.5
    assert [tried["asr_weight"] for tried in row["tried_on_dev"]] == [0.1, 0.1, 1.0, 1.0]
    scores = [tried[choose] for tried in row["tried_on_dev"]]
    assert scores == ([0.5, 1.0, 0.5, 0.5] if choose == "uar" else [1.0, 1.0, 0.0, 1.0])


def test_contrasts_are_paired_over_the_clips_of_both_rows(tmp_path):
    content = table({"contrasts": [{"run": "dual", "over": "single"}]})
    at = content.scale("small")

    def planned(name: str, answers: str, words: str | None = None) -> PlannedRun:
        run = RunFolder(tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
        rows = [
            Prediction(f"{n}", speaker=f"s{n}", emotion=answer, reference_emotion="abab"[n % 4])
            for n, answer in enumerate(answers)
        ]
        if words is not None:
            # A clip of its own, which the other row does not have.
            rows.append(Prediction("w", speaker="w", transcript=words, reference_transcript="go"))
        write_predictions(run.predictions("test"), rows)
        return planned_run(
            name, validate({"system": "statistics"}, name), run, (("$seed", 0), ("$fold", 1), ("$part", 2))
        )

    rows = rows_of(content, at, [planned("dual", "ababaaaa", "go"), planned("single", "aaaaaaaa")])
    (found,) = contrasts_of(content, rows)
    assert (found["name"], found["title"]) == ("dual - single", "Dual, less Single")
    assert found["clips"] == 8
    difference = found["differences"]["uar"]
    assert (difference["a"], difference["b"], difference["difference"]) == (0.5, 0.75, 0.25)
    assert difference["unit"] == "speaker" and difference["interval"][0] >= 0
    assert "wer" not in found["differences"]
    # One row alone has no difference to tell.
    assert contrasts_of(content, rows[:1]) == []
    stranger = planned("single", "")
    write_predictions(
        stranger.folder.predictions("test"), [Prediction("z", emotion="a", reference_emotion="a")]
    )
    (lost,) = contrasts_of(content, rows_of(content, at, [planned("dual", "abab"), stranger]))
    assert lost["title"].startswith("Dual, less Single: not compared (") and not lost["differences"]


def test_contrasts_are_compared_between_the_first_and_the_last_variant(tmp_path):
    content = table({"contrasts": [{"run": "dual", "over": "single"}]})

    def rows(variant: str, **answers: str):
        planned = []
        for name, answered in answers.items():
            run = RunFolder(tmp_path / f"{name}-{variant}")
            write_predictions(
                run.predictions("test"),
                [
                    Prediction(
                        f"{variant}{n}", speaker=f"s{n % 4}", emotion=answer, reference_emotion="ab"[n % 2]
                    )
                    for n, answer in enumerate(answered)
                ],
            )
            point = (("$seed", 0), ("$fold", None), ("$part", None))
            planned.append(planned_run(name, validate({"system": "statistics"}, name), run, point))
        return rows_of(content, content.scale("small"), planned, variant)

    first = rows("strength 0", dual="aaaaaaaa", single="aaaaaaaa")
    middle = rows("strength 0.5", dual="bbbbbbbb", single="aaaaaaaa")
    last = rows("strength 1", dual="abababaa", single="aaaaaaaa")
    (found,) = changes_of(content, {"strength 0": first, "strength 0.5": middle, "strength 1": last})
    assert found["name"] == "dual - single, strength 1, less strength 0"
    assert found["title"] == "Dual, less Single: strength 1, less strength 0"
    assert found["clips"] == 16
    change = found["differences"]["uar"]
    assert (change["a"], change["b"], change["difference"]) == (0, 0.375, 0.375)
    assert change["unit"] == "speaker"
    assert changes_of(content, {"": first}) == []


def answered(
    folder: Path,
    name: str,
    answers: str,
    point: dict,
    split: str = "test",
    *,
    speakers: int = 4,
    truth: str = "ab",
) -> PlannedRun:
    """A run that gives these answers to clips whose emotions are a, b, a, b ... of four speakers."""
    run = RunFolder(folder)
    rows = [
        Prediction(f"{n}", speaker=f"s{n % speakers}", emotion=answer, reference_emotion=truth[n % 2])
        for n, answer in enumerate(answers)
    ]
    write_predictions(run.predictions(split), rows)
    full = {"$seed": 0, "$fold": None, "$part": None} | point
    return planned_run(name, validate({"system": "statistics"}, name), run, tuple(full.items()))


def test_a_setting_is_chosen_for_each_fold_by_its_own_dev_speakers(tmp_path):
    content = table(merged_values(SWEEP, {"rows": [{"run": "joint", "title": "Joint"}]}))
    at = content.scale("small")
    best = {1: "joint.2", 2: "joint.3"}
    planned = []
    for fold in best:
        for name in content.members(at, "joint"):
            folder = tmp_path / f"{name}-{fold}"
            answered(folder, name, "abab" if name == best[fold] else "aaaa", {"$fold": fold}, "dev")
            planned.append(answered(folder, name, "abaa", {"$fold": fold}))
    (found,) = rows_of(content, at, planned)
    assert found.title == "Joint (chosen for each fold)"
    assert [run.folder.path.name for run in found.runs] == ["joint.2-1", "joint.3-2"]
    assert found.tried is not None
    assert [(tried["fold"], tried["uar"]) for tried in found.tried] == [
        (1, 0.5), (1, 1.0), (1, 0.5), (1, 0.5), (2, 0.5), (2, 0.5), (2, 1.0), (2, 0.5)
    ]  # fmt: skip
    # One run for both parts is one row of what was tried.
    shared = [run for run in planned if dict(run.point)["$fold"] == 1]
    twice = [
        planned_run(run.name, run.recipe, run.folder, (("$seed", 0), ("$fold", 1), ("$part", part)))
        for part in (1, 2)
        for run in shared
    ]
    (row,) = rows_of(content, at, twice)
    assert row.tried is not None and len(row.tried) == 4 and row.title.startswith("Joint (asr_weight ")


def test_a_run_that_hangs_on_no_part_is_compared_with_every_part(tmp_path):
    content = table({"contrasts": [{"run": "dual", "over": "single"}]})
    single = [answered(tmp_path / "single", "single", "abab", {"$part": part}) for part in (1, 2)]
    dual = [
        answered(tmp_path / f"dual-{part}", "dual", answers, {"$part": part})
        for part, answers in ((1, "aaaa"), (2, "abab"))
    ]
    rows = rows_of(content, content.scale("small"), [*single, *dual])
    (found,) = contrasts_of(content, rows)
    values = {row.spec.run: row.as_dict(content.columns, tmp_path) for row in rows}
    assert values["single"]["runs"] == ["single"] and len(values["dual"]["runs"]) == 2
    uar = {name: row["metrics"]["uar"]["value"] for name, row in values.items()}
    assert uar == {"single": 1, "dual": 0.75}
    assert (found["clips"], found["differences"]["uar"]["difference"]) == (4, -0.25)


def test_two_runs_that_hang_on_no_fold_are_compared_once(tmp_path):
    content = table({"contrasts": [{"run": "dual", "over": "single"}]})
    answers = {"dual": "abababab", "single": "aaaabbab"}
    planned = [
        answered(tmp_path / name, name, told, {"$fold": fold})
        for name, told in answers.items()
        for fold in (1, 2, 3)
    ]
    (found,) = contrasts_of(content, rows_of(content, content.scale("small"), planned))
    once = [run for run in planned if dict(run.point)["$fold"] == 1]
    (alone,) = contrasts_of(content, rows_of(content, content.scale("small"), once))
    assert found["clips"] == 8 and found["differences"] == alone["differences"]


def finished_table(**content: object) -> Finished:
    """As it is read from its file."""
    return Finished.model_validate_json(json.dumps(content))


def test_few_speakers_are_told_below_the_rows_that_have_them(tmp_path):
    content = table()
    planned = [answered(tmp_path / name, name, "abab", {}) for name in ("dual", "single")]
    rows = [
        row.as_dict(content.columns, tmp_path) for row in rows_of(content, content.scale("small"), planned)
    ]
    told = "only 4 speakers: an interval by speaker is rough, and more likely too narrow"
    assert [row["warnings"] for row in rows] == [[told], [told]]
    finished = finished_table(table="t", columns=content.columns, rows=rows)
    assert f"Read with care: {told}.\n" in markdown(finished)
    rows[0]["warnings"] = []
    assert finished_table(table="t", columns=content.columns, rows=rows).warnings == [f"{told} (Single)"]


def test_each_seed_is_told_beside_the_mean(tmp_path):
    content = table()
    planned = [
        answered(tmp_path / f"{name}-{seed}", name, answers, {"$seed": seed})
        for name, seed, answers in (("dual", 0, "abab"), ("dual", 1, "aaaa"), ("single", 0, "abab"))
    ]
    rows = [
        row.as_dict(content.columns, tmp_path) for row in rows_of(content, content.scale("small"), planned)
    ]
    assert rows[0]["metrics"]["uar"]["value"] == 0.75
    assert [row["metrics"]["uar"]["by_seed"] for row in rows] == [[1.0, 0.5], []]
    told = markdown(finished_table(table="t", columns=("uar",), rows=rows))
    assert told.count("each seed") == 1 and "| Dual | 100.0, 50.0 |" in told
    alone = markdown(finished_table(table="t", columns=("uar",), rows=rows[1:]))
    assert "each seed" not in alone


def seeds_of(tmp_path, speakers: int, **answers: list[str]) -> list[PlannedRun]:
    """Runs of rows with one seed for each string of answers."""
    return [
        answered(tmp_path / f"{name}-{seed}", name, told, {"$seed": seed}, speakers=speakers)
        for name, of_seeds in answers.items()
        for seed, told in enumerate(of_seeds)
    ]


@pytest.mark.parametrize("speakers", [1, 4])
def test_a_further_seed_with_the_same_answers_changes_no_interval(speakers, tmp_path):
    content = table({"contrasts": [{"run": "dual", "over": "single"}]})
    answers = {"dual": ["abababbb"], "single": ["aaaabbab"]}
    found = []
    for times in (1, 4):
        planned = seeds_of(tmp_path / str(times), speakers, **{n: a * times for n, a in answers.items()})
        rows = rows_of(content, content.scale("small"), planned)
        metrics = [row.as_dict(content.columns, tmp_path)["metrics"] for row in rows]
        for of_row in metrics:
            for metric in of_row.values():
                metric.pop("by_seed")
        found.append((metrics, contrasts_of(content, rows)))
    assert found[0] == found[1]
    assert found[0][1][0]["differences"]["uar"]["unit"] == ("clip" if speakers == 1 else "speaker")


def test_parts_that_give_the_same_answers_change_no_interval(tmp_path):
    content = table()
    once, twice = (
        rows_of(
            content,
            content.scale("small"),
            [
                answered(tmp_path / f"{len(parts)}-{name}-{part}", name, "abababbb", {"$part": part})
                for name in ("dual", "single")
                for part in parts
            ],
        )
        for parts in ((1,), (1, 2))
    )
    first, second = (rows[0].as_dict(content.columns, tmp_path)["metrics"]["uar"] for rows in (once, twice))
    assert first["value"] == second["value"] and first["speaker"] == second["speaker"]
    assert first["iid"][1] - first["iid"][0] == pytest.approx(second["iid"][1] - second["iid"][0], abs=0.1)


def test_macro_f1_over_seeds_is_a_mean_in_rows_intervals_and_differences(tmp_path):
    content = table({"contrasts": [{"run": "dual", "over": "single"}]})
    planned = seeds_of(tmp_path, 4, dual=["a" * 8, "b" * 8], single=["a" * 8, "a" * 8])
    rows = rows_of(content, content.scale("small"), planned)
    score = rows[0].as_dict(("macro_f1",), tmp_path)["metrics"]["macro_f1"]
    assert score["by_seed"] == pytest.approx([1 / 3, 1 / 3]) and score["value"] == pytest.approx(1 / 3)
    assert score["speaker"][0] <= 1 / 3 <= score["speaker"][1]
    (found,) = contrasts_of(content, rows)
    assert found["differences"]["macro_f1"]["difference"] == pytest.approx(0)


def test_a_change_that_cannot_be_compared_is_told_and_ends_no_table(tmp_path):
    content = table({"contrasts": [{"run": "dual", "over": "single"}]})
    rows = {}
    for variant, single in (("strength 0", "abab"), ("strength 1", "ab")):
        planned = [
            answered(tmp_path / variant / name, name, told, {}, truth=truth)
            for name, told, truth in (("dual", "abab", "ab"), ("single", single, "ba"))
        ]
        rows[variant] = rows_of(content, content.scale("small"), planned, variant)
    (found,) = changes_of(content, rows)
    assert found["differences"] == {} and "not compared (reference_emotion differs" in found["title"]
