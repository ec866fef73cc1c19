"""Named configurations, each with its source.

The published presets state every field. So a later change of a class's defaults does not change
them. docs/presets.md compares the presets and says how the project's own were chosen.
"""

import dataclasses
from typing import Any

from nst_jax.config import Config
from nst_jax.extractor import VGGExtractor
from nst_jax.optimizers import LBFGS, SGD, Adam
from nst_jax.settings import check_choice
from nst_jax.terms import (
    Content,
    GramStyle,
    MatchedNeighbors,
    Matting,
    MomentMatching,
    NearestNeighbors,
    Palette,
    RelaxedTransport,
    SelfSimilarity,
    TotalVariation,
    WassersteinStyle,
)

# The layers of Gatys et al., with equal weights.
_GATYS_LAYERS = {f"block{block}_conv1": 0.2 for block in range(1, 6)}

# The layers of STROTSS, which are hypercolumns together.
_STROTSS_LAYERS: dict[str, float] = dict.fromkeys(
    (
        *("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"),
        *("block3_conv1", "block3_conv2", "block3_conv3"),
        *("block4_conv3", "block5_conv3"),
    ),
    1 / 9,
)

# The network as it was published.
_PLAIN = VGGExtractor(
    pooling="max",
    pooling_correction=True,
    padding="zeros",
    dtype="float32",
    precision="highest",
    normalize_features=False,
)

# For weights that were tuned for networks whose activations are near one. The Oxford networks take
# inputs of 0-255, so their features are normalized.
_NEAR_ONE = VGGExtractor(
    pooling="max",
    pooling_correction=True,
    padding="zeros",
    dtype="float32",
    precision="highest",
    normalize_features=True,
)

# A single scale that starts from the content and takes the style's colours.
_ONE_SCALE: dict[str, Any] = {
    "style_scale": 1.0,
    "style_size": None,
    "first_size": None,
    "scale_factor": 2**0.5,
    "first_steps": None,
    "color": "style",
    "init": "content",
    "jitter": 0,
    "coarse_content": 1.0,
    "pyramid": 1,
    "average_decay": 0.0,
    "tolerance": 0.0,
}

# https://keras.io/examples/generative/neural_style_transfer/. Here styles keep their own shape. The
# example squashes them to the shape of the content.
_KERAS = Config(
    terms=(
        Content(name="content", weight=2.5e-8, layers={"block5_conv2": 1.0}, reduction="sum"),
        GramStyle(name="style", weight=1e-6, layers=_GATYS_LAYERS, normalization="keras"),
        TotalVariation(name="tv", weight=1e-6, layers={"image": 1.0}, form="keras"),
    ),
    network=_PLAIN,
    optimizer=SGD(
        learning_rate=100.0,
        schedule="exponential",
        decay_rate=0.96,
        decay_steps=100.0,
        momentum=0.0,
        normalize_gradient="none",
        band_weights=(1.0, 1.0, 1.0),
    ),
    size=400,
    size_of="height",
    steps=4000,
    clip=False,
    **_ONE_SCALE,
)

# The experiment of the report that this project grew out of. It has Gatys' content loss at the last
# convolution. It has squared Gram differences at the first convolution of each block, with weight
# 1/5 each. Plain SGD starts at a rate of 100 and takes 3000 steps. The report does not state the
# loss weights, the normalizer and the decay of the learning rate. These are from Keras' example.
_ASSIGNMENT = _KERAS.replace(
    size=224,
    size_of="longer",
    content=Content(
        name="content", weight=2.5e-8, layers={"block5_last": 1.0}, reduction="half_sum"
    ),
    tv=None,
    steps=3000,
)

# https://pypi.org/project/pastiche/ 1.6.0. It optimises like Gatys et al., at the layers of Gatys,
# Ecker, Bethge, CVPR 2016.
_GATYS = Config(
    terms=(
        Content(name="content", weight=0.01, layers={"block4_conv2": 1.0}, reduction="mean"),
        GramStyle(
            name="style", weight=50.0, layers=_GATYS_LAYERS, normalization="mean_per_channel"
        ),
    ),
    network=_PLAIN,
    optimizer=LBFGS(
        learning_rate=1.0,
        schedule="constant",
        decay_rate=0.96,
        decay_steps=100.0,
        history_size=100,
        linesearch=False,
    ),
    size=512,
    size_of="longer",
    steps=1000,
    clip=False,
    **_ONE_SCALE,
)

# Raymond Yuan: "Neural Style Transfer: Creating Art with Deep Learning using tf.keras and
# eager execution", TensorFlow blog, 2018, https://blog.tensorflow.org/2018/08/
# neural-style-transfer-creating-art-with-deep-learning-using-tf-keras-and-eager-execution.html
# TensorFlow 1's Adam adds epsilon before the bias correction ("epsilon hat"), optax after it.
_TF_BLOG = Config(
    terms=(
        Content(name="content", weight=1e3, layers={"block5_conv2": 1.0}, reduction="mean"),
        GramStyle(name="style", weight=1e-2, layers=_GATYS_LAYERS, normalization="mean"),
    ),
    network=_PLAIN,
    optimizer=Adam(
        learning_rate=5.0,
        schedule="constant",
        decay_rate=0.96,
        decay_steps=100.0,
        normalize_gradient="none",
        band_weights=(1.0, 1.0, 1.0),
        beta1=0.99,
        beta2=0.999,
        epsilon=0.1,
    ),
    size=512,
    size_of="longer",
    steps=1000,
    clip=True,
    **_ONE_SCALE,
)

# https://github.com/crowsonkb/style-transfer-pytorch: coarse to fine, Wasserstein-2 style loss,
# layer weights 256:64:16:4:1, content 0.015, total variation 2, Adam 0.02 on [0, 1], iterate
# average 0.99.
_WASSERSTEIN = Config(
    terms=(
        Content(name="content", weight=0.015, layers={"block4_conv2": 1.0}, reduction="mean"),
        WassersteinStyle(
            name="style",
            weight=1.0,
            layers={
                f"block{block}_conv1": share / 341
                for block, share in enumerate((256, 64, 16, 4, 1), start=1)
            },
        ),
        TotalVariation(name="tv", weight=2.0, layers={"image": 1.0}, form="nine_point"),
    ),
    network=dataclasses.replace(_NEAR_ONE, padding="replicate"),
    optimizer=Adam(
        learning_rate=0.02 * 255,
        schedule="constant",
        decay_rate=0.96,
        decay_steps=100.0,
        normalize_gradient="none",
        band_weights=(1.0, 1.0, 1.0),
        beta1=0.9,
        beta2=0.99,
        epsilon=1e-8 / 255,
    ),
    size=512,
    size_of="longer",
    style_scale=1.0,
    style_size=None,
    first_size=128,
    scale_factor=2**0.5,
    first_steps=1000,
    steps=500,
    color="style",
    init="content",
    clip=True,
    jitter=0,
    coarse_content=1.0,
    pyramid=1,
    average_decay=0.99,
    tolerance=0.0,
)


# Nicholas Kolkin, Jason Salavon, Gregory Shakhnarovich: "Style Transfer by Relaxed Optimal
# Transport and Self-Similarity", CVPR 2019, https://arxiv.org/abs/1904.12785. The content weighs 16
# at 64 pixels and half as much at each finer scale. In the paper, the weight of the palette is the
# inverse of that of the content; here it is the inverse at the last scale. RMSprop is Adam without
# a first moment. Its first steps are shorter here, because Adam corrects its bias.
_STROTSS = Config(
    terms=(
        SelfSimilarity(name="similarity", weight=2.0, layers=_STROTSS_LAYERS, samples=1024),
        MomentMatching(
            name="moments", weight=1.0, layers=_STROTSS_LAYERS, samples=1024, style_samples=1024
        ),
        RelaxedTransport(
            name="remd", weight=1.0, layers=_STROTSS_LAYERS, samples=1024, style_samples=1024
        ),
        Palette(
            name="palette", weight=0.5, layers={"image": 1.0}, samples=1024, style_samples=1024
        ),
    ),
    network=_NEAR_ONE,
    optimizer=Adam(
        learning_rate=0.002 * 255,
        schedule="constant",
        decay_rate=0.96,
        decay_steps=100.0,
        normalize_gradient="none",
        band_weights=(1.0, 1.0, 1.0),
        beta1=0.0,
        beta2=0.99,
        epsilon=1e-8 / 255,
    ),
    size=512,
    size_of="longer",
    steps=250,
    clip=False,
    **_ONE_SCALE
    | {
        "first_size": 64,
        "scale_factor": 2.0,
        "init": "recolored",
        "coarse_content": 2.0,
        "pyramid": 5,
    },
)


# Nicholas Kolkin, Michal Kucera, Sylvain Paris, Daniel Sykora, Eli Shechtman, Gregory
# Shakhnarovich: "Neural Neighbor Style Transfer", 2022, https://arxiv.org/abs/2203.13215. Features
# of a layer are divided by the number of its channels, so their products by its square. In the
# paper the last pass matches each layer by itself, anew in each step. Here that is a second term at
# all scales. With a weight of 1 it dissolved houses; with 0.3 it adds strokes and leaves them.
_NNST_CHANNELS = {"block1": 64, "block2": 128, "block3": 256, "block4": 512}
_NNST_LAYERS = (
    *("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"),
    *("block3_conv1", "block3_conv2", "block3_conv3"),
    *("block4_conv1", "block4_conv2", "block4_conv3"),
)
_NNST = Config(
    terms=(
        MatchedNeighbors(
            name="matched",
            weight=1.0,
            layers={layer: 1.0 / _NNST_CHANNELS[layer[:6]] ** 2 for layer in _NNST_LAYERS},
            samples=512,
            style_samples=2048,
        ),
        NearestNeighbors(
            name="nearest", weight=0.3, layers=dict.fromkeys(_NNST_LAYERS, 0.1), rows=512
        ),
    ),
    network=_PLAIN,
    optimizer=Adam(
        learning_rate=0.002 * 255,
        schedule="constant",
        decay_rate=0.96,
        decay_steps=100.0,
        normalize_gradient="none",
        band_weights=(1.0, 1.0, 1.0),
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8 / 255,
    ),
    size=512,
    size_of="longer",
    steps=200,
    clip=False,
    **_ONE_SCALE | {"first_size": 64, "scale_factor": 2.0, "pyramid": 8},
)


# The photorealism loss keeps edges, after Luan et al., 2017. It is so large that a picture which is
# no photograph any more costs more than the style can gain. Total variation would blur.
_PHOTO = Config().replace(nearest=None, tv=None, matting=Matting(weight=1000.0), init="recolored")


# The default's objective with two terms of STROTSS, and minimised as STROTSS is: coarse shapes move
# as easily as fine ones, because Adam chooses the step of each coefficient of the pyramid.
# Self-similarity holds places of the content apart, so the content itself may weigh less.
_BEST = Config().replace(
    content_weight=0.8,
    nearest_rows=2048,
    similarity=SelfSimilarity(weight=6.0),
    remd=RelaxedTransport(weight=6.0, style_samples=1024),
    optimizer=_STROTSS.optimizer,
    pyramid=5,
    init="recolored",
    first_size=64,
    first_steps=150,
    steps=100,
    coarse_content=2.0,
)


class Presets(dict[str, Config]):
    """Configurations by name. For another name the ValueError suggests the nearest one."""

    def __missing__(self, name: str):
        check_choice("preset", name, self)


presets = Presets(
    # The project's own. `nst_jax.config` has its values.
    default=Config(),
    # A third of the steps, with a larger learning rate.
    fast=Config().replace(first_steps=50, steps=20, learning_rate=1.6),
    best=_BEST,
    # Without nearest neighbours: where another one becomes the nearest, the gradient jumps, and
    # L-BFGS takes that for curvature. It keeps 40 arrays of the picture's shape, SGD keeps one.
    lbfgs=Config().replace(
        nearest=None,
        content_weight=2.0,
        first_steps=60,
        steps=60,
        optimizer=LBFGS(history_size=20, schedule="constant"),
    ),
    # Another light on the same photograph.
    photo=_PHOTO,
    assignment=_ASSIGNMENT,
    keras=_KERAS,
    gatys=_GATYS,
    tf_blog=_TF_BLOG,
    wasserstein=_WASSERSTEIN,
    strotss=_STROTSS,
    nnst=_NNST,
)
"""Every preset by its name."""

descriptions: dict[str, str] = {
    "default": "A clean picture in little time: SGD, from coarse to fine.",
    "fast": "The default's objective in a third of the steps, at twice the learning rate.",
    "best": "Cleaner strokes and shapes, in about three times the time of the default.",
    "photo": "The photograph in the light and the colours of the style: its edges stay.",
    "lbfgs": "Gram matrices without nearest neighbours, minimised by L-BFGS. It needs more memory.",
    "assignment": "The experiment of the report that this project grew out of: plain SGD.",
    "keras": "Keras' example of neural style transfer.",
    "gatys": "The method of Gatys, Ecker and Bethge: L-BFGS, as in pastiche 1.6.0.",
    "tf_blog": "The tutorial of the TensorFlow blog, 2018: mean squares, minimised by Adam.",
    "wasserstein": "Wasserstein-2 style loss, as in crowsonkb/style-transfer-pytorch.",
    "strotss": "Relaxed optimal transport and self-similarity, after Kolkin et al., 2019.",
    "nnst": "Features of the style in place of the content's, after Kolkin et al., 2022.",
}
"""One line about each preset."""
