"""The rules of the store: pure asyncio, no input or output of its own; it runs on any `Storage`."""
