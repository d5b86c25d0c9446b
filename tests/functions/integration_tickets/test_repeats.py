"""Idempotency keys and versions: what is done once, and what is not done on a stale reading."""

from concurrent.futures import ThreadPoolExecutor

from tests.desk import Desk, unique

from .conftest import Partner
from .test_errors import assert_error


def test_repeat_gets_the_first_answer(desk: Desk, partner: Partner) -> None:
    headers = {"Idempotency-Key": unique("key")}
    body = {"title": unique("Once"), "metadata": {"a": 1}}
    first = partner.post("/tickets", json=body, headers=headers)
    second = partner.post("/tickets", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert first.headers["etag"] == second.headers["etag"]
    assert desk.value("select count(*) from public.tickets where subject = %s", [body["title"]]) == 1


def test_repeat_of_a_comment_gets_the_first_answer(desk: Desk, partner: Partner, ticket: str) -> None:
    headers = {"Idempotency-Key": unique("key")}
    answers = [
        partner.post(f"/tickets/{ticket}/comments", json={"content": "Once"}, headers=headers)
        for _ in range(3)
    ]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert desk.value("select count(*) from public.comments where ticket_id = %s", [ticket]) == 1


def test_repeats_at_the_same_time_create_one_ticket(desk: Desk, partner: Partner) -> None:
    headers = {"Idempotency-Key": unique("key")}
    body = {"title": unique("Race")}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: partner.post("/tickets", json=body, headers=headers), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert desk.value("select count(*) from public.tickets where subject = %s", [body["title"]]) == 1


def test_same_key_with_another_body_is_a_conflict(partner: Partner) -> None:
    headers = {"Idempotency-Key": unique("key")}
    partner.post("/tickets", json={"title": "One"}, headers=headers)
    assert_error(
        partner.post("/tickets", json={"title": "Two"}, headers=headers), 409, "idempotency_conflict"
    )


def test_keys_of_two_tokens_do_not_meet(partner: Partner, colleague: Partner) -> None:
    headers = {"Idempotency-Key": unique("key")}
    answers = [
        client.post("/tickets", json={"title": "x"}, headers=headers) for client in (partner, colleague)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() != answers[1].json()


def test_a_refused_request_does_not_use_up_its_key(partner: Partner) -> None:
    headers = {"Idempotency-Key": unique("key")}
    assert_error(partner.post("/tickets", json={}, headers=headers), 400, "missing_required_field")
    assert partner.post("/tickets", json={"title": "x"}, headers=headers).status_code == 201


def test_stale_write_is_refused_and_told_what_it_missed(partner: Partner, ticket: str) -> None:
    known = partner.get(f"/tickets/{ticket}").headers["etag"]
    comment = partner.post(
        f"/tickets/{ticket}/comments", json={"content": "News"}, headers={"If-Match": known}
    )
    assert comment.status_code == 201
    assert comment.headers["etag"] == '"2"'
    for answer in (
        partner.patch(f"/tickets/{ticket}/status", json={"status": "closed"}, headers={"If-Match": known}),
        partner.post(f"/tickets/{ticket}/comments", json={"content": "?"}, headers={"If-Match": known}),
    ):
        assert_error(answer, 412, "stale")
        details = answer.json()["details"]
        assert details["version"] == 2
        assert [missed["content"] for missed in details["comments"]] == ["News"]
    fresh = partner.patch(f"/tickets/{ticket}/status", json={"status": "closed"}, headers={"If-Match": '"2"'})
    assert (fresh.status_code, fresh.headers["etag"]) == (200, '"3"')


def test_any_version_will_do(partner: Partner, ticket: str) -> None:
    for etag in ("*", 'W/"1"', '"1"'):
        answer = partner.patch(
            f"/tickets/{ticket}/status", json={"status": "open"}, headers={"If-Match": etag}
        )
        assert answer.status_code == 200
