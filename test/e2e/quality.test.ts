/** What a job measures beyond perplexity, and what becomes of one that misses its limits; and the analysis of a model. */
import { beforeAll, describe, expect, it } from 'vitest';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AnalysisResult, JobResult } from 'cherryq/contract';
import { exitCodes, manifestSchema } from 'cherryq/contract';
import { fileFolder, writeModelFolder, writeText } from './folders.ts';
import { cherryq, hashesOf } from './product.ts';

const folder = fileFolder();
const dataDir = join(folder, 'data');
const training = ['--sequence-length', '32', '--tokens', '1024', '--impact-samples', '4'];
let model: string;
let texts: string[];
let tasks: string;

beforeAll(async () => {
  model = await writeModelFolder(folder, 'model');
  texts = [
    '--calibration',
    writeText(folder, 'calibration.txt', 6000, 1),
    '--evaluation',
    writeText(folder, 'evaluation.txt', 3000, 2),
  ];
  tasks = join(folder, 'sea.jsonl');
  const question = { context: 'the sailor saw', choices: ['the whale', 'again'], answer: 0 };
  writeFileSync(tasks, `${JSON.stringify(question)}\n`.repeat(4));
});

const compress = (name: string, ...flags: string[]) =>
  cherryq([
    'compress',
    model,
    ...texts,
    ...training,
    '--group-size',
    '16',
    '--data-dir',
    dataDir,
    '--out',
    join(folder, name),
    ...flags,
  ]);

describe('`cherryq compress` with tasks and divergence', () => {
  it('measures both, and prints them below the sizes', async () => {
    const { exitCode, stdout, stderr } = await compress('measured', '--divergence', '--tasks', tasks);
    expect(exitCode, stderr).toBe(exitCodes.ok);
    expect(stdout).toMatch(/divergence from the original +nats a token\noriginal +0\.0000\n/);
    expect(stdout).toMatch(/task +questions +acc .*\nsea\.jsonl +original +4 +(100|0)\.0 %/);
  });

  it('says which line of a broken task is wrong', async () => {
    const broken = join(folder, 'broken.jsonl');
    writeFileSync(broken, '{"context": "x", "choices": ["a", "b"], "answer": 0}\n{"context": "x", "choices": ["a"]}\n');
    const { exitCode, stderr } = await compress('broken', '--tasks', broken);
    expect(exitCode).toBe(exitCodes.input);
    expect(stderr).toMatch(
      /The task broken\.jsonl: Line 2 of .* has \[\"a\"\] as choices; it must be an array of at least two texts/,
    );
  });
});

describe('`cherryq compress` with a limit that the result misses', () => {
  it('B9: fails with the figures, leaves no result, and names the command that fetches what was made', async () => {
    const out = join(folder, 'missed');
    const { exitCode, stderr } = await compress('missed', '--max-perplexity-ratio', '0.01');
    expect(exitCode).toBe(exitCodes.input);
    expect(stderr).toMatch(/perplexity is [\d.]+, [\d.]+ times the original's [\d.]+; .*perplexityRatio allows 0\.01/);
    expect(existsSync(join(out, 'manifest.json'))).toBe(false);

    const command = /^What it made: cherryq (jobs download ([0-9A-Z]{26}) .+)$/m.exec(stderr);
    const [, words = '', id = ''] = command ?? [];
    expect(words.split(' ')).toEqual(['jobs', 'download', id, '--data-dir', dataDir, '--out', out]);
    const apart = join(folder, 'apart');
    const download = await cherryq(['jobs', 'download', id, '--data-dir', dataDir, '--out', apart]);
    expect(download.exitCode, download.stderr).toBe(exitCodes.ok);
    const manifest = manifestSchema.parse(JSON.parse(readFileSync(join(apart, 'manifest.json'), 'utf8')));
    const { 'manifest.json': own, ...files } = hashesOf(apart);
    expect(own).toBeDefined();
    expect(files).toEqual(Object.fromEntries(manifest.files.map(({ path, sha256 }) => [path, sha256])));

    const shown = await cherryq(['jobs', 'show', id, '--data-dir', dataDir, '--json']);
    const job = JSON.parse(shown.stdout) as { status: string; error: { code: string }; result: JobResult };
    expect(job).toMatchObject({ status: 'failed', error: { code: 'quality', fault: 'quality' } });
    expect(job.result.compressed.perplexity).toBeGreaterThan(1);
  });
});

describe('`cherryq analyze`', () => {
  it('leaves a report and the figures, and says what they say', async () => {
    const out = join(folder, 'analysis');
    const other = writeText(folder, 'other.txt', 6000, 3);
    const measuring = ['--sequence-length', '32', '--impact-samples', '4', '--draws', '2'];
    const args = ['analyze', model, '--calibration', texts[1], '--others', other, ...measuring, '--data-dir', dataDir];
    const { exitCode, stdout, stderr } = await cherryq([...args, '--out', out, '--json']);
    expect(exitCode, stderr).toBe(exitCodes.ok);
    const { result } = JSON.parse(stdout) as { result: AnalysisResult };
    expect(result.heterogeneity).toHaveLength(14);
    // Two draws of each of two texts.
    expect(result.overlaps).toHaveLength(6);
    expect(result.overlaps.filter(({ sameSet }) => sameSet)).toHaveLength(2);
    expect(Object.keys(hashesOf(out)).sort()).toEqual(['analysis.json', 'manifest.json', 'report.html']);
    const plain = await cherryq([...args, '--out', join(folder, 'again')]);
    expect(plain.stdout).toContain('heterogeneity');
  });

  it('says that a text is too short for its draws, and what to change', async () => {
    const short = writeText(folder, 'short.txt', 45, 4);
    const out = join(folder, 'refused');
    const { exitCode, stderr } = await cherryq([
      ...['analyze', model, '--calibration', short, '--data-dir', dataDir, '--out', out],
      ...['--sequence-length', '32', '--impact-samples', '64'],
    ]);
    expect(exitCode).toBe(exitCodes.input);
    expect(stderr).toMatch(/calibration text "short\.txt".*window/);
    expect(existsSync(join(out, 'manifest.json'))).toBe(false);
  });
});
