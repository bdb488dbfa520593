// Starts a job and follows its events; another program can do so at the same time: node --import tsx docs/examples/follow-events.ts
import { CherryQ, uploadModelFolder } from 'cherryq/node';

const client = new CherryQ({ baseUrl: process.env.CHERRYQ_URL, apiKey: process.env.CHERRYQ_API_KEY });
const model = await uploadModelFolder(client, process.argv[2] ?? 'demo/model');

const job = await client.jobs.create(
  { modelId: model.id, scheme: { method: 'rtn', bits: 3, groupSize: 64 }, metadata: { from: 'follow-events' } },
  // The same key makes the same job, however often this program is started.
  { idempotencyKey: `follow-events-${model.id}` },
);

// The loop survives a lost connection, and ends with the job. `{ after: event.id }` goes on from an event that was seen.
for await (const event of client.events.stream(job.id)) {
  if (event.type === 'progress') console.log(`${event.progress.phase} ${Math.round(100 * event.progress.fraction)} %`);
  else if (event.type === 'log') console.log(`${event.level}: ${event.message}`);
  else console.log(event.type);
}

const { status, error } = await client.jobs.retrieve(job.id);
console.log(error === null ? status : `${status}: ${error.message}`);
