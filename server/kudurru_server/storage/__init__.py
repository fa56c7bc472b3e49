"""Where events are kept: one contract (`interface`), and a package a backend."""
