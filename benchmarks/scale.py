"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

SIZES = {"0.2 kB": 200, "1 kB": 1000, "10 kB": 10000}


@dataclass(frozen=True)
class Scale:
    batch: int = 50  # calls of one side before it is another's turn
    # one operation after the other
    sizes: tuple[str, ...] = ("0.2 kB", "1 kB", "10 kB")
    rounds: int = 15
    # requests in one event loop; and to servers
    loop_rounds: int = 15
    site_processes: int = 6  # of each side, one after the other
    site_rounds: int = 3  # with each
    site_seconds: float = 0.4  # of one side, in a round
    # growth
    growth_rounds: int = 20
    table_rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    lengths: tuple[int, ...] = (250, 1000, 4000, 16000, 64000)  # bytes
    # writers of one session
    writers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    race_rounds: int = 2
    race_seconds: float = 1.0
    # cleanup
    expired: int = 1_000_000
    live: int = 100_000
    cleanup_rounds: int = 2
    calm_seconds: float = 10  # of live writes alone
    # move of an old table
    moved: int = 250_000
    # bytes; and HOT updates
    stored: int = 2000
    hot_sessions: int = 500
    hot_rounds: int = 10


FULL = Scale()
SHORT = Scale(
    batch=25,
    sizes=("1 kB",),
    rounds=3,
    loop_rounds=3,
    site_processes=1,
    site_rounds=1,
    site_seconds=0.3,
    growth_rounds=2,
    table_rows=(10_000, 100_000),
    lengths=(250, 4000, 64000),
    writers=(1, 8, 64),
    race_rounds=1,
    race_seconds=0.3,
    expired=50_000,
    live=5_000,
    cleanup_rounds=1,
    calm_seconds=2,
    moved=50_000,
    stored=200,
    hot_sessions=60,
    hot_rounds=4,
)
# For the tests: that every part works. Its figures say nothing.
SMOKE = Scale(
    batch=4,
    sizes=("1 kB",),
    rounds=1,
    loop_rounds=1,
    site_processes=1,
    site_rounds=1,
    site_seconds=0.05,
    growth_rounds=1,
    table_rows=(100, 200),
    lengths=(1000, 4000),
    writers=(1, 4),
    race_rounds=1,
    race_seconds=0.1,
    expired=20_000,  # so many that live writes meet their cleanup
    live=100,
    cleanup_rounds=1,
    calm_seconds=0.3,
    moved=600,  # more than one batch
    stored=20,
    hot_sessions=20,
    hot_rounds=2,
)
