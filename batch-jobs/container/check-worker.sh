#!/bin/sh
# Whether an installed worker starts, and takes the native engine that was installed for it. It needs no GPU: without one,
# the GPU engine calculates on the processor.
# usage: check-worker.sh WORKER ENGINES
set -eu
cd "${1:?the folder of the worker}"
export CHERRYQ_ENGINE_DIR="${2:?the folder of engines}"

code=0
CHERRYQ_STORE='' CHERRYQ_JOB='' node batch-jobs/dist/main.js 2> /dev/null || code=$?
if [ "$code" -ne 2 ]; then
  echo "check-worker.sh: without a job the worker ended with exit code $code, and must with 2" >&2
  exit 1
fi
node --input-type=module << 'END'
import { diagnose } from '@cherryq/batch-jobs';
const { engine, faults } = await diagnose({ storeFolder: '.', rounds: 0 });
const folder = engine?.native?.folder ?? null;
if (folder === null || !folder.startsWith(process.env.CHERRYQ_ENGINE_DIR) || faults.length > 0) {
  console.error(`The worker took ${engine?.name ?? 'no engine'}: ${engine?.reason ?? ''} ${faults.join(' ')}`);
  process.exit(1);
}
console.log(`The worker runs on ${engine.name}: TensorFlow ${engine.native.tensorflow}`);
END
