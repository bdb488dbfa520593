/**
 * `report.html`: what a job did to a model, on one page that needs nothing else (no script, no network, no other file).
 * Equal data give equal bytes, so the page counts among the files that a resumed job must reproduce; it holds no date.
 * Every string that comes from outside (names of the model and its tensors, labels) passes through `html`, which escapes it.
 */
import type { Scheme } from 'cherryq/contract';
import {
  heterogeneityChart,
  impactCharts,
  learningRateChart,
  lossChart,
  perplexityChart,
  sizeChart,
} from './report-charts.ts';
import type { ReportData, ReportRow } from './report-data.ts';
import type { Markup } from './report-html.ts';
import {
  bytes,
  count,
  decimal,
  figure,
  fraction,
  grouped,
  html,
  page,
  percent,
  signedPercent,
  trusted,
  words,
} from './report-html.ts';

export type { ReportData, ReportRow };

/** Renders the page. @returns a whole HTML document, UTF-8, ending in a newline */
export const renderReport = (data: ReportData): string => {
  const { scheme, modelName } = data;
  const title = `${modelName} in ${scheme.bits} bits (${methods[scheme.method].name})`;
  return page(
    title,
    html`<header>
        <p class="kind">Compression report · ${methods[scheme.method].name} · ${schemeText(scheme)}</p>
        <h1><bdi>${modelName}</bdi></h1>
        <p class="lead">${headline(data)}</p>
      </header>
      ${tiles(data)} ${measurements(data)} ${trainingCurves(data)} ${impactSection(data)} ${heterogeneitySection(data)}
      ${tensorTable(data)} ${settings(data)} ${method(data)}`,
  );
};

const methods: Record<Scheme['method'], { name: string; what: string }> = {
  rtn: {
    name: 'rounding',
    what: 'Every weight of the linear layers is rounded to the nearest level of its group. Nothing is trained and no text is used.',
  },
  qat: {
    name: 'quantization-aware training',
    what:
      'The model is trained with its weights rounded in every forward pass; the gradient passes the rounding unchanged ' +
      '(straight-through). All parameters train, embeddings and norms included.',
  },
  cherryq: {
    name: 'CherryQ',
    what:
      'The impact of a weight is the mean square of the loss’s gradient with respect to it, over windows of the calibration ' +
      'text. In each row the weights of highest impact, the cherries, stay in 16 bits; the others are rounded in groups. The ' +
      'mixed model is then trained, the gradient passing the rounding unchanged (straight-through). All parameters train, ' +
      'embeddings and norms included. After Cui and Wang, Cherry on Top, NeurIPS 2024 (arXiv:2404.02837), in row mode.',
  },
};

const schemeText = ({ bits, groupSize }: Scheme): string =>
  `${bits} bits, ${groupSize === 'row' ? 'one scale per row' : `groups of ${groupSize}`}`;

const rowOf = (data: ReportData, role: ReportRow['role']): ReportRow | undefined =>
  data.rows.find((row) => row.role === role);

interface Gain {
  /** Original size over the job's. */
  sizeRatio: number | null;
  original: number | null;
  rounding: number | null;
  job: number | null;
  /** (rounding - job) / (rounding - original); null unless all three are measured and rounding opened a gap. */
  gapClosed: number | null;
}

const gainOf = (data: ReportData): Gain => {
  const [original, rounding, job] = (['original', 'rounding', 'job'] as const).map((role) => rowOf(data, role));
  const perplexities = [original, rounding, job].map((row) => row?.perplexity ?? null);
  const [before, rounded, after] = perplexities;
  const gap = before === null || rounded === null ? 0 : rounded - before;
  return {
    sizeRatio: original && job && job.sizeBytes > 0 ? original.sizeBytes / job.sizeBytes : null,
    original: before,
    rounding: rounded,
    job: after,
    gapClosed:
      data.scheme.method !== 'rtn' && gap > 0 && rounded !== null && after !== null ? (rounded - after) / gap : null,
  };
};

const sizeText = (ratio: number, digits: number): string =>
  ratio >= 1 ? `${ratio.toFixed(digits)} times smaller` : `${(1 / ratio).toFixed(digits)} times larger`;

/** The one sentence to read: how much smaller, and what that did to perplexity. */
const headline = (data: ReportData): Markup => {
  const { sizeRatio, original, rounding, job, gapClosed } = gainOf(data);
  const size = sizeRatio === null ? 'Compressed' : sizeText(sizeRatio, 1);
  if (original === null || job === null)
    return html`<b>${size}</b>; perplexity was not measured, as the job had no evaluation text.`;
  const change = html`perplexity goes from ${decimal(original)} to ${decimal(job)}
  (${signedPercent(job / original - 1)})`;
  if (gapClosed === null) return html`<b>${size}</b>; ${change}.`;
  const rounded = html`Plain rounding to the same bits gives ${rounding === null ? '' : decimal(rounding)}`;
  if (gapClosed < 0) return html`<b>${size}</b>, but ${change}. ${rounded}, which is better: this job did not pay.`;
  if (gapClosed > 1) return html`<b>${size}</b>, and ${change}, below the original. ${rounded}.`;
  return html`<b>${size}</b>; ${change}. ${rounded}:
    <b>${percent(gapClosed)} of the gap that rounding opens is closed.</b>`;
};

const tiles = (data: ReportData): Markup => {
  const { sizeRatio, original, rounding, job, gapClosed } = gainOf(data);
  const row = rowOf(data, 'job');
  const tile = (name: string, value: string, note: string, won = false) =>
    html`<div><dt>${name}</dt><dd${won ? trusted(' class="won"') : ''}>${value}</dd><dd>${note}</dd></div>`;
  return html`<dl class="tiles">
    ${row && tile('Size', bytes(row.sizeBytes), sizeRatio === null ? '' : `${sizeText(sizeRatio, 2)} than the original`)}
    ${typeof row?.bitsPerWeight === 'number' && tile('Bits per weight', decimal(row.bitsPerWeight), 'quantized layers, all overhead counted')}
    ${job !== null && tile('Perplexity', decimal(job), original === null ? '' : `original ${decimal(original)}`)}
    ${gapClosed !== null && rounding !== null && tile('Gap closed', percent(gapClosed), `rounding gives ${decimal(rounding)}`, gapClosed > 0)}
    ${tile('Model', count(data.parameters), 'parameters')}
  </dl>`;
};

const measurements = (data: ReportData): Markup => {
  const measured = data.rows.filter((row) => row.perplexity !== null);
  const original = rowOf(data, 'original');
  const line = (row: ReportRow) => html`<tr${row.role === 'job' ? trusted(' class="job"') : ''}>
<th scope="row">${row.label}<small>${row.note}</small></th>
<td>${row.bitsPerWeight === null ? '–' : decimal(row.bitsPerWeight)}</td>
<td>${bytes(row.sizeBytes)}</td>
<td>${original ? percent(row.sizeBytes / original.sizeBytes) : '–'}</td>
<td>${row.perplexity === null ? 'not measured' : row.perplexity.toFixed(row.perplexity < 1000 ? 3 : 0)}</td>
</tr>`;
  const text =
    measured.length > 0
      ? ` Perplexity on ${grouped(data.evaluatedTokens)} tokens of the evaluation text; lower is better.`
      : '';
  return html`<section>
    <h2>Size and perplexity</h2>
    <div class="scroll">
      <table>
        <caption>
          Measured on the files as written, read back.${text}
        </caption>
        <thead>
          <tr>
            <th scope="col">Model</th>
            <th scope="col">Bits per weight</th>
            <th scope="col">Size</th>
            <th scope="col">Of the original</th>
            <th scope="col">Perplexity</th>
          </tr>
        </thead>
        <tbody>
          ${data.rows.map(line)}
        </tbody>
      </table>
    </div>
    <div class="charts">
      ${data.rows.length > 0 && figure(html`<b>Size</b> in MB`, sizeChart(data.rows))}
      ${measured.length > 0 && figure(html`<b>Perplexity</b>, lower is better; dashed: the original`, perplexityChart(data.rows))}
    </div>
  </section>`;
};

const trainingCurves = ({ losses, trainedTokens }: ReportData): Markup | null => {
  if (!losses.some(({ loss }) => Number.isFinite(loss))) return null;
  return html`<section>
    <h2>Training</h2>
    <p class="soft">
      ${grouped(losses.length)} steps over ${grouped(trainedTokens)} tokens of the calibration text. The loss is that of
      the rounded model on the batch it is about to learn from.
    </p>
    <div class="charts">
      ${figure(html`<b>Loss</b>; bold: moving mean`, lossChart(losses))}
      ${figure(html`<b>Learning rate</b>`, learningRateChart(losses))}
    </div>
  </section>`;
};

const impactSection = ({ impact }: ReportData): Markup | null => {
  const charts = impactCharts(impact);
  if (charts.length === 0) return null;
  return html`<section>
    <h2>Which weights matter</h2>
    <p class="soft">
      Each dot is one sampled weight. Its height is its impact, on one logarithmic scale for all figures; its place
      across is its rank in magnitude. If large weights were the important ones, the cherries would all stand at the
      right.
    </p>
    <ul class="legend">
      <li style="--swatch: var(--cherry)">cherry, kept in 16 bits</li>
      <li style="--swatch: var(--plain)">rounded</li>
    </ul>
    <div class="charts">
      ${charts.map(({ matrix, svg, cherries, sampled }) =>
        figure(
          html`<b><bdi>${matrix}</bdi></b
            ><br />${grouped(sampled)} weights sampled, ${grouped(cherries)} of them cherries`,
          svg,
        ),
      )}
    </div>
  </section>`;
};

const heterogeneitySection = ({ heterogeneity }: ReportData): Markup | null => {
  const chart = heterogeneityChart(heterogeneity);
  if (chart === null) return null;
  return html`<section>
    <h2>How unequal they are</h2>
    <p class="soft">
      Heterogeneity score of a matrix: the mean over its top 1 % of weights, divided by the largest value among the
      other 99 %. Where the dots by impact lie further right than those by magnitude, a few weights stand apart that
      their size alone does not reveal.
    </p>
    <ul class="legend">
      <li style="--swatch: var(--cherry)">by impact</li>
      <li style="--swatch: var(--second)">by magnitude</li>
    </ul>
    <div class="charts">${figure(html`One pair of dots per matrix`, chart)}</div>
    <details>
      <summary>Scores of ${grouped(heterogeneity.length)} matrices</summary>
      <div class="scroll">
        <table class="dense">
          <thead>
            <tr>
              <th scope="col">Matrix</th>
              <th scope="col">By impact</th>
              <th scope="col">By magnitude</th>
            </tr>
          </thead>
          <tbody>
            ${heterogeneity.map(
              ({ matrix, byImpact, byMagnitude }) =>
                html`<tr>
                  <th scope="row"><bdi>${matrix}</bdi></th>
                  <td>${decimal(byImpact)}</td>
                  <td>${decimal(byMagnitude)}</td>
                </tr> `,
            )}
          </tbody>
        </table>
      </div>
    </details>
  </section>`;
};

const tensorTable = ({ scheme, tensors }: ReportData): Markup | null => {
  if (tensors.length === 0) return null;
  return html`<section>
    <h2>Tensor by tensor</h2>
    <p class="soft">
      The relative error is that of the rounding alone: the norm of what it changed, over the norm of the weights that
      were
      rounded${scheme.method === 'rtn' ? '.' : ', as training left them. Training makes the model cope with this error rather than make it small.'}
    </p>
    <details>
      <summary>Bits and error of ${grouped(tensors.length)} tensors</summary>
      <div class="scroll">
        <table class="dense">
          <thead>
            <tr>
              <th scope="col">Tensor</th>
              <th scope="col">Shape</th>
              <th scope="col">Bits per weight</th>
              <th scope="col">Relative error</th>
            </tr>
          </thead>
          <tbody>
            ${tensors.map(
              ({ name, shape, bitsPerWeight, relativeError }) =>
                html`<tr>
                  <th scope="row"><bdi>${name}</bdi></th>
                  <td>${shape.join(' × ')}</td>
                  <td>${decimal(bitsPerWeight)}</td>
                  <td>${relativeError.toFixed(4)}</td>
                </tr> `,
            )}
          </tbody>
        </table>
      </div>
    </details>
  </section>`;
};

const settings = ({ scheme, training, engine }: ReportData): Markup => {
  const pairs: [string, string][] = [
    ['method', scheme.method],
    ['bits', String(scheme.bits)],
    ['group size', String(scheme.groupSize)],
    ...(scheme.method === 'cherryq' ? [['cherry fraction', fraction(scheme.cherryFraction)] as [string, string]] : []),
    ['engine', engine],
    ...Object.entries(training ?? {}).map(([name, value]): [string, string] => [words(name), String(value)]),
  ];
  return html`<section>
    <h2>Settings</h2>
    <details>
      <summary>All that is needed to run it again</summary>
      <div class="scroll">
        <table class="dense">
          <thead>
            <tr>
              <th scope="col">Setting</th>
              <th scope="col">Value</th>
            </tr>
          </thead>
          <tbody>
            ${pairs.map(
              ([name, value]) =>
                html`<tr>
                  <th scope="row">${name}</th>
                  <td>${value}</td>
                </tr> `,
            )}
          </tbody>
        </table>
      </div>
    </details>
  </section>`;
};

/** The method in a few lines, and what the figures do not say. */
const method = (data: ReportData): Markup => {
  const trains = data.scheme.method !== 'rtn';
  const measured = data.rows.some((row) => row.perplexity !== null);
  return html`<section>
    <h2>How to read this</h2>
    <p>${methods[data.scheme.method].what}</p>
    <ul class="notes">
      <li>
        Sizes are those of the weights’ files and count everything in them: packed integers, scales, cherries with their
        indices, and the embeddings, head and norms, which stay in float16. In a small model the embeddings are a large
        share, so the file shrinks less than the bits suggest.
      </li>
      <li>Bits per weight is the mean over the quantized layers only, with scales, cherries and indices counted.</li>
      ${
        measured
          ? html`<li>
              Perplexity is measured on the written files, read back, not on the model in memory. It says how well one
              text is predicted, not how useful the model is; measure your own task before relying on it.
            </li>`
          : html`<li>
              No evaluation text was given, so nothing here says how much the model lost. Run
              <code>cherryq eval</code> on both.
            </li>`
      }
      ${trains && measured && html`<li>Training also adapts the model to the calibration text. Where the evaluation text is of the same kind, part of the gain over rounding is that.</li>`}
      ${trains && html`<li>One run with one seed; another seed gives slightly different figures.</li>`}
    </ul>
  </section>`;
};
