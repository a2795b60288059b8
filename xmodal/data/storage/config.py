"""The recipe's access to buckets."""

from pydantic import Field, PositiveFloat, SecretStr

from xmodal.schema import Config


class S3Config(Config):
    """How `s3://` URLs are reached; what is not set comes from AWS_* variables and ~/.aws."""

    endpoint: str | None = Field(
        None, description="URL of the S3 server; null: AWS_ENDPOINT_URL, else Amazon's"
    )
    profile: str | None = Field(None, description="profile of ~/.aws; null: AWS_PROFILE")
    region: str | None = Field(None, description="null: AWS_DEFAULT_REGION, else the profile's")
    key: SecretStr | None = Field(
        None,
        exclude=True,
        description="access key; never saved with the run. Better: AWS_ACCESS_KEY_ID or a profile",
    )
    secret: SecretStr | None = Field(
        None, exclude=True, description="secret key; never saved with the run"
    )
    anonymous: bool = Field(False, description="send no credentials, as public buckets allow")
    timeout: PositiveFloat = Field(
        20, description="seconds without a byte after which a read is begun again where it stood"
    )
    patience: PositiveFloat = Field(
        600, description="seconds without any progress after which a read is given up"
    )


class CacheConfig(Config):
    """A folder on a local disk that keeps what was read from a bucket."""

    folder: str = Field(description="where; jobs and ranks of a machine may share it")
    gigabytes: PositiveFloat = Field(description="most that it may hold, 10^9 bytes")
