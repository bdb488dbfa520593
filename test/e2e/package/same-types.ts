// The types that are written out for those without zod are the contract's.
import type * as wire from 'cherryq';
import type * as contract from 'cherryq/contract';

type Same<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2
    ? true
    : [A] extends [B]
      ? [B] extends [A]
        ? true
        : false
      : false;

export const same: [
  Same<wire.Job, contract.Job>,
  Same<wire.JobEvent, contract.JobEvent>,
  Same<wire.CreateJob, contract.CreateJob>,
  Same<wire.Model, contract.Model>,
  Same<wire.Manifest, contract.Manifest>,
  Same<wire.Capabilities, contract.Capabilities>,
  Same<wire.Estimate, contract.Estimate>,
  Same<wire.Problem, contract.Problem>,
  Same<wire.WebhookPayload, contract.WebhookPayload>,
] = [true, true, true, true, true, true, true, true, true];
