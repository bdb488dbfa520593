/** `client.capabilities`: what the server can do. */
import type { RequestOptions, Transport } from './client.ts';
import type { Capabilities as CapabilitiesReport } from './contract/index.ts';

export class Capabilities {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Architectures, methods, bits and formats of this installation. */
  retrieve(options?: RequestOptions): Promise<CapabilitiesReport> {
    return this.#transport.json({ method: 'GET', path: '/v1/capabilities' }, options);
  }
}
