/** `cherryq install`: looks after a private install. */
import { exitCodes } from 'cherryq/contract';
import { command, group } from './command.ts';
import { checkInstall } from './install-check.ts';
import { paintFor, print, printJson, type Io } from './io.ts';

const checkCommand = (io: Io) =>
  command({
    name: 'cherryq install check',
    summary:
      'Check a private install from outside: health, signed addresses, an estimate, and that strangers are refused',
    examples: ['cherryq install check https://abc.lambda-url.eu-central-1.on.aws', 'cherryq install check URL --json'],
    args: {
      url: { type: 'positional', required: true, description: 'Address of the API, as the stack gives it' },
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run({ url, json }) {
      const { CHERRYQ_API_KEY: apiKey, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN } = io.env;
      const signs = !apiKey && AWS_ACCESS_KEY_ID && AWS_SECRET_ACCESS_KEY;
      const checks = await checkInstall({
        url,
        apiKey,
        region: io.env.AWS_REGION ?? io.env.AWS_DEFAULT_REGION ?? 'us-east-1',
        credentials: signs
          ? { accessKeyId: AWS_ACCESS_KEY_ID, secretAccessKey: AWS_SECRET_ACCESS_KEY, sessionToken: AWS_SESSION_TOKEN }
          : undefined,
      });
      const passed = checks.every((each) => each.passed);
      if (json) printJson(io, { passed, checks });
      else {
        const paint = paintFor(io.stdout, io.env);
        for (const { name, passed: isWell, detail } of checks)
          print(io, `${isWell ? paint.green('pass') : paint.red('fail')}  ${name.padEnd(20)} ${detail}`);
      }
      return passed ? exitCodes.ok : exitCodes.bug;
    },
  });

export const installCommand = (io: Io) =>
  group({
    name: 'cherryq install',
    summary: 'Look after a private install in AWS',
    children: { check: checkCommand(io) },
  });
