"""The parts of the benchmark, a module each, with one function: ``measured(scale) -> Section``."""

# In the page's order. The last one alters its table.
PARTS = [
    "operations",
    "rotation",
    "replicas",
    "loop",
    "requests",
    "table",
    "size",
    "writers",
    "cleanup",
    "moving",
    "metrics",
    "stored",
    "hot",
]
