/**
 * What a job needs and what it costs, before it runs. Memory, disk and output follow from the model's config and the settings
 * (the trainer's `planJob`); time from how fast the tenant's last jobs went, or, before there are any, from the machine's entry.
 */
import { computingPhases, measuresDivergence, planJob } from '@cherryq/batch-jobs/planning';
import type { JobPlan, KnownFigures, PhaseWork } from '@cherryq/batch-jobs/planning';
import { InputError } from '@cherryq/batch-jobs/storage';
import {
  anyResultOf,
  engineNames,
  phaseNames,
  type Estimate,
  type JobSettings,
  type JobSpec,
  type KeptEstimate,
  type Machine,
  type Phase,
} from 'cherryq/contract';
import { LRUCache } from 'lru-cache';
import { decodeJson, endedPrefix, jobRef } from './job-log.ts';
import type { JobReader } from './job-reader.ts';
import { namesNewestFirst } from './list-keys.ts';
import { idsNewestFirst } from './newest-first.ts';
import { ProblemError } from './problems.ts';
import type { Queue, Store } from './ports.ts';
import type { Upload } from './uploads.ts';

export interface EstimatedJob {
  readonly request: JobSettings;
  /** Where its files are in the store, and what it is called. */
  readonly model: Pick<Upload, 'id' | 'name' | 'fingerprint'> & { readonly prefix: string };
  readonly calibration: Pick<Upload, 'sizeBytes'> | null;
  readonly evaluation: Pick<Upload, 'sizeBytes'> | null;
  readonly tasks: readonly Pick<Upload, 'sizeBytes'>[];
  readonly analysis: readonly Pick<Upload, 'sizeBytes'>[];
}

export interface Estimator {
  /** @throws InputError for a model that the trainer does not read, ProblemError (400) for a machine that there is not */
  estimate(tenant: string, job: EstimatedJob): Promise<Estimate>;
}

/** The formula is right within this; a job is refused only where it cannot be wrong by so much. */
const tolerance = 1.15;
/** Jobs that speed is learned from, at most, and how many are looked through for them. */
const [learnedFrom, lookedThrough] = [5, 30];
/** Who asks again so soon learns from the same jobs. */
const historyKnownMs = 1000;
/** A phase that was over sooner says little of speed. */
const leastSeconds = 0.02;
const maxConfigBytes = 2 ** 20;

export function createEstimator({
  store,
  reader,
  machines,
  schemesAtOnce = false,
}: {
  store: Store;
  reader: Pick<JobReader, 'read'>;
  machines: readonly Machine[];
  /** As the queue has it. */
  schemesAtOnce?: Queue['schemesAtOnce'];
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

  /** The tenant's last jobs that succeeded, the newest first: among those created last, and those that were put away last. */
  async function lookThrough(tenant: string): Promise<PastJob[]> {
    const ids = await idsNewestFirst(store, tenant, 'jobs', { after: undefined, limit: lookedThrough });
    const ended = await endedLast(tenant);
    const all = [...new Set([...ids, ...ended])].sort().reverse();
    const records = await Promise.all(all.map((id) => reader.read(jobRef(tenant, id))));
    return records.flatMap((record) => {
      const last = record?.states.at(-1);
      const outcome = last && anyResultOf(last);
      const ran = machines.find(({ name }) => name === record?.spec.machine) ?? machines[0];
      return record && ran && outcome && last.status === 'succeeded' ? [{ spec: record.spec, ran, ...outcome }] : [];
    });
  }

  async function endedLast(tenant: string): Promise<string[]> {
    const ids: string[] = [];
    for (const day of (await store.folders(endedPrefix(tenant))).reverse()) {
      ids.push(...(await namesNewestFirst(store, `${endedPrefix(tenant)}${day}/`)));
      if (ids.length >= lookedThrough) break;
    }
    return ids.slice(0, lookedThrough);
  }

  const histories = new LRUCache<string, PastJob[]>({ max: 1000, ttl: historyKnownMs, fetchMethod: lookThrough });

  return {
    async estimate(tenant, { request, model, calibration, evaluation, tasks, analysis }) {
      if (request.machine !== undefined && !machines.some(({ name }) => name === request.machine))
        throw new ProblemError(
          'invalid_request',
          `machine: there is no ${request.machine}; there is ${machines.map(({ name }) => name).join(', ')}. Leave it out for the cheapest that fits`,
          { param: 'machine' },
        );
      const configJson = await configOf(model.prefix);
      const history = (await histories.fetch(tenant)) ?? [];
      const engine = engineNames.find((name) => history.some((job) => job.engine === name));
      const speed = speedOf(history, request);
      const texts = [calibration, ...analysis].filter((text) => text !== null);
      const plans = machines.map((machine) => {
        // Which of a machine's engines runs, only jobs tell.
        const runs = machine.deviceBytes === null ? (engine ?? machine.engine) : machine.engine;
        const plan = planJob({
          ...request,
          configJson,
          calibrationBytes: calibration && calibration.sizeBytes,
          evaluationBytes: evaluation && evaluation.sizeBytes,
          draws: request.kind === 'analyze' ? texts.length * request.analysis.draws : 1,
          taskBytes: tasks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
          known: knownOf(history, request, model, runs),
          engine: runs,
        });
        const { seconds, machineSeconds } = timesOf(plan, speed, machine, schemesAtOnce);
        const dollars = machine.dollarsPerHour === null ? null : (machine.dollarsPerHour * machineSeconds) / 3600;
        return { machine, plan, seconds, dollars, fits: fits(plan, machine) };
      });
      const free = (await store.freeBytes?.()) ?? Number.POSITIVE_INFINITY;
      const fitting = plans.filter((each) => each.fits).sort((a, b) => priceOf(a) - priceOf(b));
      const chosen =
        request.machine === undefined
          ? (fitting[0] ?? plans.at(-1))
          : plans.find(({ machine }) => machine.name === request.machine);
      if (chosen === undefined) throw new Error('there is no machine to estimate for');
      const { hostBytes, deviceBytes, diskBytes, outputBytes, operations, work, parameters } = chosen.plan;
      let reason: string | null = null;
      if (!chosen.fits) reason = reasonOf(model.name, chosen.plan, chosen.machine, fitting[0]?.machine, request.kind);
      else if (diskBytes > tolerance * free)
        reason = `${model.name} needs about ${sizeOf(diskBytes)} of disk with these settings, and that of the store has room for ${sizeOf(free)}; free some space, or move the store to a larger disk`;
      return {
        object: 'estimate',
        allowed: reason === null,
        reason,
        parameters,
        machine: chosen.machine.name,
        hostBytes,
        deviceBytes,
        diskBytes,
        outputBytes,
        operations,
        work: { ...work },
        seconds: chosen.seconds,
        secondsBasis: speed.size === 0 ? 'assumed' : 'measured',
        machines: plans.map(({ machine, plan, seconds, dollars, fits: isEnough }) => ({
          name: machine.name,
          fits: isEnough,
          hostBytes: plan.hostBytes,
          deviceBytes: machine.deviceBytes === null ? null : plan.deviceBytes,
          seconds,
          dollars,
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
  work,
  seconds,
}: Estimate): KeptEstimate {
  return { hostBytes, deviceBytes, diskBytes, outputBytes, operations, work, seconds };
}

/** A job that has succeeded. */
interface PastJob {
  readonly spec: JobSpec;
  readonly ran: Machine;
  readonly engine: string;
  readonly phaseSeconds: Readonly<Record<string, number>>;
}

/**
 * What of a phase's work is done in a second, by phase; a phase that no job had is not there. Of a phase that computes, over
 * the operations a second of its machine's entry, so that it tells something of other machines too.
 */
type Speed = ReadonlyMap<Phase, number>;

/** For each phase the median of the last jobs that had it: those of the same kind and method, if there are any. */
function speedOf(history: readonly PastJob[], { kind, scheme }: JobSettings): Speed {
  const alike = history.filter(({ spec }) => spec.kind === kind && spec.scheme.method === scheme.method);
  const ratesOf = (jobs: readonly PastJob[], phase: Phase): number[] =>
    jobs.flatMap(({ spec, ran, phaseSeconds }) => {
      const [work = 0, seconds] = [spec.estimate?.work[phase], phaseSeconds[phase]];
      return work > 0 && seconds !== undefined ? [work / Math.max(leastSeconds, seconds) / unitOf(phase, ran)] : [];
    });
  const speed = new Map<Phase, number>();
  for (const phase of phaseNames) {
    const own = ratesOf(alike, phase);
    const median = medianOf((own.length > 0 ? own : ratesOf(history, phase)).slice(0, learnedFrom));
    if (median !== undefined) speed.set(phase, median);
  }
  return speed;
}

function medianOf(values: readonly number[]): number | undefined {
  const sorted = values.toSorted((a, b) => a - b);
  const [below, above] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted[Math.floor(sorted.length / 2)]];
  return below === undefined || above === undefined ? undefined : (below + above) / 2;
}

/** @returns seconds until it is done, and those of all machines that it takes */
function timesOf(
  { work, apart }: JobPlan,
  speed: Speed,
  machine: Machine,
  schemesAtOnce: boolean,
): { seconds: number; machineSeconds: number } {
  const alone = (part: PhaseWork): number => machine.startSeconds + secondsOf(part, speed, machine);
  if (apart === undefined || apart.schemes.length < 2 || !schemesAtOnce) {
    const seconds = alone(work);
    return { seconds, machineSeconds: seconds };
  }
  const [each, merge] = [apart.schemes.map(alone), alone(apart.merge)];
  return { seconds: Math.max(...each) + merge, machineSeconds: each.reduce((sum, seconds) => sum + seconds, merge) };
}

/** Phases that no job has shown yet go as fast as the others that compute, or else as the machine's entry says. */
function secondsOf(work: PhaseWork, speed: Speed, machine: Machine): number {
  const computing = medianOf(computingPhases.flatMap((phase) => speed.get(phase) ?? [])) ?? 1;
  let seconds = 0;
  for (const phase of phaseNames) {
    const rate = speed.get(phase) ?? (isComputing(phase) ? computing : Number.POSITIVE_INFINITY);
    seconds += (work[phase] ?? 0) / (rate * unitOf(phase, machine));
  }
  return seconds;
}

const unitOf = (phase: Phase, { operationsPerSecond }: Machine): number =>
  isComputing(phase) ? operationsPerSecond : 1;

const isComputing = (phase: Phase): boolean => computingPhases.some((each) => each === phase);

/** What jobs that were done have left that another need not measure again. */
function knownOf(
  history: readonly PastJob[],
  next: JobSettings,
  model: EstimatedJob['model'],
  engine: string,
): KnownFigures {
  const measuring = history.filter((job) => job.engine === engine && isMeasuredAlike(job.spec, next));
  const original = originalOf(next);
  const { bits, groupSize, quantizer } = next.scheme;
  return {
    impact: history.some(({ spec }) => leavesImpactOf(spec, next, model.fingerprint)),
    original: original !== null && measuring.some(({ spec }) => originalOf(spec) === original),
    rounding: measuring.some(
      ({ spec: { kind, modelId, scheme } }) =>
        kind === 'compress' &&
        modelId === model.id &&
        scheme.bits === bits &&
        scheme.groupSize === groupSize &&
        scheme.quantizer === quantizer,
    ),
  };
}

/** The upload that a job measures as it is, to compare with; null where there is none. */
function originalOf({ kind, modelId, baselineModelId, artifact }: JobSettings | JobSpec): string | null {
  if (kind === 'analyze') return null;
  if (baselineModelId !== undefined) return baselineModelId;
  return artifact === undefined ? (modelId ?? null) : null;
}

/** Whether two jobs measure on the same text and tasks. */
function isMeasuredAlike(one: JobSettings | JobSpec, other: JobSettings | JobSpec): boolean {
  const [first, second] = [one, other].map(({ evaluation, baselineModelId }) => {
    if (!evaluation) return null;
    const { datasetId, maxTokens, tasks } = evaluation;
    const diverges = baselineModelId !== undefined || measuresDivergence(evaluation);
    return JSON.stringify([datasetId, maxTokens ?? null, tasks, diverges]);
  });
  return first !== null && first === second;
}

/** Shares of a row that every stored impact has candidates for, and the settings that decide which windows it was measured on. */
const leastCandidates = 1 / 32;
const windowSettings = ['impactSamples', 'sequenceLength', 'seed', 'windows'] as const;

/** Whether a job that was done has measured the impact that another needs. */
function leavesImpactOf(done: JobSpec, next: JobSettings, fingerprint: string | null): boolean {
  const measured = done.kind === 'compress' && done.scheme.method === 'cherryq' && done.scheme.criterion !== 'weight';
  return (
    measured &&
    next.kind !== 'analyze' &&
    done.modelFingerprint !== null &&
    done.modelFingerprint === fingerprint &&
    done.calibrationDatasetId === next.calibrationDatasetId &&
    next.scheme.cherryFraction <= Math.max(done.scheme.cherryFraction, leastCandidates) &&
    windowSettings.every((setting) => done.training[setting] === next.training[setting])
  );
}

function fits({ hostBytes, deviceBytes }: JobPlan, machine: Machine): boolean {
  return hostBytes <= tolerance * machine.hostBytes && deviceBytes <= tolerance * (machine.deviceBytes ?? 0);
}

/** What has no price comes after what has one, in the order of the configuration. */
const priceOf = ({ dollars }: { dollars: number | null }): number => dollars ?? Number.MAX_VALUE;

/** @param fitting the cheapest machine that would do */
function reasonOf(
  model: string,
  plan: JobPlan,
  { name, hostBytes, deviceBytes }: Machine,
  fitting: Machine | undefined,
  kind: JobSettings['kind'],
): string {
  const onDevice = plan.deviceBytes > tolerance * (deviceBytes ?? 0);
  const [memory, needed, there] = onDevice
    ? ['GPU memory', plan.deviceBytes, deviceBytes ?? 0]
    : ['memory', plan.hostBytes, hostBytes];
  const needs =
    `${model} needs about ${gigabytes(needed)} of ${memory} with these settings, and ${name} has ${gigabytes(there)}. ` +
    (fitting === undefined ? '' : `It fits on machine ${fitting.name}. `);
  if (kind === 'evaluate') return fitting === undefined ? `${needs}Use a machine with more` : needs.trim();
  return (
    needs +
    'training.moments bfloat16, training.momentsIn file, training.mode blockWise, a smaller training.batchSize or sequenceLength take less; method rtn takes hardly any'
  );
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
const sizeOf = (bytes: number): string => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : gigabytes(bytes));
