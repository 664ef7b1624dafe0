"""Speed measurements, one command per question; every figure is a ratio of medians measured in one run."""
