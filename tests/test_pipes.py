"""Pictures from pipes, as `<(...)` of a shell gives them."""

import contextlib
import os
import threading

import numpy as np
import pytest
from PIL import Image

from nst_jax.cli.main import BAD_INPUT, read_initial
from nst_jax.cli.main import _read as read_pictures
from nst_jax.files import paths
from nst_jax.files.images import ImageError, read_image, read_shape, read_text, write_image
from nst_jax.weights.load import load_params

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="needs /dev/fd")


@contextlib.contextmanager
def pipe(data):
    """The name of a pipe that gives these bytes once."""
    read, write = os.pipe()

    def fill():
        with contextlib.suppress(BrokenPipeError), os.fdopen(write, "wb") as file:
            file.write(data)

    filling = threading.Thread(target=fill)
    filling.start()
    try:
        yield f"/dev/fd/{read}"
    finally:
        os.close(read)
        filling.join()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_a_pipe_is_read_as_its_file_is(tmp_path, rng, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, rng.random((300, 400, 3)), text="words")  # larger than what a pipe holds
    assert path.stat().st_size > 2**16
    wanted = read_image(path)
    with pipe(path.read_bytes()) as name:
        np.testing.assert_array_equal(read_image(name), wanted)
    with pipe(path.read_bytes()) as name:
        assert read_shape(name) == (300, 400)
    with pipe(path.read_bytes()) as name:
        assert read_text(name) == "words"
    with pipe(path.read_bytes()) as name:
        (picture,) = read_pictures([name])
        np.testing.assert_array_equal(picture.image, wanted)
        assert picture.name == os.path.basename(name)


def test_init_may_be_a_pipe(tmp_path, rng, monkeypatch):
    from absl import flags
    from absl.testing import flagsaver

    write_image(tmp_path / "a.png", rng.random((40, 50, 3)))
    with pipe((tmp_path / "a.png").read_bytes()) as name, flagsaver.flagsaver():
        flags.FLAGS(["nst-jax", f"--init={name}"])
        found = read_initial()
    assert found is not None and found.shape == (40, 50, 3)


def test_what_a_pipe_gives_is_checked_as_a_file_is(monkeypatch):
    monkeypatch.setattr(paths, "PIPE_BYTES", 100_000)
    for data, told in (
        (b"", "the file is empty"),
        (b"no picture", "not an image in a known format"),
        (bytes(100_000), "not an image in a known format"),
        (bytes(3_000_000), "cannot be read: the pipe gives more than 100,000 bytes"),
    ):
        with pipe(data) as name, pytest.raises(ImageError) as caught:
            read_image(name)
        assert str(caught.value).startswith(f"{name}: {told}")


def test_what_is_read_more_than_once_cannot_be_a_pipe(run, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pipe(b"") as name:
        for flags, argument in (
            ((f"--content={tmp_path}", f"--styles={name}"), "--styles: a data set needs files"),
            ((f"--content={name}", f"--styles={tmp_path}"), "--content: a data set needs files"),
            (("--demo", f"--weights={name}"), "--weights must be a file"),
        ):
            code, err = run(*flags)
            assert (code, err) == (
                BAD_INPUT,
                f"nst-jax: {argument}, which {'it reads' if ':' in argument else 'is read'} more "
                f"than once, got the pipe '{name}'\n",
            )
        with pytest.raises(ValueError, match="^name_or_path must be a file, .* got the pipe "):
            load_params(name)
