/**
 * `cherryq keys`: API keys, straight in the store of a server, so that the first one can be made; or, for who has an admin key,
 * by asking a server.
 */
import { resolve } from 'node:path';
import { createKeySchema, type CreatedKey, type CreateKey, type Key, type Page } from 'cherryq/contract';
import { command, group, UsageError } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { renderTable } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { loadServer } from './packages.ts';
import { defaultDataDir, serverFlags, withServer } from './server.ts';

const json = { type: 'boolean', description: 'Print JSON, nothing else' } as const;
const whereFlags = {
  store: {
    type: 'string',
    valueHint: 'STORE',
    description: `Store of the server: a folder, or s3://bucket/prefix (default ${defaultDataDir})`,
  },
  tenant: {
    type: 'string',
    valueHint: 'NAME',
    description: 'Whose keys; tenants see nothing of each other (default local)',
  },
  server: { ...serverFlags.server, description: 'Ask this server in place of a store; needs a key of the scope admin' },
  profile: { ...serverFlags.profile, description: 'The same for a server that `cherryq login` saved' },
} as const;

export const keysCommand = (io: Io) =>
  group({
    name: 'cherryq keys',
    summary: 'Make, list and revoke API keys, in the store of a server that you run or by asking a server',
    children: { create: create(io), list: list(io), revoke: revoke(io) },
  });

const create = (io: Io) =>
  command({
    name: 'cherryq keys create',
    summary: 'Make an API key; its secret is shown this once',
    examples: ['cherryq keys create --name ci --tenant acme --scope write'],
    args: {
      ...flagsOf(createKeySchema, {
        name: 'For people: where the key is used',
        scope: 'read looks and downloads, write also uploads and runs jobs, admin also makes keys',
      }),
      ...whereFlags,
      json,
    },
    async run(args) {
      const request = parseFlags(createKeySchema, args);
      const key = await withKeys(io, args, (keys) => keys.create(request));
      if (args.json) return printJson(io, key);
      print(io, key.secret);
    },
  });

const list = (io: Io) =>
  command({
    name: 'cherryq keys list',
    summary: 'List API keys, revoked ones too',
    examples: ['cherryq keys list --tenant acme'],
    args: { ...whereFlags, json },
    async run(args) {
      const page = await withKeys(io, args, (keys) => keys.list());
      if (args.json) return printJson(io, page);
      if (page.data.length === 0) return print(io, 'No keys.');
      const rows = page.data.map(({ id, name, scope, createdAt, revokedAt }) => [
        id,
        scope,
        name,
        createdAt,
        revokedAt ?? '',
      ]);
      print(io, renderTable(['id', 'scope', 'name', 'created', 'revoked'], rows, 5));
    },
  });

const revoke = (io: Io) =>
  command({
    name: 'cherryq keys revoke',
    summary: 'Revoke an API key; it is refused within ten seconds',
    examples: ['cherryq keys revoke 01JZ8Q3V5X9Y2W4T6R8P0N1M3K --tenant acme'],
    args: { id: { type: 'positional', required: true, description: 'Id of the key' }, ...whereFlags, json },
    async run(args) {
      const key = await withKeys(io, args, (keys) => keys.revoke(args.id));
      if (args.json) printJson(io, key);
      else print(io, `key ${key.id} (${key.name}) is revoked`);
    },
  });

interface Keys {
  create(request: CreateKey): Promise<CreatedKey>;
  list(): Promise<Page<Key>>;
  revoke(id: string): Promise<Key>;
}

/** @throws UsageError for a store and a server at once */
async function withKeys<Result>(
  io: Io,
  args: { store?: string; tenant?: string; server?: string; profile?: string },
  use: (keys: Keys) => Promise<Result>,
): Promise<Result> {
  const { store, tenant, server, profile } = args;
  if (server === undefined && profile === undefined) {
    const { openTenantKeys } = await loadServer();
    const address = store ?? defaultDataDir;
    return use(openTenantKeys(address.includes('://') ? address : resolve(address), tenant));
  }
  const other = store === undefined ? (tenant === undefined ? null : '--tenant') : '--store';
  if (other !== null)
    throw new UsageError(`${other} is for a store; a server knows by the key whose keys they are`, other);
  return withServer(io, { args: { server, profile }, concurrency: 0 }, ({ client }) => use(client.keys));
}
