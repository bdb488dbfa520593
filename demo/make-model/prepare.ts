/** Writes the text and the tokenizer that the demo model is trained, calibrated and tested with.
 *  Run it at the repository root with `node --import tsx demo/make-model/prepare.ts [demo folder]`; it needs no network
 *  and gives the same bytes every time. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join, parse } from 'node:path';
import { buildCorpus } from './corpus.ts';
import { tokenizerConfig, trainBpe } from './tokenizer.ts';

const VOCAB_SIZE = 1024;

/** Writes the two kept texts and the tokenizer under `demoDir`, and the training texts to its git-ignored `.cache`.
 *  The tokenizer is trained on the training split alone.
 *  @param report receives one line for each file written */
export function prepare(demoDir: string, report: (line: string) => void): void {
  const corpus = buildCorpus();
  const files: Readonly<Record<string, string>> = {
    'calibration.txt': corpus.calibration,
    'test.txt': corpus.test,
    'model/tokenizer.json': toJson(trainBpe(corpus.train, VOCAB_SIZE)),
    'model/tokenizer_config.json': toJson(tokenizerConfig()),
    '.cache/train.txt': corpus.train,
    '.cache/validation.txt': corpus.validation,
  };
  for (const [name, content] of Object.entries(files)) {
    const path = join(demoDir, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
    report(`${path}: ${Buffer.byteLength(content, 'utf8')} bytes`);
  }
}

function toJson(value: object): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** True when this script was started, and not imported; told by name, as a bundler may move this code to a shared chunk. */
function isMain(): boolean {
  return parse(process.argv[1] ?? '').name === 'prepare';
}

if (isMain()) prepare(process.argv[2] ?? 'demo', (line) => console.log(line));
