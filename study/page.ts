/** `docs/study.md` from the study's outcomes: tables, pictures and what they say of the paper's claims. */
import type { AnalysisResult } from 'cherryq/contract';
import { markdownTable } from '../batch-jobs/bench/markdown.ts';
import { spreadChart, stripChart } from './charts.ts';
import type { Point } from './charts.ts';
import type { Run, Subject } from './plan.ts';
import {
  bits,
  centre,
  criteria,
  evaluatedTokens,
  fractions,
  groupSizesOf,
  keyOf,
  learningRates,
  rateRuns,
  rounding,
  roundings,
  run,
  seeds,
  training,
  variantRun,
  variants,
} from './plan.ts';
import type { Reasons } from './reasons.ts';
import type { Outcome } from './runner.ts';
import type { Comparison, Spread } from './statistics.ts';
import { compare, median, spreadOf } from './statistics.ts';

export interface StudyData {
  readonly subjects: readonly Subject[];
  readonly outcomes: ReadonlyMap<string, Outcome>;
  readonly analyses: ReadonlyMap<string, AnalysisResult>;
  readonly reasons: ReadonlyMap<string, Reasons>;
  readonly larger: readonly Larger[];
}

/** The main question on a model that takes too long for the rest. */
export interface Larger {
  readonly name: string;
  /** What else a reader has to know of it. */
  readonly note: string;
  readonly text: string;
  readonly groupSize: number;
  readonly learningRate: number;
  /** Median over the matrices, by impact. */
  readonly heterogeneity: number;
  readonly reasons: Reasons;
  readonly runs: readonly { readonly name: string; readonly outcome: Outcome }[];
}

export interface Page {
  readonly markdown: string;
  /** SVG by file name, shown from `study/` beside the page. */
  readonly pictures: ReadonlyMap<string, string>;
}

function ratesOf(data: StudyData, subject: Subject): string[] {
  return rateRuns(subject).map((each) => {
    const loss = outcomeOf(data, each).finalLoss?.toFixed(3) ?? '-';
    return each.training.learningRate === subject.learningRate ? `**${loss}**` : loss;
  });
}

export function pageOf(data: StudyData): Page {
  const pictures = new Map<string, string>();
  const sections = [
    introduction(data),
    verdicts(data),
    reasonSection(data),
    ...data.larger.map(largerSection),
    methodSection(data, pictures),
    criterionSection(data, pictures),
    fractionSection(data, pictures),
    variantSection(data),
    heterogeneitySection(data, pictures),
    overlapSection(data),
  ];
  return { markdown: `${sections.join('\n\n')}\n`, pictures };
}

/** Perplexities of a scheme on a text, one a seed. */
function perplexities(data: StudyData, text: number, runOf: (seed: number) => Run): number[] {
  return seeds.map((seed) => outcomeOf(data, runOf(seed)).compressed[text] as number);
}

function outcomeOf({ outcomes }: StudyData, run: Run): Outcome {
  const outcome = outcomes.get(keyOf(run));
  if (!outcome) throw new Error(`The study has no outcome of: ${keyOf(run)}`);
  return outcome;
}

const cherryq =
  (subject: Subject, scheme: Run['scheme'], changes: Run['training'] = {}) =>
  (seed: number): Run =>
    run(subject, { method: 'cherryq', ...scheme }, seed, changes);
const qat =
  (subject: Subject, scheme: Run['scheme']) =>
  (seed: number): Run =>
    run(subject, { method: 'qat', ...scheme }, seed);
const rtn = (subject: Subject, ...[width, groupSize, quantizer]: Parameters<typeof rounding>): Run =>
  run(subject, rounding(width, groupSize, quantizer), seeds[0]);

function introduction(data: StudyData): string {
  const { subjects, outcomes } = data;
  const engines = [...new Set([...outcomes.values()].map(({ engine }) => engine))].join(', ');
  const models = subjects
    .map((subject) => {
      const { name, texts } = subject;
      const own = [...outcomes].find(([key]) => key.startsWith(`${name} `))?.[1];
      const originals = texts
        .map((text, index) => `${text.name} ${own?.original[index]?.toFixed(3) ?? '-'}`)
        .join(', ');
      const cells = [name, own?.parameters.toLocaleString('en-US') ?? '-', originals, ...ratesOf(data, subject)];
      return `| ${cells.join(' | ')} |`;
    })
    .join('\n');
  return `# Study: the paper's questions on small models

Made by \`npm run study\` (${outcomes.size} jobs through the API, engine ${engines}); every figure here comes from
\`docs/study/results.json\`, which it wrote. Perplexities are measured on the written files, read back, on ${evaluatedTokens.toLocaleString('en-US')} tokens
of text that no step has seen. Each trained figure is a mean over ${seeds.length} seeds ± its standard deviation; "lower" and
"higher" mean that the 95 % interval of the paired difference leaves out zero, which with ${seeds.length} seeds asks for much.

Training is the published one (cross-entropy, AdamW, cosine, all parameters) with ${training.tokens.toLocaleString('en-US')} tokens, batches of
${training.batchSize} x ${training.sequenceLength}, impact on ${training.impactSamples} windows. Every model has one learning rate for all its runs: of ${learningRates.length}, the one at which
\`qat\` at 3 bits in groups ended with the lowest training loss (over the last quarter of the steps, on windows that were new to it). No test text was
looked at for that, and cherries had no say.

| model | parameters | perplexity of the original | ${learningRates.map((rate) => `loss at ${rate}`).join(' | ')} |
| ----- | ---------- | -------------------------- | ${learningRates.map(() => '---').join(' | ')} |
${models}

These models are tiny: the paper's smallest has 7 billion parameters. Their rows are so short that the smallest number of
cherries, one a row, is 1/64 to 1/352 of it, where the paper keeps 1/256, and that one cherry costs up to half a bit a weight.
Cherries are chosen on the calibration text of the model's own kind; the second text is foreign to the model.`;
}

/** What can be said of each claim, with the counts that say it. */
function verdicts(data: StudyData): string {
  const lines = [
    claim(
      'CherryQ is better than plain QAT with equal tokens (3 bits)',
      comparisonsOf(data, (subject, text, groupSize) =>
        compare(
          perplexities(data, text, cherryq(subject, { bits: 3, groupSize })),
          perplexities(data, text, qat(subject, { bits: 3, groupSize })),
        ),
      ),
    ),
    claim(
      'The same at 2 bits',
      comparisonsOf(data, (subject, text, groupSize) =>
        compare(
          perplexities(data, text, cherryq(subject, { bits: 2, groupSize })),
          perplexities(data, text, qat(subject, { bits: 2, groupSize })),
        ),
      ),
    ),
    claim(
      'The same at 4 bits',
      comparisonsOf(data, (subject, text, groupSize) =>
        compare(
          perplexities(data, text, cherryq(subject, { bits: 4, groupSize })),
          perplexities(data, text, qat(subject, { bits: 4, groupSize })),
        ),
      ),
    ),
    claim(
      'CherryQ at 3 bits is better than rounding at 3 bits, in the same groups, on either grid',
      comparisonsOf(data, (subject, text, groupSize) => {
        const own = perplexities(data, text, cherryq(subject, { bits: 3, groupSize }));
        const rounded = roundings.map(
          (quantizer) => outcomeOf(data, rtn(subject, 3, groupSize, quantizer)).compressed[text] as number,
        );
        return compare(
          own,
          own.map(() => Math.min(...rounded)),
        );
      }),
    ),
    claim(
      'CherryQ at 3 bits is better than rounding with equal or more bits per weight: in smaller groups, or to 4 bits',
      comparisonsOf(data, (subject, text, groupSize) => {
        const own = perplexities(data, text, cherryq(subject, { bits: 3, groupSize }));
        const { bitsPerWeight } = outcomeOf(data, cherryq(subject, { bits: 3, groupSize })(seeds[0]));
        const rounded = bestRounding(data, subject, text, bitsPerWeight);
        return compare(
          own,
          own.map(() => rounded),
        );
      }),
    ),
    ...(['weight', 'activation'] as const).map((criterion) =>
      claim(
        `Impact is a better criterion than ${criterion} (1/32 kept, in rows)`,
        comparisonsOf(data, (subject, text, groupSize) =>
          groupSize === 'row'
            ? null
            : compare(
                perplexities(data, text, criterionRun(subject, 'impact', 'row')),
                perplexities(data, text, criterionRun(subject, criterion, 'row')),
              ),
        ),
      ),
    ),
    claim(
      'Cherries in rows are better than whole columns (by impact, 1/32 kept)',
      comparisonsOf(data, (subject, text, groupSize) =>
        groupSize === 'row'
          ? null
          : compare(
              perplexities(data, text, criterionRun(subject, 'impact', 'row')),
              perplexities(data, text, criterionRun(subject, 'impact', 'column')),
            ),
      ),
    ),
  ];
  const scores = [...data.analyses.values()].flatMap(({ heterogeneity }) => heterogeneity);
  const above = scores.filter(({ byImpact, byWeight }) => byImpact > byWeight).length;
  const overActivation = scores.filter(({ byImpact, byActivation }) => byImpact > byActivation).length;
  const overlaps = [...data.analyses.values()].flatMap((analysis) => analysis.overlaps);
  const across = overlaps.filter(({ sameSet }) => !sameSet);
  return `## What holds here

${lines.join('\n')}
- Weights are more heterogeneous by impact than by magnitude: in ${above} of ${scores.length} matrices; than by activation: in ${overActivation} of ${scores.length}.
- Cherries are partly the model's, partly the text's: sets from different texts share ${percent(median(across.map(({ share }) => share)))} (median), by chance ${percent(median(across.map(({ byChance }) => byChance)))}; draws from the same text share ${percent(median(overlaps.filter(({ sameSet }) => sameSet).map(({ share }) => share)))}.
${data.larger.map(largerLine).join('\n')}`;
}

function largerLine({ name, runs }: Larger): string {
  const found = runs.map(({ name: run, outcome }) => `${run}: ${(outcome.compressed[0] as number).toFixed(1)}`);
  const original = runs[0]?.outcome.original[0]?.toFixed(1);
  return `- All this is of tiny models. Of a larger one, ${name}, the perplexity is ${original}, and after ${found.join('; ')} (below).`;
}

/** Why cherries do so little on these models, in figures. */
function reasonSection(data: StudyData): string {
  const { subjects, outcomes, reasons } = data;
  const own = subjects.flatMap((subject) =>
    bits.flatMap((width) =>
      groupSizesOf(subject).map((groupSize) => {
        const scheme = { bits: width, groupSize };
        const [with_, without] = [cherryq(subject, scheme), qat(subject, scheme)].map(
          (runOf) => spreadOf(perplexities(data, 0, runOf)).mean,
        );
        return with_ / without - 1;
      }),
    ),
  );
  const ahead = own.filter((change) => change < 0).length;
  const rows = subjects.map((subject) => {
    const { impactHeld, errorLeft } = reasons.get(subject.name) as Reasons;
    const scheme = centre(subject);
    const [cost, free] = [cherryq(subject, scheme), qat(subject, scheme)].map(
      (runOf) => outcomes.get(keyOf(runOf(seeds[0])))?.bitsPerWeight ?? NaN,
    );
    const cells = [impactHeld['1/256'], impactHeld['1/32'], 1 - errorLeft.byWeight, 1 - errorLeft.byChance];
    return [subject.name, ...cells.map(percent), (cost - free).toFixed(2)];
  });
  const header = [
    'model',
    'impact held by the top 1/256',
    'by the top 1/32',
    'rounding error spared by keeping the largest 1/32',
    'by keeping any 1/32',
    'bits per weight of one cherry a row',
  ];
  return `## Why so little

On a model's own text, over all bits and groups, the mean of CherryQ is below that of QAT in ${ahead} of ${own.length} settings, by ${percent(-median(own))} (median):
cherries help, but hardly more than chance does between seeds. What the models' weights say of it (medians over their matrices; squared
rounding error at 3 bits, in groups):

${markdownTable(header, rows)}

- **Impact is spread too evenly.** To second order, what rounding adds to the loss is the sum of impact times squared error, so cherries can
  spare about the share of the impact that they hold. That is a few hundredths here at the published number; the paper's case rests on models where a few
  weights stand out by orders of magnitude.
- **Large weights set the scales.** Keeping the largest weight of a group out of it makes the group's steps smaller, and so the error of every
  other weight in it; keeping a weight for its impact does not. Where impact is even, that is worth more, which is why \`weight\` wins at 1/32.
- **A cherry is dear in a short row.** It costs 16 bits and an index, over 64 to 352 columns; the paper keeps one in 256 of rows of 4096 and more.
  Rounding with as many bits or more is therefore rounding to 4 bits, or in groups of 32 where CherryQ has a scale per row.
- **Cross-entropy on little text moves a small model off its optimum.** It was trained to the end on far more of the same; learning the original
  instead (distillation, block by block) closes more of the gap than cherries do (below).`;
}

function largerSection({ name, note, text, groupSize, learningRate, heterogeneity, reasons, runs }: Larger): string {
  const [first] = runs;
  const rows = runs.map(({ name: run, outcome }) => [
    run,
    outcome.bitsPerWeight.toFixed(2),
    (outcome.compressed[0] as number).toFixed(2),
    `${(outcome.sizeBytes / 1e6).toFixed(1)} MB`,
  ]);
  const { impactHeld, errorLeft } = reasons;
  const parameters = Math.round((first?.outcome.parameters ?? NaN) / 1e6);
  return `## The same on ${name}, ${parameters} million parameters

Groups of ${groupSize}, ${training.tokens.toLocaleString('en-US')} tokens of WikiText-2's training text at a rate of ${learningRate}, everything else as above, one seed; the
original has a perplexity of ${first?.outcome.original[0]?.toFixed(2)} on ${text}'s test text.${note === '' ? '' : ` ${note}`}

${markdownTable(['', 'bits per weight', 'perplexity', 'size'], rows)}

Impact is uneven here: the top 1/256 of a matrix's weights hold ${percent(impactHeld['1/256'])} of its impact (median), the top 1/32 ${percent(impactHeld['1/32'])}, and the heterogeneity score
is ${heterogeneity.toFixed(2)}; keeping the largest 1/32 spares ${percent(1 - errorLeft.byWeight)} of the squared rounding error. Printed again by
\`npm run study -- --model DIR --name ${name}\`, with the model's folder.`;
}

const criterionRun = (subject: Subject, criterion: (typeof criteria)[number], cherryMode: 'row' | 'column') =>
  cherryq(subject, {
    ...centre(subject),
    cherryFraction: 1 / 32,
    ...(criterion === 'impact' ? {} : { criterion }),
    ...(cherryMode === 'row' ? {} : { cherryMode }),
  });

/** One comparison for each model, text and group size; null where the question is not asked. */
function comparisonsOf(
  { subjects }: StudyData,
  of: (subject: Subject, text: number, groupSize: number | 'row') => Comparison | null,
): { where: string; comparison: Comparison }[] {
  return subjects.flatMap((subject) =>
    subject.texts.flatMap((text, index) =>
      groupSizesOf(subject).flatMap((groupSize) => {
        const comparison = of(subject, index, groupSize);
        const groups = groupSize === 'row' ? 'one scale per row' : `groups of ${groupSize}`;
        return comparison === null ? [] : [{ where: `${subject.name}, ${text.name}, ${groups}`, comparison }];
      }),
    ),
  );
}

/** A line that counts where the first is lower, where it is higher, and where the seeds do not say. */
function claim(text: string, all: readonly { where: string; comparison: Comparison }[]): string {
  const count = (verdict: Comparison['verdict']): number =>
    all.filter(({ comparison }) => comparison.verdict === verdict).length;
  const ahead = all.filter(({ comparison }) => comparison.difference < 0).length;
  const against = all.filter(({ comparison }) => comparison.verdict === 'higher').map(({ where }) => where);
  const holds =
    count('lower') === all.length
      ? '**holds**'
      : count('lower') > 0 && count('higher') === 0
        ? '**holds in part**'
        : count('higher') > count('lower')
          ? '**does not hold**'
          : count('lower') === 0
            ? '**cannot be told**'
            : '**mixed**';
  const worse = against.length === 0 ? '' : ` Worse: ${against.join('; ')}.`;
  return `- ${text}: ${holds}. Of ${all.length} settings it is lower in ${count('lower')}, unclear in ${count('unclear')}, higher in ${count('higher')}; its mean is ahead in ${ahead}.${worse}`;
}

/** Perplexity of the better of both roundings, each with the fewest bits that are at least as many as asked for. */
function bestRounding(data: StudyData, subject: Subject, text: number, bitsPerWeight: number): number {
  const found = roundings.map((quantizer) => {
    const enough = bits
      .flatMap((width) => groupSizesOf(subject).map((groupSize) => rtn(subject, width, groupSize, quantizer)))
      .map((run) => outcomeOf(data, run))
      .filter((outcome) => outcome.bitsPerWeight >= bitsPerWeight)
      .sort((a, b) => a.bitsPerWeight - b.bitsPerWeight);
    if (enough[0] === undefined) throw new Error(`The study has no rounding with ${bitsPerWeight} bits per weight.`);
    return enough[0].compressed[text] as number;
  });
  return Math.min(...found);
}

const methodNames = ['rtn', 'mid-rise', 'qat', 'cherryq'] as const;

function methodSection(data: StudyData, pictures: Map<string, string>): string {
  const parts = [
    `## Bits, groups and methods

\`rtn\` rounds with zero points, as others ship it; \`mid-rise\` is the published grid of \`qat\` and \`cherryq\` before any training.
\`b/w\` is bits per weight in the quantized layers, everything stored for them counted.`,
  ];
  for (const subject of data.subjects) {
    const points: Point[] = [];
    const rows: string[][] = [];
    for (const width of bits) {
      for (const groupSize of groupSizesOf(subject)) {
        const scheme = { bits: width, groupSize };
        const [rounded, onGrid] = roundings.map((quantizer) =>
          outcomeOf(data, rtn(subject, width, groupSize, quantizer)),
        ) as [Outcome, Outcome];
        const cells = subject.texts.flatMap((text, index) => {
          const spreads = {
            rtn: spreadOf([rounded.compressed[index] as number]),
            'mid-rise': spreadOf([onGrid.compressed[index] as number]),
            qat: spreadOf(perplexities(data, index, qat(subject, scheme))),
            cherryq: spreadOf(perplexities(data, index, cherryq(subject, scheme))),
          };
          const panel = `${text.name}, ${groupSize === 'row' ? 'row' : `g${groupSize}`}`;
          for (const [series, y] of Object.entries(spreads)) {
            points.push({ panel, series, x: width, y: scaled(y, 1 / (rounded.original[index] as number)) });
          }
          const untrained = [spreads.rtn, spreads['mid-rise']].map(({ mean }) => mean.toFixed(3));
          return [...untrained, shown(spreads.qat), shown(spreads.cherryq)];
        });
        const cost = [rounded, onGrid, outcomeOf(data, cherryq(subject, scheme)(seeds[0]))].map((outcome) =>
          outcome.bitsPerWeight.toFixed(2),
        );
        rows.push([String(width), String(groupSize), ...cost, ...cells]);
      }
    }
    const picture = `methods-${subject.name}.svg`;
    pictures.set(
      picture,
      spreadChart(points, {
        series: methodNames.toReversed(),
        xLabel: 'bits',
        yLabel: "perplexity over the original's",
        logarithmic: true,
        joined: true,
      }),
    );
    const header = [
      'bits',
      'group',
      'b/w rtn',
      'b/w mid-rise, qat',
      'b/w cherryq',
      ...subject.texts.flatMap(({ name }) => methodNames.map((method) => `${name}: ${method}`)),
    ];
    parts.push(
      `### ${subject.name}\n\n![Perplexity by bits and method](study/${picture})\n\n${markdownTable(header, rows)}`,
    );
  }
  return parts.join('\n\n');
}

function criterionSection(data: StudyData, pictures: Map<string, string>): string {
  const points: Point[] = [];
  const rows: string[][] = [];
  for (const subject of data.subjects) {
    const plain = spreadOf(perplexities(data, 0, qat(subject, centre(subject)))).mean;
    for (const [index, text] of subject.texts.entries()) {
      for (const mode of ['row', 'column'] as const) {
        const cells = criteria.map((criterion) => {
          const y = spreadOf(perplexities(data, index, criterionRun(subject, criterion, mode)));
          if (index === 0) points.push({ panel: subject.name, series: mode, x: criterion, y: scaled(y, 1 / plain) });
          return shown(y);
        });
        const { bitsPerWeight } = outcomeOf(data, criterionRun(subject, 'impact', mode)(seeds[0]));
        rows.push([subject.name, text.name, mode, bitsPerWeight.toFixed(2), ...cells]);
      }
    }
  }
  pictures.set(
    'criteria.svg',
    spreadChart(points, { series: ['row', 'column'], xLabel: 'criterion', yLabel: "perplexity over plain QAT's" }),
  );
  const header = ['model', 'text', 'cherries', 'bits per weight', ...criteria];
  return `## What makes a cherry: criterion, rows or columns

3 bits, groups, 1/32 of the weights kept. A column's index is stored once for all rows, so columns cost fewer bits. The picture is of the models' own texts.

![Perplexity by criterion](study/criteria.svg)

${markdownTable(header, rows)}`;
}

function fractionSection(data: StudyData, pictures: Map<string, string>): string {
  const points: Point[] = [];
  const rows: string[][] = [];
  for (const subject of data.subjects) {
    const settings = [
      { name: '0', runOf: qat(subject, centre(subject)) },
      ...fractions.map((cherryFraction) => ({
        name: `1/${Math.round(1 / cherryFraction)}`,
        runOf: cherryq(subject, { ...centre(subject), ...(cherryFraction === 1 / 256 ? {} : { cherryFraction }) }),
      })),
    ];
    const plain = spreadOf(perplexities(data, 0, qat(subject, centre(subject)))).mean;
    for (const { name, runOf } of settings) {
      const { bitsPerWeight } = outcomeOf(data, runOf(seeds[0]));
      const spreads = subject.texts.map((_, index) => spreadOf(perplexities(data, index, runOf)));
      points.push({ panel: subject.name, series: 'cherryq', x: name, y: scaled(spreads[0] as Spread, 1 / plain) });
      rows.push([subject.name, name, bitsPerWeight.toFixed(2), ...spreads.map(shown)]);
    }
  }
  pictures.set(
    'fractions.svg',
    spreadChart(points, { series: ['cherryq'], xLabel: 'share of cherries', yLabel: "perplexity over plain QAT's" }),
  );
  return `## How many cherries

3 bits, groups, cherries by impact in rows. 0 is plain QAT; at least one weight a row is kept, so in short rows small shares
give the same count.

![Perplexity by share of cherries](study/fractions.svg)

${markdownTable(['model', 'share', 'bits per weight', 'its own text', 'WikiText-2'], rows)}`;
}

function variantSection(data: StudyData): string {
  const rows = data.subjects.flatMap((subject) =>
    [
      ...[2, 3].map((width) => ({
        name: 'as published',
        width,
        runOf: cherryq(subject, { bits: width as 2 | 3, groupSize: subject.groupSize }),
      })),
      ...variants.map((variant) => ({
        name: variant.name,
        width: variant.bits,
        runOf: (seed: number) => variantRun(subject, variant, seed),
      })),
    ]
      .sort((a, b) => a.width - b.width)
      .map(({ name, width, runOf }) => {
        const { bitsPerWeight } = outcomeOf(data, runOf(seeds[0]));
        const cells = subject.texts.map((_, index) => shown(spreadOf(perplexities(data, index, runOf))));
        return [subject.name, String(width), name, bitsPerWeight.toFixed(2), ...cells];
      }),
  );
  return `## Ways off the published one

The 2-bit variant of the paper's section 6.4 scales columns by a search; the others are ours and labelled deviations
(docs/training.md).

${markdownTable(['model', 'bits', 'variant', 'bits per weight', 'its own text', 'WikiText-2'], rows)}`;
}

function heterogeneitySection({ analyses }: StudyData, pictures: Map<string, string>): string {
  const values = [...analyses].flatMap(([panel, { heterogeneity }]) =>
    heterogeneity.flatMap(({ matrix, byImpact, byWeight, byActivation }) =>
      Object.entries({ impact: byImpact, weight: byWeight, activation: byActivation }).map(([series, value]) => ({
        panel,
        series,
        group: kindOf(matrix),
        value,
      })),
    ),
  );
  pictures.set('heterogeneity.svg', stripChart(values, { series: criteria, yLabel: 'heterogeneity score' }));
  const quartiles = (numbers: number[]): string => {
    const sorted = [...numbers].sort((a, b) => a - b);
    return [0.25, 0.5, 0.75].map((share) => sorted[Math.floor(share * (sorted.length - 1))]?.toFixed(2)).join(' / ');
  };
  const rows = [...analyses].map(([name, { heterogeneity }]) => [
    name,
    quartiles(heterogeneity.map(({ byImpact }) => byImpact)),
    quartiles(heterogeneity.map(({ byWeight }) => byWeight)),
    quartiles(heterogeneity.map(({ byActivation }) => byActivation)),
  ]);
  return `## Heterogeneity

Mean of the top hundredth of a matrix over the largest of the rest (the paper's equation 4), a dot for each matrix.

![Heterogeneity of each matrix](study/heterogeneity.svg)

${markdownTable(['model', 'by impact (quartiles)', 'by weight', 'by activation'], rows)}`;
}

function overlapSection({ analyses }: StudyData): string {
  const rows = [...analyses].flatMap(([name, { overlaps }]) => {
    const pairs = new Map<string, { shares: number[]; byChance: number }>();
    for (const { first, second, share, byChance } of overlaps) {
      const key = [first, second].map((draw) => draw.replace(/ #\d+$/, '')).join(' | ');
      const pair = pairs.get(key) ?? { shares: [], byChance };
      pair.shares.push(share);
      pairs.set(key, pair);
    }
    return [...pairs].map(([key, { shares, byChance }]) => {
      const range = [Math.min(...shares), Math.max(...shares)].map(percent).join(' to ');
      return [name, key, percent(spreadOf(shares).mean), range, percent(byChance)];
    });
  });
  return `## Do cherries depend on the text?

Share of the cherries (published fraction, in rows) that two draws of ${training.impactSamples} windows have in common, over all matrices; three draws of
each text. \`calibration.txt\` is the text of the model's own kind that all cherries of this study come from.

${markdownTable(['model', 'first text', 'second text', 'in common', 'over draws', 'by chance'], rows)}`;
}

const kindOf = (matrix: string): string =>
  matrix.replace(/^model\.layers\.\d+\.(self_attn|mlp)\./, '').replace(/(_proj)?\.weight$/, '');
const shown = ({ mean, deviation }: Spread): string => `${mean.toFixed(3)} ± ${deviation.toFixed(3)}`;
const scaled = ({ mean, deviation, count }: Spread, factor: number): Spread => ({
  mean: factor * mean,
  deviation: factor * deviation,
  count,
});
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
