// Runs npm's oidc-provider as an issuer of JWT access tokens: by client credentials, and for people who log in with the
// public client `doorward-cli` by a device code or by an authorization code. Its own pages let anybody in.
// usage: node oidc-provider.mjs NODE_MODULES PORT AUDIENCE ALG
// Prints "ready" once it listens. Tokens carry the groups of the client or person that asked.

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
// What people log in with: no secret, codes with PKCE, refresh tokens that are used once.
const PEOPLE = {
  client_id: 'doorward-cli',
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
  redirect_uris: ['http://127.0.0.1/callback'],
  response_types: ['code'],
  id_token_signed_response_alg: alg,
};
const GROUPS = { analyst: ['analysts'], support: ['support'], pipeline: ['pipelines'] };

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys },
  clients: [...Object.keys(GROUPS).map(client), PEOPLE],
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
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
  extraTokenClaims: (_ctx, token) =>
    token.accountId ? { groups: ['analysts'], team: 'blue' } : { groups: GROUPS[token.clientId] ?? [] },
});

const server = provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
server.on('error', (error) => {
  console.error(error.message);
  process.exit(1);
});
