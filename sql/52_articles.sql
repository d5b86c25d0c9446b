/*
 * The knowledge base: what can be read before anyone asks. Published articles are the one thing that visitors see.
 */

create table public.articles (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    author_id uuid default private.member_id(),
    title text not null check (length(btrim(title)) between 1 and 500),
    content text not null default '' check (length(content) <= 500000),
    category text not null default '' check (length(category) <= 200),
    tags text[] not null default '{}' check (pg_column_size(tags) <= 65536),
    is_published boolean not null default false,
    views bigint not null default 0,
    helpful_votes integer not null default 0,
    unhelpful_votes integer not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, author_id) references public.members (organization_id, id)
        on delete set null (author_id)
);
alter table public.articles enable row level security;
alter table public.articles force row level security;

comment on table public.articles is 'An answer that is there before the question.';
comment on column public.articles.is_published is 'Whether everybody sees it, or the desk alone.';
comment on column public.articles.helpful_votes is 'How many members found it helpful; counted from article_votes.';

create index articles_organization_id_created_at_idx on public.articles (organization_id, created_at desc, id desc);
create index articles_organization_id_author_id_idx on public.articles (organization_id, author_id);
-- Search, through definer functions alone.
create index articles_search_idx on public.articles
    using gin (to_tsvector('simple', translate(title || ' ' || content, '-_/', '   ')));

create policy select_visitor on public.articles for select to anon
    using (is_published and organization_id not in (select private.closed_organization_ids()));
create policy select_member on public.articles for select to authenticated
    using (organization_id = (select private.organization_id()) and (is_published or (select private.is_agent())));
create policy insert_agent on public.articles for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy update_agent on public.articles for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_agent on public.articles for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
grant select on public.articles to anon;
grant select, delete, insert (organization_id, id, title, content, category, tags, is_published),
    update (title, content, category, tags, is_published)
    on public.articles to authenticated;

create trigger _100_timestamps before update on public.articles
    for each row when ((old.title, old.content, old.category, old.tags, old.is_published)
        is distinct from (new.title, new.content, new.category, new.tags, new.is_published))
    execute function private.tg__timestamps();

create table public.article_votes (
    organization_id uuid not null default private.organization_id(),
    article_id uuid not null,
    member_id uuid not null default private.member_id(),
    is_helpful boolean not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, article_id, member_id),
    foreign key (organization_id, article_id) references public.articles (organization_id, id) on delete cascade,
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.article_votes enable row level security;
alter table public.article_votes force row level security;

comment on table public.article_votes is 'Whether an article helped a member; one vote each, which they may change.';

create index article_votes_organization_id_member_id_idx on public.article_votes (organization_id, member_id);

create policy select_self on public.article_votes for select to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
-- Under the articles' own policy: only what the member can read can be voted on.
create policy insert_self on public.article_votes for insert to authenticated
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id())
        and article_id in (select a.id from public.articles as a
            where a.organization_id = (select private.organization_id())));
create policy update_self on public.article_votes for update to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id()))
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
grant select, insert (organization_id, article_id, is_helpful), update (is_helpful)
    on public.article_votes to authenticated;

create function private.tg_article_votes__count() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.articles as a
    set helpful_votes = a.helpful_votes
            + coalesce(new.is_helpful, false)::integer - coalesce(old.is_helpful, false)::integer,
        unhelpful_votes = a.unhelpful_votes
            + coalesce(not new.is_helpful, false)::integer - coalesce(not old.is_helpful, false)::integer
    where a.organization_id = coalesce(new.organization_id, old.organization_id)
        and a.id = coalesce(new.article_id, old.article_id);
    return null;
end
$$;
comment on function private.tg_article_votes__count() is
    'Counts votes on the article. Definer: readers may not write articles.';
alter function private.tg_article_votes__count() owner to deskbase_definer;

create trigger _400_count after insert or delete or update of is_helpful on public.article_votes
    for each row execute function private.tg_article_votes__count();
