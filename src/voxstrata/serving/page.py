"""The page: a microphone or an upload, words and emotions over the waveform, the slider, the limits."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio
import numpy as np
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE
from voxstrata.errors import VoxstrataError
from voxstrata.inference.recognition import Recognition
from voxstrata.serving.about import About
from voxstrata.serving.answers import Answer, Answers
from voxstrata.serving.clips import Clips
from voxstrata.serving.picture import answer_html, scaled_html, table_html
from voxstrata.serving.scaled import HIGHEST, LOWEST, Scaled
from voxstrata.serving.uploads import Uploads

EXAMPLES = Path(__file__).parent / "examples"
CSS = Path(__file__).parent / "page.css"
_EMPTY = (
    '<div class="vx"><div class="vx-empty">Record, upload, or take an example: the answer comes here.</div>'
    "</div>"
)


class Page:
    """What the page does.

    Args:
        answers: that answer.
        uploads: that the page was given.
        about: the model.
        scaled: a function that makes the slider's recognizer at its first use; None: there is no slider.
    """

    def __init__(
        self, answers: Answers, uploads: Uploads, about: About, scaled: Callable[[], Scaled] | None
    ) -> None:
        self.answers, self.uploads, self.about = answers, uploads, about
        self._scaled = scaled
        self._made: Scaled | None = None
        self.clips = Clips()

    def recognize(self, path: str) -> dict[str, Any]:
        """Words and emotions of a recording.

        Args:
            path: of an upload, which is deleted.

        Returns:
            A row of a predictions file with segments and summaries, and `clip`, a key for /scale.
        """
        answer, key = self._answer(Path(path) if path else None)
        return {**answer.found.as_dict(), "clip": key}

    def scale(self, clip: str, scale: float) -> dict[str, Any]:
        """What a clip is to the model with all that was added to its base scaled.

        Args:
            clip: the key that /recognize gave.
            scale: from 0 (the base) over 1 (the model) to 1.5.
        """
        _, after, _ = self._at(clip, scale)
        return after.as_dict()

    def show(self, path: str | None) -> tuple[Any, ...]:
        """Answers an upload; the values of the page's parts."""
        answer, key = self._answer(Path(path) if path else None)
        return self._parts(answer, key)

    def example(self, name: str) -> tuple[Any, ...]:
        """Answers an example; the values of the page's parts."""
        with _Shown(), self.answers.place():
            answer = self.answers.answer(EXAMPLES / name).result()
        return self._parts(answer, self.clips.keep(answer.clip, answer.found))

    def _parts(self, answer: Answer, key: str) -> tuple[Any, ...]:
        """No recording, the answer, the clip's key, the slider where there is one, and nothing compared."""
        slides = bool(key) and self._scaled is not None
        return None, answer_html(answer), key, gradio.Group(visible=slides), gradio.Slider(value=1.0), ""

    def move(self, key: str, scale: float) -> str:
        """The clip at another scale, as HTML."""
        before, after, follow = self._at(key, scale)
        return scaled_html(scale, before, after, words_follow=follow)

    def _answer(self, path: Path | None) -> tuple[Answer, str]:
        with _Shown():
            if path is None:
                raise VoxstrataError("there is no recording; record or upload one")
            with self.uploads.opened(path) as file, self.answers.place():
                named: Any = file
                answer = self.answers.answer(named).result()
        return answer, self.clips.keep(answer.clip, answer.found)

    def _at(self, key: str, scale: float) -> tuple[Recognition, Recognition, bool]:
        with _Shown():
            clip, before = self.clips.of(key)
            with self.answers.place():
                after, follow = self.answers.run(self._scaled_answer, clip, scale).result()
        return before, after, follow

    def _scaled_answer(self, clip: NDArray[np.float32], scale: float) -> tuple[Recognition, bool]:
        """In the thread of the model."""
        if self._made is None:
            if self._scaled is None:
                raise VoxstrataError("this model has no base here, so nothing can be scaled")
            self._made = self._scaled()
        return self._made.at(scale)((clip, SAMPLE_RATE), timeline=True), self._made.words_follow

    def blocks(self) -> gradio.Blocks:
        """The page itself."""
        with gradio.Blocks(title=f"voxstrata: {self.about.name}", analytics_enabled=False) as page:
            gradio.HTML(
                '<div class="vx vx-intro"><h1>voxstrata</h1><p>Words and emotions of a recording, by '
                f"the model <b>{escape(self.about.name)}</b></p></div>"
            )
            key = gradio.State("")
            with gradio.Row():
                with gradio.Column(scale=2, min_width=300):
                    sound = gradio.Audio(
                        sources=["upload", "microphone"],
                        type="filepath",
                        label="A recording",
                        elem_id="vx-upload",
                        editable=False,
                        buttons=[],
                    )
                    chosen = self._examples()
                    self._limits()
                with gradio.Column(scale=5, min_width=320):
                    answer = gradio.HTML(_EMPTY, elem_id="vx-out")
                    group, slider, compared = self._slider()
                    self._coefficients()
            _uploads_only(sound)
            outputs = [sound, answer, key, group, slider, compared]
            quiet: dict[str, Any] = {"api_visibility": "private", "show_progress_on": [answer]}
            sound.upload(self.show, [sound], outputs, **quiet)
            sound.stop_recording(self.show, [sound], outputs, **quiet)
            for button, name in chosen:
                button.click(lambda name=name: self.example(name), None, outputs, **quiet)
            # By mouse, finger or key; of the places that it passes while one is answered, the last one.
            slider.input(
                self.move, [key, slider], [compared], api_visibility="private", trigger_mode="always_last"
            )
            self._named_endpoints()
        page.queue(max_size=self.answers.limits.waiting, default_concurrency_limit=4)
        return page

    def _examples(self) -> list[tuple[gradio.Button, str]]:
        """A button for each."""
        names = sorted(path.name for path in EXAMPLES.glob("*.ogg"))
        gradio.HTML('<div class="vx vx-label">Examples (synthetic voices)</div>')
        with gradio.Row(elem_id="vx-examples"):
            return [
                (gradio.Button(Path(name).stem.replace("-", " ").capitalize(), size="sm", min_width=70), name)
                for name in names
            ]

    def _limits(self) -> None:
        with gradio.Accordion("What this is, and is not", open=False):
            lines = "".join(f"<li>{escape(line)}</li>" for line in self.about.limits)
            limits = self.answers.limits
            kept = (
                f"Up to {limits.minutes:g} minutes and {limits.megabytes:g} MB. Uploads are deleted after "
                "the answer; a clip up to 30 s stays in memory for the slider, for ten minutes at most."
            )
            gradio.HTML(f'<div class="vx"><ul class="vx-limits">{lines}<li>{kept}</li></ul></div>')

    def _slider(self) -> tuple[gradio.Group, gradio.Slider, gradio.HTML]:
        """The slider, which comes with the first answer, and where its answer goes."""
        with gradio.Group(visible=False) as group:
            slider = gradio.Slider(
                LOWEST,
                HIGHEST,
                value=1.0,
                step=0.05,
                label="From base to expert: what merging does to this clip",
                info="0: the base encoder. 1: the model. Above: more than was learned. Heads stay the same.",
                elem_id="vx-scale",
            )
        return group, slider, gradio.HTML("", elem_id="vx-compared")

    def _coefficients(self) -> None:
        if self.about.tables:
            with gradio.Accordion("The merge: coefficient of each layer and vector", open=False):
                gradio.HTML(table_html(self.about.tables, self.about.layer_weights))

    def _named_endpoints(self) -> None:
        """What gradio's client calls."""
        sound = _uploads_only(gradio.Audio(type="filepath", visible=False, label="recording"))
        row = gradio.JSON(visible=False)
        clip = gradio.Textbox(visible=False, label="clip")
        scale = gradio.Number(visible=False, label="scale")
        button = gradio.Button(visible=False)
        button.click(self.recognize, [sound], [row], api_name="recognize")
        button.click(self.scale, [clip, scale], [row], api_name="scale")


def _uploads_only(sound: Any) -> Any:
    """A recording that is uploaded; one that is named by an address elsewhere is not fetched."""
    inner = sound.async_move_resource_to_block_cache

    async def own(place: Any) -> Any:
        if str(place).startswith(("http:", "https:")):
            raise gradio.Error("a recording is uploaded, and none is fetched from an address", duration=None)
        return await inner(place)

    sound.async_move_resource_to_block_cache = own
    return sound


class _Shown:
    """Within, a fault in what was given is one sentence on the page."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, fault: BaseException | None, trace: Any) -> None:
        if isinstance(fault, VoxstrataError):
            raise gradio.Error(escape(str(fault)), duration=None, print_exception=False) from None
