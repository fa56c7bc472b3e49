"""Tests with real server processes: what clients see through kills, races, overload and full disks."""
