import { schemeSchema } from 'cherryq/contract';
import { parseHTML } from 'linkedom';
import { describe, expect, it } from 'vitest';
import { renderReport, type ReportData } from '../../../batch-jobs/src/exporters/report.ts';

const matrices = ['model.layers.0.self_attn.q_proj', 'model.layers.1.mlp.down_proj'];

/** A cherryq job on a small model: rounding costs 20 of perplexity, the job 4. */
const reportData = (changes: Partial<ReportData> = {}): ReportData => ({
  modelName: 'tiny-llama',
  parameters: 3_214_592,
  scheme: schemeSchema.parse({}),
  training: null,
  engine: 'wasm',
  trainedTokens: 4096,
  evaluatedTokens: 65_536,
  rows: [
    {
      role: 'original',
      label: 'Original',
      note: 'float32',
      bitsPerWeight: null,
      sizeBytes: 12_000_000,
      perplexity: 40,
    },
    { role: 'rounding', label: 'Rounding', note: '', bitsPerWeight: 3.125, sizeBytes: 2_400_000, perplexity: 60 },
    { role: 'job', label: 'CherryQ', note: '', bitsPerWeight: 3.27, sizeBytes: 2_500_000, perplexity: 44 },
    { role: 'hf', label: 'Float16', note: '', bitsPerWeight: 16, sizeBytes: 6_000_000, perplexity: 44.001 },
  ],
  losses: Array.from({ length: 16 }, (_, step) => ({ step: step + 1, loss: 4 - step / 16, learningRate: 5e-4 })),
  impact: matrices.map((matrix) => ({
    matrix,
    samples: Array.from({ length: 200 }, (_, index) => ({
      impact: 10 ** -(3 + (index % 9)),
      magnitude: ((index * 7) % 200) / 1000,
      cherry: index % 100 === 0,
    })),
  })),
  heterogeneity: matrices.map((matrix, index) => ({ matrix, byImpact: 4 + index, byMagnitude: 1.2 })),
  tensors: [
    { name: 'model.layers.0.self_attn.q_proj.weight', shape: [256, 256], bitsPerWeight: 3.27, relativeError: 0.14 },
  ],
  ...changes,
});

const withPerplexity = (role: string, perplexity: number | null): ReportData['rows'] =>
  reportData().rows.map((row) => (row.role === role ? { ...row, perplexity } : row));

const parse = (page: string): Document => parseHTML(page).document;
const lead = (data: ReportData): string =>
  (parse(renderReport(data)).querySelector('.lead')?.textContent ?? '').replace(/\s+/g, ' ').trim();

describe('headline', () => {
  it('states the size ratio and the share of the rounding gap that is closed', () => {
    expect(lead(reportData())).toBe(
      '4.8 times smaller; perplexity goes from 40.00 to 44.00 (+10 %). Plain rounding to the same bits gives 60.00: ' +
        '80 % of the gap that rounding opens is closed.',
    );
  });

  it('says so when the job is worse than rounding', () => {
    expect(lead(reportData({ rows: withPerplexity('job', 70) }))).toContain('this job did not pay');
  });

  it('says so when the job is better than the original', () => {
    expect(lead(reportData({ rows: withPerplexity('job', 39) }))).toContain('below the original');
  });

  it('claims no gap where rounding opens none', () => {
    expect(lead(reportData({ rows: withPerplexity('rounding', 40) }))).not.toContain('gap');
  });

  it('claims only the size when there was no evaluation text', () => {
    const rows = reportData().rows.map((row) => ({ ...row, perplexity: null }));
    const page = parse(renderReport(reportData({ rows, evaluatedTokens: 0 })));
    expect(page.querySelector('.lead')?.textContent).toContain('perplexity was not measured');
    expect([...page.querySelectorAll('.job td')].at(-1)?.textContent).toBe('not measured');
  });
});

describe('page', () => {
  it('has equal bytes for equal data, however often it is made', () => {
    expect(renderReport(reportData())).toBe(renderReport(reportData()));
  });

  it('loads and runs nothing', () => {
    const page = renderReport(reportData());
    expect(parse(page).querySelectorAll('script, link:not([rel=icon]), img, iframe, object, embed')).toHaveLength(0);
    expect(page).not.toMatch(/@import|url\(|\bsrc=/);
    expect(page).toContain("default-src 'none'");
  });

  it('shows hostile names as text everywhere', () => {
    const name = `</title></style></svg><script>alert(1)</script><img src=x onerror=alert(2)>" onload="alert(3)' &lt;`;
    const base = reportData();
    const document = parse(
      renderReport({
        ...base,
        modelName: name,
        engine: name,
        rows: base.rows.map((row) => ({ ...row, label: name + row.role, note: name })),
        impact: base.impact.map((matrix) => ({ ...matrix, matrix: name })),
        heterogeneity: base.heterogeneity.map((score) => ({ ...score, matrix: name })),
        tensors: base.tensors.map((tensor) => ({ ...tensor, name })),
      }),
    );
    expect(document.querySelectorAll('script, img')).toHaveLength(0);
    const handlers = [...document.querySelectorAll('*')].flatMap((element) =>
      element.getAttributeNames().filter((attribute) => attribute.startsWith('on')),
    );
    expect(handlers).toEqual([]);
    expect(document.querySelector('h1')?.textContent).toBe(name);
    expect(document.querySelectorAll('section').length).toBe(7);
  });

  it('names every figure and the scope of every heading cell', () => {
    const document = parse(renderReport(reportData()));
    const figures = [...document.querySelectorAll('figure svg')];
    expect(figures).toHaveLength(7);
    for (const svg of figures) {
      expect(svg.getAttribute('role')).toBe('img');
      expect(svg.getAttribute('aria-label')).toMatch(/\w{4}/);
    }
    for (const cell of document.querySelectorAll('th')) expect(cell.getAttribute('scope')).toMatch(/^(row|col)$/);
  });

  it('leaves out what a method does not have', () => {
    const scheme = { ...reportData().scheme, method: 'rtn' as const };
    const page = renderReport(reportData({ scheme, losses: [], impact: [], heterogeneity: [], tensors: [] }));
    const headings = [...parse(page).querySelectorAll('h2')].map((heading) => heading.textContent);
    expect(headings).toEqual(['Size and perplexity', 'Settings', 'How to read this']);
  });
});

describe('figures', () => {
  const cherriesDrawn = (page: string): number =>
    [...parse(page).querySelectorAll('g[fill="var(--cherry)"][stroke] circle')].length;

  it('draws every cherry of a large sample and a share of the other weights', () => {
    const samples = Array.from({ length: 20_000 }, (_, index) => ({
      impact: 1e-6 * (1 + index),
      magnitude: (index * 7919) % 20_000,
      cherry: index % 256 === 0,
    }));
    const page = renderReport(reportData({ impact: [{ matrix: matrices[0], samples }] }));
    expect(cherriesDrawn(page)).toBe(samples.filter((sample) => sample.cherry).length);
    expect(page.length).toBeLessThan(200_000);
  });

  it('keeps the loss curve of a long run small', () => {
    const losses = Array.from({ length: 50_000 }, (_, step) => ({
      step,
      loss: 3 + 1 / (1 + step),
      learningRate: 1e-5,
    }));
    expect(renderReport(reportData({ losses })).length).toBeLessThan(100_000);
  });

  it('leaves out values that have no place on a scale', () => {
    const base = reportData();
    const page = renderReport({
      ...base,
      losses: base.losses.map((entry, index) => (index === 3 ? { ...entry, loss: NaN } : entry)),
      impact: base.impact.map((matrix) => ({
        ...matrix,
        samples: matrix.samples.map((sample, index) => (index < 50 ? { ...sample, impact: 0 } : sample)),
      })),
      heterogeneity: [{ matrix: matrices[0], byImpact: Infinity, byMagnitude: 1.2 }],
    });
    expect(page).not.toMatch(/NaN|Infinity/);
  });

  it('has no impact figures when no sampled weight has any', () => {
    const samples = [{ impact: 0, magnitude: 1, cherry: false }];
    expect(renderReport(reportData({ impact: [{ matrix: 'm', samples }] }))).not.toContain('Which weights matter');
  });
});
