"""Files appear whole or not at all, where there is no room or no right to write them too."""

import pathlib

import numpy as np
import pytest
from disk import closed_folder, room_for

from nst_jax.files.atomic import FileError, check_folder, check_place, from_json, replacing, writing
from nst_jax.files.images import ImageError, write_image

CASES = [("png", 8), ("png", 16), ("jpg", 8), ("webp", 8), ("tiff", 8), ("tiff", 16)]


@pytest.mark.parametrize(("suffix", "bits"), CASES)
def test_without_room_the_old_picture_stays(tmp_path, rng, suffix, bits):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"what was there")
    picture = rng.random((64, 64, 3), np.float32)
    with room_for(1000), pytest.raises(ImageError, match="cannot be written: ") as caught:
        write_image(path, picture, bits=bits)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert path.read_bytes() == b"what was there" and list(tmp_path.iterdir()) == [path]


def test_a_full_device_is_told_when_the_last_bytes_go_out():
    path = pathlib.Path("/dev/full")
    with (
        pytest.raises(FileError) as caught,
        writing(path),
        path.open("w") as file,
    ):
        file.write("a")
    assert str(caught.value) == "/dev/full: cannot be written: No space left on device"


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with replacing(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"second")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first" and list(path.parent.iterdir()) == [path]


def test_a_folder_that_takes_no_files(tmp_path):
    closed = closed_folder(tmp_path)
    with pytest.raises(FileError, match="cannot be written: ") as caught:
        check_folder(closed)
    assert str(caught.value).startswith(f"{closed}: ")
    with pytest.raises(ImageError, match="cannot be written: "):
        write_image(closed / "a.png", np.zeros((8, 8, 3), np.float32))


def test_a_folder_that_is_a_file_and_one_to_be_made(tmp_path):
    (tmp_path / "a").touch()
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(FileError, match="cannot be written: "):
            check_folder(path)
    check_folder(tmp_path / "b" / "c")
    assert not list((tmp_path / "b" / "c").iterdir())


def test_a_place_for_a_folder_is_looked_at_and_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").touch()
    for path in (tmp_path / "a", tmp_path / "a" / "b", closed_folder(tmp_path) / "c" / "d"):
        with pytest.raises(FileError, match="cannot be written: ") as caught:
            check_place(path)
        assert str(caught.value).startswith(f"{path}: ")
    there = set(tmp_path.iterdir())
    check_place(tmp_path / "b" / "c")
    check_place(pathlib.Path("b"))
    assert set(tmp_path.iterdir()) == there


def test_json_that_cannot_be_read_is_a_value_error():
    assert from_json(b'{"a": [1, null]}') == {"a": [1, None]}
    for text in ("", "{", "[" * 10**5, '{"a":' * 10**5, b"\xff"):
        with pytest.raises(ValueError):
            from_json(text)
    with pytest.raises(ValueError, match="^nested too deeply$"):
        from_json("[" * 10**5)
