"""Recordings on disk to mono samples at 16 kHz: every path into voxstrata decodes here."""

from voxstrata.audio.content import NoSound, NotAudio, Remark, downmix, remarks_on_band, require_sound
from voxstrata.audio.folders import FolderContent, folder_content
from voxstrata.audio.kinds import AUDIO_SUFFIXES
from voxstrata.audio.opening import audio_file, shown
from voxstrata.audio.reading import Sound, decode, load_audio, load_with_remarks, read_sound
from voxstrata.audio.waveform import QUIET, SAMPLE_RATE, leveled, peak_of, resample, resampled_length

__all__ = [
    "AUDIO_SUFFIXES",
    "QUIET",
    "SAMPLE_RATE",
    "FolderContent",
    "NoSound",
    "NotAudio",
    "Remark",
    "Sound",
    "audio_file",
    "decode",
    "downmix",
    "folder_content",
    "leveled",
    "load_audio",
    "load_with_remarks",
    "peak_of",
    "read_sound",
    "remarks_on_band",
    "require_sound",
    "resample",
    "resampled_length",
    "shown",
]
