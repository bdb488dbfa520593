/** `client.webhooks`: have a server of yours told when jobs end, and know that what it is told comes from here. */
import type { RequestOptions, Transport } from './client.ts';
import type {
  CreateWebhook,
  Page,
  UpdateWebhook,
  Webhook,
  WebhookDelivery,
  WebhookPayload,
  WebhookWithSecret,
} from './contract/index.ts';
import { SignatureError } from './errors.ts';
import { everyItem } from './pages.ts';

export interface CreateWebhookOptions extends RequestOptions {
  /** Own key, kept across restarts of your program: the same key never makes a second webhook. Default: a random one. */
  idempotencyKey?: string;
}

export interface ListDeliveriesQuery {
  /** 1 to 100, default 20. */
  limit?: number;
  /** Id of the last one seen. */
  after?: string;
}

export interface UnwrapOptions {
  /** How far the sender's clock may be from this one; what is older may be a copy that somebody sends again. Default 300. */
  toleranceSeconds?: number;
  /** Milliseconds since 1970; default: now. */
  now?: number;
}

/** As Node gives them, or as `fetch` does. */
export type HeadersLike = Headers | Readonly<Record<string, string | readonly string[] | undefined>>;

export class Webhooks {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Keep `secret`: only `rotateSecret` shows one again.
   * @example const { secret } = await client.webhooks.create({ url: 'https://example.com/cherryq' })
   */
  create(
    request: CreateWebhook,
    { idempotencyKey, ...options }: CreateWebhookOptions = {},
  ): Promise<WebhookWithSecret> {
    return this.#transport.json({ method: 'POST', path: '/v1/webhooks', json: request, idempotencyKey }, options);
  }

  /** All of them, oldest first. */
  list(options?: RequestOptions): Promise<Page<Webhook>> {
    return this.#transport.json({ method: 'GET', path: '/v1/webhooks' }, options);
  }

  retrieve(id: string, options?: RequestOptions): Promise<Webhook> {
    return this.#transport.json({ method: 'GET', path: pathOf(id) }, options);
  }

  /** @example await client.webhooks.update(id, { enabled: false }) */
  update(id: string, changes: UpdateWebhook, options?: RequestOptions): Promise<Webhook> {
    return this.#transport.json({ method: 'PATCH', path: pathOf(id), json: changes }, options);
  }

  /** With all its deliveries. */
  delete(id: string, options?: RequestOptions): Promise<void> {
    return this.#transport.json({ method: 'DELETE', path: pathOf(id) }, options);
  }

  /** A new secret; for a day the old one signs too, so that the receiver can change over. */
  rotateSecret(id: string, options?: RequestOptions): Promise<WebhookWithSecret> {
    return this.#transport.json({ method: 'POST', path: `${pathOf(id)}/rotate-secret` }, options);
  }

  /** Sends an event of the type `webhook.test`, and says what came of it. */
  test(id: string, options?: RequestOptions): Promise<WebhookDelivery> {
    return this.#transport.json({ method: 'POST', path: `${pathOf(id)}/test` }, options);
  }

  /** One page of what was sent in the last 30 days, the newest job first. */
  deliveries(id: string, query: ListDeliveriesQuery = {}, options?: RequestOptions): Promise<Page<WebhookDelivery>> {
    return this.#transport.json({ method: 'GET', path: `${pathOf(id)}/deliveries`, query: { ...query } }, options);
  }

  /** All of them. */
  iterateDeliveries(
    id: string,
    query: ListDeliveriesQuery = {},
    options?: RequestOptions,
  ): AsyncGenerator<WebhookDelivery> {
    return everyItem((after = query.after) => this.deliveries(id, { ...query, after }, options));
  }

  /** Sends a delivery once more, and says what came of it. */
  replay(id: string, deliveryId: string, options?: RequestOptions): Promise<WebhookDelivery> {
    const path = `${pathOf(id)}/deliveries/${encodeURIComponent(deliveryId)}/replay`;
    return this.#transport.json({ method: 'POST', path }, options);
  }

  /** `unwrapWebhook`, where a client is at hand. */
  unwrap(body: string, headers: HeadersLike, secret: string, options?: UnwrapOptions): Promise<WebhookPayload> {
    return unwrapWebhook(body, headers, secret, options);
  }
}

const encoder = new TextEncoder();

/**
 * Checks the signature of a call that a webhook has received (Standard Webhooks 1.0.0), and gives what it says.
 * @param body exactly as it came; JSON that was parsed and written again is another text
 * @param secret `whsec_...`
 * @throws SignatureError when it does not come from the server that has the secret, or not now
 */
export async function unwrapWebhook(
  body: string,
  headers: HeadersLike,
  secret: string,
  { toleranceSeconds = 300, now = Date.now() }: UnwrapOptions = {},
): Promise<WebhookPayload> {
  const [id, timestamp, signatures] = ['webhook-id', 'webhook-timestamp', 'webhook-signature'].map((name) => {
    const value = headerOf(headers, name);
    if (value) return value;
    throw new SignatureError(
      'missing_header',
      `the header ${name} is missing, so this is not a call of a webhook`,
      name,
    );
  }) as [string, string, string];
  const apart = Math.round(now / 1000 - Number(timestamp));
  if (!(Math.abs(apart) <= toleranceSeconds))
    throw new SignatureError(
      'timestamp_out_of_range',
      `webhook-timestamp is ${JSON.stringify(timestamp)}, ${apart} s before this machine's time; at most ${toleranceSeconds} s are allowed. Is its clock right, or does somebody send an old call again?`,
      'webhook-timestamp',
    );
  const key = await crypto.subtle.importKey('raw', keyBytes(secret), { name: 'HMAC', hash: 'SHA-256' }, false, [
    'verify',
  ]);
  const signed = encoder.encode(`${id}.${timestamp}.${body}`);
  for (const each of signatures.split(' ')) {
    const [version, signature] = each.split(',');
    const bytes = version === 'v1' && signature !== undefined ? bytesOf(signature) : null;
    // `verify` takes the same time whichever byte differs.
    if (bytes !== null && (await crypto.subtle.verify('HMAC', key, bytes, signed)))
      return JSON.parse(body) as WebhookPayload;
  }
  throw new SignatureError(
    'wrong_signature',
    'no signature of webhook-signature fits; give the body as it came, byte for byte, and the secret of this webhook',
    'webhook-signature',
  );
}

function headerOf(headers: HeadersLike, name: string): string | null {
  if (headers instanceof Headers) return headers.get(name);
  const found = Object.entries(headers).find(([key]) => key.toLowerCase() === name)?.[1];
  return (typeof found === 'string' ? found : found?.[0]) ?? null;
}

function keyBytes(secret: string): Uint8Array<ArrayBuffer> {
  const bytes = secret.startsWith('whsec_') ? bytesOf(secret.slice('whsec_'.length)) : null;
  if (bytes !== null && bytes.length > 0) return bytes;
  throw new SignatureError(
    'wrong_secret',
    'the secret of a webhook is whsec_ and base64, as its creation answered it',
    null,
  );
}

/** @returns null for what is not base64 */
function bytesOf(base64: string): Uint8Array<ArrayBuffer> | null {
  try {
    return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  } catch {
    return null;
  }
}

const pathOf = (id: string): string => `/v1/webhooks/${encodeURIComponent(id)}`;
