// Compresses a model folder by plain rounding, which needs no text: node --import tsx docs/examples/compress-folder.ts MODEL OUT
import { CherryQ } from 'cherryq/node';

const [model = 'demo/model', out = 'out/compressed'] = process.argv.slice(2);
const client = new CherryQ({ baseUrl: process.env.CHERRYQ_URL, apiKey: process.env.CHERRYQ_API_KEY });

const { result, folder } = await client.compress({
  model,
  out,
  scheme: { method: 'rtn', bits: 4, groupSize: 64 },
  onUpload: ({ sentBytes, totalBytes }) => console.log(`sent ${sentBytes} of ${totalBytes} bytes`),
});

const { sizeBytes, bitsPerWeight } = result.compressed;
const share = (100 * sizeBytes) / result.baseline.sizeBytes;
console.log(`${folder}: ${share.toFixed(1)} % of the original, ${bitsPerWeight.toFixed(2)} bits per weight`);
