/*
 * The words of the desk. A contract shows its own words for them; these are the ones that are stored.
 */

create type public.ticket_status as enum (
    'new',          -- created, no agent has answered yet
    'open',         -- an agent's first public reply, or a requester's reply to a waiting or resolved ticket
    'in_progress',  -- an agent took it up
    'waiting',      -- an agent waits for the requester
    'on_hold',      -- an agent waits for somebody else
    'resolved',     -- an agent, or the requester, considers it done; a reply reopens it
    'closed'        -- done for good; only an agent or its integration reopens it
);
comment on type public.ticket_status is 'Where a ticket stands; the order is that of a ticket''s life.';

create type public.ticket_priority as enum ('low', 'medium', 'high', 'urgent');
comment on type public.ticket_priority is 'How much a ticket matters, ordered by rank.';

create type public.ticket_type as enum ('question', 'incident', 'problem', 'task');
comment on type public.ticket_type is 'What kind of request a ticket is.';

create type public.channel as enum ('web', 'email', 'api', 'phone', 'chatbot', 'facebook', 'whatsapp', 'twitter');
comment on type public.channel is 'The way by which a ticket or a comment came in.';

create type public.member_role as enum ('customer', 'agent', 'senior_agent', 'team_lead', 'admin');
comment on type public.member_role is 'What a member may do; each role may do all that the ones before it may.';

create type public.presence as enum ('online', 'busy', 'away', 'offline');
comment on type public.presence is 'Whether an agent takes work at the moment.';

create type public.content_type as enum ('text', 'image', 'video', 'audio', 'file');
comment on type public.content_type is 'What a comment''s body is.';

create type public.notification_type as enum ('ticket_assigned', 'ticket_updated', 'mention');
comment on type public.notification_type is 'What a member is told of.';
