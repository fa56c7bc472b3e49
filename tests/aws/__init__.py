"""Real services to test against, and a proxy with the faults that they never show."""
