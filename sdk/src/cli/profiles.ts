/** `cherryq profiles`: the servers that were logged in to. */
import { command, group, UsageError } from './command.ts';
import { configPath, profileOf, readConfig, writeConfig } from './config.ts';
import { renderTable } from './format.ts';
import { print, printJson, type Io } from './io.ts';

const json = { type: 'boolean', description: 'Print JSON, nothing else' } as const;

export const profilesCommand = (io: Io) =>
  group({
    name: 'cherryq profiles',
    summary: 'List the servers that were logged in to, choose the current one, remove them',
    children: { list: list(io), use: use(io), remove: remove(io) },
  });

const list = (io: Io) =>
  command({
    name: 'cherryq profiles list',
    summary: 'List profiles; the current one has a star',
    examples: ['cherryq profiles list --json'],
    args: { json },
    async run(args) {
      const { current, profiles } = await readConfig(io.env);
      const data = Object.entries(profiles).map(([name, { server, apiKey }]) => ({
        name,
        server,
        hasKey: apiKey !== null,
        current: name === current,
      }));
      if (args.json) return printJson(io, { file: configPath(io.env), data });
      if (data.length === 0) return print(io, 'No profiles; make one with: cherryq login');
      const rows = data.map((each) => [each.current ? '*' : '', each.name, each.server, each.hasKey ? 'yes' : 'no']);
      print(io, renderTable(['', 'name', 'server', 'key'], rows, 4));
    },
  });

const use = (io: Io) =>
  command({
    name: 'cherryq profiles use',
    summary: 'Choose the profile of commands that are told no other, or none',
    examples: ['cherryq profiles use team', 'cherryq profiles use --none'],
    args: {
      name: { type: 'positional', required: false, description: 'Name of the profile' },
      none: { type: 'boolean', description: 'No profile: commands go back to the local data folder' },
      json,
    },
    async run(args) {
      const { name, none } = args;
      if ((name === undefined) === (none !== true))
        throw new UsageError('give the name of a profile, or --none in its place, and not both', '--none');
      const config = await readConfig(io.env);
      const server = name === undefined ? null : profileOf(config, name).server;
      await writeConfig(io.env, { ...config, current: name ?? null });
      if (args.json) return printJson(io, { current: name ?? null, server });
      print(io, server === null ? 'Commands use the local data folder.' : `Commands use ${server}.`);
    },
  });

const remove = (io: Io) =>
  command({
    name: 'cherryq profiles remove',
    summary: 'Remove a profile with its key; the key itself stays good until it is revoked',
    examples: ['cherryq profiles remove team'],
    args: { name: { type: 'positional', required: true, description: 'Name of the profile' }, json },
    async run({ name, json }) {
      const config = await readConfig(io.env);
      profileOf(config, name);
      const profiles = Object.fromEntries(Object.entries(config.profiles).filter(([other]) => other !== name));
      await writeConfig(io.env, { current: config.current === name ? null : config.current, profiles });
      if (json) printJson(io, { name, removed: true });
      else print(io, `profile ${name} is removed`);
    },
  });
