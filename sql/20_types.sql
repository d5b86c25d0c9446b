/*
 * The words of the desk. A contract shows its own words for them; these are the ones that are stored.
 */

-- What tickets are looked for by are domains, not enums: comparing enums is not leakproof, so behind a policy an enum could
-- not be searched by index.
create domain public.ticket_status as text check (value in (
    'new',          -- created, no agent has answered yet
    'open',         -- an agent's first public reply, or a requester's reply to a waiting or resolved ticket
    'in_progress',  -- an agent took it up
    'waiting',      -- an agent waits for the requester
    'on_hold',      -- an agent waits for somebody else
    'resolved',     -- an agent, or the requester, considers it done; a reply reopens it
    'closed'        -- done for good; only an agent or its integration reopens it
));
comment on domain public.ticket_status is 'Where a ticket stands.';

create domain public.ticket_priority as text check (value in ('low', 'medium', 'high', 'urgent'));
comment on domain public.ticket_priority is 'How much a ticket matters.';

create domain public.ticket_type as text check (value in ('question', 'incident', 'problem', 'task'));
comment on domain public.ticket_type is 'What kind of request a ticket is.';

create domain public.channel as text check (value in (
    'web', 'email', 'api', 'phone', 'chatbot', 'facebook', 'whatsapp', 'twitter'
));
comment on domain public.channel is 'The way by which a ticket or a comment came in.';

create type public.member_role as enum ('customer', 'agent', 'senior_agent', 'team_lead', 'admin');
comment on type public.member_role is 'What a member may do; each role may do all that the ones before it may.';

create type public.presence as enum ('online', 'busy', 'away', 'offline');
comment on type public.presence is 'Whether an agent takes work at the moment.';

create type public.content_type as enum ('text', 'image', 'video', 'audio', 'file');
comment on type public.content_type is 'What a comment''s body is.';

create type public.notification_type as enum ('ticket_assigned', 'ticket_updated', 'mention');
comment on type public.notification_type is 'What a member is told of.';
