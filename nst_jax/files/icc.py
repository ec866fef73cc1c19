"""Converts decoded pictures to sRGB by the colour profiles embedded in their files."""

import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from nst_jax.files.atomic import reason

# A profile's colour space, and the modes of the pictures that it can convert. Pillow converts grey
# to RGB without loss, so an RGB profile serves for both.
_MODES = {
    "RGB ": {"RGB", "L"},
    "GRAY": {"L"},
    "CMYK": {"CMYK"},
    "Lab ": {"LAB"},
}

_log = logging.getLogger(__name__)


def embedded(picture: Image.Image, path: Path) -> ImageCms.ImageCmsProfile | None:
    """Returns a picture's embedded colour profile; None if it has none or a broken one.

    A broken profile is logged as a warning that names `path`.
    """
    data = picture.info.get("icc_profile")
    if not data:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(data))
    except (OSError, TypeError, ValueError) as error:
        _log.warning("%s: broken colour profile ignored: %s", path, reason(error))
        return None


def srgb(picture: Image.Image, profile: ImageCms.ImageCmsProfile | None, path: Path) -> np.ndarray:
    """Converts an opaque picture of 8 bits a channel to sRGB.

    A profile that does not fit the picture is ignored, with a logged warning that names `path`.

    Args:
      picture: in any mode without alpha.
      profile: its colour profile; None means sRGB.
      path: the picture's file, for the warning.

    Returns:
      float32 `[H, W, 3]`, values in [0, 1].
    """
    if picture.mode not in ("L", "CMYK", "LAB"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    if profile is not None:
        handle = profile.profile
        assert isinstance(handle, ImageCms.core.CmsProfile)
        space = handle.xcolor_space
        # The optimised conversion of grey is wrong by up to 10 of 255 levels in the shadows.
        flags = ImageCms.Flags.NOOPTIMIZE if picture.mode == "L" else ImageCms.Flags.NONE
        try:
            if picture.mode not in _MODES.get(space, ()):
                raise ImageCms.PyCMSError(f"it is for {space.strip()}, not {picture.mode}")
            converted = ImageCms.profileToProfile(
                picture.convert("RGB") if space == "RGB " else picture,
                profile,
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
                flags=flags,
            )
            assert converted is not None  # as inPlace is not set
            picture = converted
        except ImageCms.PyCMSError as error:
            _log.warning("%s: unusable colour profile ignored: %s", path, reason(error))
    image = np.array(picture.convert("RGB"), np.float32)
    image /= 255
    return image
