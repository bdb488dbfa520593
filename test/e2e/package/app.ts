// A program of a user, compiled against the installed package without the zod that its contract is written in.
import { CherryQ, unwrapWebhook, type CreateJob, type Job, type JobEvent, type JobStatus } from 'cherryq';
import { CherryQ as NodeClient, downloadArtifacts, type CompressOptions } from 'cherryq/node';

export async function follow(baseUrl: string, request: CreateJob): Promise<Job> {
  const client = new CherryQ({ baseUrl });
  const { id }: { id: string } = await client.jobs.create(request);
  for await (const event of client.events.stream(id)) report(event);
  const job = await client.jobs.retrieve(id);
  const status: JobStatus = job.status;
  if (status !== 'succeeded') throw new Error(job.error?.message ?? status);
  return job;
}

function report(event: JobEvent): void {
  if (event.type === 'progress') console.log(event.progress.fraction.toFixed(2));
}

export async function onDisk(options: CompressOptions): Promise<number> {
  const client = new NodeClient({ baseUrl: 'http://127.0.0.1:7433' });
  const { job, result } = await client.compress({ ...options, scheme: { bits: 3, groupSize: 'row' } });
  await downloadArtifacts(client, job.id, 'elsewhere');
  return result.compressed.bitsPerWeight;
}

export const unwrap = async (body: string, headers: Headers): Promise<string> =>
  (await unwrapWebhook(body, headers, 'whsec_')).type;

export async function mistakes(client: CherryQ): Promise<void> {
  // @ts-expect-error no such method
  await client.jobs.get('id');
  // @ts-expect-error no such width
  await client.jobs.create({ modelId: 'id', scheme: { bits: 5 } });
  // @ts-expect-error no such status
  await client.jobs.list({ status: 'done' });
  // @ts-expect-error a result may be null
  console.log((await client.jobs.retrieve('id')).result.compressed);
  // @ts-expect-error compress needs files, which are in cherryq/node
  await client.compress({ model: 'model', out: 'out' });
  const status: JobStatus = (await client.jobs.retrieve('id')).status;
  // @ts-expect-error no such status
  console.log(status === 'done');
}
