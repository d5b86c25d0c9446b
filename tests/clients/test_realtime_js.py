"""Supabase's own JavaScript client, unchanged, hears and says what realtime.mjs tells."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.programs import must_be_told, node
from tests.desk import Desk

PROGRAM = Path(__file__).with_name("realtime.mjs")
STORIES = re.findall(r"^  async (\w+)\(\) \{$", PROGRAM.read_text(), re.MULTILINE)
NEEDED = ("API_URL", "PUBLISHABLE_KEY", "SECRET_KEY")

OF_MY_TEAM = "realtime.topic() = 'team:' || (select auth.jwt() -> 'app_metadata' ->> 'organization_id')"
POLICIES = f"""
    create policy hear_my_team on realtime.messages for select to authenticated using ({OF_MY_TEAM});
    create policy speak_to_my_team on realtime.messages for insert to authenticated
        with check (extension = 'broadcast' and {OF_MY_TEAM});
"""
NO_POLICIES = """
    drop policy hear_my_team on realtime.messages;
    drop policy speak_to_my_team on realtime.messages;
"""


@pytest.fixture(scope="module", autouse=True)
def policies(desk: Desk) -> Iterator[None]:
    """What docs/realtime.md has somebody write in a migration of their own."""
    desk.sql(POLICIES)
    yield
    desk.sql(NO_POLICIES)


@pytest.mark.parametrize("story", STORIES)
def test_user_of_supabase_js_hears_and_says_what_the_story_tells(desk: Desk, story: str) -> None:
    must_be_told(desk, [node(), str(PROGRAM)], story, NEEDED)
