import { describe, expectTypeOf, it } from 'vitest';
import type { z } from 'zod';
import type {
  Capabilities,
  CherryQ,
  CreateJob,
  Dataset,
  Estimate,
  Job,
  JobEvent,
  JobStatus,
  ListJobsQuery,
  Model,
} from 'cherryq';
import type { CherryQ as NodeClient, compress, CompressOptions } from 'cherryq/node';
import type { createJobSchema, jobSchema } from 'cherryq/contract';

describe('types of the client', () => {
  it("are the contract's", () => {
    expectTypeOf<Job>().toEqualTypeOf<z.infer<typeof jobSchema>>();
    expectTypeOf<CreateJob>().toEqualTypeOf<z.input<typeof createJobSchema>>();
    expectTypeOf<CherryQ['jobs']['retrieve']>().returns.resolves.toEqualTypeOf<Job>();
    expectTypeOf<CherryQ['capabilities']['retrieve']>().returns.resolves.toEqualTypeOf<Capabilities>();
    expectTypeOf<CherryQ['estimates']['create']>().returns.resolves.toEqualTypeOf<Estimate>();
    expectTypeOf<CherryQ['models']['upload']>().returns.resolves.toEqualTypeOf<Model>();
    expectTypeOf<CherryQ['datasets']['upload']>().returns.resolves.toEqualTypeOf<Dataset>();
    expectTypeOf<JobStatus>().toEqualTypeOf<'queued' | 'running' | 'paused' | 'succeeded' | 'failed' | 'cancelled'>();
  });

  it('ask of a job only what has no default, and refuse widths that do not exist', () => {
    expectTypeOf<{ modelId: string }>().toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; scheme: { bits: 3; groupSize: 'row' } }>().toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; scheme: { bits: 5 } }>().not.toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; scheme: { groupSize: 'column' } }>().not.toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; scheme: { method: 'gptq' } }>().not.toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; formats: 'native'[] }>().toExtend<CreateJob>();
    expectTypeOf<{ modelId: string; formats: 'onnx'[] }>().not.toExtend<CreateJob>();
    expectTypeOf<{ scheme: { bits: 5 } }>().not.toExtend<Pick<CompressOptions, 'scheme'>>();
    expectTypeOf<Record<string, never>>().not.toExtend<CreateJob>();
  });

  it('know the states, in what is asked and in what is answered', () => {
    expectTypeOf<{ status: 'succeeded' }>().toExtend<ListJobsQuery>();
    expectTypeOf<{ status: 'done' }>().not.toExtend<ListJobsQuery>();
    expectTypeOf<'done'>().not.toExtend<Job['status']>();
    expectTypeOf<'job.done'>().not.toExtend<JobEvent['type']>();
  });

  it('have the verbs of the resources and no others', () => {
    type Verbs<Resource extends keyof CherryQ> = keyof CherryQ[Resource];
    expectTypeOf<'create' | 'retrieve' | 'list' | 'cancel' | 'delete'>().toExtend<Verbs<'jobs'>>();
    expectTypeOf<'create' | 'retrieve' | 'list' | 'delete'>().toExtend<Verbs<'models'> & Verbs<'datasets'>>();
    expectTypeOf<'create' | 'retrieve' | 'list' | 'update' | 'delete'>().toExtend<Verbs<'webhooks'>>();
    expectTypeOf<'get'>().not.toExtend<Verbs<'jobs'> | Verbs<'models'> | Verbs<'webhooks'>>();
    expectTypeOf<Verbs<'capabilities'>>().toEqualTypeOf<'retrieve'>();
    expectTypeOf<Verbs<'estimates'>>().toEqualTypeOf<'create'>();
  });

  it('have compress only where there are files', () => {
    expectTypeOf<NodeClient>().toExtend<CherryQ>();
    expectTypeOf<'compress'>().not.toExtend<keyof CherryQ>();
    expectTypeOf<NodeClient['compress']>().returns.toEqualTypeOf<ReturnType<typeof compress>>();
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
