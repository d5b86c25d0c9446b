"""Idempotency keys and versions: what is done once, and what is not done on a stale reading."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.desk import Desk, unique

from .conftest import User, assert_error

POSTS = [
    ("/tickets/", {"title": "Once"}),
    ("/tickets/{ticket}/assign/", {"user_id": None}),
    ("/tickets/{ticket}/change_status/", {"status": "resolved"}),
    ("/tickets/{ticket}/comments/", {"content": "Once"}),
    ("/categories/", {"name": "{unique}"}),
    ("/tags/", {"name": "{unique}"}),
    ("/templates/", {"title": "Once", "content": "x"}),
    ("/templates/{template}/use_template/", {"context": {"a": 1}}),
    ("/filters/", {"name": "Once"}),
]


@pytest.mark.parametrize(("path", "body"), POSTS, ids=[path for path, _ in POSTS])
def test_repeat_gets_the_first_answer(agent: User, ticket: int, path: str, body: dict[str, Any]) -> None:
    template = agent.make("/templates/", title="x", content="x")["id"]
    path = path.format(ticket=ticket, template=template)
    body = {name: unique("x") if value == "{unique}" else value for name, value in body.items()}
    headers = {"Idempotency-Key": unique("key")}
    first = agent.post(path, json=body, headers=headers)
    assert first.is_success
    # Something else happens in between.
    agent.patch(f"/tickets/{ticket}/", json={"priority": "urgent"})
    second = agent.post(path, json=body, headers=headers)
    assert second.content == first.content
    assert (second.status_code, second.headers.get("etag")) == (first.status_code, first.headers.get("etag"))
    other = {**body, next(iter(body)): {"b": 2} if "context" in body else unique("other")}
    if "user_id" in body or "status" in body:
        other = {"user_id": agent.number, "status": "closed"}
    conflict = agent.post(path, json=other, headers=headers)
    assert_error(conflict, 409, "Conflict", "idempotency_conflict")


def test_repeats_at_the_same_time_create_one_ticket(desk: Desk, agent: User) -> None:
    headers, body = {"Idempotency-Key": unique("key")}, {"title": unique("Race")}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: agent.post("/tickets/", json=body, headers=headers), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert desk.value("select count(*) from public.tickets where subject = %s", [body["title"]]) == 1


def test_keys_of_two_people_do_not_meet(agent: User, colleague: User) -> None:
    headers = {"Idempotency-Key": unique("key")}
    made = [client.post("/tickets/", json={"title": "x"}, headers=headers) for client in (agent, colleague)]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[0].json()["id"] != made[1].json()["id"]


def test_refused_request_does_not_use_up_its_key(agent: User) -> None:
    headers, name = {"Idempotency-Key": unique("key")}, unique("Taken")
    agent.make("/tags/", name=name)
    assert_error(agent.post("/tags/", json={"name": name}, headers=headers), 400, "Validation failed")
    assert agent.post("/tags/", json={"name": unique("free")}, headers=headers).status_code == 201


def test_tickets_of_many_at_once_are_all_there_and_none_twice(newcomer: User) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: newcomer.ticket(title=f"Parallel {n}")["id"], range(40)))
    assert len(set(made)) == 40
    assert set(newcomer.ids()) == set(made)


def test_of_those_who_take_one_name_at_once_one_gets_it(newcomer: User) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: newcomer.post("/tags/", json={"name": "one"}), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [400] * 7


def test_stale_write_is_refused_and_told_what_it_missed(agent: User, customer: User, ticket: int) -> None:
    path = f"/tickets/{ticket}/"
    known = {"If-Match": customer.get(path).headers["etag"]}
    public = agent.make(f"{path}comments/", content="News")
    note = agent.make(f"{path}comments/", content="Among us", is_internal=True)
    for client, missed in ((customer, [public]), (agent, [public, note])):
        answers = [
            client.put(path, json={"title": "x"}, headers=known),
            client.patch(path, json={"title": "x"}, headers=known),
            client.post(f"{path}change_status/", json={"status": "closed"}, headers=known),
            client.post(f"{path}comments/", json={"content": "?"}, headers=known),
            client.post(f"{path}assign/", json={"user_id": None}, headers=known),
            client.delete(path, headers=known),
        ]
        for answer in answers:
            details = assert_error(answer, 412, "Precondition Failed", "stale")
            assert (details["version"], details["comments"]) == (3, missed)
    fresh = agent.patch(path, json={"priority": "high"}, headers={"If-Match": '"3"'})
    assert (fresh.status_code, fresh.headers["etag"]) == (200, '"4"')


def test_any_version_will_do(agent: User, ticket: int) -> None:
    for etag in ("*", 'W/"1"', '"1"'):
        answer = agent.patch(f"/tickets/{ticket}/", json={}, headers={"If-Match": etag})
        assert answer.status_code == 200


def test_of_those_who_know_the_same_version_one_wins(agent: User, ticket: int) -> None:
    def write(number: int) -> int:
        body = {"description": f"Mine {number}"}
        return agent.patch(f"/tickets/{ticket}/", json=body, headers={"If-Match": '"1"'}).status_code

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(write, range(8))) == [200] + [412] * 7


def test_other_tags_are_another_version(agent: User, ticket: int, tag: dict[str, Any]) -> None:
    answer = agent.patch(f"/tickets/{ticket}/", json={"tags": [tag["id"]]})
    assert answer.headers["etag"] == '"2"'
    assert agent.get(f"/tickets/{ticket}/").headers["etag"] == '"2"'
