/** `client.keys`: API keys of the tenant, for who has an admin key. */
import type { RequestOptions, Transport } from './client.ts';
import type { CreatedKey, CreateKey, Key, Page, Usage } from './contract/index.ts';

export class Keys {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Keep `secret`: nobody can show it again. */
  create(request: CreateKey, options?: RequestOptions): Promise<CreatedKey> {
    return this.#transport.json({ method: 'POST', path: '/v1/keys', json: request }, options);
  }

  /** All of them, oldest first, revoked ones too. */
  list(options?: RequestOptions): Promise<Page<Key>> {
    return this.#transport.json({ method: 'GET', path: '/v1/keys' }, options);
  }

  /** It is refused within ten seconds. */
  revoke(id: string, options?: RequestOptions): Promise<Key> {
    return this.#transport.json({ method: 'DELETE', path: `/v1/keys/${encodeURIComponent(id)}` }, options);
  }

  /** What the tenant may use, and what it uses. */
  usage(options?: RequestOptions): Promise<Usage> {
    return this.#transport.json({ method: 'GET', path: '/v1/usage' }, options);
  }
}
