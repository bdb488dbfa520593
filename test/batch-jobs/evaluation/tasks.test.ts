import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { choiceLogLikelihoods, scoreTask } from '../../../batch-jobs/src/evaluation/score.ts';
import type { Task } from '../../../batch-jobs/src/evaluation/tasks.ts';
import { openTask } from '../../../batch-jobs/src/evaluation/tasks.ts';
import type { OpenedModel } from '../../../batch-jobs/src/model-weights.ts';
import { openModel } from '../../../batch-jobs/src/model-weights.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { testEngine } from '../../support/engine.ts';
import { golden } from '../../support/golden.ts';
import { temporaryStore } from '../../support/temporary-store.ts';
import { tinyWeights, writeTinyModel } from '../../support/tiny-model.ts';

interface TasksGolden {
  modelSha256: string;
  tasks: Record<
    string,
    {
      questions: {
        requests: { context: string; continuation: string }[];
        logLikelihoods: number[];
        acc: number;
        accNorm: number;
      }[];
      /** Not of MMLU, whose subjects are tasks of their own there. */
      acc?: number;
      accNorm?: number;
      accStderr?: number;
    }
  >;
}

const reference = golden<TasksGolden>('tasks');
const modelFolder = fileURLToPath(new URL('../../../demo/model', import.meta.url));
const tasksFolder = fileURLToPath(new URL('../../golden/tasks/', import.meta.url));

const open = (name: string): Promise<Task> => openTask(new FolderStore(tasksFolder), `${name}/`, name, undefined);

async function openTexts(files: Record<string, string | Uint8Array>, maxQuestions?: number): Promise<Task> {
  return openTask(
    await temporaryStore(Object.fromEntries(Object.entries(files).map(([path, text]) => [`t/${path}`, text]))),
    't/',
    'own',
    maxQuestions,
  );
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

describe('the scores of the shipped model', () => {
  let model: OpenedModel;
  beforeAll(async () => {
    await openEngine(testEngine);
    model = await openModel(new FolderStore(modelFolder), '');
  });

  it('have a reference made from the same model (npm run golden makes it again)', () => {
    const sha256 = createHash('sha256')
      .update(readFileSync(`${modelFolder}/model.safetensors`))
      .digest('hex');
    expect(reference.modelSha256).toBe(sha256);
    expect(Object.keys(reference.tasks).sort()).toEqual(readdirSync(tasksFolder).sort());
  });

  it.each(Object.keys(reference.tasks))("of %s ask lm-evaluation-harness's prompts", async (name) => {
    const { questions } = await open(name);
    const expected = reference.tasks[name].questions.map(({ requests }) => requests);
    expect(questions.map(({ requests }) => requests)).toEqual(expected);
  });

  it.each(Object.keys(reference.tasks))(
    'of %s have its log-likelihoods to 1e-3 nats, and its figures',
    async (name) => {
      const task = await open(name);
      const { questions, ...figures } = reference.tasks[name];
      const likelihoods = await choiceLogLikelihoods(model.config, model.weights, model.tokenizer, task.questions);
      for (const [index, { logLikelihoods }] of questions.entries()) {
        for (const [choice, expected] of logLikelihoods.entries()) {
          expect(Math.abs(likelihoods[index][choice] - expected), `question ${index}`).toBeLessThan(1e-3);
        }
      }
      const shares: number[] = [];
      const score = await scoreTask(model.config, model.weights, model.tokenizer, task, (share) => shares.push(share));
      expect(score).toMatchObject({ name, questions: questions.length });
      expect(score.acc).toBeCloseTo(figures.acc ?? mean(questions.map(({ acc }) => acc)), 12);
      expect(score.accNorm).toBeCloseTo(figures.accNorm ?? mean(questions.map(({ accNorm }) => accNorm)), 12);
      if (figures.accStderr !== undefined) expect(score.accStderr).toBeCloseTo(figures.accStderr, 12);
      expect(shares).toEqual(shares.toSorted((a, b) => a - b));
      expect(shares.at(-1)).toBeCloseTo(1, 12);
    },
  );

  it('takes as many questions as are asked for', async () => {
    expect((await openTask(new FolderStore(tasksFolder), 'questions/', 'q', 3)).questions).toHaveLength(3);
  });
});

describe('a model whose weights are damaged', () => {
  it('is refused, naming the tensor', async () => {
    await openEngine(testEngine);
    const store = await temporaryStore();
    const weights = tinyWeights();
    (weights.get('model.layers.1.mlp.up_proj.weight') as Float32Array)[5] = NaN;
    await writeTinyModel(store, '', { weights });
    const { config, weights: read, tokenizer } = await openModel(store, '');
    const task = await openTexts({ 'a.jsonl': '{"context":"the sea","choices":["a","b"],"answer":0}\n'.repeat(2) });
    await expect(scoreTask(config, read, tokenizer, task)).rejects.toEqual(
      expect.objectContaining({
        name: 'InputError',
        code: 'not_finite',
        message: expect.stringMatching(/up_proj.*block 1.*copy it again/),
      }),
    );
  });
});

const question = (fields: Record<string, unknown>): string =>
  JSON.stringify({ question: 'Where?', choices: ['here', 'there'], answer: 0, ...fields });

describe('a file of questions', () => {
  it('may have empty lines, and answers as indices or texts', async () => {
    const { questions } = await openTexts({ 'a.jsonl': `\n${question({})}\n\n${question({ answer: 'there' })}` });
    expect(questions.map(({ answer, place }) => [answer, place.line])).toEqual([
      [0, 2],
      [1, 4],
    ]);
  });

  it.each<[string, string, RegExp]>([
    ['that is no JSON', '{"question": ', /^Line 2 of a\.jsonl is not JSON/],
    ['that is no object', '[1]', /^Line 2 of a\.jsonl is .*must be a JSON object/],
    ['of an unknown kind', '{"prompt": "x"}', /^Line 2 of a\.jsonl has prompt\. A question has question, choices/],
    ['of two kinds', question({ query: 'x', gold: 0 }), /^Line 2 of a\.jsonl has question, choices, answer, query/],
    ['without choices', question({ choices: ['one'] }), /as choices; it must be an array of at least two texts/],
    ['with an empty choice', question({ choices: ['one', ''] }), /as choices; .*none empty/],
    ['with an answer that is none', question({ answer: 2 }), /has 2 as answer; it must be the index .* 0 to 1/],
    ['with an empty question', question({ question: ' ' }), /as question; it must be a text that is not empty/],
  ])('is refused for a line %s, by its number and field', async (_, line, message) => {
    await expect(openTexts({ 'a.jsonl': `${question({})}\n${line}\n${question({})}` })).rejects.toEqual(
      expect.objectContaining({
        name: 'InputError',
        code: 'invalid_task',
        param: 'a.jsonl',
        message: expect.stringMatching(message),
      }),
    );
  });

  it.each<[string, Record<string, string | Uint8Array>, string, RegExp]>([
    ['of an unknown kind', { 'a.txt': 'x' }, 'unknown_task_file', /^a\.txt is no file of a task/],
    ['with one question', { 'a.jsonl': question({}) }, 'too_few_questions', /has 1 questions/],
    ['that is not UTF-8', { 'a.jsonl': new Uint8Array([0xff, 0xfe]) }, 'invalid_task', /not text in UTF-8/],
    [
      'whose quote never closes',
      { 'x_test.csv': 'q,"a,b,c,d,A' },
      'invalid_csv',
      /^Line 1 of x_test\.csv .*never closes/,
    ],
    ['with text after a quote', { 'x_test.csv': '"q"r,a,b,c,d,A' }, 'invalid_csv', /after a quoted cell/],
    ['with too few cells', { 'x_test.csv': 'q,a,b,A' }, 'invalid_task', /^Line 1 of x_test\.csv has 4 cells/],
    ['with a letter that is none', { 'x_test.csv': 'q,a,b,c,d,E' }, 'invalid_task', /must be a letter from A to D/],
  ])('is refused %s', async (_, files, code, message) => {
    await expect(openTexts(files)).rejects.toEqual(
      expect.objectContaining({ name: 'InputError', code, message: expect.stringMatching(message) }),
    );
  });
});
