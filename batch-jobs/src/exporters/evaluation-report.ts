/** The page of an evaluation: how well a model predicts a text and answers questions, beside its baseline where there is one. */
import type { Measurement, TaskScore } from 'cherryq/contract';
import type { EvaluationReportData } from './evaluation-data.ts';
import type { Markup } from './report-html.ts';
import { bytes, count, decimal, grouped, html, page, percent, signedPercent } from './report-html.ts';

/** Renders the page.  @returns a whole HTML document, UTF-8, ending in a newline */
export const renderEvaluationReport = (data: EvaluationReportData): string =>
  page(
    `How good ${data.modelName} is`,
    html`<header>
        <p class="kind">Evaluation</p>
        <h1><bdi>${data.modelName}</bdi></h1>
        <p class="lead">${headline(data)}</p>
      </header>
      ${tiles(data)} ${measurements(data)} ${taskScores(data)} ${notes(data)}`,
  );

const headline = ({ measurement, baseline, perplexityRatio }: EvaluationReportData): Markup => {
  const { perplexity, divergence } = measurement;
  const own = html`<b>Perplexity ${perplexity === null ? 'not measured' : decimal(perplexity)}</b>`;
  if (baseline === null || perplexityRatio === null) return html`${own}.`;
  return html`${own}, ${signedPercent(perplexityRatio - 1)} against
    <bdi>${baseline.name}</bdi>${divergence === null ? '' : `; ${divergence.toFixed(4)} nats a token apart from it`}.`;
};

const tiles = ({ measurement, baseline, perplexityRatio, parameters }: EvaluationReportData): Markup => {
  const { perplexity, divergence, sizeBytes, bitsPerWeight } = measurement;
  const tile = (name: string, value: string, note: string) =>
    html`<div>
      <dt>${name}</dt>
      <dd>${value}</dd>
      <dd>${note}</dd>
    </div>`;
  return html`<dl class="tiles">
    ${perplexity !== null && tile('Perplexity', decimal(perplexity), typeof baseline?.perplexity === 'number' ? `baseline ${decimal(baseline.perplexity)}` : '')}
    ${perplexityRatio !== null && tile('Ratio', perplexityRatio.toFixed(4), 'perplexity over the baseline’s')}
    ${divergence !== null && tile('Divergence', divergence.toFixed(4), 'nats a token from the baseline')}
    ${tile('Size', bytes(sizeBytes), bitsPerWeight === null ? 'not quantized' : `${decimal(bitsPerWeight)} bits per weight`)}
    ${tile('Model', count(parameters), 'parameters')}
  </dl>`;
};

const measurements = (data: EvaluationReportData): Markup => {
  const { measurement, baseline, modelName, evaluatedTokens } = data;
  const line = (name: string, { sizeBytes, perplexity, divergence }: Measurement) =>
    html`<tr>
      <th scope="row"><bdi>${name}</bdi></th>
      <td>${bytes(sizeBytes)}</td>
      <td>${perplexity === null ? 'not measured' : perplexity.toFixed(perplexity < 1000 ? 3 : 0)}</td>
      <td>${divergence === null ? '–' : divergence.toFixed(4)}</td>
    </tr>`;
  return html`<section>
    <h2>Size and perplexity</h2>
    <div class="scroll">
      <table>
        <caption>
          On ${grouped(evaluatedTokens)} tokens of the evaluation text; lower is better.
        </caption>
        <thead>
          <tr>
            <th scope="col">Model</th>
            <th scope="col">Size</th>
            <th scope="col">Perplexity</th>
            <th scope="col">Divergence (nats a token)</th>
          </tr>
        </thead>
        <tbody>
          ${baseline && line(baseline.name, baseline)} ${line(modelName, measurement)}
        </tbody>
      </table>
    </div>
  </section>`;
};

const taskScores = ({ measurement, baseline, modelName }: EvaluationReportData): Markup | null => {
  if (measurement.tasks.length === 0) return null;
  const line = (model: string, { name, questions, acc, accNorm, accStderr }: TaskScore) =>
    html`<tr>
      <th scope="row"><bdi>${name}</bdi><small>${model}</small></th>
      <td>${grouped(questions)}</td>
      <td>${percent(acc)} ± ${(100 * accStderr).toFixed(1)}</td>
      <td>${percent(accNorm)}</td>
    </tr>`;
  return html`<section>
    <h2>Tasks</h2>
    <div class="scroll">
      <table>
        <caption>
          Share of questions whose right choice is the likeliest, and the same by likelihood per character.
        </caption>
        <thead>
          <tr>
            <th scope="col">Task</th>
            <th scope="col">Questions</th>
            <th scope="col">acc</th>
            <th scope="col">acc_norm</th>
          </tr>
        </thead>
        <tbody>
          ${measurement.tasks.map(
            (score, index) =>
              html`${baseline?.tasks[index] && line(baseline.name, baseline.tasks[index])} ${line(modelName, score)}`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
};

const notes = ({ engine, baseline }: EvaluationReportData): Markup =>
  html`<section>
    <h2>How to read this</h2>
    <ul class="notes">
      <li>
        Perplexity is measured on the model’s files as they are, as jobs that compress measure theirs; on the engine
        ${engine}. It says how well one text is predicted, not how useful the model is.
      </li>
      ${baseline && html`<li>Divergence is the mean Kullback-Leibler divergence of the next token’s distribution from the baseline’s; 0 where both say the same.</li>`}
    </ul>
  </section>`;
