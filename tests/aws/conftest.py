"""What makes servers share a store on real components."""

import pytest

from tests.aws.backend import new_prefix
from tests.aws.clients import s3_client
from tests.aws.components import Component


@pytest.fixture
async def environment(dynamodb: Component, s3: Component) -> dict[str, str]:
    """Return what makes servers share a new store."""
    prefix = new_prefix()
    async with s3_client(s3.environment) as client:
        await client.create_bucket(Bucket=prefix.strip("-"))
    return {
        **dynamodb.environment,
        **s3.environment,
        "KUDURRU_STORAGE": "dynamodb",
        "KUDURRU_DYNAMODB_TABLE_PREFIX": prefix,
        "KUDURRU_DYNAMODB_CREATE_TABLES": "true",
        "KUDURRU_DYNAMODB_LOG_RETENTION_HOURS": "24",
        "KUDURRU_S3_BUCKET": prefix.strip("-"),
        "KUDURRU_S3_PAYLOAD_THRESHOLD_BYTES": "20000",
        "KUDURRU_TAIL_BYTES": str(1 << 20),
    }
