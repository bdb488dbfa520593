// A client in a process of its own, to be killed and to be measured: `node transfer-client.mjs
// <upload|upload-blob|download> <url> <id or -> <path>`.
// At its end it prints what it has, and the most memory that it has held.
import { openAsBlob } from 'node:fs';
import { CherryQ } from 'cherryq';
import { downloadArtifacts, uploadTextFile } from 'cherryq/node';

const [action, baseUrl, id, path] = process.argv.slice(2);
const client = new CherryQ({ baseUrl });
let progress = 0;
const onProgress = () => void progress++;
const actions = {
  upload: () => uploadTextFile(client, path, { onProgress }),
  'upload-blob': async () => {
    const files = [{ path: 'text.txt', content: await openAsBlob(path) }];
    return client.datasets.upload({ name: 'blob', files }, { onProgress });
  },
  download: () => downloadArtifacts(client, id, path, { onProgress }),
};
const result = await actions[action]();
process.stdout.write(`${JSON.stringify({ result, progress, peakBytes: process.resourceUsage().maxRSS * 1024 })}\n`);
