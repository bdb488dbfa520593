import { createHash } from 'node:crypto';
import { schemeSchema, trainingSchema } from 'cherryq/contract';
import { describe, expect, it } from 'vitest';
import { InputError } from '../../../batch-jobs/src/errors.ts';
import type { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import type { Identity, ResumePolicy } from '../../../batch-jobs/src/training/resume.ts';
import {
  flatIdentity,
  openGeneration,
  saveGeneration,
  trainingIdentity,
} from '../../../batch-jobs/src/training/resume.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

const prefix = 'tenants/local/jobs/1/checkpoints/';
const parts = {
  version: '1.2.3',
  engine: 'native',
  model: 'a'.repeat(64),
  calibrationWindows: 'b'.repeat(64),
  scheme: schemeSchema.parse({}),
  training: trainingSchema.parse({}),
};
const identity = trainingIdentity(parts);

const save = (store: FolderStore, position: number, attempt = 1, own: Identity = identity): Promise<void> =>
  saveGeneration(store, prefix, {
    identity: own,
    attempt,
    position,
    tensors: [{ name: 'a', dtype: 'U8', shape: [40], data: new Uint8Array(40).fill(position) }],
    record: { position },
  });

async function load(store: FolderStore, policy: ResumePolicy = 'auto', own: Identity = identity) {
  const warnings: string[] = [];
  const generation = await openGeneration(store, prefix, own, policy, (message) => warnings.push(message));
  const info = generation?.tensors.get('a');
  const bytes = info && (await store.get(info.key, { start: info.start, end: info.end }));
  expect(bytes?.every((byte) => byte === generation?.position) ?? true).toBe(true);
  expect(generation?.record ?? null).toEqual(generation && { position: generation.position });
  return { position: generation?.position ?? null, warnings };
}

const nameOf = (position: number, attempt = 1): string =>
  `${String(attempt).padStart(6, '0')}-${String(position).padStart(8, '0')}`;

async function flipBit(store: FolderStore, key: string, at: number): Promise<void> {
  const bytes = (await store.get(prefix + key)) as Uint8Array;
  bytes[Math.floor((at < 0 ? 8 * bytes.length + at : at) / 8)] ^= 1 << (((at % 8) + 8) % 8);
  await store.put(prefix + key, bytes);
}

const thrown = (promise: Promise<unknown>): Promise<InputError> =>
  promise.then(
    () => expect.fail('nothing was thrown'),
    (error) => {
      expect(error).toBeInstanceOf(InputError);
      return error as InputError;
    },
  );

describe('a generation', () => {
  it('is absent before the first was saved, under every policy', async () => {
    const store = await temporaryStore();
    for (const policy of ['auto', 'required', 'never'] as const)
      expect(await load(store, policy)).toEqual({ position: null, warnings: [] });
  });

  it('is the newest of those saved, and one before it is kept', async () => {
    const store = await temporaryStore();
    for (const position of [1, 2, 9, 10]) await save(store, position);
    for (const policy of ['auto', 'required'] as const)
      expect(await load(store, policy)).toEqual({ position: 10, warnings: [] });
    expect(await store.folders(prefix)).toEqual([nameOf(9), nameOf(10)]);
  });

  it('is not looked at under the policy never', async () => {
    const store = await temporaryStore();
    await save(store, 3, 1, { other: true });
    await flipBit(store, `${nameOf(3)}/state.safetensors`, -1);
    expect(await load(store, 'never')).toEqual({ position: null, warnings: [] });
  });

  it.each([
    ['the last bit of its tensors', 'state.safetensors', -1],
    ['a bit in the header of its tensors', 'state.safetensors', 101],
    ['a bit in the recorded hash', 'checkpoint.json', 8 * 20],
    ['the first bit of its record', 'checkpoint.json', 0],
  ])('with %s flipped is named and passed over for the one before', async (_, file, at) => {
    const store = await temporaryStore();
    await save(store, 4);
    await save(store, 8);
    await flipBit(store, `${nameOf(8)}/${file}`, at);
    for (const policy of ['auto', 'required'] as const) {
      const { position, warnings } = await load(store, policy);
      expect(position).toBe(4);
      expect(warnings).toEqual([expect.stringContaining(`Checkpoint ${nameOf(8)} is damaged: ${file}`)]);
    }
  });

  it('with any bit of its record flipped is never taken for another', async () => {
    const store = await temporaryStore();
    await save(store, 4);
    await save(store, 8);
    const key = `${nameOf(8)}/checkpoint.json`;
    const { sizeBytes } = (await store.head(prefix + key)) as { sizeBytes: number };
    for (let at = 5; at < 8 * sizeBytes; at += 97) {
      await flipBit(store, key, at);
      expect((await load(store)).position, `bit ${at}`).toBe(4);
      await flipBit(store, key, at);
    }
    expect(await load(store)).toEqual({ position: 8, warnings: [] });
  });

  it('that is damaged is named with the hash that it has and the one that it should have', async () => {
    const store = await temporaryStore();
    await save(store, 8);
    const key = `${nameOf(8)}/state.safetensors`;
    const sha256 = async () =>
      createHash('sha256')
        .update((await store.get(prefix + key)) as Uint8Array)
        .digest('hex');
    const recorded = await sha256();
    await flipBit(store, key, -1);
    const { warnings } = await load(store);
    expect(warnings[0]).toContain(`state.safetensors has the SHA-256 ${await sha256()}, but ${recorded} was recorded`);
    expect(warnings[1]).toContain('begins anew');
  });

  it.each(['state.safetensors', 'checkpoint.json'])('without its %s is passed over', async (file) => {
    const store = await temporaryStore();
    await save(store, 4);
    await save(store, 8);
    await store.delete(`${prefix}${nameOf(8)}/${file}`);
    expect(await load(store)).toEqual({ position: 4, warnings: [expect.stringContaining(`it has no ${file}`)] });
  });

  it('that was half written when the worker died is not looked at', async () => {
    const store = await temporaryStore();
    await store.put(`${prefix}${nameOf(2)}/state.safetensors`, new Uint8Array(10));
    expect(await load(store, 'required')).toEqual({ position: null, warnings: [] });
    await save(store, 4);
    await store.put(`${prefix}${nameOf(6)}/state.safetensors`, new Uint8Array(10));
    expect(await load(store)).toEqual({ position: 4, warnings: [] });
  });

  it('is found without CURRENT, which is named when it is damaged', async () => {
    const store = await temporaryStore();
    await save(store, 4);
    await save(store, 8);
    await flipBit(store, 'CURRENT', 1);
    expect(await load(store)).toEqual({ position: 8, warnings: [expect.stringContaining('CURRENT is damaged')] });
    await store.delete(`${prefix}CURRENT`);
    expect(await load(store)).toEqual({ position: 8, warnings: [] });
  });

  it('of a later attempt that began anew stands before those of an earlier one', async () => {
    const store = await temporaryStore();
    await save(store, 20, 1, { older: true });
    await save(store, 25, 1, { older: true });
    await save(store, 5, 2);
    expect((await load(store)).position).toBe(5);
    await save(store, 6, 2);
    expect((await load(store)).position).toBe(6);
    expect(await store.folders(prefix)).toEqual([nameOf(5, 2), nameOf(6, 2)]);
  });
});

describe('when all generations are damaged', () => {
  const damaged = async (): Promise<FolderStore> => {
    const store = await temporaryStore();
    for (const position of [4, 8]) {
      await save(store, position);
      await flipBit(store, `${nameOf(position)}/state.safetensors`, -1);
    }
    return store;
  };

  it('auto begins anew and says so', async () => {
    const { position, warnings } = await load(await damaged());
    expect(position).toBeNull();
    expect(warnings).toEqual([
      expect.stringContaining(`${nameOf(8)} is damaged`),
      expect.stringContaining(`${nameOf(4)} is damaged`),
      expect.stringContaining('begins anew'),
    ]);
  });

  it('required refuses, naming each', async () => {
    const { code, message, param } = await thrown(load(await damaged(), 'required'));
    expect({ code, param }).toEqual({ code: 'checkpoint_damaged', param: 'training.resume' });
    expect(message).toContain(nameOf(4));
    expect(message).toContain(nameOf(8));
  });
});

describe('a generation of another identity', () => {
  it.each(['auto', 'required'] as const)(
    'is refused under %s, naming what differs with both values',
    async (policy) => {
      const store = await temporaryStore();
      await save(store, 8);
      const scheme = { ...parts.scheme, bits: 4 as const };
      const other = trainingIdentity({ ...parts, calibrationWindows: 'c'.repeat(64), scheme });
      const { code, message, param } = await thrown(load(store, policy, other));
      expect({ code, param }).toEqual({ code: 'checkpoint_mismatch', param: 'calibrationWindows' });
      expect(message).toContain(`calibrationWindows was "${'b'.repeat(64)}" and is "${'c'.repeat(64)}"`);
      expect(message).toContain('scheme.bits was 3 and is 4');
      expect(message.match(/ was \S+ and is /g)).toHaveLength(2);
    },
  );

  it('is refused too where only one of the two has a field', async () => {
    const store = await temporaryStore();
    await save(store, 8, 1, { a: 1 });
    expect((await thrown(load(store, 'auto', { b: 2 }))).message).toContain(
      'a was 1 and is absent; b was absent and is 2',
    );
  });

  it('is refused when the newer one, of this identity, is damaged', async () => {
    const store = await temporaryStore();
    await save(store, 4, 1, { a: 1 });
    await save(store, 8);
    await flipBit(store, `${nameOf(8)}/state.safetensors`, -1);
    expect((await thrown(load(store))).code).toBe('checkpoint_mismatch');
  });
});

describe('the identity of a training', () => {
  it('names every field of the scheme and of the training but those that change no result', () => {
    const named = Object.keys(identity);
    for (const field of Object.keys(parts.scheme)) expect(named).toContain(`scheme.${field}`);
    const left = Object.keys(parts.training).filter((field) => !named.includes(`training.${field}`));
    expect(left.sort()).toEqual(['momentsIn', 'resume']);
    expect(named).toEqual(expect.arrayContaining(['version', 'engine', 'model', 'calibrationWindows']));
  });

  it('is flat, with lists as their JSON and without absent fields', () => {
    expect(flatIdentity({ a: { b: { c: 1 } }, d: ['x', 2], e: undefined, f: null })).toEqual({
      'a.b.c': 1,
      d: '["x",2]',
      f: null,
    });
  });
});
