/** What an estimate says, beside what jobs take. Of time only how far it is off is held: machines that test have other things to do. */
import { expect, it, onTestFinished } from 'vitest';
import { startServer } from '@cherryq/api/serve';
import { CherryQ } from 'cherryq';
import { uploadModelFolder, uploadTextFile } from 'cherryq/node';
import { join } from 'node:path';
import { fileFolder } from './folders.ts';

const demo = new URL('../../demo/', import.meta.url).pathname;
const folder = fileFolder();

it('sizes and memory of jobs are what their estimates said', async () => {
  const server = await startServer({ storeFolder: join(folder, 'store'), port: 0 });
  onTestFinished(() => server.close());
  const client = new CherryQ({ baseUrl: server.url });
  const { id: modelId } = await uploadModelFolder(client, join(demo, 'model'));
  const { id: calibrationDatasetId } = await uploadTextFile(client, join(demo, 'calibration.txt'));
  const { id: datasetId } = await uploadTextFile(client, join(demo, 'test.txt'));
  const evaluation = { datasetId, maxTokens: 4096 };
  const training = { tokens: 2048, impactSamples: 16 };
  // The first one teaches which engine runs here.
  for (const scheme of [
    { method: 'rtn', bits: 8 },
    { method: 'rtn', bits: 4 },
    { method: 'qat', bits: 3 },
    { method: 'cherryq', bits: 2 },
    { method: 'cherryq', bits: 3 },
  ] as const) {
    const request = { modelId, calibrationDatasetId, evaluation, scheme, training };
    const expected = await client.estimates.create(request);
    const { id, estimate } = await client.jobs.create(request);
    expect(estimate).toMatchObject({ hostBytes: expected.hostBytes, outputBytes: expected.outputBytes });
    const { result } = await client.jobs.wait(id);
    if (result === null || result.peakHostBytes === null) throw new Error(`job ${id} has no result`);
    expect((expected.outputBytes.native ?? 0) / result.compressed.sizeBytes).toBeCloseTo(1, 1);
    expect((expected.outputBytes.hf ?? 0) / (result.hf?.sizeBytes ?? 1)).toBeCloseTo(1, 1);
    if (scheme.bits === 8) continue;
    const ratio = expected.hostBytes / result.peakHostBytes;
    const time = expected.seconds / result.seconds;
    console.log(
      `${scheme.method} ${scheme.bits}: expected over taken: memory ${ratio.toFixed(2)}, time ${time.toFixed(2)}`,
    );
    expect(time).toBeGreaterThan(0.3);
    expect(time).toBeLessThan(3);
    expect(ratio).toBeGreaterThan(0.8);
    expect(ratio).toBeLessThan(1.25);
    expect(expected.secondsBasis).toBe('measured');
  }
});

it('a job without operations to count, such as rounding without an evaluation, leaves the next estimate well', async () => {
  const server = await startServer({ storeFolder: join(folder, 'rounded'), port: 0 });
  onTestFinished(() => server.close());
  const client = new CherryQ({ baseUrl: server.url });
  const { id: modelId } = await uploadModelFolder(client, join(demo, 'model'));
  const request = { modelId, scheme: { method: 'rtn', bits: 4 } } as const;
  for (const time of ['first', 'second']) {
    const { id, estimate } = await client.jobs.create(request);
    expect(estimate?.seconds, time).toBeGreaterThanOrEqual(0);
    expect(await client.jobs.wait(id)).toMatchObject({ status: 'succeeded' });
  }
}, 240_000);
