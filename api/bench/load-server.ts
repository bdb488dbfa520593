/** The local server in a process of its own, which says what memory it takes when it is asked. */
import { startServer } from '../src/serve.ts';

const [storeFolder = ''] = process.argv.slice(2);
const { url, close } = await startServer({ storeFolder, port: 0, concurrency: 0 });
process.send?.({ url });
process.on('message', () => process.send?.({ rssBytes: process.memoryUsage.rss() }));
process.on('disconnect', () => void close());
