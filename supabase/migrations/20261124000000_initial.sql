-- The whole schema, generated from sql/ by `make migration`; until the first release it is regenerated, not added to.

-- sql/00_roles.sql
/*
 * Roles and what a new object may do before anyone grants anything: nothing.
 *
 * Supabase brings anon, authenticated, service_role and authenticator. Deskbase adds two:
 *   integration       what a request with an integration token runs as
 *   deskbase_definer  owns the security definer helpers and nothing else; row security is forced on every table, so
 *                     a helper sees behind a policy only because its owner has bypassrls
 */

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'integration') then
        create role integration nologin noinherit;
    end if;
    if not exists (select from pg_catalog.pg_roles where rolname = 'deskbase_definer') then
        create role deskbase_definer nologin noinherit bypassrls;
    end if;
    -- Handing a function over to a role takes membership in it; a superuser needs none.
    if not pg_catalog.pg_has_role(current_user, 'deskbase_definer', 'member') then
        execute pg_catalog.format('grant deskbase_definer to %I', current_user);
    end if;
end
$$;

comment on role integration is 'What a request with an integration token runs as.';
comment on role deskbase_definer is 'Owns the security definer helpers; no login, nothing else.';

grant integration to authenticator;

-- Supabase grants everything on new objects of public to the client roles; here every grant is written down.
alter default privileges revoke execute on functions from public;
alter default privileges in schema public revoke all on tables from anon, authenticated;
alter default privileges in schema public revoke all on sequences from anon, authenticated;
alter default privileges in schema public revoke all on functions from anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to service_role;
alter default privileges in schema public grant all on sequences to service_role;

-- sql/10_schemas.sql
/*
 * The schemas that belong to everyone: public, what clients see, and private, what they never do.
 * Each contract makes its own schema in its own file.
 */

create schema if not exists private;

comment on schema public is 'The support desk: its entities, guarded by row level security.';
comment on schema private is 'Secrets, counters, the event log and the helpers of policies; no client reads a table here.';

-- Policies call helpers by name, so the roles they run as must find the schema. Tables in it are granted to nobody.
grant usage on schema private to anon, authenticated, service_role, integration, authenticator;
grant usage on schema public to integration, deskbase_definer;
grant usage, create on schema private to deskbase_definer;
grant usage on schema auth to deskbase_definer;
grant select on auth.users, auth.sessions, auth.mfa_factors to deskbase_definer;
-- The auth service asks for claims and queues mail.
grant usage on schema private to supabase_auth_admin;

alter default privileges in schema public grant select, insert, update, delete on tables to deskbase_definer;
alter default privileges in schema private grant select, insert, update, delete on tables to deskbase_definer;
alter default privileges in schema private grant execute on functions to deskbase_definer;

-- sql/20_types.sql
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

-- sql/22_words.sql
/*
 * The words that contracts show for the canonical ones, in one place. A contract's functions read its part; nothing else does.
 */

create function private.words(contract text) returns jsonb
language sql immutable
set search_path = ''
return '{
    "support_platform": {
        "status": {"new": "open", "open": "open", "in_progress": "in_progress", "waiting": "in_progress",
            "on_hold": "in_progress", "resolved": "resolved", "closed": "resolved"},
        "priority": {"low": "low", "medium": "medium", "high": "high", "urgent": "high"}
    },
    "omnichannel": {
        "status": {"new": "new", "open": "open", "in_progress": "open", "waiting": "pending_customer",
            "on_hold": "open", "resolved": "resolved", "closed": "closed"},
        "priority": {"low": "low", "medium": "medium", "high": "high", "urgent": "urgent"}
    },
    "support_desk": {
        "status": {"new": "new", "open": "open", "in_progress": "open", "waiting": "pending",
            "on_hold": "hold", "resolved": "solved", "closed": "closed"},
        "priority": {"low": "low", "medium": "normal", "high": "high", "urgent": "urgent"}
    },
    "helpdesk": {
        "status": {"new": "open", "open": "open", "in_progress": "in_progress", "waiting": "in_progress",
            "on_hold": "in_progress", "resolved": "resolved", "closed": "closed"},
        "priority": {"low": "low", "medium": "medium", "high": "high", "urgent": "urgent"}
    },
    "integration_tickets": {
        "status": {"new": "open", "open": "open", "in_progress": "in_progress", "waiting": "waiting",
            "on_hold": "waiting", "resolved": "resolved", "closed": "closed"},
        "priority": {"low": "low", "medium": "medium", "high": "high", "urgent": "urgent"}
    }
}'::jsonb -> contract;
comment on function private.words(text) is
    'What a contract calls each canonical status and priority. Several canonical values may share a word; the word that a ticket shows already moves nothing.';
grant execute on function private.words(text) to anon, authenticated, integration, service_role, authenticator;

create function private.canonical(contract text, field text, word text) returns text[]
language sql immutable
set search_path = ''
begin atomic
    select coalesce(array_agg(w.key order by w.key), '{}')
    from jsonb_each_text(private.words(contract) -> field) as w
    where w.value = word;
end;
comment on function private.canonical(text, text, text) is
    'Every canonical value that a contract shows as this word: what a filter for it matches; none for a word that it does not know.';
grant execute on function private.canonical(text, text, text) to anon, authenticated, integration, service_role;

create function private.new_canonical(contract text, field text, word text, present text) returns text
language plpgsql immutable
set search_path = ''
as $$
declare
    v_values text[] := private.canonical(contract, field, word);
begin
    if present = any (v_values) then
        return present;
    end if;
    -- Of several it is the one that has the word's own name.
    return case
        when word = any (v_values) then word
        when cardinality(v_values) > 0 then v_values[1] end;
end
$$;
comment on function private.new_canonical(text, text, text, text) is
    'What writing a word means for a ticket that has the present value: nothing if it shows that word already; null for an unknown word.';
grant execute on function private.new_canonical(text, text, text, text) to anon, authenticated, integration, service_role;

-- sql/25_identity.sql
/*
 * Who is asking. Every helper reads request.jwt.claims, which the entrance of a request (75_requests) has made fresh;
 * app_metadata in it is written by the server alone. Policies call them as (select private.…()), so that each runs
 * once per statement. None calls another to get at the claims: they run on every request.
 */

create function private.claims() returns jsonb
language sql stable
set search_path = ''
return nullif(current_setting('request.jwt.claims', true), '')::jsonb;
comment on function private.claims() is 'The claims of the credential in use; null outside a request.';

create function private.organization_id() returns uuid
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,organization_id}')::uuid;
comment on function private.organization_id() is 'The organization of the credential in use.';

create function private.member_id() returns uuid
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,member_id}')::uuid;
comment on function private.member_id() is 'The member who is asking; null for tokens and visitors.';

create function private.contact_id() returns uuid
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,contact_id}')::uuid;
comment on function private.contact_id() is 'The contact that a customer who is asking writes as; null for everyone else.';

create function private.token_id() returns uuid
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,token_id}')::uuid;
comment on function private.token_id() is 'The integration token that is asking; null for people.';

create function private.member_role() returns public.member_role
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,role}')::public.member_role;
comment on function private.member_role() is 'The role of the member who is asking.';

create function private.is_agent() returns boolean
language sql stable
set search_path = ''
return coalesce(private.member_role() >= 'agent', false);
comment on function private.is_agent() is 'Whether an agent, or anyone above, is asking.';

create function private.is_lead() returns boolean
language sql stable
set search_path = ''
return coalesce(private.member_role() >= 'team_lead', false);
comment on function private.is_lead() is 'Whether a team lead or an admin is asking.';

create function private.is_admin() returns boolean
language sql stable
set search_path = ''
return coalesce(private.member_role() >= 'admin', false);
comment on function private.is_admin() is 'Whether an admin is asking.';

create function private.has_scope(scope text) returns boolean
language sql stable
set search_path = ''
return coalesce(
    nullif(current_setting('request.jwt.claims', true), '')::jsonb #> '{app_metadata,scopes}' ? scope, false);
comment on function private.has_scope(text) is 'Whether the integration token that is asking carries the scope.';

grant execute on function private.claims(), private.organization_id(), private.member_id(), private.contact_id(),
    private.token_id(), private.member_role(), private.is_agent(), private.is_lead(), private.is_admin(),
    private.has_scope(text)
    to anon, authenticated, service_role, integration;

create function private.rfc3339(moment timestamptz) returns text
language sql stable
set search_path = ''
return replace(to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z');
comment on function private.rfc3339(timestamptz) is
    'A moment as every contract writes it: RFC 3339 in UTC, ending in Z; what was given in whole seconds is shown so.';
grant execute on function private.rfc3339(timestamptz)
    to anon, authenticated, service_role, integration, supabase_auth_admin;

create function private.tg__timestamps() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    new.updated_at := now();
    return new;
end
$$;
comment on function private.tg__timestamps() is 'Keeps updated_at true.';

-- sql/26_passwords.sql
/*
 * Passwords: which are refused, and how those are hashed that reach the database in plain text (create_member). All the
 * others are hashed by the service, with argon2id, which core Postgres does not have.
 */

-- From the frequency lists of zxcvbn, without dates; sequences and repetitions, which those lists leave out, are added.
create function private.common_passwords() returns text[]
language sql immutable
set search_path = ''
return regexp_split_to_array(
    '0.0.0.000 00000000 000000000 0000000000 01020304 01234567 012345678 0123456789 0192837465 0987654321
    10101010 10203040 10293847 1029384756 11111111 111111111 1111111111 1111111a 11112222 111222333 11223344
    1122334455 11235813 1123581321 12121212 12131415 12312312 123123123 1231231234 1232323q 123321123
    12341234 12344321 1234509876 123451234 1234512345 123454321 1234554321 123456123 123456654321 12345678
    123456780 123456789 1234567890 123456789012 1234567890a 1234567890q 1234567891 12345678910 1234567899
    123456789a 123456789d 123456789m 123456789q 123456789qwe 123456789s 123456789z 12345678a 12345678q
    12345679 1234567a 1234567q 123456aa 123456as 123456qqq 123456qw 123456qwe 123456qwerty 123456ru 12345abc
    12345qaz 12345qwe 12345qwer 12345qwert 12345qwerty 12348765 1234abcd 1234asdf 1234qwer 1234rewq 1234zxcv
    12365478 123654789 12369874 123698745 123789456 123qq123 123qwe123 123qweasd 123qweasdzxc 123qwert
    123qwerty 12qw12qw 12qw34er 12qwaszx 13243546 134679852 135792468 1357924680 135798642 14725836 147258369
    147852369 14789632 147896325 15426378 18436572 19283746 192837465 19411945 1a2b3c4d 1a2s3d4f 1michael
    1million 1passwor 1q1q1q1q 1q2w3e4r 1q2w3e4r5 1q2w3e4r5t 1q2w3e4r5t6y 1qa2ws3ed 1qaz2wsx 1qaz2wsx3edc
    1qazxsw2 1qazxsw23edc 1qazzaq1 1x2zkg8w 1z2x3c4v 21212121 22222222 23232323 23skidoo 25800852 25802580
    31415926 321654987 33333333 369258147 44332211 44444444 45m2do5bs 4815162342 55555555 5wr2i7h8 66666666
    69camaro 73501505 74108520 741852963 77777777 7777777a 78945612 789456123 7894561230 789654123 7ugd5hip2j
    87654321 88888888 888888888 8j4ye3uz 9293709b13 963852741 987456321 987654321 9876543210 99999999
    999999999 a1234567 a12345678 a123456789 a1b2c3d4 a1s2d3f4 aa123456 aa12345678 aaaaaaaa aardvark abc12345
    abc123456 abcabcabc abcd1234 abcd12345 abcdefg1 abcdefgh abcdefghi aberdeen abnormal abrakadabra access14
    achilles acidburn adgjmptw admin123 admin1234 admin12345 adminadmin administrator adrenalin agent007
    airborne airforce airplane albatros alcatraz alejandr aleksandr aleksandra alessandro alexande alexander1
    alexandr alexandre alleycat allison1 alphabet ambrosia america1 amethyst amsterda amsterdam anaconda
    anastasi anastasiya andromed andromeda andyod22 angel123 anhyeuem antelope anthony1 apollo11 apollo13
    apple123 applepie aquarius archange argentin armagedon armstron asdasdasd asdf1234 asdf12345 asdfasdf
    asdffdsa asdfgh01 asdfghjk asdfghjkl asdfzxcv asdqwe123 aspirine assassin atlantis austin31 australi
    avalanch awesome1 azertyui azertyuiop azsxdcfv babyblue babycake babydoll babyface babygirl babylon5
    babylove backdoor balloons baltimor baracuda barbados barcelon barcelona barefoot baritone baseball
    baseball1 basketba bcfields bearcats beatles1 beautifu beefcake beethove benessere bergkamp bettyboo
    bigblock bigdaddy bigmoney bigpoppa bigtruck billabon billybob billyboy bismarck bismillah blackbir
    blackbird blackcat blackdog blackhaw blackjac blackjack blacklab blackout blahblah blessing blink182
    blizzard blowfish blue1234 bluebell bluebird blueeyes bluefish bluejays bluemoon bluesman bobafett
    bobdylan bonehead bookworm boomboom borabora bordeaux borussia bradley1 brandon1 brighton broncos1
    brooklyn brucelee bubba123 bubbles1 buckeyes buckshot budapest buddy123 buddyboy budlight budweise
    budweiser buffalo1 bulldog1 bulldogs bullfrog bullseye bynthytn cabernet cadillac caliente californ
    caligula calimero callisto camaross cambridg cameron1 candyman cannibal capetown capitals capricor
    capricorn capslock captain1 cardinal carebear carlitos carnival carolina carpedie carpente cartman1
    cartoons casanova cashmone cashmoney cassandr catherin catwoman cavalier cbr900rr cdtnkfyf cerberus
    cfitymrf chainsaw challeng champion changeme changeme1 changeme123 chargers charisma charles1 charlie1
    charlie2 charlott charlton checkers chelsea1 cherokee cherries cheshire chester1 chevelle chevrole
    chevrolet cheyenne chicago1 chicken1 chickens chipmunk chocolat choochoo chris123 chrisbln christia
    christin christma christop chrysler chuckles cinnamon cjkysirj clarinet classics claymore cleopatr
    clevelan clippers cnfybckfd cocacola coldbeer coldplay colombia colorado coltrane comanche commande
    commando computer computer1 concorde concrete consumer cooldude coolness corleone corvette cosworth
    coventry cowboys1 crazybab creative cricket1 crjhgbjy crusader crystal1 cucumber cutiepie cygnusx1
    daisydog dannyboy darkange darkangel darklord darkness darkside darkstar david123 dbrnjhbz deadhead
    deadpool defender deftones delpiero derparol designer deskbase destiny1 devil666 devildog dfcbkbcf
    dfktynby dfktynbyf diamond1 diamonds dietcoke digital1 dilbert1 dingdong dinosaur dirtbike discover
    dkflbckfd dkflbvbh doberman dodgeram dodgers1 doghouse dogpound dolemite dolphin1 dolphins dominion
    dominiqu dontknow doomsday doughboy dragon12 dragon69 dragonba dragonball dragonfl dragster dreamcas
    drowssap drpepper drummer1 dthjybrf dutchess dynamite earnhard earthlink eastside eastwood eclipse1
    eggplant einstein ekaterina elcamino eldorado electric electron elephant elisabet elizabet elizaveta
    enforcer engineer england1 enternow enterpri enterprise ericsson escalade espresso eternity evangelion
    everlast evolutio excalibu excalibur explorer f00tball fairlane fandango fantasia fantomas farscape
    fastball favorite6 fearless feelgood ferrari1 fgtkmcby fidelity fireball firebird fireblad firefigh
    firewall fishbone fishhead fishing1 fkbyjxrf fktrcfylh fktrcfylhf flamengo flamingo flexible flipflop
    florida1 flounder football football1 fordf150 forever1 forgetit formula1 forsaken foxylady francesc
    francisc frankie1 freckles frederik freebird freedom1 freefall freeuser friendster front242 frontier
    fullmoon funstuff fussball futurama fyfcnfcbz fyfnjkbq fyutkbyf fyutkjxtr gabriel1 gabriell gamecube
    gameover gandalf1 gangster gannibal garfield gargoyle gateway1 gateway2 gatorade gbhfvblf genesis1
    geronimo gesperrt getmoney gfhjkm123 gfhjkmgfhjkm ghbdtn123 ghbdtnbr ghblehjr ghbywtccf ghhh47hj7649
    ghjcnjgfhjkm ghjcnjnfr ghjuhfvvf ghostrider gladiato gladiator gn56gn56 godfathe godfather godsmack
    godzilla goldeney goldfing goldfish goldstar goldwing golfball good123654 goodluck goodtime gordon24
    gotohell greatone green123 greenbay greenday gsxr1000 gtnhjdbx guardian guillaum guinness hairball
    halflife hallo123 hallowee handball handyman hannibal happy123 happyday hardball hardrock harrypotter
    hattrick hawaii50 hawaiian hawkeyes hayabusa heather1 hedgehog heineken hellfire hello123 hellokitty
    hellsing helpdesk helpdesk1 hercules herewego hetfield highbury highheel highland highlander hollywoo
    homemade honeybee hongkong honolulu hooligan hoosiers hounddog houston1 htubcnhfwbz hurrican hyperion
    icecream icehouse idontkno idontknow ihateyou ilikepie illusion ilovegod iloveyou iloveyou1 iloveyou123
    iloveyou2 immortal infiniti infinity insomnia inspiron internet intrepid intruder inuyasha irishman
    ironmaiden islander istanbul istheman iverson3 jackson1 jackson5 james007 james123 jamesbon jamesbond
    jasmine1 jayhawks jeepster jefferso jellybea jellybean jessica1 jesus123 jiggaman johannes johncena
    johndeer johngalt johnson1 jordan23 josephin junkmail jupiter1 just4fun justdoit justice1 juventus
    kakashka kamikaze kangaroo karolina katarina katerina kawasaki kazantip kcj9wx5n kenworth keyboard
    keystone kingfish kingkong kingston kittycat kittykat kjrjvjnbd kleopatra klondike knuckles konstantin
    kordell1 koroleva krasotka krokodil labrador lacrosse laetitia lakeside lakewood lalakers lancelot
    lasvegas leavemealone leedsutd left4dead lemonade lenochka letmein1 letmein123 letmein2 letsdoit lfitymrf
    liberty1 lifehack lightnin lightning limewire lineage2 lionking liverpoo liverpool liverpool1 lockdown
    logitech lokomotiv lol12345 lollipop lollypop lonesome lonestar lonewolf longhair longhorn longjohn
    lovelife loverboy lowrider luckydog luckyone macdaddy madison1 magellan magician magicman mailcreated5240
    majestic makaveli maksimka mallorca mamacita mamapapa manchest manchester mandarin mandrake maradona
    marathon marcello marcius2 margarit mariners marines1 marino13 mariposa marlboro masamune maserati
    mash4077 master12 matthew1 matthias maverick maxwell1 mazda626 mazdarx7 meatball meathead meatloaf
    mechanic megadeth megatron melanie1 melissa1 meowmeow mephisto mercedes meridian mersedes metallic
    metallica michael1 michael2 michigan microlab microphone microsof microsoft midnight millenium millwall
    minecraft minimoni mischief misfit99 mollydog monalisa money123 moneyman mongoose monkey12 monkeybo
    monopoly monster1 montana1 montecar montgom240 montreal montrose moonbeam moonligh moonlight moonshin
    morpheus morrowind mortgage mortimer motherlode motocros motorola mountain mudvayne munchkin mushroom
    musicman mustang1 mustang2 mustang6 mustangs mynameis mypassword myxworld nascar24 natalie1 natasha1
    nautilus navigator navyseal ncc1701a ncc1701d ncc1701e ncc74656 nebraska netscape nevermind nevermore
    newcastl newyork1 nightmar nightwish nineinch nintendo nirvana1 nokia6233 nokia6300 nokian73 noname123
    normandy nostromo notebook notredam nounours nthvbyfnjh nwo4life nygiants oblivion obsidian opendoor
    operator optimist overlord p0015123 p0o9i8u7 p4ssw0rd p@ssw0rd p@ssw0rd1 p@ssw0rd123 p@ssword pa55w0rd
    pa55word packers1 paintbal paintball pakistan pallmall palmtree panasoni panasonic pantera1 panther1
    panthers papillon paradigm paradise paramedi pasadena pass1234 pass12345 pass@123 passpass passport
    passw0rd passwor1 password password! password01 password1 password1! password12 password123 password1234
    password12345 password123456 password2 password9 password99 password@1 password@123 passwordpassword
    passwords passwort patches1 pathfind patrick1 patriots pavement pavilion peaches1 pearljam peekaboo
    penguin1 penguins perfect1 peterbil peterpan pharmacy phialpha philippe phillies phoenix1 pianoman
    pineappl pineapple pinetree pingpong pinkfloy pinkfloyd pinnacle pipeline piramida pizzaman plastics
    platinum platypus playball playmate playstat playstation playtime plymouth poiuytrewq pokemon1 poohbear
    pool6123 popcorn1 porkchop porsche1 porsche9 portland portugal poseidon postgres postgres1 power123
    preacher precious predator presario presiden princess pringles private1 pufunga7782 pumpkin1 pumpkins
    punisher punkrock puppydog q1234567 q123456789 q1w2e3r4 q1w2e3r4t5 q1w2e3r4t5y6 q2w3e4r5 qawsedrf
    qazwsx12 qazwsx123 qazwsxed qazwsxedc qazwsxedc123 qazwsxedcrfv qazxswedc qqqqqqqq qwe123qwe qweasd123
    qweasdzxc qweqweqwe qwer1234 qwerasdf qwerqwer qwert123 qwert12345 qwerty11 qwerty12 qwerty123 qwerty123!
    qwerty1234 qwerty12345 qwerty123456 qwertyui qwertyuio qwertyuiop qwertyuiop123 r2d2c3po radiohea
    radiohead ragnarok raiders1 rainbow1 rainbow6 rainbows rainyday raistlin rammstein rangers1 rasputin
    rastaman realmadrid rebecca1 reckless redalert redbaron reddevil reddwarf redskins redwings remingto
    renegade revoluti revolver rfhnjirf rfnthbyf rfntymrf rfvfcenhf rhbcnbyf rhfcjnrf rhjrjlbk rhtdtlrj
    riccardo richard1 riffraff rightnow rjhjktdf rjirfrgbde rjycnfynby roadking roadrunn roadrunner roadster
    robotech robotics rockford rockhard rocknrol rocknroll rockstar rolltide romashka rootbeer runescape
    rush2112 rustydog sabrina1 sailboat salamander salasana samantha sammy123 samsung1 sandiego sandrine
    sapphire saratoga sasha123 sasha_007 sausages scarface scoobydo scoobydoo scooter1 scorpio1 scorpion
    scotland scrabble scrapper screamer seahawks sebastia secret123 security segblue2 seinfeld seminole
    semperfi senators sentinel sephiroth septembe serenity sergbest sersolution shadow12 shamrock shaney14
    shannon1 sheepdog sherlock showtime sidekick sigmachi silverad simpsons singapor sinister sithlord
    skateboard skipper1 skittles skorpion skywalke skywalker slamdunk slapshot slimshad slimshady slipknot
    slippery slowhand smackdow smackdown smashing smeghead smirnoff smoothie sneakers snickers snoopdog
    snowball snowbird snowboar snowboard snowflak snuggles soccer10 soccer12 socrates softball software
    sojdlg123aljg solitude sonyericsson soso123aljg soulmate southpar southpark southpaw spaceman sparkles
    spartan1 spartans special1 specialk spectrum spencer1 spiderma spiderman spitfire splinter spongebo
    spongebob sprinter squirrel srinivas stallion stanislav stanley1 starbuck starcraf starcraft stardust
    starfire starfish stargate starligh starship startrek starwars starwars1 steelers stephani stephen1
    stickman stigmata stingray stonecol stonecold stranger stratfor strawber strawberry streaming success1
    summer69 summer99 sundance sundevil sunflowe sunflower sunlight sunnyday sunshine sunshine1 supabase
    super123 superfly superman superman1 supernov supernova supersta superstar survivor svetlana sweetnes
    sweetness sweetpea swimming swordfis swordfish sylveste syncmaster syracuse tacobell taekwondo talisman
    tampabay tarheels tazmania technics teddybea teddybear telephon terminat terminator terrapin test1234
    test12345 testing1 testing123 testtest thailand thanatos thankyou thedoors theforce thegreat therock1
    thirteen thisisit thuglife thumper1 thunder1 thunderb tiberius ticklish tiffany1 tiger123 tinkerbe
    tinkerbell titanium titleist tkbpfdtnf tokiohotel tomahawk tommyboy toonarmy toriamos tottenha tottenham
    translator traveler treasure treefrog trfnthbyf triangle trinitro trinity1 trombone trouble1 trucking
    truelove trumpet1 trustno1 tunafish turkey50 twilight ultimate umbrella underdog undertak undertaker
    universa user1234 username vacation vagabond valentin valentina valhalla valkyrie vampire1 vancouve
    vanessa1 vanguard vanhalen vasilisa vauxhall vendetta verbatim veronika vfhufhbnf vfitymrf vfntvfnbrf
    vfrcbvrf vfvfgfgf viewsoni viewsonic vikings1 viktoria viktoriya vincent1 violetta vipergts vjqgfhjkm
    vkontakte vladimir vladislav volkswag volleyba voyager1 vqsablpzla vsjasnel12 wanderer warcraft wareagle
    warhamme warhammer warrior1 warriors washingt waterboy waterloo webhompas webmaste webmaster welcome1
    welcome123 werewolf westside westwood wg8e3wjf whatever whiplash whiskers whistler whiteboy whiteout
    whitesox whocares wildbill wildcard wildcats wildfire wildwood william1 windmill windsurf winston1
    wishbone wolfgang wolfpack wolverin wolverine wonderboy woodland woodstoc woofwoof wp2003wp wrangler
    wrestlin wrinkle1 yamahar1 yankees1 yankees2 yeahbaby yfcntymrf yjdsqgfhjkm yogibear yosemite z1x2c3v4
    zachary1 zanzibar zaq12wsx zaq1xsw2 zaqwsxcde zaqxswcde zeppelin zerocool zildjian zxasqw12 zxcasdqwe
    zxcasdqwe123 zxcv1234 zxcvb123 zxcvbnm1 zxcvbnm123 zxczxczxc zzzzzzzz', '\s+');
comment on function private.common_passwords() is
    'Passwords of 8 characters and more that are guessed first, in lower case: the one list for SQL and the service.';
grant execute on function private.common_passwords() to authenticator;

create function private.check_password(password text) returns void
language plpgsql immutable
set search_path = ''
as $$
begin
    if coalesce(length(password), 0) < 8 then
        raise sqlstate 'PT422' using message = 'weak_password', detail = 'A password has at least 8 characters.';
    end if;
    -- As Supabase Auth, whose bcrypt would not look at the rest.
    if octet_length(password) > 72 then
        raise sqlstate 'PT422' using message = 'weak_password', detail = 'A password has at most 72 bytes.';
    end if;
    if lower(password collate "C") = any (private.common_passwords()) then
        raise sqlstate 'PT422' using message = 'weak_password',
            detail = 'This password is among those that are guessed first; choose another.';
    end if;
end
$$;
comment on function private.check_password(text) is
    'Refuses a password that is too short, too long or, in whatever case, too common.';

create function private.pbkdf2_sha512(password text, salt bytea, iterations integer) returns bytea
language plpgsql immutable strict
set search_path = ''
as $$
declare
    c_block_bytes constant integer := 128;
    v_key bytea := convert_to(password, 'UTF8');
    v_bits bit(1024);
    v_inner bytea;
    v_outer bytea;
    v_block bytea;
    v_sum bit(512);
begin
    if length(v_key) > c_block_bytes then
        v_key := sha512(v_key);
    end if;
    -- Only bit strings have an exclusive or. Text in hexadecimal leads to them, and their wire format, which begins with
    -- four bytes of length, leads back.
    v_bits := ('x' || rpad(encode(v_key, 'hex'), 2 * c_block_bytes, '0'))::bit(1024);
    v_inner := substr(bit_send(v_bits # ('x' || repeat('36', c_block_bytes))::bit(1024)), 5);
    v_outer := substr(bit_send(v_bits # ('x' || repeat('5c', c_block_bytes))::bit(1024)), 5);
    v_block := sha512(v_outer || sha512(v_inner || salt || '\x00000001'::bytea));
    v_sum := ('x' || encode(v_block, 'hex'))::bit(512);
    for i in 2 .. iterations loop
        v_block := sha512(v_outer || sha512(v_inner || v_block));
        v_sum := v_sum # ('x' || encode(v_block, 'hex'))::bit(512);
    end loop;
    return substr(bit_send(v_sum), 5);
end
$$;
comment on function private.pbkdf2_sha512(text, bytea, integer) is
    'The first block, 64 bytes, of PBKDF2-HMAC-SHA512 (RFC 8018).';

create function private.base64url(bytes bytea) returns text
language sql immutable
set search_path = ''
return translate(encode(bytes, 'base64'), E'+/=\n', '-_');
comment on function private.base64url(bytea) is 'Base64 with the alphabet of addresses, without padding (RFC 4648, section 5).';

-- Where there is pgcrypto.
grant usage on schema extensions to deskbase_definer;

create function private.hash_password(password text) returns text
language plpgsql volatile strict
set search_path = ''
as $$
declare
    -- A tenth of a second; the service puts its own, much costlier hash in its place at the first login.
    c_iterations constant integer := 40000;
    v_salt bytea := uuid_send(gen_random_uuid());  -- 122 random bits
    v_hash text;
begin
    if to_regprocedure('extensions.crypt(text, text)') is not null then
        -- bcrypt, which Supabase Auth understands. Dynamic, because elsewhere there is no such function to check against.
        execute 'select extensions.crypt($1, extensions.gen_salt(''bf'', 10))' into strict v_hash using password;
        return v_hash;
    end if;
    return concat_ws('$', '', 'pbkdf2-sha512', c_iterations, private.base64url(v_salt),
        private.base64url(private.pbkdf2_sha512(password, v_salt, c_iterations)));
end
$$;
comment on function private.hash_password(text) is
    'What is stored of a password that has passed check_password: bcrypt, or $pbkdf2-sha512$iterations$salt$hash where there is no pgcrypto.';

-- sql/30_organizations.sql
/*
 * Organizations are the tenants: each row of every other table belongs to one, by the first column of its key.
 * Members are the people who log in. Their role lives here and nowhere else; a JWT only carries a copy of it.
 */

create table public.organizations (
    id uuid not null default gen_random_uuid() primary key,
    name text not null check (length(name) between 1 and 200),
    domain text check (domain = lower(domain) and length(domain) <= 253),
    settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object' and pg_column_size(settings) <= 262144),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);
alter table public.organizations enable row level security;
alter table public.organizations force row level security;

comment on table public.organizations is 'A tenant: one support desk with its people and tickets.';
comment on column public.organizations.domain is 'The mail domain of its people, lower case.';
comment on column public.organizations.settings is 'Settings of the desk that its admins keep, by name.';
comment on column public.organizations.deleted_at is 'When it was given up; its members can no longer log in.';

-- "The first organization" is the oldest one; see private.first_organization_id.
create index organizations_created_at_idx on public.organizations (created_at, id);

create policy select_member on public.organizations for select to authenticated
    using (id = (select private.organization_id()) and deleted_at is null);
create policy update_admin on public.organizations for update to authenticated
    using (id = (select private.organization_id()) and (select private.is_admin()))
    with check (id = (select private.organization_id()) and (select private.is_admin()));
grant select, update (name, domain, settings) on public.organizations to authenticated;

create trigger _100_timestamps before update on public.organizations
    for each row execute function private.tg__timestamps();

create function private.first_organization_id() returns uuid
language sql stable security definer
set search_path = ''
return (select o.id from public.organizations as o where o.deleted_at is null order by o.created_at, o.id limit 1);
comment on function private.first_organization_id() is
    'The oldest organization: the one that commands and channels without an address mean.';
alter function private.first_organization_id() owner to deskbase_definer;
grant execute on function private.first_organization_id() to authenticator;

create function private.closed_organization_ids() returns setof uuid
language sql stable security definer
set search_path = ''
begin atomic
    select o.id from public.organizations as o where o.deleted_at is not null;
end;
comment on function private.closed_organization_ids() is
    'Organizations that were given up. Definer: visitors may not read organizations.';
alter function private.closed_organization_ids() owner to deskbase_definer;
grant execute on function private.closed_organization_ids() to anon;

create table public.members (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    user_id uuid references auth.users (id) on delete set null,
    username text not null check (length(username) between 1 and 150),
    email text not null check (email = lower(email) and length(email) between 3 and 320),
    name text not null check (length(name) between 1 and 200),
    avatar_url text check (avatar_url ~ '^https?://' and length(avatar_url) <= 2000),
    role public.member_role not null default 'customer',
    department text check (length(department) <= 200),
    presence public.presence not null default 'offline',
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number)
);
alter table public.members enable row level security;
alter table public.members force row level security;

comment on table public.members is 'A person who logs in to an organization, customer or staff.';
comment on column public.members.number is 'The integer that clients with integer ids know the member by.';
comment on column public.members.user_id is 'The login; empty once the account is deleted, so that what the person wrote keeps its author.';
comment on column public.members.username is 'A short name, unique in the organization.';
comment on column public.members.role is 'What the member may do; only an admin''s function writes it.';
comment on column public.members.presence is 'Whether an agent takes work at the moment.';
comment on column public.members.is_active is 'False ends every way in on the next request.';

-- A request looks its member up by login; a login is a member of an organization once.
create unique index members_user_id_organization_id_idx on public.members (user_id, organization_id);
create unique index members_organization_id_email_idx on public.members (organization_id, email);
create unique index members_organization_id_username_idx on public.members (organization_id, lower(username));
-- Inbound credentials of outside issuers name their holder by address; the organization is not known yet.
create index members_email_idx on public.members (email);
-- Log-ins by username, before the organization is known.
create index members_username_idx on public.members (lower(username));
-- Lists of agents.
create index members_organization_id_role_idx on public.members (organization_id, role);

create policy select_colleague on public.members for select to authenticated
    using (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or role >= 'agent' or id = (select private.member_id())));
create policy update_self on public.members for update to authenticated
    using (organization_id = (select private.organization_id()) and id = (select private.member_id()))
    with check (organization_id = (select private.organization_id()) and id = (select private.member_id()));
grant select, update (name, avatar_url, presence) on public.members to authenticated;

create trigger _100_timestamps before update on public.members
    for each row execute function private.tg__timestamps();

create function private.email_of(username text) returns text
language sql stable security definer
set search_path = ''
begin atomic
    select min(m.email)
    from public.members as m
    where lower(m.username) = lower(email_of.username) and m.is_active and m.user_id is not null
    having count(distinct m.email) = 1;
end;
comment on function private.email_of(text) is
    'The address that somebody who gives their username logs in with; null if nobody, or more than one, is called so. Definer: nobody is logged in yet.';
alter function private.email_of(text) owner to deskbase_definer;
grant execute on function private.email_of(text) to authenticator;

create table public.member_settings (
    organization_id uuid not null default private.organization_id(),
    member_id uuid not null default private.member_id(),
    phone text check (length(phone) <= 50),
    email_notifications boolean not null default true,
    desktop_notifications boolean not null default true,
    ticket_updates boolean not null default true,
    ticket_assignments boolean not null default true,
    mentions boolean not null default true,
    updated_at timestamptz not null default now(),
    primary key (organization_id, member_id),
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.member_settings enable row level security;
alter table public.member_settings force row level security;

comment on table public.member_settings is
    'What a member keeps for themselves: a phone number and what they want to be told of. No row means the defaults.';
comment on column public.member_settings.ticket_updates is 'Tell me of replies and changes on my tickets.';
comment on column public.member_settings.ticket_assignments is 'Tell me of tickets that become mine.';
comment on column public.member_settings.mentions is 'Tell me where I am named.';

create policy select_self on public.member_settings for select to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
create policy insert_self on public.member_settings for insert to authenticated
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
create policy update_self on public.member_settings for update to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id()))
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
grant select,
    insert (organization_id, member_id, phone, email_notifications, desktop_notifications, ticket_updates,
        ticket_assignments, mentions),
    update (phone, email_notifications, desktop_notifications, ticket_updates, ticket_assignments, mentions)
    on public.member_settings to authenticated;

create trigger _100_timestamps before update on public.member_settings
    for each row execute function private.tg__timestamps();

-- sql/32_contacts.sql
/*
 * Contacts are the people who ask, whether they can log in or not. A customer who logs in is a member with a contact;
 * a sender on WhatsApp is a contact with an identity on that channel.
 */

create table public.contacts (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    member_id uuid,
    name text check (length(name) <= 200),
    email text check (email = lower(email) and length(email) <= 320),
    phone text check (length(phone) <= 50),
    company text check (length(company) <= 200),
    job_role text check (length(job_role) <= 200),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, member_id) references public.members (organization_id, id)
        on delete set null (member_id)
);
alter table public.contacts enable row level security;
alter table public.contacts force row level security;

comment on table public.contacts is 'A person who asks for help.';
comment on column public.contacts.member_id is 'The member this contact logs in as, if they do.';
comment on column public.contacts.job_role is 'What the person does in their company, in their own words.';

-- Also the way from a member to the contact they write as.
create unique index contacts_organization_id_member_id_idx on public.contacts (organization_id, member_id);
-- Inbound mail and channels match senders by address. Two contacts may share one (a family, a shop).
create index contacts_organization_id_email_idx on public.contacts (organization_id, email);
create index contacts_organization_id_created_at_idx on public.contacts (organization_id, created_at desc, id);

create policy select_member on public.contacts for select to authenticated
    using (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or id = (select private.contact_id())));
create policy insert_agent on public.contacts for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
-- Senders are matched by these addresses, so a customer does not write their own.
create policy update_agent on public.contacts for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
-- A member without a contact could not write any more.
create policy delete_agent on public.contacts for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()) and member_id is null);
grant select, delete,
    insert (organization_id, id, name, email, phone, company, job_role),
    update (name, email, phone, company, job_role)
    on public.contacts to authenticated;

create trigger _100_timestamps before update on public.contacts
    for each row execute function private.tg__timestamps();

create table public.contact_identities (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    contact_id uuid not null,
    channel public.channel not null,
    identity text not null check (length(identity) between 1 and 320),
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, contact_id) references public.contacts (organization_id, id) on delete cascade
);
alter table public.contact_identities enable row level security;
alter table public.contact_identities force row level security;

comment on table public.contact_identities is 'What a channel calls a contact: a phone number, a page-scoped id, a chat session.';

create unique index contact_identities_organization_id_channel_identity_idx
    on public.contact_identities (organization_id, channel, identity);
create index contact_identities_organization_id_contact_id_idx
    on public.contact_identities (organization_id, contact_id);

create policy select_agent on public.contact_identities for select to authenticated
    using (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
create policy insert_agent on public.contact_identities for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_agent on public.contact_identities for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
grant select, delete, insert (organization_id, id, contact_id, channel, identity)
    on public.contact_identities to authenticated;

create function private.give_contact(organization_id uuid, member_id uuid) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_member record;
begin
    -- Proved: by a link in a mail that somebody followed, or by the admin who entered it. An address that the auth
    -- service confirmed by itself is nobody's proof.
    select m.name, m.email,
        u.id is null or u.email_confirmed_at is not null or u.invited_at is not null as is_confirmed,
        u.id is null or u.confirmation_sent_at is not null or u.invited_at is not null as is_proved
    into v_member
    from public.members as m
    left join auth.users as u on u.id = m.user_id
    where m.organization_id = give_contact.organization_id and m.id = give_contact.member_id
        and m.role = 'customer'
        and not exists (
            select from public.contacts as c
            where c.organization_id = m.organization_id and c.member_id = m.id);
    if not found or not v_member.is_confirmed then
        return;
    end if;
    -- A contact who already wrote from this address and cannot log in yet becomes this member's.
    if v_member.is_proved then
        update public.contacts as c
        set member_id = give_contact.member_id
        where c.organization_id = give_contact.organization_id
            and c.id = (
                select k.id from public.contacts as k
                where k.organization_id = give_contact.organization_id and k.email = v_member.email
                    and k.member_id is null
                order by k.created_at limit 1
            );
        if found then
            return;
        end if;
    end if;
    insert into public.contacts (organization_id, member_id, name, email)
    values (give_contact.organization_id, give_contact.member_id, v_member.name, v_member.email);
end
$$;
comment on function private.give_contact(uuid, uuid) is
    'Gives a customer whose address is confirmed, or who was invited by it, the contact they write as: the one who wrote from that address before, if it is proved to be theirs, else a new one. Definer: customers may not write contacts.';
alter function private.give_contact(uuid, uuid) owner to deskbase_definer;

create function private.tg_members__contact() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.give_contact(new.organization_id, new.id);
    return null;
end
$$;
comment on function private.tg_members__contact() is 'Gives a new customer the contact they write as.';

create trigger _300_contact after insert or update of role on public.members
    for each row when (new.role = 'customer') execute function private.tg_members__contact();

-- sql/33_member_identities.sql
/*
 * What an outside issuer of JWTs (DESKBASE_ISSUERS) calls a member. Without a row here a member is found by e-mail.
 */

create table public.member_identities (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    member_id uuid not null,
    issuer text not null check (length(issuer) between 1 and 500),
    subject text not null check (length(subject) between 1 and 500),
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, issuer, subject),
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.member_identities enable row level security;
alter table public.member_identities force row level security;

comment on table public.member_identities is 'Members by the name (issuer and subject) that their JWTs from outside carry; the operator (service_role) enters them.';
comment on column public.member_identities.issuer is 'The iss of those JWTs, letter by letter.';
comment on column public.member_identities.subject is 'Their sub.';

-- A JWT arrives before its organization is known.
create index member_identities_issuer_subject_idx on public.member_identities (issuer, subject);
create index member_identities_organization_id_member_id_idx on public.member_identities (organization_id, member_id);

create policy select_admin on public.member_identities for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
-- No admin adds one: whoever names another organization's person here would draw them over to their own. It is for the
-- operator, who knows the issuers too.
create policy delete_admin on public.member_identities for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete on public.member_identities to authenticated;

create function private.outside_claims(outside jsonb) returns jsonb
language sql stable security definer
set search_path = ''
begin atomic
    select jsonb_build_object('role', 'authenticated', 'aud', 'authenticated', 'sub', m.user_id, 'email', m.email,
        'iss', outside ->> 'issuer', 'app_metadata',
        jsonb_build_object('provider', outside ->> 'issuer', 'organization_id', m.organization_id))
    from (
        select i.organization_id, i.member_id, 1 as rank
        from public.member_identities as i
        where i.issuer = outside ->> 'issuer' and i.subject = outside ->> 'subject'
        union all
        select e.organization_id, e.id, 2
        from public.members as e
        where e.email = lower(outside ->> 'email')
    ) as found
    join public.members as m on m.organization_id = found.organization_id and m.id = found.member_id
    join public.organizations as o on o.id = m.organization_id and o.deleted_at is null
    where m.user_id is not null and m.is_active
    order by found.rank, m.created_at, m.id
    limit 1;
end;
comment on function private.outside_claims(jsonb) is
    'The claims of the member whom a verified JWT of an outside issuer means, by its subject or else its e-mail address; null if nobody. Definer: nobody is known yet.';
alter function private.outside_claims(jsonb) owner to deskbase_definer;

-- sql/34_groups.sql
/*
 * Groups are teams of agents that tickets are given to.
 */

create table public.groups (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null check (length(name) between 1 and 200),
    description text not null default '' check (length(description) <= 10000),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id)
);
alter table public.groups enable row level security;
alter table public.groups force row level security;

comment on table public.groups is 'A team of agents.';

create unique index groups_organization_id_name_idx on public.groups (organization_id, lower(name));

create policy select_agent on public.groups for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy insert_lead on public.groups for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy update_lead on public.groups for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()))
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy delete_lead on public.groups for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, id, name, description), update (name, description)
    on public.groups to authenticated;

create trigger _100_timestamps before update on public.groups
    for each row execute function private.tg__timestamps();

create table public.group_members (
    organization_id uuid not null default private.organization_id(),
    group_id uuid not null,
    member_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, group_id, member_id),
    foreign key (organization_id, group_id) references public.groups (organization_id, id) on delete cascade,
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.group_members enable row level security;
alter table public.group_members force row level security;

comment on table public.group_members is 'Which agent belongs to which group.';

create index group_members_organization_id_member_id_idx on public.group_members (organization_id, member_id);

create policy select_agent on public.group_members for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy insert_lead on public.group_members for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy delete_lead on public.group_members for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, group_id, member_id) on public.group_members to authenticated;

create function private.tg_group_members__agent() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    if not exists (
        select from public.members as m
        where m.organization_id = new.organization_id and m.id = new.member_id and m.role >= 'agent'
    ) then
        raise sqlstate 'PT400' using message = 'not_an_agent', detail = 'Only agents of the organization belong to groups.';
    end if;
    return new;
end
$$;
comment on function private.tg_group_members__agent() is
    'Only agents belong to groups. Definer: the rule must see every member.';
alter function private.tg_group_members__agent() owner to deskbase_definer;

create trigger _250_agent before insert on public.group_members
    for each row execute function private.tg_group_members__agent();

-- sql/36_integration_tokens.sql
/*
 * Integration tokens are principals: a partner's system that holds one works on the tickets it made, within its
 * scopes, under the same policies as people. The token row is its identity and keeps its tickets for life; the secret is a
 * row of its own, so that rotation gives a second secret and takes the first away later.
 */

create table public.integration_tokens (
    organization_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null check (length(btrim(name)) between 1 and 200),
    prefix text not null check (prefix ~ '^stk_'),
    scopes text[] not null
        check (scopes <@ array['tickets:read', 'tickets:write', 'comments:write', 'webhooks:manage']),
    rate_limit integer not null default 1000 check (rate_limit between 1 and 1000000000),
    created_by_member_id uuid,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    rotated_at timestamptz,
    disabled_at timestamptz,
    revoked_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, created_by_member_id) references public.members (organization_id, id)
        on delete set null (created_by_member_id)
);
alter table public.integration_tokens enable row level security;
alter table public.integration_tokens force row level security;

comment on table public.integration_tokens is 'A credential of an outside system; its secret is shown once and never stored.';
comment on column public.integration_tokens.prefix is 'How the current secret begins, to tell tokens apart.';
comment on column public.integration_tokens.scopes is
    'What it may do: tickets:read, tickets:write, comments:write, webhooks:manage.';
comment on column public.integration_tokens.rate_limit is 'Requests an hour, from the top of the hour.';
comment on column public.integration_tokens.last_used_at is 'When it was last used, give or take a second.';
comment on column public.integration_tokens.disabled_at is 'Since when it is switched off; it can be switched on again.';
comment on column public.integration_tokens.revoked_at is 'When it was ended for good.';

-- Commands name a token; a name is free again once its token is revoked.
create unique index integration_tokens_organization_id_name_idx
    on public.integration_tokens (organization_id, lower(name)) where revoked_at is null;
create index integration_tokens_organization_id_created_by_member_id_idx
    on public.integration_tokens (organization_id, created_by_member_id);

create policy select_admin on public.integration_tokens for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.integration_tokens for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, update (name, rate_limit, expires_at) on public.integration_tokens to authenticated;

create table private.integration_token_secrets (
    hash bytea not null primary key check (length(hash) = 32),
    organization_id uuid not null,
    token_id uuid not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    foreign key (organization_id, token_id) references public.integration_tokens (organization_id, id) on delete cascade
);
alter table private.integration_token_secrets enable row level security;
alter table private.integration_token_secrets force row level security;
create policy select_definer on private.integration_token_secrets for select to deskbase_definer using (true);

comment on table private.integration_token_secrets is 'SHA-256 of each live secret of a token; two while a rotation''s grace lasts.';
comment on column private.integration_token_secrets.expires_at is 'When the grace after a rotation ends; empty for the current secret.';

create index integration_token_secrets_organization_id_token_id_idx
    on private.integration_token_secrets (organization_id, token_id);

create table public.token_usage (
    organization_id uuid not null,
    id bigint not null generated always as identity,
    token_id uuid not null,
    operation text not null check (length(operation) <= 200),
    status integer not null,
    duration_ms double precision not null,
    request_id text not null check (length(request_id) <= 200),
    at timestamptz not null,
    primary key (organization_id, id),
    foreign key (organization_id, token_id) references public.integration_tokens (organization_id, id) on delete cascade
);
alter table public.token_usage enable row level security;
alter table public.token_usage force row level security;

comment on table public.token_usage is 'What integration tokens did, a row a request; written in batches, within a second.';
comment on column public.token_usage.duration_ms is 'Time in the service, milliseconds.';

create index token_usage_organization_id_token_id_at_idx on public.token_usage (organization_id, token_id, at desc);
-- Retention takes the oldest rows of everyone.
create index token_usage_at_idx on public.token_usage (at);

create policy select_admin on public.token_usage for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select on public.token_usage to authenticated;

create function private.base62(bytes bytea, width integer) returns text
language plpgsql immutable strict
set search_path = ''
as $$
declare
    c_alphabet constant text := '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
    v_number numeric := 0;
    v_text text := '';
begin
    for i in 0 .. length(bytes) - 1 loop
        v_number := v_number * 256 + get_byte(bytes, i);
    end loop;
    for i in 1 .. width loop
        v_text := substr(c_alphabet, (v_number % 62)::integer + 1, 1) || v_text;
        v_number := div(v_number, 62);
    end loop;
    return v_text;
end
$$;
comment on function private.base62(bytea, integer) is 'Bytes as a big-endian number in base 62, padded with zeros to the width.';

create function private.new_secret(out secret text, out hash bytea)
language plpgsql volatile
set search_path = ''
as $$
begin
    -- Three random UUIDs carry 366 random bits; their hash is 32 bytes of them. Core Postgres has no other strong source.
    secret := 'stk_' || private.base62(sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 43);
    secret := secret || private.base62(substr(sha256(convert_to(secret, 'UTF8')), 1, 4), 6);
    hash := sha256(convert_to(secret, 'UTF8'));
end
$$;
comment on function private.new_secret() is
    'A new token: stk_, 32 random bytes in base 62, and a checksum of six characters that finds typing errors without a query.';

create function private.token_json(token public.integration_tokens, secret text) returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
    'id', token.id, 'name', token.name, 'prefix', token.prefix, 'token', secret,
    'scopes', token.scopes, 'rate_limit', token.rate_limit,
    'created_at', private.rfc3339(token.created_at), 'expires_at', private.rfc3339(token.expires_at)
) || case when secret is null then jsonb_build_object(
    'status', case
        when token.revoked_at is not null then 'revoked'
        when token.disabled_at is not null then 'disabled'
        when token.expires_at <= now() then 'expired'
        else 'active' end,
    'last_used_at', private.rfc3339(token.last_used_at)) else '{}' end;
comment on function private.token_json(public.integration_tokens, text) is
    'A token as its admin sees it; with the secret only right after it was made.';

create function private.create_token(
    organization_id uuid, name text, rate_limit integer, expires_at timestamptz, scopes text[]
) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_secret record;
    v_token public.integration_tokens;
begin
    if expires_at <= now() then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'expires_at must lie in the future.';
    end if;
    v_secret := private.new_secret();
    insert into public.integration_tokens as t
        (organization_id, name, prefix, scopes, rate_limit, created_by_member_id, expires_at)
    values (
        create_token.organization_id,
        btrim(create_token.name),
        left(v_secret.secret, 12),
        coalesce(create_token.scopes, array['tickets:read', 'tickets:write', 'comments:write', 'webhooks:manage']),
        coalesce(create_token.rate_limit, 1000),
        private.member_id(),
        create_token.expires_at)
    returning t.* into v_token;
    insert into private.integration_token_secrets (hash, organization_id, token_id)
    values (v_secret.hash, v_token.organization_id, v_token.id);
    return private.token_json(v_token, v_secret.secret);
end
$$;
comment on function private.create_token(uuid, text, integer, timestamptz, text[]) is
    'Makes a token and answers it with its secret. Definer: nobody writes tokens or hashes directly.';
alter function private.create_token(uuid, text, integer, timestamptz, text[]) owner to deskbase_definer;

create function private.find_token(organization_id uuid, token_id uuid) returns public.integration_tokens
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token public.integration_tokens;
begin
    select t.* into v_token from public.integration_tokens as t
    where t.organization_id = find_token.organization_id and t.id = find_token.token_id
    for update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such integration token.';
    end if;
    if v_token.revoked_at is not null then
        raise sqlstate 'PT409' using message = 'token_revoked', detail = 'A revoked token stays revoked; create a new one.';
    end if;
    return v_token;
end
$$;
comment on function private.find_token(uuid, uuid) is 'Locks a token that is not revoked. Definer: it serves the functions below.';
alter function private.find_token(uuid, uuid) owner to deskbase_definer;

create function private.rotate_token(organization_id uuid, token_id uuid, grace_seconds integer) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_secret record;
    v_token public.integration_tokens := private.find_token(organization_id, token_id);
begin
    if coalesce(grace_seconds, 0) not between 0 and 30 * 86400 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'grace_seconds must lie between 0 and 2592000.';
    end if;
    v_secret := private.new_secret();
    -- The last secret lives on for the grace; one that was already on its way out is not given more time.
    update private.integration_token_secrets as s
    set expires_at = least(s.expires_at, now() + coalesce(grace_seconds, 0) * interval '1 second')
    where s.organization_id = v_token.organization_id and s.token_id = v_token.id;
    insert into private.integration_token_secrets (hash, organization_id, token_id)
    values (v_secret.hash, v_token.organization_id, v_token.id);
    update public.integration_tokens as t
    set prefix = left(v_secret.secret, 12), rotated_at = now()
    where t.organization_id = v_token.organization_id and t.id = v_token.id
    returning t.* into v_token;
    return private.token_json(v_token, v_secret.secret);
end
$$;
comment on function private.rotate_token(uuid, uuid, integer) is
    'Gives a token a new secret; the old one works for grace_seconds more. Definer: hashes are nobody''s to write.';
alter function private.rotate_token(uuid, uuid, integer) owner to deskbase_definer;

create function private.disable_token(organization_id uuid, token_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token public.integration_tokens := private.find_token(organization_id, token_id);
begin
    update public.integration_tokens as t
    set disabled_at = coalesce(t.disabled_at, now())
    where t.organization_id = v_token.organization_id and t.id = v_token.id
    returning t.* into v_token;
    return private.token_json(v_token, null);
end
$$;
comment on function private.disable_token(uuid, uuid) is 'Switches a token off. Definer: serves admins and commands.';
alter function private.disable_token(uuid, uuid) owner to deskbase_definer;

create function private.enable_token(organization_id uuid, token_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token public.integration_tokens := private.find_token(organization_id, token_id);
begin
    update public.integration_tokens as t
    set disabled_at = null
    where t.organization_id = v_token.organization_id and t.id = v_token.id
    returning t.* into v_token;
    return private.token_json(v_token, null);
end
$$;
comment on function private.enable_token(uuid, uuid) is 'Switches a disabled token on. Definer: serves admins and commands.';
alter function private.enable_token(uuid, uuid) owner to deskbase_definer;

create function private.revoke_token(organization_id uuid, token_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token public.integration_tokens := private.find_token(organization_id, token_id);
begin
    delete from private.integration_token_secrets as s
    where s.organization_id = v_token.organization_id and s.token_id = v_token.id;
    update public.integration_tokens as t
    set revoked_at = now()
    where t.organization_id = v_token.organization_id and t.id = v_token.id
    returning t.* into v_token;
    return private.token_json(v_token, null);
end
$$;
comment on function private.revoke_token(uuid, uuid) is 'Ends a token for good and forgets its hashes. Definer: serves admins and commands.';
alter function private.revoke_token(uuid, uuid) owner to deskbase_definer;

create function private.require_admin() returns uuid
language plpgsql stable
set search_path = ''
as $$
begin
    if not private.is_admin() then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only an admin of the organization may do this.';
    end if;
    return private.organization_id();
end
$$;
comment on function private.require_admin() is 'The organization of the admin who is asking; anyone else is refused.';
grant execute on function private.require_admin() to authenticated;

/* The same over PostgREST. The functions above take an organization and trust it, so clients reach them only through
   these definers, which take the organization from the admin's own claims. */

create function private.admin_create_token(name text, rate_limit integer, expires_at timestamptz, scopes text[])
returns jsonb
language sql volatile security definer
set search_path = ''
return private.create_token(private.require_admin(), name, rate_limit, expires_at, scopes);
comment on function private.admin_create_token(text, integer, timestamptz, text[]) is
    'create_token for the admin who is asking. Definer: checks the caller and hands on.';
alter function private.admin_create_token(text, integer, timestamptz, text[]) owner to deskbase_definer;
grant execute on function private.admin_create_token(text, integer, timestamptz, text[]) to authenticated;

create function private.admin_change_token(action text, token_id uuid, grace_seconds integer default null) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid := private.require_admin();
begin
    return case action
        when 'rotate' then private.rotate_token(v_organization_id, token_id, grace_seconds)
        when 'disable' then private.disable_token(v_organization_id, token_id)
        when 'enable' then private.enable_token(v_organization_id, token_id)
        when 'revoke' then private.revoke_token(v_organization_id, token_id)
    end;
end
$$;
comment on function private.admin_change_token(text, uuid, integer) is
    'rotate, disable, enable or revoke for the admin who is asking. Definer: checks the caller and hands on.';
alter function private.admin_change_token(text, uuid, integer) owner to deskbase_definer;
grant execute on function private.admin_change_token(text, uuid, integer) to authenticated;

create function public.create_integration_token(
    name text, rate_limit integer default null, expires_at timestamptz default null, scopes text[] default null
) returns jsonb
language sql volatile
set search_path = ''
return private.admin_create_token(name, rate_limit, expires_at, scopes);
comment on function public.create_integration_token(text, integer, timestamptz, text[]) is
    E'Create an integration token\n\nAdmins only. Answers {id, name, prefix, token, scopes, rate_limit, created_at, expires_at}; the token is shown this once.';

create function public.rotate_integration_token(id uuid, grace_seconds integer default 0) returns jsonb
language sql volatile
set search_path = ''
return private.admin_change_token('rotate', id, grace_seconds);
comment on function public.rotate_integration_token(uuid, integer) is
    E'Rotate an integration token\n\nAdmins only. Answers the new token once; the old one works for grace_seconds more (30 days at most).';

create function public.disable_integration_token(id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.admin_change_token('disable', id);
comment on function public.disable_integration_token(uuid) is
    E'Switch an integration token off\n\nAdmins only. It can be enabled again.';

create function public.enable_integration_token(id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.admin_change_token('enable', id);
comment on function public.enable_integration_token(uuid) is E'Switch a disabled integration token on\n\nAdmins only.';

create function public.revoke_integration_token(id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.admin_change_token('revoke', id);
comment on function public.revoke_integration_token(uuid) is E'End an integration token for good\n\nAdmins only.';

grant execute on function
    public.create_integration_token(text, integer, timestamptz, text[]),
    public.rotate_integration_token(uuid, integer),
    public.disable_integration_token(uuid),
    public.enable_integration_token(uuid),
    public.revoke_integration_token(uuid)
    to authenticated;

create function private.record_token_usage(rows jsonb) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    -- Batches of several processes lock tokens in one order.
    with locked as (
        select t.organization_id, t.id
        from public.integration_tokens as t
        where (t.organization_id, t.id) in (
            select k.organization_id, k.token_id
            from jsonb_to_recordset(rows) as k (organization_id uuid, token_id uuid))
        order by t.organization_id, t.id
        for no key update
    ), u as (
        select r.*
        from jsonb_to_recordset(rows) as r (
            organization_id uuid, token_id uuid, operation text, status integer, duration_ms double precision,
            request_id text, at timestamptz)
        join locked as t on t.organization_id = r.organization_id and t.id = r.token_id
    ), used as (
        update public.integration_tokens as t
        set last_used_at = greatest(t.last_used_at, l.at)
        from (select u.organization_id, u.token_id, max(u.at) as at from u group by 1, 2) as l
        where t.organization_id = l.organization_id and t.id = l.token_id
    )
    insert into public.token_usage (organization_id, token_id, operation, status, duration_ms, request_id, at)
    select u.organization_id, u.token_id, u.operation, u.status, u.duration_ms, u.request_id, u.at from u;
end;
comment on function private.record_token_usage(jsonb) is
    'Writes a batch of usage; rows of a token that is gone are dropped. Definer: the service''s login owns nothing.';
alter function private.record_token_usage(jsonb) owner to deskbase_definer;
grant execute on function private.record_token_usage(jsonb) to authenticator;

-- sql/38_categories.sql
/*
 * What tickets are sorted by: categories (one a ticket), tags (many a ticket), and the service levels that
 * set their clocks.
 */

create table public.categories (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    name text not null check (length(btrim(name)) between 1 and 200),
    description text not null default '' check (length(description) <= 10000),
    color text not null default '#6c757d' check (color ~ '^#[0-9a-fA-F]{6}$'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number)
);
alter table public.categories enable row level security;
alter table public.categories force row level security;

comment on table public.categories is 'What a ticket is about; one a ticket.';
comment on column public.categories.number is 'The integer that clients with integer ids know the category by.';
comment on column public.categories.color is 'As #rrggbb.';

-- A name is linked whatever its case.
create unique index categories_organization_id_name_idx on public.categories (organization_id, lower(name));

create policy select_member on public.categories for select to authenticated, integration
    using (organization_id = (select private.organization_id()));
create policy insert_agent on public.categories for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy update_agent on public.categories for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_lead on public.categories for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, id, name, description, color), update (name, description, color)
    on public.categories to authenticated;
grant select on public.categories to integration;

create trigger _100_timestamps before update on public.categories
    for each row execute function private.tg__timestamps();

create table public.tags (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    name text not null check (length(btrim(name)) between 1 and 100),
    description text not null default '' check (length(description) <= 10000),
    color text not null default '#6c757d' check (color ~ '^#[0-9a-fA-F]{6}$'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number)
);
alter table public.tags enable row level security;
alter table public.tags force row level security;

comment on table public.tags is 'A word that tickets are marked with.';
comment on column public.tags.number is 'The integer that clients with integer ids know the tag by.';
comment on column public.tags.color is 'As #rrggbb.';

create unique index tags_organization_id_name_idx on public.tags (organization_id, lower(name));

create policy select_member on public.tags for select to authenticated, integration
    using (organization_id = (select private.organization_id()));
create policy insert_agent on public.tags for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy update_agent on public.tags for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_lead on public.tags for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, id, name, description, color), update (name, description, color)
    on public.tags to authenticated;
grant select on public.tags to integration;

create trigger _100_timestamps before update on public.tags
    for each row execute function private.tg__timestamps();

create table public.sla_policies (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    priority public.ticket_priority not null,
    id uuid not null default gen_random_uuid(),
    first_response_minutes integer check (first_response_minutes between 1 and 5256000),
    resolution_minutes integer check (resolution_minutes between 1 and 5256000),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, priority)
);
alter table public.sla_policies enable row level security;
alter table public.sla_policies force row level security;

comment on table public.sla_policies is 'How soon tickets of a priority are to be answered and resolved.';
comment on column public.sla_policies.first_response_minutes is 'Minutes to an agent''s first public reply; empty: no promise.';
comment on column public.sla_policies.resolution_minutes is
    'Minutes to resolution, the time a ticket spends waiting or on hold not counted; empty: no promise.';

create policy select_agent on public.sla_policies for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy insert_admin on public.sla_policies for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.sla_policies for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_admin on public.sla_policies for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete,
    insert (organization_id, id, priority, first_response_minutes, resolution_minutes),
    update (priority, first_response_minutes, resolution_minutes)
    on public.sla_policies to authenticated;

create trigger _100_timestamps before update on public.sla_policies
    for each row execute function private.tg__timestamps();

create table public.custom_fields (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    key text not null check (key ~ '^[a-z][a-z0-9_]{0,62}$'),
    label text not null check (length(label) between 1 and 200),
    kind text not null check (kind in ('text', 'number', 'boolean', 'date', 'choice')),
    choices text[] not null default '{}',
    is_required boolean not null default false,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, key),
    constraint custom_fields_choice_needs_choices check (kind <> 'choice' or cardinality(choices) > 0)
);
alter table public.custom_fields enable row level security;
alter table public.custom_fields force row level security;

comment on table public.custom_fields is 'The fields that an organization adds to its tickets; values are in tickets.custom_fields by key.';

create policy select_member on public.custom_fields for select to authenticated
    using (organization_id = (select private.organization_id()));
create policy insert_admin on public.custom_fields for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.custom_fields for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_admin on public.custom_fields for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete, insert (organization_id, id, key, label, kind, choices, is_required),
    update (label, choices, is_required)
    on public.custom_fields to authenticated;

-- sql/40_tickets.sql
/*
 * The ticket. Its rules are triggers here and hold for every way in: defaults that cannot be forged, what a customer may
 * change, the status machine, the service level clocks, soft delete.
 */

create table public.tickets (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    subject text not null check (length(btrim(subject)) > 0 and length(subject) <= 500),
    description text not null default '' check (length(description) <= 100000),
    status public.ticket_status not null default 'new',
    priority public.ticket_priority not null default 'medium',
    type public.ticket_type not null default 'question',
    channel public.channel not null default 'web',
    category_id uuid,
    category_label text check (length(btrim(category_label)) between 1 and 200),
    contact_id uuid,
    created_by_member_id uuid,
    integration_token_id uuid,
    assignee_id uuid,
    group_id uuid,
    due_at timestamptz check (isfinite(due_at)),
    resolution text check (length(resolution) <= 100000),
    custom_fields jsonb not null default '{}' check (jsonb_typeof(custom_fields) = 'object' and pg_column_size(custom_fields) <= 262144),
    metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object' and pg_column_size(metadata) <= 262144),
    origin_id text check (length(origin_id) <= 320),
    external_id text check (length(external_id) between 1 and 320),
    is_bot_handoff boolean not null default false,
    version bigint not null default 1,
    first_response_due_at timestamptz,
    resolution_due_at timestamptz,
    clock_stopped_at timestamptz,
    time_stopped interval not null default '0',
    first_response_at timestamptz,
    resolved_at timestamptz,
    closed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    priority_rank integer not null generated always as (array_position(array['low', 'medium', 'high', 'urgent'], priority::text)) stored,
    primary key (organization_id, id),
    unique (organization_id, number),
    constraint tickets_one_category check (category_id is null or category_label is null),
    foreign key (organization_id, category_id) references public.categories (organization_id, id)
        on delete set null (category_id),
    foreign key (organization_id, contact_id) references public.contacts (organization_id, id)
        on delete set null (contact_id),
    foreign key (organization_id, created_by_member_id) references public.members (organization_id, id)
        on delete set null (created_by_member_id),
    foreign key (organization_id, integration_token_id) references public.integration_tokens (organization_id, id)
        on delete set null (integration_token_id),
    foreign key (organization_id, assignee_id) references public.members (organization_id, id)
        on delete set null (assignee_id),
    foreign key (organization_id, group_id) references public.groups (organization_id, id)
        on delete set null (group_id)
);
alter table public.tickets enable row level security;
alter table public.tickets force row level security;

comment on table public.tickets is
    E'A request for help\n\nDelete is soft. Organization, requester and creator come from the credential.';
comment on column public.tickets.number is 'The integer that clients with integer ids know the ticket by.';
comment on column public.tickets.category_label is 'A category''s name as the client gave it, where the organization has none of that name.';
comment on column public.tickets.contact_id is 'The requester.';
comment on column public.tickets.created_by_member_id is 'The member who wrote it down, customer or agent.';
comment on column public.tickets.integration_token_id is 'The integration that made it, and alone among integrations sees it.';
comment on column public.tickets.metadata is 'What an integration keeps with the ticket, 256 KiB at most; ours to store, theirs to read.';
comment on column public.tickets.origin_id is 'Where on its channel it came from: a number, a page, a session.';
comment on column public.tickets.external_id is 'What another system calls this ticket; unique in the organization.';
comment on column public.tickets.version is 'One more with every change and comment; answered as ETag.';
comment on column public.tickets.clock_stopped_at is 'Since when the resolution clock stands still, the ticket being waiting or on hold.';
comment on column public.tickets.time_stopped is 'How long the resolution clock stood still before that.';
comment on column public.tickets.deleted_at is 'When it was deleted; nobody sees it then, and an admin may restore it.';
comment on column public.tickets.priority_rank is 'What to order by for an order by priority: 1 is low, 4 urgent.';

-- Lists: everything of an organization, newest first, and by status; the keyset (created_at, id) pages both.
create index tickets_organization_id_created_at_idx on public.tickets (organization_id, created_at desc, id desc)
    where deleted_at is null;
create index tickets_organization_id_status_idx on public.tickets (organization_id, status, created_at desc, id desc)
    where deleted_at is null;
-- The policy of customers, and each reference.
create index tickets_organization_id_contact_id_idx on public.tickets (organization_id, contact_id, created_at desc, id desc);
create index tickets_organization_id_assignee_id_idx on public.tickets (organization_id, assignee_id, created_at desc, id desc);
create index tickets_organization_id_group_id_idx on public.tickets (organization_id, group_id);
create index tickets_organization_id_category_id_idx on public.tickets (organization_id, category_id);
create index tickets_organization_id_created_by_member_id_idx on public.tickets (organization_id, created_by_member_id);
create index tickets_organization_id_integration_token_id_idx
    on public.tickets (organization_id, integration_token_id);
create unique index tickets_organization_id_external_id_idx on public.tickets (organization_id, external_id);
-- Lists by priority and by due date, either way; what is overdue; what was resolved lately.
create index tickets_organization_id_priority_rank_idx on public.tickets (organization_id, priority_rank, id)
    where deleted_at is null;
create index tickets_organization_id_due_at_idx on public.tickets (organization_id, due_at, id) where deleted_at is null;
create index tickets_organization_id_due_at_id_idx
    on public.tickets (organization_id, due_at desc nulls last, id desc) where deleted_at is null;
create index tickets_organization_id_due_idx on public.tickets (organization_id, due_at)
    where deleted_at is null and due_at is not null and status not in ('resolved', 'closed');
create index tickets_organization_id_resolved_at_idx on public.tickets (organization_id, resolved_at)
    where deleted_at is null and resolved_at is not null;
-- Search, which tests the organization and the reader itself: @@ is not leakproof (docs/database.md).
create index tickets_search_idx on public.tickets
    using gin (to_tsvector('simple', translate(subject || ' ' || description, '-_/', '   ')));

create policy select_member on public.tickets for select to authenticated
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
create policy select_integration on public.tickets for select to integration
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and integration_token_id = (select private.token_id()) and (select private.has_scope('tickets:read')));
-- A customer asks; whom it is given to, until when, and where replies are sent is the desk's affair.
create policy insert_member on public.tickets for insert to authenticated
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent())
            or (contact_id = (select private.contact_id()) and assignee_id is null and group_id is null
                and due_at is null and origin_id is null and external_id is null
                and channel in ('web', 'email', 'api', 'phone', 'chatbot'))));
create policy insert_integration on public.tickets for insert to integration
    with check (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('tickets:write')));
create policy update_member on public.tickets for update to authenticated
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and ((select private.is_agent()) or contact_id = (select private.contact_id())))
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
create policy update_integration on public.tickets for update to integration
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and integration_token_id = (select private.token_id()) and (select private.has_scope('tickets:write')))
    with check (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('tickets:write')));
create policy delete_agent on public.tickets for delete to authenticated
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and (select private.is_agent()));

grant select, delete,
    insert (organization_id, id, subject, description, priority, type, channel, category_id, category_label, contact_id,
        assignee_id, group_id, due_at, custom_fields, metadata, origin_id, external_id, is_bot_handoff),
    update (subject, description, status, priority, type, category_id, category_label, contact_id, assignee_id,
        group_id, due_at, resolution, custom_fields, metadata)
    on public.tickets to authenticated;
grant select,
    insert (organization_id, id, subject, description, priority, type, channel, category_id, category_label,
        custom_fields, metadata, external_id),
    update (status, priority, metadata)
    on public.tickets to integration;

create function private.refuse_foreign(organization_id uuid) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if private.claims() ->> 'role' in ('authenticated', 'integration')
        and organization_id is distinct from private.organization_id() then
        raise insufficient_privilege using message = 'new row violates row-level security policy';
    end if;
end
$$;
comment on function private.refuse_foreign(uuid) is
    'What the policy would say, said before a definer trigger looks anything up in an organization that is not the writer''s.';

create function private.tg_tickets__defaults() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_who jsonb := private.claims() -> 'app_metadata';
begin
    -- A request writes in its own name. Whoever asks without a credential of a person or a token is the desk itself.
    if v_who ->> 'member_id' is not null then
        new.created_by_member_id := (v_who ->> 'member_id')::uuid;
        new.contact_id := coalesce(new.contact_id, (v_who ->> 'contact_id')::uuid);
    elsif v_who ->> 'token_id' is not null then
        new.integration_token_id := (v_who ->> 'token_id')::uuid;
    end if;
    select new.created_at + p.first_response_minutes * interval '1 minute',
           new.created_at + p.resolution_minutes * interval '1 minute'
    into new.first_response_due_at, new.resolution_due_at
    from public.sla_policies as p
    where p.organization_id = new.organization_id and p.priority = new.priority;
    return new;
end
$$;
comment on function private.tg_tickets__defaults() is
    'Names the creator and starts the clocks. Definer: customers and integrations may not read service levels.';
alter function private.tg_tickets__defaults() owner to deskbase_definer;

create function private.tg_tickets__versions() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    new.updated_at := now();
    new.version := old.version + 1;
    return new;
end
$$;
comment on function private.tg_tickets__versions() is 'Counts every change.';

create function private.tg_tickets__customer_rights() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    if old.status = 'closed' then
        raise sqlstate 'PT409' using message = 'ticket_closed',
            detail = 'This ticket is closed; open a new one.';
    end if;
    if (new.category_id, new.category_label, new.contact_id, new.assignee_id, new.group_id, new.due_at, new.type,
            new.resolution, new.custom_fields, new.metadata)
        is distinct from (old.category_id, old.category_label, old.contact_id, old.assignee_id, old.group_id,
            old.due_at, old.type, old.resolution, old.custom_fields, old.metadata) then
        raise sqlstate 'PT403' using message = 'forbidden',
            detail = 'Customers may change the subject, the description and the priority, and resolve, close or reopen.';
    end if;
    if new.status is distinct from old.status and not (
        new.status in ('resolved', 'closed') or (new.status = 'open' and old.status in ('waiting', 'resolved'))
    ) then
        raise sqlstate 'PT403' using message = 'forbidden',
            detail = 'Customers may resolve, close or reopen a ticket; its other states are the desk''s.';
    end if;
    return new;
end
$$;
comment on function private.tg_tickets__customer_rights() is 'What a customer may change on their own ticket.';

create function private.tg_tickets__assignee() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    if not exists (
        select from public.members as m
        where m.organization_id = new.organization_id and m.id = new.assignee_id and m.role >= 'agent' and m.is_active
    ) then
        raise sqlstate 'PT400' using message = 'not_an_agent',
            detail = 'A ticket can be assigned to an active agent of its organization only.';
    end if;
    return new;
end
$$;
comment on function private.tg_tickets__assignee() is
    'Only agents get tickets. Definer: the rule must see every member.';
alter function private.tg_tickets__assignee() owner to deskbase_definer;

create function private.tg_tickets__status() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    new.resolved_at := case
        when new.status = 'resolved' then now()
        when new.status = 'closed' then coalesce(old.resolved_at, now()) end;
    new.closed_at := case when new.status = 'closed' then now() end;
    if new.status in ('waiting', 'on_hold') then
        new.clock_stopped_at := coalesce(old.clock_stopped_at, now());
    elsif old.clock_stopped_at is not null then
        new.time_stopped := old.time_stopped + (now() - old.clock_stopped_at);
        new.resolution_due_at := old.resolution_due_at + (now() - old.clock_stopped_at);
        new.clock_stopped_at := null;
    end if;
    return new;
end
$$;
comment on function private.tg_tickets__status() is
    'The moments that go with a status, and the resolution clock, which stands still while a ticket waits.';

create function private.tg_tickets__priority() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    select new.created_at + p.first_response_minutes * interval '1 minute',
           new.created_at + p.resolution_minutes * interval '1 minute' + new.time_stopped
    into new.first_response_due_at, new.resolution_due_at
    from public.sla_policies as p
    where p.organization_id = new.organization_id and p.priority = new.priority;
    if old.first_response_at is not null then
        new.first_response_due_at := old.first_response_due_at;
    end if;
    return new;
end
$$;
comment on function private.tg_tickets__priority() is
    'Another priority is another promise. Definer: customers and integrations may not read service levels.';
alter function private.tg_tickets__priority() owner to deskbase_definer;

create function private.tg_tickets__soft_delete() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.tickets as t
    set deleted_at = now()
    where t.organization_id = old.organization_id and t.id = old.id and t.deleted_at is null;
    return null;
end
$$;
comment on function private.tg_tickets__soft_delete() is
    'Marks instead of deleting. Definer: the mark makes the row invisible to the one who sets it.';
alter function private.tg_tickets__soft_delete() owner to deskbase_definer;

create trigger _100_defaults before insert on public.tickets
    for each row execute function private.tg_tickets__defaults();
create trigger _100_versions before update on public.tickets
    for each row execute function private.tg_tickets__versions();
create trigger _200_customer_rights before update on public.tickets
    for each row when (private.contact_id() is not null and private.member_id() is not null
        and not private.is_agent() and current_user = 'authenticated')
    execute function private.tg_tickets__customer_rights();
create trigger _250_assignee_insert before insert on public.tickets
    for each row when (new.assignee_id is not null) execute function private.tg_tickets__assignee();
create trigger _250_assignee_update before update on public.tickets
    for each row when (new.assignee_id is not null and old.assignee_id is distinct from new.assignee_id)
    execute function private.tg_tickets__assignee();
create trigger _300_status_insert before insert on public.tickets
    for each row when (new.status <> 'new') execute function private.tg_tickets__status();
create trigger _300_status before update on public.tickets
    for each row when (old.status is distinct from new.status) execute function private.tg_tickets__status();
create trigger _310_priority before update on public.tickets
    for each row when (old.priority is distinct from new.priority) execute function private.tg_tickets__priority();
-- Deleting an organization cascades from inside a trigger, and is meant.
create trigger _100_soft_delete before delete on public.tickets
    for each row when (pg_trigger_depth() = 0) execute function private.tg_tickets__soft_delete();

create function private.restore_ticket(id uuid) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid := private.require_admin();
begin
    update public.tickets as t
    set deleted_at = null
    where t.organization_id = v_organization_id and t.id = restore_ticket.id and t.deleted_at is not null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such deleted ticket.';
    end if;
    return true;
end
$$;
comment on function private.restore_ticket(uuid) is 'Undoes a delete. Definer: nobody sees deleted tickets.';
alter function private.restore_ticket(uuid) owner to deskbase_definer;
grant execute on function private.restore_ticket(uuid) to authenticated;

create function public.restore_ticket(id uuid) returns boolean
language sql volatile
set search_path = ''
return private.restore_ticket(id);
comment on function public.restore_ticket(uuid) is E'Restore a deleted ticket\n\nAdmins only; answers true.';
grant execute on function public.restore_ticket(uuid) to authenticated;

create table public.ticket_tags (
    organization_id uuid not null default private.organization_id(),
    ticket_id uuid not null,
    tag_id uuid not null,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, ticket_id, tag_id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, tag_id) references public.tags (organization_id, id) on delete cascade
);
alter table public.ticket_tags enable row level security;
alter table public.ticket_tags force row level security;

comment on table public.ticket_tags is 'Which ticket carries which tag.';
comment on column public.ticket_tags.ticket_deleted_at is 'The ticket''s deleted_at, kept here so that the policy need not look.';

-- Tickets by tag, and how often a tag is used.
create index ticket_tags_organization_id_tag_id_idx on public.ticket_tags (organization_id, tag_id, ticket_id);

create policy select_member on public.ticket_tags for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent()) or ticket_id in (
            select t.id from public.tickets as t
            where t.organization_id = (select private.organization_id())
                and t.contact_id = (select private.contact_id()))));
create policy insert_agent on public.ticket_tags for insert to authenticated
    with check (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and (select private.is_agent()));
create policy delete_agent on public.ticket_tags for delete to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and (select private.is_agent()));
grant select, delete, insert (organization_id, ticket_id, tag_id) on public.ticket_tags to authenticated;

create function private.tg__of_ticket() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform private.refuse_foreign(new.organization_id);
    select t.deleted_at into new.ticket_deleted_at
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id
    for share;
    if not found or new.ticket_deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    return new;
end
$$;
comment on function private.tg__of_ticket() is
    'A row that belongs to a ticket needs one that is there. Definer: the ticket may be hidden from the writer.';
alter function private.tg__of_ticket() owner to deskbase_definer;

create trigger _100_of_ticket before insert on public.ticket_tags
    for each row execute function private.tg__of_ticket();

-- sql/41_tallies.sql
/*
 * How many tickets there are of each kind, so that a total and a dashboard cost the same for a million as for a hundred. A
 * change of a ticket adds rows to what was counted before (+1 here, -1 there): nobody waits for anybody else's count, and
 * whoever reads sums up what their snapshot sees, which agrees with the tickets that it sees. The worker folds the rows.
 */

create table private.ticket_tallies (
    organization_id uuid not null,
    id bigint not null generated always as identity,
    status public.ticket_status not null,
    priority public.ticket_priority not null,
    category_id uuid,
    assignee_id uuid,
    tickets bigint not null,
    resolved bigint not null,
    time_to_resolve interval not null,
    is_folded boolean not null default false,
    -- Whoever counts an organization reads all of its rows, and little else.
    primary key (organization_id, id) include (status, priority, category_id, assignee_id, tickets)
);
alter table private.ticket_tallies enable row level security;
alter table private.ticket_tallies force row level security;
create policy select_definer on private.ticket_tallies for select to deskbase_definer using (true);

comment on table private.ticket_tallies is 'Tickets that are not deleted, counted by kind; the count of a kind is the sum of its rows.';
comment on column private.ticket_tallies.tickets is 'How many more, or fewer.';
comment on column private.ticket_tallies.resolved is 'How many of them have been resolved.';
comment on column private.ticket_tallies.time_to_resolve is 'What that took, all together.';
comment on column private.ticket_tallies.is_folded is 'Whether it is the one row in which the worker gathers its kind.';

-- The worker's: the one row of a kind, and the rows that are to be folded.
create unique index ticket_tallies_organization_id_status_idx on private.ticket_tallies
    (organization_id, status, priority, category_id, assignee_id) nulls not distinct where is_folded;
create index ticket_tallies_is_folded_idx on private.ticket_tallies (is_folded) where not is_folded;

create function private.tg_tickets__tally() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_sign constant integer := tg_argv[0]::integer;
begin
    insert into private.ticket_tallies
        (organization_id, status, priority, category_id, assignee_id, tickets, resolved, time_to_resolve)
    select t.organization_id, t.status, t.priority, t.category_id, t.assignee_id, v_sign * count(*),
        v_sign * count(t.resolved_at), v_sign * coalesce(sum(t.resolved_at - t.created_at), '0')
    from counted as t
    where t.deleted_at is null
    group by t.organization_id, t.status, t.priority, t.category_id, t.assignee_id;
    return null;
end
$$;
comment on function private.tg_tickets__tally() is
    'Counts tickets that are new, or no more those that are gone for good: 1 or -1 is its argument. Definer: nobody else writes counts.';
alter function private.tg_tickets__tally() owner to deskbase_definer;
create trigger _700_tally after insert on public.tickets referencing new table as counted
    for each statement execute function private.tg_tickets__tally('1');
create trigger _700_tally_delete after delete on public.tickets referencing old table as counted
    for each statement execute function private.tg_tickets__tally('-1');

create function private.tg_tickets__tally_moved() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    insert into private.ticket_tallies
        (organization_id, status, priority, category_id, assignee_id, tickets, resolved, time_to_resolve)
    select old.organization_id, old.status, old.priority, old.category_id, old.assignee_id, -1,
        -(old.resolved_at is not null)::integer, -coalesce(old.resolved_at - old.created_at, '0')
    where old.deleted_at is null
    union all
    select new.organization_id, new.status, new.priority, new.category_id, new.assignee_id, 1,
        (new.resolved_at is not null)::integer, coalesce(new.resolved_at - new.created_at, '0')
    where new.deleted_at is null;
    return null;
end
$$;
comment on function private.tg_tickets__tally_moved() is 'Counts a ticket as what it has become. Definer: nobody else writes counts.';
alter function private.tg_tickets__tally_moved() owner to deskbase_definer;
create trigger _700_tally_moved after update on public.tickets
    for each row when (
        (old.status, old.priority, old.category_id, old.assignee_id, old.resolved_at, old.created_at, old.deleted_at)
        is distinct from
        (new.status, new.priority, new.category_id, new.assignee_id, new.resolved_at, new.created_at, new.deleted_at))
    execute function private.tg_tickets__tally_moved();

create function private.tallies() returns setof private.ticket_tallies
language sql stable security definer rows 1000
set search_path = ''
begin atomic
    select t.*
    from private.ticket_tallies as t
    where (select private.is_agent()) and t.organization_id = (select private.organization_id());
end;
comment on function private.tallies() is
    'The counts of an agent''s organization; whoever does not see all of its tickets is told nothing. Definer: the counts are behind no policy.';
alter function private.tallies() owner to deskbase_definer;

create function private.count_tickets(statuses text[], priorities text[], category_id uuid, assignee_id uuid) returns bigint
language sql stable security definer
set search_path = ''
begin atomic
    select sum(t.tickets)::bigint
    from private.ticket_tallies as t
    where (select private.is_agent()) and t.organization_id = (select private.organization_id())
        and (statuses is null or t.status = any (statuses))
        and (priorities is null or t.priority = any (priorities))
        and (count_tickets.category_id is null or t.category_id = count_tickets.category_id)
        and (count_tickets.assignee_id is null or t.assignee_id = count_tickets.assignee_id);
end;
comment on function private.count_tickets(text[], text[], uuid, uuid) is
    'How many tickets of some kind an agent''s organization has, null if it never had one; null as an argument is any. For agents alone: who sees less counts what they see. Definer: the counts are behind no policy.';
alter function private.count_tickets(text[], text[], uuid, uuid) owner to deskbase_definer;
grant execute on function private.tallies(), private.count_tickets(text[], text[], uuid, uuid) to authenticated;

create function private.fold_tallies() returns bigint
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_folded bigint;
begin
    if not pg_try_advisory_xact_lock(7310589216) then
        return 0;
    end if;
    perform set_config('synchronous_commit', 'off', true);
    with taken as (
        delete from private.ticket_tallies as t
        where t.ctid = any (array(select u.ctid from private.ticket_tallies as u where not u.is_folded limit 20000))
        returning t.*
    ), summed as (
        insert into private.ticket_tallies as f
            (organization_id, status, priority, category_id, assignee_id, tickets, resolved, time_to_resolve, is_folded)
        select t.organization_id, t.status, t.priority, t.category_id, t.assignee_id, sum(t.tickets), sum(t.resolved),
            sum(t.time_to_resolve), true
        from taken as t
        group by t.organization_id, t.status, t.priority, t.category_id, t.assignee_id
        having (sum(t.tickets), sum(t.resolved), sum(t.time_to_resolve)) is distinct from (0, 0, interval '0')
        on conflict (organization_id, status, priority, category_id, assignee_id) where is_folded do update
            set tickets = f.tickets + excluded.tickets, resolved = f.resolved + excluded.resolved,
                time_to_resolve = f.time_to_resolve + excluded.time_to_resolve
        returning f.*
    )
    select count(*) into v_folded from taken;
    delete from private.ticket_tallies as t
    where t.is_folded and t.tickets = 0 and t.resolved = 0 and t.time_to_resolve = '0';
    return v_folded;
end
$$;
comment on function private.fold_tallies() is
    'Gathers what was counted lately, a row a kind, and answers how many rows that took away. One at a time; sums stay what they were. Definer: nobody else writes counts.';
alter function private.fold_tallies() owner to deskbase_definer;
grant execute on function private.fold_tallies() to authenticator;

-- sql/42_comments.sql
/*
 * Comments are the conversation of a ticket, and attachments the files in it. Both carry their ticket's requester,
 * integration and deletion, so that their policies test columns of their own and no row is looked up to judge another.
 */

create table public.comments (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    ticket_id uuid not null,
    body text not null check (length(btrim(body)) > 0 and length(body) <= 100000),
    is_internal boolean not null default false,
    content_type public.content_type not null default 'text',
    channel public.channel not null default 'web',
    author_contact_id uuid,
    author_member_id uuid,
    author_token_id uuid,
    ticket_version bigint not null default 1,
    external_message_id text check (length(external_message_id) between 1 and 320),
    ticket_contact_id uuid,
    ticket_token_id uuid,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    constraint comments_one_author check (num_nonnulls(author_contact_id, author_member_id, author_token_id) <= 1),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, author_contact_id) references public.contacts (organization_id, id)
        on delete set null (author_contact_id),
    foreign key (organization_id, author_member_id) references public.members (organization_id, id)
        on delete set null (author_member_id),
    foreign key (organization_id, author_token_id) references public.integration_tokens (organization_id, id)
        on delete set null (author_token_id)
);
alter table public.comments enable row level security;
alter table public.comments force row level security;

comment on table public.comments is
    E'A message on a ticket, public or internal\n\nThe author comes from the credential; without any it is the desk itself.';
comment on column public.comments.number is 'The integer that clients with integer ids know the comment by.';
comment on column public.comments.is_internal is 'Seen by agents alone, and by the integration that wrote it.';
comment on column public.comments.ticket_version is 'The version that its ticket has since this comment.';
comment on column public.comments.external_message_id is 'What its channel calls the message; a second delivery makes no second comment.';
comment on column public.comments.ticket_contact_id is 'The ticket''s requester, for the policy.';
comment on column public.comments.ticket_token_id is 'The ticket''s integration, for the policy.';
comment on column public.comments.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

-- The conversation in order, and the reference.
create index comments_organization_id_ticket_id_idx on public.comments (organization_id, ticket_id, created_at, id);
-- The policy of customers, and the references. Partial: most comments lack most of them.
create index comments_organization_id_ticket_contact_id_idx on public.comments (organization_id, ticket_contact_id)
    where ticket_contact_id is not null;
create index comments_organization_id_ticket_token_id_idx on public.comments (organization_id, ticket_token_id)
    where ticket_token_id is not null;
create index comments_organization_id_author_contact_id_idx on public.comments (organization_id, author_contact_id)
    where author_contact_id is not null;
create index comments_organization_id_author_member_id_idx on public.comments (organization_id, author_member_id)
    where author_member_id is not null;
create index comments_organization_id_author_token_id_idx on public.comments (organization_id, author_token_id)
    where author_token_id is not null;
create unique index comments_organization_id_channel_external_message_id_idx
    on public.comments (organization_id, channel, external_message_id);
-- Search, through definer functions alone.
create index comments_search_idx on public.comments using gin (to_tsvector('simple', translate(body, '-_/', '   ')));

create policy select_member on public.comments for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy select_integration on public.comments for select to integration
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ticket_token_id = (select private.token_id()) and (select private.has_scope('tickets:read'))
        and (not is_internal or author_token_id = (select private.token_id())));
create policy insert_member on public.comments for insert to authenticated
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy insert_integration on public.comments for insert to integration
    with check (organization_id = (select private.organization_id())
        and ticket_token_id = (select private.token_id()) and (select private.has_scope('comments:write')));
-- What was said is its author's to correct as long as they see it; a lead may correct anyone's.
create policy update_author on public.comments for update to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead())
            or ((select private.is_agent()) and author_member_id = (select private.member_id()))
            or (author_contact_id = (select private.contact_id())
                and ticket_contact_id = (select private.contact_id()))))
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or not is_internal));
create policy delete_author on public.comments for delete to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead())
            or ((select private.is_agent()) and author_member_id = (select private.member_id()))
            or (author_contact_id = (select private.contact_id())
                and ticket_contact_id = (select private.contact_id()))));
grant select, delete, insert (organization_id, id, ticket_id, body, is_internal, content_type),
    update (body, is_internal)
    on public.comments to authenticated;
grant select, insert (organization_id, id, ticket_id, body, is_internal, content_type) on public.comments to integration;

create function private.tg_comments__defaults() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_ticket record;
begin
    perform private.refuse_foreign(new.organization_id);
    select t.contact_id, t.integration_token_id, t.deleted_at, t.status, t.version into v_ticket
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id
    -- The ticket's audience may not change until this comment is part of it; _400_ticket writes the row anyway.
    for no key update;
    if not found or v_ticket.deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    new.ticket_contact_id := v_ticket.contact_id;
    new.ticket_token_id := v_ticket.integration_token_id;
    new.ticket_version := v_ticket.version + 1;
    if private.token_id() is not null then
        new.author_token_id := private.token_id();
        new.channel := 'api';
    elsif private.is_agent() then
        new.author_member_id := private.member_id();
    elsif private.contact_id() is not null then
        new.author_contact_id := private.contact_id();
        -- Told only to the requester: to anyone else the policy says no first.
        if v_ticket.status = 'closed' and v_ticket.contact_id = private.contact_id() then
            raise sqlstate 'PT409' using message = 'ticket_closed',
                detail = 'This ticket is closed; open a new one.';
        end if;
    end if;
    return new;
end
$$;
comment on function private.tg_comments__defaults() is
    'Names the author and the ticket''s audience. Definer: the ticket may be hidden from the writer.';
alter function private.tg_comments__defaults() owner to deskbase_definer;

create function private.tg_comments__ticket() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    -- One update whatever happens: it counts the version, so that a reply to a stale ticket can be told.
    update public.tickets as t
    set first_response_at = case
            when new.author_member_id is not null and not new.is_internal then coalesce(t.first_response_at, now())
            else t.first_response_at end,
        status = case
            when new.is_internal then t.status
            when new.author_member_id is not null and t.status = 'new' then 'open'
            when new.author_contact_id is not null and t.status in ('waiting', 'resolved') then 'open'
            else t.status end
    where t.organization_id = new.organization_id and t.id = new.ticket_id;
    return null;
end
$$;
comment on function private.tg_comments__ticket() is
    'What a reply does to its ticket: the first answer opens it, the requester''s reply reopens it. Definer: repliers may not write all of this.';
alter function private.tg_comments__ticket() owner to deskbase_definer;

create trigger _100_defaults before insert on public.comments
    for each row execute function private.tg_comments__defaults();
create trigger _100_timestamps before update of body, is_internal on public.comments
    for each row execute function private.tg__timestamps();
create trigger _400_ticket after insert on public.comments
    for each row execute function private.tg_comments__ticket();

create function private.search_query(query text) returns tsquery
language sql immutable
set search_path = ''
-- The parser of queries, unlike that of texts, does not know what comes before :// in an address. What is written
-- together, as order numbers are, is searched as its parts, which the indexes hold; a - before a word is a not.
return regexp_replace(websearch_to_tsquery('simple', regexp_replace(
    regexp_replace(query, '\w+://', ' ', 'g'), '(\w)[-_/]+(?=\w)', '\1 ', 'g'))::text, '''(?=$|[ )])', ''':*', 'g')::tsquery;
comment on function private.search_query(text) is
    'What people type into a search box ("a phrase", -not, or), each word also as the beginning of a longer one, and each part of what is joined by -, _ or /.';

create function private.search_tickets(query text) returns setof uuid
language plpgsql stable security definer rows 100
set search_path = ''
-- How rare the words are and how large the organization decides what is worth reading: no one plan serves all.
set plan_cache_mode = force_custom_plan
as $$
declare
    v_query tsquery := private.search_query(query);
    v_organization_id uuid := private.organization_id();
    v_is_agent boolean := private.is_agent();
    v_contact_id uuid := private.contact_id();
    v_token_id uuid := case when private.has_scope('tickets:read') then private.token_id() end;
    v_most constant integer := 10000;
begin
    -- What the policies of both tables say, so that the indexes of @@ are of use. Numbers grow with time: a word that
    -- is nearly everywhere is found by walking back from the newest, not by collecting all there are.
    return query
    (select t.id
    from public.tickets as t
    where to_tsvector('simple', translate(t.subject || ' ' || t.description, '-_/', '   ')) @@ v_query
        and t.organization_id = v_organization_id and t.deleted_at is null
        and (v_is_agent or t.contact_id = v_contact_id or t.integration_token_id = v_token_id)
    order by t.number desc
    limit v_most)
    union
    (select c.ticket_id
    from public.comments as c
    where to_tsvector('simple', translate(c.body, '-_/', '   ')) @@ v_query
        and c.organization_id = v_organization_id and c.ticket_deleted_at is null
        and (v_is_agent
            or (c.ticket_contact_id = v_contact_id and not c.is_internal)
            or (c.ticket_token_id = v_token_id and (not c.is_internal or c.author_token_id = v_token_id)))
    order by c.number desc
    limit v_most);
end
$$;
comment on function private.search_tickets(text) is
    'The tickets of the one who asks whose subject and description, or one of whose comments, hold all words of a query: by the newest 10,000 of each that do. Definer: it says itself who sees what, because behind a policy full text has no index.';
alter function private.search_tickets(text) owner to deskbase_definer;
grant execute on function private.search_tickets(text) to authenticated, integration;

create table public.attachments (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    ticket_id uuid,
    comment_id uuid,
    uploaded_by_member_id uuid default private.member_id(),
    filename text not null check (length(filename) between 1 and 255),
    mime_type text not null default 'application/octet-stream' check (length(mime_type) between 3 and 255),
    size bigint not null check (size >= 0),
    url text check (url ~ '^https?://' and length(url) <= 2000),
    storage_key text check (length(storage_key) <= 500),
    is_internal boolean not null default false,
    ticket_contact_id uuid,
    ticket_token_id uuid,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, storage_key),
    constraint attachments_one_place check (url is null or storage_key is null),
    foreign key (organization_id) references public.organizations (id) on delete cascade,
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, comment_id) references public.comments (organization_id, id) on delete cascade,
    foreign key (organization_id, uploaded_by_member_id) references public.members (organization_id, id)
        on delete set null (uploaded_by_member_id)
);
alter table public.attachments enable row level security;
alter table public.attachments force row level security;

comment on table public.attachments is 'A file: uploaded and not yet used, or on a ticket, or on a comment of it.';
comment on column public.attachments.size is 'Bytes.';
comment on column public.attachments.url is 'Where it lies if it lies elsewhere.';
comment on column public.attachments.storage_key is 'Where it lies in our own storage.';
comment on column public.attachments.ticket_contact_id is 'The ticket''s requester, for the policy.';
comment on column public.attachments.ticket_token_id is 'The ticket''s integration, for the policy.';
comment on column public.attachments.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

create index attachments_organization_id_ticket_id_idx on public.attachments (organization_id, ticket_id);
create index attachments_organization_id_comment_id_idx on public.attachments (organization_id, comment_id);
create index attachments_organization_id_uploaded_by_member_id_idx
    on public.attachments (organization_id, uploaded_by_member_id);

create policy select_member on public.attachments for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent()) or uploaded_by_member_id = (select private.member_id())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy insert_member on public.attachments for insert to authenticated
    with check (organization_id = (select private.organization_id())
        and uploaded_by_member_id = (select private.member_id())
        and ((select private.is_agent()) or ticket_id is null
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy delete_member on public.attachments for delete to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead()) or uploaded_by_member_id = (select private.member_id())));
grant select, delete,
    insert (organization_id, id, ticket_id, comment_id, filename, mime_type, size, url)
    on public.attachments to authenticated;

create function private.tg_attachments__of_ticket() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_comment record;
    v_ticket record;
begin
    perform private.refuse_foreign(new.organization_id);
    if new.comment_id is not null then
        select c.ticket_id, c.is_internal into v_comment
        from public.comments as c
        where c.organization_id = new.organization_id and c.id = new.comment_id;
        new.ticket_id := v_comment.ticket_id;
        new.is_internal := coalesce(v_comment.is_internal, false);
    end if;
    if new.ticket_id is null then
        return new;
    end if;
    select t.contact_id, t.integration_token_id, t.deleted_at into v_ticket
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id
    for share;
    if not found or v_ticket.deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    new.ticket_contact_id := v_ticket.contact_id;
    new.ticket_token_id := v_ticket.integration_token_id;
    return new;
end
$$;
comment on function private.tg_attachments__of_ticket() is
    'A file on a comment is on its ticket, with the same audience. Definer: the ticket may be hidden from the writer.';
alter function private.tg_attachments__of_ticket() owner to deskbase_definer;

create trigger _100_of_ticket before insert on public.attachments
    for each row execute function private.tg_attachments__of_ticket();

create function private.tg_comments__attachments() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.attachments as a
    set is_internal = new.is_internal
    where a.organization_id = new.organization_id and a.comment_id = new.id;
    return null;
end
$$;
comment on function private.tg_comments__attachments() is
    'A file is as internal as its comment. Definer: it may be another member''s file.';
alter function private.tg_comments__attachments() owner to deskbase_definer;

create trigger _500_attachments after update on public.comments
    for each row when (old.is_internal is distinct from new.is_internal)
    execute function private.tg_comments__attachments();

-- sql/44_history.sql
/*
 * The history of a ticket: who changed what, and when. Written by trigger alone. That a ticket was created, when and by whom,
 * the ticket itself says; a row for it would cost every insert and tell nothing new.
 */

create table public.ticket_history (
    organization_id uuid not null,
    id bigint not null generated always as identity,
    ticket_id uuid not null,
    action text not null check (action in ('updated', 'deleted', 'restored')),
    changes jsonb not null default '{}' check (jsonb_typeof(changes) = 'object'),
    member_id uuid,
    token_id uuid,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, member_id) references public.members (organization_id, id)
        on delete set null (member_id),
    foreign key (organization_id, token_id) references public.integration_tokens (organization_id, id)
        on delete set null (token_id)
);
alter table public.ticket_history enable row level security;
alter table public.ticket_history force row level security;

comment on table public.ticket_history is 'What was done to a ticket; one row a change.';
comment on column public.ticket_history.changes is 'Each changed column: {"status": {"from": "new", "to": "open"}}.';
comment on column public.ticket_history.member_id is 'The member who did it; neither member nor token: the desk itself.';
comment on column public.ticket_history.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

create index ticket_history_organization_id_ticket_id_idx on public.ticket_history (organization_id, ticket_id, id);
-- The activity feed of an organization.
create index ticket_history_organization_id_created_at_idx on public.ticket_history (organization_id, created_at desc);
create index ticket_history_organization_id_member_id_idx on public.ticket_history (organization_id, member_id)
    where member_id is not null;
create index ticket_history_organization_id_token_id_idx on public.ticket_history (organization_id, token_id)
    where token_id is not null;

create policy select_agent on public.ticket_history for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and (select private.is_agent()));
grant select on public.ticket_history to authenticated;

create function private.ticket_changes(was public.tickets, becomes public.tickets) returns jsonb
language sql immutable
set search_path = ''
return (
    select coalesce(
        jsonb_object_agg(c.name, jsonb_build_object('from', c.was, 'to', c.becomes)) , '{}')
    from (values
        ('subject', to_jsonb(was.subject), to_jsonb(becomes.subject)),
        ('description', to_jsonb(was.description), to_jsonb(becomes.description)),
        ('status', to_jsonb(was.status), to_jsonb(becomes.status)),
        ('priority', to_jsonb(was.priority), to_jsonb(becomes.priority)),
        ('type', to_jsonb(was.type), to_jsonb(becomes.type)),
        ('category_id', to_jsonb(was.category_id), to_jsonb(becomes.category_id)),
        ('category_label', to_jsonb(was.category_label), to_jsonb(becomes.category_label)),
        ('contact_id', to_jsonb(was.contact_id), to_jsonb(becomes.contact_id)),
        ('assignee_id', to_jsonb(was.assignee_id), to_jsonb(becomes.assignee_id)),
        ('group_id', to_jsonb(was.group_id), to_jsonb(becomes.group_id)),
        ('due_at', to_jsonb(was.due_at), to_jsonb(becomes.due_at)),
        ('resolution', to_jsonb(was.resolution), to_jsonb(becomes.resolution)),
        ('custom_fields', was.custom_fields, becomes.custom_fields),
        ('metadata', was.metadata, becomes.metadata)
    ) as c (name, was, becomes)
    where c.was is distinct from c.becomes
);
comment on function private.ticket_changes(public.tickets, public.tickets) is
    'What differs between two states of a ticket, in the columns that people and integrations set.';

create function private.tg_tickets__history() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_changes jsonb := private.ticket_changes(old, new);
    v_action text := case
        when old.deleted_at is null and new.deleted_at is not null then 'deleted'
        when old.deleted_at is not null and new.deleted_at is null then 'restored'
        else 'updated' end;
begin
    if v_action = 'updated' and v_changes = '{}' then
        return null;
    end if;
    insert into public.ticket_history (organization_id, ticket_id, action, changes, member_id, token_id, ticket_deleted_at)
    values (new.organization_id, new.id, v_action, v_changes, private.member_id(), private.token_id(), new.deleted_at);
    return null;
end
$$;
comment on function private.tg_tickets__history() is
    'Writes the history. Definer: nobody writes it directly.';
alter function private.tg_tickets__history() owner to deskbase_definer;

create function private.tg_tickets__audience() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.comments as c
    set ticket_contact_id = new.contact_id, ticket_token_id = new.integration_token_id,
        ticket_deleted_at = new.deleted_at
    where c.organization_id = new.organization_id and c.ticket_id = new.id;
    update public.attachments as a
    set ticket_contact_id = new.contact_id, ticket_token_id = new.integration_token_id,
        ticket_deleted_at = new.deleted_at
    where a.organization_id = new.organization_id and a.ticket_id = new.id;
    if old.deleted_at is distinct from new.deleted_at then
        update public.ticket_tags as g set ticket_deleted_at = new.deleted_at
        where g.organization_id = new.organization_id and g.ticket_id = new.id;
        update public.ticket_history as h set ticket_deleted_at = new.deleted_at
        where h.organization_id = new.organization_id and h.ticket_id = new.id;
        update public.notifications as n set ticket_deleted_at = new.deleted_at
        where n.organization_id = new.organization_id and n.ticket_id = new.id;
        update public.satisfaction_ratings as r set ticket_deleted_at = new.deleted_at
        where r.organization_id = new.organization_id and r.ticket_id = new.id;
    end if;
    return null;
end
$$;
comment on function private.tg_tickets__audience() is
    'Keeps what hangs on a ticket visible to the same people as the ticket. Definer: it writes rows of others.';
alter function private.tg_tickets__audience() owner to deskbase_definer;

create trigger _500_history after update on public.tickets
    for each row when (old.* is distinct from new.*) execute function private.tg_tickets__history();
create trigger _510_audience after update on public.tickets
    for each row when (old.deleted_at is distinct from new.deleted_at
        or old.contact_id is distinct from new.contact_id
        or old.integration_token_id is distinct from new.integration_token_id)
    execute function private.tg_tickets__audience();

-- sql/46_notifications.sql
/*
 * Notifications tell members what concerns them: a ticket became theirs, a ticket of theirs moved, somebody named
 * them. Rows are made by triggers in the transaction of the change; mail and sockets follow from the row.
 */

create table public.notifications (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    member_id uuid not null,
    type public.notification_type not null,
    title text not null check (length(title) <= 600),
    message text not null default '' check (length(message) <= 1000),
    ticket_id uuid,
    ticket_deleted_at timestamptz,
    read_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade,
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade
);
alter table public.notifications enable row level security;
alter table public.notifications force row level security;

comment on table public.notifications is 'Something a member is told of.';
comment on column public.notifications.number is 'The integer that clients with integer ids know the notification by.';
comment on column public.notifications.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';
comment on column public.notifications.read_at is 'When the member read it; empty: not yet.';

-- A member's bell, newest first.
create index notifications_organization_id_member_id_idx
    on public.notifications (organization_id, member_id, created_at desc, id desc);
create index notifications_organization_id_ticket_id_idx on public.notifications (organization_id, ticket_id);

create policy select_self on public.notifications for select to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id())
        and ticket_deleted_at is null);
create policy update_self on public.notifications for update to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id())
        and ticket_deleted_at is null)
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
create policy delete_self on public.notifications for delete to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id())
        and ticket_deleted_at is null);
grant select, delete, update (read_at) on public.notifications to authenticated;

create function private.notify(
    organization_id uuid, member_ids uuid[], type public.notification_type, title text, message text, ticket_id uuid,
    agents_only boolean default false
) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    insert into public.notifications (organization_id, member_id, type, title, message, ticket_id)
    select m.organization_id, m.id, notify.type, left(notify.title, 600), left(notify.message, 1000), notify.ticket_id
    from public.members as m
    left join public.member_settings as s on s.organization_id = m.organization_id and s.member_id = m.id
    where m.organization_id = notify.organization_id
        and m.id = any (notify.member_ids)
        and m.is_active
        and (m.role >= 'agent' or not notify.agents_only)
        -- Nobody is told what they did themselves.
        and m.id is distinct from private.member_id()
        and case notify.type
            when 'ticket_assigned' then coalesce(s.ticket_assignments, true)
            when 'ticket_updated' then coalesce(s.ticket_updates, true)
            when 'mention' then coalesce(s.mentions, true) end;
end;
comment on function private.notify(uuid, uuid[], public.notification_type, text, text, uuid, boolean) is
    'Tells active members who want to know, but never the one who acts. Definer: nobody writes notifications directly.';
alter function private.notify(uuid, uuid[], public.notification_type, text, text, uuid, boolean) owner to deskbase_definer;

create function private.requester_member_id(organization_id uuid, contact_id uuid) returns uuid
language sql stable security definer
set search_path = ''
return (select c.member_id from public.contacts as c
    where c.organization_id = requester_member_id.organization_id and c.id = requester_member_id.contact_id);
comment on function private.requester_member_id(uuid, uuid) is
    'The member behind a requester, if they log in. Definer: integrations may not read contacts.';
alter function private.requester_member_id(uuid, uuid) owner to deskbase_definer;

create function private.tg_tickets__notify_assignee() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform private.notify(new.organization_id, array[new.assignee_id], 'ticket_assigned',
        'Ticket assigned: ' || new.subject, '', new.id);
    return null;
end
$$;
comment on function private.tg_tickets__notify_assignee() is 'Tells an agent that a ticket is theirs now. Definer: see private.notify.';
alter function private.tg_tickets__notify_assignee() owner to deskbase_definer;

create function private.tg_tickets__notify_status() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform private.notify(new.organization_id,
        array[new.assignee_id, private.requester_member_id(new.organization_id, new.contact_id)],
        'ticket_updated', 'Ticket updated: ' || new.subject,
        'Status changed to ' || replace(new.status::text, '_', ' ') || '.', new.id);
    return null;
end
$$;
comment on function private.tg_tickets__notify_status() is
    'Tells the assignee and the requester that a ticket moved. Definer: see private.notify.';
alter function private.tg_tickets__notify_status() owner to deskbase_definer;

create function private.tg_comments__notify() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_mentioned uuid[];
    v_told uuid[];
    v_ticket record;
begin
    select t.subject, t.assignee_id, t.contact_id into v_ticket
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id;
    if new.body like '%@%' then
        select array_agg(m.id) into v_mentioned
        from public.members as m
        where m.organization_id = new.organization_id and m.role >= 'agent'
            and lower(m.username) in (
                select lower(w.found[1]) from regexp_matches(new.body, '(?:^|[^\w.@-])@([\w.-]*\w)', 'g') as w (found));
        perform private.notify(new.organization_id, v_mentioned, 'mention',
            'You were mentioned: ' || v_ticket.subject, left(new.body, 200), new.ticket_id);
    end if;
    v_told := array[v_ticket.assignee_id];
    if not new.is_internal and new.author_contact_id is null then
        v_told := v_told || private.requester_member_id(new.organization_id, v_ticket.contact_id);
    end if;
    perform private.notify(new.organization_id,
        array(select i.id from unnest(v_told) as i (id) where i.id is not null and i.id <> all (coalesce(v_mentioned, '{}'))),
        'ticket_updated', 'New reply: ' || v_ticket.subject, left(new.body, 200), new.ticket_id, new.is_internal);
    return null;
end
$$;
comment on function private.tg_comments__notify() is
    'Tells the assignee, the requester of a public reply, and every agent that the text names as @username. Definer: see private.notify.';
alter function private.tg_comments__notify() owner to deskbase_definer;

create trigger _600_notify_assignee_insert after insert on public.tickets
    for each row when (new.assignee_id is not null) execute function private.tg_tickets__notify_assignee();
create trigger _600_notify_assignee_update after update on public.tickets
    for each row when (new.assignee_id is not null and old.assignee_id is distinct from new.assignee_id)
    execute function private.tg_tickets__notify_assignee();
create trigger _610_notify_status after update on public.tickets
    for each row when (old.status is distinct from new.status
        and (new.assignee_id is not null or new.contact_id is not null))
    execute function private.tg_tickets__notify_status();
create trigger _600_notify after insert on public.comments
    for each row execute function private.tg_comments__notify();

-- sql/48_mails.sql
/*
 * Mail that is to be sent, queued in the transaction that is its reason. A worker takes it after the commit, and again
 * if it was not delivered. Secrets of a mail (links, codes) are made while it is sent, so none lies here.
 */

create table private.mails (
    id uuid not null default gen_random_uuid() primary key,
    kind text not null check (kind ~ '^[a-z_]{1,40}$'),
    email text not null check (email = lower(email) and length(email) <= 320),
    organization_id uuid references public.organizations (id) on delete cascade,
    data jsonb not null default '{}' check (jsonb_typeof(data) = 'object'),
    attempts integer not null default 0,
    error text check (length(error) <= 200),
    created_at timestamptz not null default clock_timestamp(),
    next_attempt_at timestamptz default now(),
    sent_at timestamptz,
    failed_at timestamptz,
    check ((next_attempt_at is null) = (sent_at is not null or failed_at is not null))
);
alter table private.mails enable row level security;
alter table private.mails force row level security;
create policy select_definer on private.mails for select to deskbase_definer using (true);

comment on table private.mails is 'Outgoing mail: the queue of the worker, and for a week the record of what became of it.';
comment on column private.mails.kind is 'Which text it is: a template of the worker.';
comment on column private.mails.data is 'What its text needs and is no secret.';
comment on column private.mails.created_at is 'When it was written, which keeps the order of the mails of one transaction.';
comment on column private.mails.error is 'Why the last attempt failed, in a word.';
comment on column private.mails.next_attempt_at is 'When a worker may take it; while one has it, the end of that lease; empty once it is done.';

-- What is due, in order.
create index mails_next_attempt_at_idx on private.mails (next_attempt_at) where next_attempt_at is not null;
create index mails_organization_id_idx on private.mails (organization_id);
-- Retention.
create index mails_created_at_idx on private.mails (created_at);

create function private.queue_mail(kind text, email text, organization_id uuid, data jsonb) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    insert into private.mails (kind, email, organization_id, data)
    select queue_mail.kind, lower(queue_mail.email), queue_mail.organization_id,
        coalesce(queue_mail.data, '{}') || coalesce((
            select jsonb_build_object('organization', o.name) from public.organizations as o
            where o.id = queue_mail.organization_id), '{}');
end;
comment on function private.queue_mail(text, text, uuid, jsonb) is
    'Queues a mail in the transaction that is its reason, with the name of the organization in whose name it is sent. Definer: the queue is nobody''s to write.';
alter function private.queue_mail(text, text, uuid, jsonb) owner to deskbase_definer;
grant execute on function private.queue_mail(text, text, uuid, jsonb) to supabase_auth_admin;

create function private.claim_mails(batch integer, lease_seconds integer)
returns table (id uuid, kind text, email text, data jsonb)
language sql volatile security definer
set search_path = ''
begin atomic
    -- Materialized, so that it is looked once, whatever the plan.
    with due as materialized (
        select q.id from private.mails as q
        where q.next_attempt_at <= now()
        order by q.next_attempt_at
        limit batch
        for update skip locked
    )
    update private.mails as m
    set attempts = m.attempts + 1, next_attempt_at = now() + lease_seconds * interval '1 second'
    from due
    where m.id = due.id
    returning m.id, m.kind, m.email, m.data;
end;
comment on function private.claim_mails(integer, integer) is
    'Takes mails that are due, for as long as the lease. Definer: the queue is the worker''s alone.';
alter function private.claim_mails(integer, integer) owner to deskbase_definer;
grant execute on function private.claim_mails(integer, integer) to authenticator;

create function private.finish_mail(id uuid, error text default null, is_final boolean default false) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    update private.mails as m
    set error = left(finish_mail.error, 200),
        sent_at = case when finish_mail.error is null then now() end,
        failed_at = case
            when finish_mail.error is not null and (is_final or m.created_at < now() - interval '24 hours')
            then now() end,
        next_attempt_at = case
            when finish_mail.error is not null and not is_final and m.created_at >= now() - interval '24 hours'
            then now() + least(10 * 2 ^ least(m.attempts - 1, 10), 3600) * interval '1 second' end
    where m.id = finish_mail.id and m.next_attempt_at is not null;
end;
comment on function private.finish_mail(uuid, text, boolean) is
    'Notes that a claimed mail was sent or, with an error, when to try again: after 10 s, then twice as long each time, an hour at most, for a day; never after a final one. Definer: the queue is the worker''s alone.';
alter function private.finish_mail(uuid, text, boolean) owner to deskbase_definer;
grant execute on function private.finish_mail(uuid, text, boolean) to authenticator;

create function private.read_mail(id uuid) returns private.mails
language sql stable security definer
set search_path = ''
begin atomic
    select m from private.mails as m where m.id = read_mail.id;
end;
comment on function private.read_mail(uuid) is 'A queued mail. Definer: the auth service makes the secrets of its mails.';
alter function private.read_mail(uuid) owner to deskbase_definer;
grant execute on function private.read_mail(uuid) to supabase_auth_admin;

create function private.take_mail(email text) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    return (private.take('mail', 'mail:' || encode(sha256(convert_to(lower(email), 'UTF8')), 'hex'), 1, 12, 3600)).granted = 1;
end
$$;
comment on function private.take_mail(text) is
    'Whether one more mail may go to this address in this hour, at its reader''s own wish; twelve may. Definer: it counts.';
alter function private.take_mail(text) owner to deskbase_definer;
grant execute on function private.take_mail(text) to supabase_auth_admin;

-- sql/50_templates.sql
/*
 * What agents keep to work faster: texts to answer with, and filters to look through.
 */

create table public.templates (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    owner_id uuid not null default private.member_id(),
    title text not null check (length(btrim(title)) between 1 and 200),
    content text not null check (length(content) between 1 and 100000),
    category text not null default '' check (length(category) <= 200),
    variables text[] not null default '{}' check (pg_column_size(variables) <= 65536),
    is_public boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    foreign key (organization_id, owner_id) references public.members (organization_id, id) on delete cascade
);
alter table public.templates enable row level security;
alter table public.templates force row level security;

comment on table public.templates is 'A text to answer with; {name} stands for a variable.';
comment on column public.templates.number is 'The integer that clients with integer ids know the template by.';
comment on column public.templates.is_public is 'Whether other agents see it too.';

create index templates_organization_id_owner_id_idx on public.templates (organization_id, owner_id);

create policy select_agent on public.templates for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent())
        and (is_public or owner_id = (select private.member_id())));
create policy insert_agent on public.templates for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent())
        and owner_id = (select private.member_id()));
create policy update_owner on public.templates for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent())
        and (owner_id = (select private.member_id()) or (is_public and (select private.is_lead()))))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent())
        and (owner_id = (select private.member_id()) or (is_public and (select private.is_lead()))));
create policy delete_owner on public.templates for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent())
        and (owner_id = (select private.member_id()) or (is_public and (select private.is_lead()))));
grant select, delete, insert (organization_id, id, title, content, category, variables, is_public),
    update (title, content, category, variables, is_public)
    on public.templates to authenticated;

create trigger _100_timestamps before update on public.templates
    for each row execute function private.tg__timestamps();

create table public.saved_filters (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    owner_id uuid not null default private.member_id(),
    name text not null check (length(btrim(name)) between 1 and 200),
    params jsonb not null default '{}' check (jsonb_typeof(params) = 'object' and pg_column_size(params) <= 65536),
    is_public boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    foreign key (organization_id, owner_id) references public.members (organization_id, id) on delete cascade
);
alter table public.saved_filters enable row level security;
alter table public.saved_filters force row level security;

comment on table public.saved_filters is 'A question about tickets that a member asks again.';
comment on column public.saved_filters.number is 'The integer that clients with integer ids know the filter by.';
comment on column public.saved_filters.is_public is 'Whether other members see it too.';

create index saved_filters_organization_id_owner_id_idx on public.saved_filters (organization_id, owner_id);

create policy select_member on public.saved_filters for select to authenticated
    using (organization_id = (select private.organization_id())
        and (owner_id = (select private.member_id()) or (is_public and (select private.is_agent()))));
create policy insert_self on public.saved_filters for insert to authenticated
    with check (organization_id = (select private.organization_id()) and owner_id = (select private.member_id())
        and (not is_public or (select private.is_agent())));
create policy update_self on public.saved_filters for update to authenticated
    using (organization_id = (select private.organization_id()) and owner_id = (select private.member_id()))
    with check (organization_id = (select private.organization_id()) and owner_id = (select private.member_id())
        and (not is_public or (select private.is_agent())));
create policy delete_self on public.saved_filters for delete to authenticated
    using (organization_id = (select private.organization_id()) and owner_id = (select private.member_id()));
grant select, delete, insert (organization_id, id, name, params, is_public), update (name, params, is_public)
    on public.saved_filters to authenticated;

create trigger _100_timestamps before update on public.saved_filters
    for each row execute function private.tg__timestamps();

-- sql/52_articles.sql
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

-- sql/54_satisfaction.sql
/*
 * How satisfied the requester was, once a ticket is resolved. Written through a signed link, never by a client.
 */

create table public.satisfaction_ratings (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    ticket_id uuid not null,
    contact_id uuid,
    assignee_id uuid,
    score smallint not null check (score between 1 and 5),
    comment text not null default '' check (length(comment) <= 10000),
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, ticket_id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, contact_id) references public.contacts (organization_id, id)
        on delete set null (contact_id),
    foreign key (organization_id, assignee_id) references public.members (organization_id, id)
        on delete set null (assignee_id)
);
alter table public.satisfaction_ratings enable row level security;
alter table public.satisfaction_ratings force row level security;

comment on table public.satisfaction_ratings is 'What the requester thought of how a ticket was solved; one a ticket.';
comment on column public.satisfaction_ratings.score is 'From 1, bad, to 5, good.';
comment on column public.satisfaction_ratings.assignee_id is 'Who had solved it, so that a later assignment does not move the rating.';
comment on column public.satisfaction_ratings.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

create index satisfaction_ratings_organization_id_created_at_idx
    on public.satisfaction_ratings (organization_id, created_at);
create index satisfaction_ratings_organization_id_contact_id_idx
    on public.satisfaction_ratings (organization_id, contact_id);
create index satisfaction_ratings_organization_id_assignee_id_idx
    on public.satisfaction_ratings (organization_id, assignee_id);

create policy select_member on public.satisfaction_ratings for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
grant select on public.satisfaction_ratings to authenticated;

-- sql/58_channels.sql
/*
 * Channels: the accounts through which messages come in and go out, and each message as it was delivered.
 */

create table public.channel_accounts (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    channel public.channel not null,
    external_account_id text check (length(external_account_id) between 1 and 320),
    name text not null default '' check (length(name) <= 200),
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id)
);
alter table public.channel_accounts enable row level security;
alter table public.channel_accounts force row level security;

comment on table public.channel_accounts is 'An account on a platform that an organization is reached by.';
comment on column public.channel_accounts.external_account_id is
    'What the platform calls it (page, phone number, user); it tells whose a delivery is, so it is unique among all.';

create unique index channel_accounts_channel_external_account_id_idx
    on public.channel_accounts (channel, external_account_id);

create policy select_admin on public.channel_accounts for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy insert_admin on public.channel_accounts for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.channel_accounts for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_admin on public.channel_accounts for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete, insert (organization_id, id, channel, external_account_id, name, is_active),
    update (name, is_active)
    on public.channel_accounts to authenticated;

create trigger _100_timestamps before update on public.channel_accounts
    for each row execute function private.tg__timestamps();

create table private.channel_secrets (
    organization_id uuid not null,
    channel_account_id uuid not null,
    app_secret text check (length(btrim(app_secret)) > 0 and length(app_secret) <= 2000),
    verify_token text check (length(btrim(verify_token)) > 0 and length(verify_token) <= 2000),
    access_token text check (length(btrim(access_token)) > 0 and length(access_token) <= 10000),
    updated_at timestamptz not null default now(),
    primary key (organization_id, channel_account_id),
    foreign key (organization_id, channel_account_id)
        references public.channel_accounts (organization_id, id) on delete cascade
);
alter table private.channel_secrets enable row level security;
alter table private.channel_secrets force row level security;
create policy select_definer on private.channel_secrets for select to deskbase_definer using (true);

comment on table private.channel_secrets is 'What a platform and the desk know each other by.';
comment on column private.channel_secrets.app_secret is 'Signs what comes in.';
comment on column private.channel_secrets.verify_token is 'Answers the platform''s verification request.';
comment on column private.channel_secrets.access_token is 'Lets the desk answer.';

create function private.admin_set_channel_secrets(
    channel_account_id uuid, app_secret text, verify_token text, access_token text
) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid := private.require_admin();
begin
    insert into private.channel_secrets as s (organization_id, channel_account_id, app_secret, verify_token, access_token)
    select a.organization_id, a.id, admin_set_channel_secrets.app_secret, admin_set_channel_secrets.verify_token,
        admin_set_channel_secrets.access_token
    from public.channel_accounts as a
    where a.organization_id = v_organization_id and a.id = admin_set_channel_secrets.channel_account_id
    on conflict on constraint channel_secrets_pkey do update
    set app_secret = coalesce(excluded.app_secret, s.app_secret),
        verify_token = coalesce(excluded.verify_token, s.verify_token),
        access_token = coalesce(excluded.access_token, s.access_token),
        updated_at = now();
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such channel account.';
    end if;
end
$$;
comment on function private.admin_set_channel_secrets(uuid, text, text, text) is
    'Keeps the secrets of a channel account for the admin who is asking. Definer: secrets are the service''s alone.';
alter function private.admin_set_channel_secrets(uuid, text, text, text) owner to deskbase_definer;
grant execute on function private.admin_set_channel_secrets(uuid, text, text, text) to authenticated;

create function public.set_channel_secrets(
    id uuid, app_secret text default null, verify_token text default null, access_token text default null
) returns void
language sql volatile
set search_path = ''
return private.admin_set_channel_secrets(id, app_secret, verify_token, access_token);
comment on function public.set_channel_secrets(uuid, text, text, text) is
    E'Set the secrets of a channel account\n\nAdmins only. What is left out stays; nobody can read them back.';
grant execute on function public.set_channel_secrets(uuid, text, text, text) to authenticated;

create function private.channel_secret(
    channel public.channel, external_account_id text, out organization_id uuid, out app_secret text
)
language sql stable security definer
set search_path = ''
begin atomic
    select a.organization_id, s.app_secret
    from public.channel_accounts as a
    join public.organizations as o on o.id = a.organization_id and o.deleted_at is null
    join private.channel_secrets as s on s.organization_id = a.organization_id and s.channel_account_id = a.id
    where a.channel = channel_secret.channel and a.external_account_id = channel_secret.external_account_id and a.is_active;
end;
comment on function private.channel_secret(public.channel, text) is
    'Whose a delivery is, and what has to have signed it; nothing if no account of that name takes any. Definer: secrets are the service''s alone.';
alter function private.channel_secret(public.channel, text) owner to deskbase_definer;
grant execute on function private.channel_secret(public.channel, text) to authenticator;

create table public.inbound_messages (
    organization_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    channel public.channel not null,
    channel_account_id uuid,
    external_message_id text not null check (length(external_message_id) between 1 and 320),
    sender text not null check (length(sender) between 1 and 320),
    payload jsonb not null,
    ticket_id uuid,
    comment_id uuid,
    attempts integer not null default 0,
    failure text,
    received_at timestamptz not null default now(),
    processed_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, channel_account_id) references public.channel_accounts (organization_id, id)
        on delete set null (channel_account_id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id)
        on delete set null (ticket_id),
    foreign key (organization_id, comment_id) references public.comments (organization_id, id)
        on delete set null (comment_id)
);
alter table public.inbound_messages enable row level security;
alter table public.inbound_messages force row level security;

comment on table public.inbound_messages is 'A delivery of a platform as it came; a worker makes a ticket or a comment of it.';
comment on column public.inbound_messages.external_message_id is 'The platform''s id; the same one twice is one message.';
comment on column public.inbound_messages.failure is 'Why it could not be processed the last time.';

create unique index inbound_messages_organization_id_channel_external_message_id_idx
    on public.inbound_messages (organization_id, channel, external_message_id);
-- The worker's queue.
create index inbound_messages_received_at_idx on public.inbound_messages (received_at) where processed_at is null;
create index inbound_messages_organization_id_channel_account_id_idx
    on public.inbound_messages (organization_id, channel_account_id);
create index inbound_messages_organization_id_ticket_id_idx on public.inbound_messages (organization_id, ticket_id);
create index inbound_messages_organization_id_comment_id_idx on public.inbound_messages (organization_id, comment_id);

create policy select_admin on public.inbound_messages for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select on public.inbound_messages to authenticated;

-- sql/60_webhooks.sql
/*
 * Outgoing webhooks: where an integration wants to be told of its tickets, and what became of each message.
 */

create table public.webhook_endpoints (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    integration_token_id uuid not null default private.token_id(),
    url text not null check (url ~ '^https?://' and length(url) <= 2000),
    events text[] not null check (cardinality(events) > 0
        and events <@ array['ticket.created', 'ticket.updated', 'ticket.status_changed', 'comment.created']),
    created_at timestamptz not null default now(),
    disabled_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, integration_token_id)
        references public.integration_tokens (organization_id, id) on delete cascade
);
alter table public.webhook_endpoints enable row level security;
alter table public.webhook_endpoints force row level security;

comment on table public.webhook_endpoints is 'An address of an outside system that is told of its tickets.';
comment on column public.webhook_endpoints.disabled_at is 'Since when deliveries are given up, after a day of failures.';

create index webhook_endpoints_organization_id_integration_token_id_idx
    on public.webhook_endpoints (organization_id, integration_token_id);

create policy select_admin on public.webhook_endpoints for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy select_integration on public.webhook_endpoints for select to integration
    using (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('webhooks:manage')));
create policy delete_admin on public.webhook_endpoints for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_integration on public.webhook_endpoints for delete to integration
    using (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('webhooks:manage')));
grant select, delete on public.webhook_endpoints to authenticated, integration;

create table private.webhook_secrets (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    webhook_endpoint_id uuid not null,
    secret text not null check (secret ~ '^whsec_'),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, webhook_endpoint_id)
        references public.webhook_endpoints (organization_id, id) on delete cascade
);
alter table private.webhook_secrets enable row level security;
alter table private.webhook_secrets force row level security;
create policy select_definer on private.webhook_secrets for select to deskbase_definer using (true);

comment on table private.webhook_secrets is 'What deliveries are signed with; two while a rotation lasts.';

create index webhook_secrets_organization_id_webhook_endpoint_id_idx
    on private.webhook_secrets (organization_id, webhook_endpoint_id);

create table public.webhook_deliveries (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    webhook_endpoint_id uuid not null,
    event_id bigint not null,
    type text not null,
    ticket_id uuid,
    payload jsonb not null,
    attempts integer not null default 0,
    status text not null default 'pending' check (status in ('pending', 'delivered', 'dead')),
    response_status integer,
    failure text,
    created_at timestamptz not null default now(),
    next_attempt_at timestamptz default now(),
    delivered_at timestamptz,
    primary key (organization_id, id),
    unique (organization_id, webhook_endpoint_id, event_id, type),
    foreign key (organization_id, webhook_endpoint_id)
        references public.webhook_endpoints (organization_id, id) on delete cascade,
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id)
        on delete set null (ticket_id)
);
alter table public.webhook_deliveries enable row level security;
alter table public.webhook_deliveries force row level security;

comment on table public.webhook_deliveries is 'A message to an endpoint and what became of it.';
comment on column public.webhook_deliveries.status is 'pending: tried again with backoff; dead: given up after a day, to be replayed by hand.';
comment on column public.webhook_deliveries.event_id is 'The event it tells of.';

-- Messages of one ticket go out in order.
create index webhook_deliveries_organization_id_ticket_id_idx
    on public.webhook_deliveries (organization_id, ticket_id, event_id);
create index webhook_deliveries_next_attempt_at_idx on public.webhook_deliveries (next_attempt_at)
    where status = 'pending';

create policy select_admin on public.webhook_deliveries for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select on public.webhook_deliveries to authenticated;

-- sql/70_events.sql
/*
 * The event log: what changed, in the transaction that changed it, so that nothing is told that did not happen and
 * nothing that happened goes untold. Readers keep a snapshot as their cursor: an event is new to them if its transaction
 * is visible now and was not then. Ids are handed out before commit and become visible out of order; snapshots do not lie.
 */

create table private.events (
    id bigint not null generated always as identity,
    xid xid8 not null default pg_current_xact_id(),
    organization_id uuid,
    type text not null,
    table_name text not null,
    operation text not null check (operation in ('INSERT', 'UPDATE', 'DELETE')),
    record jsonb,
    old_record jsonb,
    at timestamptz not null default now(),
    schema_name text not null default 'public',
    primary key (xid, id, at)
) partition by range (at);
alter table private.events enable row level security;
alter table private.events force row level security;
create policy select_definer on private.events for select to deskbase_definer using (true);

comment on table private.events is 'Every change of a published table, a row each, by trigger; a partition a day (UTC).';
comment on column private.events.xid is 'The transaction that made the change: what readers'' cursors go by, and so the head of the key.';
comment on column private.events.organization_id is 'Empty for tables of one''s own that have no such column.';
comment on column private.events.type is 'The entity and what happened to it: ticket.created, comment.deleted.';
comment on column private.events.record is 'The row as it is now; empty for a delete.';
comment on column private.events.old_record is 'The row as it was; empty for an insert.';

-- Where a day's partition was not made ahead, nothing is lost.
create table private.events_default partition of private.events default;
alter table private.events_default enable row level security;
alter table private.events_default force row level security;
create policy select_definer on private.events_default for select to deskbase_definer using (true);
comment on table private.events_default is 'Events of days without a partition of their own.';

create function private.tg__events() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_entity constant text := tg_argv[0];
begin
    case coalesce(tg_argv[1], tg_op)
        when 'INSERT' then
            insert into private.events (organization_id, type, table_name, operation, record)
            values (new.organization_id, v_entity || '.created', tg_table_name, tg_op, to_jsonb(new));
        when 'UPDATE' then
            insert into private.events (organization_id, type, table_name, operation, record, old_record)
            values (new.organization_id, v_entity || '.updated', tg_table_name, tg_op, to_jsonb(new), to_jsonb(old));
        when 'DELETE' then
            insert into private.events (organization_id, type, table_name, operation, old_record)
            values (old.organization_id, v_entity || '.deleted', tg_table_name, 'DELETE', to_jsonb(old));
    end case;
    return null;
end
$$;
comment on function private.tg__events() is
    'Logs a change; its arguments are the entity''s name in event types and, if it is another than it looks like, the operation. Definer: nobody writes the log directly.';
alter function private.tg__events() owner to deskbase_definer;

create function private.tg_events__bell() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    -- NOTIFY takes a lock that serialises commits. One transaction at a time rings; who finds the lock taken relies on
    -- readers looking again shortly after a ring, and while transactions are under way.
    if pg_try_advisory_xact_lock(7310589213) then
        perform pg_notify('deskbase_events', '');
    end if;
    return null;
end
$$;
comment on function private.tg_events__bell() is
    'Rings for the readers of the log, one ringer at a time. Definer: it fires for whoever writes.';
alter function private.tg_events__bell() owner to deskbase_definer;

create trigger _900_bell after insert on private.events
    for each statement execute function private.tg_events__bell();

create trigger _900_events after insert or delete on public.tickets
    for each row execute function private.tg__events('ticket');
create trigger _900_events_update after update on public.tickets
    for each row when (old.* is distinct from new.* and (new.deleted_at is null or old.deleted_at is not null))
    execute function private.tg__events('ticket');
-- Marked as deleted is deleted, for whoever hears of it.
create trigger _900_events_delete after update on public.tickets
    for each row when (old.deleted_at is null and new.deleted_at is not null)
    execute function private.tg__events('ticket', 'DELETE');
create trigger _900_events after insert or delete on public.comments
    for each row execute function private.tg__events('comment');
create trigger _900_events_update after update on public.comments
    for each row when (old.* is distinct from new.*) execute function private.tg__events('comment');
create trigger _900_events after insert or delete on public.notifications
    for each row execute function private.tg__events('notification');
create trigger _900_events_update after update on public.notifications
    for each row when (old.* is distinct from new.*) execute function private.tg__events('notification');

-- What Supabase's realtime clients may subscribe to is what the log holds; a test compares the two.
do $$
begin
    if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
    end if;
end
$$;
alter publication supabase_realtime add table public.tickets, public.comments, public.notifications;

create function private.read_events(since pg_snapshot, until pg_snapshot, after_id bigint, batch_size integer)
returns setof private.events
language sql stable security definer
set search_path = ''
begin atomic
    select e.*
    from private.events as e
    where e.xid >= pg_snapshot_xmin(since)
        and e.xid < pg_snapshot_xmax(until)
        and e.id > after_id
        and not pg_visible_in_snapshot(e.xid, since)
        and pg_visible_in_snapshot(e.xid, until)
    order by e.id
    limit batch_size;
end;
comment on function private.read_events(pg_snapshot, pg_snapshot, bigint, integer) is
    'What became visible between two snapshots, by id, a batch at a time: read until a batch is short, giving the last id each time, then go on from until. Definer: the log is for the service alone.';
alter function private.read_events(pg_snapshot, pg_snapshot, bigint, integer) owner to deskbase_definer;
grant execute on function private.read_events(pg_snapshot, pg_snapshot, bigint, integer) to authenticator;

create function private.make_event_partitions(days_ahead integer) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_day date;
begin
    -- Behind a long transaction that wrote an event this would hold up every writer; the next hour does as well.
    perform set_config('lock_timeout', '1s', true);
    for i in 0 .. days_ahead loop
        v_day := (now() at time zone 'UTC')::date + i;
        continue when to_regclass(format('private.events_%s', to_char(v_day, 'YYYYMMDD'))) is not null;
        -- A day that already has rows in the default partition stays there; the next one gets its own.
        continue when exists (
            select from private.events_default as e
            where e.at >= v_day::timestamp at time zone 'UTC' and e.at < (v_day + 1)::timestamp at time zone 'UTC');
        execute format(
            'create table private.events_%s partition of private.events for values from (%L) to (%L)',
            to_char(v_day, 'YYYYMMDD'),
            v_day::timestamp at time zone 'UTC', (v_day + 1)::timestamp at time zone 'UTC');
        execute format('alter table private.events_%s enable row level security', to_char(v_day, 'YYYYMMDD'));
        execute format('alter table private.events_%s force row level security', to_char(v_day, 'YYYYMMDD'));
        execute format('create policy select_definer on private.events_%s for select to deskbase_definer using (true)',
            to_char(v_day, 'YYYYMMDD'));
        execute format('comment on table private.events_%s is %L',
            to_char(v_day, 'YYYYMMDD'), 'Events of ' || v_day || ' (UTC).');
    end loop;
end
$$;
comment on function private.make_event_partitions(integer) is 'Makes the event log''s partitions for today and the days ahead.';

create function private.drop_event_partitions(kept interval) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_partition record;
begin
    perform set_config('lock_timeout', '1s', true);
    for v_partition in
        select c.relname
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where i.inhparent = 'private.events'::regclass
            and c.relname ~ '^events_\d{8}$'
            and (to_date(substr(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC' < now() - kept
    loop
        execute format('drop table private.%I', v_partition.relname);
    end loop;
    delete from private.events_default as e where e.at < now() - kept;
end
$$;
comment on function private.drop_event_partitions(interval) is 'Drops what is older than kept, by whole days.';

-- sql/71_relay.sql
/*
 * What the relay asks of the log and of claims. Its cursor is a snapshot that ends right behind the last event that it
 * has seen: transaction ids behind that one may be handed out again after a crash, if those who had them wrote
 * nothing that had to reach the disk. A snapshot as it is would take them for seen.
 */

create function private.end_of_log(known pg_snapshot) returns pg_snapshot
language sql stable security definer
set search_path = ''
begin atomic
    select format('%s:%s:%s', coalesce(min(u.xid), l.edge), l.edge, string_agg(u.xid::text, ',' order by u.xid))::pg_snapshot
    from (
        select least(
            coalesce(max(e.xid)::text::bigint + 1, pg_snapshot_xmax(known)::text::bigint, 1),
            pg_snapshot_xmax(pg_current_snapshot())::text::bigint) as edge
        from private.events as e
        where e.xid >= coalesce(pg_snapshot_xmax(known), '0')
    ) as l
    left join lateral (
        select x.xid::text::bigint as xid from pg_snapshot_xip(pg_current_snapshot()) as x (xid)
    ) as u on u.xid < l.edge
    group by l.edge;
end;
comment on function private.end_of_log(pg_snapshot) is
    'The cursor of a reader who has seen every event that is visible now; known is one of theirs from before. Definer: the log is for the service alone.';
alter function private.end_of_log(pg_snapshot) owner to deskbase_definer;
grant execute on function private.end_of_log(pg_snapshot) to authenticator;

create function private.read_log(
    since pg_snapshot, until pg_snapshot, after_id bigint, organization_ids uuid[], batch_size integer
) returns table (id bigint, event text)
language sql stable security definer
set search_path = ''
begin atomic
    select e.id, json_build_object(
        'id', e.id, 'xid', e.xid::text, 'at', e.at, 'organization_id', e.organization_id,
        'type', e.type, 'schema', e.schema_name, 'table', e.table_name, 'operation', e.operation,
        'ids', jsonb_strip_nulls(jsonb_build_object(
            'id', r.row ->> 'id', 'ticket_id', r.row ->> 'ticket_id', 'member_id', r.row ->> 'member_id',
            'contact_id', coalesce(r.row ->> 'contact_id', r.row ->> 'ticket_contact_id'),
            'token_id', coalesce(r.row ->> 'integration_token_id', r.row ->> 'ticket_token_id'))))::text
    from private.events as e
    cross join lateral (select coalesce(e.record, e.old_record)) as r (row)
    where e.xid >= pg_snapshot_xmin(since)
        and e.xid < pg_snapshot_xmax(until)
        and e.id > after_id
        and not pg_visible_in_snapshot(e.xid, since)
        and pg_visible_in_snapshot(e.xid, until)
        and (organization_ids is null or e.organization_id is null or e.organization_id = any (organization_ids))
    order by e.id
    limit batch_size;
end;
comment on function private.read_log(pg_snapshot, pg_snapshot, bigint, uuid[], integer) is
    'As read_events, of some organizations and of tables that belong to none, without the rows but for the ids that events are picked by. Definer: the log is for the service alone.';
alter function private.read_log(pg_snapshot, pg_snapshot, bigint, uuid[], integer) owner to deskbase_definer;
grant execute on function private.read_log(pg_snapshot, pg_snapshot, bigint, uuid[], integer) to authenticator;

create function private.logged_rows(events jsonb) returns setof private.events
language sql stable security definer
set search_path = ''
begin atomic
    select e.*
    from jsonb_to_recordset(events) as t (id bigint, xid xid8, at timestamptz)
    join private.events as e on e.xid = t.xid and e.id = t.id and e.at = t.at;
end;
comment on function private.logged_rows(jsonb) is
    'The whole rows of events as read_log told them, for what turns them into messages: it looks here before it enters as their reader. Definer: the log is for the service alone.';
alter function private.logged_rows(jsonb) owner to deskbase_definer;
grant execute on function private.logged_rows(jsonb) to authenticator;

create function private.is_in_log(since pg_snapshot, until pg_snapshot, taken_at timestamptz) returns boolean
language sql stable
set search_path = ''
return taken_at > now() - interval '24 hours'
    and pg_snapshot_xmin(since) <= pg_snapshot_xmin(until)
    and pg_snapshot_xmax(until) <= pg_snapshot_xmax(pg_current_snapshot());
comment on function private.is_in_log(pg_snapshot, pg_snapshot, timestamptz) is
    'Whether everything after a position is still in the log, as long as private.maintain keeps it, and the position is one of this server.';
grant execute on function private.is_in_log(pg_snapshot, pg_snapshot, timestamptz) to authenticator;

create function private.claims_now(claims jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_organization_id text := claims #>> '{app_metadata,organization_id}';
    v_claims jsonb := claims;
begin
    if claims ->> 'role' = 'authenticated' then
        v_claims := private.fresh_claims(claims);
    elsif claims ->> 'role' = 'integration' then
        select jsonb_set(claims, '{app_metadata,scopes}', to_jsonb(t.scopes))
        into v_claims
        from public.integration_tokens as t
        join public.organizations as o on o.id = t.organization_id and o.deleted_at is null
        where t.organization_id = v_organization_id::uuid and t.id = (claims #>> '{app_metadata,token_id}')::uuid
            and (t.expires_at is null or t.expires_at > now()) and t.disabled_at is null and t.revoked_at is null;
    end if;
    if v_claims #>> '{app_metadata,organization_id}' is distinct from v_organization_id then
        return null;
    end if;
    return v_claims;
end
$$;
comment on function private.claims_now(jsonb) is
    'Admitted claims as they would be admitted now; null if they would not, or for another organization. Definer: nobody reads sessions.';
alter function private.claims_now(jsonb) owner to deskbase_definer;

create function private.changed_claims(claims jsonb[]) returns table (place bigint, fresh text)
language sql stable security definer
set search_path = ''
begin atomic
    select g.place, n.claims::text
    from unnest(changed_claims.claims) with ordinality as g (claims, place)
    cross join lateral (select private.claims_now(g.claims)) as n (claims)
    where n.claims is distinct from g.claims;
end;
comment on function private.changed_claims(jsonb[]) is
    'Which of the claims that sockets were admitted under have changed, by their place from 1, and what they are now: null if they are over. Definer: nobody reads sessions.';
alter function private.changed_claims(jsonb[]) owner to deskbase_definer;
grant execute on function private.changed_claims(jsonb[]) to authenticator;

-- sql/72_limits.sql
/*
 * The limiter, one for every way in. A window is counted in one row that is updated in place; windows are aligned to the
 * clock and exact: of a limit of N, N requests pass, however many processes ask.
 */

create table private.rate_windows (
    bucket text not null,
    subject text not null,
    window_start timestamptz not null,
    used integer not null,
    last_grant integer not null,
    primary key (bucket, subject)
) with (fillfactor = 50);
alter table private.rate_windows enable row level security;
alter table private.rate_windows force row level security;
create policy select_definer on private.rate_windows for select to deskbase_definer using (true);

comment on table private.rate_windows is 'How much of its current window each subject has used; rows half empty, so that updates stay on their page.';
comment on column private.rate_windows.bucket is 'What is limited: a contract, or rest.';
comment on column private.rate_windows.subject is 'Who is limited: token:…, user:…, organization:…, address:….';
comment on column private.rate_windows.last_grant is 'How many of the requests that were asked for last were granted.';

create function private.take(
    bucket text, subject text, wanted integer, allowed integer, window_seconds integer,
    out granted integer, out remaining integer, out resets_at bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_start bigint := floor(extract(epoch from now()) / window_seconds)::bigint * window_seconds;
begin
    -- A transaction that waited over the turn of the window counts in the window that is there by then.
    insert into private.rate_windows as w (bucket, subject, window_start, used, last_grant)
    values (take.bucket, take.subject, to_timestamp(v_start), least(wanted, allowed), least(wanted, allowed))
    on conflict on constraint rate_windows_pkey do update
    set used = case
            when w.window_start < excluded.window_start then least(wanted, allowed)
            else w.used + greatest(least(wanted, allowed - w.used), 0) end,
        last_grant = case
            when w.window_start < excluded.window_start then least(wanted, allowed)
            else greatest(least(wanted, allowed - w.used), 0) end,
        window_start = greatest(w.window_start, excluded.window_start)
    where w.window_start < excluded.window_start or w.used < allowed
    returning w.last_grant, allowed - w.used, extract(epoch from w.window_start)::bigint + window_seconds
    into granted, remaining, resets_at;
    if not found then
        granted := 0;
        remaining := 0;
        resets_at := v_start + window_seconds;
    end if;
end
$$;
comment on function private.take(text, text, integer, integer, integer) is
    'Takes up to wanted requests from a subject''s window.';
alter function private.take(text, text, integer, integer, integer) owner to deskbase_definer;

create function private.give_back(bucket text, subject text, unused integer) returns void
language sql volatile
set search_path = ''
begin atomic
    update private.rate_windows as w set used = greatest(w.used - unused, 0)
    where w.bucket = give_back.bucket and w.subject = give_back.subject;
end;
comment on function private.give_back(text, text, integer) is
    'Returns what was taken in this transaction and could not be used.';
alter function private.give_back(text, text, integer) owner to deskbase_definer;

-- sql/74_idempotency.sql
/*
 * Doing things once: the first answer to an Idempotency-Key is stored with its effect, in one transaction.
 */

create table private.idempotency_keys (
    principal text not null,
    operation text not null,
    key text not null check (length(key) <= 255),
    fingerprint bytea not null,
    body text,
    version bigint,
    created_at timestamptz not null default now(),
    primary key (principal, operation, key)
);
alter table private.idempotency_keys enable row level security;
alter table private.idempotency_keys force row level security;
create policy select_definer on private.idempotency_keys for select to deskbase_definer using (true);

comment on table private.idempotency_keys is 'The first answer to each key, kept for a day.';
comment on column private.idempotency_keys.principal is 'Whose key it is: token:… or user:….';
comment on column private.idempotency_keys.fingerprint is 'SHA-256 of what was asked.';

-- Retention.
create index idempotency_keys_created_at_idx on private.idempotency_keys (created_at);

create function private.principal() returns text
language sql stable
set search_path = ''
return coalesce('token:' || private.token_id(), 'user:' || (private.claims() ->> 'sub'));
comment on function private.principal() is 'Who is asking, as limits and keys know them.';
grant execute on function private.principal() to authenticated, integration;

create function private.begin_once(
    operation text, key text, request jsonb,
    out is_repeat boolean, out body text, out version bigint
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_fingerprint bytea := sha256(convert_to(request::text, 'UTF8'));
    v_seen private.idempotency_keys;
begin
    if key is null then
        is_repeat := false;
        return;
    end if;
    -- A repeat that runs at the same time waits here until the first one has committed or failed.
    insert into private.idempotency_keys as k (principal, operation, key, fingerprint)
    values (private.principal(), begin_once.operation, begin_once.key, v_fingerprint)
    on conflict on constraint idempotency_keys_pkey do update
    set fingerprint = excluded.fingerprint, body = null, version = null, created_at = now()
    where k.created_at < now() - interval '24 hours';
    is_repeat := not found;
    if not is_repeat then
        return;
    end if;
    select k.* into v_seen from private.idempotency_keys as k
    where k.principal = private.principal() and k.operation = begin_once.operation and k.key = begin_once.key;
    if v_seen.fingerprint <> v_fingerprint then
        raise sqlstate 'PT409' using message = 'idempotency_conflict',
            detail = 'This Idempotency-Key was used with another request.';
    end if;
    body := v_seen.body;
    version := v_seen.version;
end
$$;
comment on function private.begin_once(text, text, jsonb) is
    'Claims a key for this transaction, or answers what its first use was answered; without a key nothing is a repeat. Definer: keys are nobody''s to read.';
alter function private.begin_once(text, text, jsonb) owner to deskbase_definer;

create function private.finish_once(operation text, key text, body text, version bigint) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    update private.idempotency_keys as k
    set body = finish_once.body, version = finish_once.version
    where k.principal = private.principal() and k.operation = finish_once.operation and k.key = finish_once.key;
end;
comment on function private.finish_once(text, text, text, bigint) is
    'Stores the answer beside its effect. Definer: keys are nobody''s to write.';
alter function private.finish_once(text, text, text, bigint) owner to deskbase_definer;

grant execute on function private.begin_once(text, text, jsonb), private.finish_once(text, text, text, bigint)
    to authenticated, integration;

-- sql/75_requests.sql
/*
 * The entrances. The service admits a request (credential and limit) and then enters as its role; PostgREST enters by itself
 * and calls pre_request. Both get their claims from fresh_claims, so an ended session, a deactivated member or a changed
 * role counts from the next request on, whatever the JWT says.
 */

-- How a session was proved.
grant select on auth.mfa_amr_claims to deskbase_definer;

create function private.fresh_claims(claims jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_user_id uuid;
    v_session_id uuid;
    v_organization_id uuid;
    v_lacks_factor boolean := false;
    v_is_proved boolean;
    v_member record;
begin
    v_user_id := (claims ->> 'sub')::uuid;
    v_session_id := (claims ->> 'session_id')::uuid;
    v_organization_id := (claims #>> '{app_metadata,organization_id}')::uuid;
    select u.email_confirmed_at is not null and u.confirmation_sent_at is not null into v_is_proved
    from auth.users as u
    where u.id = v_user_id and (u.banned_until is null or u.banned_until < now()) and u.deleted_at is null;
    if not found then
        return null;
    end if;
    -- A token without a session was signed by whoever holds the secret, for their own use.
    if v_session_id is null then
        v_is_proved := true;
    else
        select s.aal is distinct from 'aal2' and exists (
                select from auth.mfa_factors as f where f.user_id = v_user_id and f.status = 'verified'),
            v_is_proved or exists (
                select from auth.mfa_amr_claims as a
                where a.session_id = s.id and a.authentication_method in (
                    'otp', 'magiclink', 'recovery', 'invite', 'email/signup', 'email_change', 'oauth', 'sso/saml'))
        into v_lacks_factor, v_is_proved
        from auth.sessions as s
        where s.id = v_session_id and s.user_id = v_user_id and (s.not_after is null or s.not_after > now());
        if not found then
            return null;
        end if;
    end if;
    select m.organization_id, m.id, m.role, m.is_active and o.deleted_at is null as is_active, c.id as contact_id
    into v_member
    from public.members as m
    join public.organizations as o on o.id = m.organization_id
    left join public.contacts as c
        on c.organization_id = m.organization_id and c.member_id = m.id and m.role = 'customer'
    where m.user_id = v_user_id and (v_organization_id is null or m.organization_id = v_organization_id)
        -- Whoever made an account for an address that is not theirs knows its password. So until its reader has followed
        -- a link, it is good for the organization that it was made in and for none that it was added to.
        and (v_is_proved or not exists (
            select from public.members as e
            where e.user_id = m.user_id and (e.created_at, e.id) < (m.created_at, m.id)))
    order by is_active desc, m.created_at, m.id
    limit 1;
    if v_member.is_active is false then
        return null;
    end if;
    -- Whoever is a member of nothing, or has not shown their second factor yet, keeps their name and nothing else.
    return jsonb_set(claims, '{app_metadata}',
        coalesce(claims -> 'app_metadata', '{}')
            - array['organization_id', 'role', 'member_id', 'contact_id', 'token_id', 'scopes', 'lacks_factor']
            || case when v_lacks_factor then '{"lacks_factor": true}'
            when v_member.id is null then '{}' else jsonb_build_object(
                'organization_id', v_member.organization_id, 'role', v_member.role,
                'member_id', v_member.id, 'contact_id', v_member.contact_id) end);
exception
    when invalid_text_representation then
        return null;
end
$$;
comment on function private.fresh_claims(jsonb) is
    'A person''s verified claims as they are now; null if the session, the user or the membership has ended; app_metadata.lacks_factor if the session still owes a second factor. Definer: nobody reads sessions.';
alter function private.fresh_claims(jsonb) owner to deskbase_definer;
grant execute on function private.fresh_claims(jsonb) to authenticated, supabase_auth_admin;

create function private.pre_request() returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_claims jsonb := private.claims();
begin
    if v_claims ->> 'role' is distinct from 'authenticated' then
        return;
    end if;
    v_claims := private.fresh_claims(v_claims);
    if v_claims is null then
        raise sqlstate 'PT401' using message = 'session_ended', detail = 'This session has ended; log in again.';
    end if;
    if v_claims #> '{app_metadata,lacks_factor}' is not null then
        raise sqlstate 'PT403' using message = 'second_factor_required',
            detail = 'This account has a second factor; verify it first.';
    end if;
    perform set_config('request.jwt.claims', v_claims::text, true);
end
$$;
comment on function private.pre_request() is 'What PostgREST runs before each request: claims are made fresh.';
grant execute on function private.pre_request() to anon, authenticated, service_role, integration;

create function private.identify(token_hash bytea, verified jsonb, address text,
    out claims jsonb, out subject text, out rate_limit integer)
language plpgsql stable security definer
set search_path = ''
as $$
begin
    if token_hash is not null then
        select jsonb_build_object('role', 'integration', 'app_metadata', jsonb_build_object(
                'organization_id', t.organization_id, 'token_id', t.id, 'scopes', t.scopes)),
            'token:' || t.id, t.rate_limit
        into claims, subject, rate_limit
        from private.integration_token_secrets as s
        join public.integration_tokens as t on t.organization_id = s.organization_id and t.id = s.token_id
        join public.organizations as o on o.id = t.organization_id and o.deleted_at is null
        where s.hash = identify.token_hash
            and (s.expires_at is null or s.expires_at > now())
            and (t.expires_at is null or t.expires_at > now())
            and t.disabled_at is null and t.revoked_at is null;
        subject := coalesce(subject, 'token:');
    elsif verified ? 'outside' then
        claims := private.fresh_claims(private.outside_claims(verified -> 'outside'));
        subject := coalesce('user:' || (claims ->> 'sub'), 'token:');
    elsif verified is not null then
        claims := private.fresh_claims(verified);
        subject := 'user:' || (verified ->> 'sub');
    else
        claims := '{"role": "anon"}';
        subject := 'address:' || address;
    end if;
end
$$;
comment on function private.identify(bytea, jsonb, text) is
    'Whose credential it is and what they claim; no claims if it is not, or no longer, valid. Definer: hashes and sessions are nobody''s to read.';
alter function private.identify(bytea, jsonb, text) owner to deskbase_definer;

create function private.admit(
    wanted integer[], bucket text[], token_hash bytea[], verified jsonb[], address text[],
    subject_limit integer[], organization_limit integer[], window_seconds integer[],
    organization_window_seconds integer[] default null
) returns table (granted integer, failure text, claims text, rate_limit integer, remaining integer, resets_at bigint)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_group record;
    v_subject record;
    v_organization record;
    v_granted integer[] := wanted;
    v_failure text[];
    v_claims text[];
    v_limit integer[];
    v_remaining integer[];
    v_resets_at bigint[];
    v_subjects text[];
begin
    -- A count that a crash of the server takes back is no loss; waiting for the disk would be one.
    perform set_config('synchronous_commit', 'off', true);
    -- In the order of subjects, then of organizations, so that processes never wait for each other in a circle.
    for v_group in
        select g.ord, g.wanted, g.bucket, i.claims, i.subject,
            coalesce(g.subject_limit, i.rate_limit) as allowed,
            coalesce(g.window_seconds, 3600) as window_seconds
        from unnest(wanted, bucket, token_hash, verified, address, subject_limit, window_seconds) with ordinality
            as g (wanted, bucket, token_hash, verified, address, subject_limit, window_seconds, ord)
        cross join lateral private.identify(g.token_hash, g.verified, g.address) as i
        order by i.subject, g.bucket
    loop
        if v_group.claims is null then
            v_granted[v_group.ord] := 0;
            v_failure[v_group.ord] := case when v_group.subject like 'token:%' then 'invalid_token' else 'session_ended' end;
            continue;
        end if;
        if v_group.claims #> '{app_metadata,lacks_factor}' is not null then
            v_granted[v_group.ord] := 0;
            v_failure[v_group.ord] := 'second_factor_required';
            continue;
        end if;
        v_claims[v_group.ord] := v_group.claims::text;
        v_subjects[v_group.ord] := v_group.subject;
        continue when v_group.allowed is null;
        v_subject := private.take(
            v_group.bucket, v_group.subject, v_group.wanted, v_group.allowed, v_group.window_seconds);
        v_granted[v_group.ord] := v_subject.granted;
        v_limit[v_group.ord] := v_group.allowed;
        v_remaining[v_group.ord] := v_subject.remaining;
        v_resets_at[v_group.ord] := v_subject.resets_at;
    end loop;
    for v_group in
        select g.ord, g.bucket, g.organization_limit as allowed,
            coalesce(g.organization_window_seconds, g.window_seconds, 3600) as window_seconds,
            v_limit[g.ord] is not null as is_counted,
            v_claims[g.ord]::jsonb #>> '{app_metadata,organization_id}' as organization_id
        from unnest(bucket, organization_limit, window_seconds, organization_window_seconds) with ordinality
            as g (bucket, organization_limit, window_seconds, organization_window_seconds, ord)
        where g.organization_limit is not null and v_granted[g.ord] > 0
        order by 6, 2
    loop
        continue when v_group.organization_id is null;
        v_organization := private.take(v_group.bucket, 'organization:' || v_group.organization_id,
            v_granted[v_group.ord], v_group.allowed, v_group.window_seconds);
        if v_organization.granted < v_granted[v_group.ord] then
            if v_group.is_counted then
                perform private.give_back(v_group.bucket, v_subjects[v_group.ord],
                    v_granted[v_group.ord] - v_organization.granted);
            end if;
            v_granted[v_group.ord] := v_organization.granted;
        end if;
        -- The tighter of the two is shown.
        if v_remaining[v_group.ord] is null or v_organization.remaining < v_remaining[v_group.ord] then
            v_limit[v_group.ord] := v_group.allowed;
            v_remaining[v_group.ord] := v_organization.remaining;
            v_resets_at[v_group.ord] := v_organization.resets_at;
        end if;
    end loop;
    return query
    select r.granted, v_failure[r.ord], v_claims[r.ord], v_limit[r.ord], v_remaining[r.ord], v_resets_at[r.ord]
    from unnest(v_granted) with ordinality as r (granted, ord)
    order by r.ord;
end
$$;
comment on function private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[], integer[]) is
    E'Admit requests\n\nOne array element is a group of requests with the same credential: a token''s hash, a verified JWT''s claims, or an address. Answers in the same order how many may pass, under which claims, and where their window stands. Definer: it reads credentials and counts.';
alter function private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[], integer[])
    owner to deskbase_definer;
grant execute on function
    private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[], integer[]) to authenticator;

create function private.enter(claims jsonb) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    perform set_config('request.jwt.claims', claims::text, true), set_config('role', claims ->> 'role', true);
end
$$;
comment on function private.enter(jsonb) is
    'Becomes, for this transaction, the role of admitted claims. For the service''s login alone: it believes what it is given.';
grant execute on function private.enter(jsonb) to authenticator;

create function private.require_scope(scope text) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if not private.has_scope(scope) then
        raise sqlstate 'PT403' using message = 'insufficient_scope',
            detail = format('This token lacks the scope %s.', scope);
    end if;
end
$$;
comment on function private.require_scope(text) is
    'Says which scope a refusal is about; the refusal itself is the policies''.';
grant execute on function private.require_scope(text) to integration;

create function private.lock_ticket(ticket_id uuid, out is_own boolean, out version bigint)
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    select coalesce(t.integration_token_id = private.token_id(), false), t.version
    into is_own, version
    from public.tickets as t
    where t.organization_id = private.organization_id() and t.id = lock_ticket.ticket_id and t.deleted_at is null
    for no key update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    if not is_own then
        raise sqlstate 'PT401' using message = 'not_authorized', detail = 'This ticket belongs to another integration.';
    end if;
end
$$;
comment on function private.lock_ticket(uuid) is
    'Locks a ticket that the asking integration made, and answers its version; another''s of its organization is refused. Definer: it must tell a foreign ticket from none.';
alter function private.lock_ticket(uuid) owner to deskbase_definer;
grant execute on function private.lock_ticket(uuid) to integration;

create function private.refuse_ticket(ticket_id uuid) returns void
language plpgsql stable security definer
set search_path = ''
as $$
begin
    if exists (
        select from public.tickets as t
        where t.organization_id = private.organization_id() and t.id = refuse_ticket.ticket_id and t.deleted_at is null
    ) then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'This ticket is somebody else''s.';
    end if;
    raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
end
$$;
comment on function private.refuse_ticket(uuid) is
    'Refuses a ticket that the policies hide, and says whether the organization has it. Definer: it must tell a hidden ticket from none.';
alter function private.refuse_ticket(uuid) owner to deskbase_definer;
grant execute on function private.refuse_ticket(uuid) to authenticated;

create function private.require_version(ticket_id uuid, version bigint, if_match bigint) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if if_match is null or if_match = version then
        return;
    end if;
    raise sqlstate 'PT412' using message = 'stale', detail = json_build_object(
        'version', version,
        'comments', (
            select coalesce(json_agg(json_build_object(
                'id', c.id, 'content', c.body, 'is_internal', c.is_internal,
                'created_at', private.rfc3339(c.created_at)) order by c.created_at, c.id), '[]')
            from (
                select k.* from public.comments as k
                where k.ticket_id = require_version.ticket_id and k.ticket_version > if_match
                order by k.created_at, k.id
                limit 50
            ) as c
        ));
end
$$;
comment on function private.require_version(uuid, bigint, bigint) is
    'Refuses a write that does not know the ticket as it is; tells the version and up to 50 comments that were missed.';
grant execute on function private.require_version(uuid, bigint, bigint) to authenticated, integration;

-- sql/76_maintenance.sql
/*
 * What has to be done again and again: partitions ahead, and out with what is past its time.
 */

create function private.maintain() returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    if not pg_try_advisory_xact_lock(7310589215) then
        return;
    end if;
    begin
        perform private.make_event_partitions(7);
        -- An hour more than positions are good for: a transaction may span midnight.
        perform private.drop_event_partitions(interval '25 hours');
    exception
        when lock_not_available then
            raise warning 'The event log was busy; its partitions are left to the next hour.';
    end;
    delete from private.idempotency_keys as k where k.created_at < now() - interval '24 hours';
    delete from private.rate_windows as w where w.window_start < now() - interval '2 days';
    delete from private.integration_token_secrets as s where s.expires_at < now();
    delete from public.token_usage as u where u.at < now() - interval '90 days';
    delete from private.mails as m where m.created_at < now() - interval '7 days' and m.next_attempt_at is null;
end
$$;
comment on function private.maintain() is
    'Run on every migration and every hour, by the owner: event partitions a week ahead and a day back, idempotency keys a day, finished mails a week, usage 90 days.';

create function private.create_first_admin(
    email text, password_hash text, name text, organization_name text
) returns boolean
language plpgsql volatile
set search_path = ''
as $$
declare
    v_user_id uuid := gen_random_uuid();
    v_organization_id uuid;
begin
    -- Two processes that start at once make one admin.
    perform pg_advisory_xact_lock(7310589214);
    if exists (select from public.members as m where m.role = 'admin') then
        return false;
    end if;
    insert into public.organizations (name) values (organization_name) returning id into v_organization_id;
    -- Its membership follows from app_metadata (77_accounts). The empty texts are what the auth service expects. Whoever
    -- starts the server has chosen the address, which is as good as a link that was followed.
    insert into auth.users (id, instance_id, aud, role, email, encrypted_password, email_confirmed_at,
        confirmation_sent_at, created_at, updated_at, confirmation_token, recovery_token, email_change_token_new,
        email_change, raw_app_meta_data, raw_user_meta_data)
    values (v_user_id, '00000000-0000-0000-0000-000000000000', 'authenticated', 'authenticated', lower(email),
        password_hash, now(), now(), now(), now(), '', '', '', '',
        jsonb_build_object('provider', 'email', 'providers', array['email'],
            'organization_id', v_organization_id, 'role', 'admin'),
        jsonb_build_object('name', name));
    insert into auth.identities (user_id, provider_id, provider, identity_data, created_at, updated_at)
    values (v_user_id, v_user_id::text, 'email',
        jsonb_build_object('sub', v_user_id, 'email', lower(email), 'email_verified', true), now(), now());
    return true;
end
$$;
comment on function private.create_first_admin(text, text, text, text) is
    'Founds the first organization with its admin; false, and nothing done, if there is an admin already.';

-- sql/77_accounts.sql
/*
 * From accounts to members. The auth service (Supabase's own, or ours on a plain Postgres) writes auth.users; what that
 * means for an organization follows here, in the same transaction: who signs up founds one or joins one, who leaves
 * loses their way in. What admins do with members is here too. Roles live in public.members; a JWT carries a copy.
 */

create function private.display_name(metadata jsonb, email text) returns text
language sql immutable
set search_path = ''
return left(coalesce(
    nullif(btrim(metadata ->> 'name'), ''),
    nullif(btrim(metadata ->> 'full_name'), ''),
    nullif(btrim(concat_ws(' ', metadata ->> 'first_name', metadata ->> 'last_name')), ''),
    split_part(email, '@', 1)), 200);
comment on function private.display_name(jsonb, text) is 'What a new member is called, from what they said at sign-up.';

create function private.username_of(email text) returns text
language sql immutable
set search_path = ''
return case when length(email) <= 150 then lower(email) else left(lower(email), 117) || '-' || md5(lower(email)) end;
comment on function private.username_of(text) is 'The username of somebody who has not chosen one: the address, shortened if need be.';

create function private.is_organization(id text) returns boolean
language plpgsql stable security definer
set search_path = ''
as $$
begin
    return exists (
        select from public.organizations as o where o.id = btrim(is_organization.id)::uuid and o.deleted_at is null);
exception
    when invalid_text_representation then
        return false;
end
$$;
comment on function private.is_organization(text) is
    'Whether anybody can join it. Definer: the owner of accounts may not read organizations.';
alter function private.is_organization(text) owner to deskbase_definer;
grant execute on function private.is_organization(text) to supabase_auth_admin;

create function private.add_member(
    organization_id uuid, user_id uuid, email text, name text, role public.member_role, department text default null
) returns uuid
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_id uuid;
begin
    perform from public.organizations as o
    where o.id = add_member.organization_id and o.deleted_at is null
    for key share;
    if not found then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'There is no such organization.';
    end if;
    insert into public.members (organization_id, user_id, username, email, name, role, department)
    values (add_member.organization_id, add_member.user_id, private.username_of(add_member.email),
        lower(add_member.email), add_member.name, add_member.role, nullif(btrim(add_member.department), ''))
    returning id into v_id;
    return v_id;
exception
    when unique_violation then
        raise sqlstate 'PT409' using message = 'conflict',
            detail = 'Somebody with this e-mail address is a member already.';
end
$$;
comment on function private.add_member(uuid, uuid, text, text, public.member_role, text) is
    'Makes an account a member. Definer: nobody writes members directly.';
alter function private.add_member(uuid, uuid, text, text, public.member_role, text) owner to deskbase_definer;

create function private.tg_users__membership() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid;
    v_name text;
begin
    if new.email is null or new.email = '' or new.raw_user_meta_data is null then
        return null;
    end if;
    v_name := private.display_name(new.raw_user_meta_data, new.email);
    if new.raw_app_meta_data ->> 'organization_id' is not null then
        -- app_metadata is the server's own word, so it may name a role.
        perform private.add_member((new.raw_app_meta_data ->> 'organization_id')::uuid, new.id, new.email, v_name,
            coalesce(new.raw_app_meta_data ->> 'role', 'customer')::public.member_role);
    elsif nullif(btrim(new.raw_user_meta_data ->> 'organization_id'), '') is not null then
        perform private.add_member(btrim(new.raw_user_meta_data ->> 'organization_id')::uuid, new.id, new.email, v_name,
            'customer');
    else
        insert into public.organizations (name)
        values (left(coalesce(nullif(btrim(new.raw_user_meta_data ->> 'organization'), ''), v_name), 200))
        returning id into v_organization_id;
        perform private.add_member(v_organization_id, new.id, new.email, v_name, 'admin');
    end if;
    return null;
exception
    when invalid_text_representation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'There is no such organization or role.';
end
$$;
comment on function private.tg_users__membership() is
    'Makes a new account a member: of the organization that app_metadata names, in its role; of the one that the sign-up names, as a customer; else of a new one, as its admin. A bare row without metadata, as scripts insert it, is left alone. Definer: accounts are made before anybody is somebody.';
alter function private.tg_users__membership() owner to deskbase_definer;

create trigger _500_membership after insert on auth.users
    for each row execute function private.tg_users__membership();

create function private.tg_users__appointed() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_member public.members;
begin
    -- What was made in this very transaction. Later on app_metadata only says which organization a person is in.
    select m.* into v_member from public.members as m where m.user_id = new.id and m.created_at = now();
    if not found or exists (
        select from public.members as m
        where m.user_id = new.id and m.organization_id::text = new.raw_app_meta_data ->> 'organization_id'
            and m.role::text = coalesce(new.raw_app_meta_data ->> 'role', m.role::text)) then
        return null;
    end if;
    delete from public.members as m where m.organization_id = v_member.organization_id and m.id = v_member.id;
    delete from public.organizations as o
    where o.id = v_member.organization_id and v_member.role = 'admin' and o.created_at = now()
        and not exists (select from public.members as m where m.organization_id = o.id);
    perform private.add_member((new.raw_app_meta_data ->> 'organization_id')::uuid, new.id, new.email, v_member.name,
        coalesce(new.raw_app_meta_data ->> 'role', 'customer')::public.member_role);
    return null;
exception
    when invalid_text_representation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'There is no such organization or role.';
end
$$;
comment on function private.tg_users__appointed() is
    'Lets app_metadata decide about a new account also where it is written just after it: Supabase''s auth service makes an account and tells what an admin says of it in the next statement. Definer: the auth service does not know members.';
alter function private.tg_users__appointed() owner to deskbase_definer;

create trigger _505_appointed after update of raw_app_meta_data on auth.users
    for each row when (old.raw_app_meta_data ->> 'organization_id' is null
        and new.raw_app_meta_data ->> 'organization_id' is not null)
    execute function private.tg_users__appointed();

create function private.tg_users__confirmed() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform private.give_contact(m.organization_id, m.id) from public.members as m where m.user_id = new.id;
    return null;
end
$$;
comment on function private.tg_users__confirmed() is
    'Gives customers their contact once their address is confirmed. Definer: the auth service does not know members.';
alter function private.tg_users__confirmed() owner to deskbase_definer;

create trigger _510_confirmed after update of email_confirmed_at on auth.users
    for each row when (old.email_confirmed_at is null and new.email_confirmed_at is not null)
    execute function private.tg_users__confirmed();

create function private.tg_users__email() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.contacts as c
    set email = lower(new.email)
    from public.members as m
    where m.user_id = new.id and c.organization_id = m.organization_id and c.member_id = m.id
        and c.email = lower(old.email);
    update public.members as m
    set email = lower(new.email),
        username = case when m.username = private.username_of(old.email)
            then private.username_of(new.email) else m.username end
    where m.user_id = new.id;
    return null;
end
$$;
comment on function private.tg_users__email() is
    'Takes a changed address over to members and contacts. Definer: the auth service does not know members.';
alter function private.tg_users__email() owner to deskbase_definer;

create trigger _520_email after update of email on auth.users
    for each row when (old.email is distinct from new.email and new.email <> '' and new.deleted_at is null)
    execute function private.tg_users__email();

create function private.tg_users__left() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    -- What the person wrote keeps its author; the address is free for whoever proves it next.
    update public.contacts as c
    set member_id = null
    from public.members as m
    where m.user_id = old.id and c.organization_id = m.organization_id and c.member_id = m.id;
    delete from public.member_identities as i
    using public.members as m
    where m.user_id = old.id and i.organization_id = m.organization_id and i.member_id = m.id;
    update public.members as m
    set user_id = null, is_active = false, presence = 'offline',
        username = 'deleted-' || m.id, email = 'deleted-' || m.id || '@invalid'
    where m.user_id = old.id;
    return case tg_op when 'DELETE' then old else new end;
end
$$;
comment on function private.tg_users__left() is
    'Ends the memberships of an account that is deleted. Definer: the auth service does not know members.';
alter function private.tg_users__left() owner to deskbase_definer;

create trigger _530_left before delete on auth.users
    for each row execute function private.tg_users__left();
create trigger _531_left before update of deleted_at on auth.users
    for each row when (old.deleted_at is null and new.deleted_at is not null)
    execute function private.tg_users__left();

create function private.forget_memberships(user_id uuid) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform from auth.users as u where u.id = forget_memberships.user_id and u.email_confirmed_at is null;
    if not found then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'This account is in use.';
    end if;
    delete from public.organizations as o
    where exists (
            select from public.members as m
            where m.organization_id = o.id and m.user_id = forget_memberships.user_id and m.role = 'admin')
        and not exists (
            select from public.members as m
            where m.organization_id = o.id and m.user_id is distinct from forget_memberships.user_id);
    delete from public.members as m where m.user_id = forget_memberships.user_id;
end
$$;
comment on function private.forget_memberships(uuid) is
    'Undoes what a sign-up meant that nobody has confirmed: the organization that it founded, or its membership. Definer: the auth service does not know members.';
alter function private.forget_memberships(uuid) owner to deskbase_definer;
grant execute on function private.forget_memberships(uuid) to supabase_auth_admin;

create function private.custom_access_token_hook(event jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_claims jsonb := private.fresh_claims(event -> 'claims');
begin
    -- Who was shut out of the organization that they had chosen goes on in another one of theirs.
    if v_claims #> '{app_metadata,organization_id}' is null and v_claims #> '{app_metadata,lacks_factor}' is null
        and event #> '{claims,app_metadata,organization_id}' is not null then
        v_claims := private.fresh_claims(event -> 'claims' #- '{app_metadata,organization_id}');
    end if;
    if v_claims is null then
        return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', 'User is banned'));
    end if;
    return jsonb_build_object('claims', v_claims);
end
$$;
comment on function private.custom_access_token_hook(jsonb) is
    E'Put the membership into access tokens\n\nWhat the auth service calls before it signs one (Supabase''s hook of that name; supabase/config.toml turns it on). An error if the person may not come in. Definer: it reads members.';
alter function private.custom_access_token_hook(jsonb) owner to deskbase_definer;
grant execute on function private.custom_access_token_hook(jsonb) to supabase_auth_admin;

create function private.membership(user_id uuid, organization_id text) returns jsonb
language sql stable security definer
set search_path = ''
begin atomic
    select jsonb_build_object('organization_id', m.organization_id, 'role', m.role, 'member_id', m.id, 'contact_id', c.id)
    from public.members as m
    join public.organizations as o on o.id = m.organization_id and o.deleted_at is null
    left join public.contacts as c
        on c.organization_id = m.organization_id and c.member_id = m.id and m.role = 'customer'
    where m.user_id = membership.user_id and m.is_active
    order by m.organization_id::text = membership.organization_id desc, m.created_at, m.id
    limit 1;
end;
comment on function private.membership(uuid, text) is
    'What tokens would say that an account is member of, could its holder come in: of the organization named, or else of the first; null for a member of nothing. Definer: the auth service does not know members.';
alter function private.membership(uuid, text) owner to deskbase_definer;
grant execute on function private.membership(uuid, text) to supabase_auth_admin;

/* What admins do with members. The functions that write auth tables belong to whoever applies the migrations: only that
   role may on Supabase. */

create function private.member_json(member public.members) returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
    'id', member.id, 'user_id', member.user_id, 'number', member.number, 'username', member.username,
    'email', member.email, 'name', member.name, 'role', member.role, 'department', member.department,
    'is_active', member.is_active, 'created_at', private.rfc3339(member.created_at),
    'updated_at', private.rfc3339(member.updated_at));
comment on function private.member_json(public.members) is 'A member as their admin sees them.';

create function private.create_member(
    organization_id uuid, email text, password text, name text, role public.member_role, department text
) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_email text := lower(btrim(create_member.email));
    v_name text := nullif(btrim(create_member.name), '');
    v_hash text;
    v_user_id uuid;
    v_is_new boolean;
    v_member_id uuid;
    v_member public.members;
begin
    if v_email is null or v_email !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' or length(v_email) > 255 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'email must be an e-mail address.';
    end if;
    if v_name is null or length(v_name) > 200 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'name must have 1 to 200 characters.';
    end if;
    if length(btrim(create_member.department)) > 200 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'department must have at most 200 characters.';
    end if;
    if create_member.role is null then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'role is missing.';
    end if;
    if create_member.password is not null then
        perform private.check_password(create_member.password);
    end if;
    -- In any case, so that it takes as long where there is an account already.
    v_hash := private.hash_password(create_member.password);
    v_user_id := private.create_account(v_email, v_hash, v_name);
    v_is_new := v_user_id is not null;
    if not v_is_new then
        v_user_id := private.join_account(v_email);
    end if;
    if not v_is_new or v_hash is null then
        perform private.queue_mail(
            case when u.confirmed_at is null then 'invite' else 'added_to_organization' end, v_email,
            create_member.organization_id, '{}')
        from auth.users as u where u.id = v_user_id;
    end if;
    v_member_id := private.add_member(create_member.organization_id, v_user_id, v_email, v_name, create_member.role,
        create_member.department);
    select m.* into v_member
    from public.members as m
    where m.organization_id = create_member.organization_id and m.id = v_member_id;
    return private.member_json(v_member);
end
$$;
comment on function private.create_member(uuid, text, text, text, public.member_role, text) is
    'Makes somebody a member who can log in: with a password at once, without one by an invitation that is mailed. Whether there was an account already is not told. Definer: nobody writes accounts directly.';

create function private.create_account(email text, password_hash text, name text) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
begin
    -- No metadata yet: the membership is not this account's own doing. The empty texts are what the auth service expects.
    insert into auth.users (id, instance_id, aud, role, email, encrypted_password, email_confirmed_at, invited_at,
        created_at, updated_at, confirmation_token, recovery_token, email_change_token_new, email_change)
    values (v_id, '00000000-0000-0000-0000-000000000000', 'authenticated', 'authenticated', create_account.email,
        coalesce(password_hash, ''), case when password_hash is not null then now() end, now(), now(), now(),
        '', '', '', '')
    on conflict do nothing;
    if not found then
        return null;
    end if;
    update auth.users as u
    set raw_app_meta_data = '{"provider": "email", "providers": ["email"]}',
        raw_user_meta_data = jsonb_build_object('name', create_account.name)
    where u.id = v_id;
    insert into auth.identities (user_id, provider_id, provider, identity_data, created_at, updated_at)
    values (v_id, v_id::text, 'email', jsonb_build_object(
        'sub', v_id, 'email', create_account.email, 'email_verified', password_hash is not null), now(), now());
    return v_id;
end
$$;
comment on function private.create_account(text, text, text) is
    'An account that an admin makes: confirmed if it has a password; null if the address has one.';

create function private.join_account(email text) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid;
begin
    select u.id into v_id from auth.users as u
    where lower(u.email) = join_account.email and u.deleted_at is null
    for no key update;
    if not found then
        raise sqlstate 'PT409' using message = 'conflict', detail = 'The account of this address was just changed; try again.';
    end if;
    -- Whoever signed up with somebody else's address, to be added here under it one day, has chosen its password.
    update auth.users as u set encrypted_password = '', invited_at = now(), updated_at = now()
    where u.id = v_id and u.confirmed_at is null;
    return v_id;
end
$$;
comment on function private.join_account(text) is
    'The account that an address has. It is its holder''s, so password and name stay as they are, unless it was never confirmed: then its reader is invited.';

create function private.update_member(
    organization_id uuid, id uuid, name text, role public.member_role, department text, is_active boolean
) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_member public.members;
begin
    -- Two admins who demote each other at the same time take turns.
    perform from public.organizations as o where o.id = update_member.organization_id for no key update;
    -- The account before its memberships, sessions and whatever hangs on it: so does the auth service.
    perform from auth.users as u
    where u.id = (
        select m.user_id from public.members as m
        where m.organization_id = update_member.organization_id and m.id = update_member.id)
    for no key update;
    select m.* into v_member from public.members as m
    where m.organization_id = update_member.organization_id and m.id = update_member.id
    for update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such member.';
    end if;
    if update_member.name is not null and length(btrim(update_member.name)) not between 1 and 200 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'name must have 1 to 200 characters.';
    end if;
    if length(btrim(update_member.department)) > 200 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'department must have at most 200 characters.';
    end if;
    if v_member.user_id is null and update_member.is_active then
        raise sqlstate 'PT409' using message = 'conflict', detail = 'This account was deleted; add the person again.';
    end if;
    update public.members as m
    set name = coalesce(btrim(update_member.name), m.name),
        role = coalesce(update_member.role, m.role),
        department = case when update_member.department is null then m.department
            else nullif(btrim(update_member.department), '') end,
        is_active = coalesce(update_member.is_active, m.is_active),
        presence = case when update_member.is_active is false then 'offline' else m.presence end
    where m.organization_id = v_member.organization_id and m.id = v_member.id
    returning m.* into v_member;
    perform from public.members as m
    where m.organization_id = v_member.organization_id and m.role = 'admin' and m.is_active;
    if not found then
        raise sqlstate 'PT409' using message = 'last_admin', detail = 'An organization keeps at least one active admin.';
    end if;
    if not v_member.is_active then
        -- So that none of them comes back with the member. Sessions serve every organization of a person.
        delete from auth.sessions as s
        where s.user_id = v_member.user_id and not exists (
            select from public.members as m where m.user_id = v_member.user_id and m.is_active);
    end if;
    return private.member_json(v_member);
end
$$;
comment on function private.update_member(uuid, uuid, text, public.member_role, text, boolean) is
    'Changes what is not null; an empty department takes it away. Deactivating ends the sessions. Definer: nobody writes members directly.';

create function private.appoint(user_id uuid, organization_id text, role text) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_role public.member_role;
    v_member public.members;
begin
    v_role := appoint.role::public.member_role;
    select m.* into v_member
    from public.members as m
    where m.user_id = appoint.user_id and m.organization_id = appoint.organization_id::uuid;
    if not found then
        perform private.add_member(appoint.organization_id::uuid, u.id, u.email,
            private.display_name(u.raw_user_meta_data, u.email), coalesce(v_role, 'customer'))
        from auth.users as u where u.id = appoint.user_id;
    elsif v_role <> v_member.role then
        perform private.update_member(v_member.organization_id, v_member.id, null, v_role, null, null);
    end if;
exception
    when invalid_text_representation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'There is no such organization or role.';
end
$$;
comment on function private.appoint(uuid, text, text) is
    'What the server says of an account that there is: its membership of an organization, made (a customer''s, unless a role is named) or given that role. Definer: the auth service does not know members.';
grant execute on function private.appoint(uuid, text, text) to supabase_auth_admin;

create function private.admin_create_member(
    email text, password text, name text, role public.member_role, department text
) returns jsonb
language sql volatile security definer
set search_path = ''
return private.create_member(private.require_admin(), email, password, name, role, department);
comment on function private.admin_create_member(text, text, text, public.member_role, text) is
    'create_member for the admin who is asking. Definer: checks the caller and hands on.';
grant execute on function private.admin_create_member(text, text, text, public.member_role, text) to authenticated;

create function private.admin_update_member(
    id uuid, name text, role public.member_role, department text, is_active boolean
) returns jsonb
language sql volatile security definer
set search_path = ''
return private.update_member(private.require_admin(), id, name, role, department, is_active);
comment on function private.admin_update_member(uuid, text, public.member_role, text, boolean) is
    'update_member for the admin who is asking. Definer: checks the caller and hands on.';
grant execute on function private.admin_update_member(uuid, text, public.member_role, text, boolean) to authenticated;

create function public.create_member(
    email text, name text, role public.member_role, password text default null, department text default null
) returns jsonb
language sql volatile
set search_path = ''
return private.admin_create_member(email, password, name, role, department);
comment on function public.create_member(text, text, public.member_role, text, text) is
    E'Add a member\n\nFor admins. With a password they can log in at once; without one they are mailed an invitation.';
grant execute on function public.create_member(text, text, public.member_role, text, text) to authenticated;

create function public.update_member(
    id uuid, name text default null, role public.member_role default null, department text default null,
    is_active boolean default null
) returns jsonb
language sql volatile
set search_path = ''
return private.admin_update_member(id, name, role, department, is_active);
comment on function public.update_member(uuid, text, public.member_role, text, boolean) is
    E'Change a member\n\nFor admins. What is left out stays; is_active true lets a deactivated member in again.';
grant execute on function public.update_member(uuid, text, public.member_role, text, boolean) to authenticated;

create function public.deactivate_member(id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.admin_update_member(id, null, null, null, false);
comment on function public.deactivate_member(uuid) is
    E'Lock a member out\n\nFor admins. Every way in ends with the next request.';
grant execute on function public.deactivate_member(uuid) to authenticated;

create function private.enter_organization(organization_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_user_id uuid := (private.claims() ->> 'sub')::uuid;
    v_member public.members;
begin
    select m.* into v_member
    from public.members as m
    join public.organizations as o on o.id = m.organization_id and o.deleted_at is null
    where m.user_id = v_user_id and m.organization_id = enter_organization.organization_id and m.is_active;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'You are no member of such an organization.';
    end if;
    if private.fresh_claims(jsonb_build_object('sub', v_user_id, 'session_id', private.claims() ->> 'session_id',
        'app_metadata', jsonb_build_object('organization_id', enter_organization.organization_id)))
        #> '{app_metadata,member_id}' is null then
        raise sqlstate 'PT403' using message = 'forbidden',
            detail = 'Log in by a link that is mailed to you first, or choose a new password by one.';
    end if;
    update auth.users as u
    set raw_app_meta_data = coalesce(u.raw_app_meta_data, '{}')
        || jsonb_build_object('organization_id', enter_organization.organization_id)
    where u.id = v_user_id;
    return private.member_json(v_member);
end
$$;
comment on function private.enter_organization(uuid) is
    'Chooses the organization of the person''s next access tokens. Definer: nobody writes accounts directly.';
grant execute on function private.enter_organization(uuid) to authenticated;

create function public.enter_organization(organization_id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.enter_organization(organization_id);
comment on function public.enter_organization(uuid) is
    E'Go over to another organization\n\nFor people who are members of several: tokens are for this one from the next refresh or log-in on.';
grant execute on function public.enter_organization(uuid) to authenticated;

-- sql/78_realtime.sql
/*
 * Private channels that are the desk's own. Supabase's clients ask for a channel by its name, and policies on
 * realtime.messages say who may hear and who may speak there.
 *
 * desk:ticket:{id} is where the agents who have a ticket open see each other: presence with who views and who types.
 */

create function private.is_ticket_room() returns boolean
language sql stable
set search_path = ''
return (select private.is_agent()) and exists (
    select from public.tickets as t
    where t.organization_id = (select private.organization_id())
        and t.id = substring(
            realtime.topic() from '^desk:ticket:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$')::uuid);
comment on function private.is_ticket_room() is
    'Whether the channel asked about is that of a ticket, and an agent asks who sees the ticket.';
grant execute on function private.is_ticket_room() to authenticated;

create policy select_agent on realtime.messages for select to authenticated
    using (extension in ('broadcast', 'presence') and (select private.is_ticket_room()));
create policy insert_agent on realtime.messages for insert to authenticated
    with check (extension in ('broadcast', 'presence') and (select private.is_ticket_room()));

create function private.presence_meta(topic text, claims jsonb, given jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_member record;
begin
    if topic not like 'desk:ticket:%' then
        return given;
    end if;
    if coalesce(given ->> 'state', 'viewing') not in ('viewing', 'typing') then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'state is viewing or typing.';
    end if;
    select m.id, m.name into v_member
    from public.members as m
    where m.organization_id = (claims #>> '{app_metadata,organization_id}')::uuid
        and m.id = (claims #>> '{app_metadata,member_id}')::uuid;
    return given || jsonb_build_object(
        'member_id', v_member.id, 'name', v_member.name,
        'state', coalesce(given ->> 'state', 'viewing'), 'since', private.rfc3339(now()));
end
$$;
comment on function private.presence_meta(text, jsonb, jsonb) is
    'What others see of somebody''s presence on a private channel: on a ticket''s, who it really is, and since when they view or type. Definer: it says a member''s name to whoever may be there.';
alter function private.presence_meta(text, jsonb, jsonb) owner to deskbase_definer;

-- sql/80_integration_tickets.sql
/*
 * The integration-tickets contract: its words, and its operations in the order of its document. Each takes the claims that the
 * limiter answered, enters as their role and works under the policies from there on. They are for the service's login
 * alone; who could pass claims of their own could be anybody.
 */

create schema integration_tickets;
comment on schema integration_tickets is 'The integration-tickets contract: what outside systems see of their tickets.';
grant usage on schema integration_tickets to authenticator, integration;

----------------------------------------------------------------------------------------------------------------------
-- Words
----------------------------------------------------------------------------------------------------------------------

create function integration_tickets.status_word(status public.ticket_status) returns text
language sql immutable
set search_path = ''
return private.words('integration_tickets') #>> array['status', status::text];
comment on function integration_tickets.status_word(public.ticket_status) is 'What the contract calls a status.';
grant execute on function integration_tickets.status_word(public.ticket_status) to authenticator, integration;

-- The shapes that are answered; row_to_json writes them without the blanks that json_build_object puts in.

create type integration_tickets.created_ticket as (
    id uuid, title text, description text, status text, priority text, category text, metadata jsonb, created_at text
);
comment on type integration_tickets.created_ticket is 'A ticket as creating it answers.';

create type integration_tickets.ticket as (
    id uuid, title text, description text, status text, priority text, category text, metadata jsonb, created_at text,
    updated_at text
);
comment on type integration_tickets.ticket is 'A ticket.';

create type integration_tickets.changed_ticket as (id uuid, status text, updated_at text);
comment on type integration_tickets.changed_ticket is 'What a change of status answers of a ticket.';

----------------------------------------------------------------------------------------------------------------------
-- Operations
----------------------------------------------------------------------------------------------------------------------

create function integration_tickets.create_ticket(
    claims jsonb, title text, description text, priority text, category text, metadata jsonb, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
    v_category_id uuid;
    v_category text := nullif(btrim(category), '');
    v_once record;
begin
    perform private.enter(claims);
    perform private.require_scope('tickets:write');
    if idempotency_key is not null then
        v_once := private.begin_once('integration_tickets.create_ticket', idempotency_key,
            jsonb_build_array(title, description, priority, category, metadata));
        if v_once.is_repeat then
            body := v_once.body;
            version := v_once.version;
            return;
        end if;
    end if;
    if v_category is not null then
        select c.id, c.name into v_category_id, v_category
        from public.categories as c
        where lower(c.name) = lower(v_category);
        if not found then
            v_category := btrim(category);
        end if;
    end if;
    -- Nothing is read back: a token that may only write gets its answer too.
    insert into public.tickets (id, subject, description, priority, channel, category_id, category_label, metadata)
    values (
        v_id,
        title,
        coalesce(create_ticket.description, ''),
        coalesce(create_ticket.priority, 'medium')::public.ticket_priority,
        'api',
        v_category_id,
        case when v_category_id is null then v_category end,
        coalesce(create_ticket.metadata, '{}'));
    version := 1;
    body := '{"ticket":' || row_to_json(row(
        v_id,
        title,
        nullif(create_ticket.description, ''),
        integration_tickets.status_word('new'),
        coalesce(create_ticket.priority, 'medium'),
        v_category,
        coalesce(create_ticket.metadata, '{}'),
        private.rfc3339(now()))::integration_tickets.created_ticket) || '}';
    if idempotency_key is not null then
        perform private.finish_once('integration_tickets.create_ticket', idempotency_key, body, version);
    end if;
end
$$;
comment on function integration_tickets.create_ticket(jsonb, text, text, text, text, jsonb, text) is
    E'POST /tickets\n\nLinks a category of that name, else keeps the name. Raises insufficient_scope, idempotency_conflict.';

create function integration_tickets.get_ticket(claims jsonb, ticket_id uuid, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select '{"ticket":' || row_to_json(row(
            t.id,
            t.subject,
            nullif(t.description, ''),
            integration_tickets.status_word(t.status),
            t.priority,
            coalesce(c.name, t.category_label),
            t.metadata,
            private.rfc3339(t.created_at),
            private.rfc3339(t.updated_at))::integration_tickets.ticket) || '}', t.version
    into body, version
    from public.tickets as t
    left join public.categories as c on c.organization_id = t.organization_id and c.id = t.category_id
    where t.id = get_ticket.ticket_id;
    if not found then
        perform private.require_scope('tickets:read');
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
end
$$;
comment on function integration_tickets.get_ticket(jsonb, uuid) is
    E'GET /tickets/{ticket_id}\n\nRaises not_found for every ticket that the token did not make, insufficient_scope.';

create function integration_tickets.add_comment(
    claims jsonb, ticket_id uuid, content text, is_internal boolean, if_match bigint, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
    v_once record;
    v_ticket record;
begin
    perform private.enter(claims);
    perform private.require_scope('comments:write');
    if idempotency_key is not null then
        v_once := private.begin_once('integration_tickets.add_comment', idempotency_key,
            jsonb_build_array(ticket_id, content, is_internal));
        if v_once.is_repeat then
            body := v_once.body;
            version := v_once.version;
            return;
        end if;
    end if;
    v_ticket := private.lock_ticket(ticket_id);
    perform private.require_version(ticket_id, v_ticket.version, if_match);
    insert into public.comments (id, ticket_id, body, is_internal)
    values (v_id, add_comment.ticket_id, content, coalesce(add_comment.is_internal, false));
    version := v_ticket.version + 1;
    body := '{"comment_id":"' || v_id || '"}';
    if idempotency_key is not null then
        perform private.finish_once('integration_tickets.add_comment', idempotency_key, body, version);
    end if;
end
$$;
comment on function integration_tickets.add_comment(jsonb, uuid, text, boolean, bigint, text) is
    E'POST /tickets/{ticket_id}/comments\n\nRaises not_found, not_authorized, stale, insufficient_scope, idempotency_conflict.';

create function integration_tickets.update_ticket_status(
    claims jsonb, ticket_id uuid, status text, if_match bigint,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_locked record;
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    perform private.require_scope('tickets:write'), private.require_scope('tickets:read');
    if private.canonical('integration_tickets', 'status', status) = '{}' then
        raise sqlstate 'PT400' using message = 'invalid_field',
            detail = 'status must be one of open, in_progress, waiting, resolved, closed.';
    end if;
    v_locked := private.lock_ticket(ticket_id);
    perform private.require_version(ticket_id, v_locked.version, if_match);
    -- The word that the ticket already shows changes nothing: a client that writes back what it read moves no ticket.
    update public.tickets as t
    set status = private.new_canonical('integration_tickets', 'status', update_ticket_status.status, t.status)
    where t.id = update_ticket_status.ticket_id
        and integration_tickets.status_word(t.status) <> update_ticket_status.status;
    select t.* into v_ticket from public.tickets as t where t.id = update_ticket_status.ticket_id;
    version := v_ticket.version;
    body := '{"success":true,"ticket":' || row_to_json(row(
        v_ticket.id,
        integration_tickets.status_word(v_ticket.status),
        private.rfc3339(v_ticket.updated_at))::integration_tickets.changed_ticket) || '}';
end
$$;
comment on function integration_tickets.update_ticket_status(jsonb, uuid, text, bigint) is
    E'PATCH /tickets/{ticket_id}/status\n\nRaises invalid_field, not_found, not_authorized, stale, insufficient_scope.';

grant execute on function
    integration_tickets.create_ticket(jsonb, text, text, text, text, jsonb, text),
    integration_tickets.get_ticket(jsonb, uuid),
    integration_tickets.add_comment(jsonb, uuid, text, boolean, bigint, text),
    integration_tickets.update_ticket_status(jsonb, uuid, text, bigint)
    to authenticator;

-- sql/81_support_platform.sql
/*
 * The support-platform contract: its shapes, and its operations in the order of its document. People work here, customers
 * and agents, so an operation enters as the person whose claims were admitted and works under the policies from there on.
 * The incoming webhook has no person: its sender signs with the organization's secret and writes as the desk itself.
 */

create schema support_platform;
comment on schema support_platform is 'The support-platform contract: what customers and agents see of tickets.';
grant usage on schema support_platform to authenticator, authenticated, service_role;

----------------------------------------------------------------------------------------------------------------------
-- Words and shapes
----------------------------------------------------------------------------------------------------------------------

create function support_platform.words_of(field text, word text) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
    v_values text[] := private.canonical('support_platform', field, word);
begin
    if word is null then
        return null;
    end if;
    if v_values = '{}' then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = format('%s must be one of %s.', field, (
            select string_agg(distinct w.value, ', ')
            from jsonb_each_text(private.words('support_platform') -> field) as w));
    end if;
    return v_values;
end
$$;
comment on function support_platform.words_of(text, text) is
    'Every canonical value that a filter''s word matches; null for no filter. Raises invalid_field.';

-- row_to_json writes the shapes without the blanks that json_build_object puts in.

create type support_platform.ticket as (
    id uuid, title text, description text, status text, priority text, category_id uuid, created_at text, updated_at text
);
comment on type support_platform.ticket is 'A ticket.';

create type support_platform.message as (id uuid, ticket_id uuid, content text, is_internal boolean, created_at text);
comment on type support_platform.message is 'A message.';

create type support_platform.category as (id uuid, name text, description text);
comment on type support_platform.category is 'A category.';

create function support_platform.ticket_json(ticket public.tickets) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        ticket.id,
        ticket.subject,
        ticket.description,
        private.words('support_platform') #>> array['status', ticket.status],
        private.words('support_platform') #>> array['priority', ticket.priority],
        ticket.category_id,
        private.rfc3339(ticket.created_at),
        private.rfc3339(ticket.updated_at))::support_platform.ticket);
end;
comment on function support_platform.ticket_json(public.tickets) is 'A ticket as the contract shows it.';

create function support_platform.message_json(comment public.comments) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        comment.id,
        comment.ticket_id,
        comment.body,
        comment.is_internal,
        private.rfc3339(comment.created_at))::support_platform.message);
end;
comment on function support_platform.message_json(public.comments) is 'A message as the contract shows it.';

create function support_platform.page_json(items text, total bigint, page bigint, page_size bigint) returns text
language sql immutable
set search_path = ''
return '{"items":[' || coalesce(items, '') || '],"total":' || total || ',"page":' || page
    || ',"pages":' || (total + page_size - 1) / page_size || '}';
comment on function support_platform.page_json(text, bigint, bigint, bigint) is 'A page of a list, its items being joined by commas.';

create function support_platform.require_category(organization_id uuid, category_id uuid) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if category_id is not null and not exists (
        select from public.categories as c
        where c.organization_id = require_category.organization_id and c.id = require_category.category_id
    ) then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'category_id is no category of this organization.';
    end if;
end
$$;
comment on function support_platform.require_category(uuid, uuid) is
    'Names the field that is wrong, before the foreign key refuses it. Raises invalid_field.';

grant execute on function
    support_platform.words_of(text, text),
    support_platform.ticket_json(public.tickets),
    support_platform.message_json(public.comments),
    support_platform.page_json(text, bigint, bigint, bigint)
    to authenticated;
grant execute on function support_platform.require_category(uuid, uuid) to authenticated, service_role;

----------------------------------------------------------------------------------------------------------------------
-- Tickets
----------------------------------------------------------------------------------------------------------------------

create function support_platform.list_tickets(
    claims jsonb, status text, category_id uuid, priority text, page bigint, page_size bigint, out body text
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_statuses text[];
    v_priorities text[];
begin
    perform private.enter(claims);
    v_statuses := support_platform.words_of('status', status);
    v_priorities := support_platform.words_of('priority', priority);
    -- Executed, so that it is planned for these filters: what is not asked for drops out, and a customer's list, which says
    -- itself what the policy says, goes by the index of their tickets. One statement, so that total and items agree.
    execute $list$
        with found as not materialized (
            select t.* from public.tickets as t
            where ($1 or t.contact_id = $2)
                and ($3 is null or t.status = any ($3))
                and ($4 is null or t.category_id = $4)
                and ($5 is null or t.priority = any ($5))
        ), shown as (
            select f.* from found as f order by f.created_at desc, f.id desc limit $7 offset ($6 - 1) * $7
        )
        select support_platform.page_json(
            (select string_agg(support_platform.ticket_json(s), ',' order by s.created_at desc, s.id desc) from shown as s),
            case when $1 then coalesce(private.count_tickets($3, $5, $4, null), 0) else (select count(*) from found) end, $6, $7)
    $list$
    into body
    using private.is_agent(), private.contact_id(), v_statuses, category_id, v_priorities, page, page_size;
end
$$;
comment on function support_platform.list_tickets(jsonb, text, uuid, text, bigint, bigint) is
    E'GET /tickets\n\nThe newest first. Raises invalid_field.';

create function support_platform.create_ticket(
    claims jsonb, title text, description text, category_id uuid, priority text, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_once record;
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    v_once := private.begin_once('support_platform.create_ticket', idempotency_key,
        jsonb_build_array(title, description, category_id, priority));
    if v_once.is_repeat then
        body := v_once.body;
        version := v_once.version;
        return;
    end if;
    perform support_platform.require_category(private.organization_id(), category_id);
    insert into public.tickets (subject, description, category_id, priority)
    values (
        title,
        coalesce(create_ticket.description, ''),
        create_ticket.category_id,
        private.new_canonical('support_platform', 'priority', coalesce(create_ticket.priority, 'medium'), 'medium'))
    returning * into v_ticket;
    version := v_ticket.version;
    body := support_platform.ticket_json(v_ticket);
    perform private.finish_once('support_platform.create_ticket', idempotency_key, body, version);
end
$$;
comment on function support_platform.create_ticket(jsonb, text, text, uuid, text, text) is
    E'POST /tickets\n\nRaises invalid_field, idempotency_conflict.';

create function support_platform.get_ticket(claims jsonb, ticket_id uuid, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select support_platform.ticket_json(t), t.version into body, version
    from public.tickets as t
    where t.id = get_ticket.ticket_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
end
$$;
comment on function support_platform.get_ticket(jsonb, uuid) is
    E'GET /tickets/{ticket_id}\n\nRaises not_found for every ticket that the person does not see.';

----------------------------------------------------------------------------------------------------------------------
-- Messages
----------------------------------------------------------------------------------------------------------------------

create function support_platform.list_messages(
    claims jsonb, ticket_id uuid, page bigint, page_size bigint, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    -- One statement, so that the version is that of the messages shown: who answers with it in If-Match has read these.
    select t.version, support_platform.page_json(
        (
            select string_agg(support_platform.message_json(s), ',' order by s.created_at, s.id)
            from (
                select c.* from public.comments as c
                where c.ticket_id = t.id
                order by c.created_at, c.id
                limit page_size offset (list_messages.page - 1) * page_size
            ) as s
        ),
        (select count(*) from public.comments as c where c.ticket_id = t.id), list_messages.page, page_size)
    into version, body
    from public.tickets as t
    where t.id = list_messages.ticket_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
end
$$;
comment on function support_platform.list_messages(jsonb, uuid, bigint, bigint) is
    E'GET /tickets/{ticket_id}/messages\n\nThe oldest first. Raises not_found.';

create function support_platform.send_message(
    claims jsonb, ticket_id uuid, content text, is_internal boolean, if_match bigint, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_once record;
    v_version bigint;
    v_message public.comments;
begin
    perform private.enter(claims);
    v_once := private.begin_once('support_platform.send_message', idempotency_key,
        jsonb_build_array(ticket_id, content, is_internal));
    if v_once.is_repeat then
        body := v_once.body;
        version := v_once.version;
        return;
    end if;
    select t.version into v_version
    from public.tickets as t
    where t.id = send_message.ticket_id
    for no key update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    perform private.require_version(ticket_id, v_version, if_match);
    insert into public.comments (ticket_id, body, is_internal)
    values (send_message.ticket_id, content, coalesce(send_message.is_internal, false))
    returning * into v_message;
    version := v_message.ticket_version;
    body := support_platform.message_json(v_message);
    perform private.finish_once('support_platform.send_message', idempotency_key, body, version);
end
$$;
comment on function support_platform.send_message(jsonb, uuid, text, boolean, bigint, text) is
    E'POST /tickets/{ticket_id}/messages\n\nRaises not_found, stale, ticket_closed, idempotency_conflict; the policy refuses a customer''s internal message.';

----------------------------------------------------------------------------------------------------------------------
-- Categories
----------------------------------------------------------------------------------------------------------------------

create function support_platform.list_categories(claims jsonb, out body text)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select '[' || coalesce(string_agg(row_to_json(row(c.id, c.name, c.description)::support_platform.category)::text, ','
        order by lower(c.name), c.id), '') || ']'
    into body
    from public.categories as c;
end
$$;
comment on function support_platform.list_categories(jsonb) is E'GET /categories\n\nAll of them, by name.';

----------------------------------------------------------------------------------------------------------------------
-- Incoming webhook
----------------------------------------------------------------------------------------------------------------------

create function support_platform.receive_webhook(organization_id uuid, event text, data jsonb, out body text)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_organization_id uuid := coalesce(organization_id, private.first_organization_id());
    v_category_id uuid := (data ->> 'category_id')::uuid;
    v_ticket public.tickets;
begin
    -- The desk itself passes the policies, so every statement names the organization.
    perform private.enter('{"role": "service_role"}');
    body := '{"received":true}';
    select t.* into v_ticket
    from public.tickets as t
    where t.organization_id = v_organization_id and t.external_id = data ->> 'external_id'
    for no key update;
    if event = 'ticket.created' then
        if v_ticket.id is null then
            perform support_platform.require_category(v_organization_id, v_category_id);
            insert into public.tickets (organization_id, external_id, channel, subject, description, category_id, status, priority)
            values (
                v_organization_id,
                data ->> 'external_id',
                'api',
                data ->> 'title',
                coalesce(data ->> 'description', ''),
                v_category_id,
                private.new_canonical('support_platform', 'status', coalesce(data ->> 'status', 'open'), 'new'),
                private.new_canonical('support_platform', 'priority', coalesce(data ->> 'priority', 'medium'), 'medium'))
            on conflict do nothing;
        end if;
        return;
    end if;
    if v_ticket.id is null or v_ticket.deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No ticket has this external_id.';
    end if;
    if event = 'message.created' then
        insert into public.comments (organization_id, ticket_id, channel, external_message_id, body, is_internal)
        values (v_organization_id, v_ticket.id, 'api', data ->> 'message_id', data ->> 'content',
            coalesce((data ->> 'is_internal')::boolean, false))
        on conflict do nothing;
        return;
    end if;
    perform support_platform.require_category(v_organization_id, v_category_id);
    -- The same again, and the word that the ticket already shows, change nothing.
    update public.tickets as t
    set subject = n.subject, description = n.description, status = n.status, priority = n.priority,
        category_id = n.category_id, category_label = n.category_label
    from (
        select coalesce(data ->> 'title', v_ticket.subject),
            coalesce(data ->> 'description', v_ticket.description),
            coalesce(private.new_canonical('support_platform', 'status', data ->> 'status', v_ticket.status), v_ticket.status),
            coalesce(private.new_canonical('support_platform', 'priority', data ->> 'priority', v_ticket.priority),
                v_ticket.priority),
            case when data ? 'category_id' then v_category_id else v_ticket.category_id end,
            case when v_category_id is null then v_ticket.category_label end
    ) as n (subject, description, status, priority, category_id, category_label)
    where t.organization_id = v_organization_id and t.id = v_ticket.id
        and (n.subject, n.description, n.status, n.priority, n.category_id, n.category_label)
            is distinct from (t.subject, t.description, t.status, t.priority, t.category_id, t.category_label);
end
$$;
comment on function support_platform.receive_webhook(uuid, text, jsonb) is
    E'POST /webhooks/incoming\n\nDoes what a verified delivery says, in the organization or, without one, in the first. A second delivery of an external_id or message_id creates nothing. Raises not_found, invalid_field.';

----------------------------------------------------------------------------------------------------------------------
-- Socket
----------------------------------------------------------------------------------------------------------------------

create function support_platform.watch_ticket(claims jsonb, ticket_id uuid) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    perform from public.tickets as t where t.id = watch_ticket.ticket_id;
    if not found then
        perform private.refuse_ticket(ticket_id);
    end if;
end
$$;
comment on function support_platform.watch_ticket(jsonb, uuid) is
    E'/ws/tickets/{ticket_id}\n\nWhether a person may listen. Raises forbidden for another''s ticket of their organization, not_found for all others.';

create function support_platform.render_events(claims jsonb, events jsonb) returns table (id bigint, body text)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_words jsonb := private.words('support_platform');
    v_changes jsonb;
begin
    -- Much happens to a ticket that the contract does not show: a message makes a new version, a first reply opens it.
    select jsonb_agg(jsonb_build_object('id', e.id, 'table_name', e.table_name,
        'row_id', coalesce(e.record, e.old_record) -> 'id', 'record', e.record,
        -- A customer hears of a message when it is theirs to read, be it later.
        'is_new', e.operation = 'INSERT', 'is_public', e.operation = 'INSERT' and not (e.record -> 'is_internal')::boolean
            or e.operation = 'UPDATE' and (e.old_record -> 'is_internal')::boolean and not (e.record -> 'is_internal')::boolean,
        'is_told', (e.record -> 'subject', e.record -> 'description', e.record -> 'category_id',
                v_words -> 'status' -> (e.record ->> 'status'), v_words -> 'priority' -> (e.record ->> 'priority'))
            is distinct from (e.old_record -> 'subject', e.old_record -> 'description', e.old_record -> 'category_id',
                v_words -> 'status' -> (e.old_record ->> 'status'), v_words -> 'priority' -> (e.old_record ->> 'priority'))))
    into v_changes
    from private.logged_rows(events) as e
    where (e.table_name, e.operation) in (
        ('tickets', 'UPDATE'), ('tickets', 'DELETE'), ('comments', 'INSERT'), ('comments', 'UPDATE'));
    perform private.enter(claims);
    -- What may be read now is told as it was, so that who comes back hears the same; but as it is to whom it was not to be
    -- read by then.
    return query
    select e.id, s.body
    from jsonb_to_recordset(v_changes) as e (
        id bigint, table_name text, row_id uuid, record jsonb, is_told boolean, is_new boolean, is_public boolean)
    left join public.tickets as t on e.table_name = 'tickets' and t.id = e.row_id
    left join public.comments as c on e.table_name = 'comments' and c.id = e.row_id
        and case when private.is_agent() then e.is_new else e.is_public end
    cross join lateral (select case
        when e.table_name = 'tickets' and t.id is null then '{"event":"ticket.lost"}'
        when c.id is not null then '{"event":"message.received","data":' || support_platform.message_json(case
            when private.is_agent()
                or (e.record ->> 'ticket_contact_id')::uuid = private.contact_id()
            then jsonb_populate_record(null::public.comments, e.record) else c end) || '}'
        when t.id is not null and e.is_told then '{"event":"ticket.updated","data":' || support_platform.ticket_json(case
            when private.is_agent() or (e.record ->> 'contact_id')::uuid = private.contact_id()
            then jsonb_populate_record(null::public.tickets, e.record) else t end) || '}'
    end) as s (body)
    where s.body is not null;
end
$$;
comment on function support_platform.render_events(jsonb, jsonb) is
    'What the holder of the claims is told of events: a ticket or a message as it was then, if they might read it then, and to the service (ticket.lost) that they see a ticket no more.';

grant execute on function
    support_platform.list_tickets(jsonb, text, uuid, text, bigint, bigint),
    support_platform.create_ticket(jsonb, text, text, uuid, text, text),
    support_platform.get_ticket(jsonb, uuid),
    support_platform.list_messages(jsonb, uuid, bigint, bigint),
    support_platform.send_message(jsonb, uuid, text, boolean, bigint, text),
    support_platform.list_categories(jsonb),
    support_platform.receive_webhook(uuid, text, jsonb),
    support_platform.watch_ticket(jsonb, uuid),
    support_platform.render_events(jsonb, jsonb)
    to authenticator;

-- sql/82_support_desk.sql
/*
 * The support-desk contract: its shapes and its socket. People work here, agents and customers, so whatever is told or
 * answered is read as the person whose claims were admitted, under the policies.
 */

create schema support_desk;
comment on schema support_desk is 'The support-desk contract: tickets, people and knowledge, for the agents of a desk and for its customers.';
grant usage on schema support_desk to authenticator, authenticated, service_role;

----------------------------------------------------------------------------------------------------------------------
-- Shapes: row_to_json writes them without the blanks that json_build_object puts in.
----------------------------------------------------------------------------------------------------------------------

create type support_desk.ticket as (
    id uuid, subject text, description text, status text, priority text, type text, channel text, requester_id uuid,
    assignee_id uuid, group_id uuid, tags text[], created_at text, updated_at text
);
comment on type support_desk.ticket is 'A ticket.';

create type support_desk.author as (name text, email text);
comment on type support_desk.author is 'Who wrote something, where it names them.';

create type support_desk.attachment as (id uuid, filename text, url text, mime_type text, size bigint);
comment on type support_desk.attachment is 'A file of a comment.';

create type support_desk.comment as (
    id uuid, ticket_id uuid, author_id uuid, author support_desk.author, body text, public boolean,
    attachments support_desk.attachment[], created_at text
);
comment on type support_desk.comment is 'A comment.';

create type support_desk.notification as (
    id uuid, type text, title text, message text, read boolean, link text, created_at text
);
comment on type support_desk.notification is 'Something that a member is told of.';

create function support_desk.ticket_json(ticket public.tickets) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        ticket.id,
        ticket.subject,
        ticket.description,
        private.words('support_desk') #>> array['status', ticket.status],
        private.words('support_desk') #>> array['priority', ticket.priority],
        ticket.type,
        ticket.channel,
        ticket.contact_id,
        ticket.assignee_id,
        ticket.group_id,
        array(
            select g.name
            from public.ticket_tags as k
            join public.tags as g on g.organization_id = k.organization_id and g.id = k.tag_id
            where k.organization_id = ticket.organization_id and k.ticket_id = ticket.id
            order by lower(g.name)
        ),
        private.rfc3339(ticket.created_at),
        private.rfc3339(ticket.updated_at))::support_desk.ticket);
end;
comment on function support_desk.ticket_json(public.tickets) is 'A ticket as the contract shows it in lists and tells of it; the requester is a contact.';

create function support_desk.comment_json(comment public.comments) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        comment.id,
        comment.ticket_id,
        coalesce(comment.author_member_id, comment.author_contact_id, comment.author_token_id),
        (
            select row(coalesce(m.name, c.name), coalesce(m.email, c.email))::support_desk.author
            from (values (comment.organization_id)) as o (id)
            left join public.members as m on m.organization_id = o.id and m.id = comment.author_member_id
            left join public.contacts as c on c.organization_id = o.id and c.id = comment.author_contact_id
        ),
        comment.body,
        not comment.is_internal,
        array(
            select row(a.id, a.filename, coalesce(a.url, '/support-desk/api/uploads/' || a.id), a.mime_type, a.size)::support_desk.attachment
            from public.attachments as a
            where a.organization_id = comment.organization_id and a.comment_id = comment.id
            order by a.created_at, a.id
        ),
        private.rfc3339(comment.created_at))::support_desk.comment);
end;
comment on function support_desk.comment_json(public.comments) is
    'A comment as the contract shows it. The author is a member, a contact or an integration, and without a name where the one who asks does not see them.';

create function support_desk.notification_json(notification public.notifications) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        notification.id,
        notification.type,
        notification.title,
        notification.message,
        notification.read_at is not null,
        '/tickets/' || notification.ticket_id,
        private.rfc3339(notification.created_at))::support_desk.notification);
end;
comment on function support_desk.notification_json(public.notifications) is
    'A notification as the contract shows it; its link is the path of the ticket that it is about, after the base.';

grant execute on function
    support_desk.ticket_json(public.tickets),
    support_desk.comment_json(public.comments),
    support_desk.notification_json(public.notifications)
    to authenticated;

----------------------------------------------------------------------------------------------------------------------
-- Socket
----------------------------------------------------------------------------------------------------------------------

create function support_desk.render_events(claims jsonb, events jsonb, wishes jsonb)
returns table (id bigint, body text, wish integer)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_changes jsonb;
    v_listener record;
begin
    -- What happens to a ticket that the contract does not show is not told; its words for two values may be the same.
    select jsonb_agg(jsonb_build_object(
        'id', e.id, 'table_name', e.table_name, 'record', e.record,
        'is_new', e.operation = 'INSERT',
        'is_published', e.operation = 'UPDATE'
            and (e.old_record -> 'is_internal')::boolean and not (e.record -> 'is_internal')::boolean,
        'is_changed', e.operation = 'UPDATE' and (
                private.words('support_desk') -> 'status' -> (e.record ->> 'status'),
                private.words('support_desk') -> 'priority' -> (e.record ->> 'priority'),
                e.record -> 'subject', e.record -> 'description', e.record -> 'type', e.record -> 'channel',
                e.record -> 'contact_id', e.record -> 'custom_fields', e.record -> 'first_response_at',
                e.record -> 'resolved_at', e.record -> 'deleted_at')
            is distinct from (
                private.words('support_desk') -> 'status' -> (e.old_record ->> 'status'),
                private.words('support_desk') -> 'priority' -> (e.old_record ->> 'priority'),
                e.old_record -> 'subject', e.old_record -> 'description', e.old_record -> 'type', e.old_record -> 'channel',
                e.old_record -> 'contact_id', e.old_record -> 'custom_fields', e.old_record -> 'first_response_at',
                e.old_record -> 'resolved_at', e.old_record -> 'deleted_at'),
        'is_assigned', e.operation = 'UPDATE' and (e.record -> 'assignee_id', e.record -> 'group_id')
            is distinct from (e.old_record -> 'assignee_id', e.old_record -> 'group_id')))
    into v_changes
    from private.logged_rows(events) as e
    where e.schema_name = 'public' and e.operation <> 'DELETE';
    perform private.enter(claims);
    -- Told is what may be read now, as it was, to those who might read it then; that it is the same for who comes back.
    return query
    with changes as (
        select c.* from jsonb_to_recordset(v_changes) as c (
            id bigint, table_name text, record jsonb, is_new boolean, is_published boolean, is_changed boolean, is_assigned boolean)
    ), told as materialized (
        select c.id, e.place, format('{"event":"%s","data":%s}', e.name, support_desk.ticket_json(r)) as body
        from changes as c
        cross join lateral jsonb_populate_record(null::public.tickets, c.record) as r
        join public.tickets as t on t.organization_id = r.organization_id and t.id = r.id
        cross join lateral (values
            (1, 'ticket.created', c.is_new), (2, 'ticket.updated', c.is_changed), (3, 'ticket.assigned', c.is_assigned)
        ) as e (place, name, is_told)
        where c.table_name = 'tickets' and e.is_told and (private.is_agent() or r.contact_id = private.contact_id())
        union all
        select c.id, 1, format('{"event":"comment.added","data":%s}', support_desk.comment_json(r))
        from changes as c
        cross join lateral jsonb_populate_record(null::public.comments, c.record) as r
        join public.comments as s on s.organization_id = r.organization_id and s.id = r.id
        where c.table_name = 'comments' and case
            when private.is_agent() then c.is_new
            else (c.is_new or c.is_published) and r.ticket_contact_id = private.contact_id() and not r.is_internal end
    )
    select t.id, t.body, (w.ordinality - 1)::integer
    from told as t
    cross join jsonb_array_elements(wishes) with ordinality as w
    order by t.id, t.place;
    -- Those who see the same of tickets are one audience; what each of them alone is told is read as that member.
    for v_listener in
        select (w.ordinality - 1)::integer as place, w.value -> 'member_id' as member_id
        from jsonb_array_elements(wishes) with ordinality as w
        where exists (
            select from jsonb_array_elements(v_changes) as c
            where c.value ->> 'table_name' = 'notifications' and c.value #> '{record,member_id}' = w.value -> 'member_id')
    loop
        perform set_config('request.jwt.claims',
            jsonb_set(claims, '{app_metadata,member_id}', v_listener.member_id)::text, true);
        return query
        select c.id, format('{"event":"notification.new","data":%s}', support_desk.notification_json(r)), v_listener.place
        from jsonb_to_recordset(v_changes) as c (id bigint, table_name text, record jsonb, is_new boolean)
        cross join lateral jsonb_populate_record(null::public.notifications, c.record) as r
        join public.notifications as n on n.organization_id = r.organization_id and n.id = r.id
        where c.table_name = 'notifications' and c.is_new;
    end loop;
end
$$;
comment on function support_desk.render_events(jsonb, jsonb, jsonb) is
    'What the holders of the claims are told of events: tickets and comments as they were then, all of them alike, and each of the wishes, which name a member, that member''s own new notifications. A change of a ticket that is also another assignment is two messages, the assignment last.';

grant execute on function support_desk.render_events(jsonb, jsonb, jsonb) to authenticator;

-- sql/84_helpdesk.sql
/*
 * The helpdesk contract: its words, its shapes, and its operations in the order of its document. Its ids are the numbers of
 * rows. An operation that takes claims enters as the person they are of, works under the policies from there on, and is for the
 * service's login alone. Categories, tags, templates and filters are kept in the same way, by the same five operations.
 */

create schema helpdesk;
comment on schema helpdesk is 'The helpdesk contract: tickets and all around them, by number.';
grant usage on schema helpdesk to authenticator, authenticated;

----------------------------------------------------------------------------------------------------------------------
-- Words
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.word(field text, canonical text) returns text
language sql immutable
set search_path = ''
return private.words('helpdesk') #>> array[field, canonical];
comment on function helpdesk.word(text, text) is 'What the contract calls a canonical status or priority.';

create function helpdesk.display(word text) returns text
language sql immutable
set search_path = ''
return initcap(replace(word, '_', ' '));
comment on function helpdesk.display(text) is 'A word as people read it: In Progress.';

create function helpdesk.time_since(moment timestamptz) returns text
language sql stable
set search_path = ''
return coalesce(
    (
        select format('%s %s%s ago', n.count, u.name, case when n.count > 1 then 's' end)
        from (values (31536000, 'year'), (2592000, 'month'), (604800, 'week'), (86400, 'day'), (3600, 'hour'), (60, 'minute'))
            as u (seconds, name)
        cross join lateral (select floor(extract(epoch from now() - moment) / u.seconds)) as n (count)
        where n.count >= 1
        order by u.seconds desc
        limit 1
    ), 'just now');
comment on function helpdesk.time_since(timestamptz) is 'How long ago a moment was, in its largest whole unit: 2 hours ago.';

----------------------------------------------------------------------------------------------------------------------
-- Shapes: a row of a table is shown as the type of the same meaning. row_to_json writes them without needless blanks.
----------------------------------------------------------------------------------------------------------------------

create type helpdesk.person as (id bigint, username text, email text);
comment on type helpdesk.person is 'A user, where something else names them.';

create type helpdesk.label as (id bigint, name text, color text);
comment on type helpdesk.label is 'A category or a tag, where a ticket names it.';

create type helpdesk.listed_ticket as (
    id bigint, title text, status text, status_display text, priority text, priority_display text,
    assigned_to helpdesk.person, category helpdesk.label, tags helpdesk.label[], created_at text, updated_at text,
    due_date text, time_since_created text, comment_count bigint
);
comment on type helpdesk.listed_ticket is 'A ticket in a list.';

create type helpdesk.ticket_details as (description text, created_by helpdesk.person, resolution text);
comment on type helpdesk.ticket_details is 'What a ticket by itself shows beyond that.';

create type helpdesk.comment as (
    id bigint, content text, is_internal boolean, author helpdesk.person, created_at text, updated_at text
);
comment on type helpdesk.comment is 'A comment.';

create type helpdesk.category as (id bigint, name text, description text, color text, created_at text);
comment on type helpdesk.category is 'A category, or a tag.';

create type helpdesk.popular_tag as (id bigint, name text, description text, color text, usage_count bigint);
comment on type helpdesk.popular_tag is 'A tag and how many tickets carry it.';

create type helpdesk.template as (
    id bigint, title text, content text, category text, variables text[], is_public boolean, created_by helpdesk.person,
    created_at text, updated_at text
);
comment on type helpdesk.template is 'A text to answer with.';

create type helpdesk.used_template as (processed_content text, original_content text, variables text[]);
comment on type helpdesk.used_template is 'A template with its variables filled in.';

create type helpdesk.filter as (
    id bigint, name text, filter_params jsonb, is_public boolean, created_by helpdesk.person, created_at text, updated_at text
);
comment on type helpdesk.filter is 'A saved filter.';

create type helpdesk.member as (id bigint, username text, email text, name text, role text, is_active boolean);
comment on type helpdesk.member is 'A user.';

create type helpdesk.stats as (
    total_tickets bigint, open_tickets bigint, in_progress_tickets bigint, resolved_tickets bigint, closed_tickets bigint,
    overdue_tickets bigint, tickets_by_priority json, tickets_by_category json, avg_resolution_time numeric,
    tickets_created_today bigint, tickets_resolved_today bigint
);
comment on type helpdesk.stats is 'The numbers of a dashboard.';

create type helpdesk.notification as (
    id bigint, type text, title text, message text, ticket bigint, is_read boolean, created_at text
);
comment on type helpdesk.notification is 'Something that a user is told of.';

create function helpdesk.person_of(member_id uuid) returns helpdesk.person
language sql stable
set search_path = ''
return (select row(m.number, m.username, m.email)::helpdesk.person from public.members as m where m.id = member_id);
comment on function helpdesk.person_of(uuid) is 'A member, if the one who asks sees them.';

-- Rows are shown together, so that what the policies ask is asked once for all of them.

create function helpdesk.shown(rows public.tickets[]) returns setof helpdesk.listed_ticket
language sql stable
set search_path = ''
begin atomic
    select
        r.number,
        r.subject,
        helpdesk.word('status', r.status),
        helpdesk.display(helpdesk.word('status', r.status)),
        helpdesk.word('priority', r.priority),
        helpdesk.display(helpdesk.word('priority', r.priority)),
        (
            select row(m.number, m.username, m.email)::helpdesk.person
            from public.members as m
            where m.organization_id = r.organization_id and m.id = r.assignee_id
        ),
        (
            select row(c.number, c.name, c.color)::helpdesk.label
            from public.categories as c
            where c.organization_id = r.organization_id and c.id = r.category_id
        ),
        array(
            select row(g.number, g.name, g.color)::helpdesk.label
            from public.ticket_tags as k
            join public.tags as g on g.organization_id = k.organization_id and g.id = k.tag_id
            where k.organization_id = r.organization_id and k.ticket_id = r.id
            order by lower(g.name)
        ),
        private.rfc3339(r.created_at),
        private.rfc3339(r.updated_at),
        private.rfc3339(r.due_at),
        helpdesk.time_since(r.created_at),
        (
            select count(*) from public.comments as c
            where c.organization_id = r.organization_id and c.ticket_id = r.id
        )
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.tickets[]) is
    'Tickets in a list, in their order; counted are the comments that the one who asks may see.';

create function helpdesk.shown(rows public.comments[]) returns setof helpdesk.comment
language sql stable
set search_path = ''
begin atomic
    select r.number, r.body, r.is_internal,
        case when m.id is not null then row(m.number, m.username, m.email)::helpdesk.person end,
        private.rfc3339(r.created_at), private.rfc3339(r.updated_at)
    from unnest(rows) with ordinality as r
    left join public.contacts as c on c.organization_id = r.organization_id and c.id = r.author_contact_id
    left join public.members as m
        on m.organization_id = r.organization_id and m.id = coalesce(r.author_member_id, c.member_id)
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.comments[]) is 'Comments; an author without a login is null.';

create function helpdesk.shown(rows public.categories[]) returns setof helpdesk.category
language sql stable
set search_path = ''
begin atomic
    select r.number, r.name, r.description, r.color, private.rfc3339(r.created_at)
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.categories[]) is 'Categories.';

create function helpdesk.shown(rows public.tags[]) returns setof helpdesk.category
language sql stable
set search_path = ''
begin atomic
    select r.number, r.name, r.description, r.color, private.rfc3339(r.created_at)
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.tags[]) is 'Tags.';

create function helpdesk.shown(rows public.templates[]) returns setof helpdesk.template
language sql stable
set search_path = ''
begin atomic
    select r.number, r.title, r.content, r.category, r.variables, r.is_public, helpdesk.person_of(r.owner_id),
        private.rfc3339(r.created_at), private.rfc3339(r.updated_at)
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.templates[]) is 'Templates.';

create function helpdesk.shown(rows public.saved_filters[]) returns setof helpdesk.filter
language sql stable
set search_path = ''
begin atomic
    select r.number, r.name, r.params, r.is_public, helpdesk.person_of(r.owner_id),
        private.rfc3339(r.created_at), private.rfc3339(r.updated_at)
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.saved_filters[]) is 'Saved filters.';

create function helpdesk.shown(rows public.members[]) returns setof helpdesk.member
language sql stable
set search_path = ''
begin atomic
    select r.number, r.username, r.email, r.name, r.role, r.is_active
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.members[]) is 'Users.';

create function helpdesk.comment_json(comment public.comments) returns text
language sql stable
set search_path = ''
return (select row_to_json(s) from helpdesk.shown(array[comment]) as s);
comment on function helpdesk.comment_json(public.comments) is 'A comment by itself.';

create function helpdesk.ticket_json(ticket public.tickets) returns text
language plpgsql stable
set search_path = ''
as $$
begin
    return (
        select left(row_to_json(s)::text, -1) || ',' || substr(row_to_json(row(
            ticket.description, helpdesk.person_of(ticket.created_by_member_id), ticket.resolution
        )::helpdesk.ticket_details)::text, 2)
        from helpdesk.shown(array[ticket]) as s);
end
$$;
comment on function helpdesk.ticket_json(public.tickets) is 'A ticket by itself: as in a list, and its details.';

----------------------------------------------------------------------------------------------------------------------
-- Lists
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.order_by(ordering text, expressions jsonb) returns text
language sql immutable
set search_path = ''
return (
    -- The id last, so that pages of equals do not overlap.
    select string_agg(o.expression || o.direction, ', ' order by o.place)
        || ', r.id' || max(case when o.direction = '' then '' else ' desc' end)
    from (
        select coalesce(expressions ->> ltrim(f.name, '-'), format('r.%I', ltrim(f.name, '-'))),
            case when f.name like '-%' then coalesce(expressions ->> f.name, ' desc') else '' end, f.place
        from string_to_table(ordering, ',') with ordinality as f (name, place)
    ) as o (expression, direction, place)
);
comment on function helpdesk.order_by(text, jsonb) is
    'What -created_at,title is in SQL; a field whose column has another name has an expression, and one turned round that is not simply descending has a direction.';

create function helpdesk.page_of(
    entity text, condition text, query jsonb, url text, expressions jsonb default '{}', among uuid[] default null,
    total text default null
) returns text
language plpgsql stable
set search_path = ''
as $$
declare
    v_page bigint := query ->> 'page';
    v_size bigint := query ->> 'page_size';
    v_count bigint;
    v_items text;
begin
    -- Executed, so that it is planned for what is asked. One statement, so that count and page agree.
    execute format($list$
        select
            %6$s,
            array_to_string(array(
                select row_to_json(s) from helpdesk.shown(array(
                    select r from public.%1$I as r where %2$s order by %3$s limit %4$s offset %5$s)) as s
            ), ',')
        $list$, entity, condition, helpdesk.order_by(query ->> 'ordering', expressions), v_size, (v_page - 1) * v_size,
        coalesce(total, format('(select count(*) from public.%I as r where %s)', entity, condition)))
    into v_count, v_items using among;
    return format('{"count":%s,"next":%s,"previous":%s,"results":[%s]}',
        v_count,
        case when v_page * v_size < v_count then to_json(url || v_page + 1) else 'null' end,
        -- Before a page past the end comes the last one.
        case when v_page > 1 then to_json(url || greatest(least(v_page - 1, ceil(v_count / v_size::numeric)), 1)) else 'null' end,
        v_items);
end
$$;
comment on function helpdesk.page_of(text, text, jsonb, text, jsonb, uuid[], text) is
    'A page of the rows of a table, r, that meet a condition, in which $1 is among; url ends where the number of another page belongs; total is an expression for how many there are, if there is a cheaper one than counting them.';

create function helpdesk.own() returns text
language sql stable
set search_path = ''
return case when private.is_agent() then 'true' else format('r.contact_id = %L', private.contact_id()) end;
comment on function helpdesk.own() is
    'A condition that repeats, for a customer, what the policy on tickets says, so that their list goes by its index.';

----------------------------------------------------------------------------------------------------------------------
-- References
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.moment(given text) returns timestamptz
language plpgsql stable
set search_path = ''
as $$
declare
    v_moment timestamptz;
begin
    v_moment := given::timestamptz;
    -- It is shown in UTC, with four digits for the year.
    if extract(year from v_moment at time zone 'UTC') between 1 and 9999 then
        return v_moment;
    end if;
    return null;
exception
    when data_exception then
        return null;
end
$$;
comment on function helpdesk.moment(text) is 'A moment that can be stored and shown; null for any other.';

create function helpdesk.find_references(
    fields jsonb, for_assignment boolean, assigned_to bigint default null,
    out category_id uuid, out assignee_id uuid, out creator_id uuid, out tag_ids uuid[], out due_at timestamptz,
    out faults jsonb
)
language plpgsql stable
set search_path = ''
as $$
declare
    v_tags bigint[] := array(select n::bigint from jsonb_array_elements_text(
        case jsonb_typeof(fields -> 'tags') when 'array' then fields -> 'tags' when 'number' then jsonb_build_array(fields -> 'tags') else '[]' end) as n);
begin
    select c.id into category_id from public.categories as c where c.number = (fields ->> 'category')::bigint;
    select m.id into assignee_id from public.members as m
    where m.number = (fields ->> 'assigned_to')::bigint
        and (not for_assignment or (m.is_active and m.role >= 'agent') or m.number = find_references.assigned_to);
    select m.id into creator_id from public.members as m where m.number = (fields ->> 'created_by')::bigint;
    tag_ids := array(select g.id from public.tags as g where g.number = any (v_tags));
    select jsonb_object_agg(f.name, f.sentences) into faults
    from (
        select r.name, jsonb_agg(format('Invalid pk "%s" - object does not exist.', r.number))
        from (
            select 'category', fields ->> 'category' where category_id is null
            union all
            select 'assigned_to', fields ->> 'assigned_to' where assignee_id is null
            union all
            select 'created_by', fields ->> 'created_by' where creator_id is null
            union all
            select 'tags', n::text from unnest(v_tags) as n
            where not exists (select from public.tags as g where g.number = n)
        ) as r (name, number)
        where r.number is not null
        group by r.name
    ) as f (name, sentences);
    if fields ->> 'due_date' is not null then
        due_at := helpdesk.moment(fields ->> 'due_date');
        if due_at is null then
            faults := coalesce(faults, '{}') || jsonb_build_object('due_date', jsonb_build_array(
                'Datetime has wrong format. Use YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].'));
        end if;
    end if;
end
$$;
comment on function helpdesk.find_references(jsonb, boolean, bigint) is
    'The rows and the moment that fields or filters name, and per field what is wrong with them: not there, for the one who asks; for an assignment only active agents count, and whom the ticket is assigned to already.';

create function helpdesk.refuse(faults jsonb) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if faults is not null then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = faults;
    end if;
end
$$;
comment on function helpdesk.refuse(jsonb) is 'Refuses what has faults.';

create function helpdesk.reference_faults(claims jsonb, fields jsonb, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select coalesce(f.faults, '{}') into body from helpdesk.find_references(fields, true) as f;
end
$$;
comment on function helpdesk.reference_faults(jsonb, jsonb) is
    'What is wrong with the references in a ticket that is refused anyway, so that all faults are told at once.';

----------------------------------------------------------------------------------------------------------------------
-- Tickets
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.list_tickets(claims jsonb, query jsonb, url text, mine boolean, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_found record;
    v_statuses text[];
    v_priorities text[];
    v_search text := nullif(btrim(query ->> 'search'), '');
    v_mine text;
    v_condition text;
    v_total text;
begin
    perform private.enter(claims);
    -- Of what is not there, there are no tickets.
    v_found := helpdesk.find_references(query, false);
    if query ? 'status' then
        v_statuses := private.canonical('helpdesk', 'status', query ->> 'status');
    end if;
    if query ? 'priority' then
        v_priorities := private.canonical('helpdesk', 'priority', query ->> 'priority');
    end if;
    v_mine := case when mine then format('(r.assignee_id = %1$L or r.created_by_member_id = %1$L)', private.member_id()) end;
    v_condition := concat_ws(' and ',
        helpdesk.own(),
        'r.status = any (' || quote_literal(v_statuses) || '::text[])',
        'r.priority = any (' || quote_literal(v_priorities) || '::text[])',
        case when query ? 'category' then format('r.category_id = %L', v_found.category_id) end,
        case when query ? 'assigned_to' then format('r.assignee_id = %L', v_found.assignee_id) end,
        case when query ? 'created_by' then format('r.created_by_member_id = %L', v_found.creator_id) end,
        case when query ? 'tags' then format(
            'r.id in (select k.ticket_id from public.ticket_tags as k where k.tag_id = %L)', v_found.tag_ids[1]) end,
        case when v_search is not null then 'r.id = any ($1)' end);
    -- A search finds what its reader may see. An agent's totals are kept, but for what only the tickets themselves tell.
    if v_search is not null and not mine
        and not query ?| array['status', 'priority', 'category', 'assigned_to', 'created_by', 'tags'] then
        v_total := 'cardinality($1)';
    elsif private.is_agent() and v_search is null and not query ?| array['created_by', 'tags']
        and not (mine and query ? 'assigned_to')
        and (v_found.category_id is not null or not query ? 'category')
        and (v_found.assignee_id is not null or not query ? 'assigned_to') then
        v_total := format('coalesce(private.count_tickets(%L::text[], %L::text[], %L, %L), 0)', v_statuses, v_priorities,
            v_found.category_id, case when mine then private.member_id() else v_found.assignee_id end);
        if mine then
            v_total := v_total || format(' + (select count(*) from public.tickets as r where %s '
                'and r.created_by_member_id = %2$L and r.assignee_id is distinct from %2$L)', v_condition, private.member_id());
        end if;
    end if;
    body := helpdesk.page_of('tickets', concat_ws(' and ', v_condition, v_mine), query, url,
        -- What is never due comes last, whichever way round.
        '{"priority": "r.priority_rank", "due_date": "r.due_at", "-due_date": " desc nulls last"}',
        array(select private.search_tickets(v_search) where v_search is not null), v_total);
end
$$;
comment on function helpdesk.list_tickets(jsonb, jsonb, text, boolean) is
    E'GET tickets/, GET tickets/my_tickets/\n\nMine are those that are assigned to me or were written by me.';

create function helpdesk.create_ticket(claims jsonb, fields jsonb, idempotency_key text, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
set timezone = 'UTC'
as $$
declare
    v_is_repeat boolean;
    v_found record;
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.create_ticket', idempotency_key, fields) as o;
    if v_is_repeat then
        return;
    end if;
    v_found := helpdesk.find_references(fields, true);
    perform helpdesk.refuse(v_found.faults);
    insert into public.tickets (subject, description, priority, category_id, assignee_id, due_at)
    values (
        fields ->> 'title', coalesce(fields ->> 'description', ''),
        private.new_canonical('helpdesk', 'priority', coalesce(fields ->> 'priority', 'medium'), 'medium'),
        v_found.category_id, v_found.assignee_id, v_found.due_at)
    returning * into v_ticket;
    insert into public.ticket_tags (ticket_id, tag_id) select v_ticket.id, g from unnest(v_found.tag_ids) as g;
    body := helpdesk.ticket_json(v_ticket);
    version := v_ticket.version;
    perform private.finish_once('helpdesk.create_ticket', idempotency_key, body, version);
end
$$;
comment on function helpdesk.create_ticket(jsonb, jsonb, text) is
    E'POST tickets/\n\nRaises invalid_field, idempotency_conflict.';

create function helpdesk.get_ticket(claims jsonb, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select helpdesk.ticket_json(t), t.version into body, version from public.tickets as t where t.number = get_ticket.number;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No ticket matches the given query.';
    end if;
end
$$;
comment on function helpdesk.get_ticket(jsonb, bigint) is E'GET tickets/{id}/\n\nRaises not_found.';

create function helpdesk.lock_ticket(number bigint, if_match bigint) returns public.tickets
language plpgsql volatile
set search_path = ''
as $$
declare
    v_ticket public.tickets;
begin
    select t.* into v_ticket from public.tickets as t where t.number = lock_ticket.number for no key update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No ticket matches the given query.';
    end if;
    if if_match <> v_ticket.version then
        raise sqlstate 'PT412' using message = 'stale', detail = json_build_object('version', v_ticket.version, 'comments', (
            select coalesce(json_agg(s), '[]')
            from helpdesk.shown(array(
                select c from public.comments as c
                where c.ticket_id = v_ticket.id and c.ticket_version > if_match
                order by c.created_at, c.id
                limit 50)) as s));
    end if;
    return v_ticket;
end
$$;
comment on function helpdesk.lock_ticket(bigint, bigint) is
    'A ticket that nobody else changes until this transaction is over. Raises not_found, stale with the version and up to 50 comments that were missed.';

create function helpdesk.write_ticket(
    number bigint, fields jsonb, is_whole boolean, if_match bigint, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
set timezone = 'UTC'
as $$
declare
    v_was public.tickets := helpdesk.lock_ticket(number, if_match);
    v_new public.tickets;
    v_fields jsonb := fields;
    v_found record;
    v_tags uuid[] := array(select k.tag_id from public.ticket_tags as k where k.ticket_id = v_was.id);
    v_has_new_tags boolean;
begin
    if is_whole then
        -- What is left out is emptied, but for what only the desk may write.
        v_fields := '{"description": "", "priority": "medium"}' || case when private.is_agent()
            then '{"category": null, "assigned_to": null, "due_date": null, "tags": []}' else '{}' end::jsonb || fields;
    end if;
    v_found := helpdesk.find_references(v_fields, true, (
        select m.number from public.members as m where m.id = v_was.assignee_id));
    perform helpdesk.refuse(v_found.faults);
    v_new := jsonb_populate_record(v_was, (
        select jsonb_object_agg(c.name, c.value)
        from (values
            ('title', 'subject', v_fields -> 'title'),
            ('description', 'description', v_fields -> 'description'),
            -- The word that the ticket shows already moves nothing.
            ('status', 'status', to_jsonb(private.new_canonical('helpdesk', 'status', v_fields ->> 'status', v_was.status))),
            ('priority', 'priority',
                to_jsonb(private.new_canonical('helpdesk', 'priority', v_fields ->> 'priority', v_was.priority))),
            ('category', 'category_id', to_jsonb(v_found.category_id)),
            ('assigned_to', 'assignee_id', to_jsonb(v_found.assignee_id)),
            ('due_date', 'due_at', to_jsonb(v_found.due_at)),
            ('resolution', 'resolution', v_fields -> 'resolution')
        ) as c (field, name, value)
        where v_fields ? c.field));
    if v_new.category_id is not null then
        v_new.category_label := null;
    end if;
    v_has_new_tags := v_fields ? 'tags' and not (v_tags @> v_found.tag_ids and v_tags <@ v_found.tag_ids);
    if v_has_new_tags then
        if not private.is_agent() then
            raise sqlstate 'PT403' using message = 'forbidden', detail = 'The tags of a ticket are the desk''s.';
        end if;
        delete from public.ticket_tags as k where k.ticket_id = v_was.id and k.tag_id <> all (v_found.tag_ids);
        insert into public.ticket_tags (ticket_id, tag_id)
        select v_was.id, g from unnest(v_found.tag_ids) as g where g <> all (v_tags);
    end if;
    -- Other tags are another version too.
    if v_has_new_tags or v_new is distinct from v_was then
        update public.tickets as t
        set subject = v_new.subject, description = v_new.description, status = v_new.status, priority = v_new.priority,
            category_id = v_new.category_id, category_label = v_new.category_label, assignee_id = v_new.assignee_id,
            due_at = v_new.due_at, resolution = v_new.resolution
        where t.id = v_was.id
        returning t.* into v_new;
    end if;
    body := helpdesk.ticket_json(v_new);
    version := v_new.version;
end
$$;
comment on function helpdesk.write_ticket(bigint, jsonb, boolean, bigint) is
    'Writes the given fields of a ticket and answers it. A write that changes nothing makes no new version.';

create function helpdesk.update_ticket(
    claims jsonb, number bigint, fields jsonb, is_whole boolean, if_match bigint, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select w.* into body, version from helpdesk.write_ticket(number, fields, is_whole, if_match) as w;
end
$$;
comment on function helpdesk.update_ticket(jsonb, bigint, jsonb, boolean, bigint) is
    E'PUT tickets/{id}/, PATCH tickets/{id}/\n\nThe whole ticket, or some fields. Raises not_found, invalid_field, stale, forbidden.';

create function helpdesk.delete_ticket(claims jsonb, number bigint, if_match bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    v_ticket := helpdesk.lock_ticket(number, if_match);
    delete from public.tickets as t where t.id = v_ticket.id;
    -- Deletes are soft, so nothing tells how many rows there were; whoever still sees the ticket could not delete it.
    perform from public.tickets as t where t.id = v_ticket.id;
    if found then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only agents delete tickets.';
    end if;
end
$$;
comment on function helpdesk.delete_ticket(jsonb, bigint, bigint) is
    E'DELETE tickets/{id}/\n\nRaises not_found, stale, forbidden.';

create function helpdesk.assign_ticket(
    claims jsonb, number bigint, user_id bigint, if_match bigint, idempotency_key text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
    v_fields jsonb := jsonb_build_object('assigned_to', user_id);
    v_faults jsonb;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.assign_ticket', idempotency_key, jsonb_build_array(number, user_id)) as o;
    if v_is_repeat then
        return;
    end if;
    perform helpdesk.ticket_id(number);
    select f.faults into v_faults from helpdesk.find_references(v_fields, true) as f;
    perform helpdesk.refuse(case when v_faults is not null then jsonb_build_object('user_id', v_faults -> 'assigned_to') end);
    select w.* into body, version from helpdesk.write_ticket(number, v_fields, false, if_match) as w;
    perform private.finish_once('helpdesk.assign_ticket', idempotency_key, body, version);
end
$$;
comment on function helpdesk.assign_ticket(jsonb, bigint, bigint, bigint, text) is
    E'POST tickets/{id}/assign/\n\nTo nobody, without a user. Raises not_found, invalid_field, stale, forbidden, idempotency_conflict.';

create function helpdesk.change_status(
    claims jsonb, number bigint, fields jsonb, if_match bigint, idempotency_key text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.change_status', idempotency_key, jsonb_build_array(number, fields)) as o;
    if v_is_repeat then
        return;
    end if;
    select w.* into body, version from helpdesk.write_ticket(number, fields, false, if_match) as w;
    perform private.finish_once('helpdesk.change_status', idempotency_key, body, version);
end
$$;
comment on function helpdesk.change_status(jsonb, bigint, jsonb, bigint, text) is
    E'POST tickets/{id}/change_status/\n\nRaises not_found, stale, forbidden, ticket_closed, idempotency_conflict.';

create function helpdesk.get_stats(claims jsonb, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    -- One row for each status, priority and category that there is: an agent's are kept, a customer's are counted.
    execute format($stats$
        with g as materialized (
            select helpdesk.word('status', k.status) as status, helpdesk.word('priority', k.priority) as priority, k.category_id,
                sum(k.tickets) as tickets, sum(k.resolved) as resolved, sum(k.time_to_resolve) as time_to_resolve
            from %2$s as k
            group by k.status, k.priority, k.category_id
        )
        select row_to_json(row(
            coalesce(sum(g.tickets), 0),
            coalesce(sum(g.tickets) filter (where g.status = 'open'), 0),
            coalesce(sum(g.tickets) filter (where g.status = 'in_progress'), 0),
            coalesce(sum(g.tickets) filter (where g.status = 'resolved'), 0),
            coalesce(sum(g.tickets) filter (where g.status = 'closed'), 0),
            (
                select count(*) from public.tickets as r
                where %1$s and r.due_at < now() and r.status not in ('resolved', 'closed')
            ),
            (
                select ('{' || string_agg(to_json(p.word) || ':' || (
                    select coalesce(sum(s.tickets), 0) from g as s where s.priority = p.word
                ), ',' order by array_position(array['low', 'medium', 'high', 'urgent'], p.canonical)) || '}')
                from jsonb_each_text(private.words('helpdesk') -> 'priority') as p (canonical, word)
            )::json,
            (
                select '{' || coalesce(string_agg(to_json(c.name) || ':' || c.tickets, ',' order by lower(c.name)), '') || '}'
                from (
                    select k.name, sum(s.tickets)
                    from g as s join public.categories as k on k.id = s.category_id
                    group by k.id, k.name
                ) as c (name, tickets)
            )::json,
            coalesce(round(extract(epoch from sum(g.time_to_resolve)) / 3600 / nullif(sum(g.resolved), 0), 1), 0),
            (select count(*) from public.tickets as r where %1$s and r.created_at >= date_trunc('day', now(), 'UTC')),
            (select count(*) from public.tickets as r where %1$s and r.resolved_at >= date_trunc('day', now(), 'UTC'))
        )::helpdesk.stats)
        from g
        $stats$, helpdesk.own(), case when private.is_agent() then 'private.tallies()' else format(
            '(select r.*, 1 as tickets, (r.resolved_at is not null)::integer as resolved, '
            'r.resolved_at - r.created_at as time_to_resolve from public.tickets as r where %s)', helpdesk.own()) end)
    into body;
end
$$;
comment on function helpdesk.get_stats(jsonb) is
    E'GET tickets/stats/\n\nOf all tickets that the one who asks sees. Hours and days are UTC; tickets without a category are in none.';

----------------------------------------------------------------------------------------------------------------------
-- Comments
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.ticket_id(number bigint) returns uuid
language plpgsql stable
set search_path = ''
as $$
declare
    v_id uuid;
begin
    select t.id into v_id from public.tickets as t where t.number = ticket_id.number;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No ticket matches the given query.';
    end if;
    return v_id;
end
$$;
comment on function helpdesk.ticket_id(bigint) is 'A ticket''s key. Raises not_found.';

create function helpdesk.find_comment(ticket bigint, number bigint) returns public.comments
language plpgsql stable
set search_path = ''
as $$
declare
    v_comment public.comments;
begin
    select c.* into v_comment
    from public.comments as c
    where c.number = find_comment.number and c.ticket_id = helpdesk.ticket_id(ticket);
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No comment matches the given query.';
    end if;
    return v_comment;
end
$$;
comment on function helpdesk.find_comment(bigint, bigint) is 'A comment of a ticket. Raises not_found.';

create function helpdesk.list_comments(claims jsonb, ticket bigint, query jsonb, url text, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    body := helpdesk.page_of('comments', format('r.ticket_id = %L', helpdesk.ticket_id(ticket)), query, url);
end
$$;
comment on function helpdesk.list_comments(jsonb, bigint, jsonb, text) is
    E'GET tickets/{ticket_id}/comments/\n\nRaises not_found.';

create function helpdesk.create_comment(
    claims jsonb, ticket bigint, content text, is_internal boolean, if_match bigint, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
    v_ticket public.tickets;
    v_comment public.comments;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version from private.begin_once(
        'helpdesk.create_comment', idempotency_key, jsonb_build_array(ticket, content, is_internal)) as o;
    if v_is_repeat then
        return;
    end if;
    v_ticket := helpdesk.lock_ticket(ticket, if_match);
    insert into public.comments (ticket_id, body, is_internal) values (v_ticket.id, content, create_comment.is_internal)
    returning * into v_comment;
    body := helpdesk.comment_json(v_comment);
    version := v_comment.ticket_version;
    perform private.finish_once('helpdesk.create_comment', idempotency_key, body, version);
end
$$;
comment on function helpdesk.create_comment(jsonb, bigint, text, boolean, bigint, text) is
    E'POST tickets/{ticket_id}/comments/\n\nThe version is the ticket''s. Raises not_found, stale, ticket_closed, idempotency_conflict; the policy refuses a customer''s internal comment.';

create function helpdesk.get_comment(claims jsonb, ticket bigint, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    body := helpdesk.comment_json(helpdesk.find_comment(ticket, number));
end
$$;
comment on function helpdesk.get_comment(jsonb, bigint, bigint) is
    E'GET tickets/{ticket_id}/comments/{id}/\n\nRaises not_found.';

create function helpdesk.update_comment(
    claims jsonb, ticket bigint, number bigint, fields jsonb, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_comment public.comments;
begin
    perform private.enter(claims);
    v_comment := helpdesk.find_comment(ticket, number);
    update public.comments as c
    set body = coalesce(fields ->> 'content', c.body),
        is_internal = coalesce((fields ->> 'is_internal')::boolean, c.is_internal)
    where c.id = v_comment.id
    returning c.* into v_comment;
    if not found then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only its author, or a lead, may edit a comment.';
    end if;
    body := helpdesk.comment_json(v_comment);
end
$$;
comment on function helpdesk.update_comment(jsonb, bigint, bigint, jsonb) is
    E'PUT, PATCH tickets/{ticket_id}/comments/{id}/\n\nWhat is left out stays: nobody publishes an internal comment by saying nothing. Raises not_found, forbidden.';

create function helpdesk.delete_comment(claims jsonb, ticket bigint, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_comment public.comments;
begin
    perform private.enter(claims);
    v_comment := helpdesk.find_comment(ticket, number);
    delete from public.comments as c where c.id = v_comment.id;
    if not found then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only its author, or a lead, may delete a comment.';
    end if;
end
$$;
comment on function helpdesk.delete_comment(jsonb, bigint, bigint) is
    E'DELETE tickets/{ticket_id}/comments/{id}/\n\nRaises not_found, forbidden.';

----------------------------------------------------------------------------------------------------------------------
-- Categories, tags, templates, filters, users. The service names the table; the policies say who may do what with its rows.
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.list_rows(
    claims jsonb, entity text, searched text[], query jsonb, url text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    body := helpdesk.page_of(entity, case when query ? 'search' then format(
        'strpos(lower(concat_ws('' '', %s)), lower(%L)) > 0',
        (select string_agg(format('r.%I', c), ', ') from unnest(searched) as c), query ->> 'search') else 'true' end, query, url);
end
$$;
comment on function helpdesk.list_rows(jsonb, text, text[], jsonb, text) is
    E'GET categories/, tags/, templates/, users/, filters/\n\nA search looks into the columns named.';

create function helpdesk.refuse_row(entity text, number bigint) returns void
language plpgsql stable
set search_path = ''
as $$
declare
    v_is_there boolean;
begin
    execute format('select exists (select from public.%I as r where r.number = $1)', entity) into v_is_there using number;
    if v_is_there then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'You do not have permission to perform this action.';
    end if;
    raise sqlstate 'PT404' using message = 'not_found', detail = 'Nothing matches the given query.';
end
$$;
comment on function helpdesk.refuse_row(text, bigint) is 'Says why a row could not be touched. Raises forbidden if it is seen, else not_found.';

create function helpdesk.get_row(claims jsonb, entity text, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    execute format(
        'select row_to_json(s) from public.%I as r cross join lateral helpdesk.shown(array[r]) as s where r.number = $1', entity)
    into body using number;
    if body is null then
        perform helpdesk.refuse_row(entity, number);
    end if;
end
$$;
comment on function helpdesk.get_row(jsonb, text, bigint) is E'GET categories/{id}/ and the like\n\nRaises not_found.';

create function helpdesk.create_row(
    claims jsonb, entity text, fields jsonb, idempotency_key text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.create_row ' || entity, idempotency_key, fields) as o;
    if v_is_repeat then
        return;
    end if;
    execute format($insert$
        insert into public.%1$I as r (%2$s)
        select %2$s from jsonb_populate_record(null::public.%1$I, $1)
        returning (select row_to_json(s) from helpdesk.shown(array[r]) as s)
        $insert$, entity, (select string_agg(quote_ident(k), ', ') from jsonb_object_keys(fields) as k))
    into body using fields;
    perform private.finish_once('helpdesk.create_row ' || entity, idempotency_key, body, null);
exception
    -- A name is the one thing that has to be unique in any of them.
    when unique_violation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = '{"name": ["This field must be unique."]}';
end
$$;
comment on function helpdesk.create_row(jsonb, text, jsonb, text) is
    E'POST categories/, tags/, templates/, filters/\n\nThe fields are the table''s columns. Raises invalid_field, idempotency_conflict.';

create function helpdesk.update_row(
    claims jsonb, entity text, number bigint, fields jsonb, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_columns text := (select string_agg(quote_ident(k), ', ') from jsonb_object_keys(fields) as k);
begin
    perform private.enter(claims);
    execute format(case when v_columns is null
        then 'select row_to_json(s) from public.%1$I as r cross join lateral helpdesk.shown(array[r]) as s where r.number = $2'
        else $update$
            update public.%1$I as r set (%2$s) = (select %2$s from jsonb_populate_record(r, $1))
            where r.number = $2
            returning (select row_to_json(s) from helpdesk.shown(array[r]) as s)
        $update$ end, entity, v_columns)
    into body using fields, number;
    if body is null then
        perform helpdesk.refuse_row(entity, number);
    end if;
exception
    when unique_violation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = '{"name": ["This field must be unique."]}';
end
$$;
comment on function helpdesk.update_row(jsonb, text, bigint, jsonb) is
    E'PUT, PATCH categories/{id}/ and the like\n\nRaises invalid_field, not_found, forbidden.';

create function helpdesk.delete_row(claims jsonb, entity text, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    execute format('delete from public.%I as r where r.number = $1 returning ''''', entity) into body using number;
    if body is null then
        perform helpdesk.refuse_row(entity, number);
    end if;
end
$$;
comment on function helpdesk.delete_row(jsonb, text, bigint) is
    E'DELETE categories/{id}/ and the like\n\nRaises not_found, forbidden.';

create function helpdesk.list_popular_tags(claims jsonb, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select '[' || coalesce(string_agg(row_to_json(p)::text, ',' order by p.usage_count desc, lower(p.name)), '') || ']' into body
    from (
        select (row(g.number, g.name, g.description, g.color, coalesce(u.tickets, 0))::helpdesk.popular_tag).*
        from public.tags as g
        left join (select k.tag_id, count(*) from public.ticket_tags as k group by k.tag_id) as u (tag_id, tickets)
            on u.tag_id = g.id
        order by coalesce(u.tickets, 0) desc, lower(g.name)
        limit 20
    ) as p;
end
$$;
comment on function helpdesk.list_popular_tags(jsonb) is
    E'GET tags/popular/\n\nThe twenty tags that most tickets carry, of those that the one who asks sees.';

create function helpdesk.use_template(
    claims jsonb, number bigint, context jsonb, idempotency_key text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
    v_template public.templates;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.use_template', idempotency_key, jsonb_build_array(number, context)) as o;
    if v_is_repeat then
        return;
    end if;
    select t.* into v_template from public.templates as t where t.number = use_template.number;
    if not found then
        perform helpdesk.refuse_row('templates', number);
    end if;
    perform helpdesk.refuse((
        select jsonb_object_agg(v, '["This field is required."]'::jsonb)
        from unnest(v_template.variables) as v where context ->> v is null));
    -- In one pass, so that a value in braces stays what it is.
    select row_to_json(row(
        string_agg(p.text || coalesce(context ->> n.found[1], '{' || n.found[1] || '}', ''), '' order by p.place),
        v_template.content, v_template.variables)::helpdesk.used_template)
    into body
    from regexp_split_to_table(v_template.content, '\{[^{}]+\}') with ordinality as p (text, place)
    left join regexp_matches(v_template.content, '\{([^{}]+)\}', 'g') with ordinality as n (found, place) on n.place = p.place;
    perform private.finish_once('helpdesk.use_template', idempotency_key, body, null);
end
$$;
comment on function helpdesk.use_template(jsonb, bigint, jsonb, text) is
    E'POST templates/{id}/use_template/\n\nRaises not_found, invalid_field naming each variable without a value, idempotency_conflict.';

----------------------------------------------------------------------------------------------------------------------
-- Socket
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.render_events(claims jsonb, events jsonb, out id bigint, out body text) returns setof record
language plpgsql volatile
set search_path = ''
as $$
declare
    v_told jsonb := (select jsonb_agg(jsonb_build_object('id', e.id, 'record', e.record)) from private.logged_rows(events) as e);
begin
    perform private.enter(claims);
    return query
    select (e.value -> 'id')::bigint, '{"event":"notification.new","data":' || row_to_json(row(
        n.number, n.type, n.title, n.message, t.number, n.read_at is not null, private.rfc3339(n.created_at)
    )::helpdesk.notification) || '}'
    from jsonb_array_elements(v_told) as e
    -- As it was when it was told, if it may be read now.
    cross join lateral jsonb_populate_record(null::public.notifications, e.value -> 'record') as n
    join public.notifications as r on r.organization_id = n.organization_id and r.id = n.id
    left join public.tickets as t on t.organization_id = n.organization_id and t.id = n.ticket_id;
end
$$;
comment on function helpdesk.render_events(jsonb, jsonb) is
    'The messages that events are to whoever the claims are of: their own new notifications, and nothing of anybody else''s.';

grant execute on function
    helpdesk.word(text, text), helpdesk.display(text), helpdesk.time_since(timestamptz), helpdesk.person_of(uuid),
    helpdesk.shown(public.tickets[]), helpdesk.shown(public.comments[]), helpdesk.shown(public.categories[]),
    helpdesk.shown(public.tags[]), helpdesk.shown(public.templates[]), helpdesk.shown(public.saved_filters[]),
    helpdesk.shown(public.members[]), helpdesk.ticket_json(public.tickets), helpdesk.comment_json(public.comments),
    helpdesk.order_by(text, jsonb),
    helpdesk.page_of(text, text, jsonb, text, jsonb, uuid[], text), helpdesk.own(),
    helpdesk.moment(text), helpdesk.find_references(jsonb, boolean, bigint),
    helpdesk.refuse(jsonb), helpdesk.lock_ticket(bigint, bigint), helpdesk.write_ticket(bigint, jsonb, boolean, bigint),
    helpdesk.ticket_id(bigint), helpdesk.find_comment(bigint, bigint), helpdesk.refuse_row(text, bigint)
    to authenticated;
grant execute on function
    helpdesk.reference_faults(jsonb, jsonb),
    helpdesk.list_tickets(jsonb, jsonb, text, boolean),
    helpdesk.create_ticket(jsonb, jsonb, text),
    helpdesk.get_ticket(jsonb, bigint),
    helpdesk.update_ticket(jsonb, bigint, jsonb, boolean, bigint),
    helpdesk.delete_ticket(jsonb, bigint, bigint),
    helpdesk.assign_ticket(jsonb, bigint, bigint, bigint, text),
    helpdesk.change_status(jsonb, bigint, jsonb, bigint, text),
    helpdesk.get_stats(jsonb),
    helpdesk.list_comments(jsonb, bigint, jsonb, text),
    helpdesk.create_comment(jsonb, bigint, text, boolean, bigint, text),
    helpdesk.get_comment(jsonb, bigint, bigint),
    helpdesk.update_comment(jsonb, bigint, bigint, jsonb),
    helpdesk.delete_comment(jsonb, bigint, bigint),
    helpdesk.list_rows(jsonb, text, text[], jsonb, text),
    helpdesk.get_row(jsonb, text, bigint),
    helpdesk.create_row(jsonb, text, jsonb, text),
    helpdesk.update_row(jsonb, text, bigint, jsonb),
    helpdesk.delete_row(jsonb, text, bigint),
    helpdesk.list_popular_tags(jsonb),
    helpdesk.use_template(jsonb, bigint, jsonb, text),
    helpdesk.render_events(jsonb, jsonb)
    to authenticator;
