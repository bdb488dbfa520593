/**
 * Reads a stream of server-sent events, as the HTML standard (9.2.6) has it. Only whole events are given out: what a cut
 * connection leaves unfinished is dropped, and the id before it stays the last one.
 */
import { CherryQError } from './errors.ts';

export interface ServerSentEvent {
  /** Last id that the stream gave, this event's own or an earlier one's. */
  id: string;
  event: string;
  data: string;
}

/** A stream that goes on longer without the end of an event is none of ours. */
const maxEventChars = 4 * 1024 * 1024;

/** @param onRetry called with the milliseconds that the server asks to wait before connecting again */
export async function* readServerSentEvents(
  stream: ReadableStream<Uint8Array>,
  onRetry?: (delayMs: number) => void,
): AsyncGenerator<ServerSentEvent> {
  let id = '';
  let event = '';
  let data: string[] = [];
  let chars = 0;
  for await (const line of readLines(stream)) {
    if (line === '') {
      if (data.length > 0) yield { id, event: event || 'message', data: data.join('\n') };
      event = '';
      data = [];
      chars = 0;
      continue;
    }
    const [, name = '', value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (name === 'data') data.push(value);
    else if (name === 'event') event = value;
    else if (name === 'id' && !value.includes('\0')) id = value;
    else if (name === 'retry' && /^\d+$/.test(value)) onRetry?.(Number(value));
    // Anything else, such as a comment, which has no name before its colon, is passed over.
    if ((chars += line.length) > maxEventChars) throw endless();
  }
}

/** Lines, whichever of CR, LF and CRLF ends them; an unfinished last line is dropped. */
async function* readLines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      // A CR at the very end may be half of a CRLF: it waits for what follows.
      const complete = rest.endsWith('\r') ? rest.slice(0, -1) : rest;
      const lines = complete.split(/\r\n|\r|\n/);
      rest = (lines.pop() ?? '') + rest.slice(complete.length);
      if (rest.length > maxEventChars) throw endless();
      yield* lines;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function endless(): CherryQError {
  return new CherryQError(`the event stream sent more than ${maxEventChars} characters without ending an event`, {
    code: 'unexpected_answer',
  });
}
