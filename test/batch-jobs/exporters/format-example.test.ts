import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { schemeSchema } from 'cherryq/contract';
import { native } from '../../../batch-jobs/src/exporters/native.ts';
import { openSafetensors, readTensorBytes, safetensorsBytes } from '../../../batch-jobs/src/formats/safetensors.ts';
import { weightsInMemory } from '../../../batch-jobs/src/model-weights.ts';
import { dequantizeMatrix, quantizeMatrix } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { temporaryStore } from '../../support/temporary-store.ts';
import { gridFor } from '../../support/grid.ts';

const page = readFileSync(new URL('../../../docs/format.md', import.meta.url), 'utf8');

/** Text of the code fence that follows `<!-- example: title -->`. */
function example(title: string): string {
  const [, fence] = new RegExp(`<!-- example: ${title} -->\\s*\`\`\`text\\n([^\`]*)\`\`\``).exec(page) ?? [];
  if (fence === undefined) throw new Error(`docs/format.md has no example "${title}".`);
  return fence;
}

const numbers = (title: string): number[] => example(title).trim().split(/\s+/).map(Number);

describe('the worked example of docs/format.md', () => {
  const weight = Float32Array.from(numbers('weight'));
  const columns = 8;
  const grid = gridFor(3, 4);
  const cherries = { perRow: 1, columns: Uint32Array.from([2, 5]), shared: false };

  it('is what the writer writes', async () => {
    const tensors = native.tensors({
      configJson: {},
      scheme: schemeSchema.parse({ bits: grid.bits, groupSize: grid.groupSize }),
      keepsCherries: true,
      shapes: new Map([['layer.weight', [2, columns]]]),
      weights: weightsInMemory(new Map([['layer.weight', weight]])),
      cherries: new Map([['layer.weight', cherries]]),
      columnScales: new Map(),
      isQuantized: () => true,
    });
    const store = await temporaryStore();
    await store.put('file', safetensorsBytes(tensors).chunks);
    const written: string[] = [];
    for (const info of (await openSafetensors(store, 'file')).tensors.values()) {
      const { name, dtype, shape } = info;
      const bytes = await readTensorBytes(store, info);
      written.push(`${name.slice('layer.'.length)} ${dtype} [${shape.join(', ')}] ${hex(bytes)}`);
    }
    const specified = example('bytes')
      .trim()
      .split('\n')
      .map((line) => line.replace(/\s+/g, ' ').trim());
    expect(written).toEqual(specified);
  });

  it('reads back as the page says', () => {
    const readBack = dequantizeMatrix(quantizeMatrix(weight, columns, grid, cherries));
    expect([...readBack]).toEqual(numbers('read back'));
  });
});

function hex(data: Uint8Array): string {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
}
