from pathlib import Path

import pytest

from extract.errors import ExtractError
from extract.paths import Folder, resolve_inside


def refusal(root: Path, relative: str) -> str:
    with pytest.raises(ExtractError) as caught:
        resolve_inside(root, relative)
    with pytest.raises(ExtractError) as of_many:
        Folder(root).status(relative)
    assert str(of_many.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("relative", ["a.wav", "wav/a.wav", "./wav/a.wav", "a..b/c", "..a", "."])
def test_a_path_inside_is_returned(tmp_path, relative):
    assert resolve_inside(tmp_path, relative) == tmp_path / relative


@pytest.mark.parametrize(
    ("relative", "said"),
    [
        ("../a.wav", "climbs with '..'"),
        ("wav/../../a.wav", "climbs with '..'"),
        ("wav\\..\\..\\a.wav", "climbs with '..'"),
        ("wav/..", "climbs with '..'"),
        ("/etc/passwd", "is absolute"),
        ("/a.wav", "is absolute"),
        ("..", "climbs with '..'"),
        ("C:\\a.wav", "is absolute"),
        ("", "names no file"),
        ("  ", "names no file"),
        ("a\0b", "names no file"),
    ],
)
def test_a_path_outside_is_refused(tmp_path, relative, said):
    assert said in refusal(tmp_path, relative)


def test_a_link_out_of_the_root_needs_leave(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root, elsewhere):
        folder.mkdir()
    (elsewhere / "a.wav").write_bytes(b"sound")
    (root / "link").symlink_to(elsewhere)
    (root / "a.wav").symlink_to(elsewhere / "a.wav")
    for relative in ("link/a.wav", "a.wav", "link/not-there.wav"):
        assert "--allow-symlinks" in refusal(root, relative)
        assert resolve_inside(root, relative, allow_symlinks=True) == root / relative
    assert Folder(root, allow_symlinks=True).status("a.wav").st_size == 5


def test_a_link_within_the_root_is_fine(tmp_path):
    (tmp_path / "wav").mkdir()
    (tmp_path / "sound").symlink_to("wav")
    assert resolve_inside(tmp_path, "sound/a.wav") == tmp_path / "sound/a.wav"


def test_links_do_not_excuse_climbing(tmp_path):
    with pytest.raises(ExtractError, match="climbs"):
        resolve_inside(tmp_path, "../a.wav", allow_symlinks=True)


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "cannot be followed" in refusal(tmp_path, "a/c.wav")


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "here").symlink_to("data")
    assert resolve_inside(tmp_path / "here", "a.wav") == tmp_path / "here" / "a.wav"


def test_the_status_of_many_files(tmp_path):
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "a.wav").write_bytes(b"sound")
    (tmp_path / "b.wav").symlink_to("wav/a.wav")
    (tmp_path / "loop").symlink_to("loop")
    folder = Folder(tmp_path)
    for relative in ("wav/a.wav", "./wav/a.wav", "b.wav"):
        assert folder.status(relative).st_size == 5
    for relative in ("wav/b.wav", "none/a.wav", "wav/a.wav/c"):
        assert folder.status(relative) is None
    with pytest.raises(ExtractError, match="cannot be followed"):
        folder.status("loop")
