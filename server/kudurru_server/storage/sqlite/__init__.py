"""The embedded store: one data directory, owned by one process.

`log.sqlite3` decides; `index/` (sorted runs and the names of tags) is derived from it and can be deleted and rebuilt.
"""
