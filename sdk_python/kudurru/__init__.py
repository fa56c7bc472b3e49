"""Asyncio client for the Kudurru event store."""
