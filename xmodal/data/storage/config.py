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
    """A folder on a local disk that keeps what was read from a bucket."""

    folder: str = Field(description="where; jobs and ranks of a machine may share it")
    gigabytes: PositiveFloat = Field(description="most that it may hold, 10^9 bytes")
