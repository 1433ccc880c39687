"""Whatever is done, in whatever order, on whatever store and with whatever pool: the invariants hold.

`HYPOTHESIS_PROFILE=long pytest tests/properties` looks for about an hour, each time elsewhere. What it finds it
prints as the steps that lead there, and tries first when it is run again.
"""

from __future__ import annotations

import logging
import os

import pytest
from hypothesis import HealthCheck, settings

from tests.properties.machine import MemoryMachine
from tests.properties.stores import SLOW_GROUNDS

PROFILES = {
    "ci": settings(max_examples=16, stateful_step_count=30),
    "long": settings(max_examples=1_000, stateful_step_count=60),
}
TIMEOUTS_S = {"ci": 1800, "long": 0}

profile = os.environ.get("HYPOTHESIS_PROFILE", "ci")
chosen = settings(PROFILES[profile], suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class SlowMachine(MemoryMachine):
    """The same over stores that take their time."""

    grounds = SLOW_GROUNDS


TestInvariants = pytest.mark.timeout(TIMEOUTS_S[profile])(MemoryMachine.TestCase)
TestInvariants.settings = chosen
TestInvariantsOnSlowStores = pytest.mark.timeout(TIMEOUTS_S[profile])(SlowMachine.TestCase)
TestInvariantsOnSlowStores.settings = settings(chosen, max_examples=chosen.max_examples // 6)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of warnings of models that fail would bury the steps that lead to a failure."""
    caplog.set_level(logging.CRITICAL)
