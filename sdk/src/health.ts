/** `client.health`: whether the server lives and is ready. */
import type { RequestOptions, Transport } from './client.ts';
import type { Health as HealthReport } from './contract/index.ts';

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
}
