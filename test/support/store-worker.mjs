// A worker that speaks the protocol of the job folder and computes nothing. What it does in each attempt is written in the
// job's metadata: `plan` is a list of words, one per attempt, the last one repeated.
import { appendFileSync, linkSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createHash } from 'node:crypto';

const root = fileURLToPath(process.env.CHERRYQ_STORE);
const folder = join(root, process.env.CHERRYQ_JOB);
const spec = JSON.parse(readFileSync(join(folder, 'spec.json'), 'utf8'));
const plan = JSON.parse(spec.metadata.plan);

function put(path, value) {
  const file = join(folder, path);
  mkdirSync(dirname(file), { recursive: true });
  // Whole or not at all, and never over another's.
  const temporary = join(root, '.tmp', `${process.pid}`);
  writeFileSync(temporary, value);
  try {
    linkSync(temporary, file);
  } finally {
    rmSync(temporary);
  }
}

function numbers(path) {
  mkdirSync(join(folder, path), { recursive: true });
  return readdirSync(join(folder, path)).map((name) => Number.parseInt(name, 10));
}

function append(path, digits, extension, value) {
  const next = Math.max(0, ...numbers(path)) + 1;
  put(`${path}/${String(next).padStart(digits, '0')}${extension}`, `${JSON.stringify(value)}\n`);
}

const time = () => new Date().toISOString();
const event = (fields) => append('events', 8, '.ndjson', { time: time(), ...fields });

/** The newest state and its number; `null` before the first. */
function latest() {
  const number = Math.max(0, ...numbers('state'));
  return number === 0 ? null : { number, ...JSON.parse(readFileSync(stateFile(number), 'utf8')) };
}
const stateName = (number) => `state/${String(number).padStart(6, '0')}.json`;
const stateFile = (number) => join(folder, stateName(number));

/** Follows the state that was looked at, or nothing: a job that was cancelled meanwhile stays so.  @returns whether it did */
function follow(before, value) {
  try {
    put(stateName((before?.number ?? 0) + 1), `${JSON.stringify({ time: time(), by: 'worker', ...value })}\n`);
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
}

/** @returns its number; the process ends if the job waits for no worker any more */
function claimAttempt() {
  for (;;) {
    const before = latest();
    if (before && !['queued', 'running'].includes(before.status)) process.exit(0);
    const attempt = (before?.attempt ?? 0) + 1;
    if (follow(before, { status: 'running', attempt })) return attempt;
  }
}

const attempt = claimAttempt();
event({ type: 'job.started', attempt, engine: 'none', engineReason: 'a test', resumedFromStep: null });
appendFileSync(join(root, 'worker.log'), `${spec.id} ${attempt} ${process.pid}\n`);

const [action, detail] = (plan[attempt - 1] ?? plan.at(-1)).split(':');
switch (action) {
  case 'checkpoint-crash':
    put(`checkpoints/${attempt}/weights`, 'x');
  // falls through
  case 'crash':
    process.kill(process.pid, 'SIGKILL');
    break;
  case 'exit':
    process.stderr.write('loss is not a number in block 3; token=abcdef0123456789\n');
    process.exit(Number(detail));
    break;
  case 'checkpoint-wait':
    put(`checkpoints/${attempt}/weights`, 'x');
  // falls through
  case 'wait': {
    const stop = () => process.exit(75);
    process.on('SIGTERM', stop);
    process.on('disconnect', stop);
    setInterval(() => undefined, 1000);
    break;
  }
  case 'stubborn':
    process.on('SIGTERM', () => undefined);
    setInterval(() => undefined, 1000);
    break;
  case 'succeed': {
    const weights = 'sixteen bytes ..';
    put('artifacts/model/weights.bin', weights);
    put('artifacts/report.html', '<!doctype html><title>report</title>');
    const file = (path) => {
      const body = readFileSync(join(folder, 'artifacts', path));
      return { path, sizeBytes: body.length, sha256: createHash('sha256').update(body).digest('hex') };
    };
    const manifest = {
      formatVersion: 1,
      producer: 'store-worker',
      modelName: spec.modelName,
      modelFingerprint: '0'.repeat(64),
      kind: spec.kind,
      calibrationFingerprint: null,
      calibrationWindowsSha256: null,
      impactSha256: null,
      evaluationFingerprint: null,
      scheme: spec.scheme,
      training: spec.training,
      engine: 'none',
      formats: spec.formats,
      files: [file('model/weights.bin'), file('report.html')],
    };
    put('artifacts/manifest.json', JSON.stringify(manifest));
    const progress = {
      phase: 'report',
      step: 1,
      totalSteps: 1,
      fraction: 1,
      loss: null,
      tokensPerSecond: null,
      secondsLeft: 0,
    };
    event({ type: 'progress', progress });
    const measurement = { perplexity: null, divergence: null, tasks: [], sizeBytes: 16 };
    const result = {
      engine: 'none',
      engineReason: 'a test',
      parameters: 8,
      baseline: measurement,
      rounding: null,
      compressed: { ...measurement, bitsPerWeight: 3 },
      hf: null,
      trainedTokens: 0,
      evaluatedTokens: 0,
      seconds: 0.1,
    };
    const before = latest();
    if (before.attempt !== attempt || before.status !== 'running') process.exit(75);
    if (!follow(before, { status: 'succeeded', attempt, result })) process.exit(75);
    event({ type: 'job.succeeded', result, analysisResult: null });
    process.exit(0);
  }
}
