"""What sets a HarmoniFuse model's layer weights: the task's prompt, its scalars s, or the clip (2509.18570).

alpha = softmax_l(s^tau_l + FFN(h_l)): the task enters twice, by the prompt through h and by the index of s.
Here each is swapped for another task's, alone and together; the encoder's gate and the head stay those of the
task asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from voxstrata.backbone.encoder import States
from voxstrata.batches.batch import Batch
from voxstrata.errors import CheckpointError
from voxstrata.methods.harmonifuse.system import HarmoniFuse

#: What is taken from the other task.
OWN, PROMPT, SCALARS, BOTH = "own", "prompt", "scalars", "both"
SWAPS = (OWN, PROMPT, SCALARS, BOTH)
#: Prompts from one task's to another's, both counted.
PATH_POINTS = 9


@dataclass(frozen=True)
class PathPoint:
    """A prompt between two.

    Args:
        share: of the other task's embedding; the rest is the own one's.
        alpha: by layer 1..L, mean over clips, with the own s.
        distance: total variation from the alpha of share 0, mean over clips; in [0, 1].
    """

    share: float
    alpha: tuple[float, ...]
    distance: float


@dataclass(frozen=True)
class SwappedPair:
    """A task that is asked, and another whose prompt and s are taken; None where there is no such thing.

    Args:
        asked: the task; its gate and its head stay.
        other: the other.
        alpha: swap ("own", "prompt", "scalars", "both") -> weights of layers 1..L, mean over clips.
        distance: swap -> total variation of alpha from the own one, clip by clip, their mean; in [0, 1].
        path: along `PATH_POINTS` prompts from the own one to the other.
        changed: swap -> share of clips whose class is another than without the swap.
    """

    asked: str
    other: str
    alpha: Mapping[str, tuple[float, ...] | None]
    distance: Mapping[str, float | None]
    path: tuple[PathPoint, ...] | None
    changed: Mapping[str, float | None]


@dataclass(frozen=True)
class Shares:
    """Shares of the variance of the scores; see `shares_of_variance`.

    Args:
        scalars: of s alone.
        network_mean: of the network's mean over clips, for each task and layer.
        network_variation: of what the network gives a clip beyond that mean.
        covariance: of s with the network's mean, twice; half of it stands in each of these two shares.
        variance: that they are shares of.
    """

    scalars: float
    network_mean: float
    network_variation: float
    covariance: float
    variance: float


@dataclass(frozen=True)
class PromptSwaps:
    """What was found.

    Args:
        clips: each was asked every task.
        tasks: of the model.
        pairs: every task with every other.
        shares: over all tasks; None where there are no scores, or all are equal.
        notes: what is not there, and why.
    """

    clips: int
    tasks: tuple[str, ...]
    pairs: tuple[SwappedPair, ...]
    shares: Shares | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.no_grad()
def swap_prompts(
    model: HarmoniFuse, batches: Iterable[Batch], advance: Callable[[int], None] | None = None
) -> PromptSwaps:
    """Asks a model every task of every clip, with its own prompt and s and with those of other tasks.

    Args:
        model: in eval mode; on the device that it is to run on.
        batches: each clip once; what they tell of the clips is not used.
        advance: called with the clips done.

    Raises:
        CheckpointError: if the model has one task only.
    """
    if len(model.tasks) < 2:
        raise CheckpointError(
            f"this model has the one task {next(iter(model.tasks))}, and prompts are swapped between two; "
            "give a run with several tasks"
        )
    pairs = [_Pair(model, asked, other) for asked, other in permutations(model.tasks, 2)]
    network: dict[str, list[Tensor]] = defaultdict(list)
    clips = 0
    for batch in batches:
        batch = batch.to(next(model.parameters()).device)
        states: States = model.encoder(batch.waveforms, batch.lengths)
        own = {task: model.prompt_layers(states, task) for task in model.tasks}
        for task, layers in own.items():
            network[task].append(_network_scores(model, layers))
        for pair in pairs:
            pair.take(states, own[pair.asked])
        clips += len(batch)
        if advance is not None:
            advance(clips)
    shares = _shares(model, [torch.cat(network[task]) for task in model.tasks])
    found = tuple(pair.found() for pair in pairs)
    return PromptSwaps(clips, tuple(model.tasks), found, shares, tuple(_notes(model, shares)))


def shares_of_variance(scalars: Tensor, network: Tensor) -> Shares | None:
    """Which part of the scores explains how much of their variance, over tasks, clips and layers.

    A score before the softmax is z[t,i,l] = s[t,l] + f[t,i,l] of task t, clip i and layer l, where f is the
    network's. All are centred over l first, as the softmax sees nothing else. Let m[t,l] be the mean of f
    over clips, v = f - m, and <a, b> the mean of a b over t, i and l. Since v sums to zero over the clips,

        Var z = <s, s> + 2 <s, m> + <m, m> + <v, v>

    and each part's share is its covariance with z:

        s: (<s, s> + <s, m>) / Var z,   m: (<m, m> + <s, m>) / Var z,   v: <v, v> / Var z.

    They sum to 1. A share of s or m below 0 says that it works against the larger other one.

    Args:
        scalars: s [T, L].
        network: f [T, N, L].

    Returns:
        None where all scores of a task and clip are equal.

    >>> s, f = torch.tensor([[1.0, -1.0]]), torch.tensor([[[0.0, 0.0], [2.0, -2.0]]])
    >>> shares_of_variance(s, f)
    Shares(scalars=0.4, network_mean=0.4, network_variation=0.2, covariance=0.4, variance=5.0)
    """
    s, f = (part.double() - part.double().mean(-1, keepdim=True) for part in (scalars, network))
    m = f.mean(1)
    ss, sm, mm = (float((a * b).mean()) for a, b in ((s, s), (s, m), (m, m)))
    vv = float((f - m.unsqueeze(1)).square().mean())
    variance = ss + 2 * sm + mm + vv
    if variance <= 0:
        return None
    return Shares((ss + sm) / variance, (mm + sm) / variance, vv / variance, 2 * sm / variance, variance)


class _Pair:
    """Takes up what the clips give for a task asked and another."""

    def __init__(self, model: HarmoniFuse, asked: str, other: str) -> None:
        self.model, self.asked, self.other = model, asked, other
        self.weighed = model.layer_fusion.scores != "last"
        self.swaps = SWAPS if len(model.layer_fusion.task_scores) else (OWN, PROMPT)
        self.shares = torch.linspace(0, 1, PATH_POINTS).tolist()
        self._alpha: dict[str | float, list[Tensor]] = defaultdict(list)
        self._answers: dict[str, list[Tensor]] = defaultdict(list)

    def take(self, states: States, own: tuple[Tensor, ...]) -> None:
        """Takes up a batch.

        Args:
            states: the encoder's.
            own: `prompt_layers` of the task asked.
        """
        end = self._layers(states, 1.0)
        for swap, layers, task in (
            (OWN, own, self.asked),
            (PROMPT, end, self.asked),
            (SCALARS, own, self.other),
            (BOTH, end, self.other),
        ):
            if swap not in self.swaps:
                continue
            fused = self.model.layer_fusion(layers, task)
            self._alpha[swap].append(fused.alpha[:, 0].double().cpu())
            if self.asked in self.model.heads.classes:
                logits = self.model.heads.class_logits(fused.states[:, 0], self.asked)
                self._answers[swap].append(logits.argmax(-1).cpu())
        for share in self.shares[1:-1] if self.weighed else ():
            fused = self.model.layer_fusion(self._layers(states, share), self.asked)
            self._alpha[share].append(fused.alpha[:, 0].double().cpu())

    def _layers(self, states: States, share: float) -> tuple[Tensor, ...]:
        prompts = self.model.prompts
        between = torch.lerp(prompts[self.asked], prompts[self.other], share)
        return self.model.prompt_layers(states, self.asked, prompt=between)

    def found(self) -> SwappedPair:
        """Means over all clips."""
        alpha = {name: torch.cat(rows) for name, rows in self._alpha.items()}
        answers = {swap: torch.cat(rows) for swap, rows in self._answers.items()}
        path = None
        if self.weighed:
            places = {0.0: OWN, 1.0: PROMPT}
            rows = [alpha[places.get(share, share)] for share in self.shares]
            path = tuple(
                PathPoint(share, _mean(row), _distance(row, rows[0]))
                for share, row in zip(self.shares, rows, strict=True)
            )
        weighed = set(self.swaps) if self.weighed else set()
        return SwappedPair(
            self.asked,
            self.other,
            {swap: _mean(alpha[swap]) if swap in weighed else None for swap in SWAPS},
            {swap: _distance(alpha[swap], alpha[OWN]) if swap in weighed else None for swap in SWAPS[1:]},
            path,
            {
                swap: float((answers[swap] != answers[OWN]).double().mean()) if swap in answers else None
                for swap in SWAPS[1:]
            },
        )


def _network_scores(model: HarmoniFuse, layers: tuple[Tensor, ...]) -> Tensor:
    """[B, L] of L states [B, 1, D]; zeros where the model has no network."""
    network = model.layer_fusion.network
    if network is None:
        return torch.zeros(len(layers[0]), len(layers))
    return torch.cat([network(state)[:, 0] for state in layers], dim=-1).double().cpu()


def _shares(model: HarmoniFuse, network: list[Tensor]) -> Shares | None:
    fusion = model.layer_fusion
    if fusion.scores == "last":
        return None
    scalars = [
        fusion.task_scores[task].cpu() if task in fusion.task_scores else torch.zeros(fusion.num_layers)
        for task in model.tasks
    ]
    return shares_of_variance(torch.stack(scalars), torch.stack(network))


def _mean(alpha: Tensor) -> tuple[float, ...]:
    """[N, L] -> L numbers."""
    return tuple(alpha.mean(0).tolist())


def _distance(alpha: Tensor, other: Tensor) -> float:
    """Total variation of two [N, L], clip by clip, and its mean."""
    return float((alpha - other).abs().sum(-1).mean()) / 2


def _notes(model: HarmoniFuse, shares: Shares | None) -> Iterator[str]:
    scores = model.layer_fusion.scores
    if scores == "last":
        yield "layer_fusion.scores is last: no layers are weighed, so alpha, its path and shares are n/a"
    if scores == "task":
        yield "layer_fusion.scores is task: without the network alpha cannot see the prompt"
    if scores in ("last", "input"):
        yield f"layer_fusion.scores is {scores}: there are no scalars s, so swapping them is n/a"
    if scores != "last" and shares is None:
        yield "the scores of all layers are equal, so shares are n/a"
    if model.options.class_answers == "words":
        yield "class_answers is words: there is no class head, so changed answers are n/a"
