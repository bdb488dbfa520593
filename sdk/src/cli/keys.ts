/** `cherryq keys`: API keys, straight in the store of a server, so that the first one can be made. */
import { resolve } from 'node:path';
import { createKeySchema } from 'cherryq/contract';
import { command, group } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { renderTable } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { loadServer } from './packages.ts';
import { defaultDataDir } from './server.ts';

const json = { type: 'boolean', description: 'Print JSON, nothing else' } as const;
const storeFlags = {
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
} as const;

export const keysCommand = (io: Io) =>
  group({
    name: 'cherryq keys',
    summary: 'Make, list and revoke API keys, in the store of a server that you run',
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
      ...storeFlags,
      json,
    },
    async run(args) {
      const key = await (await open(args)).create(parseFlags(createKeySchema, args));
      if (args.json) return printJson(io, key);
      print(io, key.secret);
    },
  });

const list = (io: Io) =>
  command({
    name: 'cherryq keys list',
    summary: 'List API keys, revoked ones too',
    examples: ['cherryq keys list --tenant acme'],
    args: { ...storeFlags, json },
    async run(args) {
      const page = await (await open(args)).list();
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
    args: { id: { type: 'positional', required: true, description: 'Id of the key' }, ...storeFlags, json },
    async run(args) {
      const key = await (await open(args)).revoke(args.id);
      if (args.json) printJson(io, key);
      else print(io, `key ${key.id} (${key.name}) is revoked`);
    },
  });

async function open({ store, tenant }: { store?: string; tenant?: string }) {
  const { openTenantKeys } = await loadServer();
  const address = store ?? defaultDataDir;
  return openTenantKeys(address.includes('://') ? address : resolve(address), tenant);
}
