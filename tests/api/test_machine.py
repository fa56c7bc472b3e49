"""The state machine on the stores that need no further programs."""

from tests.api.machine import Setup, run_machine
from tests.storage.backends import IN_BATCHES, IN_TRANSACTIONS, MemoryBackend, SqliteBackend


def test_a_server_on_the_embedded_store_answers_as_the_reference_does() -> None:
    run_machine(Setup([lambda folder: SqliteBackend(folder / "data")]), max_examples=200)


def test_two_nodes_on_tables_in_memory_answer_as_the_reference_does() -> None:
    backends = [lambda _: MemoryBackend(IN_TRANSACTIONS), lambda _: MemoryBackend(IN_BATCHES)]
    run_machine(Setup(backends, nodes=2, follow_seconds=(0.005, 60.0), apply_delay_seconds=0.01), max_examples=80)
