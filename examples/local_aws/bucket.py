"""A bucket on an S3 that runs here."""

import asyncio

from aiobotocore.session import get_session

from examples.local_aws.components import Component


def create_bucket(s3: Component, name: str) -> None:
    """Create a bucket."""
    asyncio.run(_create(s3, name))


async def _create(s3: Component, name: str) -> None:
    variables = s3.environment
    async with get_session().create_client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    ) as client:
        await client.create_bucket(Bucket=name)
