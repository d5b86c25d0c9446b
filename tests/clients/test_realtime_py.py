"""Supabase's own Python client, unchanged, hears and says what realtime_stories.py tells."""

import sys

import pytest

from tests.clients import realtime_stories
from tests.clients.programs import WARNINGS, must_be_told
from tests.desk import Desk

NEEDED = ("API_URL", "PUBLISHABLE_KEY", "SECRET_KEY", "DB_URL")


@pytest.mark.parametrize("story", [story.__name__ for story in realtime_stories.STORIES])
def test_user_of_supabase_py_hears_what_the_story_tells(desk: Desk, story: str) -> None:
    """Each in a process of its own, in which every warning is an error."""
    warnings = [argument for warning in WARNINGS for argument in ("-W", warning)]
    must_be_told(desk, [sys.executable, *warnings, realtime_stories.__file__], story, NEEDED)
