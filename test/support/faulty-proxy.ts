/** A proxy before an HTTP server that answers some requests as a bad network or a busy service would. */
import { request } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { listen } from './listen.ts';

export interface Fault {
  /** Which requests it is for. */
  readonly when: (incoming: IncomingMessage) => boolean;
  /** How many of them; each counts once. */
  times: number;
  /**
   * `lost`: the server gets the request, the client no answer. `reset`: nobody gets anything. `cut`: the answer ends half-way through its
   * body. A status: the proxy answers itself.
   */
  readonly kind: 'lost' | 'reset' | 'cut' | { readonly status: number; readonly code: string };
}

export interface FaultyProxy {
  readonly url: string;
  /** Requests that came, whatever became of them. */
  readonly requests: string[];
  fail(fault: Fault): void;
}

/** Until the test ends. */
export async function startFaultyProxy(target: string): Promise<FaultyProxy> {
  const faults: Fault[] = [];
  const requests: string[] = [];

  const url = await listen((incoming, outgoing) => {
    requests.push(`${incoming.method} ${incoming.url}`);
    const fault = faults.find(({ when, times }) => times > 0 && when(incoming));
    if (fault !== undefined) fault.times--;
    const kind = fault?.kind;
    if (kind === 'reset') {
      outgoing.destroy();
      return;
    }
    if (typeof kind === 'object') {
      incoming.resume().on('end', () => answer(outgoing, kind));
      return;
    }
    const forwarded = request(
      new URL(incoming.url ?? '/', target),
      { method: incoming.method, headers: incoming.headers },
      (answered) => {
        if (kind === 'lost') {
          answered.resume().on('end', () => outgoing.destroy());
          return;
        }
        outgoing.writeHead(answered.statusCode ?? 500, answered.headers);
        if (kind === 'cut') cut(answered, outgoing);
        else answered.pipe(outgoing);
      },
    );
    forwarded.on('error', () => outgoing.destroy());
    incoming.pipe(forwarded);
  });

  return { url, requests, fail: (fault) => void faults.push(fault) };
}

function answer(outgoing: ServerResponse, { status, code }: { status: number; code: string }): void {
  outgoing.writeHead(status, { 'content-type': 'application/xml' });
  outgoing.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>Injected.</Message></Error>`);
}

/** Half of the body, then the end of the connection. */
function cut(answered: IncomingMessage, outgoing: ServerResponse): void {
  const parts: Buffer[] = [];
  answered.on('data', (part: Buffer) => parts.push(part));
  answered.on('end', () => {
    const whole = Buffer.concat(parts);
    outgoing.write(whole.subarray(0, Math.floor(whole.length / 2)), () => outgoing.destroy());
  });
}
