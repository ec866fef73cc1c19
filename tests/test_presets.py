"""Each preset against what is published: every field, the loss on given arrays by its formula, and
the optimiser's first steps on given gradients; formulas and steps in NumPy float64."""

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from test_bands import normalized_in_numpy

import nst_jax
from nst_jax import optimize
from nst_jax.cli.flags import settings_by_flag
from nst_jax.config import addresses
from nst_jax.terms import TERMS

# The package has a dictionary of this name.
presets_module = importlib.import_module("nst_jax.presets")

FIRST = [f"block{block}_conv1" for block in range(1, 6)]


def mean_gram(x):
    return oracle.gram(x) / (x.shape[0] * x.shape[1])


def keras_tv(image):
    """Keras' example: sum of (a + b)^1.25 for squared differences of grey levels."""
    x = 255 * image
    a = (x[:-1, :-1] - x[1:, :-1]) ** 2
    b = (x[:-1, :-1] - x[:-1, 1:]) ** 2
    return ((a + b) ** 1.25).sum()


def keras(own, content, style, image):
    """https://keras.io/examples/generative/neural_style_transfer/"""
    size = image.shape[0] * image.shape[1]
    loss = 2.5e-8 * ((own["block5_conv2"] - content["block5_conv2"]) ** 2).sum()
    for layer in FIRST:
        difference = oracle.gram(style[layer]) - oracle.gram(own[layer])
        loss += 1e-6 / 5 * (difference**2).sum() / (4 * 3**2 * size**2)
    return loss + 1e-6 * keras_tv(image)


def assignment(own, content, style, image):
    """The report: 1/2 sum of squares at the last convolution, Keras' normaliser and weights."""
    size = image.shape[0] * image.shape[1]
    loss = 2.5e-8 / 2 * ((own["block5_conv4"] - content["block5_conv4"]) ** 2).sum()
    for layer in FIRST:
        difference = oracle.gram(style[layer]) - oracle.gram(own[layer])
        loss += 1e-6 / 5 * (difference**2).sum() / (4 * 3**2 * size**2)
    return loss


def pastiche(own, content, style, image):
    """pastiche 1.6.0: 0.01 * mse, and 10 / C^2 * mse of Gram matrices over positions."""
    loss = 0.01 * ((own["block4_conv2"] - content["block4_conv2"]) ** 2).mean()
    for layer in FIRST:
        channels = own[layer].shape[-1]
        difference = mean_gram(own[layer]) - mean_gram(style[layer])
        loss += 10 / channels**2 * (difference**2).mean()
    return loss


def tf_blog(own, content, style, image):
    """The TensorFlow blog: means of squares, content 1e3, style 1e-2 over five layers."""
    loss = 1e3 * ((own["block5_conv2"] - content["block5_conv2"]) ** 2).mean()
    for layer in FIRST:
        loss += 1e-2 / 5 * ((mean_gram(own[layer]) - mean_gram(style[layer])) ** 2).mean()
    return loss


# Of block4_conv2 and of the style layers; test_magnitudes.py measures them again.
USUAL = {
    13: (314.9, (64.2, 433.4, 866.1, 553.3, 83.8)),
    16: (1065.7, (60.0, 305.3, 459.0, 1391.9, 178.3)),
}


def relative(own, content, style, image, *, content_weight=2.0):
    """The project's own: |G - A|^2 / |A|^2 by layer."""
    content_scale = USUAL[sum("conv" in layer for layer in own)][0]
    difference = (own["block4_conv2"] - content["block4_conv2"]) / content_scale
    loss = content_weight * (difference**2).mean()
    loss += 6.0 * oracle.total_variation_nine_point(image)
    for layer, share in zip(FIRST, (0.35, 0.25, 0.2, 0.18, 0.02), strict=True):
        target = mean_gram(style[layer])
        loss += 30 * share * ((mean_gram(own[layer]) - target) ** 2).sum() / (target**2).sum()
    return loss


def default(own, content, style, image):
    """`relative`, and the cosine distances of nearest neighbours."""
    loss = relative(own, content, style, image, content_weight=4.0)
    for layer in ("block2_conv2", "block3_conv3", "block4_conv3"):
        rows, others = (x[layer].reshape(-1, x[layer].shape[-1]) for x in (own, style))
        # The positions of the style, by multiples of the golden ratio; many come more than once.
        places = (np.arange(512) + 0.5) * 0.6180339887498949 % 1
        others = (others - others.mean(axis=0))[np.int32(places * len(others))]
        rows, others = (
            x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows - rows.mean(axis=0), others)
        )
        loss += 4.0 / 3 * (1 - (rows @ others.T).max(axis=1)).mean()
    return loss


def wasserstein(own, content, style, image):
    """crowsonkb/style-transfer-pytorch's objective, on features divided by their usual size."""
    content_scale, scales = USUAL[sum("conv" in layer for layer in own)]
    difference = own["block4_conv2"] / content_scale - content["block4_conv2"] / content_scale
    loss = 0.015 * (difference**2).mean()
    for layer, share, scale in zip(FIRST, (256, 64, 16, 4, 1), scales, strict=True):
        distance = oracle.wasserstein(own[layer] / scale, style[layer] / scale, 1e-4)
        loss += share / 341 * distance
    return loss + 2.0 * oracle.total_variation_nine_point(image)


# They differ from the default in how they minimise its loss alone, as PUBLISHED says.
SAME_LOSS = ("fast",)

# The formula, and how the published network pads its first convolution.
FORMULAS = {
    "assignment": (assignment, "zeros"),
    **dict.fromkeys(("default", *SAME_LOSS), (default, "replicate")),
    "lbfgs": (relative, "replicate"),
    "gatys": (pastiche, "zeros"),
    "keras": (keras, "zeros"),
    "tf_blog": (tf_blog, "zeros"),
    "wasserstein": (wasserstein, "replicate"),
}


@functools.cache
def pictures_and_features(model, padding):
    """Three pictures, and their features by NumPy in float64, which take seconds."""
    rng, params = np.random.default_rng(0), nst_jax.load_params(model)
    pictures = [rng.random((32, 48, 3), np.float32) for _ in range(3)]
    return pictures, [oracle.features(params, x, padding=padding) for x in pictures]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    [
        *((name, "vgg19") for name in FORMULAS if name not in SAME_LOSS),
        ("default", "vgg16"),
        ("wasserstein", "vgg16"),
    ],
)
def test_loss_equals_the_published_formula(request, name, model):
    params = request.getfixturevalue(model)
    config, (formula, padding) = nst_jax.presets[name], FORMULAS[name]
    (image, content, style), features = pictures_and_features(model, padding)
    expected = formula(*features, image.astype(np.float64))
    targets = nst_jax.compute_targets(params, content, [style], config)
    found, _ = jax.jit(nst_jax.objective_value)(jnp.asarray(image), params, targets, config)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# What no source speaks of, and no preset therefore touches, where it has such a setting.
COMMON = {
    "size": 512,
    "size_of": "longer",
    "style_scale": 1.0,
    "style_size": None,
    "first_size": None,
    "first_steps": None,
    "scale_factor": 2**0.5,
    "style_layers": dict.fromkeys(FIRST, 0.2),
    "tv_form": "keras",
    "pooling": "max",
    "pooling_correction": True,
    "normalize_features": False,
    "padding": "zeros",
    "dtype": "float32",
    "precision": "highest",
    "remat": False,
    "linesearch": False,
    "history_size": 100,
    "jitter": 0,
    "coarse_content": 1.0,
    "pyramid": 1,
    "init": "content",
    "color": "style",
    "momentum": 0.9,
    "band_weights": (1.0, 1.0, 1.0),
    "decay_rate": 0.96,
    "decay_steps": 100.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "average_decay": 0.0,
    "tolerance": 0.0,
}

# https://keras.io/examples/generative/neural_style_transfer/ : 400 rows, sums of squares,
# SGD(ExponentialDecay(initial_learning_rate=100.0, decay_steps=100, decay_rate=0.96)).
KERAS = {
    "size": 400,
    "size_of": "height",
    "content_layers": {"block5_conv2": 1.0},
    "content_reduction": "sum",
    "style_loss": "gram",
    "style_normalization": "keras",
    "content_weight": 2.5e-8,
    "style_weight": 1e-6,
    "tv_weight": 1e-6,
    "optimizer": "sgd",
    "momentum": 0.0,
    "normalize_gradient": "none",
    "learning_rate": 100.0,
    "schedule": "exponential",
    "clip": False,
    "steps": 4000,
}

# The project's own.
DEFAULT = {
    "dtype": None,  # that of the backend
    "precision": None,
    "first_size": 128,
    "scale_factor": 2.0,
    "first_steps": 150,
    "content_layers": {"block4_conv2": 1.0},
    "content_reduction": "mean",
    "style_loss": "gram",
    "style_normalization": "relative",
    "style_layers": dict(zip(FIRST, (0.35, 0.25, 0.2, 0.18, 0.02), strict=True)),
    "normalize_features": True,
    "content_weight": 4.0,
    "style_weight": 30.0,
    "nearest_weight": 4.0,
    "nearest_layers": dict.fromkeys(("block2_conv2", "block3_conv3", "block4_conv3"), 1 / 3),
    "nearest_rows": 512,
    "tv_form": "nine_point",
    "tv_weight": 6.0,
    "padding": "replicate",
    "optimizer": "sgd",
    "normalize_gradient": "bands",
    "band_weights": (0.5, 0.8, 1.0),
    "learning_rate": 0.8,
    "schedule": "cosine",
    "clip": True,
    "steps": 60,
}

NOT_OF_PHOTO = ("nearest_", "tv_")
OF_SGD = {"normalize_gradient", "band_weights"}

_SHALLOW = [f"block{block}_conv{n}" for block in (1, 2, 3) for n in range(1, 3 + (block > 2))]
CHANNELS_OF_NNST = {
    f"block{block}_conv{n}": channels
    for block, channels in enumerate((64, 128, 256, 512), start=1)
    for n in range(1, 3 + (block > 2))
}
SHARES_OF_STROTSS = dict.fromkeys([*_SHALLOW, "block4_conv3", "block5_conv3"], 1 / 9)
# The layers of the terms of STROTSS if nobody names others.
LAYERS_OF_TERMS = dict.fromkeys(
    ("block1_conv2", "block2_conv2", "block3_conv1", "block3_conv3", "block4_conv1"), 0.2
)
OPTIMIZER_OF_STROTSS = {
    "pyramid": 5,
    "optimizer": "adam",
    "beta1": 0.0,
    "beta2": 0.99,
    "epsilon": 1e-8 / 255,
    "normalize_gradient": "none",
    "band_weights": (1.0, 1.0, 1.0),
    "learning_rate": 0.002 * 255,
    "schedule": "constant",
}

PUBLISHED = {
    "default": DEFAULT,
    "fast": DEFAULT | {"first_steps": 50, "steps": 20, "learning_rate": 1.6},
    "best": DEFAULT
    | OPTIMIZER_OF_STROTSS
    | {
        "first_size": 64,
        "first_steps": 150,
        "steps": 100,
        "init": "recolored",
        "coarse_content": 2.0,
        "content_weight": 0.8,
        "nearest_rows": 2048,
        "similarity_weight": 6.0,
        "remd_weight": 6.0,
        **{f"{term}_layers": LAYERS_OF_TERMS for term in ("similarity", "remd")},
        **{f"{term}_samples": 1024 for term in ("similarity", "remd")},
        "remd_style_samples": 1024,
    },
    "lbfgs": {
        name: value
        for name, value in DEFAULT.items()
        if name not in OF_SGD and not name.startswith("nearest_")
    }
    | {
        "content_weight": 2.0,
        "optimizer": "lbfgs",
        "history_size": 20,
        "learning_rate": 1.0,
        "schedule": "constant",
        "first_steps": 60,
        "steps": 60,
    },
    "photo": {name: value for name, value in DEFAULT.items() if not name.startswith(NOT_OF_PHOTO)}
    | {"matting_weight": 1000.0, "matting_epsilon": 1e-4, "init": "recolored"},
    # The report: 1/2 of the sum of squares at the last convolution, rate 100, 3000 steps.
    "assignment": KERAS
    | {
        "size": 224,
        "size_of": "longer",
        "content_layers": {"block5_last": 1.0},
        "content_reduction": "half_sum",
        "tv_weight": 0.0,
        "steps": 3000,
    },
    "keras": KERAS,
    # https://pypi.org/project/pastiche/ 1.6.0: torch.optim.LBFGS(lr=1, history_size=100) without
    # a line search, content 0.01, each of five style layers 10 / C^2.
    "gatys": {
        "content_layers": {"block4_conv2": 1.0},
        "content_reduction": "mean",
        "style_loss": "gram",
        "style_normalization": "mean_per_channel",
        "content_weight": 0.01,
        "style_weight": 50.0,
        "optimizer": "lbfgs",
        "learning_rate": 1.0,
        "schedule": "constant",
        "clip": False,
        "steps": 1000,
    },
    # The TensorFlow blog: AdamOptimizer(learning_rate=5, beta1=0.99, epsilon=1e-1), each step
    # followed by clip_by_value, content_weight=1e3, style_weight=1e-2, num_iterations=1000.
    "tf_blog": {
        "content_layers": {"block5_conv2": 1.0},
        "content_reduction": "mean",
        "style_loss": "gram",
        "style_normalization": "mean",
        "content_weight": 1e3,
        "style_weight": 1e-2,
        "optimizer": "adam",
        "beta1": 0.99,
        "epsilon": 0.1,
        "normalize_gradient": "none",
        "learning_rate": 5.0,
        "schedule": "constant",
        "clip": True,
        "steps": 1000,
    },
    # https://github.com/crowsonkb/style-transfer-pytorch: from 128 pixels by the root of 2, 1000
    # and then 500 steps, Adam(lr=0.02, betas=(0.9, 0.99), eps=1e-8) on [0, 1], clamped each step,
    # EMA(0.99), replicate padding; content 0.015, layers 256:64:16:4:1, total variation 2.
    "wasserstein": {
        "first_size": 128,
        "first_steps": 1000,
        "steps": 500,
        "content_layers": {"block4_conv2": 1.0},
        "content_reduction": "mean",
        "style_loss": "wasserstein",
        "content_weight": 0.015,
        "style_weight": 1.0,
        "style_layers": {
            layer: share / 341 for layer, share in zip(FIRST, (256, 64, 16, 4, 1), strict=True)
        },
        "normalize_features": True,
        "tv_form": "nine_point",
        "tv_weight": 2.0,
        "padding": "replicate",
        "optimizer": "adam",
        "beta2": 0.99,
        "epsilon": 1e-8 / 255,
        "average_decay": 0.99,
        "tolerance": 0.0,
        "normalize_gradient": "none",
        "learning_rate": 0.02 * 255,
        "schedule": "constant",
        "clip": True,
    },
    # The code of the authors, https://github.com/nkolkin13/STROTSS: sizes 64 to 512, 250 steps of
    # RMSprop(lr=2e-3) on [0, 1], five levels, content 16 at 64 pixels, halved at each size, 1024
    # positions. The loss is (a l_C + l_m + l_r + l_p / a) / (2 + a + 1 / a) with a = 2 at last.
    "strotss": {
        "first_size": 64,
        "scale_factor": 2.0,
        "similarity_weight": 2.0,
        "moments_weight": 1.0,
        "remd_weight": 1.0,
        "palette_weight": 0.5,
        **{f"{term}_layers": SHARES_OF_STROTSS for term in ("similarity", "moments", "remd")},
        **{f"{term}_samples": 1024 for term in ("similarity", "moments", "remd", "palette")},
        **{f"{term}_style_samples": 1024 for term in ("moments", "remd", "palette")},
        "normalize_features": True,
        "coarse_content": 2.0,
        "init": "recolored",
        **OPTIMIZER_OF_STROTSS,
        "clip": False,
        "steps": 250,
    },
    # The code of the authors, https://github.com/nkolkin13/NeuralNeighborStyleTransfer: 200 updates
    # of Adam(lr=2e-3) on [0, 1] at each scale, eight levels, all convolutions of blocks 1 to 4,
    # each divided by the number of its channels.
    "nnst": {
        "first_size": 64,
        "scale_factor": 2.0,
        "matched_weight": 1.0,
        "matched_layers": {layer: 1 / channels**2 for layer, channels in CHANNELS_OF_NNST.items()},
        "matched_samples": 512,
        "matched_style_samples": 2048,
        "nearest_weight": 0.3,
        "nearest_layers": dict.fromkeys(CHANNELS_OF_NNST, 0.1),
        "nearest_rows": 512,
        "pyramid": 8,
        "optimizer": "adam",
        "beta1": 0.9,
        "epsilon": 1e-8 / 255,
        "normalize_gradient": "none",
        "learning_rate": 0.002 * 255,
        "schedule": "constant",
        "clip": False,
        "steps": 200,
    },
}


# Their loss is not written out here: test_terms_new.py has oracles of the terms.
OF_PARTS = ("best", "photo", "strotss", "nnst")


def test_every_preset_is_held_against_its_source_here():
    assert sorted(PUBLISHED) == sorted(nst_jax.presets)
    assert sorted(FORMULAS) == sorted(PUBLISHED.keys() - {*OF_PARTS})
    assert sorted(STEPS) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_field_is_the_published_one(name):
    found = settings_by_flag(nst_jax.presets[name])
    assert PUBLISHED[name].keys() <= found.keys()
    absent = {f"{term}_weight": 0.0 for term in TERMS}
    expected = absent | COMMON | PUBLISHED[name]
    assert found == {flag: expected[flag] for flag in found}


def test_published_presets_state_every_field():
    """So that no later default of a class changes them."""
    tree = ast.parse(inspect.getsource(presets_module))
    named = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    shared = {key.value for key in named["_ONE_SCALE"].keys}
    classes = {}
    for name in (
        *("_PLAIN", "_NEAR_ONE", "_KERAS", "_GATYS", "_TF_BLOG", "_WASSERSTEIN"),
        *("_STROTSS", "_NNST"),
    ):
        for call in filter(lambda node: isinstance(node, ast.Call), ast.walk(named[name])):
            if not hasattr(presets_module, call.func.id if isinstance(call.func, ast.Name) else ""):
                continue
            kind = getattr(presets_module, call.func.id)
            given = {keyword.arg for keyword in call.keywords}
            given |= shared if None in given else set()
            fields = {field.name for field in dataclasses.fields(kind)}
            assert given - {None} == fields, (name, kind.__name__)
            classes.setdefault(name, set()).add(kind.__name__)
    assert classes["_WASSERSTEIN"] == {
        *("Config", "Content", "WassersteinStyle", "TotalVariation", "Adam")
    }


# Steps in grey levels: a generator is sent a gradient and gives the next picture.


def keras_steps(x):
    for step in itertools.count():
        x = x - 100 * 0.96 ** (step / 100) * (yield x)


def default_steps(x, *, rate, steps=4):
    velocity = 0.0
    for step in itertools.count():
        gradient = yield x
        velocity = 0.9 * velocity + normalized_in_numpy(gradient, (0.5, 0.8, 1.0))
        decayed = rate / 2 * (1 + np.cos(np.pi * step / steps))
        x = np.clip(x - decayed * velocity, 0, 255)


def lbfgs_steps(x, *, clip=False):
    """Nocedal and Wright, algorithm 7.4, the first step of root mean square 1, no step more than
    twice as long as the one before; the pairs are of the steps as clipped."""
    pairs, length = [], np.inf
    gradient = yield x
    while True:
        direction, factors = gradient.copy(), []
        for step, change in reversed(pairs):
            factors.append(np.vdot(step, direction) / np.vdot(step, change))
            direction -= factors[-1] * change
        if pairs:
            direction *= np.vdot(*pairs[-1]) / np.vdot(pairs[-1][1], pairs[-1][1])
        else:
            direction /= np.sqrt(np.mean(gradient**2))
        for (step, change), factor in zip(pairs, reversed(factors), strict=True):
            direction += (factor - np.vdot(change, direction) / np.vdot(step, change)) * step
        whole = np.sqrt(np.mean(direction**2))
        length = min(whole, 2 * length)
        direction *= length / whole
        before, x = x, x - direction
        if clip:
            x = np.clip(x, 0, 255)
        following = yield x
        pairs.append((x - before, following - gradient))
        gradient = following


def adam_steps(x, *, rate, beta1, beta2, epsilon, decay=0.0, clip=True):
    first, second, average, picture = 0.0, 0.0, 0.0, x
    for step in itertools.count(1):
        gradient = yield picture
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        root = np.sqrt(second / (1 - beta2**step))
        x = x - rate * first / (1 - beta1**step) / (root + epsilon)
        if clip:
            x = np.clip(x, 0, 255)
        average = decay * average + (1 - decay) * x
        picture = average / (1 - decay**step)


strotss_steps = functools.partial(
    adam_steps, rate=0.002 * 255, beta1=0.0, beta2=0.99, epsilon=1e-8 / 255
)
STEPS = {
    "assignment": keras_steps,
    "default": functools.partial(default_steps, rate=0.8),
    "fast": functools.partial(default_steps, rate=1.6),
    "photo": functools.partial(default_steps, rate=0.8),
    "best": strotss_steps,
    "strotss": functools.partial(strotss_steps, clip=False),
    "nnst": functools.partial(strotss_steps, beta1=0.9, beta2=0.999, clip=False),
    "lbfgs": functools.partial(lbfgs_steps, clip=True),
    "gatys": lbfgs_steps,
    "keras": keras_steps,
    "wasserstein": functools.partial(
        # Its epsilon is for gradients on [0, 1], 255 times those by grey levels.
        adam_steps,
        rate=0.02 * 255,
        beta1=0.9,
        beta2=0.99,
        epsilon=1e-8 / 255,
        decay=0.99,
    ),
    "tf_blog": functools.partial(adam_steps, rate=5.0, beta1=0.99, beta2=0.999, epsilon=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_the_first_steps_are_the_published_ones(rng, name):
    # The cosine is of these steps. test_own_parametrization.py has the steps of a pyramid.
    config = nst_jax.presets[name].replace(steps=4, first_steps=None, pyramid=1)
    start = rng.random((4, 5, 3), np.float32)
    slopes = rng.uniform(0.1, 2.0, start.shape)  # of a quadratic, or L-BFGS would pass steps over
    goal = rng.uniform(-50, 300, start.shape)  # in parts beyond the range
    seen = []

    def value_and_grad(image, key=None):  # which the loss of presets that draw takes
        gradient = slopes * (255.0 * image - goal)
        return (np.float32(0), {"total": np.float32(0)}), (255 * gradient).astype(np.float32)

    optimize.run_given_gradients(
        value_and_grad,
        jnp.asarray(start)[None],
        config,
        callback=lambda progress: seen.append(
            (255.0 * np.asarray(progress.images[0]), 255.0 * np.asarray(progress.states.tree[0]))
        ),
    )
    steps = STEPS[name](255.0 * start.astype(np.float64))
    next(steps)
    before = 255.0 * start.astype(np.float64)
    for picture, image in seen:
        expected = steps.send(slopes * (before - goal))
        np.testing.assert_allclose(picture, expected, rtol=1e-6, atol=5e-2)
        before = image


@pytest.mark.slow
def test_no_number_of_any_preset_compiles_anything(vgg16, rng, compilations):
    """Every number of the configuration at once, on the preset with the most structure."""
    config = nst_jax.presets["wasserstein"].replace(
        size=16,
        first_size=8,
        scale_factor=2.0,
        first_steps=2,
        steps=2,
        content_layers=("block1_conv2", "block1_pool"),
        style_layers=("block1_conv1",),
    )
    names = [
        name
        for name, (_, field) in addresses(config).items()
        if field.metadata["leaf"] and name != "tv_layers"
    ]

    def other(kind):
        changes = {name: kind(0.1 + index / 20) for index, name in enumerate(names)} | {
            "steps": 3,
            "first_steps": 1,
            "content_layers": {"block1_conv2": kind(0.5), "block1_pool": kind(2.0)},
            "style_layers": {"block1_conv1": kind(0.5)},
            "band_weights": (kind(0.5), kind(1.0), kind(2.0)),
        }
        assert changes.keys() == set(names) and len(names) == 17
        return config.replace(**changes)

    picture = rng.random((16, 16, 3), np.float32)
    targets = nst_jax.compute_targets(vgg16, picture, [picture[::-1]], config)
    value = jax.jit(nst_jax.objective_value)
    results = []
    for kind in (None, float, np.float64, np.float32, jnp.float32):
        each = other(kind) if kind else config
        with compilations() as count:
            value(picture, vgg16, targets, each)
            results.append(nst_jax.stylize(vgg16, picture, [picture[::-1]], each))
        assert not kind or count() == 0, kind
    first, *others = results
    for result in others:
        assert len(result.history["total"]) == len(first.history["total"]) == 4
        assert (result.images != first.images).any()
