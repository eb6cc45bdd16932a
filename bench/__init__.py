"""Benchmarks of jaxsolve against its peers: `python -m bench smooth`."""
