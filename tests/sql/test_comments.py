"""Comments and attachments: who may say and read what, and what a reply does to its ticket."""

import pytest

from tests.actors import Acting, Organization

STATUS_OF = "select status::text from public.tickets where id = %s"
SET_STATUS = "update public.tickets set status = %s where id = %s"
READ = "select id from public.comments where ticket_id = %s"


# Writing


def test_customer_writes_as_their_contact(customer: Acting, north: Organization) -> None:
    comment = customer.insert_id("comments", ticket_id=north["ticket"], body="Hello?")
    authors = "select author_contact_id, author_member_id, author_token_id from public.comments where id = %s"
    assert customer.row(authors, [comment]) == (customer.contact_id, None, None)


def test_agent_writes_as_a_member(agent: Acting, north: Organization) -> None:
    comment = agent.insert_id("comments", ticket_id=north["ticket"], body="Hello.")
    authors = "select author_contact_id, author_member_id, author_token_id from public.comments where id = %s"
    assert agent.row(authors, [comment]) == (None, agent.member_id, None)


def test_integration_writes_as_itself_over_the_api(token: Acting, north: Organization) -> None:
    comment = token.insert_id("comments", ticket_id=north["token_ticket"], body="Hello.")
    authors = """
        select author_contact_id, author_member_id, author_token_id, channel::text
        from public.comments where id = %s
    """
    assert token.row(authors, [comment]) == (None, None, token.token_id, "api")


def test_the_desk_itself_writes_without_an_author(service: Acting, north: Organization) -> None:
    comment = service.insert_id(
        "comments", organization_id=north.id, ticket_id=north["ticket"], body="Closed after a week."
    )
    authors = """
        select num_nonnulls(author_contact_id, author_member_id, author_token_id)
        from public.comments where id = %s
    """
    assert service.value(authors, [comment]) == 0


def test_nobody_writes_in_the_name_of_somebody_else(
    customer: Acting, agent: Acting, token: Acting, north: Organization
) -> None:
    for acting, ticket in ((customer, "ticket"), (agent, "ticket"), (token, "token_ticket")):
        for column in ("author_member_id", "author_contact_id", "author_token_id"):
            acting.refused_insert(
                "42501", "comments", ticket_id=north[ticket], body="x", **{column: agent.member_id}
            )


@pytest.mark.parametrize("column", ["ticket_contact_id", "ticket_token_id", "ticket_version", "channel"])
def test_nobody_writes_what_the_desk_works_out(
    column: str, customer: Acting, agent: Acting, north: Organization
) -> None:
    for acting in (customer, agent):
        acting.refused_insert("42501", "comments", ticket_id=north["ticket"], body="x", **{column: None})


def test_customer_does_not_write_on_the_ticket_of_another_customer(
    other_customer: Acting, owner: Acting, north: Organization
) -> None:
    other_customer.refused_insert("42501", "comments", ticket_id=north["ticket"], body="Me too")
    assert owner.rows("select 1 from public.comments where body = 'Me too'") == []


def test_integration_writes_on_its_own_tickets_alone(
    token: Acting, other_token: Acting, north: Organization
) -> None:
    for ticket in ("ticket", "other_token_ticket"):
        token.refused_insert("42501", "comments", ticket_id=north[ticket], body="x")
    token.insert("comments", ticket_id=north["token_ticket"], body="x")


def test_nobody_writes_on_a_ticket_that_is_not_there(customer: Acting, agent: Acting, token: Acting) -> None:
    for acting in (customer, agent, token):
        acting.refused_insert(
            "PT404", "comments", "not_found", ticket_id="00000000-0000-4000-8000-000000000000", body="x"
        )


def test_a_foreign_ticket_is_refused_as_one_that_does_not_exist_there(
    agent: Acting, south: Organization
) -> None:
    """The answer must not tell whether the other organization has a ticket of that id."""
    refusals = [
        agent.refused_insert("42501", table, organization_id=south.id, ticket_id=ticket, **columns)
        for table, columns in (
            ("comments", {"body": "x"}),
            ("attachments", {"filename": "x", "size": 1}),
            ("ticket_tags", {"tag_id": south["tag"]}),
        )
        for ticket in (south["ticket"], "00000000-0000-4000-8000-000000000000")
    ]
    assert [refusal.word for refusal in refusals[::2]] == [refusal.word for refusal in refusals[1::2]]


@pytest.mark.parametrize("body", ["", "  ", "x" * 100_001])
def test_a_malformed_comment_is_refused(body: str, agent: Acting, north: Organization) -> None:
    agent.refused_insert("23514", "comments", ticket_id=north["ticket"], body=body)


def test_a_message_of_a_channel_is_one_comment(service: Acting, north: Organization) -> None:
    message = {
        "organization_id": north.id,
        "ticket_id": north["ticket"],
        "body": "Hi",
        "channel": "whatsapp",
        "external_message_id": "wamid.7",
    }
    service.insert("comments", **message)
    service.refused_insert("23505", "comments", **message)
    service.insert("comments", **message | {"channel": "facebook"})


# Reading


def test_customer_cannot_read_internal_comments(customer: Acting, owner: Acting, north: Organization) -> None:
    assert set(customer.values(READ, [north["ticket"]])) == {north["reply"], north["answer"]}
    assert set(owner.values(READ, [north["ticket"]])) == {north["reply"], north["answer"], north["note"]}


def test_agent_reads_internal_comments(agent: Acting, north: Organization) -> None:
    assert set(agent.values(READ, [north["ticket"]])) == {north["reply"], north["answer"], north["note"]}


def test_customer_cannot_write_internal_comments(
    customer: Acting, agent: Acting, north: Organization
) -> None:
    note = {"ticket_id": north["ticket"], "body": "x", "is_internal": True}
    customer.refused_insert("42501", "comments", **note)
    agent.insert("comments", **note)


def test_integration_reads_its_own_internal_comments_and_not_the_desk_s(
    token: Acting, agent: Acting, north: Organization
) -> None:
    read = set(token.values(READ, [north["token_ticket"]]))
    assert read == {north["token_comment"], north["token_note"]}
    assert set(agent.values(READ, [north["token_ticket"]])) == read | {north["agent_note"]}


# Correcting and taking back


def test_the_author_corrects_a_comment_and_a_colleague_does_not(
    *,
    agent: Acting,
    senior_agent: Acting,
    customer: Acting,
    other_customer: Acting,
    owner: Acting,
    north: Organization,
) -> None:
    correct = "update public.comments set body = 'Corrected' where id = %s returning 1"
    assert senior_agent.rows(correct, [north["reply"]]) == []
    assert customer.rows(correct, [north["reply"]]) == []
    assert owner.value("select body from public.comments where id = %s", [north["reply"]]) == (
        "It is on its way."
    )
    assert agent.value(correct, [north["reply"]]) == 1
    assert customer.value(correct, [north["answer"]]) == 1
    assert other_customer.rows(correct, [north["answer"]]) == []


def test_a_lead_corrects_and_removes_any_comment(team_lead: Acting, north: Organization) -> None:
    assert team_lead.count("update public.comments set body = 'x' where id = %s", [north["answer"]]) == 1
    assert team_lead.count("delete from public.comments where id = %s", [north["answer"]]) == 1


def test_a_customer_s_update_or_delete_of_everything_reaches_their_own_alone(
    customer: Acting, owner: Acting, north: Organization
) -> None:
    customer.rows("update public.comments set body = 'Changed'")
    changed = owner.values("select id from public.comments where body = 'Changed'")
    assert changed == [north["answer"]]
    before = owner.value("select count(*) from public.comments")
    customer.rows("delete from public.comments")
    assert owner.value("select count(*) from public.comments") == before - 1


def test_customer_cannot_make_their_comment_internal(customer: Acting, north: Organization) -> None:
    hide = "update public.comments set is_internal = true where id = %s"
    customer.refused("42501", hide, [north["answer"]])


def test_integration_neither_corrects_nor_removes(token: Acting, north: Organization) -> None:
    token.refused("42501", "update public.comments set body = 'x' where id = %s", [north["token_comment"]])
    token.refused("42501", "delete from public.comments where id = %s", [north["token_comment"]])


def test_a_correction_is_dated(agent: Acting, north: Organization, owner: Acting) -> None:
    owner.rows("update public.comments set created_at = '2020-01-01Z', updated_at = '2020-01-01Z'")
    agent.rows("update public.comments set body = 'x' where id = %s", [north["reply"]])
    dated = "select created_at < updated_at from public.comments where id = any (%s) order by 1"
    assert agent.values(dated, [[north["reply"], north["answer"]]]) == [False, True]


# What a reply does


def test_an_agent_s_first_public_reply_opens_a_new_ticket(
    agent: Acting, senior_agent: Acting, owner: Acting, north: Organization
) -> None:
    ticket = north["other_ticket"]
    assert owner.value(STATUS_OF, [ticket]) == "new"
    agent.insert("comments", ticket_id=ticket, body="Looking into it.")
    first = "select first_response_at = now() from public.tickets where id = %s"
    assert owner.value(first, [ticket]) is True
    assert owner.value(STATUS_OF, [ticket]) == "open"
    owner.rows("update public.tickets set first_response_at = '2020-01-01Z' where id = %s", [ticket])
    senior_agent.insert("comments", ticket_id=ticket, body="Solved.")
    kept = "select first_response_at = '2020-01-01Z' from public.tickets where id = %s"
    assert owner.value(kept, [ticket]) is True


def test_an_internal_comment_is_no_reply(agent: Acting, owner: Acting, north: Organization) -> None:
    agent.insert("comments", ticket_id=north["other_ticket"], body="Hm.", is_internal=True)
    untouched = "select status::text, first_response_at from public.tickets where id = %s"
    assert owner.row(untouched, [north["other_ticket"]]) == ("new", None)


@pytest.mark.parametrize("status", ["new", "open", "in_progress", "waiting", "on_hold", "resolved"])
def test_a_customer_s_reply_moves_waiting_and_resolved_to_open(
    status: str, customer: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows(SET_STATUS, [status, north["ticket"]])
    customer.insert("comments", ticket_id=north["ticket"], body="Still so.")
    expected = "open" if status in {"waiting", "resolved"} else status
    assert owner.value(STATUS_OF, [north["ticket"]]) == expected


@pytest.mark.parametrize("status", ["open", "waiting", "resolved", "closed"])
def test_an_agent_s_later_reply_moves_nothing(
    status: str, agent: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows(SET_STATUS, [status, north["ticket"]])
    agent.insert("comments", ticket_id=north["ticket"], body="One more thing.")
    assert owner.value(STATUS_OF, [north["ticket"]]) == status


@pytest.mark.parametrize("status", ["new", "waiting", "resolved", "closed"])
def test_an_integration_s_comment_moves_nothing(
    status: str, token: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows(SET_STATUS, [status, north["token_ticket"]])
    token.insert("comments", ticket_id=north["token_ticket"], body="FYI")
    untouched = "select status::text, first_response_at from public.tickets where id = %s"
    assert owner.row(untouched, [north["token_ticket"]]) == (status, None)


def test_customer_cannot_reply_to_a_closed_ticket(
    customer: Acting, other_customer: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows(SET_STATUS, ["closed", north["ticket"]])
    customer.refused_insert("PT409", "comments", "ticket_closed", ticket_id=north["ticket"], body="But")
    # Somebody else is not even told that it is closed.
    other_customer.refused_insert("42501", "comments", ticket_id=north["ticket"], body="But")


def test_a_comment_knows_the_version_that_it_made(agent: Acting, north: Organization) -> None:
    comment = agent.insert_id("comments", ticket_id=north["ticket"], body="x")
    same = """
        select c.ticket_version = t.version from public.comments as c
        join public.tickets as t on t.id = c.ticket_id where c.id = %s
    """
    assert agent.value(same, [comment]) is True


# Files


FILES = "select filename from public.attachments where ticket_id = %s order by filename"


def test_customer_sees_the_files_of_public_comments(
    customer: Acting, agent: Acting, north: Organization
) -> None:
    assert customer.values(FILES, [north["ticket"]]) == ["answer.txt", "reply.txt"]
    assert agent.values(FILES, [north["ticket"]]) == ["answer.txt", "note.txt", "reply.txt"]


def test_a_file_is_hidden_and_shown_with_its_comment(
    customer: Acting, agent: Acting, north: Organization
) -> None:
    agent.rows("update public.comments set is_internal = true where id = %s", [north["reply"]])
    assert customer.values(FILES, [north["ticket"]]) == ["answer.txt"]
    agent.rows("update public.comments set is_internal = false where id = %s", [north["note"]])
    assert customer.values(FILES, [north["ticket"]]) == ["answer.txt", "note.txt"]


def test_customer_adds_a_file_to_their_own_ticket_and_comment_alone(
    customer: Acting, other_customer: Acting, north: Organization
) -> None:
    for acting, is_allowed in ((customer, True), (other_customer, False)):
        for place in ({"ticket_id": north["ticket"]}, {"comment_id": north["answer"]}):
            file = {"filename": "a.txt", "size": 1, **place}
            if is_allowed:
                acting.insert("attachments", **file)
            else:
                acting.refused_insert("42501", "attachments", **file)


def test_customer_adds_no_file_to_an_internal_comment(customer: Acting, north: Organization) -> None:
    customer.refused_insert("42501", "attachments", comment_id=north["note"], filename="a.txt", size=1)


def test_a_file_on_a_comment_is_on_the_comment_s_ticket(agent: Acting, north: Organization) -> None:
    file = agent.insert_id(
        "attachments",
        comment_id=north["reply"],
        ticket_id=north["other_ticket"],
        filename="a.txt",
        size=1,
    )
    where = "select ticket_id from public.attachments where id = %s"
    assert agent.value(where, [file]) == north["ticket"]


def test_an_upload_that_is_not_yet_used_is_its_owner_s(
    customer: Acting, other_customer: Acting, north: Organization
) -> None:
    find = "select 1 from public.attachments where id = %s"
    assert customer.rows(find, [north["upload"]]) == [(1,)]
    assert other_customer.rows(find, [north["upload"]]) == []


def test_nobody_says_that_somebody_else_uploaded_a_file(
    agent: Acting, customer: Acting, north: Organization
) -> None:
    file = {"ticket_id": north["ticket"], "filename": "a", "size": 1}
    for acting in (agent, customer):
        acting.refused_insert("42501", "attachments", **file, uploaded_by_member_id=agent.member_id)
        acting.refused_insert("42501", "attachments", **file, storage_key="somebody/else")


def test_a_file_is_removed_by_its_uploader_or_a_lead(
    customer: Acting, agent: Acting, team_lead: Acting, owner: Acting, north: Organization
) -> None:
    remove = "delete from public.attachments where id = %s"
    assert customer.count(remove, [north["reply_file"]]) == 0
    assert agent.count(remove, [north["answer_file"]]) == 0
    assert len(owner.rows("select 1 from public.attachments where id = any (%s)",
                          [[north["reply_file"], north["answer_file"]]])) == 2  # fmt: skip
    assert customer.count(remove, [north["answer_file"]]) == 1
    assert team_lead.count(remove, [north["reply_file"]]) == 1


def test_integration_and_visitor_have_no_files(token: Acting, visitor: Acting) -> None:
    for acting in (token, visitor):
        acting.refused("42501", "select from public.attachments")


# Ratings


def test_customer_sees_their_rating_and_nobody_writes_one(
    customer: Acting, other_customer: Acting, admin: Acting, north: Organization
) -> None:
    scores = "select score from public.satisfaction_ratings"
    assert customer.values(scores) == [5]
    assert other_customer.values(scores) == []
    for acting in (customer, admin):
        acting.refused_insert("42501", "satisfaction_ratings", ticket_id=north["ticket"], score=1)
        acting.refused("42501", "update public.satisfaction_ratings set score = 1")
