"""What a back end with the service role key does with everybody's account, and that nobody else does."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.desk import Desk
from tests.mailbox import Mailbox

from .conftest import (
    ALL_IN,
    ALL_OUT,
    People,
    Person,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    assert_user,
    bearer,
    fragment_of,
    new_email,
    new_password,
)

NOBODY = "00000000-0000-4000-8000-000000000000"
ENDPOINTS = [
    ("GET", "/admin/users", None),
    ("POST", "/admin/users", {"email": "x@example.com"}),
    ("GET", "/admin/users/{id}", None),
    ("PUT", "/admin/users/{id}", {"user_metadata": {"a": 1}}),
    ("DELETE", "/admin/users/{id}", {}),
    ("GET", "/admin/users/{id}/factors", None),
    ("DELETE", f"/admin/users/{{id}}/factors/{NOBODY}", None),
    ("POST", "/invite", {"email": "x@example.com"}),
    ("POST", "/admin/generate_link", {"type": "magiclink", "email": "{email}"}),
]
SUMS = """
    select (select count(*) from auth.users), (select count(*) from auth.one_time_tokens),
        (select count(*) from private.mails)
"""


def send(
    client: httpx.Client,
    person: Person,
    endpoint: tuple[str, str, Any],
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    method, path, body = endpoint
    filled = {
        k: v.replace("{email}", person.email) if isinstance(v, str) else v for k, v in (body or {}).items()
    }
    return client.request(
        method, path.replace("{id}", person.user_id), headers=headers, json=None if body is None else filled
    )


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: " ".join(endpoint[:2]))
def test_nobody_but_the_service_role_reaches(
    desk: Desk, people: People, person: Person, endpoint: tuple[str, str, Any]
) -> None:
    admin = people.person("admin", desk.first_organization())
    credentials = {
        "anon": desk.anon_key,
        "publishable": desk.publishable_key,
        "user": person.log_in().access_token,
        "admin": admin.log_in().access_token,
        "token": desk.token(),
        "forged": desk.service_key[:-4] + "AAAA",
        "cut": desk.secret_key[:-1],
        "unknown": "sb_secret_x",
    }
    before = (
        desk.sql(SUMS),
        people.seen_by_owner("to_jsonb(users) - 'last_sign_in_at' - 'updated_at'", person.user_id),
    )
    visitor = people.visitor()
    for name, credential in credentials.items():
        is_jwt_of_ours = name in {"anon", "publishable", "user", "admin", "token"}
        answer = send(visitor, person, endpoint, bearer(credential))
        assert_error(answer, 403, "not_admin" if is_jwt_of_ours else "bad_jwt")
    assert_error(send(visitor, person, endpoint), 403, "not_admin")
    visitor.headers.pop("apikey")
    assert_error(send(visitor, person, endpoint), 401, "no_authorization")
    for wrong in ("Basic eDp5", f"bearer{desk.service_key}", desk.service_key):
        answer = send(visitor, person, endpoint, {"Authorization": wrong, "apikey": desk.service_key})
        assert_error(answer, 401, "no_authorization")
    after = (
        desk.sql(SUMS),
        people.seen_by_owner("to_jsonb(users) - 'last_sign_in_at' - 'updated_at'", person.user_id),
    )
    assert after == before


@pytest.mark.parametrize("key", ["service_key", "secret_key"])
def test_back_end_makes_reads_changes_and_deletes_an_account_with_either_key(
    desk: Desk, people: People, key: str
) -> None:
    service = people.service(getattr(desk, key))
    email, password = new_email(), new_password()
    body = {
        "email": email.upper(),
        "password": password,
        "email_confirm": True,
        "user_metadata": {"name": "Zoë"},
        "app_metadata": {"plan": "gold", "organization_id": desk.organization(), "role": "agent"},
    }
    made = assert_answer(service.post("/admin/users", json=body))
    assert_user(made, email)
    assert made["email_confirmed_at"]
    assert (made["user_metadata"], made["app_metadata"]["plan"]) == ({"name": "Zoë"}, "gold")
    path = f"/admin/users/{made['id']}"
    assert assert_answer(service.get(path)) == made
    session = Session.of(people.visitor().log_in(email, password))
    assert session.claims["app_metadata"]["plan"] == "gold"

    changed = assert_answer(
        service.put(path, json={"app_metadata": {"plan": None}, "user_metadata": {"x": [1]}})
    )
    assert "plan" not in changed["app_metadata"]
    assert changed["user_metadata"] == {"name": "Zoë", "x": [1]}
    assert people.ways_in(session) == ALL_IN
    assert assert_answer(service.request("DELETE", path, json={"should_soft_delete": False})) == {}
    for method in ("GET", "PUT", "DELETE"):
        answer = service.request(method, path, json=None if method == "GET" else {})
        assert_error(answer, 404, "user_not_found")
    assert people.ways_in(session) == [(403, "user_not_found"), *ALL_OUT[1:]]


@pytest.mark.parametrize("key", ["service_key", "secret_key"])
def test_back_end_needs_no_bearer_beside_its_key(desk: Desk, people: People, key: str) -> None:
    visitor, email = people.visitor(getattr(desk, key)), new_email()
    assert "authorization" not in visitor.headers
    made = assert_answer(visitor.post("/admin/users", json={"email": email}))
    path = f"/admin/users/{made['id']}"
    assert assert_answer(visitor.get(path))["email"] == email
    assert_answer(visitor.get("/admin/users", params={"per_page": 1}))
    assert_answer(visitor.post("/admin/generate_link", json={"type": "recovery", "email": email}))
    # The key says who asks only where no person does.
    person = people.person()
    assert_error(visitor.get(path, headers=person.log_in().headers), 403, "not_admin")
    assert_error(visitor.get(path, headers=bearer(desk.anon_key)), 403, "not_admin")
    assert_error(visitor.get("/user"), 401, "no_authorization")
    assert_answer(visitor.request("DELETE", path, json={}))


def test_account_joins_in_the_role_that_is_named_founds_what_it_names_and_else_is_member_of_nothing(
    desk: Desk, people: People
) -> None:
    organization = desk.organization()
    bare = people.person(app_metadata=None)
    session = bare.log_in()
    assert session.claims["app_metadata"] == {"provider": "email", "providers": ["email"]}
    assert people.ways_in(session) == ALL_IN
    assert not desk.sql("select from public.members where user_id = %s", [bare.user_id])
    for role in ("customer", "agent", "senior_agent", "team_lead", "admin"):
        claims = people.person(role, organization).log_in().claims["app_metadata"]
        assert (claims["organization_id"], claims["role"]) == (organization, role)
    founder = people.person(app_metadata=None, user_metadata={"organization": "Founded"})
    claims = founder.log_in().claims["app_metadata"]
    assert claims["role"] == "admin"
    name = desk.value("select name from public.organizations where id = %s", [claims["organization_id"]])
    assert name == "Founded"
    for wrong in (
        {"organization_id": NOBODY},
        {"organization_id": "x"},
        {"organization_id": organization, "role": "x"},
    ):
        email = new_email()
        answer = people.service().post("/admin/users", json={"email": email, "app_metadata": wrong})
        assert_error(answer, 400, "validation_failed")
        assert not desk.sql("select from auth.users where email = %s", [email])


def test_back_end_moves_and_promotes_somebody_and_is_told_what_became_of_it(
    desk: Desk, people: People, service: Visitor
) -> None:
    organization, person = desk.organization(), people.person(app_metadata=None)
    session, path = person.log_in(), f"/admin/users/{person.user_id}"

    def put(**app_metadata: Any) -> Any:
        return assert_answer(service.put(path, json={"app_metadata": app_metadata}))["app_metadata"]

    shown = put(organization_id=organization, role="agent", plan="gold")
    assert (shown["organization_id"], shown["role"], shown["plan"]) == (organization, "agent", "gold")
    refreshed = Session.of(person.visitor.refresh(session.refresh_token))
    assert refreshed.claims["app_metadata"] == shown
    assert put(role="admin")["role"] == "admin"
    role = "select role::text from public.members where user_id = %s and organization_id = %s"
    assert desk.value(role, [person.user_id, organization]) == "admin"
    assert_error(service.put(path, json={"app_metadata": {"role": "agent"}}), 409, "last_admin")
    for wrong in ({"role": "king"}, {"organization_id": NOBODY}, {"organization_id": "x"}):
        assert_error(service.put(path, json={"app_metadata": wrong}), 400, "validation_failed")
    banned = assert_answer(service.put(path, json={"ban_duration": "1h"}))
    assert banned["app_metadata"] == assert_answer(service.get(path))["app_metadata"]
    assert banned["app_metadata"] == {**shown, "role": "admin"}


def test_new_account_has_to_be_new_and_whole(desk: Desk, person: Person, service: Visitor) -> None:
    for body, status, code in (
        ({"email": person.email.upper()}, 422, "email_exists"),
        ({"email": new_email(), "id": person.user_id}, 422, "email_exists"),
        ({}, 400, "validation_failed"),
        ({"phone": "+49123"}, 400, "validation_failed"),
        ({"email": "x"}, 400, "validation_failed"),
        ({"email": new_email(), "id": "x"}, 400, "validation_failed"),
        ({"email": new_email(), "password": "short"}, 422, "weak_password"),
        ({"email": new_email(), "role": "service_role"}, 400, "validation_failed"),
        ({"email": new_email(), "role": "postgres"}, 400, "validation_failed"),
        ({"email": new_email(), "ban_duration": "1 day"}, 400, "validation_failed"),
        ({"email": new_email(), "app_metadata": []}, 400, "validation_failed"),
    ):
        assert_error(service.post("/admin/users", json=body), status, code)
    chosen = str(desk.value("select gen_random_uuid()"))
    whole = {"email": new_email(), "id": chosen, "role": "authenticated", "phone": None}
    assert assert_answer(service.post("/admin/users", json=whole))["id"] == chosen


def test_new_password_and_a_new_address_count_at_once(
    people: People, person: Person, service: Visitor
) -> None:
    session, path = person.log_in(), f"/admin/users/{person.user_id}"
    old, person.password = person.password, new_password()
    assert_answer(service.put(path, json={"password": person.password}))
    assert people.ways_in(session) == ALL_OUT
    assert person.is_refused(old)
    person.log_in()
    taken = people.person().email
    assert_error(service.put(path, json={"email": taken.upper()}), 422, "email_exists")
    before, person.email = person.email, new_email()
    changed = assert_answer(service.put(path, json={"email": person.email}))
    assert changed["email"] == changed["identities"][0]["email"] == person.email
    assert_error(person.visitor.log_in(before, person.password), 400, "invalid_credentials")
    assert person.log_in().claims["email"] == person.email
    assert_error(service.put(path, json={"password": "short"}), 422, "weak_password")


def test_confirmation_by_the_back_end_lets_in(people: People, service: Visitor) -> None:
    person = people.person(email_confirm=False)
    assert_error(person.visitor.log_in(person.email, person.password), 400, "email_not_confirmed")
    answer = service.put(f"/admin/users/{person.user_id}", json={"email_confirm": True})
    assert assert_answer(answer)["email_confirmed_at"]
    assert people.ways_in(person.log_in()) == ALL_IN


@pytest.mark.parametrize(
    ("duration", "seconds"), [("24h", 86400), ("1h30m5s", 5405), ("90m", 5400), ("9999999h", 0)]
)
def test_ban_ends_every_way_in_until_it_is_lifted(
    people: People, person: Person, service: Visitor, duration: str, seconds: int
) -> None:
    session, path = person.log_in(), f"/admin/users/{person.user_id}"
    until = assert_answer(service.put(path, json={"ban_duration": duration}))["banned_until"]
    if seconds:
        expected = datetime.now(UTC) + timedelta(seconds=seconds)
        assert abs(datetime.fromisoformat(until) - expected) < timedelta(seconds=60)
    assert people.ways_in(session) == ALL_OUT
    assert_error(person.visitor.log_in(person.email, person.password), 400, "user_banned")
    answer = person.visitor.verify(
        type="magiclink", token_hash=people.link("magiclink", person.email)["hashed_token"]
    )
    assert_error(answer, 400, "user_banned")
    assert "banned_until" not in assert_answer(service.put(path, json={"ban_duration": "none"}))
    assert people.ways_in(person.log_in()) == ALL_IN


@pytest.mark.parametrize(
    "duration", ["x", "1d", "-1h", "1.5h", "h", "\uff11h", "1h 30m", "99999999999999h", "none "]
)
def test_duration_that_is_none_is_refused(person: Person, service: Visitor, duration: str) -> None:
    answer = service.put(f"/admin/users/{person.user_id}", json={"ban_duration": duration})
    assert_error(answer, 400, "validation_failed")
    person.log_in()


def test_soft_deletion_leaves_nobody_to_be_recognised_and_the_address_free(
    desk: Desk, people: People, service: Visitor
) -> None:
    organization = desk.organization()
    person = people.person("agent", organization, user_metadata={"name": "Robin Hood"})
    session, path = person.log_in(), f"/admin/users/{person.user_id}"
    link = people.link("recovery", person.email)
    assert assert_answer(service.request("DELETE", path, json={"should_soft_delete": True})) == {}
    assert_error(service.get(path), 404, "user_not_found")
    row = desk.value("select to_jsonb(u)::text from auth.users as u where id = %s", [person.user_id])
    for secret in (person.email, "Robin", "argon2"):
        assert secret not in row
    assert person.email not in desk.value(
        "select to_jsonb(m)::text from public.members as m where organization_id = %s", [organization]
    )
    assert people.ways_in(session) == [(403, "user_not_found"), *ALL_OUT[1:]]
    assert_error(person.visitor.log_in(person.email, person.password), 400, "invalid_credentials")
    answer = person.visitor.verify(type="recovery", token_hash=link["hashed_token"])
    assert_error(answer, 403, "otp_expired")
    again = people.person("agent", organization, email=person.email)
    assert again.user_id != person.user_id
    assert people.ways_in(again.log_in()) == ALL_IN
    assert assert_answer(service.get(f"/admin/users/{again.user_id}"))["email"] == person.email


def test_list_is_paged_with_its_total_and_its_links(desk: Desk, people: People, service: Visitor) -> None:
    made = [people.person().user_id for _ in range(3)]
    first = service.get("/admin/users", params={"page": 1, "per_page": 2})
    body = assert_answer(first)
    assert body.keys() == {"users", "aud"}
    assert [user["id"] for user in body["users"]] == made[:0:-1]
    second = service.get(_link(first, "next"))
    assert assert_answer(second)["users"][0]["id"] == made[0]
    assert parse_qs(urlsplit(_link(first, "next")).query) == {"page": ["2"], "per_page": ["2"]}
    total = int(first.headers["x-total-count"])
    assert total == desk.value("select count(*) from auth.users where deleted_at is null")
    last = service.get(_link(first, "last"))
    assert len(assert_answer(last)["users"]) == (total - 1) % 2 + 1
    assert 'rel="next"' not in last.headers["link"]
    beyond = service.get("/admin/users", params={"page": 2_147_483_647, "per_page": 1000})
    assert (assert_answer(beyond)["users"], beyond.headers["x-total-count"]) == ([], str(total))
    default = service.get("/admin/users", params={"page": "", "per_page": ""})
    assert len(assert_answer(default)["users"]) == min(50, total)
    for query in (
        "page=0",
        "page=-1",
        "page=x",
        "page=1.5",
        "page=99999999999",
        "per_page=0",
        "per_page=1001",
        "page=\uff11",
    ):
        assert_error(service.get(f"/admin/users?{query}"), 400, "validation_failed")


def _link(answer: httpx.Response, rel: str) -> str:
    return str(answer.links[rel]["url"])


def test_malformed_ids_are_not_found(service: Visitor, person: Person) -> None:
    for text in (
        "x",
        "1",
        "%00",
        "%ff",
        f"{NOBODY}0",
        NOBODY.replace("-", ""),
        f"{{{NOBODY}}}",
        f"'{NOBODY}",
        NOBODY,
    ):
        for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/factors")):
            answer = service.request(
                method, f"/admin/users/{text}{path}", json=None if method == "GET" else {}
            )
            assert_error(answer, 404, "user_not_found")
        answer = service.delete(f"/admin/users/{person.user_id}/factors/{text}")
        assert_error(answer, 404, "mfa_factor_not_found")


# Links and invitations


def test_back_end_hands_on_what_a_mail_would_hold(
    desk: Desk, people: People, person: Person, mailbox: Mailbox
) -> None:
    link = people.link("recovery", person.email, redirect_to="http://localhost:3000/in")
    assert_user(link, person.email)
    assert link["verification_type"] == "recovery"
    assert link["redirect_to"] == "http://localhost:3000/in"
    query = parse_qs(urlsplit(link["action_link"]).query)
    assert query == {
        "token": [link["hashed_token"]],
        "type": ["recovery"],
        "redirect_to": [link["redirect_to"]],
    }
    assert len(link["email_otp"]) == 6
    followed = person.visitor.follow(link["action_link"])
    assert Session.at(followed).claims["sub"] == person.user_id
    assert not desk.sql("select from private.mails where email = %s", [person.email])
    assert mailbox.letters(person.email) == []


def test_link_of_every_kind_leads_in(desk: Desk, people: People, person: Person, service: Visitor) -> None:
    visitor, fresh, guest = people.visitor(), new_email(), new_email()
    password = new_password()
    signup = people.link("signup", fresh, password=password, data={"name": "Fresh"})  # type: ignore[arg-type]
    assert_error(visitor.log_in(fresh, password), 400, "email_not_confirmed")
    Session.of(visitor.verify(type="signup", token_hash=signup["hashed_token"]))
    assert Session.of(visitor.log_in(fresh, password)).claims["user_metadata"] == {"name": "Fresh"}
    invite = people.link("invite", guest)
    assert invite["invited_at"]
    Session.of(visitor.verify(type="invite", token_hash=invite["hashed_token"]))
    for kind in ("magiclink", "recovery"):
        link = people.link(kind, person.email)
        Session.of(visitor.verify(type=kind, email=person.email, token=link["email_otp"]))
    new = new_email()
    first = people.link("email_change_current", person.email, new_email=new)
    second = people.link("email_change_new", person.email, new_email=new)
    assert "access_token" not in assert_answer(
        visitor.verify(type="email_change", token_hash=first["hashed_token"])
    )
    done = Session.of(visitor.verify(type="email_change", email=new, token=second["email_otp"]))
    assert done.claims["email"] == new
    for body, status, code in (
        ({"type": "signup", "email": new, "password": password}, 422, "email_exists"),
        ({"type": "invite", "email": new}, 422, "email_exists"),
        ({"type": "signup", "email": new_email()}, 400, "validation_failed"),
        ({"type": "signup", "email": new_email(), "password": "short"}, 422, "weak_password"),
        ({"type": "recovery", "email": new_email()}, 404, "user_not_found"),
        ({"type": "magiclink", "email": new_email()}, 404, "user_not_found"),
        ({"type": "email_change_new", "email": new}, 400, "validation_failed"),
        ({"type": "email_change", "email": new, "new_email": "a@b"}, 400, "validation_failed"),
        ({"type": "recovery"}, 400, "validation_failed"),
        ({"email": new}, 400, "validation_failed"),
    ):
        assert_error(service.post("/admin/generate_link", json=body), status, code)


def test_guest_of_an_invitation_chooses_a_password(
    people: People, person: Person, service: Visitor, mailbox: Mailbox
) -> None:
    email, password = new_email(), new_password()
    body = {"email": email, "data": {"name": "Guest", "organization": "Guests"}}
    user = assert_answer(service.post("/invite", params={"redirect_to": "http://localhost:1/x"}, json=body))
    assert_user(user, email)
    assert user["invited_at"]
    assert "email_confirmed_at" not in user
    visitor = people.visitor()
    letter = mailbox.letter(email, "invite")
    assert letter.query["redirect_to"] == "http://localhost:1/x"
    followed = visitor.follow(letter.link)
    assert fragment_of(followed)["type"] == "invite"
    session = Session.at(followed)
    assert_answer(visitor.put("/user", headers=session.headers, json={"password": password}))
    assert people.ways_in(Session.of(visitor.log_in(email, password))) == ALL_IN
    for known in (email, person.email):
        assert_error(service.post("/invite", json={"email": known}), 422, "email_exists")
    for wrong in ({}, {"email": "x"}, {"email": new_email(), "data": "x"}):
        assert_error(service.post("/invite", json=wrong), 400, "validation_failed")


def test_back_end_logs_somebody_out_with_their_token(
    people: People, person: Person, service: Visitor
) -> None:
    here, there = person.log_in(), person.log_in()
    answer = service.post("/logout?scope=others", headers=here.headers)
    assert_answer(answer, 204)
    assert people.ways_in(here) == ALL_IN
    assert people.ways_in(there) == ALL_OUT
    assert_error(service.post("/logout"), 403, "bad_jwt")
