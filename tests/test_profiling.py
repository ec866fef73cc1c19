import gzip
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from nst_jax.cli.profiling import Profile
from nst_jax.optimize import Progress


@pytest.fixture
def profiler(monkeypatch):
    """JAX's profiler, noting when it is started and stopped in place of tracing."""
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: events.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))
    return events


def follow(profile, dispatches, events):
    """The dispatches, (length, side), that were traced, by number."""
    steps, step, traced = sum(length for length, _ in dispatches), 0, []
    for number, (length, side) in enumerate(dispatches):
        if events[-1:] == ["start"]:
            traced.append(number)
        step += length
        terms = {"total": np.zeros((length, 1))}
        images = SimpleNamespace(shape=(1, side, side, 3))
        profile(Progress(step, steps, terms, images, np.zeros(1, bool), np.zeros(1), None))
    return traced


@pytest.mark.parametrize(
    ("dispatches", "expected"),
    [
        ([(1, 8)] * 9, [2, 3, 4]),
        ([(1, 4)] * 9 + [(1, 8)] * 9, [11, 12, 13]),  # the last scale, once it is compiled
        ([(25, 8)] * 6, [2]),  # a chunk is enough
        ([(25, 8)] * 2 + [(1, 8)] * 9, [4, 5, 6]),  # the rest is another program
        ([(1, 8)] * 4, [2, 3]),  # what there is
        ([(1, 8)] * 2, []),
        ([(25, 8), (1, 8)], []),
    ],
)
def test_steady_steps_of_the_last_scale_are_traced(tmp_path, profiler, dispatches, expected):
    with Profile(tmp_path, (8, 8)) as profile:
        assert follow(profile, dispatches, profiler) == expected
    assert profiler == (["start", "stop"] if expected else [])
    assert profile.traced == sum(dispatches[number][0] for number in expected)


def test_a_file_in_place_of_the_folder_is_refused_by_the_name_of_the_option(tmp_path):
    (tmp_path / "file").touch()
    for folder, why in (("file", "File exists"), ("file/deep", "Not a directory")):
        with pytest.raises(ValueError) as caught:
            Profile(tmp_path / folder, (8, 8))
        assert str(caught.value) == (
            f"profile_dir must be a folder, or a place for one, got '{tmp_path / folder}': {why}"
        )


def test_a_run_that_fails_while_traced_ends_the_trace(tmp_path, profiler):
    with pytest.raises(KeyboardInterrupt), Profile(tmp_path, (8, 8)) as profile:
        follow(profile, [(1, 8)] * 3, profiler)
        raise KeyboardInterrupt
    assert profiler == ["start", "stop"]


def test_a_trace_is_a_file_for_xprof_and_one_for_perfetto(tmp_path):
    step = jax.jit(lambda x: x @ x)
    with Profile(tmp_path / "deep" / "trace", (8, 8)) as profile:
        for number in range(1, 9):
            jax.block_until_ready(step(np.eye(64, dtype=np.float32)))
            images = SimpleNamespace(shape=(1, 8, 8, 3))
            terms = {"total": np.zeros((1, 1))}
            profile(Progress(number, 8, terms, images, np.zeros(1, bool), np.zeros(1), None))
    (folder,) = (tmp_path / "deep" / "trace" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb"))
    with gzip.open(folder / "perfetto_trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert any("PjitFunction" in str(name) for name in names)
