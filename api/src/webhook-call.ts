/**
 * One call to a webhook's address: signed (Standard Webhooks 1.0.0), without redirects, within seconds, and never to an address
 * inside a private network, whatever its name resolves to: the address that is checked is the one that is connected to.
 */
import { lookup as resolve } from 'node:dns';
import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';
import { Webhook } from 'standardwebhooks';
import { InputError, messageOf } from '@cherryq/batch-jobs/storage';

/** Until the whole answer is there. */
const defaultTimeoutMs = 15_000;
/** Of the answer's body that is kept, to find out what went wrong. */
const answerBytes = 500;

/** Networks beyond the public internet that webhooks may be in. */
export type Networks = readonly (readonly [ipaddr.IPv4 | ipaddr.IPv6, number])[];

export const everyNetwork: Networks = [ipaddr.parseCIDR('0.0.0.0/0'), ipaddr.parseCIDR('::/0')];

/** @param text such as `10.0.0.0/8, fd00::/8`   @throws InputError */
export function parseNetworks(text: string, setting: string): Networks {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map((part) => {
      try {
        return ipaddr.parseCIDR(part);
      } catch (cause) {
        const message = `${setting} names ${JSON.stringify(part)}; a network is written as 10.0.0.0/8 or fd00::/8, with commas between several.`;
        throw new InputError('invalid_setting', message, setting, { cause });
      }
    });
}

export interface WebhookCall {
  url: string;
  /** The same for every attempt: a receiver tells by it what it has seen before. */
  messageId: string;
  payload: string;
  /** All of them sign, so that a receiver may hold any. */
  secrets: readonly string[];
  time: Date;
}

export interface WebhookAnswer {
  status: number | null;
  /** Null: the receiver has taken it. */
  error: string | null;
  /** How the body begins. */
  answer: string;
}

/** Never throws: what went wrong is in the answer. */
export async function callWebhook(
  call: WebhookCall,
  networks: Networks,
  timeoutMs = defaultTimeoutMs,
): Promise<WebhookAnswer> {
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    const { status, answer } = await post(call, networks, signal);
    const isTaken = status >= 200 && status < 300;
    const redirect = status >= 300 && status < 400 ? '; redirects are not followed, give the final address' : '';
    return { status, answer, error: isTaken ? null : `the answer was ${status}${redirect}` };
  } catch (error) {
    const message = signal.aborted ? `no whole answer came within ${timeoutMs / 1000} seconds` : messageOf(error);
    return { status: null, answer: '', error: message };
  }
}

/** @returns why calls to an address can not be right, as far as it shows without asking for it; null: they may be */
export function whyNotCalled(url: URL, networks: Networks): string | null {
  if (url.username !== '' || url.password !== '')
    return 'holds a user name or password; put a token in its path, or check the signature';
  if (url.protocol === 'http:' && networks.length === 0)
    return 'must begin with https://, so that nobody reads or changes what is sent';
  const host = hostOf(url);
  const isLocalName = host === 'localhost' || host.endsWith('.localhost');
  const address = isLocalName ? '127.0.0.1' : ipaddr.isValid(host) ? host : null;
  return address === null ? null : whyNotConnected(address, networks);
}

/** @returns null for an address of the internet, or of one of these networks */
function whyNotConnected(address: string, networks: Networks): string | null {
  const parsed = ipaddr.process(address);
  if (parsed.range() === 'unicast') return null;
  if (networks.some(([network, bits]) => network.kind() === parsed.kind() && parsed.match(network, bits))) return null;
  return `leads to ${address}, which is not on the public internet (${parsed.range()}); webhooks may not call into private networks`;
}

/** An IPv6 address without its brackets. */
const hostOf = (url: URL): string => url.hostname.replace(/^\[(.*)\]$/, '$1');

async function post(
  call: WebhookCall,
  networks: Networks,
  signal: AbortSignal,
): Promise<{ status: number; answer: string }> {
  const { payload, messageId, secrets, time } = call;
  const url = new URL(call.url);
  const refusal = whyNotCalled(url, networks);
  if (refusal !== null) throw new Error(`${url.origin} ${refusal}`);
  const body = Buffer.from(payload);
  const options: RequestOptions = {
    method: 'POST',
    headers: {
      'Content-Type': 'application/json',
      'Content-Length': body.length,
      'User-Agent': 'cherryq-webhooks/1',
      'Webhook-Id': messageId,
      'Webhook-Timestamp': String(Math.floor(time.getTime() / 1000)),
      'Webhook-Signature': secrets.map((secret) => new Webhook(secret).sign(messageId, time, payload)).join(' '),
    },
    // A connection of its own: one that is kept open was checked for another call.
    agent: false,
    lookup: guardedLookup(url, networks),
    signal,
  };
  const response = await new Promise<IncomingMessage>((settle, fail) => {
    const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
    send(url, options, settle).on('error', fail).end(body);
  });
  return { status: response.statusCode ?? 0, answer: await beginningOf(response) };
}

/** Resolves a name as the system does, and refuses it when any of its addresses may not be called. */
export function guardedLookup(url: URL, networks: Networks): LookupFunction {
  return (hostname, options, done) => {
    resolve(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return done(error, []);
      for (const { address } of addresses) {
        const refusal = whyNotConnected(address, networks);
        if (refusal !== null) return done(new Error(`${url.origin} ${refusal}`), []);
      }
      const [first] = addresses;
      if (options.all || first === undefined) return done(null, addresses);
      done(null, first.address, first.family);
    });
  };
}

async function beginningOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    size += chunk.length;
    // Leaving the loop closes the connection.
    if (size >= answerBytes) break;
  }
  return Buffer.concat(chunks).subarray(0, answerBytes).toString('utf8');
}
