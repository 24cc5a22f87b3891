//! Benchmarks and whole-cell runs.
