/*
 * Accounts with supabase-js, as it comes: what people do with their own, and a back end with everybody's.
 *
 *     node tests/clients/accounts.mjs API_URL PUBLISHABLE_KEY SECRET_KEY MAIL_FOLDER [STORY...]
 *
 * `deskbase status` prints the first three; where no mail server is set, mail is written into DATA_DIR/mail. Each story
 * is a program of its own and ends with an exception at the first thing that is not as it is told here. Node 22 or newer.
 */

import { deepEqual, equal, notEqual, ok } from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  AuthApiError, AuthSessionMissingError, AuthWeakPasswordError, createClient,
} from '@supabase/supabase-js';

const PASSWORD = 'a heron stands in the reeds';
const NEW_PASSWORD = 'two herons stand in the reeds';
// Where links lead back to. Nothing needs to answer there: the session is in the address itself.
const FRONT_END = 'http://127.0.0.1:3000/welcome';

const [URL_, KEY, SECRET_KEY, MAIL_FOLDER, ...NAMES] = process.argv.slice(2);
const opened = new Set();
const unread = [];
newMails(); // what was there before

/** What a browser or an app uses: nobody is logged in yet. */
const visitor = (auth = {}, global = {}) => createClient(URL_, KEY, { auth, global });

/** What a server of one's own uses, and nobody else may ever get hold of. */
const backEnd = () => createClient(URL_, SECRET_KEY, { auth: { persistSession: false, autoRefreshToken: false } });

/** An address that nobody has used. */
const address = (name) => `${name}-${randomBytes(4).toString('hex')}@example.com`;

/** What a call answers, or the exception that it is refused with. */
async function done(call) {
  const { data, error } = await call;
  if (error) throw error;
  return data;
}

/** Expect the refusal with this code, of this class. */
async function refused(code, call, kind = AuthApiError) {
  const { error } = await call;
  ok(error, `not refused: ${code}`);
  if ('hint' in error) ok([error.code, error.message].includes(code), error.message);
  else ok(error instanceof kind && error.code === code, `${error.name} ${error.code}: ${error.message}`);
}

/** Expect that the session is over, for which the client has a class of its own. */
async function ended(call) {
  const { error } = await call;
  ok(error instanceof AuthSessionMissingError, `${error?.name}: ${error?.message}`);
}

/** Somebody who needed no confirmation, logged in. */
async function person(name, data = {}) {
  const email = address(name);
  const title = name[0].toUpperCase() + name.slice(1);
  const user_metadata = { name: title, organization: `${title} Ltd`, ...data };
  await done(backEnd().auth.admin.createUser({ email, password: PASSWORD, email_confirm: true, user_metadata }));
  const client = visitor();
  const { user } = await done(client.auth.signInWithPassword({ email, password: PASSWORD }));
  return { id: user.id, email, client, auth: client.auth };
}

/** The next mail to an address. */
async function mailTo(email) {
  for (let rounds = 0; rounds < 400; rounds++) {
    unread.push(...newMails().map(open));
    const found = unread.findIndex((mail) => mail.to === email);
    if (found >= 0) return unread.splice(found, 1)[0];
    await sleep(50);
  }
  throw new Error(`no mail to ${email}`);
}

function newMails() {
  if (!existsSync(MAIL_FOLDER)) return [];
  const names = readdirSync(MAIL_FOLDER).filter((name) => /^[^.].*\.eml$/.test(name) && !opened.has(name)).sort();
  names.forEach((name) => opened.add(name));
  return names;
}

function open(name) {
  const text = readFileSync(join(MAIL_FOLDER, name), 'utf8');
  const found = (pattern) => text.match(pattern)?.[1];
  return {
    to: found(/^To: (.*)$/m),
    subject: found(/^Subject: (.*)$/m),
    link: found(/^(https?:\/\/\S+\/auth\/v1\/verify\?\S+)$/m),
    code: found(/^(\d{6})$/m),
  };
}

/** Follow a link as a browser does: what it comes back to the front-end with, in the query or behind the #. */
async function follow(link) {
  const answer = await fetch(link, { redirect: 'manual' });
  equal(answer.status, 303);
  const place = new URL(answer.headers.get('location'));
  equal(place.origin + place.pathname, FRONT_END);
  return Object.fromEntries([...place.searchParams, ...new URLSearchParams(place.hash.slice(1))]);
}

/** The six digits that an authenticator app shows (RFC 6238). */
function digits(secret, milliseconds = Date.now()) {
  const bits = [...secret].map((sign) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(sign).toString(2).padStart(5, '0'));
  const key = Buffer.from(bits.join('').match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(milliseconds / 30_000)));
  const mac = createHmac('sha1', key).update(step).digest();
  return String((mac.readUInt32BE(mac[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

/** Six digits that are wrong. */
const otherThan = (code) => String((Number(code) + 1) % 1_000_000).padStart(6, '0');

const token = async (client) => (await done(client.auth.getSession())).session?.access_token;
const me = async (client) => (await done(client.auth.getUser())).user;

/** What happens to a client's session from now on. */
function eventsOf(client) {
  const events = [];
  client.auth.onAuthStateChange((event) => { if (event !== 'INITIAL_SESSION') events.push(event); });
  return events;
}

const stories = {
  /** Signs up, founds an organization by that, confirms the address, works, and leaves. */
  async founder() {
    const ada = visitor();
    const email = address('ada');
    const events = eventsOf(ada);
    const options = { data: { name: 'Ada', organization: 'Ada Ltd' }, emailRedirectTo: FRONT_END };
    const made = await done(ada.auth.signUp({ email, password: PASSWORD, options }));
    equal(made.session, null);
    equal(made.user.email, email);
    await refused('email_not_confirmed', ada.auth.signInWithPassword({ email, password: PASSWORD }));

    // In a browser the client reads the address by itself (detectSessionInUrl).
    const found = await follow((await mailTo(email)).link);
    equal(found.type, 'signup');
    await done(ada.auth.setSession(found));
    ok((await me(ada)).email_confirmed_at);

    const { user } = await done(ada.auth.signInWithPassword({ email, password: PASSWORD }));
    equal(user.app_metadata.role, 'admin');
    deepEqual(await done(ada.from('organizations').select('id,name')), [
      { id: user.app_metadata.organization_id, name: 'Ada Ltd' },
    ]);
    const subject = 'The kettle is broken';
    const ticket = await done(ada.from('tickets').insert({ subject, priority: 'high' }).select().single());
    const grace = await person('grace');
    deepEqual(await done(grace.client.from('tickets').select('id')), []);
    deepEqual(await done(ada.from('tickets').select('id')), [{ id: ticket.id }]);

    const first = (await done(ada.auth.getSession())).session;
    const second = (await done(ada.auth.refreshSession())).session;
    notEqual(second.refresh_token, first.refresh_token);
    for (const { access_token } of [first, second]) equal((await done(ada.auth.getUser(access_token))).user.email, email);
    deepEqual(await done(ada.from('tickets').select('id')), [{ id: ticket.id }]);

    equal((await ada.auth.signOut()).error, null);
    equal(await token(ada), undefined);
    deepEqual(events, ['SIGNED_IN', 'SIGNED_IN', 'TOKEN_REFRESHED', 'SIGNED_OUT']);
    await ended(ada.auth.getUser(second.access_token));
    await refused('refresh_token_not_found', ada.auth.refreshSession(second));
    const late = createClient(URL_, KEY, { accessToken: async () => second.access_token });
    await refused('session_ended', late.from('tickets').select('id'));
    await refused('42501', ada.from('tickets').select('id')); // as nobody, that is
  },

  /** Joins an organization that is there already, and sees nothing there but their own. */
  async customer() {
    const ada = await person('ada');
    const { organization_id } = (await me(ada.client)).app_metadata;
    const carl = visitor();
    const email = address('carl');
    await done(carl.auth.signUp({ email, password: PASSWORD, options: { data: { name: 'Carl', organization_id } } }));
    const { code } = await mailTo(email);
    const { user } = await done(carl.auth.verifyOtp({ email, token: code, type: 'signup' }));
    equal(user.app_metadata.role, 'customer');

    await done(ada.client.from('tickets').insert({ subject: 'Order more tea' }));
    const ticket = await done(carl.from('tickets').insert({ subject: 'My order is late' }).select().single());
    equal(ticket.organization_id, organization_id);
    deepEqual(await done(carl.from('tickets').select('subject')), [{ subject: 'My order is late' }]);
    equal((await done(ada.client.from('tickets').select('id'))).length, 2);
    await refused('forbidden', carl.rpc('create_integration_token', { name: 'Mine' }));
  },

  /** Changes what is said of them, and the password, which ends their other sessions. */
  async ownAccount() {
    const ada = await person('ada');
    const phone = visitor();
    await done(phone.auth.signInWithPassword({ email: ada.email, password: PASSWORD }));
    const events = eventsOf(ada.client);

    await done(ada.auth.updateUser({ data: { language: 'en', nickname: 'A' } }));
    const { user } = await done(ada.auth.updateUser({ data: { nickname: null } }));
    deepEqual(user.user_metadata, { name: 'Ada', organization: 'Ada Ltd', language: 'en' });
    equal(user.app_metadata.role, 'admin');
    deepEqual((await done(ada.auth.getUserIdentities())).identities.map((identity) => identity.provider), ['email']);

    await refused('same_password', ada.auth.updateUser({ password: PASSWORD }));
    await done(ada.auth.updateUser({ password: NEW_PASSWORD }));
    deepEqual(events, ['USER_UPDATED', 'USER_UPDATED', 'USER_UPDATED']);
    equal((await mailTo(ada.email)).subject, 'Your password was changed');

    equal((await me(ada.client)).email, ada.email);
    const phoneEvents = eventsOf(phone);
    await ended(phone.auth.getUser());
    deepEqual(phoneEvents, ['SIGNED_OUT']);
    await refused('invalid_credentials', phone.auth.signInWithPassword({ email: ada.email, password: PASSWORD }));
    await done(phone.auth.signInWithPassword({ email: ada.email, password: NEW_PASSWORD }));
  },

  /** Proves by a code in a mail that it is still them. */
  async nonce() {
    const ada = await person('ada');
    await done(ada.auth.reauthenticate());
    const { code, link } = await mailTo(ada.email);
    equal(link, undefined);
    const wrong = { password: NEW_PASSWORD, nonce: otherThan(code) };
    await refused('reauthentication_not_valid', ada.auth.updateUser(wrong));
    await done(ada.auth.updateUser({ password: NEW_PASSWORD, nonce: code }));
    await refused('reauthentication_not_valid', ada.auth.updateUser({ password: PASSWORD, nonce: code }));
  },

  /** Adds an authenticator app, and from then on needs it. */
  async secondFactor() {
    const ada = await person('ada');
    const { mfa } = ada.auth;
    const events = eventsOf(ada.client);
    const { id: factorId, totp, friendly_name } = await done(
      mfa.enroll({ factorType: 'totp', friendlyName: 'Telephone', issuer: 'Ada Ltd' }),
    );
    equal(friendly_name, 'Telephone');
    ok(totp.qr_code.startsWith('data:image/svg+xml;utf-8,<svg'));
    equal(new URL(totp.uri).searchParams.get('secret'), totp.secret);
    await refused('mfa_factor_name_conflict', mfa.enroll({ factorType: 'totp', friendlyName: 'Telephone' }));
    deepEqual((await done(mfa.listFactors())).all.map((factor) => factor.status), ['unverified']);

    const { id: challengeId, type } = await done(mfa.challenge({ factorId }));
    equal(type, 'totp');
    const wrong = { factorId, challengeId, code: otherThan(digits(totp.secret)) };
    await refused('mfa_verification_failed', mfa.verify(wrong));
    const now = Date.now();
    await done(mfa.verify({ factorId, challengeId, code: digits(totp.secret, now) }));
    deepEqual(events, ['MFA_CHALLENGE_VERIFIED']);
    const level = await done(mfa.getAuthenticatorAssuranceLevel());
    deepEqual([level.currentLevel, level.nextLevel], ['aal2', 'aal2']);
    deepEqual(level.currentAuthenticationMethods.map((entry) => entry.method).sort(), ['password', 'totp']);
    deepEqual((await done(mfa.listFactors())).totp.map((factor) => factor.friendly_name), ['Telephone']);
    deepEqual(await done(ada.client.from('tickets').select('id')), []);

    // The next log-in is half of one.
    const again = visitor();
    await done(again.auth.signInWithPassword({ email: ada.email, password: PASSWORD }));
    const half = await done(again.auth.mfa.getAuthenticatorAssuranceLevel());
    deepEqual([half.currentLevel, half.nextLevel], ['aal1', 'aal2']);
    await refused('second_factor_required', again.from('tickets').select('id'));
    await refused('insufficient_aal', again.auth.updateUser({ password: NEW_PASSWORD }));
    await refused('insufficient_aal', again.auth.mfa.enroll({ factorType: 'totp', friendlyName: 'Mine' }));
    await refused('insufficient_aal', again.auth.mfa.unenroll({ factorId }));
    // A code counts once. Nobody likes to wait for the next one, and clocks may be half a minute apart.
    const used = { factorId, code: digits(totp.secret, now) };
    await refused('mfa_verification_failed', again.auth.mfa.challengeAndVerify(used));
    await done(again.auth.mfa.challengeAndVerify({ factorId, code: digits(totp.secret, now + 30_000) }));
    deepEqual(await done(again.from('tickets').select('id')), []);

    equal((await done(again.auth.mfa.unenroll({ factorId }))).id, factorId);
    await done(again.auth.refreshSession());
    const whole = await done(again.auth.mfa.getAuthenticatorAssuranceLevel());
    deepEqual([whole.currentLevel, whole.nextLevel], ['aal1', 'aal1']);
    deepEqual((await done(again.auth.mfa.listFactors())).all, []);
  },

  /** Has forgotten the password, and follows the link of a mail. */
  async recoveryByLink() {
    const ada = await person('ada');
    const page = visitor();
    const events = eventsOf(page);
    await done(page.auth.resetPasswordForEmail(ada.email, { redirectTo: FRONT_END }));
    const { link } = await mailTo(ada.email);
    const found = await follow(link);
    equal(found.type, 'recovery');
    equal((await follow(link)).error_code, 'otp_expired'); // it worked once
    await done(page.auth.setSession(found));
    await done(page.auth.updateUser({ password: NEW_PASSWORD }));
    deepEqual(events, ['SIGNED_IN', 'USER_UPDATED']);
    await done(page.auth.signInWithPassword({ email: ada.email, password: NEW_PASSWORD }));
  },

  /** Has forgotten the password, and types the six digits of a mail. */
  async recoveryByCode() {
    const ada = await person('ada');
    const app = visitor();
    const events = eventsOf(app);
    await done(app.auth.resetPasswordForEmail(ada.email));
    const { code } = await mailTo(ada.email);
    const proof = { email: ada.email, token: code, type: 'recovery' };
    await refused('otp_expired', app.auth.verifyOtp({ ...proof, token: otherThan(code) }));
    await done(app.auth.verifyOtp(proof));
    await refused('otp_expired', app.auth.verifyOtp(proof));
    await done(app.auth.updateUser({ password: NEW_PASSWORD }));
    deepEqual(events, ['PASSWORD_RECOVERY', 'USER_UPDATED']);

    // Whether an address has an account is nobody's business, so the answer is the same.
    await done(app.auth.resetPasswordForEmail(address('nobody')));
  },

  /** Uses a client whose links are bound to it (PKCE): they lead to a code, not to a session. */
  async boundLink() {
    const ada = await person('ada');
    const page = visitor({ flowType: 'pkce' });
    const events = eventsOf(page);
    await done(page.auth.resetPasswordForEmail(ada.email, { redirectTo: FRONT_END }));
    const found = await follow((await mailTo(ada.email)).link);
    equal(found.access_token, undefined);
    // Whoever else reads along has no use for the code.
    const { error } = await visitor({ flowType: 'pkce' }).auth.exchangeCodeForSession(found.code);
    equal(error.name, 'AuthPKCECodeVerifierMissingError');
    const exchanged = await done(page.auth.exchangeCodeForSession(found.code));
    equal(exchanged.user.id, ada.id);
    equal(exchanged.redirectType, 'recovery');
    deepEqual(events, ['PASSWORD_RECOVERY']);

    const email = address('newcomer');
    const options = { emailRedirectTo: FRONT_END };
    await done(page.auth.signUp({ email, password: PASSWORD, options }));
    const { code } = await follow((await mailTo(email)).link);
    equal((await done(page.auth.exchangeCodeForSession(code))).user.email, email);
    await refused('validation_failed', visitor().auth.exchangeCodeForSession(code));
  },

  /** Logs in without a password: by link, by code, and as somebody who had no account. */
  async magicLink() {
    const ada = await person('ada');
    const page = visitor();
    const options = { emailRedirectTo: FRONT_END, shouldCreateUser: false };
    await done(page.auth.signInWithOtp({ email: ada.email, options }));
    const found = await follow((await mailTo(ada.email)).link);
    equal(found.type, 'magiclink');
    equal((await done(page.auth.setSession(found))).user.id, ada.id);

    await done(page.auth.signInWithOtp({ email: ada.email }));
    const { code } = await mailTo(ada.email);
    equal((await done(page.auth.verifyOtp({ email: ada.email, token: code, type: 'email' }))).user.id, ada.id);
    const level = await done(page.auth.mfa.getAuthenticatorAssuranceLevel());
    deepEqual(level.currentAuthenticationMethods.map((entry) => entry.method), ['otp']);

    const email = address('newcomer');
    await done(page.auth.signInWithOtp({ email, options: { data: { organization: 'New Ltd' } } }));
    await done(page.auth.verifyOtp({ email, token: (await mailTo(email)).code, type: 'magiclink' }));
    deepEqual(await done(page.from('organizations').select('name')), [{ name: 'New Ltd' }]);
  },

  /** Changes the address, to which both the old and the new one have to agree. */
  async newAddress() {
    const ada = await person('ada');
    const email = address('countess');
    const { user } = await done(ada.auth.updateUser({ email }, { emailRedirectTo: FRONT_END }));
    deepEqual([user.email, user.new_email], [ada.email, email]);
    const half = await follow((await mailTo(ada.email)).link);
    ok(half.message.startsWith('Confirmation link accepted'));
    equal((await me(ada.client)).email, ada.email);
    const whole = await follow((await mailTo(email)).link);
    equal(whole.type, 'email_change');
    await done(ada.auth.setSession(whole));
    equal((await me(ada.client)).email, email);
    await done(ada.auth.signInWithPassword({ email, password: PASSWORD }));

    // The same with codes, of which the first is answered with half a yes; and with a mail that did not come.
    const third = address('duchess');
    await done(ada.auth.updateUser({ email: third }));
    await Promise.all([mailTo(email), mailTo(third)]);
    await done(ada.auth.resend({ type: 'email_change', email }));
    let code = (await mailTo(third)).code;
    const answer = await done(ada.auth.verifyOtp({ email: third, token: code, type: 'email_change' }));
    deepEqual([answer.session, answer.user], [null, null]);
    code = (await mailTo(email)).code;
    const { user: changed } = await done(ada.auth.verifyOtp({ email, token: code, type: 'email_change' }));
    equal(changed.email, third);
  },

  /** Asks once more for a mail that did not come; the link of the first one is void. */
  async resentMail() {
    const ada = visitor();
    const email = address('ada');
    const options = { emailRedirectTo: FRONT_END };
    await done(ada.auth.signUp({ email, password: PASSWORD, options }));
    const first = await mailTo(email);
    await done(ada.auth.resend({ type: 'signup', email, options }));
    const second = await mailTo(email);
    equal((await follow(first.link)).error_code, 'otp_expired');
    await done(ada.auth.setSession(await follow(second.link)));
    equal((await me(ada)).email, email);
  },

  /** Ends this session, the others, or all of them. */
  async logOuts() {
    const ada = await person('ada');
    const devices = [ada.client, visitor(), visitor(), visitor()];
    for (const device of devices.slice(1)) {
      await done(device.auth.signInWithPassword({ email: ada.email, password: PASSWORD }));
    }
    const tokens = await Promise.all(devices.map(token));
    const stillIn = () => Promise.all(
      tokens.map(async (each) => !(await visitor().auth.getUser(each)).error),
    );
    await done(devices[0].auth.signOut({ scope: 'local' }));
    deepEqual(await stillIn(), [false, true, true, true]);
    await done(devices[1].auth.signOut({ scope: 'others' }));
    deepEqual(await stillIn(), [false, true, false, false]);
    ok(await token(devices[1]));
    await done(devices[1].auth.signOut({ scope: 'global' }));
    deepEqual(await stillIn(), [false, false, false, false]);
    await done(devices[2].auth.signOut()); // ended already, which is no error
  },

  /** Comes back to an app that kept the session, which is refreshed when it is time. */
  async comingBack() {
    const ada = await person('ada');
    const kept = new Map();
    const storage = {
      getItem: (name) => kept.get(name) ?? null,
      setItem: (name, text) => kept.set(name, text),
      removeItem: (name) => kept.delete(name),
    };
    const lasts = (seconds) => {
      for (const [name, text] of kept) {
        kept.set(name, JSON.stringify({ ...JSON.parse(text), expires_at: Math.floor(Date.now() / 1000) + seconds }));
      }
    };
    let app = visitor({ storage });
    await done(app.auth.signInWithPassword({ email: ada.email, password: PASSWORD }));
    const first = (await done(app.auth.getSession())).session;
    await app.auth.stopAutoRefresh();

    // Overdue: it is the first thing that the app does.
    lasts(-60);
    app = visitor({ storage });
    const second = (await done(app.auth.getSession())).session;
    notEqual(second.refresh_token, first.refresh_token);

    // Nearly: it is done beside everything else.
    const events = eventsOf(app);
    lasts(60);
    await app.auth.startAutoRefresh();
    for (let rounds = 0; rounds < 500 && !events.length; rounds++) await sleep(20);
    deepEqual(events, ['TOKEN_REFRESHED']);
    const third = (await done(app.auth.getSession())).session;
    notEqual(third.refresh_token, second.refresh_token);

    // Two tabs that ask at once are given the same.
    const tabs = await Promise.all([visitor(), visitor()].map((tab) => done(tab.auth.refreshSession(third))));
    equal(tabs[0].session.refresh_token, tabs[1].session.refresh_token);

    // A refresh token that was used before the last one is somebody else's by now.
    await refused('refresh_token_already_used', visitor().auth.refreshSession(first));
    await refused('refresh_token_not_found', visitor().auth.refreshSession(third));
    await ended(app.auth.getUser());
    deepEqual(events, ['TOKEN_REFRESHED', 'SIGNED_OUT']);
  },

  /** Reads what the access token says, once its signature is checked: by the server, or by its public key. */
  async claims() {
    const ada = await person('ada');
    const asked = [];
    const listening = (...request) => {
      asked.push(new URL(request[0]).pathname);
      return fetch(...request);
    };
    const app = visitor({}, { fetch: listening });
    await done(app.auth.signInWithPassword({ email: ada.email, password: PASSWORD }));
    asked.length = 0;
    await done(app.auth.getClaims());
    const { claims, header } = await done(app.auth.getClaims());
    equal(claims.iss, `${URL_}/auth/v1`);
    deepEqual([claims.sub, claims.role, claims.aal], [ada.id, 'authenticated', 'aal1']);
    equal(claims.app_metadata.role, 'admin');
    deepEqual(claims.user_metadata, { name: 'Ada', organization: 'Ada Ltd' });
    deepEqual(asked, header.alg === 'ES256'
      ? ['/auth/v1/.well-known/jwks.json']
      : ['/auth/v1/user', '/auth/v1/user']);
    console.log(header.alg);
  },

  /** Is not a person but a back end: makes accounts, finds, changes, bans and deletes them. */
  async administration() {
    const { admin } = backEnd().auth;
    const email = address('ada');
    const { user: made } = await done(admin.createUser({
      email, password: PASSWORD, email_confirm: true, user_metadata: { name: 'Ada', organization: 'Ada Ltd' },
    }));
    const { organization_id } = made.app_metadata;
    const { user: agent } = await done(admin.createUser({
      email: address('agent'), email_confirm: true, app_metadata: { organization_id, role: 'agent' },
    }));
    equal(agent.app_metadata.role, 'agent');
    await refused('email_exists', admin.createUser({ email: email.toUpperCase(), password: PASSWORD }));

    // Other people may come in meanwhile, so the pages are walked until both have been seen.
    const everybody = new Set();
    // The client knows the next page too (nextPage), but of its number the first digit alone.
    for (let page = 1, size = 100; size === 100; page++) {
      const { users } = await done(admin.listUsers({ page, perPage: 100 }));
      users.forEach((user) => everybody.add(user.id));
      size = users.length;
    }
    ok(everybody.has(made.id) && everybody.has(agent.id));
    const small = await done(admin.listUsers({ page: 1, perPage: 1 }));
    deepEqual([small.users.length, small.nextPage], [1, 2]);
    ok(small.total >= 2);
    ok((await done(admin.listUsers())).users.length <= 50);

    equal((await done(admin.getUserById(made.id))).user.email, email);
    await refused('user_not_found', admin.getUserById('00000000-0000-4000-8000-000000000000'));
    const changes = { password: NEW_PASSWORD, user_metadata: { title: 'Countess' } };
    const { user: changed } = await done(admin.updateUserById(made.id, changes));
    deepEqual(changed.user_metadata, { name: 'Ada', organization: 'Ada Ltd', title: 'Countess' });
    const ada = visitor();
    await done(ada.auth.signInWithPassword({ email, password: NEW_PASSWORD }));

    await done(admin.updateUserById(made.id, { ban_duration: '24h' }));
    await ended(ada.auth.getUser());
    await refused('user_banned', ada.auth.signInWithPassword({ email, password: NEW_PASSWORD }));
    await done(admin.updateUserById(made.id, { ban_duration: 'none' }));
    await done(ada.auth.signInWithPassword({ email, password: NEW_PASSWORD }));

    const { id } = await done(ada.auth.mfa.enroll({ factorType: 'totp', friendlyName: 'Lost' }));
    deepEqual((await done(admin.mfa.listFactors({ userId: made.id }))).factors.map((factor) => factor.id), [id]);
    await done(admin.mfa.deleteFactor({ userId: made.id, id }));
    deepEqual((await done(admin.mfa.listFactors({ userId: made.id }))).factors, []);

    equal((await admin.signOut(await token(ada))).error, null);
    await ended(ada.auth.getUser());
    await done(admin.deleteUser(agent.id));
    await refused('user_not_found', admin.getUserById(agent.id));
    await done(admin.deleteUser(made.id, true));
    await refused('invalid_credentials', ada.auth.signInWithPassword({ email, password: NEW_PASSWORD }));

    // Nobody else may do any of it.
    await refused('not_admin', visitor().auth.admin.listUsers());
  },

  /** Is invited by a back end, and chooses the password. */
  async invitation() {
    const { admin } = backEnd().auth;
    const { organization_id } = (await me((await person('ada')).client)).app_metadata;
    const email = address('grace');
    const options = { data: { name: 'Grace', organization_id }, redirectTo: FRONT_END };
    ok((await done(admin.inviteUserByEmail(email, options))).user.invited_at);
    const grace = visitor();
    const found = await follow((await mailTo(email)).link);
    equal(found.type, 'invite');
    await done(grace.auth.setSession(found));
    await done(grace.auth.updateUser({ password: PASSWORD }));
    await done(grace.auth.signInWithPassword({ email, password: PASSWORD }));
    equal((await me(grace)).app_metadata.organization_id, organization_id);
    await refused('email_exists', admin.inviteUserByEmail(email));
  },

  /** Gets the link from a back end that sends its own mail. */
  async generatedLinks() {
    const { admin } = backEnd().auth;
    const email = address('ada');
    const options = { data: { name: 'Ada' }, redirectTo: FRONT_END };
    const signup = await done(admin.generateLink({ type: 'signup', email, password: PASSWORD, options }));
    equal(signup.user.email, email);
    equal(signup.properties.verification_type, 'signup');
    equal((await follow(signup.properties.action_link)).type, 'signup');
    const ada = visitor();
    await done(ada.auth.signInWithPassword({ email, password: PASSWORD }));

    const { properties: magic } = await done(admin.generateLink({ type: 'magiclink', email }));
    const byHash = { token_hash: magic.hashed_token, type: 'email' };
    equal((await done(visitor().auth.verifyOtp(byHash))).user.email, email);
    const { properties: recovery } = await done(admin.generateLink({ type: 'recovery', email }));
    const byCode = { email, token: recovery.email_otp, type: 'recovery' };
    equal((await done(visitor().auth.verifyOtp(byCode))).user.email, email);

    const newEmail = address('countess');
    for (const type of ['email_change_current', 'email_change_new']) {
      const { properties } = await done(admin.generateLink({ type, email, newEmail }));
      await done(visitor().auth.verifyOtp({ token_hash: properties.hashed_token, type: 'email_change' }));
    }
    equal((await me(ada)).email, newEmail);
    await refused('user_not_found', admin.generateLink({ type: 'recovery', email: address('nobody') }));
  },

  /** Does what does not work, and is told so in the client's own classes. */
  async mistakes() {
    const ada = await person('ada');
    const { auth } = visitor();
    for (const [password, reason] of [['short', 'length'], ['password123', 'pwned']]) {
      const { error } = await auth.signUp({ email: address('weak'), password });
      ok(error instanceof AuthWeakPasswordError, error?.name);
      deepEqual([error.status, error.reasons], [422, [reason]]);
    }
    const { error } = await auth.signInWithPassword({ email: ada.email, password: NEW_PASSWORD });
    ok(error instanceof AuthApiError);
    deepEqual([error.status, error.code, error.message], [400, 'invalid_credentials', 'Invalid login credentials']);
    await ended(auth.getUser());
    await ended(auth.updateUser({ data: {} }));
    await ended(auth.refreshSession());
    await ended(auth.reauthenticate());
    await refused('validation_failed', auth.signUp({ email: 'no address', password: PASSWORD }));
    await refused('bad_jwt', auth.getUser('no.jwt.atall'));
    await refused('anonymous_provider_disabled', auth.signInAnonymously());
    await refused('phone_provider_disabled', auth.signInWithPassword({ phone: '+15550100', password: PASSWORD }));

    // Who has an account signs up again: the answer is that of a newcomer, and the owner is told.
    const { user, session } = await done(auth.signUp({ email: ada.email, password: NEW_PASSWORD }));
    deepEqual([user.identities, session], [[], null]);
    equal((await mailTo(ada.email)).subject, 'You already have an account');
    await refused('invalid_credentials', auth.signInWithPassword({ email: ada.email, password: NEW_PASSWORD }));
  },
};

for (const name of NAMES.length ? NAMES : Object.keys(stories)) {
  await stories[name]();
  console.log(`${name}: as told`);
}
