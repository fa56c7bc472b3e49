"""Attributes of items by the type they must have; another one means that somebody else has written the item."""

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.storage.dynamodb.database import Item


def number_of(item: Item, name: str) -> int:
    """Return an attribute that is a number."""
    value = item[name]
    if not isinstance(value, int):
        raise StorageUnavailableError(f"{name} of an item is not a number")
    return value


def text_of(item: Item, name: str) -> str:
    """Return an attribute that is a string."""
    value = item[name]
    if not isinstance(value, str):
        raise StorageUnavailableError(f"{name} of an item is not a string")
    return value


def bytes_of(item: Item, name: str) -> bytes:
    """Return an attribute that is bytes."""
    value = item[name]
    if not isinstance(value, bytes):
        raise StorageUnavailableError(f"{name} of an item is not binary")
    return value


def texts_of(item: Item, name: str) -> list[str]:
    """Return an attribute that is a list of strings."""
    value = item[name]
    if not isinstance(value, list):
        raise StorageUnavailableError(f"{name} of an item is not a list")
    return value
