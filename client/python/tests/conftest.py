from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import Cluster
from hypothesis import settings
from script import Certificate, make_certificate

settings.register_profile("seriatim", deadline=None, max_examples=60, derandomize=True, database=None)
settings.load_profile("seriatim")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all tests that break nothing: each takes users of its own."""
    one = Cluster(tmp_path_factory.mktemp("cluster") / "data")
    yield one
    one.stop()


@pytest.fixture
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One whose processes may be killed."""
    one = Cluster(tmp_path_factory.mktemp("fragile") / "data")
    yield one
    one.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of scripted gateways."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of another CA."""
    return make_certificate(tmp_path_factory.mktemp("other-certificate"))
