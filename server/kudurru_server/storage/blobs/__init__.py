"""Where large things are kept: under a key, whole, never changed."""
