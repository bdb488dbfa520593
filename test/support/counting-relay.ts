/** A relay of bytes before a server that comes and goes: it keeps its address, and counts what passes. */
import { connect, createServer, type AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

export interface CountingRelay {
  readonly url: string;
  /** What clients sent, and what they got, headers and all. */
  readonly bytes: { sent: number; received: number };
  /** Where the server is now; what comes while there is none is cut off. */
  target(url: string | null): void;
}

/** Until the test ends. */
export async function startCountingRelay(): Promise<CountingRelay> {
  const bytes = { sent: 0, received: 0 };
  let port: number | null = null;
  const server = createServer((client) => {
    if (port === null) {
      client.resetAndDestroy();
      return;
    }
    const upstream = connect(port, '127.0.0.1');
    client.on('data', (chunk) => (bytes.sent += chunk.length));
    upstream.on('data', (chunk) => (bytes.received += chunk.length));
    client.pipe(upstream).pipe(client);
    client.on('error', () => upstream.destroy()).on('close', () => upstream.destroy());
    upstream.on('error', () => client.destroy()).on('close', () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    bytes,
    target: (url) => (port = url === null ? null : Number(new URL(url).port)),
  };
}
