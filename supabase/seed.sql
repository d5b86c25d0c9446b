/*
 * A believable organization to look at: Larkspur Outdoor, a mail-order shop for tents, stoves and boots, and its last
 * thirty days. `deskbase demo` loads it, and so does `supabase db push --include-seed`.
 *
 * Everything happens through the rules of the desk: each step below is done under the claims of whoever took it, so
 * triggers write the history, the notifications and the events. As triggers know only now(), each step is then dated
 * back. No secret is in here: logins have no password and the integration token has no secret until `deskbase demo`
 * makes them, or an admin does.
 *
 * One statement, so that it is all or nothing however a tool splits this file, and nothing where the desk has it already.
 */

do $$
declare
    c_organization constant uuid := '1a25b900-0000-4000-8000-000000000001';
    v_origin timestamptz := now() - interval '30 days';
    v_at timestamptz;
    v_actor jsonb;
    v_ticket uuid;
    v_was_stopped timestamptz;
    v_step record;
begin
    if exists (select from public.organizations as o where o.id = c_organization) then
        raise notice 'Larkspur Outdoor is here already; nothing was changed.';
        return;
    end if;
    -- The one row that is not dated back: commands mean the oldest organization, and this is not to become it.
    insert into public.organizations (id, name, domain) values (c_organization, 'Larkspur Outdoor', 'larkspur.example');

    ------------------------------------------------------------------------------------------------------------------
    -- People: the staff, four customers who log in, and those who only write
    ------------------------------------------------------------------------------------------------------------------

    create temporary table demo_people on commit drop as
    select p.*, gen_random_uuid() as user_id
    from (values
        ('ines',    'Ines Calloway',    'admin',        'Management',       'away'),
        ('tomasz',  'Tomasz Berg',      'team_lead',    'Customer care',    'online'),
        ('priya',   'Priya Raman',      'senior_agent', 'Customer care',    'online'),
        ('dele',    'Dele Okafor',      'agent',        'Customer care',    'busy'),
        ('marit',   'Marit Solheim',    'agent',        'Customer care',    'online'),
        ('jonas',   'Jonas Lindqvist',  'agent',        'Warranty',         'away'),
        ('wei',     'Wei Zhang',        'senior_agent', 'Warranty',         'online'),
        ('sofia',   'Sofia Marchetti',  'agent',        'Web shop',         'offline'),
        ('hannah',  'Hannah Weiss',     'customer',     null,               'offline'),
        ('miguel',  'Miguel Duarte',    'customer',     null,               'offline'),
        ('aoife',   'Aoife Brennan',    'customer',     null,               'offline'),
        ('ravi',    'Ravi Menon',       'customer',     null,               'offline')
    ) as p (username, name, role, department, presence);

    insert into auth.users (id, instance_id, aud, role, email, email_confirmed_at, confirmation_token, recovery_token,
        email_change_token_new, email_change, raw_app_meta_data, raw_user_meta_data, created_at)
    select p.user_id, '00000000-0000-0000-0000-000000000000', 'authenticated', 'authenticated',
        p.username || case p.role when 'customer' then '@mail.example' else '@larkspur.example' end,
        v_origin - interval '390 days', '', '', '', '',
        jsonb_build_object('provider', 'email', 'providers', array['email'],
            'organization_id', c_organization, 'role', p.role),
        jsonb_build_object('name', p.name), v_origin - interval '390 days'
    from demo_people as p;

    -- The accounts are members already (sql/77_accounts.sql); the rest of what is known of them:
    update public.members as m
    set username = p.username, department = p.department, presence = p.presence::public.presence,
        created_at = u.created_at
    from demo_people as p
    join auth.users as u on u.id = p.user_id
    where m.organization_id = c_organization and m.user_id = p.user_id;

    insert into public.contacts (organization_id, name, email, phone, company, job_role, created_at)
    select c_organization, p.name, p.email, p.phone, p.company, p.job_role, v_origin - p.days * interval '1 day'
    from (values
        ('Greta Halvorsen',  'greta@fjellguides.example',   '+47 22 55 01 10',  'Fjell Guides',          'Head guide',    210),
        ('Owen Pritchard',   'owen@pritchard.example',      '+44 20 7946 0182', null,                    null,            150),
        ('Camille Laurent',  'camille@refuge-nord.example', '+33 1 99 00 41 27', 'Refuge du Nord',       'Buyer',         140),
        ('Bastian Kern',     'bastian@kern.example',        null,               null,                    null,            95),
        ('Yuki Tanabe',      'yuki@trailhouse.example',     '+81 3 5550 0142',  'Trailhouse Tokyo',      'Store manager', 80),
        ('Nadia Haddad',     'nadia@haddad.example',        null,               null,                    null,            60),
        ('Lars Nygaard',     null,                          '+45 32 12 34 56',  null,                    null,            20),
        ('Beatriz Lemos',    null,                          '+351 210 555 019', null,                    null,            12)
    ) as p (name, email, phone, company, job_role, days);

    insert into public.contact_identities (organization_id, contact_id, channel, identity)
    select c_organization, c.id, 'whatsapp', regexp_replace(c.phone, '\D', '', 'g')
    from public.contacts as c
    where c.organization_id = c_organization and c.name in ('Lars Nygaard', 'Beatriz Lemos');

    ------------------------------------------------------------------------------------------------------------------
    -- The desk: groups, categories, tags, service levels, fields, texts, articles, an integration
    ------------------------------------------------------------------------------------------------------------------

    insert into public.groups (organization_id, name, description)
    values
        (c_organization, 'First line', 'Answers first and sorts.'),
        (c_organization, 'Warranty', 'Judges what is broken and who pays.'),
        (c_organization, 'Web shop', 'Looks after the shop and its payments.');
    insert into public.group_members (organization_id, group_id, member_id)
    select c_organization, g.id, m.id
    from (values
        ('First line', 'tomasz'), ('First line', 'priya'), ('First line', 'dele'), ('First line', 'marit'),
        ('Warranty', 'wei'), ('Warranty', 'jonas'), ('Web shop', 'sofia'), ('Web shop', 'priya')
    ) as p (group_name, username)
    join public.groups as g on g.organization_id = c_organization and g.name = p.group_name
    join public.members as m on m.organization_id = c_organization and m.username = p.username;

    insert into public.categories (organization_id, name, description, color)
    values
        (c_organization, 'Delivery', 'Late, lost, damaged on the way.', '#0d6efd'),
        (c_organization, 'Returns', 'Sent back, exchanged, refunded.', '#6610f2'),
        (c_organization, 'Warranty', 'Broke before its time.', '#dc3545'),
        (c_organization, 'Payment', 'Charged twice, not at all, or wrongly.', '#198754'),
        (c_organization, 'Product advice', 'Which one, what size, will it fit.', '#fd7e14'),
        (c_organization, 'Account', 'Logging in, addresses, newsletters.', '#20c997');
    insert into public.tags (organization_id, name, color)
    values
        (c_organization, 'vip', '#d63384'), (c_organization, 'wholesale', '#6f42c1'), (c_organization, 'carrier', '#0dcaf0'),
        (c_organization, 'zipper', '#ffc107'), (c_organization, 'stove', '#fd7e14'), (c_organization, 'refund', '#198754');
    insert into public.sla_policies (organization_id, priority, first_response_minutes, resolution_minutes)
    values
        (c_organization, 'urgent', 60, 8 * 60), (c_organization, 'high', 4 * 60, 24 * 60),
        (c_organization, 'medium', 8 * 60, 3 * 24 * 60), (c_organization, 'low', 24 * 60, 7 * 24 * 60);
    insert into public.custom_fields (organization_id, key, label, kind, choices)
    values
        (c_organization, 'order_number', 'Order number', 'text', '{}'),
        (c_organization, 'carrier', 'Carrier', 'choice', '{Postnord,DHL,GLS}');

    insert into public.templates (organization_id, owner_id, title, content, category, variables)
    select c_organization, m.id, p.title, p.content, p.category, p.variables
    from (values
        ('tomasz', 'First answer', E'Hello {name},\n\nthank you for writing. I am looking into it and answer by {when}.\n\nLarkspur Outdoor', 'General', '{name,when}'::text[]),
        ('priya', 'Parcel is being traced', E'Hello {name},\n\nthe carrier is tracing parcel {parcel}. That takes up to three working days; I write as soon as I know more.', 'Delivery', '{name,parcel}'),
        ('wei', 'Warranty accepted', E'Hello {name},\n\nthat should not have happened. We repair it at no cost; the label for sending it in is attached.', 'Warranty', '{name}'),
        ('sofia', 'Refund is on its way', E'Hello {name},\n\n{amount} went back to your card today. Your bank shows it within five days.', 'Payment', '{name,amount}')
    ) as p (username, title, content, category, variables)
    join public.members as m on m.organization_id = c_organization and m.username = p.username;
    insert into public.saved_filters (organization_id, owner_id, name, params, is_public)
    select c_organization, m.id, p.name, p.params::jsonb, p.is_public
    from (values
        ('tomasz', 'Urgent and unassigned', '{"priority": "urgent", "assigned_to": null}', true),
        ('wei', 'My repairs', '{"category": "Warranty", "status": "waiting"}', false)
    ) as p (username, name, params, is_public)
    join public.members as m on m.organization_id = c_organization and m.username = p.username;

    insert into public.articles
        (organization_id, author_id, title, content, category, tags, is_published, views, created_at, updated_at)
    select c_organization, m.id, p.title, p.content, p.category, p.tags, p.is_published, p.views,
        v_origin - p.days * interval '1 day', v_origin - p.days * interval '1 day'
    from (values
        ('priya', 'How long does delivery take?', 'Within the country two to four working days, elsewhere five to eight. You get the tracking number by mail when the parcel leaves us.', 'Delivery', '{shipping,tracking}'::text[], true, 1841, 300),
        ('priya', 'Sending something back', 'You have sixty days. Print the label from your account, put the form in the parcel and drop it at any parcel shop. The money is back within a week of its arrival.', 'Returns', '{returns,refund}', true, 1207, 290),
        ('wei', 'What the warranty covers', 'Zippers, seams, poles and buckles for five years, stoves for ten. Wear of soles and coatings is not covered, but we repair it at cost.', 'Warranty', '{repair,zipper}', true, 655, 240),
        ('jonas', 'Cleaning the jet of a stove', 'Let it cool, take off the burner, and push the needle through the jet twice. If the flame stays yellow, soak the jet in vinegar overnight.', 'Product advice', '{stove,maintenance}', true, 402, 130),
        ('marit', 'Choosing a sleeping bag', 'Take the coldest night you expect and subtract five degrees. Down is lighter, synthetic filling forgives a wet night.', 'Product advice', '{sizes}', true, 987, 200),
        ('sofia', 'Paying by invoice', 'Companies may pay within thirty days. We check the company once; that takes a day.', 'Payment', '{wholesale,invoice}', true, 214, 90),
        ('tomasz', 'When a carrier loses a parcel', 'Open a trace on day six, send a replacement on day nine, book the claim under 4711. For us only.', 'Delivery', '{carrier}', false, 58, 60)
    ) as p (username, title, content, category, tags, is_published, views, days)
    join public.members as m on m.organization_id = c_organization and m.username = p.username;
    insert into public.article_votes (organization_id, article_id, member_id, is_helpful)
    select c_organization, a.id, m.id, a.title <> 'Paying by invoice'
    from public.articles as a
    join public.members as m on m.organization_id = c_organization and m.role = 'customer'
    where a.organization_id = c_organization and a.is_published;

    insert into public.integration_tokens (organization_id, name, prefix, scopes, rate_limit, created_by_member_id, created_at)
    select c_organization, 'Web shop', 'stk_', '{tickets:read,tickets:write,comments:write,webhooks:manage}', 1000, m.id,
        v_origin
    from public.members as m
    where m.organization_id = c_organization and m.username = 'ines';

    ------------------------------------------------------------------------------------------------------------------
    -- What happened. A story is one kind of ticket and what is said about it; a ticket tells a story about an order
    ------------------------------------------------------------------------------------------------------------------

    create temporary table demo_stories on commit drop as
    select * from (values
        ('lost',    'Parcel {o} has not arrived',           'The tracking has said "out for delivery" for five days. We leave on Friday and need the tent by then.', 'Delivery', 'carrier', 'carrier', 'First line',
            'I have asked the carrier to trace it and write again tomorrow.', 'Thank you. Could you send another one if it is not found?', 'The depot has no scan since Monday.', 'It was found at the wrong depot and arrives tomorrow before noon.'),
        ('damaged', 'Order {o} arrived with a torn bag',    'The outer bag was cut open when the parcel was opened at customs. One pole is bent.', 'Delivery', 'carrier', 'refund', 'First line',
            'I am sorry. Could you send a photo of the parcel and of the pole?', 'Here are both. The cut is on the long side.', 'Claim opened with the carrier.', 'A new pole and bag are on their way; keep the old ones.'),
        ('zipper',  'Zipper of the Skarv jacket is broken', 'After eight months the slider comes off on the left. I have the invoice of order {o}.', 'Warranty', 'zipper', 'zipper', 'Warranty',
            'That is covered. The label is attached; please send the jacket in washed.', 'It went off today.', 'Arrived, slider replaced. @jonas please test it before it leaves.', 'It is repaired and on its way back to you.'),
        ('stove',   'Stove burns with a yellow flame',      'It sooted two pots on the second trip. Bought with order {o}.', 'Warranty', 'stove', 'stove', 'Warranty',
            'Have you cleaned the jet? There is an article on how to do that.', 'Twice, with the needle. It is still yellow.', 'Batch 22 again, the jet is drilled too wide.', 'We send you a new jet, with a spare one for the trouble.'),
        ('refund',  'Refund for order {o} is missing',      'You confirmed the return three weeks ago, and nothing has come back to my card.', 'Returns', 'refund', 'refund', 'Web shop',
            'The refund was booked on your old card. I am having it redirected.', 'That card has expired, thank you.', 'The payment provider confirms the return of the first booking.', 'It went to the new card today; allow five days.'),
        ('twice',   'Charged twice for order {o}',          'My bank shows two payments of the same amount within a minute.', 'Payment', 'refund', 'refund', 'Web shop',
            'One of the two is a reservation. I am checking that it was released.', 'It is still there this morning.', 'Reservation released by hand.', 'The second amount is gone; your bank shows it by tonight.'),
        ('size',    'Which size of the Terne boots?',       'I wear 42 in street shoes and want to wear thick socks in them.', 'Product advice', 'vip', 'vip', 'First line',
            'They run small: take 43, and the exchange is free if it is too large.', 'Then 43 it is.', null, 'You are welcome. Have good days outside!'),
        ('bulk',    'Quote for forty sleeping bags',        'For the hut season we need forty bags of the Moen 5, delivered in two parts.', 'Product advice', 'wholesale', 'wholesale', 'First line',
            'I can offer twelve percent on forty. Which dates suit you?', 'The first of next month, and three weeks later.', 'Stock is enough for the first half only.', 'Both dates are booked; the invoice follows with each delivery.'),
        ('login',   'I cannot log in any more',             'The link for a new password never arrives, not in the spam folder either.', 'Account', 'vip', 'vip', 'Web shop',
            'Your address had a typing error in our records. Please try once more now.', 'That worked.', null, 'Good. I have corrected it for the newsletter, too.'),
        ('address', 'Change of address for order {o}',      'Please send it to my office instead; nobody is at home this week.', 'Delivery', 'carrier', 'vip', 'First line',
            'Just in time: it leaves this afternoon, to your office.', 'Perfect.', null, 'It was handed over at your reception.')
    ) as s (story, subject, description, category, tag, other_tag, group_name, answer, reply, note, solution);

    -- Who asks, how, about what, how urgent it is, how far it has come, and how many hours ago it began.
    create temporary table demo_tickets on commit drop as
    select row_number() over (order by t.hours desc) as n, gen_random_uuid() as id, t.*
    from (values
        ('Hannah Weiss',    'web',      'lost',    'high',   'closed',      'priya',  712), ('Owen Pritchard',  'email',    'zipper',  'medium', 'closed',      'wei',    700),
        ('Camille Laurent', 'email',    'bulk',    'medium', 'closed',      'tomasz', 688), ('Nadia Haddad',    'web',      'size',    'low',    'closed',      'marit',  671),
        ('Web shop',        'api',      'twice',   'high',   'closed',      'sofia',  660), ('Bastian Kern',    'phone',    'login',   'low',    'closed',      'dele',   649),
        ('Miguel Duarte',   'web',      'damaged', 'medium', 'closed',      'marit',  630), ('Yuki Tanabe',     'email',    'refund',  'high',   'closed',      'sofia',  618),
        ('Aoife Brennan',   'web',      'stove',   'medium', 'closed',      'jonas',  601), ('Greta Halvorsen', 'email',    'bulk',    'high',   'closed',      'tomasz', 590),
        ('Web shop',        'api',      'lost',    'medium', 'closed',      'dele',   575), ('Ravi Menon',      'web',      'address', 'low',    'closed',      'dele',   562),
        ('Owen Pritchard',  'email',    'refund',  'medium', 'closed',      'sofia',  548), ('Hannah Weiss',    'web',      'size',    'low',    'closed',      'marit',  530),
        ('Nadia Haddad',    'facebook', 'lost',    'urgent', 'closed',      'priya',  512), ('Bastian Kern',    'email',    'zipper',  'medium', 'resolved',    'wei',    497),
        ('Camille Laurent', 'email',    'damaged', 'high',   'closed',      'marit',  480), ('Web shop',        'api',      'twice',   'urgent', 'closed',      'sofia',  466),
        ('Miguel Duarte',   'web',      'login',   'low',    'resolved',    'dele',   449), ('Yuki Tanabe',     'twitter',  'lost',    'high',   'resolved',    'priya',  431),
        ('Lars Nygaard',    'whatsapp', 'stove',   'medium', 'resolved',    'jonas',  418), ('Aoife Brennan',   'web',      'address', 'medium', 'resolved',    'marit',  402),
        ('Greta Halvorsen', 'phone',    'bulk',    'urgent', 'resolved',    'tomasz', 390), ('Ravi Menon',      'web',      'refund',  'medium', 'resolved',    'sofia',  377),
        ('Web shop',        'api',      'damaged', 'medium', 'resolved',    'dele',   361), ('Owen Pritchard',  'email',    'stove',   'low',    'waiting',     'jonas',  350),
        ('Hannah Weiss',    'web',      'zipper',  'medium', 'waiting',     'wei',    333), ('Nadia Haddad',    'web',      'twice',   'high',   'resolved',    'sofia',  318),
        ('Bastian Kern',    'email',    'lost',    'medium', 'resolved',    'priya',  304), ('Camille Laurent', 'email',    'address', 'low',    'resolved',    'dele',   288),
        ('Web shop',        'api',      'refund',  'high',   'on_hold',     'sofia',  274), ('Miguel Duarte',   'chatbot',  'size',    'low',    'resolved',    'marit',  260),
        ('Lars Nygaard',    'whatsapp', 'lost',    'high',   'in_progress', 'priya',  247), ('Yuki Tanabe',     'email',    'bulk',    'high',   'on_hold',     'tomasz', 235),
        ('Aoife Brennan',   'web',      'damaged', 'medium', 'resolved',    'marit',  221), ('Greta Halvorsen', 'email',    'zipper',  'high',   'in_progress', 'wei',    208),
        ('Web shop',        'api',      'lost',    'medium', 'resolved',    'dele',   195), ('Ravi Menon',      'web',      'stove',   'medium', 'in_progress', 'jonas',  182),
        ('Owen Pritchard',  'phone',    'address', 'low',    'resolved',    'dele',   171), ('Hannah Weiss',    'web',      'refund',  'urgent', 'resolved',    'sofia',  160),
        ('Nadia Haddad',    'email',    'damaged', 'medium', 'waiting',     'marit',  148), ('Beatriz Lemos',   'whatsapp', 'size',    'low',    'resolved',    'marit',  137),
        ('Bastian Kern',    'email',    'twice',   'high',   'in_progress', 'sofia',  126), ('Web shop',        'api',      'zipper',  'medium', 'waiting',     'wei',    115),
        ('Camille Laurent', 'email',    'lost',    'urgent', 'in_progress', 'priya',  104), ('Miguel Duarte',   'web',      'address', 'low',    'resolved',    'dele',   95),
        ('Yuki Tanabe',     'email',    'stove',   'medium', 'on_hold',     'wei',    86),  ('Aoife Brennan',   'web',      'lost',    'high',   'open',        'marit',  77),
        ('Web shop',        'api',      'refund',  'medium', 'in_progress', 'sofia',  68),  ('Beatriz Lemos',   'whatsapp', 'damaged', 'medium', 'open',        'dele',   60),
        ('Greta Halvorsen', 'email',    'size',    'low',    'open',        'marit',  51),  ('Ravi Menon',      'web',      'twice',   'high',   'open',        'sofia',  43),
        ('Owen Pritchard',  'email',    'bulk',    'medium', 'open',        'tomasz', 36),  ('Lars Nygaard',    'whatsapp', 'zipper',  'medium', 'open',        'wei',    29),
        ('Web shop',        'api',      'lost',    'urgent', 'in_progress', 'priya',  23),  ('Hannah Weiss',    'web',      'stove',   'medium', 'new',         null,     17),
        ('Nadia Haddad',    'facebook', 'login',   'low',    'new',         null,     12),  ('Web shop',        'api',      'damaged', 'high',   'new',         null,     8),
        ('Miguel Duarte',   'web',      'lost',    'urgent', 'new',         null,     5),   ('Beatriz Lemos',   'whatsapp', 'address', 'medium', 'new',         null,     3),
        ('Bastian Kern',    'email',    'size',    'low',    'new',         null,     2)
    ) as t (asks, channel, story, priority, state, agent, hours);

    -- The steps of every ticket, each some hours after its beginning: sooner for urgent ones, late for every sixth, and
    -- always within a share of the time that the ticket has had. A closed ticket took all of them.
    create temporary table demo_steps on commit drop as
    select t.n, t.id as ticket_id, p.place, p.action, p.who,
        now() + t.n * interval '47 seconds' + interval '1 hour' * (least(
            p.hours * case t.priority when 'urgent' then 0.3 when 'high' then 0.6 when 'medium' then 1.2 else 2 end
                * case when t.n % 6 = 0 then 5 else 1 end,
            p.share * t.hours) - t.hours) as at
    from demo_tickets as t
    join demo_stories as s using (story)
    cross join lateral (values
        (1, 'create',       'asker', 0.0,  0.0,  true),
        (2, 'assign',       'lead',  0.4,  0.04, t.state <> 'new'),
        (3, 'answer',       'agent', 1.9,  0.1,  t.state <> 'new'),
        (4, 'take',         'agent', 2.0,  0.12, t.state not in ('new', 'open')),
        (5, 'wait',         'agent', 2.1,  0.14, t.state not in ('new', 'open', 'in_progress')),
        (6, 'reply',        'asker', 9.0,  0.3,  t.state not in ('new', 'open', 'waiting')),
        (7, 'note',         'agent', 11.0, 0.4,  t.state not in ('new', 'open', 'waiting') and s.note is not null),
        (8, 'hold',         'agent', 11.2, 0.42, t.state = 'on_hold'),
        (9, 'solution',     'agent', 26.0, 0.6,  t.state in ('resolved', 'closed')),
        (10, 'resolve',     'agent', 26.1, 0.61, t.state in ('resolved', 'closed')),
        (11, 'rate',        'asker', 49.0, 0.75, t.state = 'closed' and t.n % 3 = 0 and t.asks <> 'Web shop'),
        (12, 'close',       'lead',  98.0, 0.9,  t.state = 'closed')
    ) as p (place, action, who, hours, share, happens)
    where p.happens;

    for v_step in
        select x.*, t.asks, t.channel, t.priority, t.agent, s.*,
            replace(s.subject, '{o}', (48200 + t.n * 7)::text) as title,
            replace(s.description, '{o}', (48200 + t.n * 7)::text) as text,
            (48200 + t.n * 7)::text as order_number,
            c.id as contact_id, c.member_id as customer_id, a.id as agent_id, g.id as group_id, k.id as category_id,
            i.id as token_id, l.id as lead_id
        from demo_steps as x
        join demo_tickets as t on t.n = x.n
        join demo_stories as s using (story)
        join public.groups as g on g.organization_id = c_organization and g.name = s.group_name
        join public.categories as k on k.organization_id = c_organization and k.name = s.category
        join public.members as l on l.organization_id = c_organization and l.username = 'tomasz'
        left join public.members as a on a.organization_id = c_organization and a.username = t.agent
        left join public.contacts as c on c.organization_id = c_organization and c.name = t.asks
        left join public.integration_tokens as i on i.organization_id = c_organization and i.name = t.asks
        order by x.at, x.n, x.place
    loop
        v_at := v_step.at;
        v_ticket := v_step.ticket_id;
        -- Whoever took the step: an agent, a customer who logs in, an integration; else the desk, for a channel.
        v_actor := case
            when v_step.who = 'lead' then jsonb_build_object('role', 'team_lead', 'member_id', v_step.lead_id)
            when v_step.who = 'agent' then jsonb_build_object('role', 'agent', 'member_id', v_step.agent_id)
            when v_step.token_id is not null then jsonb_build_object('token_id', v_step.token_id)
            when v_step.customer_id is not null then
                jsonb_build_object('role', 'customer', 'member_id', v_step.customer_id, 'contact_id', v_step.contact_id)
            else jsonb_build_object('contact_id', v_step.contact_id) end;
        perform set_config('request.jwt.claims', jsonb_build_object('app_metadata',
            v_actor || jsonb_build_object('organization_id', c_organization))::text, true);
        select t.clock_stopped_at into v_was_stopped
        from public.tickets as t where t.organization_id = c_organization and t.id = v_ticket;

        case v_step.action
            when 'create' then
                insert into public.tickets (organization_id, id, subject, description, priority, channel, category_id,
                    contact_id, custom_fields, metadata, created_at, updated_at)
                values (c_organization, v_ticket, v_step.title, v_step.text, v_step.priority::public.ticket_priority,
                    v_step.channel::public.channel, v_step.category_id, v_step.contact_id,
                    case when v_step.subject like '%{o}%' then jsonb_build_object('order_number', v_step.order_number)
                        else '{}' end,
                    case when v_step.token_id is not null then jsonb_build_object('order_id', v_step.order_number)
                        else '{}' end,
                    v_at, v_at);
                insert into public.ticket_tags (organization_id, ticket_id, tag_id, created_at)
                select c_organization, v_ticket, g.id, v_at
                from public.tags as g
                where g.organization_id = c_organization
                    and g.name in (v_step.tag, case when v_step.n % 2 = 0 then v_step.other_tag end);
            when 'assign' then
                update public.tickets set assignee_id = v_step.agent_id, group_id = v_step.group_id
                where organization_id = c_organization and id = v_ticket;
            when 'take' then
                update public.tickets set status = 'in_progress' where organization_id = c_organization and id = v_ticket;
            when 'wait' then
                update public.tickets set status = 'waiting' where organization_id = c_organization and id = v_ticket;
            when 'hold' then
                update public.tickets set status = 'on_hold' where organization_id = c_organization and id = v_ticket;
            when 'resolve' then
                update public.tickets set status = 'resolved', resolution = v_step.solution
                where organization_id = c_organization and id = v_ticket;
            when 'close' then
                update public.tickets set status = 'closed' where organization_id = c_organization and id = v_ticket;
            when 'rate' then
                insert into public.satisfaction_ratings
                    (organization_id, ticket_id, contact_id, assignee_id, score, comment, created_at)
                values (c_organization, v_ticket, v_step.contact_id, v_step.agent_id, 3 + v_step.n / 3 % 3,
                    case when v_step.n % 2 = 0 then 'Quick and friendly.' else '' end, v_at);
            else
                insert into public.comments (organization_id, ticket_id, body, is_internal, channel, created_at, updated_at)
                values (c_organization, v_ticket,
                    case v_step.action when 'answer' then v_step.answer when 'reply' then v_step.reply
                        when 'note' then v_step.note else v_step.solution end,
                    v_step.action = 'note',
                    case when v_step.action = 'note' or (v_step.who = 'agent' and v_step.channel = 'api') then 'web'
                        else v_step.channel end::public.channel,
                    v_at, v_at);
        end case;

        -- Date back what the step did. Without triggers, which would date it again.
        perform set_config('session_replication_role', 'replica', true);
        update public.tickets as t
        set updated_at = v_at,
            first_response_at = case when t.first_response_at = now() then v_at else t.first_response_at end,
            resolved_at = case when t.resolved_at = now() then v_at else t.resolved_at end,
            closed_at = case when t.closed_at = now() then v_at else t.closed_at end,
            clock_stopped_at = case when t.clock_stopped_at = now() then v_at else t.clock_stopped_at end,
            time_stopped = case when v_was_stopped is not null and t.clock_stopped_at is null
                then v_at - v_was_stopped else t.time_stopped end,
            resolution_due_at = t.resolution_due_at - case when v_was_stopped is not null and t.clock_stopped_at is null
                then now() - v_at else '0' end
        where t.organization_id = c_organization and t.id = v_ticket;
        update public.ticket_history as h set created_at = v_at
        where h.organization_id = c_organization and h.ticket_id = v_ticket and h.created_at = now();
        -- Whatever is older than three days has been read.
        update public.notifications as n
        set created_at = v_at, read_at = case when v_at < now() - interval '3 days' then v_at + interval '20 minutes' end
        where n.organization_id = c_organization and n.ticket_id = v_ticket and n.created_at = now();
        perform set_config('session_replication_role', 'origin', true);
    end loop;
    perform set_config('request.jwt.claims', '', true);
    -- A run by hand may go on in the same session.
    drop table demo_people, demo_stories, demo_tickets, demo_steps;
end
$$;
