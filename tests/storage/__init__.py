"""The conformance suite of `storage/interface.py`, and what is particular to a backend."""
