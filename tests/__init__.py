"""The tests: a name is a promise."""
