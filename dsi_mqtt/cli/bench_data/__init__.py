"""Sources of the programs that benchmarks compare with."""
