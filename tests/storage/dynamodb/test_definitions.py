"""The CloudFormation template makes the tables, and grants the rights, that the server itself would."""

import json
from pathlib import Path
from typing import Any

import pytest
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.iam import policy
from kudurru_server.storage.dynamodb.tables import definition

TEMPLATE: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "deploy" / "aws" / "dynamodb.template.json").read_text()
)
NAMES = {"Prefix": "kudurru-", "AWS::Partition": "aws", "AWS::Region": "eu-west-1", "AWS::AccountId": "123456789012"}
NOTHING = "AWS::NoValue"


def resolved(node: object, names: dict[str, str]) -> Any:  # noqa: ANN401 - any part of a template
    """Return a part of the template with the functions it uses carried out."""
    if isinstance(node, list):
        parts = [resolved(part, names) for part in node]
        return [part for part in parts if part != NOTHING]
    if not isinstance(node, dict):
        return node
    if "Fn::Sub" in node:
        text = str(node["Fn::Sub"])
        for name, value in names.items():
            text = text.replace(f"${{{name}}}", value)
        assert "${" not in text
        return text
    if "Fn::If" in node:
        condition, then, otherwise = node["Fn::If"]
        assert condition == "HasBucket"
        return resolved(then if names["BucketName"] else otherwise, names)
    if "Ref" in node:
        return NOTHING if node["Ref"] == NOTHING else names[node["Ref"]]
    return {name: resolved(value, names) for name, value in node.items()}


def of_type(kind: str) -> list[dict[str, Any]]:
    return [resource for resource in TEMPLATE["Resources"].values() if resource["Type"] == kind]


def test_the_template_makes_the_tables_that_the_server_would() -> None:
    tables = {
        properties.pop("TableName"): properties
        for properties in (
            resolved(resource["Properties"], {**NAMES, "BucketName": ""})
            for resource in of_type("AWS::DynamoDB::Table")
        )
    }
    protection = {
        "DeletionProtectionEnabled": True,
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    assert tables == {f"kudurru-{table}": {**definition(table), **protection} for table in Table}


@pytest.mark.parametrize("bucket", ["payloads-of-mine", ""])
def test_the_template_grants_what_the_server_needs(bucket: str) -> None:
    (managed,) = of_type("AWS::IAM::ManagedPolicy")
    document = resolved(managed["Properties"]["PolicyDocument"], {**NAMES, "BucketName": bucket})
    assert document == policy("kudurru-", bucket=bucket or None, region="eu-west-1", account="123456789012")


def test_deleting_the_stack_keeps_what_holds_events() -> None:
    for resource in of_type("AWS::DynamoDB::Table") + of_type("AWS::S3::Bucket"):
        assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"


def test_the_bucket_is_private_and_made_only_if_it_has_a_name() -> None:
    (bucket,) = of_type("AWS::S3::Bucket")
    assert bucket["Condition"] == "HasBucket"
    assert all(bucket["Properties"]["PublicAccessBlockConfiguration"].values())


def test_a_policy_grants_no_more_than_it_says() -> None:
    small = policy("kudurru-")
    actions = {action for statement in small["Statement"] for action in statement["Action"]}
    assert not actions & {
        "dynamodb:Scan",
        "dynamodb:DeleteTable",
        "dynamodb:CreateTable",
        "dynamodb:ConditionCheckItem",
    }
    assert not [action for action in actions if action.startswith("s3:") or "*" in action]
    large = policy("kudurru-", bucket="b", bucket_prefix="store/", with_create=True)
    by_sid = {statement["Sid"]: statement for statement in large["Statement"]}
    assert by_sid["Payloads"]["Resource"] == ["arn:aws:s3:::b/store/*"]
    assert by_sid["Bucket"]["Resource"] == ["arn:aws:s3:::b"]
    assert "dynamodb:CreateTable" in by_sid["Creation"]["Action"]
    assert by_sid["Index"]["Resource"] == ["arn:aws:dynamodb:*:*:table/kudurru-events/index/all_events"]


def test_the_keys_of_the_tables_are_these() -> None:
    shapes = {
        table: {each["AttributeName"]: each["AttributeType"] for each in definition(table)["AttributeDefinitions"]}
        for table in Table
    }
    assert shapes == {
        Table.LOG: {"pk": "S", "n": "N"},
        Table.EVENTS: {"pk": "S", "sk": "S", "gsi1pk": "S", "sortable_unique_id": "S"},
        Table.TAGS: {"pk": "S", "sk": "S"},
        Table.PROJECTIONS: {"pk": "S", "sk": "S"},
    }
