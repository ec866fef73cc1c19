"""scripts/train_fast_network.py, with a network and layers that compile fast."""

import dataclasses
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import train_fast_network as script

import nst_jax
from nst_jax.files.images import read_image, write_image

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def settings(tmp_path, vgg16, monkeypatch):
    monkeypatch.setattr(nst_jax, "load_params", {"vgg16": vgg16}.__getitem__)
    rise = np.linspace(0, 1, 64, dtype=np.float32)
    waves = 0.5 + 0.5 * np.sin(20 * rise[:, None, None] + [0, 40, 0] * rise[None, :, None])
    slope = np.stack([*np.meshgrid(rise[:40], rise[:48]), np.full((48, 40), 0.2)], axis=-1)
    write_image(tmp_path / "photos" / "more" / "slope.png", slope)
    write_image(tmp_path / "photos" / "waves.png", waves)
    write_image(tmp_path / "style.png", waves[::2, ::-1, ::-1])
    return script.Settings(
        photos=str(tmp_path / "photos"),
        style=str(tmp_path / "style.png"),
        vgg="vgg16",
        size=32,
        style_size=48,
        batch_size=2,
        steps=4,
        learning_rate=0.01,
        content_weight=1.0,
        style_weight=1.0,
        tv_weight=1.0,
        content_layers=("block1_conv2",),
        style_layers=("block1_conv1",),
        width=4,
        blocks=1,
        seed=0,
    )


def train(settings, devices=1, **options):
    return script.train(settings, devices=jax.devices()[:devices], **options)


def assert_equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found.weights, wanted.weights)
    jax.tree.map(np.testing.assert_array_equal, found.optimizer, wanted.optimizer)


@pytest.mark.slow
def test_the_loss_falls(settings):
    state, losses = train(dataclasses.replace(settings, steps=40))
    assert len(losses) == int(state.step) == 40
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


class Interrupted(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_network(settings, tmp_path, monkeypatch):
    wanted, losses = train(settings)
    keep = {"checkpoint_dir": str(tmp_path / "saved"), "checkpoint_every": 2}
    batch = script.Photos.batch

    def interrupted(photos, step, count):
        if step == 3:
            raise Interrupted
        return batch(photos, step, count)

    with monkeypatch.context() as patch:
        patch.setattr(script.Photos, "batch", interrupted)
        with pytest.raises(Interrupted):
            train(settings, **keep)
    found, last = train(settings, **keep)
    assert last == losses[2:]  # the steps after the checkpoint
    assert_equal(found, wanted)
    again, none = train(settings, **keep)
    assert none == []
    assert_equal(again, wanted)
    other = dataclasses.replace(settings, seed=1)
    with pytest.raises(ValueError, match=r"saved: is of a training .* seed \(0 there, 1 now\)"):
        train(other, **keep)


@pytest.mark.slow
def test_devices_share_a_batch(settings, monkeypatch):
    """SGD, because Adam turns the rounding of a gradient near zero into a whole step."""
    monkeypatch.setattr(script.optax, "adam", lambda rate: optax.sgd(rate))
    settings = dataclasses.replace(settings, batch_size=8, steps=2, learning_rate=1e-4)
    (one, losses), (eight, found) = train(settings), train(settings, devices=8)
    np.testing.assert_allclose(found, losses, rtol=1e-4)
    for leaf in jax.tree.leaves(eight.weights):
        assert len(leaf.sharding.device_set) == 8 and leaf.sharding.is_fully_replicated
    first = train(dataclasses.replace(settings, steps=1, learning_rate=0.0))[0]
    moved = jax.tree.map(lambda leaf, start: leaf - start, one.weights, first.weights)
    apart = jax.tree.map(lambda leaf, other: leaf - np.asarray(other), one.weights, eight.weights)
    assert optax.tree.norm(apart) < 1e-3 * optax.tree.norm(moved)
    with pytest.raises(ValueError, match="--batch_size: must be a multiple of the 3 devices"):
        train(settings, devices=3)


def test_a_batch_depends_on_the_seed_and_the_step(settings, tmp_path):
    names = script.find_photos(settings.photos)
    photos = script.Photos(names, 32, 0)
    batches = [photos.batch(step, 3) for step in (5, 6)]
    assert batches[0].shape == (3, 32, 32, 3) and batches[0].dtype == np.float32
    assert batches[0].min() >= 0 and batches[0].max() <= 1
    np.testing.assert_array_equal(script.Photos(names, 32, 0).batch(5, 3), batches[0])
    assert np.any(batches[0] != batches[1])
    assert np.any(script.Photos(names, 32, 1).batch(5, 3) != batches[0])


def test_a_broken_photo_is_skipped_with_one_line(settings, tmp_path, capsys):
    broken = tmp_path / "photos" / "broken.jpg"
    broken.write_bytes(b"no picture")
    photos = script.Photos(script.find_photos(settings.photos), 32, 0)
    assert photos.batch(0, 8).shape == (8, 32, 32, 3)
    assert photos.batch(1, 8).shape == (8, 32, 32, 3)
    told = capsys.readouterr().err
    assert told.startswith(f"train_fast_network: skipped {broken}: ") and told.count("\n") == 1
    with pytest.raises(ValueError, match="--photos: none of the pictures can be read"):
        script.Photos([str(broken)], 32, 0).batch(0, 1)


def test_a_picture_keeps_its_size():
    painter, key = script.Painter(width=2, blocks=1), jax.random.key(0)
    for sides in ((33, 64), (64, 47), (5, 6), (1, 1)):
        photo = np.zeros((1, *sides, 3), np.float32)
        painted, _ = jax.eval_shape(painter.init_with_output, key, photo)
        assert painted.shape == photo.shape


@pytest.mark.slow
def test_the_saved_network_paints(settings, tmp_path):
    photo = tmp_path / "photos" / "more" / "slope.png"
    painter = script.Painter(settings.width, settings.blocks)
    picture = read_image(photo)
    weights = painter.init(jax.random.key(1), picture[None])
    script.write_network(tmp_path / "out" / script.NETWORK, settings, weights)
    path = script.paint(tmp_path / "out", str(photo), None)
    assert path == tmp_path / "out" / "slope.png"
    np.testing.assert_allclose(
        read_image(path), painter.apply(weights, picture[None])[0], atol=0.51 / 255
    )
    script.paint(tmp_path / "out", str(photo), 24)
    assert read_image(path).shape == (24, 20, 3)
    with pytest.raises(ValueError, match="slope.png: is the photo itself"):
        script.paint(tmp_path / "out", str(path), None)


def test_what_is_no_network_is_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="network.msgpack: no such file: train a network"):
        script.paint(tmp_path, "photo.jpg", None)
    for data in (b"", b"text", b"\x80"):
        (tmp_path / script.NETWORK).write_bytes(data)
        with pytest.raises(ValueError, match="network.msgpack: cannot be read as a network"):
            script.paint(tmp_path, "photo.jpg", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photos": "absent"}, "--photos: there are no pictures in the folder 'absent'"),
        ({"style": "absent.jpg"}, "absent.jpg: "),
        ({"size": 1}, "--size: layer block2_conv1 needs images of at least 2 pixels a side"),
        ({"style_size": 1}, "--style_size: layer block2_conv1 needs images of at least 2 pixels"),
        ({"content_layers": ("block9",)}, "--content_layers: .*block9"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, changes, message):
    deeper = dataclasses.replace(settings, style_layers=("block2_conv1",))
    with pytest.raises(ValueError, match=f"^{message}"):
        train(dataclasses.replace(deeper, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["content", "style", "tv"])
def test_a_term_of_weight_zero_is_left_out(settings, name):
    _, (loss,) = train(dataclasses.replace(settings, steps=1, **{f"{name}_weight": 0.0}))
    assert np.isfinite(loss)


def run_script(*arguments):
    command = [sys.executable, "scripts/train_fast_network.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_script_trains_and_then_paints(settings, tmp_path):
    given = dataclasses.asdict(settings) | {"output_dir": tmp_path / "out"}
    words = {k: ",".join(v) if isinstance(v, tuple) else v for k, v in given.items()}
    result = run_script(*(f"--{name}={value}" for name, value in words.items()))
    network = tmp_path / "out" / script.NETWORK
    assert (result.returncode, result.stdout) == (0, f"{network}\n"), result.stderr
    assert "step 4 of 4: content " in result.stderr
    painter, weights = script.read_network(network)
    assert (painter.width, painter.blocks) == (4, 1)
    assert np.all(weights["params"]["Conv_0"]["bias"] != 0)  # trained: it begins at 0
    result = run_script(f"--paint={settings.style}", f"--output_dir={tmp_path / 'out'}")
    path = tmp_path / "out" / "style.png"
    assert (result.returncode, result.stdout) == (0, f"{path}\n"), result.stderr
    assert read_image(path).shape == read_image(settings.style).shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--photos: is needed to train a network; --paint paints a photo"),
        (["--photos=."], "--style: is needed to train a network"),
        (["--paint=photo.jpg"], "network.msgpack: no such file: train a network"),
        (["--photos=empty", "--style=absent.jpg"], "--photos: there are no pictures in the folder"),
        (["--steps=0"], "flag --steps=0"),
        (["more.jpg"], "unexpected argument 'more.jpg': give --photos and --style, or --paint"),
    ],
)
def test_the_script_ends_bad_input_with_one_line(tmp_path, arguments, message):
    result = run_script(*arguments, f"--output_dir={tmp_path / 'out'}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("train_fast_network: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_flags_of_the_page_exist():
    page = (ROOT / "docs" / "guide" / "training.md").read_text("utf-8")
    code = pathlib.Path(script.__file__).read_text("utf-8")
    named = set(re.findall(r"--(\w+)", page))
    assert len(named) > 8
    for name in named:
        assert re.search(rf'(define_\w+|DEFINE_\w+)\(\s*"{name}"', code), name
