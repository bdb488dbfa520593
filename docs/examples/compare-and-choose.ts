// Compares roundings, takes the smallest that is good enough, and compresses with it: node --import tsx docs/examples/compare-and-choose.ts
import { CherryQ } from 'cherryq/node';

const [model = 'demo/model', evaluation = 'demo/test.txt', out = 'out/chosen'] = process.argv.slice(2);
const worst = 1.05; // times the perplexity of the original
const client = new CherryQ({ baseUrl: process.env.CHERRYQ_URL, apiKey: process.env.CHERRYQ_API_KEY });
const measured = { model, evaluation, evaluationTokens: 4096 };

const { result } = await client.compare({
  ...measured,
  axes: { method: ['rtn'], bits: [2, 3, 4] },
  out: `${out}-comparison`,
});
const [chosen] = result.rows
  .filter(({ perplexityRatio }) => perplexityRatio !== null && perplexityRatio <= worst)
  .sort((a, b) => (a.measurement?.sizeBytes ?? Infinity) - (b.measurement?.sizeBytes ?? Infinity));
if (chosen === undefined) throw new Error(`no scheme stays within ${worst} times the original's perplexity`);
console.log(`${chosen.scheme.bits} bits: ${chosen.measurement?.sizeBytes} bytes`);

// The job fails, with the code `quality`, should it miss what the comparison has found.
const limits = { perplexityRatio: worst };
const { folder } = await client.compress({ ...measured, scheme: chosen.scheme, limits, out });
console.log(folder);
