"""The recipe's access to buckets."""

from pydantic import Field, PositiveFloat, field_validator

from xmodal.components.config import Config, Secret
from xmodal.errors import UserError


class S3Config(Config):
    """How `s3://` URLs are reached; what is not set comes from AWS_* variables and ~/.aws."""

    endpoint: str | None = Field(
        None, description="URL of the S3 server; null: AWS_ENDPOINT_URL, else Amazon's"
    )
    profile: str | None = Field(None, description="profile of ~/.aws; null: AWS_PROFILE")
    region: str | None = Field(None, description="null: AWS_DEFAULT_REGION, else the profile's")
    key: Secret | None = Field(
        None, description="place of the access key; null: AWS_ACCESS_KEY_ID, else the profile's"
    )
    secret: Secret | None = Field(
        None, description="place of the secret key; null: AWS_SECRET_ACCESS_KEY, else the profile's"
    )
    token: Secret | None = Field(
        None, description="place of the session token of keys that expire; null: AWS_SESSION_TOKEN"
    )
    anonymous: bool = Field(False, description="send no credentials, as public buckets allow")
    timeout: PositiveFloat = Field(
        20, description="seconds without a byte after which a read is begun again where it stood"
    )
    patience: PositiveFloat = Field(
        600, description="seconds without any progress after which a read is given up"
    )

    @field_validator("endpoint")
    @classmethod
    def _names_no_user(cls, value: str | None) -> str | None:
        if value and "@" in value:
            raise UserError("data.s3.endpoint holds a password: data.s3.secret names its place")
        return value


class CacheConfig(Config):
    """A folder on a local disk that keeps what was read from a bucket."""

    folder: str = Field(description="where; jobs and ranks of a machine may share it")
    gigabytes: PositiveFloat = Field(description="most that it may hold, 10^9 bytes")
