// Cancels a training once it has saved a checkpoint, and goes on from there: node --import tsx docs/examples/cancel-and-retry.ts
import { CherryQ, downloadResult, uploadModelFolder, uploadTextFile } from 'cherryq/node';

const [folder = 'demo/model', text = 'demo/calibration.txt', out = 'out/retried'] = process.argv.slice(2);
const client = new CherryQ({ baseUrl: process.env.CHERRYQ_URL, apiKey: process.env.CHERRYQ_API_KEY });
const model = await uploadModelFolder(client, folder);
const calibration = await uploadTextFile(client, text);

const job = await client.jobs.create({
  modelId: model.id,
  calibrationDatasetId: calibration.id,
  scheme: { method: 'qat', bits: 3, groupSize: 64 },
  training: { tokens: 16_384 },
});
for await (const event of client.events.stream(job.id))
  if (event.type === 'checkpoint') {
    await client.jobs.cancel(job.id, { keepCheckpoint: true });
    console.log(`cancelled at step ${event.step}`);
    break;
  }

await client.jobs.wait(job.id);
const again = await client.jobs.retry(job.id);
const ended = await client.jobs.wait(again.id, {
  onEvent: (event) => event.type === 'job.started' && console.log(`goes on from step ${event.resumedFromStep}`),
});
await downloadResult(client, ended, out);
console.log(ended.status);
