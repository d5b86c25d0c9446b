"""Supabase's own JavaScript client, unchanged, does with channels what channels.mjs tells."""

import re

import pytest

from tests.clients.programs import CHANNELS_IN_NODE, told_in_node
from tests.desk import Desk

STORIES = re.findall(r"^  async (\w+)\(\) \{$", CHANNELS_IN_NODE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("story", STORIES)
def test_user_of_supabase_js_hears_what_the_story_tells(desk: Desk, story: str) -> None:
    assert told_in_node(desk, story, CHANNELS_IN_NODE).endswith(f"{story}: as told\n")
