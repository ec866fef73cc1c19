import functools
import shutil

import basic
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax import optimize, partition, sharding
from nst_jax.files.atomic import FileError
from nst_jax.files.checkpoints import Checkpoints
from nst_jax.optimizers import LBFGS, Adam

SETTINGS = {"size": 32, "layers": ["a", "b"]}
LAYERS = {"style_layers": ("block1_conv1", "block2_conv1"), "content_layers": ("block2_conv1",)}


class Killed(Exception):
    pass


def killed_after(step, checkpoints):
    """A callback that ends the run there, as a signal would."""

    def follow(progress):
        checkpoints(progress)
        if progress.step == step:
            raise Killed

    return follow


def in_two_parts(run, folder, step, *, every=1):
    """What `run(resume=, callback=)` gives when killed after `step` and started again."""
    with Checkpoints(folder, SETTINGS, every=every) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(Killed):
            run(resume=None, callback=killed_after(step, checkpoints))
    with Checkpoints(folder, SETTINGS, every=every) as checkpoints:
        resume = checkpoints.latest()
        assert resume.step == step // every * every
        return run(resume=resume, callback=checkpoints)


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def quadratic(image, target, *, key=None):
    shift = 0 if key is None else jax.random.randint(key, (2,), -2, 3)
    value = 0.5 * jnp.sum(jnp.square(255.0 * (jnp.roll(image, shift, (0, 1)) - target)))
    return value, {"total": value, "again": 2.0 * value}


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9},
        {"optimizer": Adam(schedule="exponential"), "average_decay": 0.9},
        {"optimizer": LBFGS(history_size=3), "jitter": 2},
        {"optimizer": LBFGS(history_size=3, linesearch=True)},
    ],
    ids=["sgd", "adam", "lbfgs", "linesearch"],
)
def test_a_run_killed_and_resumed_ends_bit_by_bit_the_same(rng, tmp_path, changes):
    images, targets = rng.random((2, 2, 6, 5, 3), np.float32)
    config = basic.CONFIG.replace(steps=6).replace(**changes)
    run = functools.partial(optimize.run, quadratic, images, config, each=(targets,))
    whole = run()
    for step in (1, 4):
        assert_same(in_two_parts(run, tmp_path / str(step), step), whole)


@pytest.mark.slow
def test_coarse_to_fine_goes_on_at_its_scale(vgg16, rng, tmp_path):
    content, style = rng.random((2, 36, 48, 3), np.float32)
    config = basic.CONFIG.replace(
        size=48, first_size=32, first_steps=3, steps=4, color="luminance", **LAYERS
    )
    run = functools.partial(nst_jax.stylize, vgg16, content, [style], config)
    whole = run()
    for step in (2, 3, 5):  # within a scale, at its end, in the next
        assert_same(in_two_parts(run, tmp_path / str(step), step), whole)


def test_a_mesh_and_tiles_resume(rng, tmp_path):
    images, targets = rng.random((2, 2, 8, 5, 3), np.float32)
    config = basic.CONFIG.replace(steps=4)
    mesh = sharding.make_mesh(2, sizes={"style": 2, "space": 2})
    run = functools.partial(optimize.run, quadratic, images, config, each=(targets,), mesh=mesh)
    assert_same(in_two_parts(run, tmp_path / "mesh", 2), run())

    def value_and_grad(image, target):
        with partition.on_host():
            return jax.value_and_grad(quadratic, has_aux=True)(image, target)

    run = functools.partial(
        optimize.run_given_gradients, value_and_grad, images, config, each=[(t,) for t in targets]
    )
    assert_same(in_two_parts(run, tmp_path / "tiles", 2), run())


def test_every_so_many_steps_and_at_the_end(rng, tmp_path):
    images, targets = rng.random((2, 2, 6, 5, 3), np.float32)
    run = functools.partial(
        optimize.run, quadratic, images, basic.CONFIG.replace(steps=6), each=(targets,)
    )
    result = in_two_parts(run, tmp_path, 5, every=2)
    assert_same(result, run())
    assert {path.name for path in tmp_path.glob("[0-9]*")} == {
        "4",
        "6",
    }  # of 2, 4 and 6, two are kept
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        assert_same(run(resume=checkpoints.latest()), result)  # nothing is left to do


@pytest.fixture
def saved(rng, tmp_path):
    """A folder with checkpoints after steps 3 and 4, and how to run what they are of."""
    images, targets = rng.random((2, 2, 6, 5, 3), np.float32)
    run = functools.partial(
        optimize.run, quadratic, images, basic.CONFIG.replace(steps=4), each=(targets,)
    )
    with Checkpoints(tmp_path / "c", SETTINGS, every=1) as checkpoints:
        run(callback=checkpoints)
    return tmp_path / "c", run


def damage(folder):
    """Turns over a bit in the middle of each of its larger files."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 20:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 16
            path.write_bytes(data)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(saved):
    folder, run = saved
    damage(folder / "4")
    with Checkpoints(folder, SETTINGS) as checkpoints:
        resume = checkpoints.latest()
        assert resume.step == 3
        assert_same(run(resume=resume, callback=checkpoints), run())
    damage(folder / "3")
    damage(folder / "4")
    with (
        Checkpoints(folder, SETTINGS) as checkpoints,
        pytest.raises(ValueError, match="c: all checkpoints are damaged: delete the folder to"),
    ):
        checkpoints.latest()


@pytest.mark.parametrize("lost", ["states/SHA256SUMS", "history/_METADATA"])
def test_a_checkpoint_that_lacks_a_file_is_damaged(saved, lost):
    folder, _ = saved
    (folder / "4" / lost).unlink()
    with Checkpoints(folder, SETTINGS) as checkpoints:
        assert checkpoints.latest().step == 3


def test_what_orbax_notes_of_a_checkpoint_is_not_needed(saved):
    folder, run = saved
    (folder / "4" / "_CHECKPOINT_METADATA").write_bytes(b"\0")
    with Checkpoints(folder, SETTINGS) as checkpoints:
        assert_same(run(resume=checkpoints.latest()), run())


def test_other_settings_are_refused_with_what_differs(saved):
    folder, _ = saved
    with pytest.raises(
        ValueError, match=r"differs in size \(32 there, 64 now\), seed \(None there, 1 now\)$"
    ):
        Checkpoints(folder, SETTINGS | {"size": 64, "seed": 1})
    with pytest.raises(ValueError, match=r"a \(None there, 1 now\), .* and 2 more$"):
        Checkpoints(folder, SETTINGS | dict.fromkeys("abcde", 1))
    for text in ("{", "[" * 10**5):
        (folder / "settings.json").write_text(text)
        with pytest.raises(ValueError, match="settings.json: cannot be read as settings of a run"):
            Checkpoints(folder, SETTINGS)


def test_checkpoints_without_their_settings_are_refused(saved):
    folder, _ = saved
    (folder / "settings.json").unlink()
    with pytest.raises(
        ValueError, match="c holds checkpoints without their settings.json: "
    ) as error:
        Checkpoints(folder, SETTINGS)
    assert str(error.value).startswith(str(folder)) and "or empty this one" in str(error.value)
    assert not (folder / "settings.json").exists()
    for path in folder.iterdir():
        shutil.rmtree(path)
    assert not Checkpoints(folder, SETTINGS).begun


def test_a_step_that_orbax_does_not_save_beside_later_ones_is_an_error(saved):
    """A run begun anew, without `resume`, in the folder of one that came further."""
    folder, run = saved
    with (
        Checkpoints(folder, SETTINGS, every=1) as checkpoints,
        pytest.raises(FileError, match="c holds a later checkpoint than step 1, "),
    ):
        run(callback=checkpoints)
    with Checkpoints(folder, SETTINGS) as checkpoints:
        assert checkpoints.latest().step == 4


def test_states_of_another_shape_are_refused(saved, rng):
    folder, _ = saved
    images, targets = rng.random((2, 2, 7, 5, 3), np.float32)
    with Checkpoints(folder, SETTINGS) as checkpoints:
        resume = checkpoints.latest()
    with pytest.raises(ValueError, match="resume must hold states of the same run"):
        optimize.run(
            quadratic, images, basic.CONFIG.replace(steps=4), each=(targets,), resume=resume
        )


def test_resume_after_the_last_step_is_refused(vgg16, saved, rng):
    folder, _ = saved
    with Checkpoints(folder, SETTINGS) as checkpoints:
        resume = checkpoints.latest()
    content, style = rng.random((2, 32, 32, 3), np.float32)
    with pytest.raises(ValueError, match="resume must be after step 1 to 3, got 4"):
        nst_jax.stylize(
            vgg16, content, [style], basic.CONFIG.replace(size=None, steps=3), resume=resume
        )
