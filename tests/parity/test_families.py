"""Families as users compile them: what XLA compiles between the kernels of any family is compiled
for one of these. The others, and the test that nothing is left out, are in
tests/models/test_family_logits.py.
"""

from __future__ import annotations

import pytest

from flaxen.kernels import cpu_library
from tests.models.family_table import AS_USERS
from tests.models.family_table.equalities import Equalities

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")


@pytest.fixture(params=AS_USERS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestAsUsersCompile(Equalities):
    pass
