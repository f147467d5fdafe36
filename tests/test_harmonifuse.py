"""HarmoniFuse: what it computes, what it may see, and that a batch answers as its clips alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tiny_harmonifuse import ASR, GENDER, LABELS, SER, SMALL, build, moved, of, one
from voxstrata.batches.batch import Batch
from voxstrata.errors import RecipeError
from voxstrata.inference.path import predict
from voxstrata.losses import class_balanced_weights, soft_cross_entropy
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.harmonifuse.options import DecodingOptions
from voxstrata.methods.harmonifuse.system import HarmoniFuse


def gradients(system: HarmoniFuse, batch: Batch) -> tuple[set[str], set[str]]:
    """Names of trained parameters that got a gradient, and those that got none."""
    system.zero_grad(set_to_none=True)
    system.loss(batch).backward()
    trained = {id(p) for group in system.parameter_groups() for p in group.parameters}
    named = {name: p for name, p in system.named_parameters() if id(p) in trained}
    reached = {name for name, p in named.items() if p.grad is not None and bool(p.grad.any())}
    return reached, {name for name, p in named.items() if p.grad is None}


def test_gradients_reach_every_part_of_a_task_and_leave_other_tasks_alone(encoder, clips):
    system = moved(build(encoder, (ASR, SER, GENDER), SMALL.but(encoder_trained="all"))).train()
    # Not in the states: the front end is frozen, the others stand behind the last layer or are switched off.
    outside = (".feature_extractor.", "encoder.model.encoder.layer_norm.", ".masked_spec_embed")
    everything = {n for n, _ in system.named_parameters() if not any(part in n for part in outside)}
    own = {
        task: {f"{part}.{task}" for part in ("prompts", "encoder_fusion.logits", "layer_fusion.task_scores")}
        | {f"heads.classes.{task}.{kind}" for kind in ("weight", "bias") if task != "asr"}
        for task in system.tasks
    }
    own["asr"] |= {"heads.tokens.weight", "heads.tokens.bias", "lm.model.embed_tokens.weight"}
    for task in system.tasks:
        reached, without = gradients(system, of(clips, task))
        others = set().union(*(names for name, names in own.items() if name != task))
        assert without & everything == others, task
        # The bias of keys cancels in the softmax of the attention.
        spared = {n for n in everything - others - reached if "k_proj.bias" not in n}
        assert not spared, task


@torch.no_grad()
def test_the_token_loss_is_cross_entropy_written_out(encoder, clips):
    system = moved(build(encoder))
    smoothing, total = SMALL.label_smoothing, 0.0
    for row in range(len(clips)):
        clip = one(clips, row)
        states = encoder(clip.waveforms, clip.lengths)
        speech, counts = system.connector(system.encoder_fusion(states.layers, "asr"), states.lengths)
        x = torch.cat([speech[:, : int(counts)], system.prompts["asr"].unsqueeze(0)], dim=1)
        cost, text = 0.0, [*clip.tokens[0].tolist(), 0]
        for token in text:
            fused = system.layer_fusion(system.lm(x), "asr").states[0, -1]
            log_p = system.heads.tokens(fused).log_softmax(-1)
            cost -= float((1 - smoothing) * log_p[token] + smoothing * log_p.mean())
            x = torch.cat([x, system.lm.embed(torch.tensor([[token]]))], dim=1)
        total += cost / len(text)
    assert system.loss(of(clips, "asr")).item() == pytest.approx(total / len(clips), abs=1e-4)


def test_the_class_loss_is_that_of_the_fused_state_behind_the_prompt(encoder, clips):
    weights = class_balanced_weights(clips.emotion_targets)
    system = moved(build(encoder, (ASR, replace(SER, weight=2.0)), class_weights={"ser": weights}))
    fused = system.prompt_state(clips, "ser")
    logits = system.heads.classes["ser"](fused.states[:, 0])
    expected = 2 * soft_cross_entropy(logits, clips.emotion_targets, weights).mean()
    torch.testing.assert_close(system.loss(of(clips, "ser")), expected)
    assert fused.alpha.shape == (6, 1, 3)


def test_later_tokens_change_nothing_before_them(encoder, clips):
    system = moved(build(encoder))
    states = encoder(clips.waveforms, clips.lengths)
    lengths = torch.full((6,), 4)
    tokens = torch.tensor([[1, 2, 1, 2]]).repeat(6, 1)
    other = torch.tensor([[1, 2, 2, 1]]).repeat(6, 1)
    found = [system._token_logits(states, ASR, text, lengths) for text in (tokens, other)]
    torch.testing.assert_close(found[0][:, :3], found[1][:, :3], atol=1e-6, rtol=0)
    assert (found[0][:, 3:] - found[1][:, 3:]).abs().max() > 1e-3


@pytest.mark.parametrize("words", [False, True])
def test_a_batch_answers_as_its_clips_alone(words, encoder, clips):
    options = SMALL.but(class_answers="words" if words else "head")
    system = moved(build(encoder, (ASR, SER, GENDER), options, letters="abcdefghijklmnopqrstuvwxyz"))
    whole = replace(clips, task=None)
    together = list(predict(system, [whole]))
    padded = replace(whole, waveforms=torch.nn.functional.pad(whole.waveforms, (0, 3000)))
    alone = [row for i in range(6) for row in predict(system, [one(whole, i)])]
    for rows in (alone, list(predict(system, [padded]))):
        for a, b in zip(together, rows, strict=True):
            assert a.transcript == b.transcript and a.emotion == b.emotion
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
            assert a.classes["gender"] == pytest.approx(b.classes["gender"], abs=1e-5)
    assert len({row.transcript for row in together}) > 1
    for task in ("asr", "ser", "gender"):
        losses = [system.loss(one(of(clips, task), row)).item() for row in range(6)]
        assert system.loss(of(clips, task)).item() == pytest.approx(sum(losses) / 6, abs=1e-5)


@pytest.mark.parametrize("beam", [1, 3])
def test_the_cache_changes_no_transcript(beam, encoder, clips):
    texts = []
    for cache in (True, False):
        options = SMALL.but(decoding=DecodingOptions(beam=beam, cache=cache))
        rows = predict(moved(build(encoder, options=options)), [of(clips, "asr")])
        texts.append([row.transcript for row in rows])
    assert texts[0] == texts[1] and any(texts[0])


def test_a_row_holds_what_was_asked_and_the_truth(encoder, clips):
    references = tuple(replace(r, classes={"gender": "male", "age": "old"}) for r in clips.references)
    clips = replace(clips, references=references)
    system = build(encoder, (ASR, SER, GENDER)).eval()
    fixed = {"id", "path", "speaker"}
    words = {"transcript", "reference_transcript"}
    emotion = {"emotion", "probabilities", "reference_emotion"}
    classes = {"classes", "reference_classes"}
    for task, fields in {
        "asr": words, "ser": emotion, "gender": classes, None: words | emotion | classes
    }.items():  # fmt: skip
        row = next(predict(system, [of(clips, task)])).as_dict()
        assert row.keys() == fixed | fields
    assert row["reference_classes"] == {"gender": "male"}
    assert sum(row["classes"]["gender"].values()) == pytest.approx(1)
    assert row["probabilities"].keys() == set(LABELS)


def test_the_summary_tells_gates_and_the_mean_of_alpha(encoder, clips):
    system = moved(build(encoder))
    for task in ("asr", "ser"):
        system.loss(of(clips, task))
    alpha = system.prompt_state(clips, "ser").alpha[:, 0].mean(0).tolist()
    summary = system.summary()
    assert [summary[f"alpha/ser/{layer}"] for layer in (1, 2, 3)] == pytest.approx(alpha, abs=1e-6)
    for name in ("gate/asr", "gate/ser", "alpha/asr", "alpha/ser"):
        values = [value for key, value in summary.items() if key.startswith(name)]
        assert len(values) == (2 if "gate" in name else 3) and sum(values) == pytest.approx(1)
    system.train()
    assert not any(key.startswith("alpha") for key in system.summary())


def test_prompt_and_scalars_can_be_swapped_one_by_one(encoder, clips):
    system = moved(build(encoder))
    own = system.prompt_state(clips, "ser").alpha
    other_prompt = system.prompt_state(clips, "ser", prompt=system.prompts["asr"]).alpha
    other_scalars = system.prompt_state(clips, "asr", prompt=system.prompts["ser"], gate="ser").alpha
    both = system.prompt_state(clips, "asr").alpha
    found = [own, other_prompt, other_scalars, both]
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(found) for b in found[:i])


def test_known_states_of_a_frozen_encoder_take_its_place(encoder, clips):
    system = moved(build(encoder))
    states = encoder(clips.waveforms, clips.lengths)
    known = replace(
        clips, waveforms=clips.waveforms[:, :0], states=torch.stack(states.layers), frames=states.lengths
    )
    for task in ("asr", "ser"):
        torch.testing.assert_close(system.loss(of(known, task)), system.loss(of(clips, task)))
    trained = build(encoder, options=SMALL.but(encoder_trained="all"))
    with pytest.raises(RecipeError, match="give it waveforms"):
        trained.loss(of(known, "asr"))


@pytest.mark.parametrize("trained", ["none", "all"])
def test_a_merged_encoder_goes_in_its_place(trained, encoder, expert_folders, clips):
    vectors = {name: TaskVector.between(encoder, folder) for name, folder in expert_folders.items()}
    merged = MergedBackbone(encoder, vectors)
    system = moved(build(merged, options=SMALL.but(encoder_trained=trained))).train()
    system.loss(of(clips, "ser")).backward()
    coefficients = merged.coefficients
    if trained == "all":
        assert (coefficients.grad.abs() > 0).all()
        group = next(group for group in system.parameter_groups() if group.name == "encoder")
        assert group.parameters == (coefficients,) and group.weight_decay == 0
    else:
        assert coefficients.grad is None and "encoder" not in {
            group.name for group in system.parameter_groups()
        }
    rows = list(predict(system, [of(clips, None)]))
    assert rows[0].transcript is not None and rows[0].emotion in LABELS
