/** A server in a process of its own, to be killed: `tsx serve.ts <store folder> <worker>` prints its address. */
import { startServer } from '@cherryq/api/serve';

const [storeFolder = '', trainerEntry = ''] = process.argv.slice(2);
const server = await startServer({ storeFolder, trainerEntry, port: 0 });
console.log(server.url);
