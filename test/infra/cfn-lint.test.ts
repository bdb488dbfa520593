/** cfn-lint, which knows the schema of every resource, over every template of every kind of install. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it, onTestFinished } from 'vitest';
import { motoPython } from '../support/moto.ts';
import { stackNames, synth } from '../support/synth.ts';
import { installs } from './installs.ts';

/** W3005: the CDK lets a function wait for its role in two ways. W3010: zones are written out where a setting names them. */
const ignored = ['--ignore-checks', 'W3005', 'W3010'];
const main = 'import sys; from cfnlint.runner import main; sys.exit(main())';
const python = await motoPython('the check with cfn-lint');

describe.runIf(python !== null)('cfn-lint', () => {
  it.each(Object.entries(installs))('%s: finds nothing', async (_, settings) => {
    const folder = mkdtempSync(join(tmpdir(), 'cherryq-templates-'));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const made = synth(settings);
    const files = stackNames.map((name) => {
      const file = join(folder, `${name}.json`);
      writeFileSync(file, JSON.stringify(made.template(name).toJSON()));
      return file;
    });
    const lint = promisify(execFile)(python ?? '', [
      '-c',
      main,
      '--regions',
      'eu-central-1',
      ...ignored,
      '--',
      ...files,
    ]);
    const said = await lint.then(
      ({ stdout }) => stdout,
      ({ stdout, stderr }: { stdout: string; stderr: string }) => stdout + stderr,
    );
    expect(said).toBe('');
  });
});
