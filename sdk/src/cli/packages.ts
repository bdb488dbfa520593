/** The server and the trainer, loaded when a command needs them: the client works without either. */
import { InputError } from '../index.ts';

export const loadServer = () => load('@cherryq/api', () => import('@cherryq/api/serve'));
export const loadTrainer = () => load('@cherryq/batch-jobs', () => import('@cherryq/batch-jobs'));

/** @throws InputError when the package is not installed, or not built */
async function load<Module>(name: string, loading: () => Promise<Module>): Promise<Module> {
  try {
    return await loading();
  } catch (cause) {
    const missing = cause instanceof Error && 'code' in cause && cause.code === 'ERR_MODULE_NOT_FOUND';
    if (!missing) throw cause;
    throw new InputError(
      'not_installed',
      `this needs ${name}, which is not installed or, in a checkout, not built: npm install ${name}, or npm run build. (${cause.message})`,
      name,
      { cause },
    );
  }
}
