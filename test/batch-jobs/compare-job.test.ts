import { describe, expect, it } from 'vitest';
import type { ComparisonResult, JobSpec } from 'cherryq/contract';
import { comparisonResultSchema, manifestSchema } from 'cherryq/contract';
import { InterruptedError } from '../../batch-jobs/src/errors.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import type { TinyJob } from '../support/tiny-model.ts';
import { writeTinyJob } from '../support/tiny-model.ts';
import {
  artifactsOf,
  attempt,
  attemptScheme,
  eventsOf,
  hashesUnder,
  lastState,
  prepare,
  resultOf,
  textOf,
} from '../support/tiny-run.ts';

const training = { tokens: 512 };
/** A comparison as the API writes it. */
const comparison = (given: JobSpec['comparison'], fields: Partial<TinyJob> = {}): TinyJob => ({
  training,
  ...fields,
  spec: { kind: 'compare', comparison: given, ...fields.spec },
});
const axes = comparison({ axes: { method: ['rtn', 'cherryq'], bits: [2, 3] } });

async function compared(store: Store, prefix: string): Promise<ComparisonResult> {
  const { status, comparisonResult } = await lastState(store, prefix);
  expect(status).toBe('succeeded');
  return comparisonResultSchema.parse(comparisonResult);
}

describe('a compare job', () => {
  it('measures every scheme exactly as a compress job does, and leaves the table and a report', async () => {
    const { store, prefix } = await prepare(axes);
    await attempt(store, prefix);
    const { rows, baseline } = await compared(store, prefix);
    expect(rows.map(({ scheme }) => `${scheme.method} ${scheme.bits}`)).toEqual([
      'rtn 2',
      'rtn 3',
      'cherryq 2',
      'cherryq 3',
    ]);
    expect(rows.map(({ error }) => error)).toEqual([null, null, null, null]);
    for (const { measurement, perplexityRatio } of rows)
      expect(perplexityRatio).toBeCloseTo(Number(measurement?.perplexity) / Number(baseline.perplexity), 12);
    const best = rows.reduce((a, b) => (Number(b.perplexityRatio) < Number(a.perplexityRatio) ? b : a));
    expect(best.onFrontier).toBe(true);
    const smallest = rows.reduce((a, b) =>
      Number(b.measurement?.sizeBytes) < Number(a.measurement?.sizeBytes) ? b : a,
    );
    expect(smallest.onFrontier).toBe(true);

    const manifest = manifestSchema.parse(JSON.parse(await textOf(store, `${prefix}artifacts/manifest.json`)));
    expect(manifest).toMatchObject({ kind: 'compare', scheme: null, formats: [] });
    const files = await artifactsOf(store, prefix);
    expect(manifest.files.map(({ path, sha256 }) => [path, sha256])).toEqual(
      ['comparison.json', 'report.html'].map((path) => [path, files[path]]),
    );
    const json = JSON.parse(await textOf(store, `${prefix}artifacts/comparison.json`)) as ComparisonResult;
    expect(json.rows.map((row, index) => ({ ...row, seconds: rows[index]?.seconds }))).toEqual(rows);
    expect(json.rows[0]).not.toHaveProperty('seconds');
    expect(await textOf(store, `${prefix}artifacts/report.html`)).toContain('role="img"');
    expect(await hashesUnder(store, `${prefix}scratch/`)).toEqual({});
    expect(await hashesUnder(store, `${prefix}checkpoints/`)).toEqual({});

    await store.deletePrefix(prefix);
    await writeTinyJob(store, { training, scheme: rows[3]?.scheme });
    await attempt(store, prefix);
    const { compressed } = await resultOf(store, prefix);
    expect(rows[3]?.measurement).toEqual(compressed);
  });

  it('measures impact once, and says which scheme it is at and how far the whole job is', async () => {
    const { store, prefix } = await prepare(comparison({ axes: { bits: [2, 3], cherryFraction: [1 / 32, 1 / 8] } }));
    await attempt(store, prefix);
    const events = await eventsOf(store, prefix);
    expect(events.flatMap((event) => (event.type === 'impact.ready' ? [event.source] : []))).toEqual([
      'measured',
      ...['stored', 'stored', 'stored'],
    ]);
    const progress = events.flatMap((event) => (event.type === 'progress' ? [event.progress] : []));
    const fractions = progress.map(({ fraction }) => fraction);
    expect(fractions).toEqual(fractions.toSorted((a, b) => a - b));
    expect(fractions.at(-1)).toBeLessThanOrEqual(1);
    const numbers = progress.map(({ variant }) => variant?.number ?? 5);
    expect([...new Set(numbers)]).toEqual([1, 2, 3, 4, 5]);
    expect(progress.every(({ variant }) => variant === null || variant.total === 4)).toBe(true);
  });

  it('has a row with its error for a scheme that does not fit, and goes on', async () => {
    const { store, prefix } = await prepare(
      comparison({ schemes: [{ groupSize: 1024 }, { method: 'rtn', bits: 4 }] }, { spec: { calibrationName: 'text' } }),
    );
    await attempt(store, prefix);
    const { rows } = await compared(store, prefix);
    expect(rows[0]).toMatchObject({
      measurement: null,
      perplexityRatio: null,
      onFrontier: false,
      error: { fault: 'user', code: 'group_size', param: 'scheme.groupSize' },
    });
    expect(rows[1]).toMatchObject({ error: null, onFrontier: true });
  });

  it('fails where no scheme fits, with the first one’s error', async () => {
    const { store, prefix } = await prepare(comparison({ axes: { groupSize: [512, 1024] } }));
    await expect(attempt(store, prefix)).rejects.toMatchObject({
      code: 'group_size',
      message: expect.stringMatching(
        /^None of the 2 schemes could be measured\. The first: groupSize is 512/,
      ) as string,
    });
  });

  it('is tried by a worker for each scheme and one that merges, stopped anywhere, with the same bytes', async () => {
    const whole = await prepare(axes);
    await attempt(whole.store, whole.prefix);
    const { store, prefix } = await prepare(axes);
    const stopped = (error: unknown): void => {
      if (!(error instanceof InterruptedError)) throw error;
    };
    for (const schemeNumber of [4, 2, 3]) {
      await attemptScheme(store, prefix, { shared: 1, schemeNumber, stopAfter: 3 }).catch(stopped);
      // As Batch starts it again: with the same settings, in the same attempt.
      await attemptScheme(store, prefix, { shared: 1, schemeNumber });
    }
    const alone = await eventsOf(store, prefix);
    expect(alone.filter(({ type }) => type === 'job.started')).toHaveLength(1);
    const shown = alone.flatMap((event) => (event.type === 'progress' ? [event.progress] : []));
    expect([...new Set(shown.map(({ variant }) => variant?.number))]).toEqual([4, 2, 3]);
    expect(shown.every(({ variant }) => variant?.total === 4)).toBe(true);
    // Two of four are done when the third begins, and no worker has begun with the first.
    const third = shown.filter(({ variant }) => variant?.number === 3).map(({ fraction }) => fraction);
    expect(third.at(-1)).toBeGreaterThan(0.7);
    expect(third.at(-1)).toBeLessThanOrEqual(0.75);
    expect(await lastState(store, prefix)).toMatchObject({ status: 'running', attempt: 1 });

    // The first scheme has had no worker that came through; whoever merges tries it.
    await attempt(store, prefix);
    expect(await artifactsOf(store, prefix)).toEqual(await artifactsOf(whole.store, whole.prefix));
    const { peakHostBytes } = await compared(store, prefix);
    expect(peakHostBytes).toBeGreaterThan(0);
    const tried = (await eventsOf(store, prefix)).flatMap((event) =>
      event.type === 'log' && event.message.startsWith('scheme ') ? [event.message.slice(0, 8)] : [],
    );
    expect(tried).toEqual(['scheme 4', 'scheme 2', 'scheme 3', 'scheme 1']);
    expect(await hashesUnder(store, `${prefix}checkpoints/`)).toEqual({});
    await expect(attemptScheme(store, prefix, { shared: 1, schemeNumber: 1 })).rejects.toThrow('the job has ended');
  });

  it('goes on after stops anywhere, from the scheme it was at, and leaves the same bytes', async () => {
    const whole = await prepare(axes);
    await attempt(whole.store, whole.prefix);
    const { store, prefix } = await prepare(axes);
    let attempts = 0;
    for (let ended = false; !ended; attempts++) {
      // Each attempt passes a few safe points more than the one before, so that the stops fall into different parts.
      const stopAfter = 2 + (attempts % 5);
      ended = await attempt(store, prefix, stopAfter, 0).then(
        () => true,
        (error: unknown) => {
          if (error instanceof InterruptedError) return false;
          throw error;
        },
      );
      expect(attempts).toBeLessThan(40);
    }
    expect(attempts).toBeGreaterThan(3);
    expect(await artifactsOf(store, prefix)).toEqual(await artifactsOf(whole.store, whole.prefix));
    const tried = (await eventsOf(store, prefix)).flatMap((event) =>
      event.type === 'log' && event.message.startsWith('scheme ') ? [event.message.slice(0, 8)] : [],
    );
    expect(tried).toEqual(['scheme 1', 'scheme 2', 'scheme 3', 'scheme 4']);
  });
});
