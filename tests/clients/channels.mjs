/*
 * Realtime with supabase-js, as it comes: changes of rows, broadcast, presence, the room of a ticket.
 *
 *     node tests/clients/channels.mjs API_URL PUBLISHABLE_KEY SECRET_KEY DB_URL [STORY...]
 *
 * `deskbase status` prints all four, of which the last is for channels.py alone. Each story is a program of its own and ends with an exception at the first thing
 * that is not as it is told here. Node 22 or newer.
 */

import { deepEqual, equal, ok } from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from '@supabase/supabase-js';
import { postgresChangesFilter } from '@supabase/realtime-js';

const PASSWORD = 'a heron stands in the reeds';
const MILLISECONDS = 10_000;
const A_MOMENT = 400; // how long nothing is waited for

const [URL_, KEY, SECRET_KEY, , ...NAMES] = process.argv.slice(2);
const clients = [];

/** What a browser or an app uses: nobody is logged in yet. */
function visitor(realtime = {}) {
  const client = createClient(URL_, KEY, { auth: { persistSession: false, autoRefreshToken: false }, realtime });
  clients.push(client);
  return client;
}

const unique = (word) => `${word}-${randomBytes(4).toString('hex')}`;

/** What a call answers, or the exception that it is refused with. */
async function done(call) {
  const { data, error } = await call;
  if (error) throw error;
  return data;
}

async function until(condition, seen = () => '') {
  const deadline = Date.now() + MILLISECONDS;
  while (!condition()) {
    ok(Date.now() < deadline, `not in time: ${JSON.stringify(seen())}`);
    await sleep(20);
  }
}

async function logIn(email, realtime) {
  const client = visitor(realtime);
  const { user } = await done(client.auth.signInWithPassword({ email, password: PASSWORD }));
  await client.realtime.setAuth(); // so that the first join carries the token
  return { id: user.id, email, client };
}

/** Somebody who has founded an organization. */
async function admin() {
  const email = `${unique('admin')}@example.com`;
  const backEnd = createClient(URL_, SECRET_KEY, { auth: { persistSession: false, autoRefreshToken: false } });
  const user_metadata = { name: 'Ada', organization: unique('Organization') };
  await done(backEnd.auth.admin.createUser({ email, password: PASSWORD, email_confirm: true, user_metadata }));
  return logIn(email);
}

/** Somebody whom an admin has added. */
async function member(boss, role, realtime) {
  const email = `${unique(role)}@example.com`;
  await done(boss.client.rpc('create_member', { email, name: role, role, password: PASSWORD }));
  return logIn(email, realtime);
}

const insert = (person, table, row) => done(person.client.from(table).insert(row).select().single());

/** Join, and return how that went. */
function knock(channel, states = []) {
  return new Promise((resolve) => {
    channel.subscribe((state) => { states.push(state); resolve(state); });
  });
}

async function join(channel, states) {
  equal(await knock(channel, states), 'SUBSCRIBED');
  return channel;
}

/** Hear of changes; each change is put into the list that is returned. */
async function listen(client, options = {}, config = {}) {
  const heard = [];
  const wish = { event: '*', schema: 'public', table: 'tickets', ...options };
  await join(client.channel(unique('room'), { config }).on('postgres_changes', wish, (change) => heard.push(change)));
  return heard;
}

const told = (heard, column = 'subject') => heard.map((change) => change.new[column] ?? change.old[column]);

async function hears(heard, expected, column) {
  await until(() => told(heard, column).length >= expected.length, () => told(heard, column));
  deepEqual(told(heard, column), expected);
}

const stories = {
  /** Colleagues hear of each other's work; customers of their own; strangers and visitors of nothing. */
  async changes() {
    const boss = await admin();
    const buyer = await member(boss, 'customer');
    const ours = await listen((await member(boss, 'agent')).client);
    const theirs = await listen(buyer.client);
    const nothing = [await listen((await admin()).client), await listen(visitor())];
    const ticket = await insert(boss, 'tickets', { subject: 'Among us' });
    await insert(buyer, 'tickets', { subject: 'Mine' });
    await done(boss.client.from('tickets').update({ priority: 'high' }).eq('id', ticket.id));
    await done(boss.client.from('tickets').delete().eq('id', ticket.id));
    await hears(ours, ['Among us', 'Mine', 'Among us', 'Among us']);
    deepEqual(ours.map((change) => change.eventType), ['INSERT', 'INSERT', 'UPDATE', 'DELETE']);
    deepEqual([ours[2].old.priority, ours[2].new.priority], ['medium', 'high']);
    equal(typeof ours[0].new.number, 'number');
    await sleep(A_MOMENT);
    await hears(theirs, ['Mine']);
    deepEqual(nothing, [[], []]);
  },

  /** Every operator of the client's filter builder, columns by name, two wishes on one channel. */
  async filters() {
    const boss = await admin();
    const made = postgresChangesFilter;
    const wishes = [
      [made().eq('subject', 'b'), ['b']],
      [made().neq('subject', 'b'), ['a', 'c', 'd, d']],
      [made().lt('subject', 'b'), ['a']],
      [made().lte('subject', 'b'), ['a', 'b']],
      [made().gt('subject', 'b'), ['c', 'd, d']],
      [made().gte('subject', 'b'), ['b', 'c', 'd, d']],
      [made().in('subject', ['a', 'd, d']), ['a', 'd, d']],
      [made().like('subject', 'd%'), ['d, d']],
      [made().ilike('subject', 'D%'), ['d, d']],
      [made().match('subject', '^[ab]$'), ['a', 'b']],
      [made().imatch('subject', '^(A|B)$'), ['a', 'b']],
      [made().is('external_id', null), ['b', 'c', 'd, d']],
      [made().isDistinct('external_id', 'first'), ['b', 'c', 'd, d']],
      [made().not('external_id', 'is', null), ['a']],
      [made().not('subject', 'in', ['a', 'b']), ['c', 'd, d']],
      [made().eq('subject', 'd, d').eq('priority', 'high'), ['d, d']],
    ];
    const lists = await Promise.all(wishes.map(([filter]) => listen(boss.client, { filter })));
    const both = [];
    await join(boss.client.channel(unique('both'))
      .on('postgres_changes', { event: 'INSERT', schema: 'public', table: 'tickets', filter: 'subject=eq.a' }, (c) => both.push(c))
      .on('postgres_changes', { event: 'UPDATE', schema: 'public', table: 'tickets', select: ['subject'] }, (c) => both.push(c)));
    await insert(boss, 'tickets', { subject: 'a', external_id: 'first' });
    for (const [subject, priority] of [['b', 'low'], ['c', 'low'], ['d, d', 'high']]) {
      await insert(boss, 'tickets', { subject, priority });
    }
    for (const [place, [, expected]] of wishes.entries()) await hears(lists[place], expected);
    await done(boss.client.from('tickets').update({ subject: 'e' }).eq('subject', 'c'));
    await hears(both, ['a', 'e']);
    deepEqual(Object.keys(both[1].new).sort(), ['id', 'organization_id', 'subject']);
  },

  /** Text and bytes to each other; to themselves; acknowledged; over HTTP, and before anybody has joined. */
  async broadcasts() {
    const name = unique('room');
    const heard = { ann: [], bob: [] };
    const ann = await join(visitor().channel(name, { config: { broadcast: { self: true, ack: true } } })
      .on('broadcast', { event: '*' }, (message) => heard.ann.push(message)));
    await join(visitor().channel(name).on('broadcast', { event: 'talk' }, (message) => heard.bob.push(message)));
    equal(await ann.send({ type: 'broadcast', event: 'talk', payload: { text: 'é' } }), 'ok');
    const outside = visitor().channel(name);
    const { warn } = console;
    console.warn = () => {}; // supabase-js says that httpSend() is to be preferred
    equal(await outside.send({ type: 'broadcast', event: 'talk', payload: { text: 'before joining' } }), 'ok');
    console.warn = warn;
    deepEqual(await outside.httpSend('talk', { text: 'by HTTP' }), { success: true });
    for (const list of Object.values(heard)) {
      await until(() => list.length === 3, () => list);
      deepEqual(list.map((message) => message.payload.text), ['é', 'before joining', 'by HTTP']);
    }
  },

  /** See each other come, change and go. */
  async presence() {
    const name = unique('room');
    const events = [];
    const room = (client, key) => client.channel(name, { config: { presence: { key } } });
    const ann = room(visitor(), 'ann')
      .on('presence', { event: 'sync' }, () => events.push('sync'))
      .on('presence', { event: 'join' }, ({ key }) => events.push(`join ${key}`))
      .on('presence', { event: 'leave' }, ({ key }) => events.push(`leave ${key}`));
    await join(ann);
    equal(await ann.track({ mood: 'good' }), 'ok');
    const client = visitor();
    const bob = await join(room(client, 'bob').on('presence', { event: 'sync' }, () => {}));
    await until(() => bob.presenceState().ann?.[0].mood === 'good', () => bob.presenceState());
    equal(await bob.track({ mood: 'bad' }), 'ok');
    await until(() => ann.presenceState().bob?.[0].mood === 'bad', () => ann.presenceState());
    equal(await bob.untrack(), 'ok');
    await until(() => !ann.presenceState().bob);
    equal(await bob.track({ mood: 'back' }), 'ok');
    await until(() => ann.presenceState().bob);
    await client.realtime.disconnect();
    await until(() => !ann.presenceState().bob);
    for (const event of ['sync', 'join ann', 'join bob', 'leave bob']) ok(events.includes(event), event);
  },

  /** Agents see who else has a ticket open; customers, strangers and visitors do not get in. */
  async ticketsRoom() {
    const boss = await admin();
    const [agent, buyer] = [await member(boss, 'agent'), await member(boss, 'customer')];
    const { id } = await insert(buyer, 'tickets', { subject: 'Mine' });
    const room = (client, key = '') => client.channel(`desk:ticket:${id}`, { config: { private: true, presence: { key } } });
    const ours = await join(room(boss.client, 'boss').on('presence', { event: 'sync' }, () => {}));
    const theirs = await join(room(agent.client, 'agent'));
    equal(await theirs.track({ state: 'typing', name: 'The director' }), 'ok');
    await until(() => ours.presenceState().agent, () => ours.presenceState());
    const [seen] = ours.presenceState().agent;
    deepEqual([seen.state, seen.name], ['typing', 'agent']);
    ok(seen.member_id && seen.since);
    for (const client of [buyer.client, (await admin()).client, visitor()]) {
      equal(await knock(room(client)), 'CHANNEL_ERROR');
    }
  },

  /** A new token keeps a channel; whoever logs out everywhere hears nothing more. */
  async sessions() {
    const boss = await admin();
    const agent = await member(boss, 'agent');
    const [heard, states] = [[], []];
    const wish = { event: '*', schema: 'public', table: 'tickets' };
    await join(agent.client.channel(unique('room')).on('postgres_changes', wish, (change) => heard.push(change)), states);
    await done(agent.client.auth.refreshSession());
    await insert(boss, 'tickets', { subject: 'After the refresh' });
    await hears(heard, ['After the refresh']);
    deepEqual(states, ['SUBSCRIBED']);
    const elsewhere = await logIn(agent.email);
    await elsewhere.client.auth.signOut({ scope: 'global' });
    await until(() => states.at(-1) === 'CLOSED', () => states);
    await insert(boss, 'tickets', { subject: 'After the log-out' });
    await sleep(A_MOMENT);
    equal(heard.length, 1);
  },

  /** Whoever comes back with the last position is told what was missed, without a gap or a repeat. */
  async comingBack() {
    const boss = await admin();
    const positions = [];
    // supabase-js leaves the position out of what it hands on; its logger is told of every frame.
    const logger = (kind, _, frame) => {
      const position = kind === 'receive' && (frame?.data?.position ?? frame?.payload?.data?.position);
      if (position) positions.push(position);
    };
    const agent = await member(boss, 'agent', { logger });
    const first = await listen(agent.client);
    for (const subject of ['a', 'b']) await insert(boss, 'tickets', { subject });
    await hears(first, ['a', 'b']);
    await agent.client.realtime.disconnect();
    for (const subject of ['c', 'd']) await insert(boss, 'tickets', { subject });
    const again = await logIn(agent.email);
    const back = await listen(again.client, {}, { postgres_changes_options: { since: positions.at(-1) } });
    await insert(boss, 'tickets', { subject: 'e' });
    await hears(back, ['c', 'd', 'e']);
    await sleep(A_MOMENT);
    equal(back.length, 3);
  },
};

for (const name of NAMES.length ? NAMES : Object.keys(stories)) {
  await stories[name]();
  await Promise.all(clients.splice(0).map((client) => client.realtime.disconnect()));
  console.log(`${name}: as told`);
}
process.exit(0);
