"""Fixtures that need no MindSpore: `pytest --noconftest -p tests.plain` runs tests of pure functions in seconds."""

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)  # times say nothing on a shared machine
settings.load_profile("default")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
