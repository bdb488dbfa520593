/** `client.estimates`: what a job would need and cost, before there is one. */
import type { RequestOptions, Transport } from './client.ts';
import type { CreateJob, Estimate } from './contract/index.ts';

export class Estimates {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Takes what `jobs.create` takes and starts nothing.
   * @example const { allowed } = await client.estimates.create({ modelId, scheme: { method: 'rtn', bits: 4 } });
   */
  create(request: CreateJob, options?: RequestOptions): Promise<Estimate> {
    return this.#transport.json({ method: 'POST', path: '/v1/estimates', json: request }, options);
  }
}
