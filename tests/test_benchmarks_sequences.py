"""The benchmarks of sequences and of loops of one's own."""

import numpy as np
import pytest
from absl import flags

import nst_jax
from benchmarks import common, own_loop, sequences
from nst_jax.files import images


def options(module, *arguments):
    values = flags.FlagValues()
    common.define(module.FLAGS, values)
    values(["benchmark", *arguments])
    return values


@pytest.fixture
def shallow(monkeypatch):
    """The default preset at the first layers, in few steps."""
    config = nst_jax.presets["default"].replace(
        content_layers=("block1_conv2",),
        style_layers=("block1_conv1",),
        nearest_layers=("block1_conv2",),
        first_steps=4,
        steps=2,
    )
    monkeypatch.setitem(nst_jax.presets, "default", config)


def test_the_warping_error_of_known_pictures():
    """A picture that moves by a pixel, whose second half then becomes lighter by 3 levels."""
    rng = np.random.default_rng(0)
    wide = rng.random((1, 20, 30, 3), np.float32)
    before, after = wide[:, :, 1:21], wide[:, :, :20].copy()
    after[:, 10:] += 3 / 255
    backward = np.broadcast_to(np.float32([-1, 0]), (20, 20, 2))
    error = sequences.warping_error([before, after], [(-backward, backward)])
    np.testing.assert_allclose(error, 9 / 2, rtol=1e-3)  # half of the pixels, 3 levels squared


def test_the_frames_of_a_file_are_resized(tmp_path):
    film = [np.full((40, 60, 3), level, np.uint8) for level in (10, 20, 30, 40)]
    images.write_animation(tmp_path / "a.gif", film, hold=None)
    found = options(sequences, f"--film={tmp_path / 'a.gif'}", "--size=48", "--frames=3")
    frames, pairs = sequences.film_of(found)
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 3 and len(pairs) == 2
    np.testing.assert_allclose(frames[2], 30 / 255, atol=2 / 255)


@pytest.mark.slow
def test_sequences_flicker_less(tmp_path, shallow):
    small = ("--size=32", "--frames=3", "--styles=rainbow", "--model=vgg16")
    report = sequences.main(options(sequences, *small, f"--output_dir={tmp_path}"))
    rows = {row["way"]: row for row in report["rows"]}
    assert list(rows) == ["one by one", "known", "dis", "still"]
    assert rows["one by one"]["share"] == 1 and rows["one by one"]["steps"] == 4
    assert 0 < rows["known"]["share"] < 0.8 and rows["known"]["steps"] == 2
    assert images.count_frames(tmp_path / "known__rainbow.webp") == 3


@pytest.mark.slow
def test_every_loop_has_a_row(shallow):
    small = ("--size=32", "--steps=2", "--repeats=2", "--model=vgg16")
    report = own_loop.main(options(own_loop, *small))
    rows = {row["loop"]: row for row in report["rows"]}
    assert list(rows) == ["stylize", "step", "scan", "plain step", "plain scan"]
    for row in rows.values():
        assert row["seconds"] > 0
        assert row["lowest"] <= row["ratio"] <= row["highest"]


def test_bad_options_of_sequences():
    for given, message in (
        ("--frames=2", "--frames must be at least 3, got 2"),
        ("--flows=dos", "--flows must be one of known, dis, still, got 'dos'"),
        ("--film=a.gif", "--flows=known needs the built-in film: leave out --film"),
    ):
        with pytest.raises(ValueError, match=message):
            sequences.main(options(sequences, given))
