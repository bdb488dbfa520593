// Asks what a job would need and cost, and compresses only if that is fine: node --import tsx docs/examples/estimate-first.ts
import { CherryQ } from 'cherryq/node';

const [model = 'demo/model', out = 'out/estimated'] = process.argv.slice(2);
const client = new CherryQ({ baseUrl: process.env.CHERRYQ_URL, apiKey: process.env.CHERRYQ_API_KEY });
const options = { model, scheme: { method: 'rtn', bits: 4, groupSize: 64 } } as const;

// Of the model only config.json is sent.
const estimate = await client.estimate(options);
for (const { name, fits, seconds, dollars } of estimate.machines)
  console.log(`${name}: ${fits ? `${seconds.toFixed(0)} s` : 'too small'}${dollars ? `, $${dollars.toFixed(2)}` : ''}`);

const { allowed, reason, outputBytes, secondsBasis } = estimate;
if (!allowed) throw new Error(`the server would refuse it: ${reason}`);
console.log(`${outputBytes.native} bytes; the time is ${secondsBasis}`);

const { result } = await client.compress({ ...options, out });
console.log(`it took ${result.seconds.toFixed(1)} s`);
