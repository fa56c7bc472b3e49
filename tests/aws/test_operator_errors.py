"""What an operator can do to a store while servers run on it, and that they recover when it is mended."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb
from kudurru_server.storage.dynamodb import tables
from kudurru_server.storage.dynamodb.database import Table

from tests.aws.clients import dynamodb_client, s3_client
from tests.aws.components import Component
from tests.aws.fault_proxy import fault_proxy
from tests.aws.faults import Faults
from tests.e2e.client import Client, Refusal, connect, event, query
from tests.e2e.ledger import append_request
from tests.e2e.load import until
from tests.server_process import ServerProcess, run_server, run_to_end

_PATIENCE = {"KUDURRU_DYNAMODB_PATIENCE_SECONDS": "1", "KUDURRU_DYNAMODB_READ_TIMEOUT_SECONDS": "1"}


async def append(client: Client, *events: event_pb2.Event) -> pb.AppendResponse | Refusal:
    return await client.append(append_request(events or [event("Happened", "t:1")]))


def assert_unavailable(answer: pb.AppendResponse | Refusal, what: str) -> None:
    assert isinstance(answer, Refusal), answer
    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert answer.reason == "STORAGE_UNAVAILABLE"
    assert what in answer.message
    assert "arn:" not in answer.message


def failures(server: ServerProcess, code: str) -> list[str]:
    return [line["failure"] for line in server.log() if line["event"] == "dynamodb_fails" and line["code"] == code]


async def is_healthy(client: Client) -> bool:
    check = client.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    answer: health_pb2.HealthCheckResponse = await check(health_pb2.HealthCheckRequest())
    return answer.status == health_pb2.HealthCheckResponse.SERVING


async def tag_count(client: Client, tag: str) -> int:
    answer = await client.stub.GetTag(pb.GetTagRequest(tag=tag, with_count=True))
    return answer.count


@pytest.mark.parametrize("code", ["AccessDeniedException", "ExpiredTokenException", "UnrecognizedClientException"])
async def test_a_server_that_is_denied_says_so_once_and_works_again_when_it_is_allowed(
    tmp_path: Path, environment: dict[str, str], dynamodb: Component, code: str
) -> None:
    async with (
        fault_proxy(dynamodb, seed=1) as proxy,
        run_server(tmp_path, env={**environment, **proxy.environment}) as server,
        connect(server.address) as client,
    ):
        await append(client)
        proxy.faults = Faults(denied=1.0, denied_code=code)
        for _ in range(20):
            assert_unavailable(await append(client), code)
        await until(lambda: proxy.requests["GetItem"] > 40, "looks at the log")
        frames, _ = await client.read()
        assert len(frames) == 1
        assert await is_healthy(client)
        said = failures(server, code)
        assert len(said) == len(set(said)) < 10
        log = environment["KUDURRU_DYNAMODB_TABLE_PREFIX"] + "log"
        assert f"PutItem on {log} failed with HTTP 400" in said
        warnings = [line["event"] for line in server.log() if line["level"] == "warning"]
        assert len(warnings) == len(set(warnings))
        proxy.faults = Faults()
        assert isinstance(await append(client), pb.AppendResponse)
        await until(lambda: any(line["event"] == "works_again" for line in server.log()), "recovery in the log")


async def test_a_service_that_is_away_for_a_while_costs_its_while(
    tmp_path: Path, environment: dict[str, str], dynamodb: Component
) -> None:
    async with (
        fault_proxy(dynamodb, seed=2) as proxy,
        run_server(tmp_path, env={**environment, **proxy.environment, **_PATIENCE}) as server,
        connect(server.address) as client,
    ):
        await append(client)
        async with proxy.unreachable():
            for _ in range(3):
                assert_unavailable(await append(client), "no answer to")
            assert len((await client.read())[0]) == 1
        assert isinstance(await append(client), pb.AppendResponse)
        assert len((await client.read())[0]) == 2


async def rows_written(environment: dict[str, str], position: int) -> None:
    """Wait until everything up to a position has rows."""
    log = tables.table_name(environment["KUDURRU_DYNAMODB_TABLE_PREFIX"], Table.LOG)

    async def are_written() -> bool:
        found = [item for item in await items(environment, log) if item["pk"]["S"] == "META#applied"]
        return bool(found) and found[0]["position"]["N"] == str(position)

    await until(are_written, "rows")


async def drop(environment: dict[str, str], table: Table, server: ServerProcess, client: Client) -> str:
    """Delete a table, and wait until the server has met it; return its name."""
    name = tables.table_name(environment["KUDURRU_DYNAMODB_TABLE_PREFIX"], table)
    async with dynamodb_client(environment) as aws:
        await aws.update_table(TableName=name, DeletionProtectionEnabled=False)
        await aws.delete_table(TableName=name)
    if table is not Table.LOG:
        assert isinstance(await append(client), pb.AppendResponse)  # the log decides
    await until(lambda: bool(failures(server, "ResourceNotFoundException")), "note of the missing table")
    return name


async def make_again(environment: dict[str, str], table: Table, name: str) -> None:
    async with dynamodb_client(environment) as aws:
        await aws.create_table(TableName=name, **tables.definition(table))


async def items(environment: dict[str, str], name: str) -> Sequence[dict[str, Any]]:
    async with dynamodb_client(environment) as aws:
        return (await aws.scan(TableName=name))["Items"]


async def test_a_log_that_is_deleted_and_made_again_takes_no_append_of_a_server_that_knew_the_other(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    async with run_server(tmp_path, env=environment) as server, connect(server.address) as client:
        for _ in range(3):
            await append(client)
        await rows_written(environment, 3)
        name = await drop(environment, Table.LOG, server, client)
        assert_unavailable(await append(client), "ResourceNotFoundException")
        await make_again(environment, Table.LOG, name)
        for _ in range(3):
            assert_unavailable(await append(client), "the table of the log was replaced or restored")
        assert await items(environment, name) == []
        assert len((await client.read())[0]) == 3
        assert await server.stop() == 0
    ended = run_to_end("serve", "--listen", "127.0.0.1:0", env=environment)
    assert ended.code == 1
    assert "there are events, but no log" in ended.stderr


@pytest.mark.parametrize("table", [Table.EVENTS, Table.TAGS])
async def test_rows_that_are_gone_are_not_taken_for_rows_that_never_were(
    tmp_path: Path, environment: dict[str, str], table: Table
) -> None:
    environment = {**environment, "KUDURRU_DYNAMODB_LEASE_SECONDS": "0.5"}
    unless = event_pb2.AppendCondition(fail_if_events_match=query(((), ["t:old"])))
    old = append_request([event("Old", "t:old")])
    async with run_server(tmp_path, env=environment) as server, connect(server.address) as client:
        assert isinstance(await client.append(old), pb.AppendResponse)
        await rows_written(environment, 1)
    async with run_server(tmp_path, env=environment) as server, connect(server.address) as client:  # remembers nothing
        name = await drop(environment, table, server, client)
        await make_again(environment, table, name)
        for request in (old, append_request([event("New", "t:new")], [unless])):
            assert_unavailable(await client.append(request), f"the table of {table} lacks rows")
        assert isinstance(await append(client), pb.AppendResponse)
        assert await server.stop() == 0
    ended = run_to_end("serve", "--listen", "127.0.0.1:0", env=environment)
    assert ended.code == 1
    assert f"the table of {table} lacks rows" in ended.stderr
    async with dynamodb_client(environment) as aws:  # as the docs say: rows are written again from the log
        log = tables.table_name(environment["KUDURRU_DYNAMODB_TABLE_PREFIX"], Table.LOG)
        await aws.delete_item(TableName=log, Key={"pk": {"S": "META#applied"}, "n": {"N": "0"}})
    async with run_server(tmp_path, env=environment) as server, connect(server.address) as client:
        assert await tag_count(client, "t:1") == 2
        answer = await client.append(old)
        assert isinstance(answer, pb.AppendResponse)
        assert answer.already_committed
        refused = await client.append(append_request([event("New", "t:new")], [unless]))
        assert isinstance(refused, Refusal)
        assert refused.reason == "CONDITION_FAILED"


async def test_a_bucket_that_is_missing_fails_only_what_needs_it(tmp_path: Path, environment: dict[str, str]) -> None:
    bucket = environment["KUDURRU_S3_BUCKET"]
    async with (
        s3_client(environment) as aws,
        run_server(tmp_path, env={**environment, **_PATIENCE}) as server,
        connect(server.address) as client,
    ):
        await append(client)
        await aws.delete_bucket(Bucket=bucket)

        def large() -> event_pb2.Event:
            return event("Large", "t:1", data=bytes(30_000))

        answers = await asyncio.gather(*(append(client, one) for _ in range(10) for one in (large(), event("Small"))))
        for refused in answers[::2]:
            assert_unavailable(refused, "NoSuchBucket")
        assert all(isinstance(answer, pb.AppendResponse) for answer in answers[1::2])
        await aws.create_bucket(Bucket=bucket)
        assert isinstance(await append(client, large()), pb.AppendResponse)
        await until(lambda: any(line["event"] == "works_again" for line in server.log()), "recovery in the log")
