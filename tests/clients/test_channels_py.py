"""Supabase's own Python client, unchanged, does with channels what channels.py tells."""

import pytest

from tests.clients.channels import STORIES
from tests.clients.programs import CHANNELS_IN_PYTHON, told_in_python
from tests.desk import Desk


@pytest.mark.parametrize("story", [story.__name__ for story in STORIES])
def test_user_of_supabase_py_hears_what_the_story_tells(desk: Desk, story: str) -> None:
    assert told_in_python(desk, story, CHANNELS_IN_PYTHON).endswith(f"{story}: as told\n")
