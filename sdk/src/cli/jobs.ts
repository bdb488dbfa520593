/** `cherryq jobs`: look at jobs, follow, stop and delete them. */
import { listJobsQuerySchema, outcomeOf, schemesOf, type Job } from 'cherryq/contract';
import { JobFailedError } from '../index.ts';
import { downloadArtifacts } from '../node.ts';
import { command, group } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { interruptible, printFolder, printOutcome } from './follow.ts';
import { renderTable, schemeLabel } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { createProgress, describe } from './progress.ts';
import { look, serverFlags, withServer } from './server.ts';

const id = { type: 'positional', required: true, description: 'Id of the job' } as const;
const json = { type: 'boolean', description: 'Print JSON, nothing else' } as const;
const pageOptions = listJobsQuerySchema.pick({ limit: true, after: true, status: true, kind: true, modelId: true });

export const jobsCommand = (io: Io) =>
  group({
    name: 'cherryq jobs',
    summary: 'Look at jobs, follow, stop and delete them',
    children: {
      list: list(io),
      show: show(io),
      wait: wait(io),
      download: download(io),
      cancel: cancel(io),
      pause: pause(io),
      resume: resume(io),
      retry: retry(io),
      delete: remove(io),
      events: events(io),
    },
  });

const list = (io: Io) =>
  command({
    name: 'cherryq jobs list',
    summary: 'List jobs, newest first',
    examples: ['cherryq jobs list --status running'],
    args: {
      ...flagsOf(pageOptions, {
        limit: 'How many at most',
        after: 'Only those that were made before this one',
        status: 'Only these',
        kind: 'Only these',
        modelId: 'Only those of this model',
      }),
      metadata: { type: 'string', valueHint: 'KEY=VALUE', description: 'Only those that have this pair' },
      ...serverFlags,
      json,
    },
    async run(args) {
      const query = { ...parseFlags(pageOptions, args), metadata: args.metadata };
      const page = await look(io, args, (client, signal) => client.jobs.list(query, { signal }));
      if (args.json) return printJson(io, page);
      if (page.data.length === 0) return print(io, 'No jobs.');
      const rows = page.data.map((job) => [
        job.id,
        job.status,
        shareOf(job),
        job.modelName,
        job.kind,
        schemesText(job),
        job.createdAt,
      ]);
      print(io, renderTable(['id', 'status', 'done', 'model', 'kind', 'scheme', 'created'], rows, 7));
      if (page.hasMore) print(io, `There are more: --after ${page.data.at(-1)?.id}`);
    },
  });

const show = (io: Io) =>
  command({
    name: 'cherryq jobs show',
    summary: 'Show a job: its settings, its state, its result',
    examples: ['cherryq jobs show 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: { id, ...serverFlags, json },
    async run(args) {
      const job = await look(io, args, (client, signal) => client.jobs.retrieve(args.id, { signal }));
      if (args.json) return printJson(io, job);
      print(io, `job       ${job.id}`);
      print(io, `status    ${job.status}${job.attempt > 1 ? ` (attempt ${job.attempt})` : ''}`);
      print(io, `model     ${job.modelName} (${job.modelId})`);
      print(io, `kind      ${job.kind}`);
      if (job.scheme) print(io, `scheme    ${schemesText(job)}`);
      print(io, `created   ${job.createdAt}`);
      if (job.finishedAt) print(io, `finished  ${job.finishedAt}`);
      if (job.progress && job.finishedAt === null)
        print(io, `progress  ${job.progress.phase}${describe(job.progress)}`);
      if (job.error) print(io, `error     ${job.error.message} (${job.error.code})`);
      print(io, '');
      printOutcome(io, job);
    },
  });

const wait = (io: Io) =>
  command({
    name: 'cherryq jobs wait',
    summary: 'Follow a job to its end; goes on with one that was interrupted. Fails if the job fails',
    examples: ['cherryq jobs wait 01JZ8Q3V5X9Y2W4T6R8P0N1M3K --out ./compressed'],
    args: {
      id,
      out: { type: 'string', valueHint: 'DIR', description: 'Download the result to this folder' },
      ...serverFlags,
      json,
    },
    async run(args) {
      const { out } = args;
      const signal = io.interrupted;
      const progress = createProgress(io, !args.json);
      await withServer(io, { args, concurrency: 1 }, (connection) =>
        interruptible(io, connection, progress, { jobId: () => args.id, out }, async () => {
          const { client, flags } = connection;
          const job = await client.jobs.wait(args.id, { signal, onEvent: (event) => progress.event(event) });
          if (job.status !== 'succeeded') {
            progress.end();
            if (!args.json) printOutcome(io, job);
            throw new JobFailedError(job);
          }
          if (out === undefined) {
            progress.end();
            if (args.json) return printJson(io, job);
            printOutcome(io, job);
            return print(io, `Download it: cherryq jobs wait ${job.id}${flags} --out DIR`);
          }
          const done = await downloadArtifacts(client, job.id, out, {
            signal,
            onProgress: ({ receivedBytes, totalBytes }) => progress.transfer('download', receivedBytes, totalBytes),
          });
          progress.end();
          if (args.json) return printJson(io, { job, ...outcomeOf(job), ...done });
          printOutcome(io, job);
          printFolder(io, done);
        }),
      );
    },
  });

const download = (io: Io) =>
  command({
    name: 'cherryq jobs download',
    summary: 'Download what an ended job made; also what was kept apart of one that failed for its quality',
    examples: ['cherryq jobs download 01JZ8Q3V5X9Y2W4T6R8P0N1M3K --out ./compressed'],
    args: {
      id,
      out: { type: 'string', required: true, valueHint: 'DIR', description: 'Folder for the files' },
      ...serverFlags,
      json,
    },
    async run(args) {
      const progress = createProgress(io, !args.json);
      const done = await look(io, args, (client, signal) =>
        downloadArtifacts(client, args.id, args.out, {
          signal,
          onProgress: ({ receivedBytes, totalBytes }) => progress.transfer('download', receivedBytes, totalBytes),
        }),
      );
      progress.end();
      if (args.json) printJson(io, done);
      else printFolder(io, done);
    },
  });

const cancel = (io: Io) =>
  command({
    name: 'cherryq jobs cancel',
    summary: 'Cancel a queued or running job',
    examples: ['cherryq jobs cancel 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: {
      id,
      'keep-checkpoint': { type: 'boolean', description: 'Keep what it could go on from, for a retry' },
      ...serverFlags,
      json,
    },
    async run(args) {
      const keepCheckpoint = args['keep-checkpoint'];
      const job = await look(io, args, (client, signal) => client.jobs.cancel(args.id, { keepCheckpoint, signal }));
      if (args.json) printJson(io, job);
      else print(io, `job ${job.id} is ${job.status}`);
    },
  });

const pause = (io: Io) =>
  command({
    name: 'cherryq jobs pause',
    summary: 'Stop a job once it has saved a checkpoint, until it is resumed',
    examples: ['cherryq jobs pause 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: { id, ...serverFlags, json },
    async run(args) {
      const job = await look(io, args, (client, signal) => client.jobs.pause(args.id, { signal }));
      if (args.json) printJson(io, job);
      else print(io, `job ${job.id} is ${job.status}; go on with: cherryq jobs resume ${job.id}`);
    },
  });

const resume = (io: Io) =>
  command({
    name: 'cherryq jobs resume',
    summary: 'Go on with a paused job',
    examples: ['cherryq jobs resume 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: { id, ...serverFlags, json },
    async run(args) {
      const job = await look(io, args, (client, signal) => client.jobs.resume(args.id, { signal }));
      if (args.json) printJson(io, job);
      else print(io, `job ${job.id} is ${job.status}; follow it with: cherryq jobs wait ${job.id}`);
    },
  });

const retry = (io: Io) =>
  command({
    name: 'cherryq jobs retry',
    summary: 'Repeat a job that failed or was cancelled, from its last checkpoint if it kept one',
    examples: ['cherryq jobs retry 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: { id, ...serverFlags, json },
    async run(args) {
      const job = await look(io, args, (client, signal) => client.jobs.retry(args.id, { signal }));
      if (args.json) printJson(io, job);
      else print(io, `job ${job.id} is ${job.status}; follow it with: cherryq jobs wait ${job.id}`);
    },
  });

const remove = (io: Io) =>
  command({
    name: 'cherryq jobs delete',
    summary: 'Delete an ended job with all that it left',
    examples: ['cherryq jobs delete 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: { id, ...serverFlags, json },
    async run(args) {
      await look(io, args, (client, signal) => client.jobs.delete(args.id, { signal }));
      if (args.json) printJson(io, { id: args.id, deleted: true });
      else print(io, `job ${args.id} is deleted`);
    },
  });

const events = (io: Io) =>
  command({
    name: 'cherryq jobs events',
    summary: 'Print the events of a job, one JSON object a line',
    examples: ['cherryq jobs events 01JZ8Q3V5X9Y2W4T6R8P0N1M3K --follow'],
    args: {
      id,
      after: { type: 'string', valueHint: 'EVENT', description: 'Only events after this id' },
      follow: { type: 'boolean', description: 'Go on until the job has ended' },
      ...serverFlags,
      json: { type: 'boolean', description: 'Print JSON, nothing else: events are JSON in any case' },
    },
    async run(args) {
      const signal = io.interrupted;
      let { after } = args;
      if (args.follow)
        return withServer(io, { args, concurrency: 1 }, async ({ client }) => {
          for await (const event of client.events.stream(args.id, { after, signal })) print(io, JSON.stringify(event));
        });
      await look(io, args, async (client) => {
        for (let more = true; more;) {
          const page = await client.events.list(args.id, { after, limit: 1000 }, { signal });
          for (const event of page.data) print(io, JSON.stringify(event));
          after = page.data.at(-1)?.id ?? after;
          more = page.hasMore;
        }
      });
    },
  });

function shareOf({ status, progress }: Job): string {
  if (status === 'succeeded') return '100 %';
  return progress === null ? '' : `${Math.floor(progress.fraction * 100)} %`;
}

function schemesText({ scheme, comparison }: Job): string {
  if (scheme === null) return '';
  return comparison === null ? schemeLabel(scheme) : `${schemesOf({ scheme, comparison }).length} schemes`;
}
