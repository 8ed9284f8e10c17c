"""The real servers that these tests start."""

from tests.server_fixtures import *  # noqa: F403
