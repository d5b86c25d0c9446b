"""The knowledge base: what visitors, customers and agents read, and how votes are counted."""

from tests.actors import Acting, Organization, Stage, person

TITLES = "select title from public.articles order by title"
VOTES = "select helpful_votes, unhelpful_votes from public.articles where id = %s"


def test_visitor_reads_published_articles_and_no_drafts(
    visitor: Acting, north: Organization, south: Organization
) -> None:
    seen = "select id from public.articles"
    assert set(visitor.values(seen)) == {north["article"], south["article"]}


def test_visitor_reads_nothing_of_an_organization_that_was_given_up(
    visitor: Acting, owner: Acting, north: Organization, south: Organization
) -> None:
    owner.rows("update public.organizations set deleted_at = now() where id = %s", [north.id])
    assert visitor.values("select id from public.articles") == [south["article"]]


def test_customer_reads_published_articles_of_their_organization(
    customer: Acting, agent: Acting, north: Organization
) -> None:
    assert customer.values(TITLES) == ["Returns"]
    assert agent.values(TITLES) == ["Refunds", "Returns"]


def test_agent_writes_articles_and_customer_does_not(customer: Acting, agent: Acting, owner: Acting) -> None:
    customer.refused_insert("42501", "articles", title="x")
    assert customer.count("update public.articles set title = 'x'") == 0
    assert customer.count("delete from public.articles") == 0
    article = agent.insert_id("articles", title="New")
    author = owner.value("select author_id from public.articles where id = %s", [article])
    assert author == agent.member_id
    assert agent.count("update public.articles set is_published = true where id = %s", [article]) == 1
    assert customer.values(TITLES) == ["New", "Returns"]
    assert agent.count("delete from public.articles where id = %s", [article]) == 1


def test_integration_has_no_articles(token: Acting) -> None:
    token.refused("42501", "select from public.articles")


def test_nobody_counts_votes_or_views_by_hand(agent: Acting) -> None:
    for column in ("helpful_votes", "unhelpful_votes", "views", "author_id"):
        agent.refused("42501", f"update public.articles set {column} = {column}")


def test_a_vote_is_counted_changed_and_taken_away(
    customer: Acting, other_customer: Acting, owner: Acting, north: Organization
) -> None:
    assert owner.row(VOTES, [north["article"]]) == (1, 0)
    other_customer.insert("article_votes", article_id=north["article"], is_helpful=False)
    assert owner.row(VOTES, [north["article"]]) == (1, 1)
    customer.rows("update public.article_votes set is_helpful = false")
    assert owner.row(VOTES, [north["article"]]) == (0, 2)
    customer.rows("update public.article_votes set is_helpful = false")
    assert owner.row(VOTES, [north["article"]]) == (0, 2)
    owner.rows("delete from public.members where id = %s", [other_customer.member_id])
    assert owner.row(VOTES, [north["article"]]) == (0, 1)


def test_a_member_votes_once(customer: Acting, north: Organization) -> None:
    customer.refused_insert("23505", "article_votes", article_id=north["article"], is_helpful=True)


def test_nobody_votes_for_somebody_else_or_on_what_they_cannot_read(
    customer: Acting, agent: Acting, other_customer: Acting, north: Organization, south: Organization
) -> None:
    other_customer.refused_insert(
        "42501", "article_votes", article_id=north["article"], is_helpful=True, member_id=customer.member_id
    )
    customer.refused_insert("42501", "article_votes", article_id=north["draft"], is_helpful=True)
    customer.refused_insert("42501", "article_votes", article_id=south["article"], is_helpful=True)
    agent.insert("article_votes", article_id=north["draft"], is_helpful=True)


def test_a_vote_is_nobody_else_s_business(customer: Acting, admin: Acting) -> None:
    assert customer.rows("select 1 from public.article_votes") == [(1,)]
    assert admin.rows("select 1 from public.article_votes") == []


def test_a_vote_or_a_view_is_no_edit(stage: Stage, owner: Acting, agent: Acting, north: Organization) -> None:
    owner.rows("update public.articles set updated_at = '2020-01-01Z' where id = %s", [north["article"]])
    voter = Acting(person(stage, north.id, "voter", "customer"), stage)
    voter.insert("article_votes", article_id=north["article"], is_helpful=True)
    edited = "select updated_at > '2021-01-01Z' from public.articles where id = %s"
    assert owner.value(edited, [north["article"]]) is False
    agent.rows("update public.articles set title = 'Sending back' where id = %s", [north["article"]])
    assert owner.value(edited, [north["article"]]) is True
