"""Transcripts that Whisper writes, for clips that come without one to a run that reads text.

Where the run's audio encoder is a Whisper, its checkpoint holds the decoder too and writes the
transcripts; any other is named. A Whisper of random weights knows no words, so that its transcripts
would be noise that the run takes for text: unless it is named, it writes none, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from extract.decoding import CLIP_SECONDS, ChildDecoder
from extract.decoding import Clip as Span
from extract.encoders.base import EncoderInfo, Settings
from extract.encoders.registry import resolve_encoder
from extract.encoders.whisper_audio import ROWS_PER_SECOND, load_whisper
from extract.errors import ExtractError
from extract.media import Audio, MediaError
from pipeline.clips import Clip
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.prediction import TrainedRun

OFF = "off"
_WINDOW_SECONDS = 30
_SMALLEST_VOCABULARY = 51_864  # of the English models; one token more in those of all languages
_REMEDY = "give the text, name a trained Whisper with --transcribe MODEL, or --transcribe off"


def transcriber_for(
    run: TrainedRun, clips: Sequence[Clip], named: str | None, say: Callable[[str], None]
) -> Callable[[Clip], Clip] | None:
    """Return what gives a clip its transcript; None where none is needed or to be had.

    Args:
        run: What reads the transcripts.
        clips: All that are to be judged.
        named: A Whisper model's name or file, `OFF` for none, None for the run's own.
        say: Prints a line for people.

    Raises:
        PipelineError: the run has no Whisper and none is named, or it is no Whisper that writes.
    """
    mute = [each for each in clips if each.text is None and each.sound and each.sound.is_file()]
    if not run.reads_text or not mute or named == OFF:
        return None
    if named is not None:
        try:
            info = resolve_encoder("audio", f"whisper:{named}", Settings(), run.digests)
        except ExtractError as error:
            raise PipelineError(f"--transcribe {named}: {error}") from None
        if info.random_weights:
            say(f"{named}: has random weights; what it writes means nothing")
        return Transcriber(run, info)
    own = run.encoders.get("audio")
    if own is None or own.kind != "whisper":
        what = "has no audio encoder" if own is None else f"hears with {own.spec}"
        raise PipelineError(
            f"{mute[0].id}: has no text, which the run reads; the run {what}, which is no Whisper "
            f"that could write it: {_REMEDY}"
        )
    if own.random_weights:
        say(
            f"no transcript can be had for {len(mute):,} clips without text: the run's Whisper has "
            "random weights and knows no words; they are judged without text, unless it is given "
            "or a trained Whisper is named with --transcribe MODEL"
        )
        return None
    return Transcriber(run, own)


class Transcriber:
    """A loaded Whisper.

    Args:
        run: What reads the transcripts; Whisper computes on its device.
        info: The checkpoint.

    Raises:
        PipelineError: it cannot be loaded, or is no Whisper that writes.
    """

    def __init__(self, run: TrainedRun, info: EncoderInfo) -> None:
        self._run, self._name = run, info.location
        self._device = run.model.device
        try:
            self._model: Any = load_whisper(info, str(self._device))
        except ExtractError as error:
            raise PipelineError(f"{error}; {_REMEDY}") from None
        dims = self._model.dims
        seconds = dims.n_audio_ctx / ROWS_PER_SECOND
        if seconds != _WINDOW_SECONDS or dims.n_vocab < _SMALLEST_VOCABULARY:
            raise PipelineError(
                f"{self._name}: cannot write transcripts: its window is {seconds:g} s and its "
                f"vocabulary {dims.n_vocab:,} tokens, Whisper's are {_WINDOW_SECONDS} s and at "
                f"least {_SMALLEST_VOCABULARY:,}; {_REMEDY}"
            )
        self._decoder = ChildDecoder(CLIP_SECONDS)  # ends with this process

    def __call__(self, clip: Clip) -> Clip:
        """Return the clip with its transcript, if it has none and something is to be heard.

        Raises:
            PipelineError: the model writes English alone, and the clip is of another language.
        """
        if clip.text is not None or clip.sound is None:
            return clip
        span = Span("audio", clip.sound, clip.start, clip.end, self._run.entry.max_seconds, fps=0.0)
        try:
            audio = self._decoder.decode(span)
        except MediaError:
            return clip  # said, with its reason, when the clip's audio is encoded
        assert isinstance(audio, Audio)
        gpu = self._device.type == "cuda"
        with torch.random.fork_rng([self._device] if gpu else []):
            torch.manual_seed(0)  # it draws where it is unsure: the same clip, the same words
            written = self._model.transcribe(audio.samples, language=self._language(clip), fp16=gpu)
        return replace(clip, text=str(written["text"]).strip())

    def _language(self, clip: Clip) -> str | None:
        """Return the code of a clip's language, None for one that Whisper is to guess."""
        from whisper.tokenizer import LANGUAGES

        language = self._run.language_of(clip)
        if language != "en" and not self._model.is_multilingual:
            raise PipelineError(
                f"{clip.id}: its language is {language!r}, and {self._name} writes English alone; "
                f"{_REMEDY}"
            )
        return language if language in LANGUAGES else None
