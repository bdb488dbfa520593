/** The most tensors that are alive at once while something runs: counted at every tensor that is made, so no moment is missed. */
import * as tf from '@tensorflow/tfjs-core';

export interface Peak {
  readonly tensors: number;
  readonly bytes: number;
}

/** What of TensorFlow.js's engine is used: every tensor passes through `trackTensor` when it is made. */
interface TensorTracker {
  readonly state: { readonly numTensors: number; readonly numBytes: number };
  trackTensor(tensor: tf.Tensor, backend: unknown): void;
}

/** Peaks while `work` runs, less what was alive before. */
export async function peakOf(work: () => Promise<unknown>): Promise<Peak> {
  const engine = tf.engine() as unknown as TensorTracker;
  const track = engine.trackTensor;
  const before = { tensors: engine.state.numTensors, bytes: engine.state.numBytes };
  let peak: Peak = { tensors: 0, bytes: 0 };
  engine.trackTensor = function (tensor, backend) {
    track.call(engine, tensor, backend);
    peak = {
      tensors: Math.max(peak.tensors, engine.state.numTensors - before.tensors),
      bytes: Math.max(peak.bytes, engine.state.numBytes - before.bytes),
    };
  };
  try {
    await work();
  } finally {
    engine.trackTensor = track;
  }
  return peak;
}
