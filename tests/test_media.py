from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from extract.media import Audio, Frames, MediaError, read_audio, read_frames
from tests.helpers_media import SIZE, grey, rotate_quarter, tone, write_clip, write_wav


def hear(path: Path, start: float | None = None, end: float | None = None) -> Audio:
    return read_audio(path, start, end, max_seconds=30)


def see(path: Path, start: float | None = None, end: float | None = None, fps: float = 4) -> Frames:
    return read_frames(path, start, end, fps=fps, max_seconds=30)


def levels(frames: Frames) -> list[int]:
    return [int(picture.mean()) for picture in frames.pictures]


def ramp(count: int) -> list[np.ndarray]:
    """Pictures whose brightness is five times their number, plus twenty."""
    return [grey(20 + 5 * number) for number in range(count)]


# --- sound


def test_wav_comes_back_sample_by_sample(tmp_path: Path) -> None:
    samples = tone(1.0)
    heard = hear(write_wav(tmp_path / "a.wav", samples))
    assert heard.samples.dtype == np.float32
    np.testing.assert_allclose(heard.samples, samples, atol=1e-4)
    assert heard.flags == ()


def test_span_of_a_wav_is_cut_to_the_sample(tmp_path: Path) -> None:
    samples = tone(3.0) * np.linspace(0, 1, 48_000, dtype=np.float32)
    heard = hear(write_wav(tmp_path / "a.wav", samples), 0.7, 1.25)
    np.testing.assert_allclose(heard.samples, samples[11_200:20_000], atol=1e-4)


def test_sound_is_resampled_and_mixed_to_mono(tmp_path: Path) -> None:
    heard = hear(write_clip(tmp_path / "a.mp4", sound=tone(2.0, rate=44_100), rate=44_100))
    assert len(heard.samples) == pytest.approx(32_000, abs=1100)  # AAC pads its last frame
    spectrum = np.abs(np.fft.rfft(heard.samples[:16_000]))
    assert int(spectrum.argmax()) == 440
    assert np.abs(heard.samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.05)


def test_late_span_of_a_long_file_is_sought_to_the_right_place(tmp_path: Path) -> None:
    whole = np.concatenate([tone(1.0, 200.0 + 100 * second) for second in range(20)])
    path = write_clip(tmp_path / "a.mp4", sound=whole, pictures=ramp(40), fps=2)
    heard = hear(path, 12.0, 13.0)
    assert len(heard.samples) == 16_000
    assert int(np.abs(np.fft.rfft(heard.samples)).argmax()) == 1400  # 200 + 12 x 100 Hz


def test_sound_that_starts_late_keeps_its_time(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", pictures=ramp(20), sound=tone(1.0), sound_at=1.0)
    heard = hear(path)
    assert np.abs(heard.samples[:15_000]).max() < 1e-3
    assert np.abs(heard.samples[17_000:31_000]).max() > 0.4
    assert len(heard.samples) == pytest.approx(32_000, abs=1100)


def test_long_sound_is_cut_and_flagged(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(3.0))
    whole = read_audio(path, None, None, max_seconds=2)
    assert (len(whole.samples), whole.flags) == (32_000, ("cut_to_2s",))
    span = read_audio(path, 0.5, 2.9, max_seconds=2)
    assert (len(span.samples), span.flags) == (32_000, ("cut_to_2s",))
    assert read_audio(path, 0.5, 2.5, max_seconds=2).flags == ()


def test_a_clip_that_breaks_off_is_flagged(tmp_path: Path) -> None:
    options = {"movflags": "faststart"}  # the index lies in front and tells how long it should be
    path = write_clip(tmp_path / "a.mp4", pictures=ramp(40), sound=tone(4.0), options=options)
    assert hear(path).flags == see(path).flags == ()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    heard, seen = hear(path), see(path)
    assert 8_000 < len(heard.samples) < 56_000
    assert "truncated" in heard.flags
    assert 2 < len(seen.pictures) < 16
    assert "truncated" in seen.flags


def test_span_beyond_the_end_of_the_sound_gives_what_there_is(tmp_path: Path) -> None:
    heard = hear(write_wav(tmp_path / "a.wav", tone(1.0)), 0.5, 4.0)
    assert (len(heard.samples), heard.flags) == (8_000, ())


# --- pictures


def test_frames_are_those_on_display_at_the_sampling_instants(tmp_path: Path) -> None:
    seen = see(write_clip(tmp_path / "a.mp4", pictures=ramp(20)))
    # instants 0.125, 0.375, ... 1.875 s; at 10 pictures a second these show 1, 3, 6, 8, ...
    np.testing.assert_allclose(seen.times, np.arange(8) / 4 + 0.125)
    expected = [20 + 5 * number for number in (1, 3, 6, 8, 11, 13, 16, 18)]
    np.testing.assert_allclose(levels(seen), expected, atol=2)
    assert seen.pictures[0].shape == (*SIZE, 3)
    assert seen.flags == ()


def test_variable_frame_rate_goes_by_time(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 1.0, 1.8]
    path = write_clip(tmp_path / "a.mp4", pictures=ramp(5), times=times)
    # on display at 0.125: the 2nd; from 0.2 to 1.0: the 3rd; from 1.0 to 1.8: the 4th; then the 5th
    seen = see(path)
    expected = [25, 30, 30, 30, 35, 35, 35, 40]
    np.testing.assert_allclose(levels(seen)[:7], expected[:7], atol=2)


def test_span_of_a_video_starts_with_the_picture_on_display(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 1.0, 1.8]
    path = write_clip(tmp_path / "a.mp4", pictures=ramp(5), times=times)
    seen = see(path, 0.5, 1.5)
    np.testing.assert_allclose(seen.times, [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(levels(seen), [30, 30, 35, 35], atol=2)


def test_late_span_of_a_long_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=ramp(40), fps=4)
    seen = see(path, 7.5, 8.5, fps=4)
    np.testing.assert_allclose(levels(seen), [20 + 5 * number for number in range(30, 34)], atol=2)


def test_picture_stream_shorter_than_the_sound(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=ramp(10), sound=tone(3.0))
    assert len(see(path).pictures) == 4
    assert len(hear(path).samples) == pytest.approx(48_000, abs=1100)
    assert see(path, 0.0, 3.0).flags == ()


def test_video_that_starts_late_shows_its_first_picture(tmp_path: Path) -> None:
    times = [1.0 + number / 10 for number in range(10)]
    path = write_clip(tmp_path / "a.mkv", pictures=ramp(10), times=times, sound=tone(2.0))
    seen = see(path)
    assert len(seen.pictures) == 8
    np.testing.assert_allclose(levels(seen)[:4], [20] * 4, atol=2)
    np.testing.assert_allclose(levels(seen)[4:], [25, 35, 50, 60], atol=2)


def test_very_short_video_gives_one_picture(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=ramp(20))
    seen = see(path, 1.0, 1.2, fps=1)
    np.testing.assert_allclose(seen.times, [0.1])
    assert len(seen.pictures) == 1


def test_rotation_in_the_file_is_applied(tmp_path: Path) -> None:
    picture = grey(40)
    picture[:10, :, :] = 220  # a bright bar along the top
    path = write_clip(tmp_path / "a.mp4", pictures=[picture] * 10)
    assert see(path).pictures[0].shape == (*SIZE, 3)
    seen = see(rotate_quarter(path)).pictures[0]
    assert seen.shape == (SIZE[1], SIZE[0], 3)
    assert seen[:, -8:].mean() > 200  # turned clockwise, the top lies on the right
    assert seen[:, :8].mean() < 60


@pytest.mark.parametrize(
    ("aspect", "width"),
    [(Fraction(4, 3), 85), (Fraction(1, 2), 32), (Fraction(1), 64), (Fraction(50), 64)],
)
def test_pixels_are_made_square(tmp_path: Path, aspect: Fraction, width: int) -> None:
    picture = grey(40)
    picture[:, :32] = 220  # the left half
    path = write_clip(tmp_path / "a.mp4", pictures=[picture] * 10, pixel_aspect=aspect)
    seen = see(path).pictures[0]
    assert seen.shape == (48, width, 3)  # stored at 64 x 48; 50:1 is no sensible shape
    assert seen[:, : width // 2 - 4].mean() > 200
    assert seen[:, width // 2 + 4 :].mean() < 60


def test_long_video_is_cut_and_flagged(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=ramp(30))
    seen = read_frames(path, None, None, fps=4, max_seconds=2)
    assert (len(seen.pictures), seen.flags) == (8, ("cut_to_2s",))


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        (cover.height, cover.width), cover.pix_fmt = SIZE, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16_000, 0
        picture = av.VideoFrame.from_ndarray(grey(100), "rgb24")
        picture.pts = 0
        for stream, frame in ((audio, sound), (cover, picture)):
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert len(hear(path).samples) >= 16_000
    with pytest.raises(MediaError, match="no video stream"):
        see(path)


# --- what cannot be read


def truncated(tmp_path: Path) -> Path:
    path = write_clip(tmp_path / "t.mp4", pictures=ramp(20), sound=tone(2.0))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # the index at its end is lost
    return path


def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.mp4"
    path.write_text("This is not a video.\n" * 50)
    return path


def empty_file(tmp_path: Path) -> Path:
    path = tmp_path / "empty.mp4"
    path.touch()
    return path


def silent_clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "silent.mp4", pictures=ramp(20))


def zero_length(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "zero.wav", tone(0.0))


def blip(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "blip.wav", tone(0.1))


@pytest.mark.parametrize(
    ("make", "stage", "reason"),
    [
        (lambda folder: folder / "none.mp4", "open", "no such file"),
        (empty_file, "open", "empty file"),
        (text_file, "open", "cannot be opened as media: Invalid data"),
        (truncated, "open", "cannot be opened as media: Invalid data"),
        (silent_clip, "open", "no audio stream"),
        (zero_length, "decode", "no audio could be decoded"),
        (blip, "decode", "at most 0.1 s of audio"),
    ],
)
def test_what_cannot_be_heard_says_why(tmp_path: Path, make, stage: str, reason: str) -> None:
    with pytest.raises(MediaError, match=reason) as caught:
        hear(make(tmp_path))
    assert caught.value.stage == stage


def test_span_outside_the_file_and_empty_span(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(1.0))
    with pytest.raises(MediaError, match="the span starts after the end of the file"):
        hear(path, 5.0, 7.0)
    with pytest.raises(MediaError, match=r"a span of -0\.50 s"):
        hear(path, 0.5, 0.0)


def test_a_playlist_does_not_open_other_files(tmp_path: Path) -> None:
    secret = write_clip(tmp_path / "secret.ts", sound=tone(1.0))
    path = tmp_path / "clip.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match=r"playlist|cannot be opened"):
        hear(path)


def test_damage_in_the_middle_is_flagged_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_clip(path, pictures=[*ramp(40)], sound=tone(4.0))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(content)
    seen = see(path, 0.0, 4.0)
    assert len(seen.pictures) >= 8


def test_files_are_closed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=ramp(10), sound=tone(1.0))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        hear(path)
        see(path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_helper_writes_what_it_says(tmp_path: Path) -> None:
    with av.open(str(write_clip(tmp_path / "a.mp4", pictures=ramp(10), sound=tone(1.0)))) as file:
        assert {stream.codec_context.name for stream in file.streams} == {"h264", "aac"}
