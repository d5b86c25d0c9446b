"""Idempotency keys and versions: what is done once, and what is not done on a stale reading."""

from concurrent.futures import ThreadPoolExecutor

from tests.desk import Desk, unique

from .conftest import Person, assert_bad, assert_error


def test_repeat_gets_the_first_answer(desk: Desk, customer: Person) -> None:
    headers = {"Idempotency-Key": unique("key")}
    body = {"title": unique("Once"), "priority": "high"}
    first, second = (customer.post("/tickets", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert first.headers["etag"] == second.headers["etag"] == '"1"'
    assert desk.value("select count(*) from public.tickets where subject = %s", [body["title"]]) == 1


def test_repeats_at_the_same_time_create_one_ticket(desk: Desk, customer: Person) -> None:
    headers = {"Idempotency-Key": unique("key")}
    body = {"title": unique("Race")}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: customer.post("/tickets", json=body, headers=headers), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert desk.value("select count(*) from public.tickets where subject = %s", [body["title"]]) == 1


def test_repeats_of_a_message_at_the_same_time_send_one(desk: Desk, customer: Person, ticket: str) -> None:
    headers = {"Idempotency-Key": unique("key"), "If-Match": '"1"'}
    path = f"/tickets/{ticket}/messages"
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: customer.post(path, json={"content": "Once"}, headers=headers), range(8))
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert {answer.headers["etag"] for answer in answers} == {'"2"'}
    assert desk.value("select count(*) from public.comments where ticket_id = %s", [ticket]) == 1


def test_same_key_with_another_body_is_a_conflict(customer: Person, ticket: str) -> None:
    headers = {"Idempotency-Key": unique("key")}
    for path, bodies in (
        ("/tickets", ({"title": "One"}, {"title": "Two"})),
        (f"/tickets/{ticket}/messages", ({"content": "One"}, {"content": "Two"})),
    ):
        assert customer.post(path, json=bodies[0], headers=headers).status_code == 201
        assert_error(customer.post(path, json=bodies[1], headers=headers), 409)


def test_keys_of_two_people_do_not_meet(customer: Person, other_customer: Person) -> None:
    headers = {"Idempotency-Key": unique("key")}
    answers = [p.post("/tickets", json={"title": "x"}, headers=headers) for p in (customer, other_customer)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_a_refused_request_does_not_use_up_its_key(customer: Person) -> None:
    headers = {"Idempotency-Key": unique("key")}
    assert_bad(customer.post("/tickets", json={}, headers=headers), "title")
    assert customer.post("/tickets", json={"title": "x"}, headers=headers).status_code == 201


def test_stale_message_is_refused_and_told_what_it_missed(
    customer: Person, agent: Person, ticket: str
) -> None:
    path = f"/tickets/{ticket}/messages"
    known = customer.get(path).headers["etag"]
    agent.says(ticket, "Please restart it.")
    agent.says(ticket, "They will not.", is_internal=True)
    answer = customer.post(path, json={"content": "Hello?"}, headers={"If-Match": known})
    detail = assert_error(answer, 412)
    assert set(detail) == {"message", "version", "comments"}
    # The agent's first reply has opened the ticket; each message is one more version.
    assert detail["version"] == 3
    (missed,) = detail["comments"]
    assert set(missed) == {"id", "content", "is_internal", "created_at"}
    assert missed["content"] == "Please restart it."
    fresh = {"If-Match": f'"{detail["version"]}"'}
    assert customer.post(path, json={"content": "Done."}, headers=fresh).status_code == 201
    assert_error(customer.post(path, json={"content": "Done."}, headers=fresh), 412)


def test_any_version_will_do(customer: Person, ticket: str) -> None:
    path = f"/tickets/{ticket}/messages"
    for etag in ("*", 'W/"2"', '"3"'):
        answer = customer.post(path, json={"content": "x"}, headers={"If-Match": etag})
        assert answer.status_code == 201


def test_of_ten_who_know_the_same_version_one_is_heard(customer: Person, ticket: str) -> None:
    path = f"/tickets/{ticket}/messages"
    with ThreadPoolExecutor(10) as threads:
        answers = list(
            threads.map(
                lambda n: customer.post(path, json={"content": str(n)}, headers={"If-Match": '"1"'}),
                range(10),
            )
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [412] * 9
