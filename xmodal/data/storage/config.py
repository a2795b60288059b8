"""The family of storage schemes, and the cache in front of them."""

from typing import ClassVar

from pydantic import Field, PositiveFloat

from xmodal.components.component import Component
from xmodal.components.config import Config


class StorageConfig(Component):
    """Storage of a URL scheme: its `kind`, such as gs, stands before `://`.

    It builds a `Storage`. All its fields have defaults: a URL alone is enough.
    """

    family: ClassVar[str] = "storage scheme"


class CacheConfig(Config):
    """Cache of remote reads in a folder on a local disk."""

    folder: str = Field(description="its path; jobs and ranks of a machine may share it")
    gigabytes: PositiveFloat = Field(description="its maximal size, 10^9 bytes")
