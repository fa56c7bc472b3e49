"""Measurements of a real server on a real disk; see README.md for the figures and how they were made."""
