"""The server through a real channel."""
