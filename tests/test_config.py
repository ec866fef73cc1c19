"""Settings: what they may be, where each is, and how they go through JAX, pickles and JSON."""

import dataclasses
import json
import pickle
from typing import Any

import basic
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nst_jax
from nst_jax.config import addresses, from_dict
from nst_jax.extractor import Extractor, VGGExtractor
from nst_jax.optimizers import LBFGS, SGD, Adam, Optimizer
from nst_jax.settings import number, option, settings, turned, weighted
from nst_jax.terms import Content, GramStyle, Term, TotalVariation, WassersteinStyle


def test_is_frozen_hashable_and_equal_by_value():
    config = nst_jax.presets["default"]
    assert config == config.replace(steps=config.steps) == nst_jax.Config()
    assert hash(config) == hash(config.replace())
    assert config != config.replace(content_weight=123.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3


@pytest.mark.parametrize("name", nst_jax.presets)
def test_it_comes_back_from_wherever_it_went(name):
    config = nst_jax.presets[name]
    leaves, structure = jax.tree.flatten(config)
    for again in (
        jax.tree.unflatten(structure, leaves),
        pickle.loads(pickle.dumps(config)),
        from_dict(json.loads(json.dumps(config.to_dict()))),
        nst_jax.Config(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)}),
    ):
        assert again == config and hash(again) == hash(config) and again.flat() == config.flat()
        assert again.replace(steps=7) == config.replace(steps=7)


def test_every_field_has_one_address():
    config = nst_jax.Config()
    assert config["style_weight"] == config.term("style").weight == 30
    assert config["momentum"] == config.optimizer.momentum == 0.9
    assert config["padding"] == config.network.padding == "replicate"
    assert config["size"] == config.size == 512
    assert config.flat().keys() == addresses(config).keys()
    with pytest.raises(KeyError):
        config["beta1"]
    assert config.term("none") is None


def test_nothing_of_it_can_be_changed_in_place():
    layers = nst_jax.Config().term("style").layers
    for change in (
        lambda: layers.__setitem__("block1_conv1", 9.0),
        lambda: layers.update(block1_conv1=9.0),
        lambda: layers.pop("block1_conv1"),
    ):
        with pytest.raises(TypeError, match="weights are frozen"):
            change()
    leaves, structure = jax.tree.flatten(nst_jax.Config())
    with pytest.raises(TypeError, match="weights are frozen"):
        jax.tree.unflatten(structure, leaves).term("style").layers["block1_conv1"] = 9.0


def test_a_class_derived_from_another_keeps_its_checks():
    @settings
    class Child(nst_jax.Config):
        pass

    with pytest.raises(TypeError, match="optimizer must be one of SGD"):
        Child(optimizer=5)
    assert Child(terms=(Content(weight=0),)).terms == ()


def test_whole_numbers_are_whole_in_json_whatever_they_went_through():
    told = jax.jit(lambda config: config)(nst_jax.Config()).to_dict()
    assert told["steps"] == 60 and isinstance(told["steps"], int)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "default"}, "config must be an nst_jax.Config, got 'default'"),
        ({"combine": {}}, "combine must be an nst_jax.Combine, got {}"),
        ({"placement": None}, "placement must be an nst_jax.Placement, got None"),
        (
            {"parametrization": "pixels"},
            "parametrization must be of a class derived from .*, got 'pixels'",
        ),
        ({"optimizer": SGD()}, r"SGD; settings of an optimiser go to config.replace\(optimizer=\)"),
        ({"resume": (2, None, {})}, "resume must be an nst_jax.optimize.Checkpoint or None"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(vgg16, rng, options, message):
    picture = rng.random((32, 32, 3), np.float32)
    given = {"config": nst_jax.Config(size=None, first_size=None)} | options
    with pytest.raises(TypeError, match=message):
        nst_jax.stylize(vgg16, picture, [picture], **given)
    with pytest.raises(TypeError, match="mesh must be one of nst_jax.sharding.make_mesh"):
        nst_jax.Placement(mesh="style:2")
    assert nst_jax.Placement(tile=np.int64(64), strips=np.int32(2), remat=np.False_).tile == 64


def test_a_sweep_that_the_optimiser_does_not_read_is_refused(vgg16, rng):
    picture = rng.random((32, 32, 3), np.float32)
    config = nst_jax.Config(size=None, first_size=None)
    with pytest.raises(ValueError, match=r"sweep\['learning_rate'\] has no effect: optimizer="):
        nst_jax.stylize(
            *(vgg16, picture, [picture], config),
            sweep={"learning_rate": [0.1, 0.2]},
            optimizer=optax.sgd(1.0),
        )
    searching = config.replace(optimizer=LBFGS(linesearch=True))
    with pytest.raises(ValueError, match=r"sweep\['learning_rate'\] has no effect in LBFGS"):
        nst_jax.stylize(vgg16, picture, [picture], searching, sweep={"learning_rate": [0.1, 0.2]})


def test_numbers_are_the_leaves_of_a_pytree():
    config = nst_jax.presets["assignment"]
    doubled = jax.tree.map(lambda number: 2 * jax.numpy.asarray(number), config)
    assert doubled.optimizer.learning_rate == 200 and doubled.size == config.size
    structure = jax.tree.structure(config)
    assert structure == jax.tree.structure(config.replace(content_weight=3.0, steps=7))
    assert structure != jax.tree.structure(config.replace(optimizer=Adam()))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(config)]
    assert ".terms[1].weight" in paths and ".optimizer.momentum" in paths and ".steps" in paths


def test_another_number_traces_nothing_and_a_list_of_them_is_mapped():
    traced = []

    @jax.jit
    def weight(config):
        traced.append(config)
        return config.term("style").weight * config.optimizer.momentum

    config = nst_jax.Config()
    assert weight(config) == 27
    assert weight(config.replace(style_weight=10, momentum=0.5)) == 5
    assert len(traced) == 1
    weight(config.replace(tv=None))
    assert len(traced) == 2
    swept = config.with_sweep({"style_weight": jnp.arange(3.0), "momentum": jnp.ones(3)})
    axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, swept)
    np.testing.assert_array_equal(jax.vmap(weight, in_axes=(axes,))(swept), [0, 1, 2])


def test_whole_parts_are_replaced_and_taken_out():
    config = nst_jax.Config().replace(style_weight=9, momentum=0, tv=TotalVariation(weight=2))
    assert (config["style_weight"], config["momentum"], config["tv_weight"]) == (9, 0, 2)
    assert config["tv_form"] == "keras"  # that of the new one, not of the old
    none = config.replace(tv=None)
    assert none.term("tv") is None and [term.name for term in none.terms][1:] == [
        "style",
        "nearest",
    ]
    assert none.replace(tv_weight=3, tv_form="l1").term("tv") == TotalVariation(weight=3, form="l1")
    both = config.replace(optimizer=Adam(), learning_rate=2, beta1=0.5)
    assert both.optimizer == Adam(learning_rate=2, beta1=0.5)
    moved = config.replace(style=WassersteinStyle(weight=4))
    assert moved["style_weight"] == 4 and "style_normalization" not in moved.flat()
    assert config.replace(terms=(GramStyle(),), style_weight=5).terms == (GramStyle(weight=5),)


def test_what_nobody_asked_for_is_not_there():
    config = nst_jax.Config()
    # And comes back as it was in the default.
    assert (
        config.replace(tv_weight=0).replace(tv_weight=config["tv_weight"]).flat() == config.flat()
    )
    assert config.replace(tv_weight=0) == config.replace(tv=None)
    assert config.replace(content_layers=()) == config.replace(content=None)
    assert config.replace(tv=None).replace(tv_weight=0) == config.replace(tv=None)


def test_what_two_kinds_have_goes_over():
    adam = turned(SGD(learning_rate=3.0, band_weights=(1.0, 2.0)), Adam)
    assert adam == Adam(learning_rate=3.0, band_weights=(1.0, 2.0))
    assert turned(adam, Adam) is adam


@settings
class Means(Term):
    """A term of a user's own."""

    name: str = option("means")
    weight: Any = number(1.0)
    layers: Any = weighted(("block1_conv1",))
    sharp: Any = number(2.0, low=1)
    refers = "style"

    def sums(self, layer, x, weights, target, at):
        return jnp.sum(x)

    def loss(self, sums, target, at):
        return sums


def test_terms_of_a_users_own_have_addresses_and_come_back():
    config = nst_jax.Config()
    config = config.replace(terms=(*config.terms, Means(sharp=3)))
    assert config["means_sharp"] == 3
    assert config.replace(means_sharp=4).term("means") == Means(sharp=4)
    with pytest.raises(ValueError, match="^means_sharp must be at least 1, got 0$"):
        config.replace(means_sharp=0)
    told = json.loads(json.dumps(config.to_dict()))
    assert from_dict(told, types=[Means]) == config
    with pytest.raises(ValueError, match="types must have the class 'Means', got Content, Gram"):
        from_dict(told)
    second = Means(name="more")
    assert config.replace(more=second).term("more") == second
    with pytest.raises(ValueError, match="means must be a term named 'means', got one named 'mo"):
        config.replace(means=second)


def test_two_fields_of_one_address_are_refused():
    twice = Means(name="style_means")
    assert nst_jax.Config().replace(style_means=twice)["style_means_sharp"] == 2

    @settings
    class Size(Means):
        name: str = option("first")
        size: Any = number(1.0)

    with pytest.raises(ValueError, match="named 'first_size': rename the term 'first'"):
        nst_jax.Config().replace(first=Size())  # beside the config's own
    with pytest.raises(ValueError, match="must not have the name of a setting, got 'size'"):
        nst_jax.Config(terms=(Means(name="size"),))
    with pytest.raises(ValueError, match="the name of a setting, got 'momentum'"):
        nst_jax.Config(terms=(Means(name="momentum"),))
    for name in (5, "", "my term", None):
        with pytest.raises(ValueError, match="the name of a term must be an identifier"):
            nst_jax.Config(terms=(Means(name=name),))
    with pytest.raises(ValueError, match="must differ in their names, got 'means' twice"):
        nst_jax.Config(terms=(Means(), Means()))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "config must be a result of Config.to_dict"),
        ({"terms": {"style": "os"}, "network": "VGGExtractor", "optimizer": "SGD"}, "class 'os'"),
        (nst_jax.Config().to_dict() | {"stpes": 3}, "no field 'stpes'; did you mean 'steps'"),
        (nst_jax.Config().to_dict() | {"steps": -3}, "steps must be at least 1, got -3"),
        ([1], "config must be a result of Config.to_dict, got list"),
        ("abc", "config must be a result of Config.to_dict, got str"),
        (
            {k: v for k, v in nst_jax.Config().to_dict().items() if k != "style_normalization"},
            "to_dict: 'style_normalization' is missing",
        ),
        (
            {k: v for k, v in nst_jax.Config().to_dict().items() if k != "network"},
            "to_dict: 'network' is missing",
        ),
    ],
)
def test_what_told_no_config_is_refused(told, message):
    with pytest.raises(ValueError, match=message):
        from_dict(told)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"optimizer": "adam"},
            TypeError,
            "optimizer must be one of SGD, Adam, LBFGS, got 'adam'",
        ),
        ({"optimizer": optax.sgd(1.0)}, TypeError, r"goes to stylize\(optimizer=\)"),
        ({"network": "vgg19"}, TypeError, "network must be an extractor .*got 'vgg19'"),
        ({"style": "gram"}, TypeError, "^style must be a term or None, got 'gram'$"),
        ({"optimizer": Optimizer()}, TypeError, "optimizer must be one of SGD, Adam, LBFGS"),
        ({"network": VGGExtractor}, TypeError, "network must be an extractor .*VGGExtractor"),
        ({"style_layers": {5: 1.0}}, TypeError, "style_layers must be a tuple of names"),
        ({"style_layers": {"a"}}, TypeError, "style_layers must be a tuple of names"),
        ({"mine": 3}, TypeError, "no field 'mine'"),
        ({"terms": GramStyle()}, TypeError, "terms must be a tuple of terms, got Gram"),
        ({"pooling": "AVG"}, ValueError, "did you mean 'average'"),
        ({"schedule": "x"}, ValueError, "schedule must be one of .*, got 'x'$"),
        ({"num_iterations": 3}, TypeError, "no field 'num_iterations'; did you mean 'steps'"),
        ({"preserve_color": True}, TypeError, "did you mean 'color=luminance'"),
        ({"image_size": 3}, TypeError, "no field 'image_size'; did you mean 'size'"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps must be a whole number, got 2.5"),
        ({"size": -1}, ValueError, "size must be at least 1"),
        ({"content_weight": -1.0}, ValueError, "content_weight must be at least 0"),
        ({"style_weight": float("nan")}, ValueError, "style_weight must be"),
        ({"tv_weight": "1"}, TypeError, "tv_weight must be a number"),
        ({"learning_rate": 1e39}, ValueError, "learning_rate must be at most 3.4e.38, "),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be greater than 0"),
        ({"momentum": 1.5}, ValueError, "momentum must be at least 0 and at most 1"),
        ({"style_layers": "block1_conv1"}, TypeError, "style_layers must be a tuple"),
        ({"style_layers": ("a", "a")}, ValueError, "style_layers must name each layer once"),
        ({"style_layers": {"a": -1}}, ValueError, r"style_layers\['a'\] must be at least 0, got"),
        ({"style_layers": {"a": "1"}}, TypeError, r"style_layers\['a'\] must be a number, got '1'"),
        ({"style_layers": 3}, TypeError, "style_layers must be a tuple of names, or weights by"),
        ({"band_weights": ()}, ValueError, "band_weights must hold at least one number, got none"),
        ({"band_weights": 3}, TypeError, "band_weights must hold numbers, got 3"),
        ({"stpes": 3}, TypeError, "no field 'stpes'; did you mean 'steps'"),
        ({"stlye_weight": 3}, TypeError, "no field 'stlye_weight'; did you mean 'style_weight'"),
        ({"beta1": 0.5}, TypeError, "no 'beta1': its optimizer is SGD, which has none"),
        ({"history_size": 5}, TypeError, "no 'history_size': its optimizer is SGD, which has"),
        (
            {"tv": None, "tv_form": "l1"},
            TypeError,
            "no 'tv_form': there is no term 'tv', and tv_weight= adds it",
        ),
        ({"size": np.int64(0)}, ValueError, "^size must be at least 1, got 0$"),
        ({"size": [1]}, ValueError, r"^size must be a whole number, got an array of shape \(1,\)"),
        ({"size": np.float32(33.5)}, TypeError, "^size must be a whole number, got .*33.5"),
        ({"size": None}, ValueError, "first_size needs a size to end at, got size None"),
        ({"scale_factor": None}, TypeError, "^scale_factor must be a number, got None$"),
        (
            {"size": "orginal"},
            ValueError,
            r"^size \(or a number\) must be .*did you mean 'original'",
        ),
        ({"jitter": True}, TypeError, "^jitter must be a whole number, got True$"),
        ({"steps": np.array([2, 3])}, ValueError, r"^steps must be a whole .* of shape \(2,\)"),
        ({"steps": None}, TypeError, "^steps must be a whole number, got None$"),
        ({"steps": float("inf")}, ValueError, "^steps must be at least 1, got inf$"),
        ({"learning_rate": None}, TypeError, "^learning_rate must be a number, got None$"),
        ({"content_weight": [1.0, 2.0]}, ValueError, r"of shape \(2,\); pass several as sweep=$"),
        ({"content_weight": [[1], [2, 3]]}, TypeError, "^content_weight must be a number, got"),
        ({"average_decay": 1j}, TypeError, "^average_decay must be a number, got 1j$"),
        ({"clip": 1}, TypeError, "^clip must be True or False, got 1$"),
    ],
)
def test_bad_values_are_refused_by_name(change, error, message):
    with pytest.raises(error, match=message) as caught:
        nst_jax.presets["default"].replace(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nst_jax.Config(stlye_weight=1),
            r"Config has no field 'stlye_weight'; did you mean 'style_weight', which "
            r"Config\(\).replace\(...\) sets\?",
        ),
        (
            lambda: nst_jax.Config(lr=1),
            r"Config has no field 'lr'; did you mean 'learning_rate', which Config\(\).replace",
        ),
        (lambda: nst_jax.Config(sizes=1), "Config has no field 'sizes'; did you mean 'size'"),
        (
            lambda: nst_jax.Config(style_weight=1),
            r"no field 'style_weight' of its own: Config\(\).replace\(style_weight=...\) sets it",
        ),
        (lambda: SGD(momentun=1), "SGD has no field 'momentun'; did you mean 'momentum'"),
        (lambda: Content(wieght=1), "Content has no field 'wieght'; did you mean 'weight'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_lbfgs_keeps_at_least_one_step():
    with pytest.raises(ValueError, match="^history_size must be at least 1, got 0$"):
        LBFGS(history_size=0)
    with pytest.raises(TypeError, match="^history_size must be a whole number, got None$"):
        LBFGS(history_size=None)


def test_a_preset_that_is_near_to_one_is_answered_with_it():
    for name, right in (("asignment", "assignment"), ("Gatys", "gatys")):
        with pytest.raises(ValueError, match=f"^preset must be .*; did you mean '{right}'"):
            nst_jax.presets[name]
    with pytest.raises(ValueError, match="^preset must be .*, got 'foo'$"):
        nst_jax.presets["foo"]


def test_numbers_of_numpy_and_jax_are_pythons():
    given = basic.CONFIG.replace(
        size=np.int64(64),
        steps=np.float32(7),
        clip=np.bool_(False),
        scale_factor=np.float64(2),
        content_weight=2,
        style_weight=np.array(3),
        learning_rate=jnp.float32(0.5),
        style_layers={"a": np.float32(0.5), "b": jnp.float32(2)},
    )
    plain = basic.CONFIG.replace(
        size=64,
        steps=7,
        clip=False,
        scale_factor=2.0,
        content_weight=2.0,
        style_weight=3.0,
        learning_rate=0.5,
        style_layers={"a": 0.5, "b": 2.0},
    )
    assert given == plain and repr(given) == repr(plain) and hash(given) == hash(plain)


def test_numbers_being_traced_pass_unlooked_at():
    def negated(weight, share):
        config = nst_jax.Config().replace(content_weight=-weight, style_layers={"a": -share})
        return config["content_weight"] + 2 * config["style_layers"]["a"]

    assert jax.jit(negated)(1.0, 2.0) == -5
    assert jax.grad(negated, argnums=(0, 1))(1.0, 2.0) == (-1, -2)
    np.testing.assert_array_equal(jax.vmap(negated)(jnp.ones(2), jnp.arange(2.0)), [-1, -3])


def test_trees_of_a_configuration_need_not_be_valid():
    config = nst_jax.presets["keras"]
    negated = jax.tree.map(lambda x: -x, config)
    assert (negated.optimizer.learning_rate, negated.steps) == (-100, -4000)
    nothing = jax.tree.map(lambda x: None, config)
    assert jax.tree.leaves(nothing) == [] and nothing.size == 400


@pytest.mark.parametrize(
    ("sweep", "error", "message"),
    [
        ({"style_wieght": [1, 2]}, TypeError, "no field 'style_wieght'; did you mean 'style_wei"),
        ({"beta1": [0.1, 0.2]}, TypeError, "no 'beta1': its optimizer is SGD"),
        ({"decay_rate": [0.1, 0.2]}, ValueError, r"sweep\['decay_rate'\] has no effect in SGD"),
        ({"style_weight": []}, ValueError, r"sweep\['style_weight'\] must hold numbers, got none"),
        ([1, 2], TypeError, r"sweep must be {address: numbers}, got \[1, 2\]"),
        (
            {"steps": [1, 2]},
            TypeError,
            "sweep must name numbers that can differ between outputs, got 'steps'",
        ),
        (
            {"size": [1, 2]},
            TypeError,
            "sweep must name numbers that can differ between outputs, got 'size'",
        ),
        ({"style_layers": [1, 2]}, TypeError, "sweep must name numbers .*, got 'styl"),
        ({"momentum": [0.5, 2]}, ValueError, "momentum must be at least 0 and at most 1, got 2"),
        (
            {"momentum": [0.5, 0.6], "style_weight": [1, 2, 3]},
            ValueError,
            r"sweep\['style_weight'\] must have a number for each of the 2 outputs, .* \(3,\)",
        ),
    ],
)
def test_bad_sweeps_are_refused_by_name(vgg16, rng, sweep, error, message):
    picture = rng.random((32, 32, 3), np.float32)
    config = nst_jax.Config().replace(size=None, first_size=None)
    with pytest.raises(error, match=message):
        nst_jax.stylize(vgg16, picture, [picture], config, sweep=sweep)


def test_a_network_that_is_no_settings_is_told_by_its_type():
    def look(params, image, layers):
        return {layer: image for layer in layers}

    config = nst_jax.Config().replace(network=Extractor(look, layers={"pixels": (1, 0)}))
    assert config.to_dict()["network"] == "Extractor" and "pooling" not in config.flat()
    assert hash(config) and pickle.loads(pickle.dumps(config.replace(network=basic.CONFIG.network)))


def test_the_assignment_is_the_reports_experiment():
    config = nst_jax.presets["assignment"]
    assert list(config["style_layers"]) == [f"block{block}_conv1" for block in range(1, 6)]
    assert list(config["content_layers"]) == ["block5_last"]
    assert isinstance(config.optimizer, SGD)
    assert (config["learning_rate"], config.steps) == (100.0, 3000)
    assert (config["decay_rate"], config["decay_steps"]) == (0.96, 100.0)
    assert (config["content_weight"], config["style_weight"]) == (2.5e-8, 1e-6)
    assert (config["momentum"], config["normalize_gradient"]) == (0.0, "none")
    assert config.term("tv") is None
