"""Folders of photographs: what is in them, and what may be saved in them."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from klein9b.klein.framing import Size
from klein9b.klein.photographs import (
    NewPictures,
    UnusableFolder,
    inside,
    read_folder,
    report,
    require_whole,
    state_of,
    why,
)

ORIENTATION = 0x0112
PIXELS = np.linspace(0, 1, 6 * 5 * 3, dtype=np.float32).reshape(6, 5, 3)


def photograph(path, size=(80, 64), **options):
    Image.effect_noise(size, 50).convert("RGB").save(path, **options)
    return path


def names(contents):
    return [one.path.name for one in contents.photographs]


class TestReading:
    def test_photographs_of_one_size_follow_each_other(self, tmp_path):
        for name, size in (("B.png", (80, 64)), ("a.jpg", (64, 80)), ("c.webp", (64, 80)), ("d.bmp", (80, 64))):
            photograph(tmp_path / name, size)
        assert names(read_folder(tmp_path)) == ["a.jpg", "c.webp", "B.png", "d.bmp"]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_size_is_the_one_that_is_seen(self, tmp_path, orientation):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        photograph(tmp_path / "turned.jpg", (96, 64), exif=exif)
        (one,) = read_folder(tmp_path).photographs
        assert one.size == (Size(64, 96) if orientation > 4 else Size(96, 64))

    def test_other_files_are_named_with_why(self, tmp_path):
        photograph(tmp_path / "fine.png")
        photograph(tmp_path / "small.png", (63, 80))
        photograph(tmp_path / "long.png", (640, 64))
        (tmp_path / "notes.txt").write_text("words")
        (tmp_path / "empty.jpg").touch()
        skipped = read_folder(tmp_path).skipped
        assert list(skipped) == ["empty.jpg", "long.png", "notes.txt", "small.png"]
        assert skipped["notes.txt"] == skipped["empty.jpg"] == "not a picture that can be read"
        assert "10.0:1" in skipped["long.png"] and "at least 64" in skipped["small.png"]

    def test_what_is_hidden_or_a_folder_is_passed_over(self, tmp_path):
        photograph(tmp_path / "fine.png")
        (tmp_path / ".DS_Store").touch()
        photograph(tmp_path / ".part.png")
        (tmp_path / "more.png").mkdir()
        contents = read_folder(tmp_path)
        assert names(contents) == ["fine.png"] and not contents.skipped

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        photograph(tmp_path / "fine.png")
        os.mkfifo(tmp_path / "pipe.png")
        assert names(read_folder(tmp_path)) == ["fine.png"]

    def test_what_starts_another_program_is_left_alone(self, tmp_path):
        photograph(tmp_path / "fine.png")
        (tmp_path / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 80\n%%EndComments\n")
        assert "drawing.eps" in read_folder(tmp_path).skipped

    def test_an_empty_folder_says_so(self, tmp_path):
        with pytest.raises(UnusableFolder, match=r"No photograph is in .*: it is empty\. Put some there\."):
            read_folder(tmp_path)

    def test_a_folder_of_other_files_names_them(self, tmp_path):
        for number in range(12):
            (tmp_path / f"{number:02}.txt").touch()
        with pytest.raises(UnusableFolder, match=r"00\.txt \(not a picture that can be read\), .* and 2 more"):
            read_folder(tmp_path)

    def test_a_folder_that_is_not_there_names_those_that_are(self, tmp_path):
        (tmp_path / "holiday").mkdir()
        with pytest.raises(UnusableFolder, match=r"There is no folder .*trip\. In .* are holiday\."):
            read_folder(tmp_path / "trip")

    @pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
    def test_half_a_photograph_is_not_whole(self, tmp_path, ending):
        path = photograph(tmp_path / f"half.{ending}", (200, 200))
        require_whole(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(Exception) as error:
            require_whole(path)
        assert why(error.value)

    @settings(deadline=None)
    @given(
        content=st.binary(max_size=400),
        start=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]),
    )
    def test_no_file_ends_the_others(self, tmp_path_factory, content, start):
        folder = tmp_path_factory.mktemp("fuzz")
        photograph(folder / "fine.png")
        (folder / "odd.jpg").write_bytes(start + content)
        contents = read_folder(folder)
        assert "fine.png" in names(contents) and (set(contents.skipped) | set(names(contents))) == {
            "fine.png",
            "odd.jpg",
        }

    def test_its_state_changes_with_its_files(self, tmp_path):
        path = photograph(tmp_path / "one.png")
        before = state_of(tmp_path)
        assert state_of(tmp_path) == before
        os.utime(path, ns=(0, 0))
        changed = state_of(tmp_path)
        photograph(tmp_path / "two.png")
        assert len({before, changed, state_of(tmp_path)}) == 3

    def test_reading_leaves_every_file_as_it_is(self, tmp_path):
        path = photograph(tmp_path / "one.jpg")
        before = path.read_bytes(), path.stat().st_mtime_ns
        require_whole(read_folder(tmp_path).photographs[0].path)
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_nothing_skipped_is_nothing_said():
    assert report({}) == []


class TestInside:
    def test_a_folder_below_and_the_base_itself(self, tmp_path):
        assert inside(tmp_path, " holiday/first day ") == tmp_path.resolve() / "holiday" / "first day"
        assert inside(tmp_path, "") == tmp_path.resolve()

    @pytest.mark.parametrize("folder", ["..", "a/../../b", "/etc"])
    def test_no_other(self, tmp_path, folder):
        with pytest.raises(UnusableFolder, match="does not lie in"):
            inside(tmp_path, folder)

    def test_a_link_leads_nowhere_else(self, tmp_path):
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "out").symlink_to(tmp_path)
        with pytest.raises(UnusableFolder, match="does not lie in"):
            inside(tmp_path / "base", "out")


class TestSaving:
    def test_a_picture_keeps_its_levels(self, tmp_path):
        path = NewPictures(tmp_path / "new" / "folder").save(PIXELS, "one")
        assert path == tmp_path / "new" / "folder" / "one.png"
        assert np.array_equal(np.asarray(Image.open(path)), (PIXELS * 255).round().astype(np.uint8))

    def test_what_is_there_is_never_replaced(self, tmp_path):
        (tmp_path / "one.png").write_text("mine")
        new = NewPictures(tmp_path)
        assert [new.save(PIXELS, "one").name for _ in range(2)] == ["one (2).png", "one (3).png"]
        assert (tmp_path / "one.png").read_text() == "mine"

    def test_a_disk_without_second_names(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", refuse)
        new = NewPictures(tmp_path)
        assert [new.save(PIXELS, "one").name for _ in range(2)] == ["one.png", "one (2).png"]
        assert len(list(tmp_path.iterdir())) == 2

    def test_several_at_once_take_a_name_each(self, tmp_path):
        threads = [threading.Thread(target=NewPictures(tmp_path).save, args=(PIXELS, "one")) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(tmp_path.glob("*.png"))) == len(list(tmp_path.iterdir())) == 8

    def test_a_full_disk_leaves_nothing(self, tmp_path, monkeypatch):
        def full(self, file, *_, **__):
            file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(UnusableFolder, match=r"one\.png could not be saved in .*: No space left on device\."):
            NewPictures(tmp_path).save(PIXELS, "one")
        assert not list(tmp_path.iterdir())

    def test_permissions_are_those_of_any_file(self, tmp_path):
        (tmp_path / "any").touch()
        path = NewPictures(tmp_path).save(PIXELS, "one")
        assert path.stat().st_mode == (tmp_path / "any").stat().st_mode

    @settings(deadline=None, max_examples=50)
    @given(name=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def test_no_name_leaves_the_folder(self, tmp_path_factory, name):
        folder = tmp_path_factory.mktemp("names")
        path = NewPictures(folder).save(PIXELS, name)
        assert path.parent == folder and path.exists() and not path.name.startswith(".")
