// What every runtime does with the installed package: a text up, a job, its events, a file down, an error.
import { CherryQ, NotFoundError } from 'cherryq';

/** @returns what was seen, for the test to compare */
export async function use({ baseUrl, modelId }) {
  const client = new CherryQ({ baseUrl });
  const { status } = await client.health.ready();
  const files = [{ path: 'text.txt', content: new Blob(['Call me Ishmael.']) }];
  const dataset = await client.datasets.upload({ name: 'text', files });
  const job = await client.jobs.create({ modelId, scheme: { method: 'rtn', bits: 4, groupSize: 16 } });
  const events = [];
  for await (const event of client.events.stream(job.id)) events.push(event.type);
  const ended = await client.jobs.wait(job.id);
  // Checked against its SHA-256.
  const config = JSON.parse(new TextDecoder().decode(await client.artifacts.download(job.id, 'config.json')));
  const error = await client.jobs.retrieve('01JZ8Q3V5X9Y2W4T6R8P0N1M3K').catch((reason) => reason);
  return {
    status,
    dataset: (await client.datasets.retrieve(dataset.id)).sizeBytes,
    job: ended.status,
    first: events[0],
    last: events.at(-1),
    architecture: config.architectures[0],
    error: error instanceof NotFoundError ? error.code : String(error),
  };
}
