"""Every flag of a setting sets its field and no other."""

import dataclasses
import json
import re
import shutil

import h5py
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from commandline import FAST
from PIL import Image

from nst_jax.cli.flags import (
    ADDRESSES,
    KINDS,
    config_from_flags,
    mixing_from_flag,
    takes_several,
)
from nst_jax.coarse_to_fine import fit_shape
from nst_jax.optimizers import Adam
from nst_jax.presets import presets
from nst_jax.terms import TERMS, TotalVariation, WassersteinStyle
from nst_jax.weights.load import BUNDLED_FOLDER, sha256


def another(address):
    """A value of a setting that is not its preset's, as text and as what is kept of it."""
    (_, field), *_ = ADDRESSES[address]
    about, now = field.metadata, presets["default"].flat().get(address, field.default)
    if "choices" in about:
        (value, *_) = (choice for choice in about["choices"] if choice != now)
        return f"={value}", value
    if about["type"] == "switch":
        return "", not now
    if about["type"] == "weighted":
        return "=block2_last:0.75,block1_pool:0.5", {"block2_last": 0.75, "block1_pool": 0.5}
    if about["type"] == "numbers":
        return "=3,2,1", (3.0, 2.0, 1.0)
    value = (now or 0) + 1 if about.get("whole") else 0.9 * now or 0.25
    return f"={value}", value


def with_kinds_for(address):
    """The flags that choose a part which has the setting, and the configuration of these."""
    if address in presets["default"].flat():
        return ()
    owner = ADDRESSES[address][0].owner
    if owner in TERMS and presets["default"].term(owner) is None:
        return (f"--{owner}_weight=1",)
    for flag, kinds in KINDS.items():
        for kind, made in kinds.items():
            if address in {name for name, *_ in fields_of(flag, made)}:
                return (f"--{flag}={kind}",)
    raise AssertionError(address)


def fields_of(flag, kind):
    prefix = "" if flag == "optimizer" else f"{flag.removesuffix('_loss')}_"
    return [(prefix + field.name,) for field in dataclasses.fields(kind)]


def parsed(*arguments):
    with flagsaver.flagsaver():
        flags.FLAGS(["nst-jax", *arguments])
        return config_from_flags()


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_flag_sets_its_field_and_nothing_else(address):
    kinds = with_kinds_for(address)
    before, _ = parsed(*kinds)
    text, value = another(address)
    changed = f"--{address}{text}"
    kinds = [flag for flag in kinds if flag != f"--{address}=1"]  # its values would add up
    if isinstance(value, bool):
        changed = f"--{address}" if value else f"--no{address}"
    config, sweep = parsed(*kinds, changed)
    assert config[address] == value != before[address]
    expected = {address: value}
    if address == "steps":  # those of the first scale, too
        expected["first_steps"] = None
    assert config == before.replace(**expected) and not sweep


@pytest.mark.parametrize("address", list(filter(takes_several, ADDRESSES)))
def test_a_number_with_several_values_is_explored(address):
    text, value = another(address)
    read = ("--schedule=exponential",) if address.startswith("decay_") else ()
    kinds = [flag for flag in with_kinds_for(address) if flag != f"--{address}=1"]
    _, sweep = parsed(*kinds, *read, f"--{address}{text},{text[1:]}")
    assert sweep == {address: (value, value)}
    if read:
        with pytest.raises(ValueError, match=rf"sweep\['{address}'\] has no effect in SGD"):
            parsed(f"--{address}{text},{text[1:]}")


def test_a_flag_chooses_a_kind_and_what_both_have_stays():
    before = presets["default"]
    config, _ = parsed("--optimizer=adam", "--style_loss=wasserstein")
    assert isinstance(config.optimizer, Adam)
    assert config.optimizer.learning_rate == before.optimizer.learning_rate
    assert config.optimizer.band_weights == before.optimizer.band_weights
    style = WassersteinStyle(weight=before["style_weight"], layers=before["style_layers"])
    assert config.term("style") == style
    assert config.term("content") == before.term("content")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--beta1=0.5",), "'beta1': its optimizer is SGD, which has none"),
        (("--optimizer=lbfgs", "--momentum=0.5"), "'momentum': its optimizer is LBFGS, which"),
        (
            ("--style_loss=wasserstein", "--style_normalization=gatys"),
            "'style_normalization': its style is WassersteinStyle, which has none",
        ),
        (("--tv_weight=0", "--tv_form=l1"), ""),
        (("--preset=gatys", "--tv_form=l1"), "there is no term 'tv', and tv_weight= adds it"),
        (("--style_layers=a:1,b",), "--style_layers must give each layer once, all with a weight"),
        (("--style_layers=a:1,a:2",), "--style_layers must give each layer once"),
        (("--style_layers=a:x",), "--style_layers must be numbers, got 'x'"),
        (("--optimizer=sdg",), "--optimizer must be one of sgd, adam, lbfgs, got 'sdg'"),
    ],
)
def test_what_the_chosen_parts_do_not_have_is_refused(arguments, message):
    if not message:
        config, _ = parsed(*arguments)
        assert config.term("tv") is None
        return
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        parsed(*arguments)


def test_a_learning_rate_goes_over_where_it_means_the_same():
    adam, _ = parsed("--preset=keras", "--optimizer=adam")
    lbfgs, _ = parsed("--preset=keras", "--optimizer=lbfgs")
    assert adam["learning_rate"] == 100 and lbfgs["learning_rate"] == 1
    given, _ = parsed("--preset=keras", "--optimizer=lbfgs", "--learning_rate=0.5")
    assert given["learning_rate"] == 0.5


def test_a_weight_of_0_takes_a_term_out_and_another_puts_one_in():
    without, _ = parsed("--tv_weight=0")
    assert without == presets["default"].replace(tv=None)
    added, _ = parsed("--preset=gatys", "--tv_weight=3", "--tv_form=l1")
    assert added.term("tv") == TotalVariation(weight=3.0, form="l1")
    none, sweep = parsed("--tv_weight=0,0")
    assert none == without and sweep == {}
    swept, sweep = parsed("--tv_weight=0,3")
    assert swept["tv_weight"] == 3 and sweep == {"tv_weight": (0.0, 3.0)}


def test_the_size_is_of_the_side_named():
    height, _ = parsed("--size=36", "--size_of=height")
    longer, _ = parsed("--size=36", "--size_of=longer")
    assert fit_shape((60, 80), height) == (36, 48) and fit_shape((60, 80), longer) == (27, 36)


@pytest.mark.slow
def test_the_network_is_the_one_named_or_in_the_file(run, pictures, tmp_path):
    own = tmp_path / "own.h5"
    shutil.copy(BUNDLED_FOLDER / "vgg16.h5", own)
    with h5py.File(own, "r+") as file:
        kernel = file["block1_conv1/block1_conv1_W_1:0"]
        kernel[...] = kernel[...][..., ::-1]  # another order of the first channels
    made = {}
    for name, *chosen in (
        ("sixteen",),
        ("nineteen", "--model=vgg19"),
        ("named", "--model=vgg19", "--weights=vgg16"),
        ("own", f"--weights={own}"),
    ):
        out = tmp_path / name
        code, err = run(
            *(f"--content={pictures[0]}", f"--styles={pictures[1]}", f"--output_dir={out}"),
            *(*FAST, "--learning_rate=4", "--mesh=style:1", *chosen),
        )
        assert code == 0, err
        made[name] = np.asarray(Image.open(out / "a__b.png"), np.int32)
    np.testing.assert_array_equal(made["named"], made["sixteen"])
    for name in ("nineteen", "own"):
        assert np.abs(made[name] - made["sixteen"]).max() > 1, name
    found = json.loads((tmp_path / "own" / "config.json").read_text())
    assert (found["network"], found["weights"]) == ("vgg16", str(own))
    assert found["weights_sha256"] == sha256(own) != sha256("vgg16")


@pytest.mark.parametrize(
    ("chosen", "given"),
    [
        (("--distributed",), (None, None, None)),
        (
            ("--coordinator_address=127.0.0.1:9", "--num_processes=2", "--process_id=1"),
            ("127.0.0.1:9", 2, 1),
        ),
        ((), None),
    ],
)
def test_the_cluster_tells_its_processes(run, monkeypatch, chosen, given):
    """Without addresses JAX asks the environment of Slurm, Open MPI or a TPU pod."""
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *found, **_: called.append(found))
    code, err = run(*chosen, "--steps=0")
    assert code == 1 and "steps must be at least 1" in err
    assert called == ([] if given is None else [given])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset=gatys", "--normalize_features"), "(--content_weight=0.01, --style_weight=50)"),
        (("--nonormalize_features", "--style_weight=3"), "preset's (--content_weight=4): without"),
        (("--style_normalization=gatys",), "--style_normalization changes the units of the terms"),
        (("--normalize_features",), ""),  # as the preset has it
        (("--nonormalize_features", "--style_weight=3", "--content_weight=1"), ""),
        (("--style_weight=3",), ""),
    ],
)
def test_a_switch_that_changes_the_units_of_terms_is_told_if_the_weights_stay(
    arguments, said, capsys
):
    config, _ = parsed(*arguments)
    err = capsys.readouterr().err
    assert err.count("\n") == (1 if said else 0) and said in err, (err, config["style_weight"])


def test_rows_of_a_mixing_are_divided_by_their_sums_and_the_command_says_so(capsys):
    with flagsaver.flagsaver():
        flags.FLAGS(["nst-jax", "--mixing=5,5;1,3"])
        np.testing.assert_allclose(mixing_from_flag(2), [[0.5, 0.5], [0.25, 0.75]])
        said = "nst-jax: --mixing: each row is divided by its sum, which gives 0.5,0.5;0.25,0.75\n"
        assert capsys.readouterr().err == said
        flags.FLAGS(["nst-jax", "--mixing=0.7,0.3"])
        mixing_from_flag(2)
        assert capsys.readouterr().err == ""
