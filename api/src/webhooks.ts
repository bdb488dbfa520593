/** Webhooks: kept, sent and sent again (webhook-log.ts says where they lie, webhook-call.ts how one is called). */
import { randomBytes } from 'node:crypto';
import { ulid } from 'ulid';
import type {
  CreateWebhook,
  Page,
  UpdateWebhook,
  Webhook,
  WebhookDelivery,
  WebhookPayload,
  WebhookWithSecret,
} from 'cherryq/contract';
import { findNewest } from './newest-first.ts';
import type { Clock, Logger, Store } from './ports.ts';
import { ProblemError } from './problems.ts';
import { callWebhook, whyNotCalled, type Networks } from './webhook-call.ts';
import {
  beginAttempt,
  changeWebhook,
  deliveryIds,
  deliveryStatus,
  dueKey,
  duePrefix,
  endAttempt,
  forgetDelivery,
  forgetWebhook,
  parseDueKey,
  readAttempts,
  readMessage,
  readWebhook,
  retryDelaysMs,
  triedForMs,
  webhookIds,
  writeMessage,
  writeWebhook,
  type AttemptRecord,
  type DeliveryRef,
  type WebhookMessage,
  type WebhookRecord,
} from './webhook-log.ts';

const mostWebhooks = 20;
/** How long the old secret signs beside the new one. */
const overlapMs = 86_400_000;
/** Retries are late by up to this share of their delay, so that a receiver that comes back is not met by all at once. */
const jitter = 0.1;
/** How often it is seen whether a webhook is enabled again. */
const disabledLookMs = 60_000;
/** Calls at the same time. */
const concurrency = 16;

export interface Webhooks {
  /** @throws ProblemError (400, 429) */
  create(tenant: string, id: string, request: CreateWebhookRequest): Promise<WebhookWithSecret>;
  /** What `create` answered; null when there is no such webhook. */
  created(tenant: string, id: string): Promise<WebhookWithSecret | null>;
  list(tenant: string): Promise<Page<Webhook>>;
  retrieve(tenant: string, id: string): Promise<Webhook>;
  update(tenant: string, id: string, changes: UpdateWebhook): Promise<Webhook>;
  /** A new secret; the old one signs too for a day. */
  rotateSecret(tenant: string, id: string): Promise<WebhookWithSecret>;
  remove(tenant: string, id: string): Promise<void>;
  /** Newest job first. */
  deliveries(
    tenant: string,
    id: string,
    query: { limit: number; after?: string | undefined },
  ): Promise<Page<WebhookDelivery>>;
  /** Sends an event made for the purpose, at once. */
  test(tenant: string, id: string): Promise<WebhookDelivery>;
  /** Sends a delivery once more, at once, whatever came of it. */
  replay(tenant: string, id: string, deliveryId: string): Promise<WebhookDelivery>;
  /** Sends what is due.  @param budgetMs after so long nothing more is begun  @returns how many calls were made, and how many were taken */
  deliverDue(budgetMs?: number): Promise<{ sent: number; delivered: number }>;
  /** Deletes deliveries that were made before a time. */
  forgetBefore(time: number): Promise<void>;
}

export type CreateWebhookRequest = Required<CreateWebhook>;

export function createWebhooks({
  store,
  clock,
  logger,
  networks,
}: {
  store: Store;
  clock: Clock;
  logger: Logger;
  /** Beyond the public internet, that may be called. */
  networks: Networks;
}): Webhooks {
  const now = (): string => new Date(clock.now()).toISOString();

  async function find(tenant: string, id: string): Promise<WebhookRecord> {
    const found = await readWebhook(store, tenant, id);
    return found?.record ?? unknownWebhook(id);
  }

  async function change(
    tenant: string,
    id: string,
    next: (record: WebhookRecord) => WebhookRecord,
  ): Promise<WebhookRecord> {
    return (await changeWebhook(store, tenant, id, next)) ?? unknownWebhook(id);
  }

  function checkUrl(url: string | undefined): void {
    const refusal = url === undefined ? null : whyNotCalled(new URL(url), networks);
    if (refusal !== null)
      throw new ProblemError('invalid_request', `the body is not valid: url ${refusal}; got ${url}`, { param: 'url' });
  }

  async function readDelivery(delivery: DeliveryRef): Promise<WebhookDelivery | null> {
    const message = await readMessage(store, delivery);
    return message && viewDelivery(delivery, message, await readAttempts(store, delivery));
  }

  /** Sends once and writes down what came of it.  @returns null when another process is at it */
  async function attempt(
    delivery: DeliveryRef,
    message: WebhookMessage,
    before: readonly AttemptRecord[],
    record: WebhookRecord,
    manual: boolean,
  ): Promise<AttemptRecord | null> {
    const number = before.length + 1;
    const started = clock.now();
    const begun: AttemptRecord = {
      startedAt: new Date(started).toISOString(),
      manual,
      status: null,
      durationMs: null,
      error: 'the process that sent this ended before an answer came',
      answer: '',
      nextAttemptAt: null,
      ended: false,
    };
    if (!(await beginAttempt(store, delivery, number, begun))) return null;
    const answer = await callWebhook(
      {
        url: record.url,
        messageId: `msg_${message.id}`,
        payload: message.payload,
        secrets: record.secrets
          .filter(({ expiresAt }) => expiresAt === null || Date.parse(expiresAt) > started)
          .map(({ secret }) => secret),
        time: new Date(started),
      },
      networks,
    );
    const delay = retryDelaysMs[before.filter((each) => !each.manual).length];
    const next = manual || answer.error === null || delay === undefined ? null : delay * (1 + jitter * Math.random());
    const ended: AttemptRecord = {
      ...begun,
      ...answer,
      durationMs: clock.now() - started,
      nextAttemptAt: next === null ? null : new Date(clock.now() + Math.ceil(next)).toISOString(),
      ended: true,
    };
    await endAttempt(store, delivery, number, ended);
    if (answer.status === 410) {
      const disabledReason = 'it answered 410 (gone)';
      await changeWebhook(store, delivery.tenant, delivery.webhookId, (each) => ({
        ...each,
        enabled: false,
        disabledReason,
      }));
      logger({ level: 'warning', message: `webhook ${record.id} is disabled: ${disabledReason}` });
    }
    return ended;
  }

  /** Looks at a delivery whose time has come.  @returns what came of a call; null: there was none to make */
  async function look(delivery: DeliveryRef, key: string): Promise<AttemptRecord | null> {
    const record = (await readWebhook(store, delivery.tenant, delivery.webhookId))?.record;
    const message = record && (await readMessage(store, delivery));
    if (!record || !message) {
      await store.delete(key);
      return null;
    }
    if (!record.enabled) {
      const waits = clock.now() < Date.parse(message.createdAt) + triedForMs;
      await moveDue(delivery, key, waits ? clock.now() + disabledLookMs : null);
      return null;
    }
    const before = await readAttempts(store, delivery);
    const { nextAttemptAt } = deliveryStatus(message, before);
    const isDue = nextAttemptAt !== null && Date.parse(nextAttemptAt) <= clock.now();
    const made = isDue ? await attempt(delivery, message, before, record, false) : null;
    const after = made === null ? await readAttempts(store, delivery) : [...before, made];
    const next = deliveryStatus(message, after).nextAttemptAt;
    await moveDue(delivery, key, next === null ? null : Date.parse(next));
    return made;
  }

  /** @param time null: never again */
  async function moveDue(delivery: DeliveryRef, key: string, time: number | null): Promise<void> {
    const next = time === null ? null : dueKey(delivery, time);
    if (next === key) return;
    if (next !== null) await store.put(next, new Uint8Array());
    await store.delete(key);
  }

  /** A job that took long may have ended after the time all the same. */
  async function forgetOld(delivery: DeliveryRef, time: number): Promise<void> {
    const message = await readMessage(store, delivery);
    if (message !== null && Date.parse(message.createdAt) < time) await forgetDelivery(store, delivery);
  }

  async function sendByHand(delivery: DeliveryRef, message: WebhookMessage): Promise<WebhookDelivery> {
    const record = await find(delivery.tenant, delivery.webhookId);
    const before = await readAttempts(store, delivery);
    if ((await attempt(delivery, message, before, record, true)) === null)
      throw new ProblemError(
        'conflict',
        `delivery ${delivery.id} is being sent at this moment; look at it in a second`,
        {
          headers: { 'Retry-After': '1' },
        },
      );
    return viewDelivery(delivery, message, await readAttempts(store, delivery));
  }

  return {
    async create(tenant, id, request) {
      checkUrl(request.url);
      const ids = await webhookIds(store, tenant);
      if (ids.length >= mostWebhooks && !ids.includes(id))
        throw new ProblemError(
          'quota_exceeded',
          `there are ${ids.length} webhooks, and ${mostWebhooks} is the most; delete one, or let one take several events`,
        );
      const record: WebhookRecord = {
        ...request,
        id,
        enabled: true,
        disabledReason: null,
        createdAt: now(),
        secrets: [{ secret: newSecret(), expiresAt: null }],
      };
      if (await writeWebhook(store, tenant, 1, record)) return viewWithSecret(record);
      return viewWithSecret(await find(tenant, id));
    },

    async created(tenant, id) {
      const found = await readWebhook(store, tenant, id);
      return found && viewWithSecret(found.record);
    },

    async list(tenant) {
      const data: Webhook[] = [];
      for (const id of await webhookIds(store, tenant)) {
        const found = await readWebhook(store, tenant, id);
        if (found !== null) data.push(view(found.record));
      }
      return { object: 'list', data, hasMore: false, next: null };
    },

    retrieve: async (tenant, id) => view(await find(tenant, id)),

    async update(tenant, id, changes) {
      checkUrl(changes.url);
      const record = await change(tenant, id, (each) => ({
        ...each,
        ...changes,
        disabledReason: changes.enabled === undefined ? each.disabledReason : null,
      }));
      return view(record);
    },

    async rotateSecret(tenant, id) {
      const expiresAt = new Date(clock.now() + overlapMs).toISOString();
      const record = await change(tenant, id, (each) => ({
        ...each,
        secrets: [
          { secret: newSecret(), expiresAt: null },
          { secret: each.secrets[0].secret, expiresAt },
        ],
      }));
      return viewWithSecret(record);
    },

    async remove(tenant, id) {
      await find(tenant, id);
      await forgetWebhook(store, tenant, id);
    },

    async deliveries(tenant, id, { limit, after }) {
      await find(tenant, id);
      const { data, next } = await findNewest({
        limit,
        after,
        ids: (query) => deliveryIds(store, tenant, id, query),
        read: (deliveryId) => readDelivery({ tenant, webhookId: id, id: deliveryId }),
      });
      return { object: 'list', data, hasMore: next !== null, next };
    },

    async test(tenant, id) {
      await find(tenant, id);
      const delivery: DeliveryRef = { tenant, webhookId: id, id: ulid(clock.now()) };
      const payload: WebhookPayload = { type: 'webhook.test', timestamp: now(), data: { object: 'webhook', id } };
      const message: WebhookMessage = {
        id: delivery.id,
        type: 'webhook.test',
        createdAt: now(),
        payload: JSON.stringify(payload),
      };
      await writeMessage(store, delivery, message);
      return sendByHand(delivery, message);
    },

    async replay(tenant, id, deliveryId) {
      await find(tenant, id);
      const delivery: DeliveryRef = { tenant, webhookId: id, id: deliveryId };
      const message = await readMessage(store, delivery);
      if (message === null)
        throw new ProblemError(
          'not_found',
          `webhook ${id} has no delivery ${deliveryId}; GET /v1/webhooks/${id}/deliveries lists them`,
          { param: 'deliveryId' },
        );
      return sendByHand(delivery, message);
    },

    async deliverDue(budgetMs = Infinity) {
      const until = clock.now() + budgetMs;
      let [sent, delivered] = [0, 0];
      for (const tenant of await store.folders('tenants/')) {
        const keys = (await store.list(duePrefix(tenant))).map(({ key }) => key);
        const due = keys.flatMap((key) => {
          const parsed = parseDueKey(tenant, key);
          return parsed !== null && parsed.time <= clock.now() ? [{ key, delivery: parsed.delivery }] : [];
        });
        const sendNext = async (): Promise<void> => {
          for (let next = due.shift(); next !== undefined && clock.now() < until; next = due.shift()) {
            const made = await look(next.delivery, next.key);
            if (made !== null) sent++;
            if (made?.error === null) delivered++;
          }
        };
        await Promise.all(Array.from({ length: concurrency }, sendNext));
      }
      return { sent, delivered };
    },

    async forgetBefore(time) {
      // Ids begin with the time that they were made at, so all after this one are older.
      const newest = ulid(time);
      for (const tenant of await store.folders('tenants/'))
        for (const webhookId of await webhookIds(store, tenant)) {
          let ids: string[];
          for (let after = newest; ; after = ids.at(-1) ?? after) {
            ids = await deliveryIds(store, tenant, webhookId, { after, limit: 1000 });
            if (ids.length === 0) break;
            for (const id of ids) await forgetOld({ tenant, webhookId, id }, time);
          }
        }
    },
  };
}

function view({ id, url, events, description, enabled, disabledReason, createdAt }: WebhookRecord): Webhook {
  return { object: 'webhook', id, url, events, description, enabled, disabledReason, createdAt };
}

function viewWithSecret(record: WebhookRecord): WebhookWithSecret {
  return { ...view(record), secret: record.secrets[0].secret };
}

function viewDelivery(
  { webhookId }: DeliveryRef,
  message: WebhookMessage,
  attempts: readonly AttemptRecord[],
): WebhookDelivery {
  return {
    object: 'webhook_delivery',
    ...message,
    webhookId,
    ...deliveryStatus(message, attempts),
    attempts: attempts.map(({ startedAt, manual, status, durationMs, error, answer }) => ({
      startedAt,
      manual,
      status,
      durationMs,
      error,
      answer,
    })),
  };
}

const newSecret = (): string => `whsec_${randomBytes(32).toString('base64')}`;

function unknownWebhook(id: string): never {
  throw new ProblemError('not_found', `there is no webhook ${id}; GET /v1/webhooks lists them`, { param: 'id' });
}
