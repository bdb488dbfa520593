/**
 * What starting a function of the private install costs, apart from what AWS does: the size of the bundle, and the time that loading it takes in
 * a fresh process, which is the median of many.
 *
 *     npm run cold-start
 */
import { execFile } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const runs = 20;
const bundle = fileURLToPath(new URL('../../dist/lambda/', import.meta.url));
const settings = {
  AWS_REGION: 'eu-central-1',
  CHERRYQ_STORE: 's3://bucket/prefix',
  CHERRYQ_INSTALL: 'install',
  CHERRYQ_MACHINES: '[{"machine":"g5.8xlarge","jobQueue":"queue","jobDefinition":"definition"}]',
};
const program = `const begun = performance.now(); await import(${JSON.stringify(join(bundle, 'lambda.mjs'))}); console.log(performance.now() - begun);`;

const bytes = readdirSync(bundle).reduce((sum, file) => sum + statSync(join(bundle, file)).size, 0);
const times: number[] = [];
for (let run = 0; run < runs; run++) {
  const env = { PATH: process.env.PATH, ...settings };
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], { env });
  times.push(Number(stdout));
}
times.sort((a, b) => a - b);
const milliseconds = (at: number): string => `${(times[at] ?? 0).toFixed(0)} ms`;
process.stdout.write(
  `bundle ${(bytes / 1e6).toFixed(2)} MB; loading it in a fresh process: median ${milliseconds(runs / 2)} of ${runs}, fastest ${milliseconds(0)}, slowest ${milliseconds(runs - 1)}\n`,
);
