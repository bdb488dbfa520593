/**
 * Idempotency-Key: a create that is sent twice happens once. The record of a key is written by exclusive creation before
 * the work begins and fixes the id of what will be created; the creation itself is exclusive under that id. So if the
 * process dies in between, whoever comes next may simply do the work again, and the lock needs no owner. The first answer
 * need not be kept: it follows from what was created.
 *
 * Semantics as Stripe's and draft-ietf-httpapi-idempotency-key-header-07: the first answer is replayed; 409 while the first
 * is under way; 422 when the key comes with another request; nothing is kept of a request that failed.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { idSchema, timestampSchema } from 'cherryq/contract';
import { decodeJson, encodeJson } from './job-log.ts';
import { listKeys } from './list-keys.ts';
import type { Clock, Store } from './ports.ts';
import { ProblemError } from './problems.ts';

/** After so long without an answer the process that took the key is held to be dead. */
const lockMs = 30_000;
const maxKeyLength = 255;

const recordSchema = z.object({
  requestHash: z.string(),
  /** Id of the thing that the request creates. */
  id: idSchema,
  startedAt: timestampSchema,
});
type KeyRecord = z.infer<typeof recordSchema>;

export interface IdempotentRequest<Answer> {
  tenant: string;
  /** Value of the header; undefined: the request is simply done. */
  key: string | undefined;
  /** What makes two requests the same: the route and the parsed body. */
  request: { route: string; body: unknown };
  newId: () => string;
  /** Creates the thing under this id; does nothing new when it is there already. */
  create: (id: string) => Promise<Answer>;
  /** What `create` answered when it had created the thing; null when it is not there. */
  created: (id: string) => Promise<Answer | null>;
}

/** @returns the answer, and whether it is that of an earlier request */
export async function idempotently<Answer>(
  { store, clock }: { store: Store; clock: Clock },
  { tenant, key, request, newId, create, created }: IdempotentRequest<Answer>,
): Promise<{ answer: Answer; replayed: boolean }> {
  if (key === undefined) return { answer: await create(newId()), replayed: false };
  if (key.length === 0 || key.length > maxKeyLength)
    throw new ProblemError(
      'invalid_request',
      `Idempotency-Key must have 1 to ${maxKeyLength} characters; got ${key.length}`,
      {
        param: 'Idempotency-Key',
      },
    );

  const recordKey = `tenants/${tenant}/idempotency/${sha256(key)}.json`;
  const requestHash = sha256(JSON.stringify(request));
  const mine: KeyRecord = { requestHash, id: newId(), startedAt: new Date(clock.now()).toISOString() };
  let record = mine;
  if (!(await store.put(recordKey, encodeJson(mine), { onlyIfAbsent: true }))) {
    const body = await store.get(recordKey);
    // Gone between the two calls: the first request failed and took its record with it.
    if (body === null) throw inFlight();
    record = recordSchema.parse(decodeJson(body));
    if (record.requestHash !== requestHash)
      throw new ProblemError(
        'idempotency_mismatch',
        'this Idempotency-Key was used before with another request; use a new key for a new request',
        { param: 'Idempotency-Key' },
      );
    const answer = await created(record.id);
    if (answer !== null) return { answer, replayed: true };
    if (clock.now() - Date.parse(record.startedAt) < lockMs) throw inFlight();
  }

  try {
    return { answer: await create(record.id), replayed: false };
  } catch (error) {
    await store.delete(recordKey);
    throw error;
  }
}

/** Removes the records of keys that were first used before a time.  @returns how many */
export async function removeIdempotencyBefore(store: Store, time: number): Promise<number> {
  let count = 0;
  for (const tenant of await store.folders('tenants/'))
    for await (const key of listKeys(store, `tenants/${tenant}/idempotency/`)) {
      const body = await store.get(key);
      if (body === null || Date.parse(recordSchema.parse(decodeJson(body)).startedAt) >= time) continue;
      await store.delete(key);
      count++;
    }
  return count;
}

/** Of the answer to a creation.  @param base address of the collection */
export function createdHeaders(base: string, { answer, replayed }: { answer: { id: string }; replayed: boolean }) {
  return { Location: `${base}/${answer.id}`, ...(replayed ? { 'Idempotent-Replayed': 'true' } : {}) };
}

function inFlight(): ProblemError {
  return new ProblemError(
    'idempotency_in_flight',
    'the first request with this Idempotency-Key is still being worked on; send it again in a second',
    { param: 'Idempotency-Key', headers: { 'Retry-After': '1' } },
  );
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
