import { describe, expectTypeOf, it } from 'vitest';
import type { z } from 'zod';
import type { CherryQ, CreateJob, Dataset, Job, JobEvent, JobStatus, Model } from 'cherryq';
import type { compress } from 'cherryq/node';
import type { createJobSchema, jobSchema } from 'cherryq/contract';

describe('types of the client', () => {
  it("are the contract's", () => {
    expectTypeOf<Job>().toEqualTypeOf<z.infer<typeof jobSchema>>();
    expectTypeOf<CreateJob>().toEqualTypeOf<z.input<typeof createJobSchema>>();
    expectTypeOf<CherryQ['jobs']['get']>().returns.resolves.toEqualTypeOf<Job>();
    expectTypeOf<CherryQ['models']['upload']>().returns.resolves.toEqualTypeOf<Model>();
    expectTypeOf<CherryQ['datasets']['upload']>().returns.resolves.toEqualTypeOf<Dataset>();
    expectTypeOf<JobStatus>().toEqualTypeOf<'queued' | 'running' | 'paused' | 'succeeded' | 'failed' | 'cancelled'>();
  });

  it('ask of a job only what has no default, and refuse widths that do not exist', () => {
    expectTypeOf<{ modelId: string }>().toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; scheme: { bits: 3; groupSize: 'row' } }>().toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; scheme: { bits: 5 } }>().not.toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; scheme: { groupSize: 'column' } }>().not.toExtend<CreateJob>();
    expectTypeOf<Record<string, never>>().not.toExtend<CreateJob>();
  });

  it('tell events apart by their type', () => {
    expectTypeOf<CherryQ['events']['stream']>().returns.toExtend<AsyncIterable<JobEvent>>();
    type Failed = Extract<JobEvent, { type: 'job.failed' }>;
    expectTypeOf<Failed['error']['fault']>().toEqualTypeOf<'user' | 'service' | 'quality'>();
  });

  it('give compress a result, never null', () => {
    expectTypeOf<typeof compress>().returns.resolves.toHaveProperty('result').not.toBeNullable();
  });
});
