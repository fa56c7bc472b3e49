"""The rules of the engine, on real stores where that is simpler and on a scripted one where it is not."""
