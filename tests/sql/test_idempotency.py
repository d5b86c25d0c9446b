"""Idempotency keys: the first answer is stored with its effect, and a repeat is that answer and no effect."""

import json
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.actors import Acting, Actor, Stage, World
from tests.databases import Connection

CREATE = """
    select body, version from integration_tickets.create_ticket(
        %(claims)s::jsonb, %(title)s, null, null, null, null, %(key)s)
"""
COMMENT = """
    select body, version from integration_tickets.add_comment(
        %(claims)s::jsonb, %(ticket)s, %(content)s, false, null, %(key)s)
"""
COUNT = "select count(*) from public.tickets where subject = %s"


def asked(actor: Actor, **values: Any) -> dict[str, Any]:
    return {"claims": json.dumps(actor.claims), "title": "Once", "key": "k", **values}


def test_a_repeat_gets_the_first_answer_and_makes_nothing(
    login: Acting, token: Acting, owner: Acting, stage: Stage
) -> None:
    first = login.row(CREATE, asked(token.actor))
    stage.come_anew()
    assert login.row(CREATE, asked(token.actor)) == first
    assert owner.value(COUNT, ["Once"]) == 1


def test_without_a_key_every_request_counts(
    login: Acting, token: Acting, owner: Acting, stage: Stage
) -> None:
    for _ in range(2):
        login.row(CREATE, asked(token.actor, key=None))
        stage.come_anew()
    assert owner.value(COUNT, ["Once"]) == 2


def test_the_same_key_with_another_request_is_a_conflict(
    login: Acting, token: Acting, owner: Acting, stage: Stage
) -> None:
    login.row(CREATE, asked(token.actor))
    stage.come_anew()
    login.refused("PT409", CREATE, asked(token.actor, title="Twice"), word="idempotency_conflict")
    assert owner.value(COUNT, ["Twice"]) == 0


def test_a_key_is_its_principal_s_and_its_operation_s(
    *, login: Acting, token: Acting, other_token: Acting, foreign_token: Acting, owner: Acting, stage: Stage
) -> None:
    answers = set()
    for acting in (token, other_token, foreign_token):
        answers.add(login.row(CREATE, asked(acting.actor)))
        stage.come_anew()
    assert len(answers) == 3
    ticket = token.values("select id from public.tickets")[0]
    login.row(COMMENT, asked(token.actor, ticket=ticket, content="Once"))


def test_a_comment_is_made_once(login: Acting, token: Acting, owner: Acting, stage: Stage) -> None:
    ticket = token.values("select id from public.tickets")[0]
    request = asked(token.actor, ticket=ticket, content="Only once")
    first = login.row(COMMENT, request)
    stage.come_anew()
    assert login.row(COMMENT, request) == first
    assert owner.value("select count(*) from public.comments where body = 'Only once'") == 1


def test_a_key_outlives_a_rotation(
    login: Acting, admin: Acting, token: Acting, owner: Acting, stage: Stage
) -> None:
    first = login.row(CREATE, asked(token.actor))
    admin.rows("select public.rotate_integration_token(%s)", [token.token_id])
    assert login.row(CREATE, asked(token.actor)) == first


def test_a_key_is_free_again_after_a_day(login: Acting, token: Acting, owner: Acting, stage: Stage) -> None:
    first = login.row(CREATE, asked(token.actor))
    owner.rows("update private.idempotency_keys set created_at = now() - interval '24 hours 1 second'")
    assert login.row(CREATE, asked(token.actor)) != first
    assert owner.value(COUNT, ["Once"]) == 2
    stage.come_anew()
    login.refused("PT409", CREATE, asked(token.actor, title="Twice"), word="idempotency_conflict")


def test_old_keys_are_swept_out(owner: Acting, login: Acting, token: Acting) -> None:
    login.row(CREATE, asked(token.actor))
    owner.rows("select private.maintain()")
    assert owner.rows("select 1 from private.idempotency_keys where key = 'k'") == [(1,)]
    owner.rows("update private.idempotency_keys set created_at = now() - interval '24 hours 1 second'")
    owner.rows("select private.maintain()")
    assert owner.rows("select 1 from private.idempotency_keys where key = 'k'") == []


def test_a_request_that_fails_leaves_its_key_free(
    login: Acting, token: Acting, owner: Acting, stage: Stage
) -> None:
    login.refused("23514", CREATE, asked(token.actor, title=" "))
    stage.come_anew()
    login.row(CREATE, asked(token.actor))
    assert owner.value(COUNT, ["Once"]) == 1


@pytest.mark.parametrize(("length", "is_allowed"), [(255, True), (256, False)])
def test_a_key_has_a_limit(length: int, is_allowed: bool, login: Acting, token: Acting) -> None:
    request = asked(token.actor, key="k" * length)
    if is_allowed:
        login.row(CREATE, request)
    else:
        login.refused("23514", CREATE, request)


def answers_at_once(
    connections: list[Connection], statement: str, requests: list[dict[str, Any]]
) -> list[Any]:
    """Run one request a connection, all at the same time; return answers, and errors in their place."""
    answers: list[Any] = [None] * len(requests)
    begin = threading.Barrier(len(requests))

    def run(place: int) -> None:
        begin.wait()
        try:
            answers[place] = connections[place].execute(statement.encode(), requests[place]).fetchone()
        except psycopg.Error as error:
            answers[place] = error

    threads = [threading.Thread(target=run, args=[place]) for place in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_ten_at_once_with_one_key_make_one_ticket(
    own_world: World, connect: Callable[[], Connection], database: str
) -> None:
    token = own_world.north.actors["token"]
    connections = [connect() for _ in range(10)]
    for key in ("a", "b", "c"):
        request = asked(token, title=f"Once {key}", key=key)
        answers = answers_at_once(connections, CREATE, [request] * 10)
        assert len(set(answers)) == 1, answers
        with psycopg.connect(database) as owner:
            assert owner.execute(COUNT, [f"Once {key}"]).fetchone() == (1,)


def test_of_ten_at_once_with_one_key_and_different_requests_one_wins(
    own_world: World, connect: Callable[[], Connection]
) -> None:
    token = own_world.north.actors["token"]
    requests = [asked(token, title=f"Title {number}", key="same") for number in range(10)]
    answers = answers_at_once([connect() for _ in range(10)], CREATE, requests)
    refused = [answer for answer in answers if isinstance(answer, psycopg.Error)]
    assert len(refused) == 9
    assert {error.sqlstate for error in refused} == {"PT409"}
