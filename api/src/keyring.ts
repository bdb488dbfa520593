/**
 * API keys in the store: `keys/<id>.json` says whose a key is and the hash of its secret, `keys/<id>.revoked` that it is no
 * longer good, and `tenants/<tenant>/keys/<id>` is there to list them. A key is `cq_<id>_<secret>`; the secret itself is
 * nowhere but with whom it was given to.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { ulid } from 'ulid';
import { z } from 'zod';
import { keySchema, keyScopes, type CreatedKey, type Key, type KeyScope, type Page } from 'cherryq/contract';
import { decodeJson, encodeJson } from './job-log.ts';
import { listNames } from './list-keys.ts';
import type { Caller, Clock, Keys, Store } from './ports.ts';
import { ProblemError } from './problems.ts';

const recordSchema = keySchema.omit({ object: true, revokedAt: true }).extend({
  tenant: z.string(),
  /** SHA-256, hexadecimal. The secret has 256 random bits, so a slow hash would add nothing. */
  hash: z.string(),
});
type KeyRecord = z.infer<typeof recordSchema>;

/** A revoked key may still be taken for so long by a process that knew it. */
const knownForMs = 10_000;

export interface Keyring {
  /** @param secret `cq_<id>_<secret>`   @throws ProblemError (401) */
  authenticate(secret: string): Promise<Caller>;
  create(tenant: string, request: { name: string; scope: KeyScope }): Promise<CreatedKey>;
  /** Oldest first, revoked ones too. */
  list(tenant: string): Promise<Page<Key>>;
  /** Again is fine.  @throws ProblemError (404) */
  revoke(tenant: string, id: string): Promise<Key>;
  /** Whether any key was ever made. */
  any(): Promise<boolean>;
}

export function createKeyring({ store, clock }: { store: Store; clock: Clock }): Keyring {
  const known = new LRUCache<string, KeyRecord>({ max: 1000, ttl: knownForMs });
  const recordKey = (id: string): string => `keys/${id}.json`;
  const revokedKey = (id: string): string => `keys/${id}.revoked`;
  const listPrefix = (tenant: string): string => `tenants/${tenant}/keys/`;

  async function read(id: string): Promise<KeyRecord | null> {
    const body = await store.get(recordKey(id));
    return body && recordSchema.parse(decodeJson(body));
  }

  async function readValid(id: string): Promise<KeyRecord | null> {
    const cached = known.get(id);
    if (cached !== undefined) return cached;
    const [record, revoked] = await Promise.all([read(id), store.head(revokedKey(id))]);
    if (record === null || revoked !== null) return null;
    known.set(id, record);
    return record;
  }

  async function view({ id, name, scope, createdAt }: KeyRecord): Promise<Key> {
    const revoked = await store.get(revokedKey(id));
    const revokedAt = revoked && z.object({ time: z.iso.datetime() }).parse(decodeJson(revoked)).time;
    return { object: 'key', id, name, scope, createdAt, revokedAt };
  }

  return {
    async authenticate(given) {
      const [, id, secret] = /^cq_([0-9A-HJKMNP-TV-Z]{26})_([\w-]{43})$/.exec(given) ?? [];
      const record = id === undefined ? null : await readValid(id);
      const hash = Buffer.from(sha256(secret ?? ''), 'hex');
      if (record === null || !timingSafeEqual(hash, Buffer.from(record.hash, 'hex')))
        throw new ProblemError('unauthorized', 'the API key is not known here, or was revoked; make another one', {
          param: 'Authorization',
          headers: { 'WWW-Authenticate': 'Bearer error="invalid_token"' },
        });
      return { tenant: record.tenant, scope: record.scope };
    },

    async create(tenant, { name, scope }) {
      const id = ulid(clock.now());
      const secret = randomBytes(32).toString('base64url');
      const createdAt = new Date(clock.now()).toISOString();
      const record: KeyRecord = { id, tenant, name, scope, createdAt, hash: sha256(secret) };
      // First what lists it, so that no key is good that nobody sees.
      await store.put(listPrefix(tenant) + id, new Uint8Array());
      await store.put(recordKey(id), encodeJson(record), { onlyIfAbsent: true });
      return { ...(await view(record)), secret: `cq_${id}_${secret}` };
    },

    async list(tenant) {
      const data: Key[] = [];
      for await (const id of listNames(store, listPrefix(tenant))) {
        const record = await read(id);
        if (record !== null) data.push(await view(record));
      }
      return { object: 'list', data, hasMore: false, next: null };
    },

    async revoke(tenant, id) {
      const record = await read(id);
      if (record?.tenant !== tenant)
        throw new ProblemError('not_found', `there is no key ${id}; GET /v1/keys lists them`, { param: 'id' });
      const time = new Date(clock.now()).toISOString();
      await store.put(revokedKey(id), encodeJson({ time }), { onlyIfAbsent: true });
      known.delete(id);
      return view(record);
    },

    any: async () => (await store.list('keys/', { limit: 1 })).length > 0,
  };
}

/** Every request must bring a key. */
export function keyringKeys(keyring: Keyring): Keys {
  return {
    authenticate(request) {
      const given = keyOf(request);
      return given === null ? Promise.reject(keyRequired()) : keyring.authenticate(given);
    },
  };
}

/** The key that a request brings; null when it brings none. */
export function keyOf(request: Request): string | null {
  const bearer = /^Bearer\s+(.+)$/i.exec(request.headers.get('authorization') ?? '')?.[1];
  return request.headers.get('x-api-key') ?? bearer ?? null;
}

function keyRequired(): ProblemError {
  return new ProblemError(
    'unauthorized',
    'an API key is needed here, as Authorization: Bearer cq_...; whoever runs this server makes one with `cherryq keys create`',
    { param: 'Authorization', headers: { 'WWW-Authenticate': 'Bearer' } },
  );
}

/** @throws ProblemError (403) unless the caller's key may do this */
export function checkScope({ scope }: Caller, needed: KeyScope): void {
  if (keyScopes.indexOf(scope) >= keyScopes.indexOf(needed)) return;
  throw new ProblemError(
    'forbidden',
    `this needs a key of the scope ${needed}; the key that was given has ${scope}. Whoever holds an admin key can make one`,
    { param: 'Authorization' },
  );
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
