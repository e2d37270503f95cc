"""flaxen beside other engines, on the same requests, in one run: `make bench-peers`.

Each engine is a process of its own (`workers/`), in its own virtual environment (`install`), so
that none needs to know of the others. docs/benchmarks.md says what is compared, and how.
"""
