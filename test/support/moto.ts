/**
 * AWS on this machine: a moto server, which the real SDK talks to. It is installed on first use; where Python cannot be had, the
 * tests that need it say so in one line and are not run.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { messageOf } from '../../batch-jobs/src/errors.ts';
import { pythonWith } from '../../batch-jobs/bench/peers/environment.ts';

export interface Moto {
  readonly url: string;
  /** What makes any client of the SDK talk to it. */
  readonly client: {
    readonly endpoint: string;
    readonly region: string;
    readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string };
    readonly forcePathStyle: true;
  };
  close(): Promise<void>;
}

const packages = ['moto[server,s3,batch]==5.2.3', 'cfn-lint==1.58.0'];

/**
 * A Python that has moto and cfn-lint.
 * @param what is not run without it   @returns null, after a line that says why, where it cannot be had; in CI
 * (`CHERRYQ_TEST_NATIVE`) that is an error
 */
export async function motoPython(what: string): Promise<string | null> {
  try {
    return await pythonWith(packages, { kept: 'test', given: 'CHERRYQ_MOTO_PYTHON' });
  } catch (error) {
    if (process.env.CHERRYQ_TEST_NATIVE) throw error;
    console.log(`not run: ${what} (${messageOf(error)})`);
    return null;
  }
}

/** @returns null, after a line that says why, where it cannot be had */
export async function startMoto(): Promise<Moto | null> {
  const python = await motoPython('the tests against moto');
  if (python === null) return null;
  const server = spawn(python, ['-m', 'moto.server', '-H', '127.0.0.1', '-p', '0'], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, AWS_ACCESS_KEY_ID: 'test', AWS_SECRET_ACCESS_KEY: 'test' },
  });
  const ended = once(server, 'exit');
  const url = await new Promise<string>((resolve, reject) => {
    const said: string[] = [];
    createInterface({ input: server.stderr }).on('line', (line) => {
      said.push(line);
      const [, found] = /Running on (http:\/\/127\.0\.0\.1:\d+)/.exec(line) ?? [];
      if (found !== undefined) resolve(found);
    });
    server.on('exit', (code) => reject(new Error(`moto ended with ${code}: ${said.slice(-5).join(' ')}`)));
  });
  // Batch would start containers; without Docker it only keeps what was submitted.
  const configured = await fetch(`${url}/moto-api/config`, {
    method: 'POST',
    body: JSON.stringify({ batch: { use_docker: false } }),
  });
  if (!configured.ok) throw new Error(`moto refuses its configuration: ${await configured.text()}`);
  const credentials = { accessKeyId: 'test', secretAccessKey: 'test' };
  return {
    url,
    client: { endpoint: url, region: 'eu-central-1', credentials, forcePathStyle: true },
    async close() {
      server.kill();
      await ended;
    },
  };
}
