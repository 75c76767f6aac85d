// Drives the REST door with @supabase/postgrest-js, unchanged, over the demo's data (demo/load.sql).
//
// environment: DOORWARD_URL    the resource's URL: http://127.0.0.1:8080/air
//              DOORWARD_ADMIN, DOORWARD_ANALYST, DOORWARD_SUPPORT   bearer tokens
//              NODE_MODULES    where the npm packages are
// Prints one line for each check and "N passed, N failed" last; exits 1 when one failed.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const need = (name) => process.env[name] ?? assert.fail(`${name} is not set`);
const require = createRequire(`${need('NODE_MODULES')}/`);
const { PostgrestClient } = require('@supabase/postgrest-js');

const as = (token) => new PostgrestClient(need('DOORWARD_URL'), { headers: { Authorization: `Bearer ${token}` } });
const admin = as(need('DOORWARD_ADMIN'));
const analyst = as(need('DOORWARD_ANALYST'));
const support = as(need('DOORWARD_SUPPORT'));
const stranger = new PostgrestClient(need('DOORWARD_URL'));

let passed = 0;
let failed = 0;

async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`not ok ${name}\n  ${String(error.message).replaceAll('\n', '\n  ')}`);
  }
}

// The answer's data, with its error shown when there is one.
async function data(query) {
  const answer = await query;
  assert.equal(answer.error, null, JSON.stringify(answer.error));
  return answer.data;
}

async function refused(query, status) {
  const answer = await query;
  assert.equal(answer.status, status, JSON.stringify(answer));
  assert.ok(answer.error?.code && answer.error?.message, JSON.stringify(answer.error));
  return answer.error;
}

const codes = (rows) => rows.map((row) => row.iata);

await check('select with chosen columns and a filter', async () => {
  const rows = await data(analyst.from('airports').select('iata,name').eq('iata', 'SFO'));
  assert.deepEqual(rows, [{ iata: 'SFO', name: 'San Francisco International' }]);
});

await check('alias and cast', async () => {
  const rows = await data(analyst.from('airports').select('code:iata,lat:latitude::text').eq('iata', 'SFO'));
  assert.equal(rows[0].code, 'SFO');
  assert.equal(typeof rows[0].lat, 'string');
});

await check('order, limit and range', async () => {
  const query = () => admin.from('airports').select('iata').eq('state', 'CA').order('iata', { ascending: false });
  const first = codes(await data(query().limit(5)));
  assert.equal(first.length, 5);
  assert.deepEqual(first, [...first].sort().reverse());
  assert.deepEqual(codes(await data(query().range(2, 4))), first.slice(2, 5));
});

await check('comparison operators', async () => {
  const query = admin.from('flights').select('delay,distance').gt('delay', 60).lte('distance', 500).gte('distance', 100);
  const rows = await data(query.limit(50));
  assert.ok(rows.length > 0);
  assert.ok(rows.every((row) => row.delay > 60 && row.distance <= 500 && row.distance >= 100));
});

await check('in, neq and not', async () => {
  const rows = await data(admin.from('airports').select('iata').in('iata', ['SFO', 'LAX', 'JFK']).neq('iata', 'JFK').order('iata'));
  assert.deepEqual(codes(rows), ['LAX', 'SFO']);
  const others = await data(admin.from('airports').select('iata').in('iata', ['SFO', 'LAX']).not('iata', 'eq', 'LAX'));
  assert.deepEqual(codes(others), ['SFO']);
});

await check('like, ilike and is', async () => {
  const rows = await data(admin.from('airports').select('iata').like('name', 'San Francisco%').order('iata'));
  assert.ok(codes(rows).includes('SFO'));
  assert.deepEqual(codes(await data(admin.from('airports').select('iata').ilike('name', 'san francisco int%'))), ['SFO']);
  assert.ok((await data(admin.from('airports').select('iata').is('state', null).limit(5))).length > 0);
});

await check('or, and nested logic', async () => {
  const rows = await data(admin.from('airports').select('iata').or('iata.eq.SFO,and(state.eq.NY,iata.eq.JFK)').order('iata'));
  assert.deepEqual(codes(rows), ['JFK', 'SFO']);
});

await check('values with reserved characters', async () => {
  const name = 'A "quoted", (odd) \\ name: 100%';
  await data(admin.from('airports').insert({ iata: 'ZZ0', name, country: 'Nowhere', latitude: 0, longitude: 0 }));
  assert.deepEqual(codes(await data(admin.from('airports').select('iata').eq('name', name))), ['ZZ0']);
  // The library quotes members of a list for commas and parentheses, and leaves quotes in them as they are.
  await data(admin.from('airports').update({ name: 'Odd (one), 100%' }).eq('iata', 'ZZ0'));
  assert.deepEqual(codes(await data(admin.from('airports').select('iata').in('name', ['Odd (one), 100%', 'x,y']))), ['ZZ0']);
  await data(admin.from('airports').delete().eq('iata', 'ZZ0'));
});

await check('insert one row and many, update, delete', async () => {
  const airport = (iata) => ({ iata, name: 'Test field', country: 'Nowhere', latitude: 1.5, longitude: -2 });
  const one = await admin.from('airports').insert(airport('ZZ1'));
  assert.equal(one.status, 201, JSON.stringify(one));
  assert.equal(one.data, null);
  const many = await data(admin.from('airports').insert([airport('ZZ2'), airport('ZZ3')]).select('iata'));
  assert.deepEqual(codes(many), ['ZZ2', 'ZZ3']);
  const changed = await data(admin.from('airports').update({ city: 'Erewhon' }).in('iata', ['ZZ1', 'ZZ2']).select('iata,city').order('iata'));
  assert.deepEqual(changed, [{ iata: 'ZZ1', city: 'Erewhon' }, { iata: 'ZZ2', city: 'Erewhon' }]);
  const gone = await admin.from('airports').delete().like('iata', 'ZZ%');
  assert.equal(gone.status, 204, JSON.stringify(gone));
  assert.deepEqual(await data(admin.from('airports').select().like('iata', 'ZZ%')), []);
});

await check('functions by POST and by GET', async () => {
  const posted = await data(admin.rpc('busiest_routes', { airport: 'SFO', at_most: 3 }));
  assert.equal(posted.length, 3);
  assert.ok(posted[0].flights >= posted[1].flights);
  const got = await data(admin.rpc('busiest_routes', { airport: 'SFO', at_most: 3 }, { get: true }));
  assert.deepEqual(got, posted);
});

await check('row-level security narrows the same question', async () => {
  const all = await data(admin.from('support_tickets').select('assignee'));
  const own = await data(support.from('support_tickets').select('assignee'));
  assert.equal(all.length, 60);
  assert.equal(own.length, 20);
  assert.ok(own.every((row) => row.assignee === 'sam@example.com'));
});

await check('a refusal says which rule and what to do', async () => {
  const error = await refused(analyst.from('airports').insert({ iata: 'ZZ9' }), 403);
  assert.ok(error.hint, JSON.stringify(error));
  await refused(analyst.from('bookings').select(), 403);
  await refused(admin.from('flights').delete().eq('id', 1), 403);
});

await check('a stranger and a forged token are refused', async () => {
  const answer = await stranger.from('airports').select();
  assert.ok([401, 403].includes(answer.status), JSON.stringify(answer));
  await refused(as('not-a-token').from('airports').select(), 401);
});

await check("the database's own words come through", async () => {
  const twice = { iata: 'SFO', name: 'Again', country: 'USA', latitude: 0, longitude: 0 };
  assert.equal((await refused(admin.from('airports').insert(twice), 409)).code, '23505');
  await refused(admin.from('airports').select('iata').eq('latitude', 'north'), 400);
});

await check('unknown tables and columns', async () => {
  await refused(admin.from('nothing_here').select(), 404);
  await refused(admin.from('airports').select('nothing'), 400);
});

console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
