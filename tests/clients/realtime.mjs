/*
 * Realtime with supabase-js, as it comes: who hears what of rows, of each other and of a ticket, and who does not.
 *
 *     node tests/clients/realtime.mjs [STORY...]
 *
 * with API_URL, PUBLISHABLE_KEY and SECRET_KEY in its environment, as `deskbase status` prints them. The story
 * `privateChannels` needs the two policies for `team:` of docs/realtime.md. Each story is a program of its own and ends
 * with an exception at the first thing that is not as it is told here. Node 22 or newer.
 */

import { deepEqual, equal, match, ok, rejects } from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createClient, postgresChangesFilter } from '@supabase/supabase-js';

const PASSWORD = 'a heron stands in the reeds';
const MILLISECONDS = 10_000;

const { API_URL, PUBLISHABLE_KEY, SECRET_KEY } = process.env;
const NAMES = process.argv.slice(2);
const clients = [];

/** What came in, in order; whoever waits for something is told the moment that it is there. */
class Heard {
  all = [];
  #waiting = new Set();

  add(each) {
    this.all.push(each);
    this.#waiting.forEach((look) => look());
  }

  /** Wait until something is so, of which nothing is heard but what is added. */
  until(condition) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        this.#waiting.delete(look);
        reject(new Error(`not in time: ${condition}; heard ${JSON.stringify(this.all)}`));
      }, MILLISECONDS);
      const look = () => {
        if (!condition(this.all)) return;
        clearTimeout(late);
        this.#waiting.delete(look);
        resolve();
      };
      this.#waiting.add(look);
      look();
    });
  }

  count(number) {
    return this.until((all) => all.length >= number);
  }
}

const unique = (word) => `${word}-${randomBytes(4).toString('hex')}`;

/** What a browser or an app uses: nobody is logged in yet. `frames` is what its logger is told. */
function visitor(options = {}) {
  const frames = new Heard();
  const realtime = { ...options, logger: (kind, text, data) => frames.add({ kind, text, data }) };
  const client = createClient(API_URL, PUBLISHABLE_KEY, {
    auth: { persistSession: false, autoRefreshToken: false }, realtime,
  });
  clients.push(client);
  return Object.assign(client, { frames });
}

/** What a call answers, or the exception that it is refused with. */
async function done(call) {
  const { data, error } = await call;
  if (error) throw error;
  return data;
}

async function logIn(email, options) {
  const client = visitor(options);
  const { user } = await done(client.auth.signInWithPassword({ email, password: PASSWORD }));
  await client.realtime.setAuth(); // so that the first join carries the user's token
  return { email, client, organization: user.app_metadata.organization_id };
}

/** Somebody who has founded an organization. */
async function founder(options) {
  const email = `${unique('founder')}@example.com`;
  const backEnd = createClient(API_URL, SECRET_KEY, { auth: { persistSession: false, autoRefreshToken: false } });
  const user_metadata = { name: 'Ada', organization: unique('Organization') };
  await done(backEnd.auth.admin.createUser({ email, password: PASSWORD, email_confirm: true, user_metadata }));
  return logIn(email, options);
}

/** Somebody whom an admin has added. */
async function member(boss, role, name, options) {
  const email = `${unique(role)}@example.com`;
  await done(boss.client.rpc('create_member', { email, name, role, password: PASSWORD }));
  return logIn(email, options);
}

const insert = (person, table, row) => done(person.client.from(table).insert(row).select().single());
const update = (person, table, id, row) => done(person.client.from(table).update(row).eq('id', id));
const remove = (person, table, id) => done(person.client.from(table).delete().eq('id', id));

/** Join; return how that went, and why if it went wrong. */
function knock(channel, states = new Heard()) {
  return new Promise((resolve) => {
    channel.subscribe((state, error) => {
      states.add(state);
      resolve([state, error?.message]);
    });
  });
}

async function join(channel, states) {
  deepEqual(await knock(channel, states), ['SUBSCRIBED', undefined]);
  return channel;
}

/** Expect that a channel is none of somebody's business. */
async function refused(reason, channel) {
  const [state, why] = await knock(channel);
  equal(state, 'CHANNEL_ERROR');
  match(why, reason);
  await channel.unsubscribe();
}

const table = (name, options = {}) => ({ event: '*', schema: 'public', table: name, ...options });

/** Hear of changes of rows; `heard.channel` is where. */
async function listen(client, wishes = [table('tickets'), table('comments')], config = {}) {
  const heard = new Heard();
  heard.channel = client.channel(unique('rows'), { config });
  for (const wish of wishes) heard.channel.on('postgres_changes', wish, (change) => heard.add(change));
  await join(heard.channel);
  return heard;
}

const textOf = ({ new: made, old }) => made.subject ?? made.body ?? old.subject ?? old.body;
const told = (heard) => heard.all.map((change) => `${change.eventType} ${textOf(change)}`);

async function hears(heard, expected) {
  await heard.count(expected.length);
  deepEqual(told(heard), expected);
}

const stories = {
  /** An agent hears of what customers and other programs do, with the row as it was. */
  async changes() {
    const boss = await founder();
    const [agent, buyer] = [await member(boss, 'agent', 'Grace'), await member(boss, 'customer', 'Carl')];
    const heard = await listen(agent.client);
    const inserts = await listen(agent.client, [table('tickets', { event: 'INSERT' })]);

    const ticket = await insert(buyer, 'tickets', { subject: 'It is late' });
    const comment = await insert(buyer, 'comments', { ticket_id: ticket.id, body: 'Where is it?' });
    await update(boss, 'tickets', ticket.id, { priority: 'high' });
    await update(boss, 'comments', comment.id, { body: 'Where are they?' });
    await remove(boss, 'comments', comment.id);
    await remove(boss, 'tickets', ticket.id);
    const { session } = await done(buyer.client.auth.getSession());
    const answer = await fetch(`${API_URL}/support-platform/v1/tickets`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${session.access_token}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ title: 'Over a contract' }),
    });
    equal(answer.status, 201);

    await heard.until((all) => textOf(all.at(-1) ?? { new: {}, old: {} }) === 'Over a contract');
    const ofTickets = heard.all.filter((change) => change.table === 'tickets');
    const ofComments = heard.all.filter((change) => change.table === 'comments');
    deepEqual(ofComments.map((change) => change.eventType), ['INSERT', 'UPDATE', 'DELETE']);
    deepEqual([ofComments[1].old.body, ofComments[1].new.body], ['Where is it?', 'Where are they?']);
    deepEqual([ofComments[2].old.id, ofComments[2].old.body], [comment.id, 'Where are they?']);
    deepEqual(ofComments[2].new, {});
    const own = ofTickets.filter((change) => (change.new.id ?? change.old.id) === ticket.id);
    deepEqual([own[0].eventType, own.at(-1).eventType], ['INSERT', 'DELETE']);
    const raised = own.find((change) => change.new.priority === 'high');
    deepEqual([raised.eventType, raised.old.priority], ['UPDATE', 'medium']);
    equal(typeof own[0].new.number, 'number');
    deepEqual([own[0].schema, own[0].errors, own[0].old], ['public', null, {}]);
    await hears(inserts, ['INSERT It is late', 'INSERT Over a contract']);
  },

  /** Customers hear of their own tickets and public comments; another organization and a visitor of nothing. */
  async rights() {
    const boss = await founder();
    const [carl, cora] = [await member(boss, 'customer', 'Carl'), await member(boss, 'customer', 'Cora')];
    const stranger = await founder();
    const nobody = visitor();
    const [all, carls, coras, strange] = await Promise.all(
      [boss, carl, cora, stranger].map(({ client }) => listen(client)),
    );
    const none = new Heard();
    const name = unique('visitors');
    await join(nobody.channel(name)
      .on('postgres_changes', table('tickets'), (change) => none.add(change))
      .on('postgres_changes', table('comments'), (change) => none.add(change))
      .on('broadcast', { event: 'end' }, () => none.add('end')));

    const ticket = await insert(carl, 'tickets', { subject: 'Of Carl' });
    await insert(boss, 'tickets', { subject: 'Of nobody' });
    await insert(boss, 'comments', { ticket_id: ticket.id, body: 'Among us', is_internal: true });
    await insert(boss, 'comments', { ticket_id: ticket.id, body: 'Hello' });
    await insert(cora, 'tickets', { subject: 'Of Cora' });
    await insert(carl, 'tickets', { subject: 'The last of Carl' });
    await insert(stranger, 'tickets', { subject: 'Elsewhere' });

    const inserts = (heard) => told(heard).filter((each) => each.startsWith('INSERT'));
    const last = (text) => (changes) => changes.some((change) => textOf(change) === text);
    await all.until(last('The last of Carl'));
    deepEqual(inserts(all), ['Of Carl', 'Of nobody', 'Among us', 'Hello', 'Of Cora', 'The last of Carl']
      .map((text) => `INSERT ${text}`));
    await carls.until(last('The last of Carl'));
    deepEqual(inserts(carls), ['INSERT Of Carl', 'INSERT Hello', 'INSERT The last of Carl']);
    await coras.until(last('Of Cora'));
    ok(told(coras).every((each) => each.endsWith('Of Cora')), told(coras));
    await strange.until(last('Elsewhere'));
    ok(told(strange).every((each) => each.endsWith('Elsewhere')), told(strange));
    await visitor().channel(name).httpSend('end', {});
    await none.count(1);
    deepEqual(none.all, ['end']);
  },

  /** Every operator of the client's filter builder; each channel has a second wish, which tells when all is told. */
  async filters() {
    const boss = await founder();
    const where = postgresChangesFilter;
    const wishes = [
      [where().eq('subject', 'b'), ['b']],
      [where().neq('subject', 'b'), ['a', 'c', 'd, "d"']],
      [where().lt('subject', 'b'), ['a']],
      [where().lte('subject', 'b'), ['a', 'b']],
      [where().gt('subject', 'b'), ['c', 'd, "d"']],
      [where().gte('subject', 'b'), ['b', 'c', 'd, "d"']],
      [where().in('subject', ['a', 'd, "d"']), ['a', 'd, "d"']],
      [where().like('subject', 'd%'), ['d, "d"']],
      [where().like('subject', 'D%'), []],
      [where().ilike('subject', 'D%'), ['d, "d"']],
      [where().match('subject', '^[ab]$'), ['a', 'b']],
      [where().match('subject', '^[AB]$'), []],
      [where().imatch('subject', '^(A|B)$'), ['a', 'b']],
      [where().is('external_id', null), ['b', 'c', 'd, "d"']],
      [where().isDistinct('external_id', 'first'), ['b', 'c', 'd, "d"']],
      [where().neq('external_id', 'second'), ['a']],
      [where().not('external_id', 'is', null), ['a']],
      [where().not('subject', 'in', ['a', 'b']), ['c', 'd, "d"']],
      [where().not('subject', 'eq', 'a'), ['b', 'c', 'd, "d"']],
      [where().eq('subject', 'd, "d"').eq('priority', 'high'), ['d, "d"']],
      [where().eq('subject', 'd, "d"').eq('priority', 'low'), []],
      ['subject=eq.a', ['a']],
    ];
    const end = table('comments', { event: 'INSERT' });
    const lists = await Promise.all(wishes.map(
      ([filter]) => listen(boss.client, [table('tickets', { event: 'INSERT', filter }), end]),
    ));
    const picked = await listen(boss.client, [table('tickets', { event: 'INSERT', select: ['subject'] }), end]);
    const rows = [['a', 'low', 'first'], ['b', 'low'], ['c', 'low'], ['d, "d"', 'high']];
    let ticket;
    for (const [subject, priority, external_id] of rows) {
      ticket = await insert(boss, 'tickets', { subject, priority, external_id });
    }
    await insert(boss, 'comments', { ticket_id: ticket.id, body: 'the end' });
    for (const [place, [filter, expected]] of wishes.entries()) {
      const heard = lists[place];
      await heard.until((all) => all.at(-1)?.table === 'comments');
      deepEqual(heard.all.map(textOf), [...expected, 'the end'], `${filter}`);
    }
    await picked.count(5);
    deepEqual(Object.keys(picked.all[0].new).sort(), ['id', 'organization_id', 'subject']);

    // One wish that cannot be served is told, and none of that channel is; the channel stays.
    const [problems, rest, states] = [new Heard(), new Heard(), new Heard()];
    const channel = boss.client.channel(unique('rows'));
    await join(channel
      .on('system', {}, (message) => { if (message.status === 'error') problems.add(message); })
      .on('broadcast', { event: 'end' }, () => rest.add('end'))
      .on('postgres_changes', table('tickets', { filter: 'no_such_column=eq.1' }), (change) => rest.add(change))
      .on('postgres_changes', end, (change) => rest.add(change)), states);
    await problems.count(1);
    match(problems.all[0].message, /no_such_column/);
    await insert(boss, 'comments', { ticket_id: ticket.id, body: 'unheard' });
    await picked.count(6);
    await visitor().channel(channel.subTopic).httpSend('end', {});
    await rest.count(1);
    deepEqual(rest.all, ['end']);
    deepEqual(states.all, ['SUBSCRIBED']);
  },

  /** Text and bytes to each other, to themselves, acknowledged; before anybody has joined; over HTTP. */
  async broadcasts() {
    const name = unique('room');
    const [anns, bobs, outsiders] = [new Heard(), new Heard(), new Heard()];
    const ann = await join(visitor().channel(name, { config: { broadcast: { self: true, ack: true } } })
      .on('broadcast', { event: '*' }, ({ event, payload }) => anns.add([event, payload])));
    const bob = await join(visitor().channel(name)
      .on('broadcast', { event: 'talk' }, ({ event, payload }) => bobs.add([event, payload])));
    await join(visitor().channel(unique('room'))
      .on('broadcast', { event: '*' }, ({ event }) => outsiders.add(event)));
    const say = (channel, event, payload) => channel.send({ type: 'broadcast', event, payload });

    equal(await say(ann, 'whisper', {}), 'ok'); // for which bob has no ear
    equal(await say(ann, 'talk', { text: 'é' }), 'ok');
    await bobs.count(1);
    equal(await say(bob, 'talk', { text: 'not to myself' }), 'ok');
    await anns.count(3);
    const bytes = new Uint8Array([0, 255, 7]);
    equal(await say(ann, 'talk', bytes.buffer), 'ok');
    await bobs.count(2);
    const outside = visitor().channel(name);
    equal(await say(outside, 'talk', { text: 'before joining' }), 'ok');
    deepEqual(await outside.httpSend('talk', { text: 'by HTTP' }), { success: true });
    deepEqual(await outside.httpSend('talk', bytes), { success: true });

    const plain = ([event, payload]) => [event, payload.text ?? [...new Uint8Array(payload)]];
    const both = [[0, 255, 7], 'before joining', 'by HTTP', [0, 255, 7]].map((text) => ['talk', text]);
    await bobs.count(5);
    deepEqual(bobs.all.map(plain), [['talk', 'é'], ...both]);
    await anns.count(7);
    deepEqual(anns.all.slice(1).map(plain), [['talk', 'é'], ['talk', 'not to myself'], ...both]);
    equal(anns.all[0][0], 'whisper');
    deepEqual(outsiders.all, []);
  },

  /** See each other come, change, and go in every way there is. */
  async presence() {
    const name = unique('room');
    const events = new Heard();
    const room = (client, key) => client.channel(name, { config: { presence: { key } } });
    const ann = room(visitor(), 'ann');
    const moods = () => Object.fromEntries(
      Object.entries(ann.presenceState()).map(([key, all]) => [key, all.map(({ mood }) => mood)]),
    );
    ann.on('presence', { event: 'sync' }, () => events.add('sync'))
      .on('presence', { event: 'join' }, ({ key, newPresences: [{ mood }] }) => events.add(`join ${key} ${mood}`))
      .on('presence', { event: 'leave' }, ({ key, leftPresences: [{ mood }] }) => events.add(`leave ${key} ${mood}`));
    await join(ann);
    equal(await ann.track({ mood: 'good' }), 'ok');
    await events.until(() => moods().ann);
    const client = visitor();
    const seen = new Heard();
    let bob = room(client, 'bob').on('presence', { event: 'sync' }, () => seen.add('sync'));
    await join(bob);
    await seen.until(() => bob.presenceState().ann?.[0].mood === 'good');

    const sees = (expected) => events.until(() => JSON.stringify(moods()) === JSON.stringify(expected));
    equal(await bob.track({ mood: 'bad' }), 'ok');
    await sees({ ann: ['good'], bob: ['bad'] });
    equal(await bob.track({ mood: 'better' }), 'ok');
    await sees({ ann: ['good'], bob: ['better'] });
    equal(await bob.untrack(), 'ok');
    await sees({ ann: ['good'] });
    equal(await bob.track({ mood: 'back' }), 'ok');
    await sees({ ann: ['good'], bob: ['back'] });
    equal(await client.removeChannel(bob), 'ok');
    await sees({ ann: ['good'] });
    bob = await join(room(client, 'bob'));
    equal(await bob.track({ mood: 'again' }), 'ok');
    await sees({ ann: ['good'], bob: ['again'] });
    await client.realtime.disconnect();
    await sees({ ann: ['good'] });
    const news = events.all.filter((event) => event !== 'sync');
    for (const event of ['join ann good', 'join bob bad', 'leave bob better', 'join bob back', 'leave bob back']) {
      ok(news.includes(event), `${event} of ${news}`);
    }
    equal(news.at(-1), 'leave bob again');

    // The room next door has nobody.
    const [next, nextSeen] = [visitor().channel(unique('room')), new Heard()];
    await join(next.on('presence', { event: 'sync' }, () => nextSeen.add('sync')));
    await nextSeen.count(1);
    deepEqual(next.presenceState(), {});
  },

  /** Only those whom a policy lets in, only what it lets them do; what was kept is told to who comes later. */
  async privateChannels() {
    const boss = await founder();
    const [agent, stranger] = [await member(boss, 'agent', 'Grace'), await founder()];
    const name = `team:${boss.organization}`;
    const room = (client, broadcast = {}) => client.channel(name, { config: { private: true, broadcast } });
    const begun = Date.now() - 1000;
    const no = /^Unauthorized: You do not have permissions to read from this Channel topic: /;
    await refused(no, room(stranger.client));
    await refused(no, room(visitor()));
    await refused(no, boss.client.channel(unique('elsewhere'), { config: { private: true } }));

    const [heard, open] = [new Heard(), new Heard()];
    await join(visitor().channel(name).on('broadcast', { event: '*' }, ({ event }) => open.add(event)));
    await join(room(agent.client).on('broadcast', { event: 'talk' }, (message) => heard.add(message)));
    const speaker = await join(room(boss.client, { ack: true }));
    const keep = (n) => speaker.send({ type: 'broadcast', event: 'talk', payload: { n }, persist: true });
    equal(await keep(1), 'ok');
    equal(await keep(2), 'ok');
    equal(await speaker.send({ type: 'broadcast', event: 'talk', payload: { n: 'not kept' } }), 'ok');
    deepEqual(await speaker.httpSend('talk', { n: 3 }, { persist: true }), { success: true });
    await heard.count(4);
    deepEqual(heard.all.map(({ payload }) => payload.n), [1, 2, 'not kept', 3]);

    const replay = async (options) => {
      const late = new Heard();
      const { client } = await logIn(agent.email);
      await join(room(client, { replay: options }).on('broadcast', { event: 'talk' }, (message) => late.add(message)));
      return late;
    };
    const [whole, latest, none] = [
      await replay({ since: begun }), await replay({ since: begun, limit: 2 }), await replay({ since: begun + 1e6 }),
    ];
    equal(await speaker.send({ type: 'broadcast', event: 'talk', payload: { n: 'now' } }), 'ok');
    for (const [late, expected] of [[whole, [1, 2, 3]], [latest, [2, 3]], [none, []]]) {
      await late.count(expected.length + 1);
      deepEqual(late.all.map(({ payload }) => payload.n), [...expected, 'now']);
      deepEqual(late.all.map(({ meta }) => meta?.replayed === true), [...expected.map(() => true), false]);
    }
    equal(await speaker.track({ mood: 'good' }), 'error'); // which the policy for speaking leaves out
    await refused(no, room(stranger.client, { replay: { since: begun } }));

    // A stranger may not speak over HTTP either, and the public channel of that name is another one.
    const outside = room(stranger.client).httpSend('talk', { n: 'from outside' });
    await rejects(outside, { message: 'Unauthorized' });
    await visitor().channel(name).httpSend('end', {});
    await open.count(1);
    deepEqual(open.all, ['end']);
    equal(await speaker.send({ type: 'broadcast', event: 'talk', payload: { n: 'last' } }), 'ok');
    await heard.until((all) => all.at(-1).payload.n === 'last');
    deepEqual(heard.all.map(({ payload }) => payload.n), [1, 2, 'not kept', 3, 'now', 'last']);
  },

  /** A new token keeps what there is; a log-out ends a private channel, and that of nobody else. */
  async sessions() {
    const boss = await founder();
    const agent = await member(boss, 'agent', 'Grace');
    const { id } = await insert(boss, 'tickets', { subject: 'Watched' });
    const room = (client) => client.channel(`desk:ticket:${id}`, { config: { private: true } });
    const [states, others] = [new Heard(), new Heard()];
    const heard = await listen(agent.client, [table('tickets')]);
    await join(room(agent.client), states);
    await join(room(boss.client), others);

    const { session } = await done(agent.client.auth.refreshSession());
    await agent.client.frames.until((all) => all.some(({ kind, data }) => (
      kind === 'push' && JSON.stringify(data ?? '').includes(session.access_token))));
    await insert(boss, 'tickets', { subject: 'After the refresh' });
    await hears(heard, ['INSERT After the refresh']);
    deepEqual(states.all, ['SUBSCRIBED']);

    equal((await agent.client.auth.signOut()).error, null);
    await states.until((all) => all.at(-1) === 'CLOSED');
    deepEqual(states.all, ['SUBSCRIBED', 'CLOSED']);
    await refused(/^Unauthorized: /, room(agent.client));
    deepEqual(others.all, ['SUBSCRIBED']);
    await insert(boss, 'tickets', { subject: 'After the log-out' });
    const again = await listen((await logIn(agent.email)).client, [table('tickets')]);
    await insert(boss, 'tickets', { subject: 'After coming back' });
    await hears(again, ['INSERT After coming back']);
    deepEqual(told(heard), ['INSERT After the refresh']);
  },

  /** The older version of the protocol: rows, messages and presence, between it and the newer one. */
  async versionOne() {
    const old = { vsn: '1.0.0' };
    const boss = await founder(old);
    equal(boss.client.realtime.socketAdapter.vsn, '1.0.0');
    const heard = await listen(boss.client, [table('tickets', { filter: 'subject=like.old%' })]);
    await insert(boss, 'tickets', { subject: 'new' });
    const { id } = await insert(boss, 'tickets', { subject: 'old' });
    await hears(heard, ['INSERT old']);

    const name = unique('room');
    const [older, newer] = [new Heard(), new Heard()];
    const room = (client, key) => client.channel(name, { config: { presence: { key }, broadcast: { ack: true } } });
    const [ann, bob] = [room(visitor(old), 'ann'), room(visitor(), 'bob')];
    for (const [channel, list] of [[ann, older], [bob, newer]]) {
      channel.on('broadcast', { event: 'talk' }, ({ payload }) => list.add(payload.text))
        .on('presence', { event: 'sync' }, () => list.add('sync'));
      await join(channel);
    }
    equal(await ann.send({ type: 'broadcast', event: 'talk', payload: { text: 'from 1' } }), 'ok');
    equal(await bob.send({ type: 'broadcast', event: 'talk', payload: { text: 'from 2' } }), 'ok');
    await older.until((all) => all.includes('from 2'));
    await newer.until((all) => all.includes('from 1'));
    equal(await ann.track({ mood: 'good' }), 'ok');
    await newer.until(() => bob.presenceState().ann?.[0].mood === 'good');
    equal(await bob.track({ mood: 'bad' }), 'ok');
    await older.until(() => ann.presenceState().bob?.[0].mood === 'bad');

    const closed = { config: { private: true } };
    await join(boss.client.channel(`desk:ticket:${id}`, closed));
    await refused(/^Unauthorized: /, (await founder(old)).client.channel(`desk:ticket:${id}`, closed));
  },

  /** Who comes back with the last position is told what was missed: no gap, no repeat, and nobody else's. */
  async comingBack() {
    const boss = await founder();
    const [agent, buyer] = [await member(boss, 'agent', 'Grace'), await member(boss, 'customer', 'Carl')];
    const wishes = [table('tickets', { event: 'INSERT' })];
    const first = await listen(agent.client, wishes);
    // supabase-js leaves positions out of what it hands on. That of the join is in its answer ...
    const begun = await new Promise((resolve) => {
      first.channel.joinPush.receive('ok', ({ position }) => resolve(position));
    });
    ok(begun);
    for (const subject of ['a', 'b']) await insert(boss, 'tickets', { subject });
    await hears(first, ['INSERT a', 'INSERT b']);
    // ... and those of the changes are in what its logger is told.
    const positions = agent.client.frames.all
      .map(({ kind, data }) => kind === 'receive' && (data?.payload ?? data)?.data?.position).filter(Boolean);
    ok(positions.length >= 2, JSON.stringify(agent.client.frames.all.slice(-3)));

    await agent.client.realtime.disconnect();
    await insert(buyer, 'tickets', { subject: 'c' });
    await insert(boss, 'tickets', { subject: 'd' });
    const back = (person, since) => listen(person.client, wishes, { postgres_changes_options: { since } });
    const again = await logIn(agent.email);
    const [last, whole] = [await back(again, positions.at(-1)), await back(again, begun)];
    const customers = await back(buyer, begun);
    await insert(buyer, 'tickets', { subject: 'e' });
    await hears(last, ['INSERT c', 'INSERT d', 'INSERT e']);
    await hears(whole, ['INSERT a', 'INSERT b', 'INSERT c', 'INSERT d', 'INSERT e']);
    await hears(customers, ['INSERT c', 'INSERT e']);

    const gone = again.client.channel(unique('rows'), { config: { postgres_changes_options: { since: 'x' } } });
    await refused(/^PositionGone: /, gone.on('postgres_changes', wishes[0], () => {}));
  },

  /** Agents see who reads a ticket and who writes, under their real names; nobody else gets in. */
  async collisions() {
    const boss = await founder();
    const grace = await member(boss, 'agent', 'Grace');
    const linus = await member(boss, 'agent', 'Linus');
    const buyer = await member(boss, 'customer', 'Carl');
    const { id } = await insert(buyer, 'tickets', { subject: 'Mine' });
    const room = (client, key = '') => (
      client.channel(`desk:ticket:${id}`, { config: { private: true, presence: { key } } }));
    const [ofGrace, ofLinus] = [room(grace.client, 'g'), room(linus.client, 'l')];
    const [graces, linuses] = [new Heard(), new Heard()];
    await join(ofGrace.on('presence', { event: 'sync' }, () => graces.add('sync')));
    await join(ofLinus.on('presence', { event: 'sync' }, () => linuses.add('sync')));
    const seen = (channel) => Object.fromEntries(Object.entries(channel.presenceState()).map(
      ([key, [{ name, state }]]) => [key, `${name} ${state}`],
    ));
    const sees = async (channel, heard, expected) => {
      await heard.until(() => JSON.stringify(seen(channel)) === JSON.stringify(expected));
    };
    equal(await ofGrace.track({ state: 'viewing' }), 'ok');
    await sees(ofLinus, linuses, { g: 'Grace viewing' });
    equal(await ofLinus.track({ state: 'viewing', name: 'The director', member_id: id }), 'ok');
    await sees(ofGrace, graces, { g: 'Grace viewing', l: 'Linus viewing' });
    equal(await ofLinus.track({ state: 'typing' }), 'ok');
    await sees(ofGrace, graces, { g: 'Grace viewing', l: 'Linus typing' });
    const [{ member_id, since }] = ofGrace.presenceState().l;
    deepEqual(
      await done(linus.client.from('members').select('name').eq('id', member_id)),
      [{ name: 'Linus' }],
    );
    ok(!Number.isNaN(Date.parse(since)), since);

    for (const client of [buyer.client, (await founder()).client, visitor()]) {
      await refused(/^Unauthorized: /, room(client));
    }
    equal(await linus.client.removeChannel(ofLinus), 'ok');
    await sees(ofGrace, graces, { g: 'Grace viewing' });
  },
};

for (const name of NAMES.length ? NAMES : Object.keys(stories)) {
  await stories[name]();
  await Promise.all(clients.splice(0).map((client) => client.realtime.disconnect()));
  console.log(`${name}: as told`);
}
process.exit(0); // clients that wait to come back to a refused channel would keep it alive
