/** `cherryq login`: a server and a key for it, checked and kept as a profile. */
import type { Usage } from 'cherryq/contract';
import { AuthenticationError, CherryQ } from '../index.ts';
import { command, UsageError } from './command.ts';
import { addressOf, checkApiKey, checkName, readConfig, writeConfig, type Config } from './config.ts';
import { note, print, printJson, type Io } from './io.ts';
import { readSecret } from './secret.ts';

export const loginCommand = (io: Io) =>
  command({
    name: 'cherryq login',
    summary: 'Save a server and an API key for it; the key is asked for, or read from stdin',
    examples: [
      'cherryq login --server https://cherryq.example',
      'cherryq login --server https://cherryq.example --profile team < key.txt',
    ],
    args: {
      server: {
        type: 'string',
        valueHint: 'URL',
        description: 'The server; else that of the profile, else CHERRYQ_URL',
      },
      profile: {
        type: 'string',
        valueHint: 'NAME',
        description: 'Name to save it by; else CHERRYQ_PROFILE, else the host of the server',
      },
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run(args) {
      const config = await readConfig(io.env);
      const { name, server } = chosen(io, config, args);
      const anonymous = await usageOf(io, server, undefined).catch((error: unknown) => {
        if (error instanceof AuthenticationError) return null;
        throw error;
      });
      if (anonymous === null && isExposed(server))
        note(io, `warning: ${server} is not https, so whoever is on the way there can read the key`);
      const apiKey = anonymous === null ? checkApiKey(await readSecret(io, 'API key'), 'the API key') : null;
      const usage = anonymous ?? (await usageOf(io, server, apiKey ?? undefined));
      const profiles = { ...config.profiles, [name]: { server, apiKey } };
      const file = await writeConfig(io.env, { current: name, profiles });
      if (args.json) return printJson(io, { name, server, hasKey: apiKey !== null, current: true, file, usage });
      print(
        io,
        `${apiKey === null ? `${server} asks for no key` : `Logged in to ${server}`}; profile ${name} is the current one.`,
      );
      print(io, `It is in ${file}. Back to the local data folder: cherryq profiles use --none`);
    },
  });

/** What is logged in to, and by which name.  @throws UsageError, InputError */
function chosen(io: Io, config: Config, args: { server?: string; profile?: string }): { name: string; server: string } {
  const named = args.profile ?? (io.env.CHERRYQ_PROFILE || undefined);
  if (named !== undefined) checkName(named);
  const known = named !== undefined && Object.hasOwn(config.profiles, named) ? config.profiles[named] : undefined;
  const given = args.server ?? known?.server ?? (io.env.CHERRYQ_URL || undefined);
  if (given === undefined) throw new UsageError('which server? Give --server, the address of one', '--server');
  // Checks the address.
  const { baseUrl } = new CherryQ({ baseUrl: given });
  const server = addressOf(baseUrl);
  if (named !== undefined) return { name: named, server };
  const same = Object.entries(config.profiles).find(([, profile]) => addressOf(profile.server) === server);
  if (same !== undefined) return { name: same[0], server };
  const name = new URL(server).host
    .replaceAll(/[^\w.-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '')
    .slice(0, 64);
  if (Object.hasOwn(config.profiles, name))
    throw new UsageError(
      `profile ${name} is of ${config.profiles[name]?.server}; give --profile, a name for this one`,
      '--profile',
    );
  return { name, server };
}

const usageOf = (io: Io, baseUrl: string, apiKey: string | undefined): Promise<Usage> =>
  new CherryQ({ baseUrl, apiKey }).keys.usage({ signal: io.interrupted });

/** Whether what is sent there can be read on its way. */
function isExposed(server: string): boolean {
  const { protocol, hostname } = new URL(server);
  return protocol === 'http:' && !/^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
}
