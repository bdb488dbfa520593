/** The page of a comparison: what each scheme costs in bytes and in quality, and which of them no other beats. */
import type { ComparedScheme, ComparisonReportData } from './comparison-data.ts';
import { schemeNames } from './comparison-data.ts';
import { methodColours, sizeAgainstPerplexity } from './comparison-charts.ts';
import type { Markup } from './report-html.ts';
import { bytes, decimal, figure, grouped, html, page, percent, signedPercent, trusted, words } from './report-html.ts';

/** Renders the page.  @returns a whole HTML document, UTF-8, ending in a newline */
export const renderComparisonReport = (data: ComparisonReportData): string =>
  page(
    `Schemes for ${data.modelName}`,
    html`<header>
        <p class="kind">Comparison of ${data.rows.length} schemes</p>
        <h1><bdi>${data.modelName}</bdi></h1>
        <p class="lead">${headline(data)}</p>
      </header>
      ${chart(data)} ${table(data)} ${taskTable(data)} ${settings(data)} ${notes(data)}`,
    style,
  );

const style = `
.schemes tbody th { min-width: 8rem; }
.schemes .why { white-space: normal; text-align: left; color: var(--soft); }
`;

const headline = (data: ComparisonReportData): Markup => {
  const names = schemeNames(data.rows.map(({ scheme }) => scheme));
  const named = data.rows.map((row, index) => ({ ...row, name: names[index] }));
  const best = named
    .filter(({ perplexityRatio }) => perplexityRatio !== null)
    .sort((a, b) => Number(a.perplexityRatio) - Number(b.perplexityRatio))[0];
  const smallest = named
    .filter(({ onFrontier }) => onFrontier)
    .sort((a, b) => (a.measurement?.sizeBytes ?? 0) - (b.measurement?.sizeBytes ?? 0))[0];
  if (best === undefined || smallest === undefined) return html`Nothing was measured.`;
  const gain = ({ name, measurement, perplexityRatio }: typeof best) =>
    html`${name}: ${percent((measurement?.sizeBytes ?? 0) / data.baseline.sizeBytes)} of the original’s size, perplexity
    ${signedPercent((perplexityRatio ?? 1) - 1)}`;
  if (best === smallest) return html`<b>Best and smallest</b> is ${gain(best)}.`;
  return html`<b>Lowest perplexity</b> has ${gain(best)}. <b>Smallest</b> is ${gain(smallest)}.`;
};

const chart = (data: ComparisonReportData): Markup | null => {
  const svg = sizeAgainstPerplexity(data);
  if (svg === null) return null;
  const used = Object.entries(methodColours).filter(([name]) => data.rows.some(({ scheme }) => scheme.method === name));
  return html`<section>
    <h2>Size against perplexity</h2>
    <ul class="legend">
      ${used.map(([name, colour]) => html`<li style="${`--swatch: ${colour}`}">${name}</li>`)}
    </ul>
    <div class="charts">
      ${figure(html`<b>Further left is smaller, lower is better</b>; dashed: the original; the line joins what no other scheme beats`, svg)}
    </div>
  </section>`;
};

const table = (data: ComparisonReportData): Markup => {
  const { rows, baseline, evaluatedTokens } = data;
  const names = schemeNames(rows.map(({ scheme }) => scheme));
  const hasDivergence = rows.some(({ measurement }) => typeof measurement?.divergence === 'number');
  const columns = hasDivergence ? 6 : 5;
  const perplexityText = (value: number | null): string =>
    value === null ? 'not measured' : value.toFixed(value < 1000 ? 3 : 0);
  const line = ({ measurement, perplexityRatio, onFrontier, error }: ComparedScheme, index: number) =>
    measurement === null
      ? html`<tr>
          <th scope="row">${names[index]}</th>
          <td colspan="${columns - 1}" class="why">Failed: ${error?.message}</td>
        </tr>`
      : html`<tr${onFrontier ? trusted(' class="job"') : ''}>
          <th scope="row">${names[index]}</th>
          <td>${decimal(measurement.bitsPerWeight)}</td>
          <td>${bytes(measurement.sizeBytes)}</td>
          <td>${perplexityText(measurement.perplexity)}</td>
          <td>${perplexityRatio === null ? '–' : signedPercent(perplexityRatio - 1)}</td>
          ${hasDivergence && html`<td>${measurement.divergence === null ? '–' : measurement.divergence.toFixed(4)}</td>`}
        </tr>`;
  return html`<section>
    <h2>All schemes</h2>
    <div class="scroll">
      <table class="schemes">
        <caption>
          Measured on the files as written, read back, on ${grouped(evaluatedTokens)} tokens of the evaluation text.
          Coloured: no other scheme gives both a smaller model and a lower perplexity.
        </caption>
        <thead>
          <tr>
            <th scope="col">Scheme</th>
            <th scope="col">Bits per weight</th>
            <th scope="col">Size</th>
            <th scope="col">Perplexity</th>
            <th scope="col">Against the original</th>
            ${hasDivergence && html`<th scope="col">Divergence (nats a token)</th>`}
          </tr>
        </thead>
        <tbody>
          <tr>
            <th scope="row">Original</th>
            <td>–</td>
            <td>${bytes(baseline.sizeBytes)}</td>
            <td>${perplexityText(baseline.perplexity)}</td>
            <td>–</td>
            ${hasDivergence && html`<td>–</td>`}
          </tr>
          ${rows.map(line)}
        </tbody>
      </table>
    </div>
  </section>`;
};

const taskTable = ({ rows, baseline }: ComparisonReportData): Markup | null => {
  if (baseline.tasks.length === 0) return null;
  const names = schemeNames(rows.map(({ scheme }) => scheme));
  const measured = rows.map(({ measurement }, index) => ({ name: names[index], tasks: measurement?.tasks ?? [] }));
  return html`<section>
    <h2>Tasks</h2>
    <div class="scroll">
      <table class="dense">
        <caption>
          Share of questions whose right choice is the likeliest.
        </caption>
        <thead>
          <tr>
            <th scope="col">Scheme</th>
            ${baseline.tasks.map(({ name }) => html`<th scope="col"><bdi>${name}</bdi></th>`)}
          </tr>
        </thead>
        <tbody>
          ${[{ name: 'Original', tasks: baseline.tasks }, ...measured].map(
            ({ name, tasks }) =>
              html`<tr>
                <th scope="row">${name}</th>
                ${baseline.tasks.map((_, index) => {
                  const score = tasks[index];
                  return html`<td>
                    ${score === undefined ? '–' : `${percent(score.acc)} ± ${(100 * score.accStderr).toFixed(1)}`}
                  </td>`;
                })}
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
};

const settings = ({ training, engine }: ComparisonReportData): Markup =>
  html`<section>
    <h2>Settings</h2>
    <details>
      <summary>What all schemes share</summary>
      <div class="scroll">
        <table class="dense">
          <tbody>
            ${[['engine', engine], ...Object.entries(training ?? {})].map(
              ([name, value]) =>
                html`<tr>
                  <th scope="row">${words(String(name))}</th>
                  <td>${String(value)}</td>
                </tr>`,
            )}
          </tbody>
        </table>
      </div>
    </details>
  </section>`;

const notes = ({ training }: ComparisonReportData): Markup =>
  html`<section>
    <h2>How to read this</h2>
    <ul class="notes">
      <li>
        Sizes are those of the weights’ files and count everything in them: packed integers, scales, cherries, and the
        embeddings, head and norms, which stay in float16.
      </li>
      <li>Perplexity says how well one text is predicted, not how useful the model is.</li>
      ${training && html`<li>Every scheme that trains has had the same tokens; with more of them the gaps between schemes close.</li>`}
      <li>
        The models are not kept. A job that compresses with the scheme of a row makes the same one, byte for byte.
      </li>
    </ul>
  </section>`;
