"""Limits of one sample, each checked before the memory or time is spent."""

MAX_PIXELS = 89_478_485  # of an image, 256 MiB of RGB: larger ones may be decompression bombs
MAX_SAMPLE_BYTES = 1 << 28  # of a sample's files together, and of an array in float32
MAX_TEXT_BYTES = 1 << 22  # of a sample's JSON, and of its txt
MAX_CAPTIONS = 1_000  # of a sample
MAX_CAPTION_CHARACTERS = 10_000  # longer ones are no captions but whole pages
MAX_SCANS = 100  # of a JPEG; each goes over the whole image again
MAX_SCANNED_PIXELS = 10 * MAX_PIXELS  # pixels times scans of a JPEG
MAX_HEADERS = 100_000  # segments, chunks or tags of an image
MAX_WEBP_PIXELS = 50_000_000  # decoding takes 20 bytes a pixel, of all other formats at most 12
