// A client in a process of its own, to be killed and to be measured: `node transfer-client.mjs <upload|download> <url> <id or -> <path>`.
// At its end it prints what it has, and the most memory that it has held.
import { CherryQ } from 'cherryq';
import { downloadArtifacts, uploadTextFile } from 'cherryq/node';

const [action, baseUrl, id, path] = process.argv.slice(2);
const client = new CherryQ({ baseUrl });
let progress = 0;
const onProgress = () => void progress++;
const result =
  action === 'upload'
    ? await uploadTextFile(client, path, { onProgress })
    : await downloadArtifacts(client, id, path, { onProgress });
process.stdout.write(`${JSON.stringify({ result, progress, peakBytes: process.resourceUsage().maxRSS * 1024 })}\n`);
