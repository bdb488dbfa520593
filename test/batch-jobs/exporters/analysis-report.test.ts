import { parseHTML } from 'linkedom';
import { describe, expect, it } from 'vitest';
import type { AnalysisReportData } from '../../../batch-jobs/src/exporters/analysis-data.ts';
import { analysisJson } from '../../../batch-jobs/src/exporters/analysis-data.ts';
import { renderAnalysisReport } from '../../../batch-jobs/src/exporters/analysis-report.ts';

const kinds = ['self_attn.q_proj.weight', 'mlp.down_proj.weight'];

/** Two kinds of matrices in 10 blocks, two draws from one set and one from another. */
const analysisData = (changes: Partial<AnalysisReportData> = {}): AnalysisReportData => {
  const names = kinds.flatMap((kind) => Array.from({ length: 10 }, (_, block) => `model.layers.${block}.${kind}`));
  return {
    modelName: 'tiny-llama',
    parameters: 3_214_592,
    engine: 'wasm',
    sequenceLength: 256,
    selection: { criterion: 'impact', cherryMode: 'row', cherryFraction: 1 / 256 },
    sets: [
      { name: 'tales', draws: 2, windows: 128 },
      { name: 'news', draws: 1, windows: 128 },
    ],
    heterogeneity: names.map((matrix, i) => ({ matrix, byImpact: 4 + i, byWeight: 1.2, byActivation: 2.5 })),
    overlaps: [
      { first: 'tales #1', second: 'tales #2', sameSet: true, share: 0.81, byChance: 0.004 },
      { first: 'tales #1', second: 'news', sameSet: false, share: 0.62, byChance: 0.004 },
      { first: 'tales #2', second: 'news', sameSet: false, share: 0.6, byChance: 0.004 },
    ],
    matrices: names.map((matrix) => ({
      matrix,
      shape: [64, 256],
      cherriesPerRow: 1,
      meanImpact: 1e-5,
      maxImpact: 1e-2,
      tail: [
        { fraction: 1 / 2, least: 1e-6, share: 0.99 },
        { fraction: 1 / 256, least: 1e-3, share: 0.42 },
        { fraction: 1 / 1024, least: 5e-3, share: 0.2 },
      ],
      cut: 1e-3,
      samples: {
        index: Array.from({ length: 400 }, (_, i) => 40 * i),
        impact: Array.from({ length: 400 }, (_, i) => 10 ** -(3 + (i % 6))),
        magnitude: Array.from({ length: 400 }, (_, i) => ((i * 7) % 400) / 1000),
        cherry: Array.from({ length: 400 }, (_, i) => i % 200 === 0),
      },
    })),
    ...changes,
  };
};

const parse = (page: string): Document => parseHTML(page).document;
const textOf = (element: Element | null): string => (element?.textContent ?? '').replace(/\s+/g, ' ').trim();

describe('the page of an analysis', () => {
  it('says what share of the impact few weights hold, and how far they stand out by each criterion', () => {
    const document = parse(renderAnalysisReport(analysisData()));
    expect(textOf(document.querySelector('.lead'))).toBe(
      'One weight in 256 holds 42 % of the impact in the median matrix. By impact the top hundredth stands 13.50 times ' +
        'above the largest of the rest; by magnitude 1.20, by activation 2.50.',
    );
  });

  it('has equal bytes for equal data, however often it is made', () => {
    expect(renderAnalysisReport(analysisData())).toBe(renderAnalysisReport(analysisData()));
  });

  it('loads and runs nothing', () => {
    const page = renderAnalysisReport(analysisData());
    expect(parse(page).querySelectorAll('script, link:not([rel=icon]), img, iframe, object, embed')).toHaveLength(0);
    expect(page).not.toMatch(/@import|url\(|\bsrc=/);
    expect(page).toContain("default-src 'none'");
  });

  it('shows one matrix of each kind, and up to eight blocks of it from first to last', () => {
    const document = parse(renderAnalysisReport(analysisData()));
    const section = document.querySelector('section');
    expect(section?.querySelectorAll(':scope > .charts svg')).toHaveLength(2);
    const blocks = [...(section?.querySelectorAll('details') ?? [])].map((details) =>
      [...details.querySelectorAll('figcaption')].map(textOf),
    );
    const shown = [0, 1, 3, 4, 5, 6, 8, 9].map((block) => `Block ${block}`);
    expect(blocks).toEqual([shown, shown]);
  });

  it('draws every sampled cherry, and the cut where there is one', () => {
    const data = analysisData();
    const dashed = (document: Document): number =>
      document.querySelectorAll('section:first-of-type [stroke-dasharray]').length;
    const cherries = (document: Document): number =>
      document.querySelectorAll('section:first-of-type g[fill="var(--cherry)"] circle').length;
    const document = parse(renderAnalysisReport(data));
    expect(dashed(document)).toBe(2 + 16);
    expect(cherries(document)).toBe(2 * (2 + 16));
    const without = { ...data, matrices: data.matrices.map((matrix) => ({ ...matrix, cut: null })) };
    expect(dashed(parse(renderAnalysisReport(without)))).toBe(0);
  });

  it('compares draws in a map and a table, with what chance would give', () => {
    const document = parse(renderAnalysisReport(analysisData()));
    const section = [...document.querySelectorAll('section')][2];
    const cells = [...section.querySelectorAll('tbody tr')].map((row) => [...row.children].map(textOf));
    expect(cells[1]).toEqual(['tales #1', 'news', '0.620', '0.0040', '155.00']);
    expect(section.querySelectorAll('svg rect')).toHaveLength(9);
    expect(textOf(section)).toContain('tales (2 × 128 windows), news (1 × 128 windows)');
    expect(textOf(document.querySelector('.tiles'))).toContain(
      'Two sets 61 % of the cherries in common; 0.4 % by chance',
    );
  });

  it('leaves out what there is nothing of', () => {
    const page = renderAnalysisReport(analysisData({ overlaps: [], sets: [{ name: 'tales', draws: 1, windows: 4 }] }));
    expect(page).not.toContain('Whether texts agree');
    const silent = analysisData().matrices.map((matrix) => ({
      ...matrix,
      samples: { ...matrix.samples, impact: matrix.samples.impact.map(() => 0) },
    }));
    expect(renderAnalysisReport(analysisData({ matrices: silent }))).not.toContain('Which weights matter');
  });

  it('shows hostile names as text everywhere', () => {
    const name = `</title></style></svg><script>alert(1)</script><img src=x onerror=alert(2)>" onload="alert(3)' &lt;`;
    const base = analysisData();
    const document = parse(
      renderAnalysisReport({
        ...base,
        modelName: name,
        engine: name,
        sets: base.sets.map((set) => ({ ...set, name })),
        overlaps: base.overlaps.map((overlap) => ({ ...overlap, first: name, second: `${name}#2` })),
        heterogeneity: base.heterogeneity.map((score) => ({ ...score, matrix: name })),
        matrices: base.matrices.map((matrix) => ({ ...matrix, matrix: name })),
      }),
    );
    expect(document.querySelectorAll('script, img')).toHaveLength(0);
    const handlers = [...document.querySelectorAll('*')].flatMap((element) =>
      element.getAttributeNames().filter((attribute) => attribute.startsWith('on')),
    );
    expect(handlers).toEqual([]);
    expect(document.querySelector('h1')?.textContent).toBe(name);
  });

  it('names every figure and the scope of every heading cell', () => {
    const document = parse(renderAnalysisReport(analysisData()));
    const figures = [...document.querySelectorAll('figure svg')];
    expect(figures).toHaveLength(2 + 16 + 2 + 1);
    for (const svg of figures) {
      expect(svg.getAttribute('role')).toBe('img');
      expect(svg.getAttribute('aria-label')).toMatch(/\w/);
    }
    for (const cell of document.querySelectorAll('th')) expect(cell.getAttribute('scope')).toMatch(/^(row|col)$/);
  });

  it('draws no number that is not one', () => {
    expect(renderAnalysisReport(analysisData())).not.toMatch(/NaN|Infinity|undefined/);
  });
});

describe('analysis.json', () => {
  it('holds all that the page shows, and gives equal bytes for equal data', () => {
    const data = analysisData();
    expect(JSON.parse(analysisJson(data))).toEqual({ formatVersion: 1, ...data });
    expect(analysisJson(analysisData())).toBe(analysisJson(data));
  });
});
