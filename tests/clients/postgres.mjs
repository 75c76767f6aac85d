// node-postgres and postgres.js through the Postgres door. Prints one line for each check.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.env.NODE_MODULES, 'x.js'));
const pg = require('pg');
const postgres = require('postgres');

const connection = {
  host: process.env.DOORWARD_HOST,
  port: Number(process.env.DOORWARD_PORT),
  user: 'any',
  database: 'shop',
  password: process.env.DOORWARD_TOKEN,
};
// A busy machine takes its time.
const PATIENCE_MS = 90_000;
const within = (promise, what) =>
  Promise.race([
    promise,
    new Promise((_, reject) => setTimeout(() => reject(new Error(what)), PATIENCE_MS).unref()),
  ]);

async function withClient(work) {
  const client = new pg.Client(connection);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

const nodePostgres = {
  parameters: () =>
    withClient(async (client) => {
      const { rows } = await client.query('select customer from orders where id = any($1) order by id', [[2, 4]]);
      assert.deepEqual(rows, [{ customer: 'customer 2' }, { customer: 'customer 4' }]);
      // Without parameters it is the simple protocol, and several statements are several results.
      const results = await client.query("select 1 as one; select 'two' as two");
      assert.equal(results[1].rows[0].two, 'two');
    }),
  prepared: () =>
    withClient(async (client) => {
      for (let n = 1; n <= 5; n++) {
        const { rows } = await client.query({ name: 'by-id', text: 'select id from orders where id = $1', values: [n] });
        assert.equal(rows[0].id, n);
      }
    }),
  binary: () =>
    withClient(async (client) => {
      const { rows } = await client.query({ text: 'select id, true as yes from orders where id = $1', values: [7], binary: true });
      assert.deepEqual(rows, [{ id: 7, yes: true }]);
      const bytes = Buffer.from([0, 255, 39]);
      assert.deepEqual((await client.query('select $1::bytea as b', [bytes])).rows[0].b, bytes);
    }),
  transactions: () =>
    withClient(async (client) => {
      await client.query('begin');
      const { rowCount } = await client.query('insert into orders (customer) values ($1), ($2)', ['a', 'b']);
      assert.equal(rowCount, 2);
      await client.query('rollback');
      const { rows } = await client.query("select count(*)::int as n from orders where customer in ('a', 'b')");
      assert.equal(rows[0].n, 0);
    }),
  refusals: () =>
    withClient(async (client) => {
      await assert.rejects(client.query('select word from secrets'), (error) => {
        assert.equal(error.code, '42501');
        assert.match(error.detail, /no-secrets/);
        assert.ok(error.hint);
        return true;
      });
      await assert.rejects(client.query('select word from secrets where id = $1', [1]), { code: '42501' });
      assert.equal((await client.query('select 1 as one')).rows[0].one, 1);
    }),
  many_at_once: async () => {
    const pool = new pg.Pool({ ...connection, max: 4 });
    const all = await Promise.all(Array.from({ length: 60 }, (_, n) => pool.query('select $1::int + 1 as n', [n])));
    assert.deepEqual(all.map(({ rows }) => rows[0].n), Array.from({ length: 60 }, (_, n) => n + 1));
    await pool.end();
  },
  notifications: () =>
    withClient(async (client) => {
      const heard = new Promise((resolve) => client.once('notification', resolve));
      await client.query('listen news');
      await withClient((other) => other.query("notify news, 'from node'"));
      assert.equal((await within(heard, 'nothing was heard')).payload, 'from node');
    }),
  large_values: () =>
    withClient(async (client) => {
      const { rows } = await client.query('select length($1::text) as n, repeat($2, 2000000) as long', ['z'.repeat(3_000_000), 'y']);
      assert.equal(rows[0].n, 3_000_000);
      assert.equal(rows[0].long.length, 2_000_000);
    }),
};

const sql = postgres({ ...connection, max: 3, onnotice: () => {} });

const postgresJs = {
  templates: async () => {
    const rows = await sql`select customer from orders where id in ${sql([1, 3])} order by id`;
    assert.deepEqual(rows.map((row) => row.customer), ['customer 1', 'customer 3']);
    const [{ n }] = await sql`select count(*)::int as n from ${sql('orders')} where id < ${5}`;
    assert.equal(n, 4);
  },
  pipelined: async () => {
    const all = await Promise.all(Array.from({ length: 80 }, (_, n) => sql`select ${n}::int + 1 as n`));
    assert.deepEqual(all.map((rows) => rows[0].n), Array.from({ length: 80 }, (_, n) => n + 1));
  },
  begin: async () => {
    await assert.rejects(
      sql.begin(async (tx) => {
        await tx`insert into orders ${tx({ customer: 'from postgres.js' })}`;
        await tx.savepoint((inner) => inner`select word from secrets`).catch((error) => assert.equal(error.code, '42501'));
        const [{ n }] = await tx`select count(*)::int as n from orders where customer = 'from postgres.js'`;
        assert.equal(n, 1);
        throw new Error('taken back');
      }),
      /taken back/,
    );
  },
  cursors_and_copies: async () => {
    let read = 0;
    for await (const rows of sql`select n from big`.cursor(700)) read += rows.length;
    assert.equal(read, 3000);
    const stream = await sql`copy orders (customer) from stdin`.writable();
    await new Promise((resolve, reject) => {
      stream.on('error', reject).on('finish', resolve);
      for (let n = 0; n < 300; n++) stream.write(`copied by node ${n}\n`);
      stream.end();
    });
    const out = await sql`copy (select customer from orders where customer like 'copied by node%') to stdout`.readable();
    let bytes = 0;
    for await (const piece of out) bytes += piece.length;
    assert.ok(bytes > 300 * 15, `${bytes}`);
    const gone = await sql`delete from orders where customer like 'copied by node%'`;
    assert.equal(gone.count, 300);
  },
  listens: async () => {
    let told;
    const heard = new Promise((resolve) => (told = resolve));
    const { unlisten } = await sql.listen('news', told);
    await sql`notify news, 'from postgres.js'`;
    assert.equal(await within(heard, 'nothing was heard'), 'from postgres.js');
    await unlisten();
  },
  cancels: async () => {
    const query = sql`select count(*) from big a, big b, big c`;
    setTimeout(() => query.cancel(), 300);
    await assert.rejects(within(query, 'not cancelled'), { code: '57014' });
    assert.equal((await sql`select 1 as one`)[0].one, 1);
  },
};

for (const [of, checks] of Object.entries({ 'node-postgres': nodePostgres, 'postgres.js': postgresJs })) {
  for (const [name, check] of Object.entries(checks)) {
    await check();
    console.log(`ok ${of} ${name}`);
  }
}
await sql.end();
