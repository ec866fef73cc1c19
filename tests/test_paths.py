"""Files in buckets, through the real clients and servers on this machine: see `buckets`."""

import sys

import numpy as np
import pytest
from buckets import forget_clients
from PIL import Image

from nst_jax.cli.dataset.pairs import expand, names_several
from nst_jax.files import paths
from nst_jax.files.atomic import FileError, check_folder, check_place, replacing
from nst_jax.files.images import ImageError, read_image, read_shape, write_image
from nst_jax.files.lines import Lines
from nst_jax.files.paths import StorageError, absolute, is_remote, path_of
from nst_jax.weights.convert import convert
from nst_jax.weights.load import load_params, open_params


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (40, 48, 3), np.uint8)


def test_remote_paths_have_names_as_local_ones_do(bucket):
    path = path_of(bucket / "photos/a.b.jpg")
    assert str(path) == bucket / "photos/a.b.jpg" and is_remote(path)
    assert (path.name, path.stem, path.suffix) == ("a.b.jpg", "a.b", ".jpg")
    assert str(path.parent / "c") == bucket / "photos/c"
    assert absolute(path) == path == path_of(path) == path_of(bucket / "photos//./a.b.jpg")
    assert str(path_of(bucket.address + "/")) == bucket.address


@pytest.mark.parametrize("name", ["a.jpg", "/gs/a.jpg", "gs:/b/a.jpg", "C://a.jpg", "a//b://c"])
def test_a_path_without_a_scheme_is_of_this_machine(name):
    assert not is_remote(name) and not is_remote(path_of(name))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("file:///a.jpg", "wanted a path on this machine, gs:// or s3://, got file://"),
        ("az://x/a.jpg", "wanted a path on this machine, gs:// or s3://, got az://"),
        ("s3://", "wanted s3://bucket/name"),
        ("gs:///a.jpg", "wanted gs://bucket/name"),
        ("s3://b*/a.jpg", "wanted s3://bucket/name"),
    ],
)
def test_other_addresses_are_refused_by_their_names(name, wanted):
    with pytest.raises(ImageError) as caught:
        read_image(name)
    assert str(caught.value) == f"{name}: {wanted}"


ADDRESSES = ("http://x/a.jpg", "https://x//a.jpg?b=1&c=%20#d", "HTTPS://x.org")


@pytest.mark.parametrize("address", ADDRESSES)
def test_web_addresses_are_told_as_typed(address):
    wanted = f"{address}: web addresses are not fetched: wanted a path on this machine, "
    wanted += "gs:// or s3://"
    for act in (read_image, read_shape, lambda name: write_image(name, np.zeros((1, 1, 3)))):
        with pytest.raises(ImageError) as caught:
            act(address)
        assert str(caught.value) == wanted
    for argument, act in (
        ("name_or_path", load_params),
        ("path", lambda name: open_params(name).__enter__()),
        ("input_path", lambda name: convert(name, "a.h5")),
        ("output_path", lambda name: convert("a.h5", name)),
    ):
        with pytest.raises(ValueError) as refused:
            act(address)
        assert str(refused.value) == f"{argument} must be a path on this machine, got '{address}'"


@pytest.mark.parametrize(
    "flags",
    [
        ("--content={}", "--styles=b.png"),
        ("--content=a.png", "--styles=b.png,{}"),
        ("--content=.", "--styles={}"),
        ("--content=a.png", "--styles=b.png", "--output_dir={}"),
        ("--content=a.png", "--styles=b.png", "--init={}"),
        ("--content=a.png", "--styles=b.png", "--masks={}"),
        ("--content=a.png", "--styles=b.png", "--masks=b.png", "--style_masks={}"),
        ("--content=a.png", "--styles=b.png", "--checkpoint_dir={}"),
        ("--show_config={}",),
    ],
)
def test_the_command_tells_a_web_address_as_typed(run, pictures, monkeypatch, flags):
    monkeypatch.chdir(pictures[0].parent)
    address = ADDRESSES[1]
    code, err = run(*(flag.format(address) for flag in flags))
    assert code == 1 and err.startswith(f"nst-jax: {address}: web addresses are not fetched: "), err
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["weights", "tensorboard_dir", "profile_dir"])
def test_a_flag_that_takes_no_address_tells_it_as_typed(run, flag):
    code, err = run("--demo", f"--{flag}={ADDRESSES[1]}")
    wanted = f"nst-jax: --{flag} must be a path on this machine, got {ADDRESSES[1]!r}\n"
    assert (code, err) == (1, wanted)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_a_package_that_is_missing_is_named(monkeypatch, scheme, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImageError) as caught:
        read_image(f"{scheme}://b/a.jpg")
    assert str(caught.value) == f"{scheme}://b/a.jpg: needs {package}: pip install {package}"


def test_pictures_are_written_and_read_again(bucket, picture):
    name = bucket / "deep/folder/a.png"
    write_image(name, picture / np.float32(255))
    assert bucket.fs.info(name).get("ContentType", "image/png") == "image/png"
    assert read_shape(name) == (40, 48)
    np.testing.assert_array_equal(np.rint(255 * read_image(name)), picture)
    assert list(bucket.files()) == ["deep/folder/a.png"]  # and no folders


def test_what_cannot_be_read_is_told_in_one_line(bucket):
    bucket.put("empty.png", b"")
    bucket.put("text.png", b"no picture")
    for name, told in (
        ("empty.png", "the file is empty"),
        ("text.png", "not an image in a known format"),
        ("missing.png", "cannot be read: no such object or bucket"),
    ):
        with pytest.raises(ImageError) as caught:
            read_image(bucket / name)
        assert str(caught.value).startswith(f"{bucket / name}: {told}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_bucket_that_is_missing_is_told(new_bucket, scheme):
    new_bucket(scheme)
    name = f"{scheme}://nobody-has-it/a.png"
    for act in (check_folder, check_place):
        with pytest.raises(FileError) as caught:
            act(path_of(name))
        assert str(caught.value) == f"{name}: cannot be written: no such bucket"
    with pytest.raises(ImageError, match="a.png: cannot be written: no such bucket$"):
        write_image(name, np.zeros((40, 40, 3), np.float32))
    with pytest.raises(StorageError) as caught:
        paths.listing(path_of(name))
    assert str(caught.value) == f"{name}: no such bucket"


def test_missing_credentials_are_told(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_clients()
    with pytest.raises(ImageError) as caught:
        read_image(s3 / "a.png")
    assert str(caught.value) == f"{s3 / 'a.png'}: cannot be read: Unable to locate credentials"
    with pytest.raises(StorageError, match="^s3://.*: Unable to locate credentials$"):
        paths.exists(path_of(s3 / "a.png"))


def test_a_folder_is_checked_without_a_trace(bucket):
    check_folder(path_of(bucket / "out"))
    assert not bucket.files()


def test_what_exists(bucket):
    for name in ("in/a.png", "in/deep/b.png", "in-not/c.png"):
        bucket.put(name, b"x")
    folder = path_of(bucket / "in")
    assert paths.listing(folder) == ["a.png", "deep/b.png"]
    assert paths.listing(folder, prefix="d") == ["deep/b.png"]
    assert paths.listing(folder / "none") == paths.listing(folder / "a.png") == []
    assert paths.exists(folder) and paths.exists(folder / "a.png")
    assert not paths.exists(folder / "b.png")
    assert paths.is_dir(folder) and paths.is_dir(path_of(bucket.address))
    assert not paths.is_dir(folder / "a.png") and not paths.is_dir(folder / "none")
    exists = paths.existing(folder)
    assert exists("a.png") and exists("deep") and exists("deep/b.png")
    assert not exists("b.png") and not exists("")


def test_what_another_process_writes_is_seen(bucket):
    folder = path_of(bucket / "in")
    assert not paths.exists(folder / "a.png") and not paths.listing(folder)
    bucket.put("in/a.png", b"x")
    assert paths.exists(folder / "a.png") and paths.listing(folder) == ["a.png"]


def test_an_object_stays_if_its_successor_fails(bucket):
    path = path_of(bucket / "a.txt")
    with replacing(path) as file:
        file.write(b"first")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"second")
        raise RuntimeError
    assert bucket.files() == {"a.txt": b"first"}


def test_lines_of_an_object_are_written_whole_and_not_too_often(bucket):
    name = "metrics.jsonl"
    lines = Lines(path_of(bucket / name), start=b"0\n", seconds=1000)
    for text in ("1\n", "2\n", "3\n"):
        lines.write(text)
        lines.flush()
    assert bucket.files() == {name: b"0\n1\n"}
    lines.close()
    assert bucket.files() == {name: b"0\n1\n2\n3\n"}
    lines = Lines(path_of(bucket / name), start=b"0\n1\n")
    for text in ("4\n", "5\n"):
        lines.write(text)
        lines.flush()
        assert bucket.files()[name].endswith(text.encode())
    assert bucket.files() == {name: b"0\n1\n4\n5\n"}


def test_lines_of_a_file_grow_after_what_counts(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"0\n1\ncut o")
    lines = Lines(path, start=b"0\n1\n")
    assert path.read_bytes() == b"0\n1\ncut o"
    for text in ("2\n", "3\n"):
        lines.write(text)
        lines.flush()
        assert path.read_bytes().endswith(text.encode())
    lines.close()
    assert path.read_bytes() == b"0\n1\n2\n3\n"


NAMES = ("a.png", "b.JPG", "x[1].png", "deep/c.png", "deep/er/d.png", "deep/notes.txt", ".e.png")
NAMES += (".hidden/f.png", "deep/.g.png", "out/h.png")
PATTERNS = ("in", "in/*", "in/*.png", "in/?.*", "in/**", "in/**/*.png", "in/*/*", "in/**/er/*")
PATTERNS += ("in/[ab].*", "in/x[[]1].png", "in/.*", "in/deep/**/*", "i*/deep/*.png", "in/**/d*/*")


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_folders_and_patterns_name_what_they_name_on_a_disk(new_bucket, scheme, tmp_path):
    bucket, white = new_bucket(scheme), Image.new("RGB", (40, 40))
    for name in NAMES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        white.save(path, "PNG")
        bucket.put(f"in/{name}", path.read_bytes())

    def named(root, item):
        out = f"{root}/in/out"
        found = expand([f"{root}/{item}"], flag="--content", output_dir=out, made=["h.png"])
        assert names_several([f"{root}/{item}"])
        return [(source.path.removeprefix(f"{root}/"), source.name) for source in found]

    for item in PATTERNS:
        assert named(bucket.address, item) == named(tmp_path, item), item
    assert named(bucket.address, "in")[0] == ("in/a.png", "a")
    assert not names_several([bucket / "in/a.png", bucket / "in/x[1].png", bucket / "none.png"])
    for item, where in (("none/*", "like"), ("in/*.gif", "like")):
        with pytest.raises(ValueError, match=f"there are no pictures {where} '{scheme}://"):
            named(bucket.address, item)
