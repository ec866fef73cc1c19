"""Neural style transfer as pure JAX/Flax functions.

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]` for one and `[N, H, W, 3]` for many.
"""

from nst_jax import image, losses
from nst_jax.coarse_to_fine import Result, stylize
from nst_jax.config import Config
from nst_jax.objective import Combine, Targets, compute_targets, objective_value, prepare
from nst_jax.optimize import Progress
from nst_jax.partition import Placement
from nst_jax.presets import presets
from nst_jax.sequence import stylize_sequence
from nst_jax.version import __version__
from nst_jax.vgg import classify, features
from nst_jax.weights.load import load_params, save_params

__all__ = [
    "Combine",
    "Config",
    "Placement",
    "Progress",
    "Result",
    "Targets",
    "__version__",
    "classify",
    "compute_targets",
    "features",
    "image",
    "load_params",
    "losses",
    "objective_value",
    "prepare",
    "presets",
    "save_params",
    "stylize",
    "stylize_sequence",
]
