/** `cherryq webhooks`: have a server told when jobs end. */
import { createWebhookSchema, listQuerySchema, updateWebhookSchema, type WebhookDelivery } from 'cherryq/contract';
import { command, group } from './command.ts';
import { flagsOf, givenFlags, parseFlags } from './flags.ts';
import { renderTable } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { look, serverFlags } from './server.ts';

const id = { type: 'positional', required: true, description: 'Id of the webhook' } as const;
const json = { type: 'boolean', description: 'Print JSON, nothing else' } as const;
const common = { ...serverFlags, json } as const;
const pageOptions = listQuerySchema.pick({ limit: true });

const aboutSettings = {
  url: 'Where events are sent, with POST',
  events: 'Which events, with commas between them',
  description: 'For people: what listens there',
};

export const webhooksCommand = (io: Io) =>
  group({
    name: 'cherryq webhooks',
    summary: 'Have a server of yours told when jobs end',
    children: {
      create: create(io),
      list: list(io),
      update: update(io),
      delete: remove(io),
      rotate: rotate(io),
      test: test(io),
      deliveries: deliveries(io),
      replay: replay(io),
    },
  });

const create = (io: Io) =>
  command({
    name: 'cherryq webhooks create',
    summary: 'Make a webhook; its secret is shown this once',
    examples: ['cherryq webhooks create --url https://example.com/cherryq --events job.succeeded,job.failed'],
    args: { ...flagsOf(createWebhookSchema, aboutSettings), ...common },
    async run(args) {
      const request = parseFlags(createWebhookSchema, args);
      const webhook = await look(io, args, (client, signal) => client.webhooks.create(request, { signal }));
      if (args.json) return printJson(io, webhook);
      print(io, `webhook   ${webhook.id}`);
      print(io, `secret    ${webhook.secret}`);
    },
  });

const list = (io: Io) =>
  command({
    name: 'cherryq webhooks list',
    summary: 'List webhooks',
    examples: ['cherryq webhooks list --json'],
    args: common,
    async run(args) {
      const page = await look(io, args, (client, signal) => client.webhooks.list({ signal }));
      if (args.json) return printJson(io, page);
      if (page.data.length === 0) return print(io, 'No webhooks.');
      const rows = page.data.map(({ id, enabled, disabledReason, url, events }) => [
        id,
        enabled ? 'enabled' : `disabled${disabledReason === null ? '' : `: ${disabledReason}`}`,
        events.join(' '),
        url,
      ]);
      print(io, renderTable(['id', 'state', 'events', 'url'], rows, 4));
    },
  });

const update = (io: Io) =>
  command({
    name: 'cherryq webhooks update',
    summary: 'Change a webhook, disable or enable it',
    examples: ['cherryq webhooks update 01JZ8Q3V5X9Y2W4T6R8P0N1M3K --enabled false'],
    args: {
      id,
      ...flagsOf(updateWebhookSchema, { ...aboutSettings, enabled: 'While it is false nothing is sent' }),
      ...common,
    },
    async run(args) {
      const changes = givenFlags(updateWebhookSchema, args);
      const webhook = await look(io, args, (client, signal) => client.webhooks.update(args.id, changes, { signal }));
      if (args.json) return printJson(io, webhook);
      print(io, `webhook ${webhook.id} is ${webhook.enabled ? 'enabled' : 'disabled'}: ${webhook.url}`);
    },
  });

const remove = (io: Io) =>
  command({
    name: 'cherryq webhooks delete',
    summary: 'Delete a webhook; nothing more is sent to it',
    examples: ['cherryq webhooks delete 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: { id, ...common },
    async run(args) {
      await look(io, args, (client, signal) => client.webhooks.delete(args.id, { signal }));
      if (args.json) printJson(io, { id: args.id, deleted: true });
      else print(io, `webhook ${args.id} is deleted`);
    },
  });

const rotate = (io: Io) =>
  command({
    name: 'cherryq webhooks rotate',
    summary: 'Make a new secret; for a day the old one signs as well',
    examples: ['cherryq webhooks rotate 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: { id, ...common },
    async run(args) {
      const webhook = await look(io, args, (client, signal) => client.webhooks.rotateSecret(args.id, { signal }));
      if (args.json) printJson(io, webhook);
      else print(io, webhook.secret);
    },
  });

const test = (io: Io) =>
  command({
    name: 'cherryq webhooks test',
    summary: 'Send an event of the type webhook.test now; fails unless it is taken',
    examples: ['cherryq webhooks test 01JZ8Q3V5X9Y2W4T6R8P0N1M3K'],
    args: { id, ...common },
    run: async (args) =>
      told(io, args, await look(io, args, (client, signal) => client.webhooks.test(args.id, { signal }))),
  });

const deliveries = (io: Io) =>
  command({
    name: 'cherryq webhooks deliveries',
    summary: 'List what was sent to a webhook in the last 30 days, and what came of it',
    examples: ['cherryq webhooks deliveries 01JZ8Q3V5X9Y2W4T6R8P0N1M3K --limit 5'],
    args: { id, ...flagsOf(pageOptions, { limit: 'How many at most' }), ...common },
    async run(args) {
      const query = parseFlags(pageOptions, args);
      const page = await look(io, args, (client, signal) => client.webhooks.deliveries(args.id, query, { signal }));
      if (args.json) return printJson(io, page);
      if (page.data.length === 0) return print(io, 'Nothing was sent.');
      const rows = page.data.map(({ id, type, status, attempts, nextAttemptAt }) => [
        id,
        type,
        status,
        String(attempts.length),
        nextAttemptAt ?? '',
        attempts.at(-1)?.error ?? '',
      ]);
      print(io, renderTable(['id', 'event', 'state', 'attempts', 'next', 'error'], rows, 6));
    },
  });

const replay = (io: Io) =>
  command({
    name: 'cherryq webhooks replay',
    summary: 'Send a delivery once more, now; fails unless it is taken',
    examples: ['cherryq webhooks replay 01JZ8Q3V5X9Y2W4T6R8P0N1M3K 01JZ8Q3V5X9Y2W4T6R8P0N1M3M'],
    args: {
      id,
      delivery: { type: 'positional', required: true, description: 'Id of the delivery, as `deliveries` lists it' },
      ...common,
    },
    run: async (args) =>
      told(
        io,
        args,
        await look(io, args, (client, signal) => client.webhooks.replay(args.id, args.delivery, { signal })),
      ),
  });

/** @returns the exit code: 1 unless the last call was taken */
function told(io: Io, args: { json?: boolean }, delivery: WebhookDelivery): number {
  const last = delivery.attempts.at(-1);
  if (args.json) printJson(io, delivery);
  else if (last?.error === null) print(io, `taken: ${last.status} in ${last.durationMs} ms`);
  else print(io, `not taken: ${last?.error}${last?.answer ? `\n${last.answer}` : ''}`);
  return last?.error === null ? 0 : 1;
}
