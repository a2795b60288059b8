"""Pictures for a browser: the encoded bytes, with the type that their own header says."""

import io

from PIL import Image

from xmodal.data.decode import open_image

# Formats that browsers show, by the name that the decoder gives them.
TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}


def for_browser(data: bytes) -> tuple[bytes, str]:
    """Return an image and its media type, as PNG where browsers do not show its format.

    Raises `BadSample` for anything but an image.
    """
    image = open_image(data)
    if image.kind in TYPES:
        return data, TYPES[image.kind]
    buffer = io.BytesIO()
    Image.fromarray(image.pixels()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), TYPES["PNG"]
