"""Supabase's own JavaScript client, unchanged, does with accounts what accounts.mjs tells."""

import re

import pytest

from tests.clients.programs import NODE_PROGRAM, told_in_node
from tests.desk import Desk

STORIES = re.findall(r"^  async (\w+)\(\) \{$", NODE_PROGRAM.read_text(), re.MULTILINE)


@pytest.mark.parametrize("story", STORIES)
def test_user_of_supabase_js_is_served_as_the_story_tells(desk: Desk, story: str) -> None:
    assert told_in_node(desk, story).endswith(f"{story}: as told\n")
