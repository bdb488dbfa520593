/** `cherryq logout`: forgets a key. */
import { command, UsageError } from './command.ts';
import { profileOf, readConfig, writeConfig } from './config.ts';
import { print, printJson, type Io } from './io.ts';

export const logoutCommand = (io: Io) =>
  command({
    name: 'cherryq logout',
    summary: 'Forget the API key of a profile; the key itself stays good until it is revoked',
    examples: ['cherryq logout --profile team'],
    args: {
      profile: {
        type: 'string',
        valueHint: 'NAME',
        description: 'Which one; else CHERRYQ_PROFILE, else the current one',
      },
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run(args) {
      const config = await readConfig(io.env);
      const name = args.profile ?? (io.env.CHERRYQ_PROFILE || config.current);
      if (name === null) throw new UsageError('no profile is the current one; give --profile', '--profile');
      const { server } = profileOf(config, name);
      const current = config.current === name ? null : config.current;
      await writeConfig(io.env, { current, profiles: { ...config.profiles, [name]: { server, apiKey: null } } });
      if (args.json) return printJson(io, { name, server, hasKey: false, current: false });
      print(io, `The key of profile ${name} is forgotten; log in again with: cherryq login --profile ${name}`);
    },
  });
