/**
 * What may go on after a stop, and from where: generations of checkpoints, each a folder of tensors and a record.
 *
 *   <prefix><attempt>-<position>/state.safetensors     the tensors
 *   <prefix><attempt>-<position>/checkpoint.json       identity, hash of the tensors and the caller's record, under a hash
 *   <prefix>CURRENT                                    name of the newest; written last
 *
 * A generation is whole once its record is there, and two are kept. Each is verified by SHA-256 when it is opened; a damaged
 * one is named, and the one before is used. A checkpoint serves only a job of the same identity: what the result depends on,
 * field by field, so that a refusal can say what differs. Nothing here locks: attempts have numbers, so two workers never
 * write the same generation.  @source the policies and their meaning follow GPTQModel's checkpoint.md
 */
import { createHash } from 'node:crypto';
import type { Scheme, Training } from 'cherryq/contract';
import { CheckpointError, messageOf } from '../errors.ts';
import { isJsonObject } from '../formats/json.ts';
import type { SafetensorsFile, TensorToWrite } from '../formats/safetensors.ts';
import { openSafetensors, safetensorsBytes } from '../formats/safetensors.ts';
import type { Store } from '../storage/store.ts';

export type ResumePolicy = Training['resume'];

/** What a result depends on, by dotted name: `engine`, `scheme.bits`, `training.seed`. */
export type Identity = Readonly<Record<string, string | number | boolean | null>>;

export interface IdentityParts {
  /** Of the program. */
  readonly version: string;
  /** The engine, as far as it may change the last bits of a sum. */
  readonly engine: string;
  /** SHA-256 of the model's folder. */
  readonly model: string;
  /** SHA-256 of the calibration windows' tokens. */
  readonly calibrationWindows: string;
  readonly scheme: Scheme;
  readonly training: Training;
}

/** Leaves out what changes no result: where the moments are, and the policy itself. */
export function trainingIdentity({ training, ...parts }: IdentityParts): Identity {
  return flatIdentity({ ...parts, training: { ...training, resume: undefined, momentsIn: undefined } });
}

/** @param parts objects within objects are joined by dots; lists become their JSON, absent fields are left out */
export function flatIdentity(parts: Readonly<Record<string, unknown>>): Identity {
  const flat: Record<string, string | number | boolean | null> = {};
  for (const [name, value] of Object.entries(parts)) {
    if (value === undefined) continue;
    if (isJsonObject(value)) {
      for (const [inner, each] of Object.entries(flatIdentity(value))) flat[`${name}.${inner}`] = each;
    } else if (typeof value === 'object' && value !== null) flat[name] = JSON.stringify(value);
    else flat[name] = value as string | number | boolean | null;
  }
  return flat;
}

/** What a caller saves. */
export interface NewGeneration {
  readonly identity: Identity;
  /** Number of the worker's attempt. */
  readonly attempt: number;
  /** Steps, or windows, done; higher in later generations of an attempt. */
  readonly position: number;
  readonly tensors: readonly TensorToWrite[];
  /** Whatever else it needs to go on; JSON. */
  readonly record: unknown;
}

/** A generation that has been verified; its tensors are still in the store. */
export interface Generation {
  readonly name: string;
  readonly position: number;
  readonly record: unknown;
  readonly tensors: SafetensorsFile['tensors'];
}

interface Content {
  readonly identity: Identity;
  readonly position: number;
  /** Of the tensors' file. */
  readonly sha256: string;
  readonly record: unknown;
}

const keptGenerations = 2;
const tensorsFile = 'state.safetensors';
const recordFile = 'checkpoint.json';
const currentFile = 'CURRENT';
/** In the order of their names, generations stand in the order in which they were written. */
const generationName = /^\d{6}-\d{8}$/;

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Writes a generation and removes those before the last two.  @param prefix ends in a slash */
export async function saveGeneration(store: Store, prefix: string, generation: NewGeneration): Promise<void> {
  const { identity, attempt, position, record } = generation;
  const name = `${String(attempt).padStart(6, '0')}-${String(position).padStart(8, '0')}`;
  const hash = createHash('sha256');
  await store.put(`${prefix}${name}/${tensorsFile}`, hashed(safetensorsBytes(generation.tensors).chunks, hash));
  const content: Content = { identity, position, sha256: hash.digest('hex'), record };
  const json = { sha256: sha256(JSON.stringify(content)), content };
  await store.put(`${prefix}${name}/${recordFile}`, encode(JSON.stringify(json)));
  await store.put(prefix + currentFile, encode(name));
  const names = (await store.folders(prefix)).filter((folder) => generationName.test(folder));
  for (const old of names.slice(0, -keptGenerations)) await store.deletePrefix(`${prefix}${old}/`);
}

async function* hashed(
  chunks: AsyncIterable<Uint8Array>,
  hash: ReturnType<typeof createHash>,
): AsyncIterable<Uint8Array> {
  for await (const chunk of chunks) {
    hash.update(chunk);
    yield chunk;
  }
}

/**
 * The newest generation that is whole, or null where there is none to go on from.
 * @param prefix ends in a slash
 * @param policy `never` looks at nothing; `auto` gives null where all are damaged, `required` refuses then
 * @param warn told about each damaged generation, by name, with the file and what is wrong with it
 * @throws InputError `checkpoint_mismatch`, naming each field that differs with both values, when the checkpoint is of
 * another identity; `checkpoint_damaged` under `required` when none is whole
 */
export async function openGeneration(
  store: Store,
  prefix: string,
  identity: Identity,
  policy: ResumePolicy,
  warn: (message: string) => void,
): Promise<Generation | null> {
  if (policy === 'never') return null;
  const damages: string[] = [];
  for (const name of await generationsToTry(store, prefix, warn)) {
    try {
      const content = await readContent(store, `${prefix}${name}/`);
      assertSame(name, content.identity, identity);
      const tensors = await verifiedTensors(store, `${prefix}${name}/`, content.sha256);
      return { name, position: content.position, record: content.record, tensors };
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      damages.push(`Checkpoint ${name} is damaged: ${error.message}.`);
      warn(damages[damages.length - 1]);
    }
  }
  if (damages.length === 0) return null;
  const outcome = 'No checkpoint is whole';
  if (policy === 'required') {
    throw new CheckpointError(
      'checkpoint_damaged',
      `${outcome}, and training.resume is "required". ${damages.join(' ')} Check the disk; with "auto" or "never" the job begins anew.`,
      'training.resume',
    );
  }
  warn(`${outcome}: the job begins anew.`);
  return null;
}

/** The generation that `CURRENT` names, then the others with a record, newest first. */
async function generationsToTry(store: Store, prefix: string, warn: (message: string) => void): Promise<string[]> {
  const names = (await store.folders(prefix)).filter((folder) => generationName.test(folder)).reverse();
  const current = await store.get(prefix + currentFile);
  const named = current && new TextDecoder().decode(current);
  if (named !== null && !names.includes(named)) {
    warn(`${currentFile} is damaged: it names "${named}", but the checkpoints are ${names.join(', ') || 'gone'}.`);
  }
  const whole: string[] = [];
  for (const name of names) {
    // Without a record it was never finished; the one that is named was.
    if (name === named) whole.unshift(name);
    else if ((await store.head(`${prefix}${name}/${recordFile}`)) !== null) whole.push(name);
  }
  return whole;
}

/** What makes a generation unusable; turned into a warning. */
class DamageError extends Error {}

async function readContent(store: Store, folder: string): Promise<Content> {
  const bytes = await store.get(folder + recordFile);
  if (bytes === null) throw new DamageError(`it has no ${recordFile}`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new DamageError(`${recordFile} is not valid JSON in UTF-8 (${messageOf(cause)})`, { cause });
  }
  if (!isJsonObject(json) || !isJsonObject(json.content)) throw new DamageError(`${recordFile} has no content`);
  assertHash(recordFile, String(json.sha256), sha256(JSON.stringify(json.content)));
  return json.content as unknown as Content;
}

async function verifiedTensors(store: Store, folder: string, recorded: string): Promise<SafetensorsFile['tensors']> {
  const bytes = await store.stream(folder + tensorsFile);
  if (bytes === null) throw new DamageError(`it has no ${tensorsFile}`);
  const hash = createHash('sha256');
  for await (const chunk of bytes) hash.update(chunk);
  assertHash(tensorsFile, recorded, hash.digest('hex'));
  return (await openSafetensors(store, folder + tensorsFile)).tensors;
}

function assertHash(file: string, recorded: string, found: string): void {
  if (recorded === found) return;
  throw new DamageError(`${file} has the SHA-256 ${found}, but ${recorded} was recorded`);
}

function assertSame(name: string, saved: Identity, wanted: Identity): void {
  const fields = [...new Set([...Object.keys(saved), ...Object.keys(wanted)])];
  const shown = (identity: Identity, field: string): string =>
    Object.hasOwn(identity, field) ? JSON.stringify(identity[field]) : 'absent';
  const different = fields.filter((field) => shown(saved, field) !== shown(wanted, field));
  if (different.length === 0) return;
  const list = different.map((field) => `${field} was ${shown(saved, field)} and is ${shown(wanted, field)}`);
  throw new CheckpointError(
    'checkpoint_mismatch',
    `Checkpoint ${name} does not fit this job: ${list.join('; ')}. ` +
      'Put back what was there when the job began, or set training.resume to "never" to begin anew.',
    different[0],
  );
}
