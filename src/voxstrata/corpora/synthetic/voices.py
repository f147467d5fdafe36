"""A bank of voices without end: accent and timbre of espeak-ng, and what is a person's own."""

from __future__ import annotations

from dataclasses import dataclass

from voxstrata.corpora.synthetic.delivery import DIMENSIONS
from voxstrata.corpora.synthetic.partition import generator, split_of

#: Voices of English in espeak-ng 1.52.
ACCENTS = (
    *("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"),
    "en-us-nyc",
)
#: Variants that sound like people and give the same samples each time (not so: caleb, Reed).
MALE = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Denis", "Lee", "Mike", "adam", "edward"),
    *("grandpa", "miguel"),
)
FEMALE = (
    *("f1", "f2", "f3", "f4", "f5", "Annie", "Alicia", "belinda", "linda", "steph", "anika", "aunty"),
    *("grandma", "shelby"),
)
#: Clarity -> accents and variants. Those of clear speech are the ones whose words recognisers follow best.
BANKS = {
    "natural": (ACCENTS, (*MALE, *FEMALE)),
    "clear": (
        ("en-us", "en-gb", "en-gb-x-rp", "en-us-nyc"),
        (
            *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "Mike", "adam", "edward", "grandpa"),
            *("f1", "f2", "f3", "f5", "steph"),
        ),
    ),
}
#: Standard deviation of a person's lasting habits, in units of the within-class deviation.
HABIT = 0.35


@dataclass(frozen=True)
class Voice:
    """A speaker.

    Args:
        id: e.g. "en-gb+f3.07"; everything else follows from it.
        espeak: name for espeak-ng.
        formant_scale: the voice is played this much faster, which moves formants and pitch.
        pitch: offset of espeak's pitch dial, semitones.
        rate_wpm: words a minute.
        range_dial: espeak's range dial, 0 to 100.
        tilt_db: dB per octave.
        breath_db: breath noise relative to the speech, dB.
        floor_db: background noise of the recording, dB below full scale.
        habits: lasting offsets of the delivery, in the order of `DIMENSIONS`.
    """

    id: str
    espeak: str
    formant_scale: float
    pitch: float
    rate_wpm: float
    range_dial: float
    tilt_db: float
    breath_db: float
    floor_db: float
    habits: tuple[float, ...]

    @property
    def gender(self) -> str:
        """As which the voice is meant: "female" or "male"."""
        return "female" if self.espeak.partition("+")[2] in FEMALE else "male"

    @classmethod
    def of(cls, voice_id: str) -> Voice:
        """The voice of an id: a function of the id alone, the same in every corpus."""
        timbre, _, _ = voice_id.partition(".")
        accent, _, variant = timbre.partition("+")
        rng = generator("voice", voice_id)
        middle = 1.02 if variant in FEMALE else 0.98
        return cls(
            id=voice_id,
            espeak=f"{'en' if accent == 'en-gb' else accent}+{variant}",
            formant_scale=float(middle + rng.uniform(-0.07, 0.07)),
            pitch=float(rng.uniform(-2.0, 2.0)),
            rate_wpm=float(rng.uniform(165, 200)),
            range_dial=float(rng.uniform(40, 60)),
            tilt_db=float(rng.uniform(-1.0, 1.0)),
            breath_db=float(rng.uniform(-40, -32)),
            floor_db=float(rng.uniform(-75, -62)),
            habits=tuple(float(h) for h in rng.normal(0, HABIT, len(DIMENSIONS))),
        )


def timbres(split: str, clarity: str = "natural") -> list[str]:
    """Accents and variants that belong to a split: another split has none of them."""
    accents, variants = BANKS[clarity]
    names = [f"{accent}+{variant}" for accent in accents for variant in variants]
    return [name for name in names if split_of(f"voice {name}") == split]


def draw_voices(split: str, count: int, seed: int, clarity: str = "natural") -> list[Voice]:
    """Different voices of a split, women and men in turn as far as they go round.

    Args:
        split: "train", "dev" or "test".
        count: how many; more than there are timbres gives several people to a timbre.
        seed: of the corpus.
        clarity: a key of `BANKS`.
    """
    rng = generator(seed, "voices", split)
    names = timbres(split, clarity)
    sides = [[n for n in names if n.partition("+")[2] in side] for side in (FEMALE, MALE)]
    orders = [[side[i] for i in rng.permutation(len(side))] for side in sides]
    numbers: dict[str, int] = {}
    chosen = []
    for index in range(count):
        order = orders[index % 2]
        timbre = order[(index // 2) % len(order)]
        number = numbers[timbre] = numbers.get(timbre, int(rng.integers(10))) + 1
        chosen.append(Voice.of(f"{timbre}.{number:02d}"))
    return chosen
