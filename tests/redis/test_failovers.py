"""Failovers of Redis under load lose nothing that was acknowledged, with `replicas`.

``TEST_FAILOVERS=full`` makes four of each kind: 20 behind Sentinels, and 20 of a cluster. What was
counted is logged: ``--log-file=figures.txt --log-file-level=INFO``.
"""

from __future__ import annotations

import logging
import os

import pytest

from ..failovers import TIMEOUT, Clustered, Servers, Watched, measure

_given = os.environ.get("TEST_FAILOVERS", "")
log = logging.getLogger(__name__)


@pytest.mark.parametrize(
    ("servers", "some"),
    [(Watched, ("order", "stop")), (Clustered, ("order", "cut_off_with_clients"))],
    ids=["Sentinels", "a cluster"],
)
def test_a_failover_loses_no_acknowledged_write_and_undoes_no_logout(servers, some):
    kinds = Servers.KINDS * 4 if _given == "full" else some
    for kind, counts in measure(servers, 1, kinds).items():
        log.info("%s, %s: %s", servers.__name__, kind, dict(counts))
        assert min(counts[what] for what in ("writes", "deletions", "loads")) > 0
        assert (counts["lost"], counts["revived"]) == (0, 0), kind
        # A demoted primary does not go on answering loads.
        assert counts["stalest, ms"] <= TIMEOUT * 1000, kind
