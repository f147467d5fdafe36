"""Corpora that anyone may fetch: where their owners keep them, how large they are, under which licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from voxstrata.errors import CorpusError, did_you_mean

_OPENSLR = "https://www.openslr.org/resources"
_CC = "https://creativecommons.org/licenses"


@dataclass(frozen=True)
class RemoteFile:
    """A file at its owner's address.

    Args:
        url: of the file.
        name: under which it is kept here; may have folders.
        checksum: ALGORITHM:DIGEST, as `hashlib` names the algorithm.
        size: bytes; None: as many as the server says.
    """

    url: str
    name: str
    checksum: str
    size: int | None = None


@dataclass(frozen=True)
class PublishedCorpus:
    """A corpus that its owner gives to everybody.

    Args:
        name: of its reader.
        title: for people.
        licence: its name, and what it allows in a few words.
        licence_url: its words.
        page: the owner's page of the corpus.
        parts: name -> files, which are fetched separately.
        default: parts that are fetched where none is named.
        listing: a Dataverse address that lists the files of the only part; None: they are known.
        inside: the folder in the unpacked one that the reader is given.
        growth: bytes of the unpacked files per byte that is fetched, not less than there are.
    """

    name: str
    title: str
    licence: str
    licence_url: str
    page: str
    parts: Mapping[str, tuple[RemoteFile, ...]] = field(default_factory=dict)
    default: tuple[str, ...] = ("all",)
    listing: str | None = None
    inside: str = ""
    growth: float = 1.0

    def chosen(self, names: tuple[str, ...]) -> tuple[RemoteFile, ...]:
        """The files of some parts, each once; of the default ones without names.

        Raises:
            CorpusError: if there is no such part.
        """
        for name in names:
            if name not in self.parts:
                known = ", ".join(self.parts) or "none: it is fetched whole"
                raise CorpusError(
                    f"{self.name} has no part {name!r}{did_you_mean(name, self.parts)}; its parts are {known}"
                )
        return tuple(file for name in dict.fromkeys(names or self.default) for file in self.parts[name])


def _librispeech(part: str, size: int, checksum: str, resource: int = 12) -> tuple[RemoteFile, ...]:
    name = f"{part}.tar.gz"
    return (RemoteFile(f"{_OPENSLR}/{resource}/{name}", name, checksum, size),)


_LIBRISPEECH = {
    # Mini LibriSpeech (OpenSLR 31), as its md5sum.txt has them.
    "train-clean-5": _librispeech("train-clean-5", 332_954_390, "md5:5df7d4e78065366204ca6845bb08f490", 31),
    "dev-clean-2": _librispeech("dev-clean-2", 126_046_265, "md5:6d7ab67ac6a1d2c993d050e16d61080d", 31),
    # LibriSpeech (OpenSLR 12), as its md5sum.txt has them.
    "dev-clean": _librispeech("dev-clean", 337_926_286, "md5:42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": _librispeech("dev-other", 314_305_928, "md5:c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": _librispeech("test-clean", 346_663_984, "md5:32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": _librispeech("test-other", 328_757_843, "md5:fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": _librispeech("train-clean-100", 6_387_309_499, "md5:2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": _librispeech(
        "train-clean-360", 23_049_477_885, "md5:c0e676e450a7ff2f54aeade5171606fa"
    ),
    "train-other-500": _librispeech(
        "train-other-500", 30_593_501_606, "md5:d1a0fd59409feb2c614ce4d30c387708"
    ),
}

PUBLISHED: dict[str, PublishedCorpus] = {
    corpus.name: corpus
    for corpus in (
        PublishedCorpus(
            "ravdess",
            "RAVDESS, speech audio (Livingstone and Russo, 2018)",
            "CC BY-NC-SA 4.0: not for commercial use; name the authors; share changes alike",
            f"{_CC}/by-nc-sa/4.0/",
            "https://zenodo.org/records/1188976",
            {
                "all": (
                    RemoteFile(
                        "https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1",
                        "Audio_Speech_Actors_01-24.zip",
                        "md5:bc696df654c87fed845eb13823edef8a",
                        208_468_073,
                    ),
                )
            },
            growth=3.0,
        ),
        PublishedCorpus(
            "tess",
            "Toronto emotional speech set (Pichora-Fuller and Dupuis, 2020)",
            "CC BY-NC-ND 4.0: not for commercial use; name the authors; share no changed copies",
            f"{_CC}/by-nc-nd/4.0/",
            "https://doi.org/10.5683/SP2/E8H2MF",
            listing="https://borealisdata.ca/api/datasets/:persistentId/?persistentId=doi:10.5683/SP2/E8H2MF",
        ),
        PublishedCorpus(
            "an4",
            "AN4, CMU census database (1991)",
            "CMU's own: free for any use, also commercial; keep its copyright notice",
            "http://www.speech.cs.cmu.edu/databases/an4/LICENSE.html",
            "http://www.speech.cs.cmu.edu/databases/an4/",
            {
                "all": (
                    RemoteFile(
                        "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",
                        "an4_sphere.tar.gz",
                        "sha256:a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12",
                    ),
                )
            },
            inside="an4",
            growth=2.0,
        ),
        PublishedCorpus(
            "librispeech",
            "LibriSpeech (Panayotov et al., 2015)",
            "CC BY 4.0: name the authors",
            f"{_CC}/by/4.0/",
            "https://www.openslr.org/12/",
            _LIBRISPEECH,
            default=("train-clean-5", "dev-clean-2", "test-clean"),
            growth=1.1,
        ),
    )
}


def published(name: str) -> PublishedCorpus:
    """The corpus of that name.

    Raises:
        CorpusError: if it is not one that is given to everybody.
    """
    if name not in PUBLISHED:
        raise CorpusError(
            f"{name!r} cannot be fetched here{did_you_mean(name, PUBLISHED)}; {', '.join(PUBLISHED)} can; of "
            "others ask the owner, unpack what you get, and give its folder to corpus prepare"
        )
    return PUBLISHED[name]
