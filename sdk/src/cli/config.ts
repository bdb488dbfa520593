/**
 * The servers that `cherryq login` keeps, in one file of the user's configuration folder: profiles by name, of which one may be
 * the current one. It holds keys: only its owner may read it, and no message quotes what is in it.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import { z } from 'zod';
import { InputError } from '../index.ts';
import type { Io } from './io.ts';

const nameSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9][\w.-]{0,63}$/,
    'must be 1 to 64 letters, digits, ".", "_" or "-", the first a letter or a digit',
  );

const isHttp = (text: string): boolean => URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);

/** What an HTTP header can hold; anything else would end up in the words of an error. */
const apiKeySchema = z.string().regex(/^[\u0021-\u007E]{1,1000}$/, 'must be one word of ASCII characters');

const profileSchema = z.strictObject({
  server: z.string().refine(isHttp, 'must be an address that begins with http:// or https://'),
  /** Null: logged out, or a server that asks for no key. */
  apiKey: apiKeySchema.nullable().default(null),
});

const configSchema = z
  .strictObject({
    /** What is used where a command is told nothing else; null: the local data folder. */
    current: nameSchema.nullable().default(null),
    profiles: z.record(nameSchema, profileSchema).default({}),
  })
  .refine(({ current, profiles }) => current === null || Object.hasOwn(profiles, current), {
    path: ['current'],
    error: 'must be the name of one of the profiles, or null',
  });

export type Profile = z.infer<typeof profileSchema>;
export type Config = z.infer<typeof configSchema>;

/** @returns null where the environment names no home */
export function configPath(env: Io['env'], platform: NodeJS.Platform = process.platform): string | null {
  const { XDG_CONFIG_HOME, APPDATA, HOME } = env;
  // The specification says that a relative one is to be passed over.
  if (XDG_CONFIG_HOME && isAbsolute(XDG_CONFIG_HOME)) return join(XDG_CONFIG_HOME, 'cherryq', 'config.json');
  if (platform === 'win32' && APPDATA) return join(APPDATA, 'cherryq', 'config.json');
  return HOME ? join(HOME, '.config', 'cherryq', 'config.json') : null;
}

/** No profiles where there is no file.  @throws InputError naming the file and the field */
export async function readConfig(env: Io['env']): Promise<Config> {
  const path = configPath(env);
  const text = path === null ? null : await readText(path);
  if (path === null || text === null) return { current: null, profiles: {} };
  const advice = `mend it, or delete it and log in again`;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // The parser's own words quote the text.
    throw new InputError('invalid_config', `${path} is not JSON; ${advice}`, path);
  }
  const parsed = configSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue?.path.join('.') ?? '';
  throw new InputError(
    'invalid_config',
    `${path}: ${field === '' ? 'the whole' : field}: ${wordsOf(issue)}; ${advice}`,
    field === '' ? path : field,
  );
}

/** Whole or not at all, and for its owner's eyes only.  @throws InputError without a place for it */
export async function writeConfig(env: Io['env'], config: Config): Promise<string> {
  const path = configPath(env);
  if (path === null)
    throw new InputError('no_home', 'there is no place for profiles: set HOME or XDG_CONFIG_HOME', 'HOME');
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const part = `${path}.${randomUUID()}.part`;
  try {
    const file = await open(part, 'wx', 0o600);
    try {
      await file.writeFile(`${JSON.stringify(configSchema.parse(config), null, 2)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(part, path);
  } finally {
    await rm(part, { force: true });
  }
  return path;
}

/** @throws InputError for a name that there is no profile of */
export function profileOf({ profiles }: Config, name: string): Profile {
  if (Object.hasOwn(profiles, name)) return profiles[name];
  const names = Object.keys(profiles);
  const known = names.length === 0 ? 'there are none; make one with: cherryq login' : `there are ${names.join(', ')}`;
  throw new InputError('unknown_profile', `there is no profile ${JSON.stringify(name)}; ${known}`, '--profile');
}

/** Of a server, for equal addresses that are written otherwise. */
export const addressOf = (server: string): string => new URL(server).href.replace(/\/+$/, '');

/** @throws InputError for what cannot be the name of a profile */
export function checkName(name: string): string {
  const parsed = nameSchema.safeParse(name);
  if (parsed.success) return name;
  throw new InputError(
    'invalid_profile',
    `the name of a profile ${wordsOf(parsed.error.issues[0])}; got ${JSON.stringify(name)}`,
    '--profile',
  );
}

/** @param from where it was given  @throws InputError, which does not quote it */
export function checkApiKey(apiKey: string, from: string): string {
  const parsed = apiKeySchema.safeParse(apiKey);
  if (parsed.success) return apiKey;
  throw new InputError(
    'invalid_api_key',
    `${from} ${wordsOf(parsed.error.issues[0])}, as \`cherryq keys create\` shows it`,
    from,
  );
}

const wordsOf = (issue: z.core.$ZodIssue | undefined): string => issue?.message ?? 'is not valid';

async function readText(path: string): Promise<string | null> {
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
}
