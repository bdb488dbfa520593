/**
 * Webhooks in the store, typed. As everything else they need no other database:
 *
 *     tenants/<tenant>/webhooks/<webhook>/<n>.json             what it is; the newest number counts
 *                     /deliveries/<webhook>/<turned id>.json   what is to be sent, written once
 *                     /attempts/<webhook>/<id>/<n>.json        each time it was sent: first that, then what came of it
 *                     /due/<milliseconds>.<webhook>.<id>       empty; says when somebody must look at a delivery
 *
 * A delivery has the id of the job that it tells of, so however often a job's end is looked at there is one. An attempt is begun by
 * exclusive creation, so of several processes one sends it, and whoever dies while sending leaves word that it was begun.
 */
import { z } from 'zod';
import {
  timestampSchema,
  webhookAttemptSchema,
  webhookDeliverySchema,
  webhookEvents,
  webhookSchema,
  type JobSpec,
  type JobState,
  type WebhookDelivery,
  type WebhookEvent,
  type WebhookPayload,
} from 'cherryq/contract';
import { createNumbered, numberedKey, readLatestNumbered, readNumbered } from '@cherryq/batch-jobs/storage';
import { decodeJson, encodeJson, readSpec, readLatestState } from './job-log.ts';
import { turned } from './newest-first.ts';
import type { Clock, JobRef, Store } from './ports.ts';

/** From one automatic attempt to the next: the schedule that Standard Webhooks 1.0.0 recommends, three days in all. */
export const retryDelaysMs = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400].map(
  (seconds) => seconds * 1000,
);
/** After so long an attempt without an outcome has died with its process; well above the longest that a call may take. */
export const abandonedAfterMs = 60_000;
/** A delivery is tried for so long, and waits so long for a webhook that is disabled. */
export const triedForMs = retryDelaysMs.reduce((total, delay) => total + delay, 0);

const secretSchema = z.object({ secret: z.string(), expiresAt: timestampSchema.nullable() });
export const webhookRecordSchema = webhookSchema.omit({ object: true }).extend({
  /** The first is what the user was shown last; another signs beside it until it runs out. */
  secrets: z.tuple([secretSchema], secretSchema),
});
export type WebhookRecord = z.infer<typeof webhookRecordSchema>;

const messageSchema = webhookDeliverySchema.pick({ id: true, type: true, createdAt: true, payload: true });
export type WebhookMessage = z.infer<typeof messageSchema>;

const attemptSchema = webhookAttemptSchema.extend({
  /** When to send it again; null: not by ourselves, or not known yet. */
  nextAttemptAt: timestampSchema.nullable(),
  /** Whether an outcome was written. */
  ended: z.boolean(),
});
export type AttemptRecord = z.infer<typeof attemptSchema>;

/** A delivery as its place in the store says it. */
export interface DeliveryRef {
  tenant: string;
  webhookId: string;
  id: string;
}

const versionDigits = 6;
const attemptDigits = 4;
const dueDigits = 14;
const webhooksPrefix = (tenant: string): string => `tenants/${tenant}/webhooks/`;
const versionPrefix = (tenant: string, id: string): string => `${webhooksPrefix(tenant)}${id}/`;
const deliveriesPrefix = (tenant: string, webhookId: string): string => `tenants/${tenant}/deliveries/${webhookId}/`;
const deliveryKey = ({ tenant, webhookId, id }: DeliveryRef): string =>
  `${deliveriesPrefix(tenant, webhookId)}${turned(id)}.json`;
const attemptsPrefix = ({ tenant, webhookId, id }: DeliveryRef): string =>
  `tenants/${tenant}/attempts/${webhookId}/${id}/`;
export const duePrefix = (tenant: string): string => `tenants/${tenant}/due/`;
export const dueKey = ({ tenant, webhookId, id }: DeliveryRef, time: number): string =>
  `${duePrefix(tenant)}${String(time).padStart(dueDigits, '0')}.${webhookId}.${id}`;

/** @returns null for a key that is not one of `dueKey`'s */
export function parseDueKey(tenant: string, key: string): { delivery: DeliveryRef; time: number } | null {
  const [time = '', webhookId, id] = key.slice(duePrefix(tenant).length).split('.');
  return webhookId && id ? { delivery: { tenant, webhookId, id }, time: Number(time) } : null;
}

/** Ids of a tenant's webhooks, oldest first. */
export const webhookIds = (store: Store, tenant: string): Promise<string[]> => store.folders(webhooksPrefix(tenant));

export async function readWebhook(
  store: Store,
  tenant: string,
  id: string,
): Promise<{ version: number; record: WebhookRecord } | null> {
  const entry = await readLatestNumbered(store, versionPrefix(tenant, id));
  return entry && { version: entry.number, record: webhookRecordSchema.parse(decodeJson(entry.body)) };
}

/** @returns false when the version is there already */
export function writeWebhook(store: Store, tenant: string, version: number, record: WebhookRecord): Promise<boolean> {
  return createNumbered(
    store,
    versionPrefix(tenant, record.id),
    versionDigits,
    '.json',
    version,
    encodeJson(webhookRecordSchema.parse(record)),
  );
}

/** Changes a webhook, again when another was faster.  @returns what it is then; null: there is none */
export async function changeWebhook(
  store: Store,
  tenant: string,
  id: string,
  change: (record: WebhookRecord) => WebhookRecord,
): Promise<WebhookRecord | null> {
  for (;;) {
    const found = await readWebhook(store, tenant, id);
    if (found === null) return null;
    const record = change(found.record);
    if (await writeWebhook(store, tenant, found.version + 1, record)) return record;
  }
}

/** Removes a webhook and all that was to be sent to it. */
export async function forgetWebhook(store: Store, tenant: string, id: string): Promise<void> {
  await store.deletePrefix(versionPrefix(tenant, id));
  await store.deletePrefix(deliveriesPrefix(tenant, id));
  await store.deletePrefix(`tenants/${tenant}/attempts/${id}/`);
}

/** Ids of deliveries, the newest first. */
export async function deliveryIds(
  store: Store,
  tenant: string,
  webhookId: string,
  { after, limit }: { after: string | undefined; limit: number },
): Promise<string[]> {
  const prefix = deliveriesPrefix(tenant, webhookId);
  const start = after === undefined ? {} : { after: deliveryKey({ tenant, webhookId, id: after }) };
  const keys = await store.list(prefix, { limit, ...start });
  return keys.map(({ key }) => turned(key.slice(prefix.length, -'.json'.length)));
}

export async function readMessage(store: Store, delivery: DeliveryRef): Promise<WebhookMessage | null> {
  const body = await store.get(deliveryKey(delivery));
  return body && messageSchema.parse(decodeJson(body));
}

/** What is to be sent; one that is there already is left as it is. */
export async function writeMessage(store: Store, delivery: DeliveryRef, message: WebhookMessage): Promise<void> {
  await store.put(deliveryKey(delivery), encodeJson(message), { onlyIfAbsent: true });
}

export async function forgetDelivery(store: Store, delivery: DeliveryRef): Promise<void> {
  await store.delete(deliveryKey(delivery));
  await store.deletePrefix(attemptsPrefix(delivery));
}

export async function readAttempts(store: Store, delivery: DeliveryRef): Promise<AttemptRecord[]> {
  const attempts: AttemptRecord[] = [];
  for await (const { body } of readNumbered(store, attemptsPrefix(delivery), attemptDigits, '.json'))
    attempts.push(attemptSchema.parse(decodeJson(body)));
  return attempts;
}

/** @param number one more than there are   @returns false when another process begins it */
export function beginAttempt(
  store: Store,
  delivery: DeliveryRef,
  number: number,
  attempt: AttemptRecord,
): Promise<boolean> {
  return createNumbered(store, attemptsPrefix(delivery), attemptDigits, '.json', number, encodeJson(attempt));
}

export async function endAttempt(
  store: Store,
  delivery: DeliveryRef,
  number: number,
  attempt: AttemptRecord,
): Promise<void> {
  await store.put(numberedKey(attemptsPrefix(delivery), attemptDigits, '.json', number), encodeJson(attempt));
}

/** The state of a delivery: it follows from its attempts. */
export function deliveryStatus(
  message: WebhookMessage,
  attempts: readonly AttemptRecord[],
): Pick<WebhookDelivery, 'status' | 'nextAttemptAt'> {
  if (attempts.some(({ ended, error }) => ended && error === null)) return { status: 'delivered', nextAttemptAt: null };
  const automatic = attempts.filter(({ manual }) => !manual);
  if (message.type === 'webhook.test' || automatic.length > retryDelaysMs.length)
    return { status: 'failed', nextAttemptAt: null };
  const last = automatic.at(-1);
  if (last === undefined) return { status: 'pending', nextAttemptAt: message.createdAt };
  const abandoned = new Date(Date.parse(last.startedAt) + abandonedAfterMs).toISOString();
  return { status: 'pending', nextAttemptAt: last.ended ? last.nextAttemptAt : abandoned };
}

/**
 * Writes down, for each webhook that wants to know, that a job has ended; what is written already stays. Whoever ends a job calls
 * this before he stops caring for it.
 */
export async function announceEnd(store: Store, job: JobRef, clock: Clock): Promise<void> {
  const ids = await webhookIds(store, job.tenant);
  if (ids.length === 0) return;
  const [spec, state] = await Promise.all([readSpec(store, job), readLatestState(store, job)]);
  if (spec === null || state === null) return;
  const type = webhookEvents.find((event) => event === `job.${state.status}`);
  if (type === undefined) return;
  const payload = JSON.stringify(endPayload(type, spec, state));
  for (const webhookId of ids) {
    const record = (await readWebhook(store, job.tenant, webhookId))?.record;
    // One that was made after the job had ended never asked for it.
    if (!record?.events.includes(type) || record.createdAt > state.time) continue;
    const delivery: DeliveryRef = { tenant: job.tenant, webhookId, id: job.id };
    const createdAt = new Date(clock.now()).toISOString();
    await writeMessage(store, delivery, { id: job.id, type, createdAt, payload });
    await store.put(dueKey(delivery, clock.now()), new Uint8Array());
  }
}

function endPayload(type: WebhookEvent, spec: JobSpec, { status, time, error }: JobState): WebhookPayload {
  const { id, kind, modelId, metadata } = spec;
  const errorCode = error?.code ?? null;
  return { type, timestamp: time, data: { object: 'job', id, kind, status, modelId, metadata, errorCode } };
}
