/** What the study runs: every job it needs, each once, by a key that says what it is. */
import type { CreateJob } from 'cherryq/contract';

export interface Subject {
  readonly name: string;
  /** Folder of the model; relative paths are of the repository or of the data folder. */
  readonly model: string;
  readonly calibration: string;
  /** The first is of the kind that the model was trained on, the second is not. */
  readonly texts: readonly { readonly name: string; readonly file: string }[];
  /** Group sizes beside one scale per row. */
  readonly groupSize: number;
  /** Peak of every run's schedule but those that look for it. */
  readonly learningRate?: number;
}

/** @param data folder with the models and corpora that are described in its README */
export function subjectsOf(data: string): Subject[] {
  const stories = `${data}/corpora/tinystories`;
  const wiki = { name: 'WikiText-2', file: `${data}/corpora/wikitext2/wiki.test.raw` };
  const texts = [{ name: 'TinyStories', file: `${stories}/test.txt` }, wiki];
  const calibration = `${stories}/calibration.txt`;
  return [
    { name: 'stories260K', model: `${data}/models/stories260K`, calibration, texts, groupSize: 32 },
    { name: 'babyllama-tok105', model: `${data}/models/babyllama-tok105`, calibration, texts, groupSize: 32 },
    {
      name: 'demo',
      model: 'demo/model',
      calibration: 'demo/calibration.txt',
      texts: [{ name: "the demo's test text", file: 'demo/test.txt' }, wiki],
      groupSize: 32,
    },
  ];
}

export const seeds = [1, 2, 3] as const;
export const bits = [2, 3, 4] as const;
/** From the published count, at least one a row, to one in 32. */
export const fractions = [1 / 256, 1 / 64, 1 / 32] as const;

export type Scheme = NonNullable<CreateJob['scheme']>;
export type Training = NonNullable<CreateJob['training']>;

/** One job of the study. */
export interface Run {
  readonly subject: Subject;
  readonly scheme: Scheme;
  readonly seed: number;
  /** What differs from the study's own training settings. */
  readonly training: Training;
}

/** The published loss and schedule, the same for every model and method but for the rate (`rateRuns`). */
export const training = {
  tokens: 65_536,
  sequenceLength: 256,
  batchSize: 4,
  impactSamples: 64,
} as const satisfies Training;

/** From the published rate, for batches of 262,144 tokens, to one that suits a model of 260,000 parameters. */
export const learningRates = [2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3] as const;

/**
 * The rate of a model is the one at which `qat`, which knows no cherries, ends with the lowest training loss at the study's centre.
 * No window comes twice in these tokens, so the loss is that of text the model has not been trained on; no test text decides.
 */
export function rateRuns(subject: Subject): Run[] {
  return learningRates.map((learningRate) => ({
    subject,
    scheme: { method: 'qat', ...centre(subject) },
    seed: seeds[0],
    training: { learningRate },
  }));
}

export const evaluatedTokens = 16_384;

export function keyOf({ subject, scheme, seed, training: changes }: Run): string {
  const settings = Object.entries({ ...scheme, ...changes })
    .map(([name, value]) => `${name}=${String(value)}`)
    .sort();
  return [subject.name, ...settings, `seed=${seed}`].join(' ');
}

/** Everything that the page shows; a run that two tables share comes once. */
export function planOf(subjects: readonly Subject[]): Run[] {
  const runs = subjects.flatMap((subject) => [
    ...methodRuns(subject),
    ...criterionRuns(subject),
    ...fractionRuns(subject),
    ...variantRuns(subject),
  ]);
  return [...new Map(runs.map((run) => [keyOf(run), run])).values()];
}

export const run = (subject: Subject, scheme: Scheme, seed: number, changes: Training = {}): Run => ({
  subject,
  scheme,
  seed,
  training: { learningRate: subject.learningRate, ...changes },
});

export const groupSizesOf = (subject: Subject): readonly (number | 'row')[] => [subject.groupSize, 'row'];

/** Rounding as others ship it, with zero points, and on the grid that training begins from. */
export const roundings = ['published', 'midRise'] as const;

export function rounding(
  width: (typeof bits)[number],
  groupSize: number | 'row',
  quantizer: (typeof roundings)[number],
): Scheme {
  return { method: 'rtn', bits: width, groupSize, ...(quantizer === 'published' ? {} : { quantizer }) };
}

/** Bits x group size x method. */
export function methodRuns(subject: Subject): Run[] {
  return bits.flatMap((width) =>
    groupSizesOf(subject).flatMap((groupSize) => [
      ...roundings.map((quantizer) => run(subject, rounding(width, groupSize, quantizer), seeds[0])),
      ...seeds.flatMap((seed) => [
        run(subject, { method: 'qat', bits: width, groupSize }, seed),
        run(subject, { method: 'cherryq', bits: width, groupSize }, seed),
      ]),
    ]),
  );
}

export const criteria = ['impact', 'weight', 'activation'] as const;

/** The scheme that the single questions are asked at. */
export const centre = (subject: Subject) => ({ bits: 3, groupSize: subject.groupSize }) as const;

/** The three criteria, in rows and in columns, with one weight in 32 kept, so that the choice matters. */
export function criterionRuns(subject: Subject): Run[] {
  return (['row', 'column'] as const).flatMap((cherryMode) =>
    criteria.flatMap((criterion) =>
      seeds.map((seed) =>
        run(
          subject,
          { method: 'cherryq', ...centre(subject), cherryFraction: 1 / 32, ...choice(criterion, cherryMode) },
          seed,
        ),
      ),
    ),
  );
}

/** Only what is not the default, so that equal jobs have equal keys. */
function choice(criterion: (typeof criteria)[number], cherryMode: 'row' | 'column'): Scheme {
  return {
    ...(criterion === 'impact' ? {} : { criterion }),
    ...(cherryMode === 'row' ? {} : { cherryMode }),
  };
}

/** From no cherries to one in 32. */
export function fractionRuns(subject: Subject): Run[] {
  return seeds.flatMap((seed) => [
    run(subject, { method: 'qat', ...centre(subject) }, seed),
    ...fractions.map((cherryFraction) =>
      run(
        subject,
        { method: 'cherryq', ...centre(subject), ...(cherryFraction === 1 / 256 ? {} : { cherryFraction }) },
        seed,
      ),
    ),
  ]);
}

/** Ways off the published one: the 2-bit variant, aligned groups, learning the original, block by block. */
export const variants = [
  {
    name: 'searched column scales, asymmetric, 2 bits',
    bits: 2,
    scheme: { quantizer: 'asymmetric', columnScales: 'searched' },
    training: {},
  },
  { name: 'asymmetric, 2 bits', bits: 2, scheme: { quantizer: 'asymmetric' }, training: {} },
  { name: 'aligned groups', bits: 3, scheme: { groups: 'aligned' }, training: {} },
  { name: 'distillation', bits: 3, scheme: {}, training: { loss: 'distillation' } },
  { name: 'block by block', bits: 3, scheme: {}, training: { mode: 'blockWise' } },
] as const satisfies readonly { name: string; bits: number; scheme: Scheme; training: Training }[];

export function variantRuns(subject: Subject): Run[] {
  return variants.flatMap((variant) => seeds.map((seed) => variantRun(subject, variant, seed)));
}

export function variantRun(subject: Subject, variant: (typeof variants)[number], seed: number): Run {
  const { groupSize } = subject;
  return run(subject, { method: 'cherryq', bits: variant.bits, groupSize, ...variant.scheme }, seed, variant.training);
}

/** What is asked of a model that takes too long for everything: the methods at the centre, what makes a cherry, one seed. */
export function largerRuns(subject: Subject): { readonly name: string; readonly run: Run }[] {
  const [seed] = seeds;
  const { groupSize } = subject;
  return [
    { name: 'rtn, 3 bits', run: run(subject, rounding(3, groupSize, 'published'), seed) },
    { name: 'rtn, 4 bits', run: run(subject, rounding(4, groupSize, 'published'), seed) },
    { name: 'qat, 3 bits', run: run(subject, { method: 'qat', ...centre(subject) }, seed) },
    { name: 'cherryq, 3 bits', run: run(subject, { method: 'cherryq', ...centre(subject) }, seed) },
    {
      name: 'cherryq by weight, 3 bits',
      run: run(subject, { method: 'cherryq', ...centre(subject), criterion: 'weight' }, seed),
    },
  ];
}
