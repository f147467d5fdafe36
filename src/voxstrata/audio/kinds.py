"""What kind of file lies there, known by its first bytes; the suffix is a hint where these tell nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from voxstrata.audio.mpeg import frame_header

#: Bytes that are looked at.
HEAD = 4096

#: Suffix -> the name that FFmpeg has for such a file, of files that libsndfile does not open.
AV_FORMATS = {
    ".3gp": "mov", ".aac": "aac", ".ac3": "ac3", ".amr": "amr", ".ape": "ape", ".avi": "avi", ".flv": "flv",
    ".m4a": "mov", ".m4b": "mov", ".mka": "matroska", ".mkv": "matroska", ".mov": "mov", ".mp4": "mov",
    ".ts": "mpegts", ".tta": "tta", ".weba": "matroska", ".webm": "matroska", ".wma": "asf", ".wv": "wv",
}  # fmt: skip

#: Everything that `load_audio` may be given, by suffix: what a folder of recordings is searched for.
AUDIO_SUFFIXES = frozenset(AV_FORMATS) | {
    ".aif", ".aifc", ".aiff", ".au", ".bwf", ".caf", ".flac", ".mp2", ".mp3", ".nist", ".oga", ".ogg",
    ".opus", ".raw", ".rf64", ".snd", ".sph", ".spx", ".voc", ".w64", ".wav", ".wave",
}  # fmt: skip

#: Headerless files are 16-bit mono PCM, as AN4 ships them.
RAW = ".raw"


@dataclass(frozen=True)
class Kind:
    """How a file is read.

    Args:
        name: for messages, and for what its header claims.
        soundfile: libsndfile opens it.
        av: the name that FFmpeg has for it, so that it tries nothing else; None: FFmpeg is not asked.
    """

    name: str
    soundfile: bool = False
    av: str | None = None


UNKNOWN = Kind("unknown", soundfile=True)

# Offset, bytes there, kind.
_MAGICS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"fLaC", Kind("FLAC", True, "flac")),
    (0, b"OggS", Kind("Ogg", True, "ogg")),
    (0, b"caff", Kind("CAF", True, "caf")),
    (0, b"riff\x2e\x91\xcf\x11", Kind("W64", True, "w64")),
    (0, b".snd", Kind("AU", True, "au")),
    (0, b"NIST_1A", Kind("SPHERE", True, "nistsphere")),
    (0, b"Creative Voice File", Kind("VOC", True, "voc")),
    (4, b"ftyp", Kind("MP4", av="mov")),
    (4, b"moov", Kind("MP4", av="mov")),
    (4, b"mdat", Kind("MP4", av="mov")),
    (4, b"wide", Kind("MP4", av="mov")),
    (0, b"\x1a\x45\xdf\xa3", Kind("Matroska", av="matroska")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind("ASF", av="asf")),
    (0, b"#!AMR", Kind("AMR", av="amr")),
    (0, b"FLV\x01", Kind("FLV", av="flv")),
    (0, b"wvpk", Kind("WavPack", av="wv")),
    (0, b"TTA1", Kind("TTA", av="tta")),
    (0, b"MAC ", Kind("APE", av="ape")),
)
_CHUNKED: tuple[tuple[tuple[bytes, ...], tuple[bytes, ...], Kind], ...] = (
    ((b"RIFF", b"RIFX", b"RF64", b"BW64"), (b"WAVE",), Kind("WAV", True, "wav")),
    ((b"FORM",), (b"AIFF", b"AIFC"), Kind("AIFF", True, "aiff")),
    ((b"RIFF",), (b"AVI ",), Kind("AVI", av="avi")),
)
_MP3 = Kind("MP3", True, "mp3")
_ADTS = Kind("AAC", av="aac")
_TS = Kind("MPEG-TS", av="mpegts")
_AC3 = Kind("AC-3", av="ac3")

_OTHER = (
    (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "a gzip archive"), (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"Rar!", "a RAR archive"), (b"MThd", "MIDI"),
)  # fmt: skip
_PLAYLISTS = ("#extm3u", "ffconcat", "[playlist]", "<smil", "<asx", "<?wpl", "<mpd", "#ext-x-")


def kind_of(file: BinaryIO, suffix: str) -> Kind:
    """The kind of a file, by what stands at its beginning.

    Args:
        file: at any place; read, and left at any place.
        suffix: of its name, in small letters.
    """
    file.seek(0)
    head = file.read(HEAD)
    if head[:3] == b"ID3" and len(head) > 10:
        # A tag of MP3 files that others have at times: what is behind it tells.
        tag = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(tag)
        behind = file.read(HEAD)
        return by_magic(behind) or (_by_sync(behind) if suffix == ".aac" else None) or _MP3
    found = by_magic(head)
    if found is None and suffix != RAW:
        # Two bytes that samples may have too; of a headerless file they say nothing.
        found = _by_sync(head)
    if found is None and suffix in AV_FORMATS:
        found = Kind(suffix, av=AV_FORMATS[suffix])
    if found is None and suffix in (".mp3", ".mp2"):
        found = _MP3
    return found or UNKNOWN


def no_audio(head: bytes) -> str | None:
    """What a file is that is certainly no audio, in words; None where it may be some.

    Args:
        head: its first bytes.
    """
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not audio; run `git lfs pull` where it came from"
    for magic, name in _OTHER:
        if head.startswith(magic):
            return f"{name}, not audio; leave it out"
    text = _text_of(head)
    if text is None:
        return None
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(_PLAYLISTS) or any(mark in start[:512] for mark in _PLAYLISTS):
        return "a playlist, not audio; give the recordings that it names"
    shown = " ".join(text.lstrip("\ufeff").split())[:40]
    return f"text, not audio (it begins {shown!r}); leave it out, or fetch the recording again"


def by_magic(head: bytes) -> Kind | None:
    """The kind whose files begin with four certain bytes or more, as these do."""
    for offset, magic, kind in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    for first, forms, kind in _CHUNKED:
        if head[:4] in first and head[8:12] in forms:
            return kind
    return None


def _by_sync(head: bytes) -> Kind | None:
    """Kinds that begin with a frame, which a few bits mark."""
    if len(head) < 4:
        return None
    if head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return _ADTS
    if frame_header(head[:4]) is not None:
        return _MP3
    if head[:2] == b"\x0b\x77":
        return _AC3
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return _TS
    return None


def _text_of(head: bytes) -> str | None:
    """The beginning as text; None where it is none."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and len(head) > 3:
        text = head[: len(head) // 2 * 2].decode("utf-16", "replace")
    else:
        try:
            text = head.decode("utf-8")
        except UnicodeDecodeError as fault:
            # A letter may be cut at the end of what was read.
            if len(head) < HEAD or fault.start < len(head) - 4:
                return None
            text = head[: fault.start].decode("utf-8")
    odd = sum(not (letter.isprintable() or letter in "\t\n\r\f\ufeff") for letter in text)
    return text if text and not odd else None
