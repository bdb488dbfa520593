import { schemeSchema, trainingSchema } from 'cherryq/contract';
import type { ComparisonRow, Measurement, Scheme } from 'cherryq/contract';
import { parseHTML } from 'linkedom';
import { describe, expect, it } from 'vitest';
import type { ComparisonReportData } from '../../../batch-jobs/src/exporters/comparison-data.ts';
import { comparisonJson, schemeNames } from '../../../batch-jobs/src/exporters/comparison-data.ts';
import { renderComparisonReport } from '../../../batch-jobs/src/exporters/comparison-report.ts';
import { renderEvaluationReport } from '../../../batch-jobs/src/exporters/evaluation-report.ts';

const task = { name: 'quiz', questions: 40, acc: 0.5, accNorm: 0.55, accStderr: 0.08 };
const measured = (perplexity: number | null, sizeBytes: number): Measurement => ({
  perplexity,
  divergence: 0.1,
  tasks: [task],
  sizeBytes,
});
const row = (
  scheme: Partial<Scheme>,
  perplexity: number | null,
  sizeBytes: number,
  onFrontier = false,
): Omit<ComparisonRow, 'seconds'> => ({
  scheme: schemeSchema.parse(scheme),
  measurement: { ...measured(perplexity, sizeBytes), bitsPerWeight: 3.2 },
  perplexityRatio: perplexity === null ? null : perplexity / 10,
  onFrontier,
  error: null,
});
const failed: Omit<ComparisonRow, 'seconds'> = {
  ...row({ groupSize: 4096 }, null, 0),
  measurement: null,
  error: { fault: 'user', code: 'group_size', message: 'groupSize is 4096, but rows have 64.', param: 'groupSize' },
};

const comparisonData = (changes: Partial<ComparisonReportData> = {}): ComparisonReportData => ({
  modelName: 'tiny',
  parameters: 1000,
  engine: 'wasm',
  training: trainingSchema.parse({}),
  baseline: { ...measured(10, 4e6), divergence: 0 },
  rows: [
    row({ method: 'rtn', bits: 2 }, 25, 1e6, true),
    row({ bits: 2 }, 14, 1.1e6, true),
    row({ bits: 4 }, 10.5, 1.6e6, true),
    row({ bits: 3 }, 15, 1.4e6),
    failed,
  ],
  evaluatedTokens: 4080,
  ...changes,
});

const parse = (page: string): Document => parseHTML(page).document;
const textOf = (element: Element | null): string => (element?.textContent ?? '').replace(/\s+/g, ' ').trim();

describe('the page of a comparison', () => {
  it('leads with the best and the smallest, and has a line for each scheme, failed ones with their reason', () => {
    const document = parse(renderComparisonReport(comparisonData()));
    expect(textOf(document.querySelector('.lead'))).toBe(
      'Lowest perplexity has cherryq, 4 bits, groups of 128: 40 % of the original’s size, perplexity +5.0 %. ' +
        'Smallest is rtn, 2 bits, groups of 128: 25 % of the original’s size, perplexity +150 %.',
    );
    const lines = [...document.querySelectorAll('.schemes tbody tr')];
    expect(lines.map((line) => textOf(line.querySelector('th')))).toEqual([
      'Original',
      ...schemeNames(comparisonData().rows.map(({ scheme }) => scheme)),
    ]);
    expect(lines.map((line) => line.className === 'job')).toEqual([false, true, true, true, false, false]);
    expect(textOf(lines.at(-1)?.querySelector('td') ?? null)).toBe('Failed: groupSize is 4096, but rows have 64.');
  });

  it('draws a dot for each scheme that was measured, on a logarithmic scale where one is far off', () => {
    const far = comparisonData({ rows: [...comparisonData().rows, row({ method: 'rtn', bits: 3 }, 900, 1.2e6)] });
    for (const [data, dots] of [
      [comparisonData(), 4],
      [far, 5],
    ] as const) {
      const page = renderComparisonReport(data);
      const figure = parse(page).querySelector('figure svg');
      expect(figure?.getAttribute('role')).toBe('img');
      expect(figure?.getAttribute('aria-label')).toMatch(/^Perplexity by size in megabytes: rtn 2 bits/);
      expect(figure?.querySelectorAll('circle')).toHaveLength(dots);
      expect(page).not.toContain('NaN');
      expect(page).not.toContain('Infinity');
    }
  });

  it('draws nothing where nothing was measured, and one scheme alone', () => {
    const none = parse(renderComparisonReport(comparisonData({ rows: [failed] })));
    expect(none.querySelector('figure')).toBeNull();
    expect(textOf(none.querySelector('.lead'))).toBe('Nothing was measured.');
    const one = renderComparisonReport(comparisonData({ rows: [row({}, 12, 1e6, true)], training: null }));
    expect(parse(one).querySelectorAll('figure circle')).toHaveLength(1);
    expect(one).not.toContain('NaN');
  });

  it('names schemes by what they differ in', () => {
    const schemes = [{ cherryFraction: 1 / 64 }, { cherryFraction: 1 / 256, groupSize: 'row' as const }];
    expect(schemeNames(schemes.map((scheme) => schemeSchema.parse(scheme)))).toEqual([
      'cherryq, 3 bits, groups of 128, cherries 1/64',
      'cherryq, 3 bits, whole rows, cherries 1/256',
    ]);
  });

  it('shows hostile names as text, and equal data as equal bytes', () => {
    const name = `</title></style></svg><script>alert(1)</script><img src=x onerror=alert(2)>" onload="alert(3)' &lt;`;
    const data = comparisonData({ modelName: name, engine: name });
    const spoilt = data.rows.map((each) => ({ ...each, error: each.error && { ...each.error, message: name } }));
    const evaluation = {
      ...{ modelName: name, parameters: 1, engine: name, evaluatedTokens: 1, perplexityRatio: 1 },
      measurement: { ...measured(10, 1e6), tasks: [{ ...task, name }], bitsPerWeight: null },
      baseline: { ...measured(10, 1e6), tasks: [{ ...task, name }], name },
    };
    for (const page of [renderComparisonReport({ ...data, rows: spoilt }), renderEvaluationReport(evaluation)]) {
      expect(parse(page).querySelectorAll('script, img')).toHaveLength(0);
      expect(parse(page).querySelector('h1')?.textContent).toBe(name);
    }
    expect(renderComparisonReport(data)).toBe(renderComparisonReport(structuredClone(data)));
    expect(JSON.parse(comparisonJson(data))).toEqual({ formatVersion: 1, ...data });
  });
});

describe('the page of an evaluation', () => {
  it('says how far the model is from its baseline', () => {
    const page = renderEvaluationReport({
      ...{ modelName: 'small', parameters: 1000, engine: 'wasm', evaluatedTokens: 4080, perplexityRatio: 1.2 },
      measurement: { ...measured(12, 1e6), bitsPerWeight: 3.2 },
      baseline: { ...measured(10, 4e6), divergence: 0, name: 'large' },
    });
    expect(textOf(parse(page).querySelector('.lead'))).toBe(
      'Perplexity 12.00, +20 % against large; 0.1000 nats a token apart from it.',
    );
    expect([...parse(page).querySelectorAll('tbody th')].map(textOf)).toEqual([
      ...['large', 'small'],
      ...['quizlarge', 'quizsmall'],
    ]);
  });
});
