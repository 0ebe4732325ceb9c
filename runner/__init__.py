"""The only room that imports torch: load, train, record."""
