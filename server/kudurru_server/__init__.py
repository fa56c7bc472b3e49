"""The Kudurru event store server."""
