import re

import basic
import jax
import numpy as np
import pytest

import nst_jax
from nst_jax import objective, sharding
from nst_jax.cli import preflight
from nst_jax.files import host_memory
from nst_jax.optimizers import LBFGS

CONFIG = basic.CONFIG.replace(
    size=None, content_layers=("block1_conv2",), style_layers=("block1_conv1", "block2_conv1")
)
SHAPE = (120, 90)


def plan(params, shape, outputs, config, *, tile=None, mesh=None, remat=False, **options):
    options["placement"] = nst_jax.Placement(tile=tile, mesh=mesh, remat=remat)
    return preflight.Plan(params=params, shape=shape, outputs=outputs, config=config, **options)


@pytest.fixture
def step_takes(monkeypatch):
    """Puts a function in place of what the compiler says of a step; all else takes nothing."""

    def step_takes(program_bytes):
        def of_plan(own):
            options = {"regions": own.regions, "sweep": own.sweep}
            options |= {"mesh": own.placement.mesh, "remat": own.placement.remat}
            return program_bytes(own.params, own.shape, own.outputs, own.config, **options)

        monkeypatch.setattr(preflight.Plan, "program_bytes", of_plan)
        monkeypatch.setattr(preflight.Plan, "targets_bytes", lambda _: 0)
        monkeypatch.setattr(preflight.Plan, "activation_bytes", lambda _: 0.0)
        monkeypatch.setattr(preflight.Plan, "kept_bytes", lambda _: 0)

    return step_takes


@pytest.fixture
def no_flags(monkeypatch):
    """None is looked for, which compiles a program for each."""
    monkeypatch.setattr(preflight, "_flags_that_fit", lambda *_, **__: [])


def test_need_grows_with_pixels_outputs_and_memory_of_steps(vgg16):
    need = plan(vgg16, SHAPE, 1, CONFIG).program_bytes()
    pixels = SHAPE[0] * SHAPE[1]
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(vgg16))
    # No less than block1_conv1 and block1_conv2 of the picture, and the content's activations.
    assert need > weights * (74 / 14_715) + 3 * 4 * 64 * pixels
    assert need < weights + preflight.MOST_BYTES_PER_PIXEL * pixels
    assert plan(vgg16, SHAPE, 2, CONFIG).program_bytes() - need > 3 * 4 * 64 * pixels
    lbfgs = CONFIG.replace(optimizer=LBFGS(history_size=50))
    assert plan(vgg16, SHAPE, 1, lbfgs).program_bytes() - need > 50 * 2 * 12 * pixels * 0.9


@pytest.mark.slow
def test_a_run_that_does_not_fit_is_refused_with_what_fits(vgg16):
    need = plan(vgg16, SHAPE, 2, CONFIG).program_bytes()
    plan(vgg16, SHAPE, 2, CONFIG).check(available=need)
    available = need // 2
    with pytest.raises(ValueError) as caught:
        plan(vgg16, SHAPE, 2, CONFIG).check(available=available)
    message = str(caught.value)
    assert message.startswith(
        f"2 pictures of 90x120 would take {need / 2**30:.2f} GiB of memory, and there are "
        f"{available / 2**30:.2f} GiB: a --size of "
    )
    size = int(re.search(r"a --size of (\d+) fits", message)[1])
    assert 60 < size < 110
    plan(vgg16, SHAPE, 2, CONFIG.replace(size=size)).check(available=available)
    larger = CONFIG.replace(size=int(1.1 * size))
    assert plan(vgg16, SHAPE, 2, larger).run_bytes() > available


def test_what_is_far_too_large_is_refused_by_arithmetic(vgg19, compilations):
    """Channels of the convolutions up to block4_conv2, each over the pixels that it stands for."""
    config = nst_jax.presets["default"].replace(size=8000, dtype="float32", precision="highest")
    channels = 2 * 64 + 2 * 128 / 4 + 4 * 256 / 16 + 2 * 512 / 64
    # The default's style also looks at block5_conv1, three convolutions deeper.
    channels += 2 * 512 / 64 + 512 / 256
    own = plan(vgg19, (3000, 4000), 6, config)
    assert own.activation_bytes() == 4 * channels
    half = own.replace(config=config.replace(dtype="bfloat16"))
    assert half.activation_bytes() == 2 * channels
    with compilations() as count, pytest.raises(preflight.DoesNotFit) as caught:
        own.check(available=20 * 2**30)
    assert count() == 0
    line = str(caught.value)
    about = 6 * 6000 * 8000 * (1.8 * 4 * channels + 12 * config.optimizer.kept) / 2**30
    assert line.startswith(
        f"6 pictures of 8000x6000 would take about {about:.1f} GiB of memory, and there are "
        "20.00 GiB: a --size of "
    )
    size = int(re.search(r"a --size of (\d+) fits", line)[1])
    assert 0.9 * 8000 < size / (20 / about) ** 0.5 <= 8000
    assert line.endswith(f"{size} fits")  # not even one of the pictures does at this size
    with pytest.raises(preflight.DoesNotFit) as caught:
        own.check(available=int(about * 2**30 / 2.5))
    line = str(caught.value)
    assert f"; --remat (about {about / 3:.1f} GiB) or --tile=2048 (about " in line
    assert line.endswith("; 2 of the 6 pictures can be painted at once")
    with pytest.raises(preflight.DoesNotFit) as caught:
        own.replace(outputs=1).check(available=20 * 2**30)
    tile = re.search(
        r"; --tile=(\d+) \(about ([\d.]+) GiB\) makes this one fit$", str(caught.value)
    )
    assert tile and int(tile[1]) <= 2048 and 5 < float(tile[2]) <= 20


def test_where_nothing_fits_it_says_so(vgg16, step_takes):
    step_takes(lambda params, shape, *_, **__: 1000 * shape[0] * shape[1])
    with pytest.raises(ValueError, match="a picture of 90x120 .* GiB: no --size fits$"):
        plan(vgg16, SHAPE, 1, CONFIG).check(available=1000)


@pytest.mark.parametrize(
    ("available", "remat", "named"),
    [
        (900, False, "--remat, --dtype=bfloat16 or --tile=64 makes"),
        (700, False, "--remat or --tile=64 makes"),
        (500, False, "--tile=64 or --remat with --dtype=bfloat16 makes"),
        (500, True, "--dtype=bfloat16 or --tile=64 makes"),
    ],
)
def test_flags_are_named_with_which_it_would_fit(
    vgg16, monkeypatch, step_takes, available, remat, named
):
    def program_bytes(params, shape, outputs, config, *, remat, **_):
        a_pixel = 1000 - 400 * remat - 200 * (config.network.dtype == "bfloat16")
        return outputs * shape[0] * shape[1] * a_pixel

    step_takes(program_bytes)
    monkeypatch.setattr(preflight, "TILES", (64, 32))
    pixels = 3 * SHAPE[0] * SHAPE[1]
    line = plan(vgg16, SHAPE, 3, CONFIG, remat=remat).advice(available=available * pixels)
    assert line.endswith(f" fits; {named} this one fit")


@pytest.mark.parametrize(
    ("share", "named"),
    [
        (1.1, "--tile=64"),
        (0.7, "--remat with --tile=64"),
        (0.5, "--remat with --dtype=bfloat16 with --tile=64"),
        (0.3, None),
    ],
)
def test_flags_are_named_together_where_none_does_alone(
    vgg16, monkeypatch, step_takes, share, named
):
    def program_bytes(params, shape, outputs, config, *, remat, **_):
        a_pixel = 1000 - 400 * remat - 200 * (config.network.dtype == "bfloat16")
        return outputs * shape[0] * shape[1] * a_pixel

    step_takes(program_bytes)
    monkeypatch.setattr(preflight, "TILES", (64,))
    window = objective.Objective.of(CONFIG).grid(vgg16, SHAPE, 64)
    available = int(share * 1000 * np.prod(window.window))
    line = plan(vgg16, SHAPE, 1, CONFIG).advice(available=available)
    assert line.endswith(f" fits; {named} makes this one fit" if named else " fits")
    searching = CONFIG.replace(optimizer=LBFGS(linesearch=True))
    assert "--tile" not in plan(vgg16, SHAPE, 1, searching).advice(available=available)


def test_the_size_that_is_named_has_been_asked_about(vgg16, step_takes):
    """Of memory that does not grow as the pixels do."""
    asked = {}

    def program_bytes(params, shape, *_, **__):
        return asked.setdefault(shape, int(1e6 * (shape[0] * shape[1]) ** 0.25))

    step_takes(program_bytes)
    available = int(0.6 * program_bytes(None, SHAPE))
    line = plan(vgg16, SHAPE, 1, CONFIG).advice(available=available)
    size = int(re.search(r"a --size of (\d+) fits", line)[1])
    assert asked[nst_jax.image.fit_size(*SHAPE, size)] <= available
    assert program_bytes(None, nst_jax.image.fit_size(*SHAPE, int(1.06 * size))) > available


@pytest.mark.slow
def test_a_style_larger_than_the_picture_counts(vgg16, no_flags):
    style = (300, 320)
    step = plan(vgg16, SHAPE, 1, CONFIG).program_bytes()
    need = plan(vgg16, SHAPE, 1, CONFIG, styles=[(20, 20), style]).targets_bytes()
    assert need > 2 * 4 * 64 * np.prod(style) > step  # block1_conv1, before and after its ReLU
    plan(vgg16, SHAPE, 1, CONFIG, styles=[(20, 20)]).check(available=step)
    with pytest.raises(preflight.DoesNotFit) as caught:
        plan(vgg16, SHAPE, 1, CONFIG, styles=[style, (20, 20)]).check(available=need - 1)
    assert f"a picture of 90x120 would take {need / 2**30:.2f} GiB" in str(caught.value)
    plan(vgg16, SHAPE, 1, CONFIG, styles=[style, (20, 20)]).check(available=need)


def test_on_a_mesh_the_content_is_looked_at_by_one_device(vgg16):
    """And with --remat a step takes less than the forward pass before it."""
    mesh, alone = sharding.make_mesh(1), CONFIG.replace(style_layers=())
    need = plan(vgg16, (256, 40), 1, alone, mesh=mesh).targets_bytes()
    assert need > 2 * 4 * 64 * 256 * 40
    for part in ({"mesh": mesh}, {}):
        look = plan(vgg16, (256, 40), 1, CONFIG, remat=not part, **part)
        assert look.run_bytes() >= look.targets_bytes()


def test_what_is_far_from_the_limit_is_not_compiled(vgg16, compilations):
    assert 2**20 < preflight.available_bytes() < 2**60
    with compilations() as count:
        plan(vgg16, SHAPE, 1, CONFIG).check(available=2**40)
        assert count() == 0


def test_masks_are_counted(vgg16):
    need = plan(vgg16, SHAPE, 1, CONFIG).program_bytes()
    pixels = np.prod(SHAPE)
    masked = plan(vgg16, SHAPE, 1, CONFIG, regions=3).program_bytes()
    assert masked - need > 3 * 4 * pixels


def test_numbers_may_be_arrays(vgg16, step_takes):
    step_takes(lambda _, __, ___, config, **____: 10**9 - (config.network.dtype == "bfloat16"))
    sweep = {"learning_rate": np.array([1.0, 2.0]), "style_weight": np.array([1.0, 2.0])}
    line = plan(vgg16, SHAPE, 2, CONFIG, remat=True, sweep=sweep).advice(available=10**9 - 1)
    assert "--dtype=bfloat16" in line and "--remat" not in line


def test_where_the_compiler_tells_nothing_there_is_advice_still(vgg16, monkeypatch):
    monkeypatch.setattr(preflight.Plan, "program_bytes", lambda _: None)
    plan(vgg16, SHAPE, 1, CONFIG).check(available=10**7)  # above what arithmetic needs
    assert plan(vgg16, SHAPE, 1, CONFIG).advice() == (
        "a picture of 90x120 would take more memory than there is: "
        "a smaller --size or --tile takes less"
    )


def write_group(folder, limit, used, cache):
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")


@pytest.mark.parametrize(
    ("own", "there_are"),
    [
        ("/slice/job/step", 400),  # the limit of the group around it, in which 100 can be had back
        ("/slice", 2000),
        ("/", 5 * 1024),
        ("/elsewhere", 5 * 1024),  # not to be seen from here
    ],
)
def test_limits_of_nested_control_groups_count(tmp_path, monkeypatch, own, there_are):
    groups = tmp_path / "sys" / "fs" / "cgroup"
    write_group(groups / "slice", limit=3000, used=1000, cache=0)
    write_group(groups / "slice" / "job", limit=1000, used=700, cache=100)
    write_group(groups / "slice" / "job" / "step", limit="max", used=600, cache=100)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"1:name=systemd:/other\n0::{own}\n")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:       5 kB\n")
    monkeypatch.setattr(host_memory, "ROOT", tmp_path)
    assert preflight.available_bytes() == there_are


@pytest.mark.slow
@pytest.mark.parametrize(("outputs", "alone"), [(8, 1.0), (1, 1 / 8)])
def test_a_mesh_is_asked_for_what_it_divides(vgg16, monkeypatch, no_flags, outputs, alone):
    """Against a device that has an eighth of it for itself."""
    # Sizes are looked for in test_a_run_that_does_not_fit_is_refused_with_what_fits.
    monkeypatch.setattr(preflight, "_size_that_fits", lambda *_, **__: None)
    mesh = sharding.make_mesh(outputs)
    need = plan(vgg16, (256, 40), outputs, CONFIG, mesh=mesh).program_bytes()
    monkeypatch.setattr(objective, "prepare", lambda params, config, **_: params)  # as on a mesh
    part = plan(vgg16, (int(alone * 256), 40), 1, CONFIG).program_bytes()
    # The content's activations are whole on every device, and borders are those of two.
    assert 0.8 < need / (8 * part) < (1.3 if outputs == 8 else 3.0)
    plan(vgg16, (256, 40), outputs, CONFIG, mesh=mesh).check(available=need)
    with pytest.raises(ValueError) as caught:
        plan(vgg16, (256, 40), outputs, CONFIG, mesh=mesh).check(available=need - 1)
    assert f"would take {need / 2**30:.2f} GiB" in str(caught.value)
    assert "--tile" not in str(caught.value)  # which takes no mesh


def test_of_a_tiled_run_only_smaller_tiles_are_named(vgg16, monkeypatch, step_takes):
    def program_bytes(params, shape, outputs, config, *, regions, mesh, sweep, remat):
        assert (regions, mesh) == (3, None)
        assert outputs == 1 or max(shape) <= 64  # windows are looked at one by one
        assert bool(sweep) == (outputs > 1)
        return shape[0] * shape[1] * (500 if remat else 1000)

    step_takes(program_bytes)
    monkeypatch.setattr(preflight, "TILES", (96, 64, 32))
    given = {"regions": 3, "sweep": {"style_weight": np.array([1.0, 2.0])}}
    lines = [
        plan(vgg16, (240, 180), 2, CONFIG, tile=tile, **given).advice(available=available)
        for tile, available in ((64, 2_000_000), (32, 700_000), (24, 400_000))
    ]
    assert lines[0].startswith("2 pictures of 180x240 in windows of ")
    assert lines[0].endswith("; --remat or --tile=32 makes this one fit")
    assert all(line.endswith("; --remat makes this one fit") for line in lines[1:])
    line = plan(vgg16, (240, 180), 2, CONFIG, remat=True, tile=24, **given).advice(
        available=100_000
    )
    assert "makes this one fit" not in line


def test_a_larger_tile_is_not_named_even_if_it_seems_to_fit(vgg16, monkeypatch, step_takes):
    def program_bytes(params, shape, *_, **__):  # of strips, memory hardly depends on the picture
        return 10**6 - 300 * shape[0] * shape[1]

    step_takes(program_bytes)
    monkeypatch.setattr(preflight, "TILES", (64, 32))
    assert "--tile" not in plan(vgg16, SHAPE, 1, CONFIG, tile=32).advice()


def test_what_the_host_keeps_of_a_tiled_run_is_counted_by_its_arrays(vgg16):
    pixels, styles = np.prod(SHAPE), [(50, 40), (30, 30)]
    picture, activations = 4 * 3, 4 * 64
    small = 0.01 * pixels
    kept = plan(vgg16, SHAPE, 1, CONFIG, styles=styles).kept_bytes()
    of_a_picture = 5 * picture + 7 * picture  # image, momentum, average, start, result; what passes
    of_a_content = 2 * picture + activations
    found = kept - pixels * (of_a_picture + of_a_content) - picture * (50 * 40 + 30 * 30)
    statistics = 4 * (64**2 + 64 + 128**2 + 128)
    assert 0 <= found < statistics + 100
    more = plan(vgg16, SHAPE, 3, CONFIG, styles=styles).kept_bytes()
    assert abs(more - kept - 2 * pixels * of_a_picture) < small
    others = plan(vgg16, SHAPE, 3, CONFIG, styles=styles, contents=2).kept_bytes()
    assert abs(others - more - pixels * of_a_content - statistics) < small
    lbfgs = CONFIG.replace(optimizer=LBFGS(history_size=20))
    past = plan(vgg16, SHAPE, 1, lbfgs, styles=styles).kept_bytes() - kept
    assert 20 * 2 * picture * pixels < past < 30 * 2 * picture * pixels


@pytest.mark.slow
def test_a_tiled_run_is_asked_for_a_window_and_for_what_the_host_keeps(vgg16, no_flags):
    shape, styles = (240, 180), [(64, 300)]  # of which the second is in windows, too
    window = objective.Objective.of(CONFIG).grid(vgg16, shape, 64)
    step = plan(vgg16, window.window, 1, CONFIG).program_bytes()
    host = plan(vgg16, shape, 2, CONFIG, styles=styles).kept_bytes()
    need = plan(vgg16, shape, 2, CONFIG, styles=styles, tile=64).run_bytes()
    assert host + step <= need < host + 1.2 * step
    plan(vgg16, shape, 2, CONFIG, styles=styles, tile=64).check(available=need)
    with pytest.raises(preflight.DoesNotFit) as caught:
        plan(vgg16, shape, 2, CONFIG, styles=styles, tile=64).check(available=need - 1)
    message = str(caught.value)
    height, width = window.window
    assert message.startswith(
        f"2 pictures of 180x240 in windows of {width}x{height} would take {need / 2**30:.2f} GiB "
    )
    size = int(re.search(r"a --size of (\d+) fits", message)[1])
    smaller = CONFIG.replace(size=size)
    assert plan(vgg16, shape, 2, smaller, styles=styles, tile=64).run_bytes() < need


def test_scales_that_are_looked_at_whole_count_in_a_tiled_run(vgg16, step_takes):
    """Where the picture is no larger than the tile, all outputs are painted at once."""
    step_takes(lambda params, shape, outputs, *_, **__: outputs * shape[0] * shape[1])
    config = CONFIG.replace(size=128, first_size=16, scale_factor=2.0)
    assert plan(vgg16, (128, 128), 9, config, tile=64).run_bytes() == 9 * 64 * 64
    assert plan(vgg16, (128, 128), 9, CONFIG, tile=64).run_bytes() <= 64 * 64


def test_beside_an_accelerator_the_host_is_asked_by_itself(vgg16, monkeypatch, step_takes):
    step_takes(lambda *_, **__: 1000)
    monkeypatch.setattr(preflight.Plan, "kept_bytes", lambda _: 5000)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = {"device": 999, "host": 5000}
    monkeypatch.setattr(preflight, "available_bytes", lambda: there["device"])
    monkeypatch.setattr(host_memory, "host_bytes", lambda: there["host"])
    with pytest.raises(preflight.DoesNotFit, match="in windows of"):
        plan(vgg16, SHAPE, 1, CONFIG, tile=64).check()
    there["device"] = 1000
    plan(vgg16, SHAPE, 1, CONFIG, tile=64).check()
    there["host"] = 4999
    with pytest.raises(preflight.DoesNotFit, match="GiB of the host's memory, and there are"):
        plan(vgg16, SHAPE, 1, CONFIG, tile=64).check()
    plan(vgg16, SHAPE, 1, CONFIG).check()


def test_a_transfer_of_colours_needs_no_memory_of_steps(vgg16, step_takes, no_flags):
    step_takes(lambda *_, **__: 2**40)
    plan(vgg16, SHAPE, 1, CONFIG.replace(color="transfer")).check(available=2**20)
    with pytest.raises(preflight.DoesNotFit):
        plan(vgg16, SHAPE, 1, CONFIG.replace(color="match")).check(available=2**20)
