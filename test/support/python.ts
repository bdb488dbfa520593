/** A Python with what the reader of docs/format.md needs. It is installed on first use. */
import { messageOf } from '../../batch-jobs/src/errors.ts';
import { peerPackages, pythonWith } from '../../batch-jobs/bench/peers/environment.ts';

/**
 * A Python that has numpy and safetensors; `CHERRYQ_PYTHON` names one.
 * @param what is not run without it   @returns null, after a line that says why, where it cannot be had; in CI
 * (`CHERRYQ_TEST_NATIVE`) that is an error
 */
export async function numpyPython(what: string): Promise<string | null> {
  try {
    return await pythonWith([peerPackages.numpy, peerPackages.safetensors], { kept: 'test', given: 'CHERRYQ_PYTHON' });
  } catch (error) {
    if (process.env.CHERRYQ_TEST_NATIVE) throw error;
    console.log(`not run: ${what} (${messageOf(error)})`);
    return null;
  }
}
