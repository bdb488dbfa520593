/**
 * What a tenant may use, and what it uses. The limits are the install's, unless `tenants/<tenant>/limits.json` gives a tenant
 * its own, by field. Requests are counted by each process for itself; all else is counted in the store when it is asked for,
 * so two requests at the same moment may go past a limit by one.
 */
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { limitsSchema, type Limits, type Usage } from 'cherryq/contract';
import { decodeJson, endedPrefix, openPrefix } from './job-log.ts';
import { listKeys } from './list-keys.ts';
import type { Clock, Store } from './ports.ts';
import { ProblemError } from './problems.ts';
import type { Uploads } from './uploads.ts';

const knownForMs = 10_000;
const minuteMs = 60_000;
const hourSeconds = 3600;

/** What is in the file of a job that has ended (job-log.ts, `endedKey`). */
export const endedSchema = z.object({ seconds: z.number() });

export interface Meter {
  limits(tenant: string): Promise<Limits>;
  usage(tenant: string): Promise<Usage>;
  /**
   * Counts a request.  @returns headers that say what is left (draft-ietf-httpapi-ratelimit-headers-11); none without a limit
   * @throws ProblemError (429) when there was one too many
   */
  countRequest(tenant: string): Promise<Record<string, string>>;
  /** @throws ProblemError (429) when the tenant may not have one more job */
  checkJob(tenant: string): Promise<void>;
  /** @throws ProblemError (429) when the tenant may not store so much more, (422) when the disk has no room for it */
  checkUpload(tenant: string, bytes: number): Promise<void>;
}

export interface MeterDeps {
  store: Store;
  clock: Clock;
  models: Uploads;
  datasets: Uploads;
  /** Of tenants that have none of their own. */
  defaults?: Partial<Limits>;
}

interface Bucket {
  /** Requests that may still come, a fraction of one too. */
  left: number;
  time: number;
}

export function createMeter({ store, clock, models, datasets, defaults = {} }: MeterDeps): Meter {
  const known = new LRUCache<string, Limits>({ max: 1000, ttl: knownForMs });
  const buckets = new LRUCache<string, Bucket>({ max: 10_000 });

  async function limitsOf(tenant: string): Promise<Limits> {
    const cached = known.get(tenant);
    if (cached !== undefined) return cached;
    const body = await store.get(`tenants/${tenant}/limits.json`);
    const own = body === null ? {} : limitsSchema.partial().parse(decodeJson(body));
    const limits = limitsSchema.parse({ ...defaults, ...own });
    known.set(tenant, limits);
    return limits;
  }

  async function openJobs(tenant: string): Promise<number> {
    let count = 0;
    for await (const key of listKeys(store, openPrefix(tenant))) if (key) count++;
    return count;
  }

  async function computeHours(tenant: string): Promise<number> {
    const month = new Date(clock.now()).toISOString().slice(0, 'yyyy-mm'.length);
    let seconds = 0;
    for await (const key of listKeys(store, `${endedPrefix(tenant)}${month}`)) {
      const body = await store.get(key);
      if (body?.length) seconds += endedSchema.parse(decodeJson(body)).seconds;
    }
    return seconds / hourSeconds;
  }

  const storedBytes = async (tenant: string): Promise<number> =>
    (await models.storedBytes(tenant)) + (await datasets.storedBytes(tenant));

  return {
    limits: limitsOf,

    async usage(tenant) {
      const [limits, jobs, bytes, hours] = await Promise.all([
        limitsOf(tenant),
        openJobs(tenant),
        storedBytes(tenant),
        computeHours(tenant),
      ]);
      return { object: 'usage', limits, openJobs: jobs, storedBytes: bytes, computeHoursThisMonth: hours };
    },

    async countRequest(tenant) {
      const { requestsPerMinute: most } = await limitsOf(tenant);
      if (most === null) return {};
      const now = clock.now();
      const { left, time } = buckets.get(tenant) ?? { left: most, time: now };
      const refilled = Math.min(most, left + ((now - time) * most) / minuteMs);
      const isAllowed = refilled >= 1;
      const rest = isAllowed ? refilled - 1 : refilled;
      buckets.set(tenant, { left: rest, time: now });
      const secondsToNext = Math.ceil(((1 - Math.min(1, rest)) * minuteMs) / most / 1000);
      const headers = {
        'RateLimit-Policy': `"requests";q=${most};w=60`,
        RateLimit: `"requests";r=${Math.floor(rest)};t=${Math.max(1, secondsToNext)}`,
      };
      if (isAllowed) return headers;
      throw new ProblemError(
        'too_many_requests',
        `more than ${most} requests a minute came with keys of this tenant; send the next one in ${secondsToNext} s`,
        { headers: { ...headers, 'Retry-After': String(secondsToNext) } },
      );
    },

    async checkJob(tenant) {
      const limits = await limitsOf(tenant);
      if (limits.openJobs !== null) {
        const count = await openJobs(tenant);
        if (count >= limits.openJobs)
          throw exceeded(
            `${count} jobs have not ended, and at most ${limits.openJobs} may be open; wait for one to end, or cancel one`,
          );
      }
      if (limits.computeHoursPerMonth !== null) {
        const hours = await computeHours(tenant);
        if (hours >= limits.computeHoursPerMonth)
          throw exceeded(
            `jobs have run ${hours.toFixed(1)} hours this month, and ${limits.computeHoursPerMonth} are allowed; wait for the next month, or ask whoever runs this install for more`,
          );
      }
    },

    async checkUpload(tenant, bytes) {
      const free = await store.freeBytes?.();
      if (free !== undefined && bytes > free)
        throw new ProblemError(
          'does_not_fit',
          `${bytes} bytes would be stored, and the disk of the store has room for ${free}; free some space, or move the store to a larger disk`,
          { param: 'files' },
        );
      const { storedBytes: most } = await limitsOf(tenant);
      if (most === null) return;
      const stored = await storedBytes(tenant);
      if (stored + bytes > most)
        throw exceeded(
          `${stored} bytes are stored, ${bytes} would be added, and ${most} are allowed; delete models or datasets that are not needed`,
        );
    },
  };
}

function exceeded(detail: string): ProblemError {
  return new ProblemError('quota_exceeded', detail);
}
