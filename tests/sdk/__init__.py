"""The Python client, against a server that does what each test tells it to."""
