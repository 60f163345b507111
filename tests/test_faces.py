from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from extract import faces
from extract.encoders.base import Settings
from extract.encoders.options import split_face
from extract.encoders.registry import load_encoder, resolve_encoder
from extract.encoders.weights import Memo
from extract.errors import ExtractError
from extract.faces import FaceFinder, crop_faces, cut_square, smooth_boxes
from extract.features import fingerprint_of
from extract.media import Frames, read_frames
from extract.tiny import make_visual_encoder

pytest.importorskip("cv2", reason="needs the extra [face]")
CLIP = Path(__file__).parents[2] / "shared" / "data" / "free_clips" / "short_hamilton_clip.mp4"
SIDE = 140  # of the drawn face, in pixels


def draw_face(x: int, y: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """Draw a face plain enough for the cascade: light skin, dark eyes under dark brows."""
    picture = Image.new("RGB", size, (90, 90, 90))
    pen = ImageDraw.Draw(picture)

    def oval(dx: float, dy: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        cx, cy, rx, ry = x + dx * SIDE, y + dy * SIDE, rx * SIDE, ry * SIDE
        pen.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=colour)

    oval(0, 0, 0.45, 0.6, (200, 170, 150))
    oval(0, -0.5, 0.47, 0.25, (50, 35, 25))
    for side in (-0.19, 0.19):
        oval(side, -0.08, 0.13, 0.08, (130, 100, 85))
        oval(side, -0.08, 0.1, 0.05, (60, 40, 35))
        oval(side, -0.2, 0.13, 0.025, (60, 45, 40))
    oval(0, 0.05, 0.035, 0.1, (225, 195, 175))
    oval(0, 0.18, 0.09, 0.03, (150, 115, 100))
    oval(0, 0.33, 0.17, 0.05, (140, 70, 70))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(2)))


def blank() -> np.ndarray:
    return np.full((240, 320, 3), 90, np.uint8)


def times(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32) / 4 + 0.125


def test_the_cascade_finds_a_face_where_it_is() -> None:
    finder = FaceFinder("haar", "test")
    for x, y in ((160, 120), (100, 115)):
        box = finder.find(draw_face(x, y))
        assert box is not None
        np.testing.assert_allclose(box, (x, y, SIDE), atol=30)
    assert finder.find(blank()) is None
    large = np.asarray(Image.fromarray(draw_face(160, 120)).resize((960, 720)))
    box = finder.find(large)
    assert box is not None
    np.testing.assert_allclose(box, (480, 360, 3 * SIDE), atol=90)


def test_boxes_are_the_median_of_what_is_near() -> None:
    boxes = [(10, 10, 8), None, (12, 10, 8), (90, 90, 50), (14, 10, 8), (12, 12, 9)]
    nothing = [None] * 4
    smooth = smooth_boxes([*boxes, *nothing], times(10))
    assert smooth[1] == (12, 10, 8)  # found in no frame of its own, but around it
    assert smooth[3] == (13, 11, 8.5)  # the false find is outvoted: of 12, 90, 14, 12
    assert smooth[7] == (12, 12, 9)
    assert smooth[8:] == [None, None]  # more than half a second after the last


def test_crops_are_square_and_stay_inside_the_picture() -> None:
    picture = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)[..., None].astype(np.uint8)
    picture = np.repeat(picture, 3, axis=2)
    # a side of 20 and a quarter more on each side are 30, moved from (-10, -5) to the corner
    np.testing.assert_array_equal(cut_square(picture, (5, 10, 20)), picture[:30, :30])
    np.testing.assert_array_equal(cut_square(picture, (30, 20, 20)), picture[5:35, 15:45])
    assert cut_square(picture, (58, 38, 100)).shape == (40, 40, 3)


def test_a_clip_is_cropped_and_whole_frames_stay_where_there_is_no_face() -> None:
    face = draw_face(160, 120)
    pictures = [face, face, *[blank() for _ in range(5)]]
    crops = crop_faces(FaceFinder("haar", "test"), pictures, times(7))
    assert (crops.with_face, crops.cropped) == (2, 4)
    assert crops.pictures[0] is crops.pictures[1]  # the same picture at two instants
    assert crops.pictures[0].shape[0] == crops.pictures[0].shape[1]
    assert [one.shape for one in crops.pictures[4:]] == [(240, 320, 3)] * 3


def test_spec_names_the_detector() -> None:
    assert split_face("ARCH/TAG") == ("ARCH/TAG", None)
    assert split_face("local-dir:/a/b@face") == ("local-dir:/a/b", "haar")
    assert split_face("DIR@3@face:/x/yunet.onnx") == ("DIR@3", "/x/yunet.onnx")


def test_faces_are_another_feature_set_with_flags_and_counts(tmp_path: Path) -> None:
    make_visual_encoder(tmp_path / "clip")
    memo = Memo(tmp_path / "memo.json")
    spec = f"open_clip:local-dir:{tmp_path / 'clip'}"
    whole = resolve_encoder("visual", spec, Settings(), memo)
    info = resolve_encoder("visual", f"{spec}@face", Settings(), memo)
    assert (whole.slug, info.slug, info.spec) == ("clip", "clip-face", f"{spec}@face")
    assert fingerprint_of(info.ingredients()) != fingerprint_of(whole.ingredients())
    assert info.preprocessing["face"]["detector"] == "haar"

    encoder, plain = load_encoder(info, "cpu"), load_encoder(whole, "cpu")
    face = draw_face(100, 115)
    with_face = encoder.prepare(Frames([face] * 3, times(3)))
    assert (with_face.flags, dict(with_face.counts)) == ((), {"frames": 3, "frames_with_face": 3})
    crop = crop_faces(FaceFinder("haar", "test"), [face], times(1)).pictures
    expected = plain.prepare(Frames(crop, times(1))).units[0].arrays[0]
    np.testing.assert_array_equal(with_face.units[0].arrays[0], expected)

    mixed = encoder.prepare(Frames([face, *[blank() for _ in range(4)]], times(5)))
    assert mixed.flags == ("no_face_in_some_frames",)
    without = Frames([blank()], times(1), ("truncated",))
    none = encoder.prepare(without)
    assert none.flags == ("truncated", "no_face")
    expected = plain.prepare(without).units[0].arrays[0]
    np.testing.assert_array_equal(none.units[0].arrays[0], expected)


def test_yunet_needs_its_file(tmp_path: Path) -> None:
    make_visual_encoder(tmp_path / "clip")
    spec = f"open_clip:local-dir:{tmp_path / 'clip'}@face:{tmp_path / 'yunet.onnx'}"
    memo = Memo(tmp_path / "memo.json")
    with pytest.raises(ExtractError, match=r"no YuNet file .*yunet\.onnx; check the path"):
        resolve_encoder("visual", spec, Settings(), memo)
    (tmp_path / "yunet.onnx").write_bytes(b"no network")
    info = resolve_encoder("visual", spec, Settings(), memo)
    assert info.preprocessing["face"]["detector"] == "yunet"
    with pytest.raises(ExtractError, match="is not a face detector that OpenCV can load"):
        load_encoder(info, "cpu")


def test_without_cascades_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(ExtractError, match=r"has no Haar cascades; pip install 'egmf\[face\]'"):
        faces.detector_file("haar", "encoder x")
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ExtractError, match=r"not installed; pip install 'egmf\[face\]'"):
        faces.detector_file("haar", "encoder x")


@pytest.mark.skipif(not CLIP.is_file(), reason="the real clip is not here")
def test_a_real_clip() -> None:
    frames = read_frames(CLIP, None, None, fps=4, max_seconds=30)
    crops = crop_faces(FaceFinder("haar", "test"), frames.pictures, frames.times)
    assert (len(crops.pictures), crops.with_face >= 20) == (40, True)
