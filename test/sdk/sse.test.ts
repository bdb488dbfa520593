import { describe, expect, it } from 'vitest';
import { readServerSentEvents, type ServerSentEvent } from '../../sdk/src/sse.ts';

/** @param parts as they come from the network */
async function read(
  parts: readonly (string | Uint8Array)[],
  onRetry?: (delayMs: number) => void,
): Promise<ServerSentEvent[]> {
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const part of parts) controller.enqueue(typeof part === 'string' ? new TextEncoder().encode(part) : part);
      controller.close();
    },
  });
  const events: ServerSentEvent[] = [];
  for await (const event of readServerSentEvents(stream, onRetry)) events.push(event);
  return events;
}

describe('readServerSentEvents', () => {
  it('reads id, event and data, and joins several lines of data', async () => {
    expect(await read(['id: 7\nevent: log\ndata: one\ndata:two\n\n'])).toEqual([
      { id: '7', event: 'log', data: 'one\ntwo' },
    ]);
  });

  it.each(['\n', '\r', '\r\n'])('takes lines that end with %j, wherever the stream is cut', async (end) => {
    const text = ['id: 1', 'data: ünï', '', ': a comment', 'id: 2', 'data: b', '', ''].join(end) + end;
    const bytes = new TextEncoder().encode(text);
    const whole = await read([bytes]);
    expect(whole).toEqual([
      { id: '1', event: 'message', data: 'ünï' },
      { id: '2', event: 'message', data: 'b' },
    ]);
    for (let cut = 1; cut < bytes.length; cut++)
      expect(await read([bytes.slice(0, cut), bytes.slice(cut)])).toEqual(whole);
    expect(await read([...bytes].map((byte) => Uint8Array.of(byte)))).toEqual(whole);
  });

  it('drops an event that the end of the stream cut', async () => {
    expect(await read(['data: a\n\nid: 2\ndata: b\n'])).toEqual([{ id: '', event: 'message', data: 'a' }]);
  });

  it('keeps the last id for events without one', async () => {
    expect((await read(['id: 5\ndata: a\n\ndata: b\n\n'])).map((event) => event.id)).toEqual(['5', '5']);
  });

  it('tells the wait that the server asks for, and gives out nothing for comments and empty events', async () => {
    const waits: number[] = [];
    expect(await read(['retry: 1500\n\n: still here\n\nretry: soon\n\n'], (delayMs) => waits.push(delayMs))).toEqual(
      [],
    );
    expect(waits).toEqual([1500]);
  });

  it('passes over a byte order mark', async () => {
    expect((await read(['\uFEFFdata: a\n\n']))[0].data).toBe('a');
  });

  it('refuses a line without end', async () => {
    await expect(read(['data: ', 'x'.repeat(5 * 1024 * 1024)])).rejects.toThrow('without ending an event');
  });
});
