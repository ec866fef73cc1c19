"""Embedded colour profiles: what Pillow has decoded, as sRGB."""

import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from nst_jax.files.atomic import reason

# The modes that pictures of a profile's colour space may have: grey is also a kind of RGB.
_MODES = {
    "RGB ": {"RGB", "L"},
    "GRAY": {"L"},
    "CMYK": {"CMYK"},
    "Lab ": {"LAB"},
}

_log = logging.getLogger(__name__)


def embedded(picture: Image.Image, path: Path) -> ImageCms.ImageCmsProfile | None:
    """The colour profile embedded in a picture, if there is one and it can be used."""
    data = picture.info.get("icc_profile")
    if not data:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(data))
    except (OSError, TypeError, ValueError) as error:
        _log.warning("%s: broken colour profile ignored: %s", path, reason(error))
        return None


def srgb(picture: Image.Image, profile: ImageCms.ImageCmsProfile | None, path: Path) -> np.ndarray:
    """An opaque picture of 8 bits a channel as float32 `[H, W, 3]`, sRGB in [0, 1]."""
    if picture.mode not in ("L", "CMYK", "LAB"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    if profile is not None:
        space = profile.profile.xcolor_space
        # The quick way through a grey profile is off by up to 10 of 255 levels in the shadows.
        exact = ImageCms.Flags.NOOPTIMIZE if picture.mode == "L" else ImageCms.Flags.NONE
        try:
            if picture.mode not in _MODES.get(space, ()):
                raise ImageCms.PyCMSError(f"it is for {space.strip()}, not {picture.mode}")
            picture = ImageCms.profileToProfile(
                picture.convert("RGB") if space == "RGB " else picture,
                profile,
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
                flags=exact,
            )
        except ImageCms.PyCMSError as error:
            _log.warning("%s: unusable colour profile ignored: %s", path, reason(error))
    image = np.array(picture.convert("RGB"), np.float32)
    image /= 255
    return image
