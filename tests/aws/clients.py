"""Clients that try once, of a component or of the proxy in front of it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from uuid import uuid4

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from types_aiobotocore_dynamodb import DynamoDBClient
from types_aiobotocore_s3 import S3Client

_CONFIG = AioConfig(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=5, read_timeout=20)


@asynccontextmanager
async def dynamodb_client(environment: Mapping[str, str]) -> AsyncIterator[DynamoDBClient]:
    """Yield a client of a DynamoDB."""
    async with get_session().create_client(
        "dynamodb",
        endpoint_url=environment["AWS_ENDPOINT_URL_DYNAMODB"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=_CONFIG,
    ) as client:
        yield client


@asynccontextmanager
async def s3_client(environment: Mapping[str, str]) -> AsyncIterator[S3Client]:
    """Yield a client of an S3."""
    async with get_session().create_client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=_CONFIG,
    ) as client:
        yield client


async def create_table(client: DynamoDBClient) -> str:
    """Create a table with a key `pk`, `sk` and an index `by-kind` of `kind`, `sk`; return its name."""
    name = f"test-{uuid4().hex}"
    await client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": attribute, "AttributeType": "S"} for attribute in ("pk", "sk", "kind")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "by-kind",
                "KeySchema": [
                    {"AttributeName": "kind", "KeyType": "HASH"},
                    {"AttributeName": "sk", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )
    return name
