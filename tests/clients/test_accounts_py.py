"""Supabase's own Python client, unchanged, does with accounts what accounts.py tells."""

import pytest

from tests.clients.accounts import STORIES
from tests.clients.programs import told_in_python
from tests.desk import Desk


@pytest.mark.parametrize("story", [story.__name__ for story in STORIES])
def test_user_of_supabase_py_is_served_as_the_story_tells(desk: Desk, story: str) -> None:
    assert told_in_python(desk, story).endswith(f"{story}: as told\n")
