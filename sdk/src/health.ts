/** `client.health`: whether the server lives, is ready, and what it can do. */
import type { RequestOptions, Transport } from './client.ts';
import type { Capabilities, Health as HealthReport } from './contract/index.ts';

export class Health {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The process answers. */
  live(options?: RequestOptions): Promise<HealthReport> {
    return this.#transport.json({ method: 'GET', path: '/healthz' }, options);
  }

  /** Its store and queue answer too.  @throws ServerError (503) otherwise */
  ready(options?: RequestOptions): Promise<HealthReport> {
    return this.#transport.json({ method: 'GET', path: '/readyz' }, options);
  }

  /** Architectures, methods, bits, formats, limits and machines of this installation. */
  capabilities(options?: RequestOptions): Promise<Capabilities> {
    return this.#transport.json({ method: 'GET', path: '/v1/capabilities' }, options);
  }
}
