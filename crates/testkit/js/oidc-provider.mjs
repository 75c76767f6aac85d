// Runs npm's oidc-provider as an issuer of JWT access tokens by client credentials.
// usage: node oidc-provider.mjs NODE_MODULES PORT AUDIENCE ALG
// Prints "ready" once it listens. Tokens carry the groups of the client that asked.

import { generateKeyPair, randomUUID } from 'node:crypto';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const [modules, port, audience, alg] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

const KINDS = {
  ES256: ['ec', { namedCurve: 'P-256' }],
  RS256: ['rsa', { modulusLength: 2048 }],
  EdDSA: ['ed25519', {}],
};
const keys = [];
for (const [name, [type, options]] of Object.entries(KINDS)) {
  const { privateKey } = await promisify(generateKeyPair)(type, options);
  keys.push({ ...privateKey.export({ format: 'jwk' }), kid: `${name}-${randomUUID()}`, alg: name, use: 'sig' });
}

const client = (id) => ({
  client_id: id,
  client_secret: `secret-of-${id}`,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  id_token_signed_response_alg: alg,
});
const GROUPS = { analyst: ['analysts'], support: ['support'], pipeline: ['pipelines'] };

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys },
  clients: Object.keys(GROUPS).map(client),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // An indicator is a URI; the audience may be any name.
      defaultResource: () => 'urn:doorward:data',
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        audience,
        scope: 'data',
        accessTokenTTL: 600,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg } },
      }),
    },
  },
  extraTokenClaims: (_ctx, token) => ({ groups: GROUPS[token.clientId] ?? [] }),
});

const server = provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
server.on('error', (error) => {
  console.error(error.message);
  process.exit(1);
});
