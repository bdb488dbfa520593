// Reads a compressed folder, without a server and without Python: node --import tsx docs/examples/load-weights.ts FOLDER
import { loadQuantized } from 'cherryq/node';

const model = await loadQuantized(process.argv[2] ?? 'out/compressed');
console.log(`${model.names.length} weights, ${model.quantization.bits} bits`);

for (const name of model.names) {
  // One weight is in memory at a time.
  const tensor = await model.read(name);
  const weight = await model.dequantize(name);
  const rms = Math.sqrt(weight.reduce((sum, value) => sum + value * value, 0) / weight.length);
  const stored =
    tensor.kind === 'plain'
      ? 'in float16'
      : `in ${tensor.packed.length} bytes and ${tensor.scales.length} scales, ${tensor.cherriesPerRow} cherries a row`;
  console.log(`${name} [${tensor.shape.join(', ')}] ${stored}, rms ${rms.toFixed(4)}`);
}
