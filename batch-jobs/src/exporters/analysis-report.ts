/**
 * The page of an analysis: where the important weights of a model are, how far they stand out, and whether calibration sets agree
 * on them. Like every report it needs nothing else, and equal data give equal bytes.
 */
import type { Overlap } from 'cherryq/contract';
import {
  blockOf,
  criteria,
  heterogeneityByDepth,
  heterogeneityByKind,
  impactFigures,
  overlapMap,
} from './analysis-charts.ts';
import type { AnalysisReportData, AnalyzedMatrix } from './analysis-data.ts';
import type { Markup } from './report-html.ts';
import { count, decimal, figure, fraction, grouped, html, page, percent, trusted } from './report-html.ts';

export type { AnalysisReportData };

/** Share of the weights that the headline speaks of: what the paper keeps. */
const headlineFraction = 1 / 256;

const style = `
:root { --third: #a06a00; }
@media (prefers-color-scheme: dark) { :root { --third: #e0b34d; } }
@media print { :root { --third: #8a5c00; } }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); gap: 1rem 1.4rem; }
.legend .dashed::before { border-radius: 0; height: 0; width: 1.1em; background: none; border-top: 2px dashed var(--ink); vertical-align: middle; }
`;

/** Renders the page.  @returns a whole HTML document, UTF-8, ending in a newline */
export const renderAnalysisReport = (data: AnalysisReportData): string =>
  page(
    `Where the important weights of ${data.modelName} are`,
    html`<header>
        <p class="kind">Analysis · ${selectionText(data)}</p>
        <h1><bdi>${data.modelName}</bdi></h1>
        <p class="lead">${headline(data)}</p>
      </header>
      ${tiles(data)} ${impactSection(data)} ${heterogeneitySection(data)} ${overlapSection(data)} ${notes(data)}`,
    style,
  );

const selectionText = ({ selection }: AnalysisReportData): string =>
  `cherries: ${fraction(selection.cherryFraction)} of each row by ${selection.criterion}` +
  (selection.cherryMode === 'column' ? ', whole columns' : '');

const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/** Part of a matrix's impact that its top 1/256 hold, or the nearest share known. */
const headShare = ({ tail }: AnalyzedMatrix): number =>
  tail.reduce((best, entry) => (distance(entry.fraction) < distance(best.fraction) ? entry : best)).share;
const distance = (share: number): number => Math.abs(Math.log(share / headlineFraction));

const headline = ({ matrices, heterogeneity }: AnalysisReportData): Markup => {
  const share = median(matrices.map(headShare));
  const scores = criteria.map(({ key }) => median(heterogeneity.map((score) => score[key])));
  return html`<b>One weight in 256 holds ${percent(share)} of the impact</b> in the median matrix. By impact the top
    hundredth stands ${decimal(scores[0])} times above the largest of the rest; by magnitude ${decimal(scores[1])}, by
    activation ${decimal(scores[2])}.`;
};

const meanShare = (overlaps: readonly Overlap[]): number =>
  overlaps.reduce((sum, { share }) => sum + share, 0) / overlaps.length;

const tiles = ({ parameters, matrices, overlaps, sets, sequenceLength }: AnalysisReportData): Markup => {
  const tile = (name: string, value: string, note: string) =>
    html`<div>
      <dt>${name}</dt>
      <dd>${value}</dd>
      <dd>${note}</dd>
    </div>`;
  const same = overlaps.filter(({ sameSet }) => sameSet);
  const different = overlaps.filter(({ sameSet }) => !sameSet);
  const chance = (own: readonly Overlap[]): string => `${percent(own[0].byChance)} by chance`;
  return html`<dl class="tiles">
    ${same.length > 0 && tile('Two draws of a set', percent(meanShare(same)), `of the cherries in common; ${chance(same)}`)}
    ${different.length > 0 && tile('Two sets', percent(meanShare(different)), `of the cherries in common; ${chance(different)}`)}
    ${tile('Calibration', grouped(sets[0].windows), `windows of ${grouped(sequenceLength)} tokens in a draw`)}
    ${tile('Matrices', grouped(matrices.length), 'linear layers')} ${tile('Model', count(parameters), 'parameters')}
  </dl>`;
};

const impactSection = ({ matrices, selection }: AnalysisReportData): Markup | null => {
  const figures = impactFigures(matrices);
  if (figures.length === 0) return null;
  const cut = matrices.some((matrix) => matrix.cut !== null);
  const caption = ({ matrix, shape, samples }: AnalyzedMatrix) =>
    html`<b><bdi>${matrix}</bdi></b
      ><br />${shape.join(' × ')}; ${grouped(samples.index.length)} weights sampled,
      ${grouped(samples.cherry.filter(Boolean).length)} of them cherries`;
  return html`<section>
    <h2>Which weights matter</h2>
    <p class="soft">
      Each dot is one sampled weight. Its height is its impact, the mean squared gradient, on one logarithmic scale for
      all figures; its place across is its rank in magnitude within the matrix. Were large weights the important ones,
      the highest dots would all stand at the right.
    </p>
    <ul class="legend">
      <li style="--swatch: var(--cherry)">cherry by ${selection.criterion}</li>
      <li style="--swatch: var(--plain)">other weight</li>
      ${cut && html`<li class="dashed">impact that as many weights reach as there are cherries</li>`}
    </ul>
    <div class="charts">${figures.map(({ middle }) => figure(caption(middle.matrix), middle.svg))}</div>
    ${figures
      .filter(({ blocks }) => blocks.length > 0)
      .map(
        ({ kind, blocks }) =>
          html`<details>
            <summary><bdi>${kind}</bdi> from the first block to the last</summary>
            <div class="charts small">
              ${blocks.map(({ matrix, svg }) => figure(html`<b>Block ${blockOf(matrix.matrix)}</b>`, svg))}
            </div>
          </details> `,
      )}
  </section>`;
};

const heterogeneitySection = ({ heterogeneity }: AnalysisReportData): Markup | null => {
  if (heterogeneity.length === 0) return null;
  return html`<section>
    <h2>How far they stand out</h2>
    <p class="soft">
      Heterogeneity score of a matrix: the mean over its top 1 % of weights, divided by the largest value among the
      other 99 %. At 1 the top runs into the rest; the further above, the more a few weights stand apart. The activation
      of a weight is the mean magnitude of the input that it meets.
    </p>
    <ul class="legend">
      ${criteria.map(({ label, colour }) => html`<li style="${`--swatch: ${colour}`}">by ${label}</li>`)}
    </ul>
    <div class="charts">
      ${figure(html`<b>By kind of matrix</b>; one dot per matrix and criterion`, heterogeneityByKind(heterogeneity))}
      ${figure(html`<b>By depth</b>`, heterogeneityByDepth(heterogeneity))}
    </div>
    <details>
      <summary>Scores of ${grouped(heterogeneity.length)} matrices</summary>
      ${table(
        ['Matrix', 'By impact', 'By weight', 'By activation'],
        heterogeneity.map((score) => [score.matrix, ...criteria.map(({ key }) => decimal(score[key]))]),
      )}
    </details>
  </section>`;
};

const overlapSection = ({ overlaps, sets }: AnalysisReportData): Markup | null => {
  if (overlaps.length === 0) return null;
  return html`<section>
    <h2>Whether texts agree on them</h2>
    <p class="soft">
      Share of the cherries that two choices have in common, the mean over all rows of all matrices. Each draw is of
      windows that no other draw of its set has.
    </p>
    <div class="charts">
      ${figure(html`<b>Share in common</b>; ${percent(overlaps[0].byChance)} by chance`, overlapMap(overlaps))}
    </div>
    <details ${overlaps.length <= 10 ? trusted('open') : ''}>
      <summary>All ${grouped(overlaps.length)} pairs</summary>
      ${table(
        ['First', 'Second', 'In common', 'By chance', 'Times chance'],
        overlaps.map(({ first, second, share, byChance }) => [
          first,
          second,
          share.toFixed(3),
          byChance.toFixed(4),
          decimal(share / byChance),
        ]),
      )}
    </details>
    <p class="soft">
      Sets: ${sets.map(({ name, draws, windows }) => `${name} (${draws} × ${windows} windows)`).join(', ')}.
    </p>
  </section>`;
};

/** The first cell of each row is its heading. */
const table = (headings: readonly string[], rows: readonly (readonly string[])[]): Markup =>
  html`<div class="scroll">
    <table class="dense">
      <thead>
        <tr>
          ${headings.map((heading) => html`<th scope="col">${heading}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          ([first, ...rest]) =>
            html`<tr>
              <th scope="row"><bdi>${first}</bdi></th>
              ${rest.map((cell) => html`<td><bdi>${cell}</bdi></td>`)}
            </tr> `,
        )}
      </tbody>
    </table>
  </div>`;

const notes = ({ engine, sets, sequenceLength, matrices }: AnalysisReportData): Markup => {
  const narrow = matrices.some(({ shape }) => shape[1] < 100);
  return html`<section>
    <h2>How to read this</h2>
    <p>
      The impact of a weight is the mean over calibration windows of the square of the loss’s gradient with respect to
      it, one window at a time. Figures and scores are of the first draw of ${grouped(sets[0].windows)} windows of
      ${grouped(sequenceLength)} tokens from <bdi>${sets[0].name}</bdi>, on the engine ${engine}. After Cui and Wang,
      Cherry on Top, NeurIPS 2024 (arXiv:2404.02837), figure 1, equation 4 and table 1.
    </p>
    <ul class="notes">
      <li>Impact says how much the loss would change if a weight were moved, not how much rounding moves it.</li>
      <li>The weights drawn are a random sample; the scores and the shares are of all weights.</li>
      ${
        narrow &&
        html`<li>
          In matrices of fewer than 100 columns the score by activation is always 1: the top hundredth lies within one
          column, whose weights all meet the same input.
        </li>`
      }
      <li>All that is drawn here, and every sampled weight, is in <code>analysis.json</code> beside this page.</li>
    </ul>
  </section>`;
};
