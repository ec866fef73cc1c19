import re

import jax
import numpy as np
import pytest

import nst_jax
from nst_jax import memory, objective, preflight, sharding

CONFIG = nst_jax.Config(
    size=None, content_layers=("block1_conv2",), style_layers=("block1_conv1", "block2_conv1")
)
SHAPE = (120, 90)


def test_need_grows_with_pixels_outputs_and_memory_of_steps(vgg16):
    need = preflight.program_bytes(vgg16, SHAPE, 1, CONFIG)
    pixels = SHAPE[0] * SHAPE[1]
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(vgg16))
    # No less than block1_conv1 and block1_conv2 of the picture, and the content's activations.
    assert need > weights * (74 / 14_715) + 3 * 4 * 64 * pixels
    assert need < weights + preflight.CERTAINLY * pixels
    assert preflight.program_bytes(vgg16, SHAPE, 2, CONFIG) - need > 3 * 4 * 64 * pixels
    lbfgs = CONFIG.replace(optimizer="lbfgs", memory=50)
    assert preflight.program_bytes(vgg16, SHAPE, 1, lbfgs) - need > 50 * 2 * 12 * pixels * 0.9


def test_a_run_that_does_not_fit_is_refused_with_what_fits(vgg16):
    need = preflight.program_bytes(vgg16, SHAPE, 2, CONFIG)
    preflight.check(vgg16, SHAPE, 2, CONFIG, available=need)
    available = need // 2
    with pytest.raises(ValueError) as caught:
        preflight.check(vgg16, SHAPE, 2, CONFIG, available=available)
    message = str(caught.value)
    assert message.startswith(
        f"2 pictures of 90x120 would take {need / 2**30:.2f} GiB of memory, and there are "
        f"{available / 2**30:.2f} GiB: a --size of "
    )
    size = int(re.search(r"a --size of (\d+) fits", message)[1])
    assert 60 < size < 110
    preflight.check(vgg16, SHAPE, 2, CONFIG.replace(size=size), available=available)
    with pytest.raises(ValueError):
        preflight.check(vgg16, SHAPE, 2, CONFIG.replace(size=int(1.1 * size)), available=available)


def test_where_nothing_fits_it_says_so(vgg16):
    with pytest.raises(ValueError, match="a picture of 90x120 .* GiB: no --size fits$"):
        preflight.check(vgg16, SHAPE, 1, CONFIG, available=1000)


@pytest.mark.parametrize(
    ("available", "config", "named"),
    [
        (900, CONFIG, "--remat, --precision=bfloat16 or --tile=64 makes"),
        (700, CONFIG, "--remat or --tile=64 makes"),
        (500, CONFIG, "--remat with --precision=bfloat16 or --tile=64 makes"),
        (500, CONFIG.replace(remat=True), "--precision=bfloat16 or --tile=64 makes"),
    ],
)
def test_flags_are_named_with_which_it_would_fit(vgg16, monkeypatch, available, config, named):
    def program_bytes(params, shape, outputs, config, **_):
        a_pixel = 1000 - 400 * config.remat - 200 * (config.precision == "bfloat16")
        return outputs * shape[0] * shape[1] * a_pixel

    monkeypatch.setattr(preflight, "program_bytes", program_bytes)
    monkeypatch.setattr(preflight, "TILES", (64, 32))
    monkeypatch.setattr(preflight, "TILED_HOST", 0)
    pixels = 3 * SHAPE[0] * SHAPE[1]
    line = preflight.advice(vgg16, SHAPE, 3, config, available=available * pixels)
    assert line.endswith(f" fits; {named} this one fit")


def test_a_tile_is_named_where_there_are_windows(vgg16, monkeypatch):
    monkeypatch.setattr(preflight, "TILES", (64, 32))
    searching = CONFIG.replace(optimizer="lbfgs", linesearch=True)
    assert preflight._tile_that_fits(vgg16, SHAPE, searching, lambda area: True) == []
    assert preflight._tile_that_fits(vgg16, SHAPE, CONFIG, lambda area: True) == ["--tile=64"]


def test_what_is_far_from_the_limit_is_not_compiled(vgg16, compilations):
    assert 2**20 < preflight.available_bytes() < 2**60
    with compilations() as count:
        preflight.check(vgg16, SHAPE, 1, CONFIG, available=2**40)
        assert count() == 0


def test_masks_are_counted(vgg16):
    need = preflight.program_bytes(vgg16, SHAPE, 1, CONFIG)
    pixels = np.prod(SHAPE)
    masked = preflight.program_bytes(vgg16, SHAPE, 1, CONFIG, regions=3)
    assert masked - need > 3 * 4 * pixels


def test_numbers_may_be_arrays(vgg16, monkeypatch):
    monkeypatch.setattr(preflight, "program_bytes", lambda *_, **__: 10**9)
    numbers = {"learning_rate": np.array([1.0, 2.0]), "style_weight": np.array([1.0, 2.0])}
    line = preflight.advice(vgg16, SHAPE, 2, CONFIG.replace(remat=True, **numbers), available=10**9)
    assert "--precision=bfloat16" in line and "--remat" not in line


def test_where_the_compiler_tells_nothing_there_is_advice_still(vgg16, monkeypatch):
    monkeypatch.setattr(preflight, "program_bytes", lambda *_, **__: None)
    preflight.check(vgg16, SHAPE, 1, CONFIG, available=1000)
    assert preflight.advice(vgg16, SHAPE, 1, CONFIG) == (
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
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert preflight.available_bytes() == there_are


@pytest.mark.parametrize(("outputs", "alone"), [(8, 1.0), (1, 1 / 8)])
def test_a_mesh_is_asked_for_what_it_divides(vgg16, monkeypatch, outputs, alone):
    """Against a device that has an eighth of it for itself."""
    mesh = sharding.make_mesh(outputs)
    need = preflight.program_bytes(vgg16, (256, 40), outputs, CONFIG, mesh=mesh)
    monkeypatch.setattr(objective, "prepare", lambda params, config: params)  # as on a mesh
    part = preflight.program_bytes(vgg16, (int(alone * 256), 40), 1, CONFIG)
    # The content's activations are whole on every device, and borders are those of two.
    assert 0.8 < need / (8 * part) < (1.3 if outputs == 8 else 3.0)
    preflight.check(vgg16, (256, 40), outputs, CONFIG, mesh=mesh, available=need)
    with pytest.raises(ValueError) as caught:
        preflight.check(vgg16, (256, 40), outputs, CONFIG, mesh=mesh, available=need - 1)
    assert f"would take {need / 2**30:.2f} GiB" in str(caught.value)
    assert "--tile" not in str(caught.value)  # which takes no mesh


def test_of_a_tiled_run_only_smaller_tiles_are_named(vgg16, monkeypatch):
    def program_bytes(params, shape, outputs, config, *, regions, mesh):
        assert (outputs, regions, mesh) == (1, 3, None)  # windows are looked at one by one
        return shape[0] * shape[1] * (500 if config.remat else 1000)

    monkeypatch.setattr(preflight, "program_bytes", program_bytes)
    monkeypatch.setattr(preflight, "TILES", (96, 64, 32))
    lines = [
        preflight.advice(vgg16, SHAPE, 2, CONFIG, regions=3, tile=tile) for tile in (64, 32, 24)
    ]
    assert lines[0].startswith("2 pictures of 90x120 in windows of ")
    assert lines[0].endswith(" GiB of memory: --remat or --tile=32 makes this one fit")
    assert all(line.endswith(": --remat makes this one fit") for line in lines[1:])
    saving = CONFIG.replace(remat=True)
    line = preflight.advice(vgg16, SHAPE, 2, saving, regions=3, tile=24)
    assert line.endswith(": no smaller --tile fits")


def test_a_larger_tile_is_not_named_even_if_it_seems_to_fit(vgg16, monkeypatch):
    def program_bytes(params, shape, *_, **__):  # of strips, memory hardly depends on the picture
        return 10**6 - 300 * shape[0] * shape[1]

    monkeypatch.setattr(preflight, "program_bytes", program_bytes)
    monkeypatch.setattr(preflight, "TILES", (64, 32))
    line = preflight.advice(vgg16, SHAPE, 1, CONFIG, tile=32)
    assert line.endswith(": no smaller --tile fits")
