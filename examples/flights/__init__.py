"""A year of flights through the store: `python -m examples.flights`.

Read it in this order: `events` (what is recorded), `importer` (appending in order), `projector` (a subscription and its
fold), `departure` (a command that must not happen twice), and `demo`, which puts them together.
"""
