"""Batches of which DynamoDB does only a part."""

import random

from tests.aws.wire import Answer, Call, Json

_LEFT = {"BatchWriteItem": "UnprocessedItems", "BatchGetItem": "UnprocessedKeys"}


def split(call: Call, chance: random.Random) -> tuple[Call, Json] | None:
    """Return a call with some of the batch, and what is left by table; None if the batch is too small."""
    arguments = call.json()
    tables: Json = arguments["RequestItems"]
    entries = [(table, entry) for table, entry_list in tables.items() for entry in _entries(entry_list)]
    if len(entries) < 2:
        return None
    chance.shuffle(entries)
    done = chance.randint(1, len(entries) - 1)
    kept, left = _by_table(tables, entries[:done]), _by_table(tables, entries[done:])
    return call.with_json(arguments | {"RequestItems": kept}), left


def with_left(answer: Answer, call: Call, left: Json) -> Answer:
    """Return an answer that names what is left besides what it names already."""
    name = _LEFT[call.operation]
    said = answer.json()
    unprocessed: Json = said.get(name) or {}
    for table, entries in left.items():
        if table in unprocessed:
            _entries(entries).extend(_entries(unprocessed[table]))
    return answer.with_json(said | {name: unprocessed | left})


def _entries(of_table: Json | list[Json]) -> list[Json]:
    """Return the list that both have: BatchGetItem wraps it together with the table's options."""
    if isinstance(of_table, list):
        return of_table
    keys: list[Json] = of_table["Keys"]
    return keys


def _by_table(tables: Json, entries: list[tuple[str, Json]]) -> Json:
    chosen: dict[str, list[Json]] = {}
    for table, entry in entries:
        chosen.setdefault(table, []).append(entry)
    return {
        table: of_table if isinstance(tables[table], list) else tables[table] | {"Keys": of_table}
        for table, of_table in chosen.items()
    }
