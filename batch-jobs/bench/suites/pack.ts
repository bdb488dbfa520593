/** Packing integers of 2, 3, 4 and 8 bits against NumPy: one thread each, the same values, in turns, equal bytes. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { packRows } from '../../src/numeric/bit-packing.ts';
import { createRandom } from '../../src/numeric/random.ts';
import { peerPackages, peerPython } from '../peers/environment.ts';
import { openLineProcess } from '../peers/line-process.ts';
import type { SuiteOptions, SuiteResult, SuiteRow } from '../result.ts';
import { rowOf } from '../result.ts';

const widths = [2, 3, 4, 8];
/** Calls that are timed together, so that a moment's disturbance counts less. */
const callsPerRound = 5;
/** Values of a row, as of a layer of a 7B model. */
const columns = 4096;

/** @throws Error when the two sides' bytes differ */
export async function runPackSuite({ repeats, size, folder: parent }: SuiteOptions): Promise<SuiteResult> {
  const python = await peerPython();
  const script = path.resolve('batch-jobs/bench/peers/pack_numpy.py');
  const folder = await mkdtemp(path.join(parent, 'cherryq-bench-'));
  const count = size === 'small' ? 2 ** 24 : 2 ** 26;
  try {
    const rows: SuiteRow[] = [];
    for (const bits of widths) rows.push(await measure(python, script, folder, bits, count, repeats));
    return { name: 'pack', peer: `${peerPackages.numpy.replace('==', ' ')}, one thread each`, rows };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function measure(
  python: string,
  script: string,
  folder: string,
  bits: number,
  count: number,
  repeats: number,
): Promise<SuiteRow> {
  const random = createRandom(bits);
  const values = new Uint8Array(count);
  for (let i = 0; i < count; i++) values[i] = random() * 2 ** bits;
  const [valuesFile, packedFile] = [path.join(folder, 'values'), path.join(folder, 'packed')];
  await writeFile(valuesFile, values);
  const peer = openLineProcess(python, [script, valuesFile, String(bits), String(callsPerRound), packedFile]);
  await peer.next();
  const packed = new Uint8Array((count * bits) / 8);
  const pack = (): Uint8Array => packRows(values, count / columns, columns, bits, packed);
  if (Buffer.compare(pack(), await readFile(packedFile)) !== 0) {
    throw new Error(`pack: at ${bits} bits our bytes and NumPy's differ; they must be the same.`);
  }
  const gigabytes = count / 1e9;
  const each = { ours: [] as number[], peer: [] as number[] };
  // The first round warms both up.
  for (let repeat = -1; repeat < repeats; repeat++) {
    const start = performance.now();
    for (let call = 0; call < callsPerRound; call++) pack();
    const ours = (callsPerRound * gigabytes * 1000) / (performance.now() - start);
    const theirs = (callsPerRound * gigabytes) / Number(await peer.ask());
    if (repeat < 0) continue;
    each.ours.push(ours);
    each.peer.push(theirs);
  }
  await peer.close();
  const note = bits === 8 ? 'a copy: both at the rate of the memory' : undefined;
  return rowOf(`pack ${count / 2 ** 20} Mi values at ${bits} bits`, 'GB/s of values', each, note);
}
