"""Frame-wise targets for pre-training without labels: clusters of MFCCs and of prosody.

HuBERT (arXiv 2106.07447) section 2.1 clusters MFCCs; the prosody stream beside them keeps what a speaker
does with pitch, level and timbre, which MFCC clusters mostly drop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.front_end import mel_frequencies

HOP = 320
WINDOW = 640
MEL_BANDS = 40
CEPSTRA = 13
CONTEXT = 12
#: Numbers that sum up a clip: mean and deviation of 26 cepstral and 5 prosodic features.
STATISTICS = 2 * (2 * CEPSTRA + 5)
#: Features that hardly vary are not blown up to unit variance.
LEAST_SCALE = 1e-2
#: A peak of the autocorrelation this near to the highest may be the pitch period.
NEAR_BEST = 0.85


def frames_of(waveforms: Tensor, count: int, offset: int) -> Tensor:
    """Windows of 40 ms every 20 ms, the first centred on sample `offset`: [B, N] -> [B, count, 640]."""
    left = max(0, WINDOW // 2 - offset)
    start = offset - WINDOW // 2 + left
    needed = start + HOP * (count - 1) + WINDOW
    padded = F.pad(waveforms, (left, max(0, needed - left - waveforms.shape[1])))
    return padded[:, start:needed].unfold(1, WINDOW, HOP)


def _held(values: Tensor, frames: Tensor) -> Tensor:
    """Behind each clip's valid frames [B] its last valid one, again and again: [B, T, F] -> [B, T, F]."""
    index = torch.arange(values.shape[1], device=frames.device).minimum(frames.unsqueeze(1) - 1).clamp_min(0)
    return values.gather(1, index.unsqueeze(-1).expand_as(values))


def _filterbank() -> Tensor:
    edges = mel_frequencies(MEL_BANDS + 2, 40, 7800)
    hz = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    bank = []
    for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
        bank.append(torch.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)).clamp_min(0))
    return torch.stack(bank, dim=1)


def _cosine_transform() -> Tensor:
    index = torch.arange(MEL_BANDS) + 0.5
    rows = [torch.cos(math.pi * k / MEL_BANDS * index) for k in range(CEPSTRA)]
    return torch.stack(rows, dim=1) * math.sqrt(2 / MEL_BANDS)


def _delta(features: Tensor, reach: int = 2) -> Tensor:
    """Slope over `reach` frames on either side, [B, T, F] -> [B, T, F]."""
    padded = F.pad(features.transpose(1, 2), (reach, reach), mode="replicate").transpose(1, 2)
    count = features.shape[1]
    total = torch.zeros_like(features)
    for step in range(1, reach + 1):
        ahead = padded[:, reach + step : reach + step + count]
        behind = padded[:, reach - step : reach - step + count]
        total = total + step * (ahead - behind)
    return total / (2 * sum(step * step for step in range(1, reach + 1)))


def _context(features: Tensor) -> Tensor:
    """Mean and deviation over half a second around each frame, [B, T, F] -> [B, T, 2F]."""
    width = 2 * CONTEXT + 1
    channels = F.pad(features.transpose(1, 2), (CONTEXT, CONTEXT), mode="replicate")
    mean = F.avg_pool1d(channels, width, 1)
    variance = F.avg_pool1d(channels**2, width, 1) - mean**2
    return torch.cat([mean, variance.clamp_min(1e-6).sqrt()], dim=1).transpose(1, 2)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def _periodicity(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Highest normalised autocorrelation at 70 to 400 Hz, and log2 of the pitch: [B, T] each.

    All multiples of a period correlate alike, so the pitch is the first peak near the highest one.
    """
    spectrum = torch.fft.rfft(frames, n=2 * WINDOW)
    correlation = torch.fft.irfft(_power(spectrum))[..., :WINDOW]
    low, high = SAMPLE_RATE // 400, SAMPLE_RATE // 70
    lags = torch.arange(low, high, device=frames.device)
    taper = 1 - lags / WINDOW
    normalised = correlation[..., low:high] / (correlation[..., :1] * taper).clamp_min(1e-8)
    best = normalised.max(-1, keepdim=True).values
    inner = normalised[..., 1:-1]
    peaks = (inner >= normalised[..., :-2]) & (inner >= normalised[..., 2:]) & (inner >= NEAR_BEST * best)
    index = torch.where(peaks.any(-1), peaks.float().argmax(-1) + 1, normalised.argmax(-1))
    return best.squeeze(-1).clamp(0, 1), torch.log2(SAMPLE_RATE / lags[index])


@dataclass(frozen=True)
class Targets:
    """What is predicted.

    Args:
        ids: stream -> cluster of each frame, int64 [B, T].
        statistics: standardised, [B, STATISTICS].
    """

    ids: dict[str, Tensor]
    statistics: Tensor


class AcousticTargets(nn.Module):
    """Cluster ids of each frame in two streams, "cepstral" and "prosodic", and statistics of each clip.

    Args:
        cepstral: clusters of MFCCs with slopes.
        prosodic: clusters of pitch, periodicity, level and tilt over half a second.
    """

    bank: Tensor
    cosines: Tensor
    window: Tensor

    def __init__(self, cepstral: int = 128, prosodic: int = 64) -> None:
        super().__init__()
        self.sizes = {"cepstral": cepstral, "prosodic": prosodic}
        self.register_buffer("bank", _filterbank(), persistent=False)
        self.register_buffer("cosines", _cosine_transform(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("statistics_mean", torch.zeros(STATISTICS))
        self.register_buffer("statistics_scale", torch.ones(STATISTICS))
        for stream, size in (("cepstral", 2 * CEPSTRA), ("prosodic", 15)):
            self.register_buffer(f"{stream}_mean", torch.zeros(size))
            self.register_buffer(f"{stream}_scale", torch.ones(size))
            self.register_buffer(f"{stream}_centroids", torch.zeros(self.sizes[stream], size))

    def frame_features(
        self, waveforms: Tensor, count: int, offset: int, frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log mel bands [B, T, 40], cepstra with slopes [B, T, 26] and prosody [B, T, 5] of each frame.

        Prosody is periodicity, pitch against the clip's own, pitch (octaves; 0 where unvoiced), level, tilt.

        Args:
            waveforms: [B, N], zero behind each clip's end; quiet is what lies far below a variance of 1.
            count: T, frames of the encoder.
            offset: sample on which the encoder's first frame is centred.
            frames: [B] valid frames, behind which the last one is repeated; None where all are.
        """
        windows = frames_of(waveforms, count, offset)
        heard = torch.ones(windows.shape[:2], device=windows.device)
        if frames is not None:
            windows = _held(windows, frames)
            heard = (torch.arange(count, device=frames.device) < frames.unsqueeze(1)).to(heard)
        power = _power(torch.fft.rfft(windows * self.window))
        mel = torch.log(power @ self.bank + 1e-3)
        cepstra = mel @ self.cosines
        periodicity, pitch = _periodicity(windows)
        voiced = (periodicity > 0.5).to(pitch.dtype)
        own = voiced * heard
        typical = (pitch * own).sum(1, keepdim=True) / own.sum(1, keepdim=True).clamp_min(1)
        energy = torch.log(windows.square().mean(-1) + 1e-4)
        tilt = mel[..., MEL_BANDS // 2 :].mean(-1) - mel[..., : MEL_BANDS // 4].mean(-1)
        prosody = torch.stack([periodicity, (pitch - typical) * voiced, pitch * voiced, energy, tilt], dim=-1)
        return mel, torch.cat([cepstra, _delta(cepstra)], dim=-1), prosody

    def features(
        self,
        waveforms: Tensor,
        count: int,
        offset: int,
        lengths: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What is clustered: cepstral [B, T, 26] and prosodic [B, T, 15].

        Slopes, contexts and the clip's own pitch look beyond a frame: in a batch of several lengths they
        are those of the clip alone only where `frames` are given.

        Args:
            waveforms: [B, N], zero behind each clip's end, any level; each is brought to unit variance.
            count: T, frames of the encoder.
            offset: sample on which the encoder's first frame is centred.
            lengths: [B] valid samples; None where all are.
            frames: [B] valid frames; None where all are.
        """
        samples = waveforms.shape[1] if lengths is None else lengths.unsqueeze(1)
        level = (waveforms.square().sum(1, keepdim=True) / samples).sqrt().clamp_min(1e-6)
        _, cepstral, prosody = self.frame_features(waveforms / level, count, offset, frames)
        return {"cepstral": cepstral, "prosodic": torch.cat([prosody, _context(prosody)], dim=-1)}

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]], offset: int, *, seed: int) -> None:
        """Finds scales, and centroids by mini-batch k-means.

        Args:
            batches: (waveforms [B, N], valid samples [B], valid frames [B]); some 100,000 frames are plenty.
            offset: sample on which the encoder's first frame is centred.
            seed: of the clustering.
        """
        from sklearn.cluster import MiniBatchKMeans

        frames_by_stream: dict[str, list[Tensor]] = {stream: [] for stream in self.sizes}
        summaries: list[Tensor] = []
        for waveforms, lengths, frames in batches:
            count = int(frames.max())
            valid = torch.arange(count) < frames.unsqueeze(1)
            features = self.features(waveforms, count, offset, lengths, frames)
            summaries.append(_summary(features, valid))
            for stream, values in features.items():
                frames_by_stream[stream].append(values[valid])
        self._set_scale("statistics", torch.cat(summaries))
        for stream, parts in frames_by_stream.items():
            rows = self._set_scale(stream, torch.cat(parts)).numpy()
            clustering = MiniBatchKMeans(self.sizes[stream], random_state=seed, batch_size=4096, n_init=3)
            clustering.fit(rows)
            getattr(self, f"{stream}_centroids").copy_(torch.from_numpy(clustering.cluster_centers_))

    def _set_scale(self, stream: str, rows: Tensor) -> Tensor:
        """Keeps mean and deviation of rows [M, F]; gives them back standardised."""
        getattr(self, f"{stream}_mean").copy_(rows.mean(0))
        getattr(self, f"{stream}_scale").copy_(rows.std(0, correction=0).clamp_min(LEAST_SCALE))
        return self._scaled(stream, rows)

    def _scaled(self, stream: str, values: Tensor) -> Tensor:
        scaled: Tensor = (values - getattr(self, f"{stream}_mean")) / getattr(self, f"{stream}_scale")
        return scaled

    @torch.no_grad()
    def forward(self, waveforms: Tensor, offset: int, lengths: Tensor, frames: Tensor) -> Targets:
        """Targets of a batch, in fp32 also under autocast.

        Args:
            waveforms: [B, N].
            offset: sample on which the encoder's first frame is centred.
            lengths: [B] valid samples.
            frames: [B] valid frames.
        """
        count = int(frames.max())
        valid = torch.arange(count, device=frames.device) < frames.unsqueeze(1)
        with torch.autocast(waveforms.device.type, enabled=False):
            features = self.features(waveforms, count, offset, lengths, frames)
            ids = {
                stream: torch.cdist(
                    self._scaled(stream, values), getattr(self, f"{stream}_centroids")
                ).argmin(-1)
                for stream, values in features.items()
            }
            return Targets(ids, self._scaled("statistics", _summary(features, valid)))


def _summary(features: dict[str, Tensor], valid: Tensor) -> Tensor:
    """Mean and deviation over the valid frames of each clip, [B, STATISTICS]."""
    values = torch.cat([features["cepstral"], features["prosodic"][..., :5]], dim=-1)
    weights = valid.unsqueeze(-1) / valid.sum(1).clamp_min(1)[:, None, None]
    mean = (values * weights).sum(1)
    variance = ((values - mean.unsqueeze(1)).square() * weights).sum(1)
    return torch.cat([mean, variance.sqrt()], dim=-1)
