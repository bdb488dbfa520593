/**
 * What a job needs and what it costs, before it runs. Memory, disk and output follow from the model's config and the settings
 * (the trainer's `planJob`); time from how fast the tenant's last jobs went, or, before there are any, from the machine's entry.
 */
import { planJob, type JobPlan } from '@cherryq/batch-jobs/planning';
import { InputError } from '@cherryq/batch-jobs/storage';
import {
  engineNames,
  type createJobSchema,
  type EngineName,
  type Estimate,
  type KeptEstimate,
  type Machine,
} from 'cherryq/contract';
import type { z } from 'zod';
import { decodeJson, jobRef } from './job-log.ts';
import type { JobReader } from './job-reader.ts';
import { idsNewestFirst } from './newest-first.ts';
import type { Store } from './ports.ts';
import type { Upload } from './uploads.ts';

export interface EstimatedJob {
  readonly request: z.output<typeof createJobSchema>;
  readonly model: Upload;
  /** Store prefix of its files. */
  readonly modelPrefix: string;
  readonly calibration: Upload | null;
  readonly evaluation: Upload | null;
  readonly analysis: readonly Upload[];
}

export interface Estimator {
  /** @throws InputError for a model that the trainer does not read */
  estimate(tenant: string, job: EstimatedJob): Promise<Estimate>;
}

/** The formula is right within this; a job is refused only where it cannot be wrong by so much. */
const tolerance = 1.15;
/** Jobs that speed is learned from, at most, and how many are looked through for them. */
const [learnedFrom, lookedThrough] = [5, 30];
/** A job that was over sooner says little of speed. */
const leastSeconds = 0.2;
const maxConfigBytes = 2 ** 20;

export function createEstimator({
  store,
  reader,
  machines,
}: {
  store: Store;
  reader: JobReader;
  machines: readonly Machine[];
}): Estimator {
  async function configOf(prefix: string): Promise<Record<string, unknown>> {
    const body = await store.get(`${prefix}config.json`, { start: 0, end: maxConfigBytes });
    let config: unknown;
    try {
      config = body && decodeJson(body);
    } catch (cause) {
      throw new InputError(
        'bad_config',
        'config.json of the model is not valid JSON; upload the model again.',
        'modelId',
        {
          cause,
        },
      );
    }
    if (typeof config === 'object' && config !== null && !Array.isArray(config))
      return config as Record<string, unknown>;
    throw new InputError('bad_config', 'The model has no config.json that holds an object.', 'modelId');
  }

  /** How the tenant's last jobs went: those of the same method, if there are any. */
  async function historyOf(
    tenant: string,
    { kind, scheme }: EstimatedJob['request'],
    startSeconds: number,
  ): Promise<{ operationsPerSecond: number | null; engine: EngineName | null }> {
    const ids = await idsNewestFirst(store, tenant, 'jobs', { after: undefined, limit: lookedThrough });
    const [alike, all]: [number[], number[]] = [[], []];
    let engine: EngineName | null = null;
    for (const id of ids) {
      const record = await reader.read(jobRef(tenant, id));
      const ended = record?.states.at(-1);
      const outcome = ended?.result ?? ended?.analysisResult;
      if (!record?.spec.estimate || !outcome || ended?.status !== 'succeeded') continue;
      engine ??= engineNames.find((name) => name === outcome.engine) ?? null;
      const rate = record.spec.estimate.operations / Math.max(leastSeconds, outcome.seconds - startSeconds);
      // What a plan counts no operations for, such as rounding without an evaluation, tells nothing of speed.
      if (rate === 0) continue;
      all.push(rate);
      if (record.spec.kind === kind && record.spec.scheme.method === scheme.method) alike.push(rate);
    }
    const rates = (alike.length > 0 ? alike : all).slice(0, learnedFrom).sort((a, b) => a - b);
    return { operationsPerSecond: rates[Math.floor(rates.length / 2)] ?? null, engine };
  }

  return {
    async estimate(tenant, { request, model, modelPrefix, calibration, evaluation, analysis }) {
      const configJson = await configOf(modelPrefix);
      const history = await historyOf(tenant, request, machines[0]?.startSeconds ?? 0);
      const { operationsPerSecond: rate } = history;
      const texts = [calibration, ...analysis].filter((text) => text !== null);
      const plans = machines.map((machine) => {
        const plan = planJob({
          ...request,
          configJson,
          calibrationBytes: calibration && calibration.sizeBytes,
          evaluationBytes: evaluation && evaluation.sizeBytes,
          draws: request.kind === 'analyze' ? texts.length * request.analysis.draws : 1,
          // Which of a machine's engines runs, only jobs tell.
          engine: machine.deviceBytes === null ? (history.engine ?? machine.engine) : machine.engine,
        });
        const seconds = machine.startSeconds + plan.operations / (rate ?? machine.operationsPerSecond);
        return { machine, plan, seconds, fits: fits(plan, machine) };
      });
      const chosen = plans.find((each) => each.fits) ?? plans.at(-1);
      if (chosen === undefined) throw new Error('there is no machine to estimate for');
      const { hostBytes, deviceBytes, diskBytes, outputBytes, operations, parameters } = chosen.plan;
      return {
        object: 'estimate',
        allowed: chosen.fits,
        reason: chosen.fits ? null : reasonOf(model, chosen.plan, chosen.machine),
        parameters,
        hostBytes,
        deviceBytes,
        diskBytes,
        outputBytes,
        operations,
        seconds: chosen.seconds,
        secondsBasis: rate === null ? 'assumed' : 'measured',
        machines: plans.map(({ machine, plan, seconds, fits: isEnough }) => ({
          name: machine.name,
          fits: isEnough,
          hostBytes: plan.hostBytes,
          deviceBytes: machine.deviceBytes === null ? null : plan.deviceBytes,
          seconds,
          dollars: machine.dollarsPerHour === null ? null : (machine.dollarsPerHour * seconds) / 3600,
        })),
      };
    },
  };
}

/** What is kept with a job. */
export function keptOf({
  hostBytes,
  deviceBytes,
  diskBytes,
  outputBytes,
  operations,
  seconds,
}: Estimate): KeptEstimate {
  return { hostBytes, deviceBytes, diskBytes, outputBytes, operations, seconds };
}

function fits({ hostBytes, deviceBytes }: JobPlan, machine: Machine): boolean {
  return hostBytes <= tolerance * machine.hostBytes && deviceBytes <= tolerance * (machine.deviceBytes ?? 0);
}

function reasonOf(model: Upload, plan: JobPlan, { name, hostBytes, deviceBytes }: Machine): string {
  const onDevice = plan.deviceBytes > tolerance * (deviceBytes ?? 0);
  const [kind, needed, there] = onDevice
    ? ['GPU memory', plan.deviceBytes, deviceBytes ?? 0]
    : ['memory', plan.hostBytes, hostBytes];
  return (
    `${model.name} needs about ${gigabytes(needed)} of ${kind} with these settings, and ${name} has ${gigabytes(there)}. ` +
    'training.moments bfloat16, training.momentsIn file, training.mode blockWise, a smaller training.batchSize or sequenceLength take less; method rtn takes hardly any'
  );
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
