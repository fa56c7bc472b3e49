"""What a server must be allowed to do, as a policy: nothing that it does not use."""

from typing import Any

from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.tables import table_name

_ITEMS = (
    "dynamodb:BatchGetItem",
    "dynamodb:BatchWriteItem",
    "dynamodb:DeleteItem",
    "dynamodb:DescribeTable",
    "dynamodb:GetItem",
    "dynamodb:PutItem",  # transactions consist of puts, which are authorised as such
    "dynamodb:Query",
    "dynamodb:UpdateItem",
)
_CREATION = ("dynamodb:CreateTable", "dynamodb:DescribeContinuousBackups", "dynamodb:UpdateContinuousBackups")


def policy(
    prefix: str,
    *,
    bucket: str | None = None,
    bucket_prefix: str = "",
    with_create: bool = False,
    partition: str = "aws",
    region: str = "*",
    account: str = "*",
) -> dict[str, Any]:
    """Return the policy of a server.

    Args:
        prefix: of the tables' names.
        bucket: of large payloads, if there is one.
        bucket_prefix: of the keys in it.
        with_create: whether the server may create its tables.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
        region: of the tables.
        account: whose tables they are.
    """
    base = f"arn:{partition}:dynamodb:{region}:{account}:table/"
    tables = [f"{base}{table_name(prefix, table)}" for table in Table]
    index = f"{base}{table_name(prefix, Table.EVENTS)}/index/{keys.ALL_EVENTS}"
    statements = [_allow("Items", _ITEMS, tables), _allow("Index", ("dynamodb:Query",), [index])]
    if with_create:
        statements.append(_allow("Creation", _CREATION, tables))
    if bucket is not None:
        there = f"arn:{partition}:s3:::{bucket}"
        statements.append(_allow("Payloads", ("s3:GetObject", "s3:PutObject"), [f"{there}/{bucket_prefix}*"]))
        # Without it a missing object is reported as a lack of permission.
        statements.append(_allow("Bucket", ("s3:ListBucket",), [there]))
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: tuple[str, ...], resources: list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resources}
