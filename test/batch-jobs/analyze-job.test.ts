import { tmpdir } from 'node:os';
import { createHash } from 'node:crypto';
import { analysisResultSchema, jobStateSchema, manifestSchema, storedEventSchema } from 'cherryq/contract';
import type { JobState, StoredEvent } from 'cherryq/contract';
import { describe, expect, it } from 'vitest';
import { InterruptedError } from '../../batch-jobs/src/errors.ts';
import { JobFolder } from '../../batch-jobs/src/job-folder.ts';
import { runJob } from '../../batch-jobs/src/run-job.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import { testEngine } from '../support/engine.ts';
import { temporaryStore } from '../support/temporary-store.ts';
import { tinyModelPrefix, tinyText, writeTinyJob, writeTinyModel } from '../support/tiny-model.ts';
import type { TinyJob } from '../support/tiny-model.ts';

const otherPrefix = 'tenants/local/datasets/other/';
const spec: TinyJob['spec'] = {
  kind: 'analyze',
  calibrationName: 'stories',
  analysis: { datasetIds: ['0'.repeat(25) + 'X'], draws: 2 },
  analysisPrefixes: [{ name: 'other', prefix: otherPrefix }],
};

async function prepare(job: TinyJob = {}): Promise<{ store: Store; prefix: string }> {
  const store = await temporaryStore();
  await writeTinyModel(store, tinyModelPrefix);
  await store.put(`${otherPrefix}text.txt`, new TextEncoder().encode(tinyText(6000, 9)));
  return { store, prefix: await writeTinyJob(store, { ...job, spec }) };
}

async function attempt(store: Store, prefix: string, stopRequested = (): boolean => false): Promise<void> {
  const job = await JobFolder.claim(store, prefix);
  if (job === null) throw new Error('the job has ended');
  try {
    await runJob({ store, job, forcedEngine: testEngine, scratchFolder: tmpdir(), checkpointGapMs: 0, stopRequested });
  } finally {
    await job.flush();
  }
}

const textAt = async (store: Store, key: string): Promise<string> =>
  new TextDecoder().decode((await store.get(key)) ?? new Uint8Array());

async function lastState(store: Store, prefix: string): Promise<JobState> {
  const keys = (await store.list(`${prefix}state/`)).map(({ key }) => key);
  return jobStateSchema.parse(JSON.parse(await textAt(store, keys.at(-1) as string)));
}

async function eventsOf(store: Store, prefix: string): Promise<StoredEvent[]> {
  const events: StoredEvent[] = [];
  for (const { key } of await store.list(`${prefix}events/`)) {
    const lines = (await textAt(store, key)).trimEnd().split('\n');
    events.push(...lines.map((line) => storedEventSchema.parse(JSON.parse(line))));
  }
  return events;
}

describe('an analyze job', () => {
  it('compares every draw of every text, and leaves figures, a report and a manifest of both', async () => {
    const { store, prefix } = await prepare();
    await attempt(store, prefix);
    const { status, analysisResult, result } = await lastState(store, prefix);
    expect(status).toBe('succeeded');
    expect(result).toBeNull();
    const { heterogeneity, overlaps } = analysisResultSchema.parse(analysisResult);
    // Two blocks of seven matrices; four draws, so six pairs, two of them from one text.
    expect(heterogeneity).toHaveLength(14);
    expect(overlaps.map(({ first, second, sameSet }) => [first, second, sameSet])).toEqual([
      ['stories #1', 'stories #2', true],
      ['stories #1', 'other #1', false],
      ['stories #1', 'other #2', false],
      ['stories #2', 'other #1', false],
      ['stories #2', 'other #2', false],
      ['other #1', 'other #2', true],
    ]);
    for (const { share, byChance } of overlaps) {
      expect(share).toBeGreaterThan(byChance);
      expect(share).toBeLessThanOrEqual(1);
    }
    const manifest = manifestSchema.parse(JSON.parse(await textAt(store, `${prefix}artifacts/manifest.json`)));
    expect(manifest.kind).toBe('analyze');
    expect(manifest.files.map(({ path }) => path)).toEqual(['analysis.json', 'report.html']);
    for (const { path, sha256 } of manifest.files) {
      const bytes = (await store.get(`${prefix}artifacts/${path}`)) as Uint8Array;
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(sha256);
    }
    const written = JSON.parse(await textAt(store, `${prefix}artifacts/analysis.json`)) as { overlaps: unknown };
    expect(written.overlaps).toEqual(overlaps);
  });

  it('measures nothing that an earlier job has measured', async () => {
    const { store, prefix } = await prepare();
    await attempt(store, prefix);
    const first = await textAt(store, `${prefix}artifacts/analysis.json`);
    await store.deletePrefix(prefix);
    await writeTinyJob(store, { spec });
    await attempt(store, prefix);
    const sources = (await eventsOf(store, prefix)).flatMap((event) =>
      event.type === 'impact.ready' ? [event.source] : [],
    );
    expect(sources).toEqual(['stored', 'stored', 'stored', 'stored']);
    expect(await textAt(store, `${prefix}artifacts/analysis.json`)).toBe(first);
  });

  it('goes on after a stop and leaves the same bytes', async () => {
    const whole = await prepare();
    await attempt(whole.store, whole.prefix);
    const { store, prefix } = await prepare();
    let asked = 0;
    await expect(attempt(store, prefix, () => ++asked === 3)).rejects.toThrow(InterruptedError);
    await attempt(store, prefix);
    expect(await textAt(store, `${prefix}artifacts/manifest.json`)).toBe(
      await textAt(whole.store, `${whole.prefix}artifacts/manifest.json`),
    );
  });

  it('refuses a text that is too short for its draws', async () => {
    const { store, prefix } = await prepare({ calibration: tinyText(60, 1) });
    await expect(attempt(store, prefix)).rejects.toMatchObject({ code: 'text_too_short' });
  });
});
